"""Rewards from a NATS JetStream stream, at least once: each event is acknowledged when the pipeline says it is safe.

A durable consumer gives every event to one of the processes that share it, and again when it was not acknowledged in
time, after newer ones; so the source is unordered. What it brings again after the store lost writes comes from a
second consumer, made for that and durable too, so that a crash in the middle forgets nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import structlog

from server.ingest.base import Chosen, Recall, Received, RewardSource, SourceState, SourceUnavailable, lowest
from server.ingest.nats_session import ACK, AGAIN, PROGRESS, Seen, Session, client
from server.ingest.nats_settings import NatsSettings
from server.store.fed import Position

if TYPE_CHECKING:
    from nats.aio.msg import Msg

log = structlog.get_logger(__name__)


class NatsSource:
    """See RewardSource."""

    ordered = False

    def __init__(
        self,
        settings: NatsSettings,
        now_ms: Callable[[], int],
        session: Callable[[NatsSettings], Session] = Session,
    ) -> None:
        self._settings = settings
        self._now_ms = now_ms
        self._make = session
        self._session: Session | None = None
        self._seen: Seen | None = None
        self._until: int | None = None
        self._open: list[str] = []
        self._checked_ms = self._extended_ms = 0
        # Highest sequence that is known to have been brought to anybody; spans beyond it that were jumped over.
        self._brought = 0
        self._jumped: list[tuple[int, int]] = []
        self._lost = self._redelivered = self._refused = 0
        self._trouble = "not connected yet"

    def open(self, recall: Recall) -> None:
        """See RewardSource. Where to begin is the consumer's word: it knows what was acknowledged, one by one.

        More is acknowledged than any slot has taken: the store lost it, and it is brought again.
        """
        self._connect()
        positions, seen = recall(self._settings.stream), self._seen
        taken = max((each.offset for each in positions if seen and each.epoch == seen.epoch), default=None)
        if seen and taken is not None and self._until is None and seen.delivered - taken > seen.open:
            self.rewind({self._settings.stream: positions})

    def poll(self, limit: int, timeout_s: float) -> Sequence[Received]:
        """See RewardSource."""
        session = self._session or self._connect()
        self._open.clear()
        try:
            if not session.alive:
                raise SourceUnavailable(
                    f"the connection to NATS at {', '.join(self._settings.servers)} is gone"
                )
            self._check(session)
            limit = min(limit, self._settings.open_events)
            if self._until is not None:
                return self._poll_again(session, self._until, limit)
            return self._received(session.fetch(limit, timeout_s))
        except SourceUnavailable as error:
            self._gone(error)
            raise

    def done(self, batch: Sequence[Received]) -> None:
        """See RewardSource."""
        self._tell([str(each.handle) for each in batch], ACK)
        self._open.clear()

    def rest(self) -> None:
        """See RewardSource: what is open stays ours."""
        if self._open and self._now_ms() - self._extended_ms >= self._settings.ack_wait_s * 1000 / 4:
            self._extended_ms = self._now_ms()
            self._tell(self._open, PROGRESS)

    def rewind(self, to: Mapping[str, Sequence[Position]]) -> None:
        """See RewardSource."""
        stream = self._settings.stream
        if stream not in to:
            return
        session = self._session or self._connect()
        try:
            seen = session.see(latest=False)
            if not seen.keeps:
                log.error(
                    "source_cannot_rewind", stream=stream, reason="it does not keep what was acknowledged"
                )
                return
            taken = None
            if all(each.epoch == seen.epoch for each in to[stream]):
                taken = lowest(to[stream], seen.epoch)
            begin = seen.first if taken is None else max(taken + 1 - self._settings.open_events, seen.first)
            self._until = session.bring_again(begin, seen.delivered)
            log.warning("source_brings_again", stream=stream, begin=begin, until=self._until)
        except SourceUnavailable as error:
            self._gone(error)
            raise

    def state(self) -> SourceState:
        """See RewardSource."""
        lag = {} if self._seen is None else {self._settings.stream: self._seen.waiting + self._seen.open}
        return SourceState(
            not self._trouble, self._trouble, lag, self._lost, self._redelivered, self._refused
        )

    def close(self) -> None:
        """See RewardSource."""
        if self._session is not None:
            self._tell(self._open, AGAIN)  # to others at once, not when their time is over
        if self._session is not None:
            self._session.close()
            self._session = None

    def _connect(self) -> Session:
        session = self._make(self._settings)
        try:
            seen = session.see(latest=self._settings.begin == "latest" and self._seen is None)
            if seen.made:
                self._brought = seen.first - 1
            if self._seen is None and not seen.keeps:
                log.warning("stream_forgets", stream=self._settings.stream, reason="retention is not limits")
            self._until = session.ordered_until()
        except SourceUnavailable:
            session.close()
            raise
        self._session, self._trouble = session, ""
        self._noted(seen)
        return session

    def _check(self, session: Session) -> None:
        """Every few seconds: is it the stream that we knew, and did it drop what nobody had read?"""
        if self._now_ms() - self._checked_ms >= self._settings.check_s * 1000:
            self._noted(session.see(latest=False))

    def _noted(self, seen: Seen) -> None:
        self._checked_ms = self._now_ms()
        if self._seen is not None and self._seen.epoch != seen.epoch:
            log.warning(
                "stream_made_again", stream=self._settings.stream, before=self._seen.epoch, now=seen.epoch
            )
            self._brought = 0
            self._jumped.clear()
        self._seen = seen
        # What was jumped over went to another process, or is gone from the stream.
        self._lost += sum(max(0, min(last, seen.first - 1) - first + 1) for first, last in self._jumped)
        self._jumped.clear()
        self._brought = max(self._brought, seen.delivered)

    def _poll_again(self, session: Session, until: int, limit: int) -> Sequence[Received]:
        """From the consumer that brings events again; what is beyond the order comes from the other one anyway."""
        found = session.fetch(limit, 0.2, again=True)
        inside = [each for each in found if each.metadata.sequence.stream <= until]
        if len(inside) < len(found):
            session.tell([each.reply for each in found if each.metadata.sequence.stream > until], ACK)
        if not inside and session.is_brought(until):
            log.info("source_brought_again", stream=self._settings.stream, until=until)
            self._until = None
        return self._received(inside)

    def _received(self, found: Sequence[Msg]) -> list[Received]:
        assert self._seen is not None
        stream, epoch = self._settings.stream, self._seen.epoch
        received = []
        for each in found:
            told = each.metadata
            self._watch_jumps(told.sequence.stream)
            self._redelivered += told.num_delivered > 1 or self._until is not None
            received.append(
                Received(
                    each.data,
                    Position(stream, epoch, told.sequence.stream),
                    {name.lower(): value for name, value in (each.headers or {}).items()},
                    round(told.timestamp.timestamp() * 1000),
                    each.reply,
                )
            )
        self._open = [each.reply for each in found]
        self._extended_ms = self._now_ms()
        return received

    def _watch_jumps(self, sequence: int) -> None:
        """Only a stream that is read whole has no sequences that are not ours."""
        if not self._settings.subjects and sequence > self._brought + 1:
            self._jumped.append((self._brought + 1, sequence - 1))
        self._brought = max(self._brought, sequence)

    def _tell(self, replies: Sequence[str], what: bytes) -> None:
        """Never raises: an event whose acknowledgement is lost comes again."""
        if not replies:
            return
        try:
            (self._session or self._connect()).tell(replies, what)
        except SourceUnavailable as error:
            self._refused += len(replies)
            self._gone(error)

    def _gone(self, error: SourceUnavailable) -> None:
        self._trouble = str(error)
        self._checked_ms = 0
        if self._session is not None:
            self._session.close()
            self._session = None


def make(chosen: Chosen, now_ms: Callable[[], int]) -> RewardSource:
    """See ``base.Make``."""
    assert isinstance(chosen.settings, NatsSettings)
    client()
    return NatsSource(chosen.settings, now_ms)

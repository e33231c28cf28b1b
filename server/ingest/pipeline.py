"""Reads one source for ever: poll -> sort -> append, count and move on in one step per slot -> acknowledge.

A crash between any two of these brings the same events again; what is in the log already is told by its place, or by
the marks of the ledger. While the store is away the source is not told anything, keeps its memberships, and waits with
us. One poll's worth of events is all that is ever held.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import TypeVar

import structlog

from bandit.errors import Rejected, StoreUnavailable
from server.clock import Clock
from server.ingest.base import Chosen, Received, RewardSource, SourceUnavailable
from server.ingest.slots import LETTERS, Item, LostWrites, Slot, Slots
from server.ingest.watch import Watch
from server.intake.sort import Fate, Sorted, fresh_enough, refused, sort
from server.snapshot import Snapshot, SnapshotKeeper
from server.store.fed import FeedStore, Position

log = structlog.get_logger(__name__)

T = TypeVar("T")
BACKOFF_S, BACKOFF_CAP_S, REST_S = 0.1, 5.0, 0.5
_uniform = random.SystemRandom().random


@dataclass(frozen=True, slots=True)
class Pace:
    """How a pipeline paces itself; counts and seconds."""

    poll_limit: int = 1000
    poll_s: float = 0.5
    check_s: float = 3.0
    advance_s: float = 10.0
    publish_s: float = 1.0


class Pipeline:
    """Drives one source in one thread.

    ``told`` is called with the name of each step just before it is taken (``poll``, ``decode``, ``append``, ``bury``,
    ``acknowledge``, ``go on``), for those who look on; ``turned`` at each turn and while it waits: it does not hang.
    """

    def __init__(
        self,
        chosen: Chosen,
        source: RewardSource,
        store: FeedStore,
        keeper: SnapshotKeeper,
        clock: Clock,
        watch: Watch,
        *,
        pace: Pace | None = None,
        uniform: Callable[[], float] = _uniform,
        told: Callable[[str], None] = lambda _: None,
        turned: Callable[[], None] = lambda: None,
    ) -> None:
        self.name = chosen.name
        self._source = source
        self._store = store
        self._keeper = keeper
        self._clock = clock
        self._watch = watch
        self._pace = pace or Pace()
        self._uniform = uniform
        self._told = told
        self._turned = turned
        self._slots = Slots(store, chosen.name, self._experiments, ordered=source.ordered)
        self._done: dict[str, Position] = {}
        self._doubted = False
        self._batch: Sequence[Received] | None = None
        """Polled, and not yet delivered everywhere."""
        self._owed: dict[str, list[Position]] = {}
        """What the source is to bring again, and was not told yet."""
        self._lost = 0
        self._checked_s = self._advanced_s = self._published_s = clock.monotonic_s()

    def run(self, stop: threading.Event) -> None:
        """Until ``stop``; what was polled by then is delivered, unless the store is away."""
        failures, opened = 0, False
        while not stop.is_set():
            try:
                if not opened:
                    self.open()
                    opened = True
                self.turn(stop)
                failures = 0
            except (SourceUnavailable, StoreUnavailable) as error:
                failures += 1
                self._watch.failing(str(error))
                with suppress(StoreUnavailable):
                    self._store.put_source(self.name, self._watch.status(self._clock.now_ms()))
                self._pause(failures, stop, rest=opened and isinstance(error, StoreUnavailable))
        self._end()

    def _end(self) -> None:
        """Leave word of how far all is safe, if the store is there: a restart then repeats nothing."""
        try:
            self._slots.advance(self._done)
            self._publish(force=True)
        except (SourceUnavailable, StoreUnavailable) as error:
            log.warning("source_left_open", source=self.name, reason=str(error))
        self._source.close()

    def open(self) -> None:
        """Begin where the slots stand."""
        fresh_enough(self._keeper)
        self._source.open(self._slots.recall)
        log.info("source_opened", source=self.name)

    def turn(self, stop: threading.Event) -> int:
        """One portion, from poll to acknowledgement. Returns how many events it had."""
        self._turned()
        self._keep_house()
        if self._batch is None:
            self._told("poll")
            self._batch = self._source.poll(self._pace.poll_limit, self._pace.poll_s)
        batch = self._batch
        if batch and not self._settle(batch, stop):
            return 0
        self._batch = None
        if not batch:
            return 0
        self._told("acknowledge")
        self._source.done(batch)
        for received in batch:
            self._done[received.position.partition] = received.position
        self._told("go on")
        return len(batch)

    def _settle(self, batch: Sequence[Received], stop: threading.Event) -> bool:
        """See all of them into their slots, however long it takes.

        False when we are to stop before that, or when the store lost writes: then they come again, after those.
        """
        failures = 0
        pending: dict[Slot, list[Item]] | None = None
        while True:
            try:
                if pending is None:
                    self._told("decode")
                    pending = self._sorted(batch)
                    self._watch.sorted(
                        [item.event for items in pending.values() for item in items], self._clock.now_ms()
                    )
                self._deliver(pending)
            except StoreUnavailable as error:
                failures += 1
                self._doubted = True
                self._watch.failing(str(error))
                if not self._pause(failures, stop, rest=True):
                    return False
                continue
            except LostWrites as error:
                log.warning("writes_lost", source=self.name, reason=str(error))
                self._doubted = True
                return False
            return True

    def _sorted(self, batch: Sequence[Received]) -> dict[Slot, list[Item]]:
        snapshot, now_ms = fresh_enough(self._keeper), self._clock.now_ms()
        pending: dict[Slot, list[Item]] = {}
        for received in batch:
            event = self._sorted_one(snapshot, received, now_ms)
            slot = LETTERS
            if event.entry is not None and event.fate is not Fate.DEAD:
                slot = event.slot
            pending.setdefault(slot, []).append(Item(received, event))
        return pending

    def _sorted_one(self, snapshot: Snapshot, received: Received, now_ms: int) -> Sorted:
        """As ``sort``; a fault of ours that one event brings out must not stop all that come after it."""
        try:
            return sort(self._keeper, snapshot, received.body, received.headers, now_ms)
        except StoreUnavailable:
            raise
        except Exception as error:
            log.exception("event_broke_us", source=self.name, place=str(received.position))
            what = f"a fault of banditd met this event: {type(error).__name__}; its log says more"
            return refused(Rejected(what, reason="UNEXPECTED"))

    def _deliver(self, pending: dict[Slot, list[Item]]) -> None:
        """Empty ``pending``; what is delivered is out of it, whatever happens to the rest."""
        for slot in [slot for slot in pending if slot != LETTERS]:
            self._told("append")
            died = self._slots.deliver(slot, pending[slot])
            del pending[slot]
            if died:
                pending.setdefault(LETTERS, []).extend(died)
        if LETTERS in pending:
            # In the order of the source: those of a deleted experiment came in last.
            letters = sorted(pending[LETTERS], key=lambda item: item.received.position)
            self._told("bury")
            self._slots.deliver(LETTERS, letters)
            del pending[LETTERS]

    def _keep_house(self) -> None:
        now_s = self._clock.monotonic_s()
        if self._doubted or self._owed or now_s - self._checked_s >= self._pace.check_s:
            self._check()
            self._checked_s, self._doubted = now_s, False
        if now_s - self._advanced_s >= self._pace.advance_s:
            self._slots.advance(self._done)
            self._advanced_s = now_s
        self._publish()

    def _check(self) -> None:
        """Did the store lose what it had taken? Then have the source bring it again."""
        for partition, positions in self._slots.set_back().items():
            self._done.pop(partition, None)
            owed = self._owed.get(partition, positions)
            # None at all is the beginning, and stays it.
            self._owed[partition] = [*owed, *positions] if owed and positions else []
        if self._owed:
            # What is in hand comes again too, and must not come before what was lost.
            self._batch = None
            self._source.rewind(self._owed)
            log.warning("source_rewound", source=self.name, partitions=sorted(self._owed))
            self._owed = {}
            self._watch.rewound()

    def _publish(self, *, force: bool = False) -> None:
        now_s = self._clock.monotonic_s()
        if not force and now_s - self._published_s < self._pace.publish_s:
            return
        self._published_s = now_s
        state = self._source.state()
        if state.lost > self._lost:
            self._slots.lose(state.lost - self._lost)
            self._lost = state.lost
        self._watch.seen(state, self._slots.skipped)
        self._store.put_source(self.name, self._watch.status(self._clock.now_ms()))

    def _pause(self, failures: int, stop: threading.Event, *, rest: bool) -> bool:
        """Wait, with full jitter, letting the source rest; False when we are to stop."""
        left_s = self._uniform() * min(BACKOFF_CAP_S, BACKOFF_S * 2 ** min(failures, 10))
        while left_s > 0 and not stop.is_set():
            self._turned()
            if rest:
                with suppress(SourceUnavailable):
                    self._source.rest()
            step_s = min(left_s, REST_S)
            stop.wait(step_s)
            left_s -= step_s
        return not stop.is_set()

    def _experiments(self) -> list[Slot]:
        snapshot = self._keeper.snapshot
        entries = snapshot.entries.values() if snapshot else ()
        return [(ledger, entry.experiment.uid) for entry in entries for ledger in entry.ledgers]

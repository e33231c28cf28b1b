"""One connection to JetStream, with all of asyncio in a thread of its own: calls from outside wait for their answer.

It does not reconnect by itself: who calls it backs off with jitter and makes another, so servers that come back are
not stormed. Acknowledgements go by the reply subject of an event, so a later session can give those of an earlier one.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Coroutine, Sequence
from contextlib import suppress
from dataclasses import dataclass
from types import ModuleType
from typing import TYPE_CHECKING, Any, TypeVar

from bandit.errors import NotAllowed
from server.ingest.base import SourceUnavailable
from server.ingest.nats_settings import NatsSettings

if TYPE_CHECKING:
    import ssl

    from nats.aio.client import Client
    from nats.aio.msg import Msg
    from nats.js import JetStreamContext
    from nats.js.api import ConsumerConfig, ConsumerInfo

T = TypeVar("T")
ANSWER_S = 5
ACK, PROGRESS, AGAIN = b"+ACK", b"+WPI", b"-NAK"
UNTIL = "banditd-until"


def client() -> ModuleType:
    """The NATS client. Raises NotAllowed when it is not installed."""
    try:
        import nats
    except ImportError as error:
        raise NotAllowed(
            f"a source of kind nats needs the package nats-py ({error}); install it with "
            "pip install 'banditd[nats]', or leave the source out",
            reason="MISSING_PACKAGE",
        ) from None
    return nats


@dataclass(frozen=True, slots=True)
class Seen:
    """How stream and durable consumer are. ``epoch``: when the stream was made; numbers are its sequences.

    ``first``: the oldest that it still has; ``delivered``: the highest that the consumer brought to anybody;
    ``waiting``: how many it has not brought yet; ``open``: how many were brought and not acknowledged; ``made``: the
    consumer was not there; ``keeps``: the stream keeps what was acknowledged.
    """

    epoch: str
    first: int
    delivered: int
    waiting: int
    open: int
    made: bool
    keeps: bool


class Session:
    """Calls raise SourceUnavailable. Not safe for several threads."""

    def __init__(self, settings: NatsSettings) -> None:
        self._settings = settings
        self._again = f"{settings.durable}-again"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="nats", daemon=True)
        self._thread.start()
        self._pulls: dict[str, JetStreamContext.PullSubscription] = {}
        self._client: Client | None = None
        self._noted = ""
        try:
            self._client = self._call(self._connect(), 2 * ANSWER_S)
            self._stream = self._client.jetstream(timeout=ANSWER_S)
        except SourceUnavailable:
            self.close()
            raise

    @property
    def alive(self) -> bool:
        """Is the connection up, as far as we know?"""
        return self._client is not None and self._client.is_connected

    def see(self, *, latest: bool) -> Seen:
        """How it is now. The durable consumer is made when there is none; ``latest``: at the end of the stream."""
        return self._call(self._see(latest=latest))

    def fetch(self, limit: int, timeout_s: float, *, again: bool = False) -> list[Msg]:
        """Up to so many events of the durable consumer, or of the one that brings events again."""
        return self._call(
            self._fetch(self._again if again else self._settings.durable, limit, timeout_s),
            timeout_s + ANSWER_S,
        )

    def tell(self, replies: Sequence[str], what: bytes) -> None:
        """Send ACK, PROGRESS or AGAIN for each; returns when the server has them."""
        self._call(self._tell(replies, what))

    def bring_again(self, begin: int, until: int) -> int:
        """Have what is from ``begin`` to ``until`` brought again; of an order that is not done yet, that too.

        Returns the new ``until``. The order outlives us.
        """
        return self._call(self._bring_again(begin, until))

    def ordered_until(self) -> int | None:
        """Until where events are to be brought again, None when there is no such order."""
        return self._call(self._ordered_until())

    def is_brought(self, until: int) -> bool:
        """Was all of the order acknowledged? Then it is gone too."""
        return self._call(self._is_brought(until))

    def close(self) -> None:
        """Let go of connection and thread."""
        if self._client is not None:
            with suppress(SourceUnavailable):
                self._call(self._client.close())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(ANSWER_S)
        if not self._thread.is_alive():
            self._loop.close()

    def _call(self, work: Coroutine[Any, Any, T], timeout_s: float = 2 * ANSWER_S) -> T:
        from nats.errors import Error

        async def bounded() -> T:
            return await asyncio.wait_for(work, timeout_s)

        try:
            return asyncio.run_coroutine_threadsafe(bounded(), self._loop).result()
        except TimeoutError:
            raise self._unavailable("no answer in time") from None
        except (Error, OSError, ValueError) as error:
            raise self._unavailable(error) from None

    def _unavailable(self, error: object) -> SourceUnavailable:
        cause = f" ({self._noted})" if self._noted and not self.alive else ""
        text = f"NATS at {', '.join(self._settings.servers)}: {error}{cause}"
        for secret in (self._settings.password, self._settings.token):
            text = text.replace(secret, "***") if secret else text
        return SourceUnavailable(text)

    async def _note(self, error: Exception) -> None:
        """What the client would print; the calls that fail say it."""
        self._noted = str(error) or type(error).__name__

    async def _connect(self) -> Client:
        settings = self._settings
        given = {
            "user": settings.user,
            "password": settings.password,
            "token": settings.token,
            "user_credentials": settings.credentials,
            "tls": self._tls() if settings.tls else None,
        }
        found: Client = await client().connect(
            list(settings.servers),
            name="banditd",
            allow_reconnect=False,
            max_reconnect_attempts=1,  # each server twice, then it is the caller's turn to wait
            reconnect_time_wait=0,
            connect_timeout=ANSWER_S,
            error_cb=self._note,
            **{name: value for name, value in given.items() if value},
        )
        return found

    def _tls(self) -> ssl.SSLContext:
        import ssl

        found = ssl.create_default_context(cafile=self._settings.ca or None)
        found.minimum_version = ssl.TLSVersion.TLSv1_2  # whatever the machine's OpenSSL allows
        if self._settings.certificate:
            found.load_cert_chain(self._settings.certificate, self._settings.key)
        return found

    async def _see(self, *, latest: bool) -> Seen:
        from nats.js.api import DeliverPolicy, RetentionPolicy
        from nats.js.errors import NotFoundError

        settings = self._settings
        try:
            stream = await self._stream.stream_info(settings.stream)
        except NotFoundError:
            raise self._unavailable(
                f"there is no stream {settings.stream}; make it, or mend stream"
            ) from None
        made = False
        try:
            consumer = await self._stream.consumer_info(settings.stream, settings.durable)
        except NotFoundError:
            made = True
            policy = DeliverPolicy.NEW if latest else DeliverPolicy.ALL
            config = self._consumer(settings.durable, deliver_policy=policy)
            consumer = await self._stream.add_consumer(settings.stream, config)
        if not self._fits(consumer.config):
            # It was made under other settings; where it begins stays as it is.
            adapted = consumer.config.evolve(
                ack_wait=settings.ack_wait_s,
                max_ack_pending=settings.open_events,
                filter_subject=None,
                filter_subjects=list(settings.subjects) or None,
            )
            consumer = await self._stream.add_consumer(settings.stream, adapted)
        return Seen(
            f"{stream.created:%Y%m%dT%H%M%S.%fZ}",
            stream.state.first_seq,
            consumer.delivered.stream_seq if consumer.delivered else 0,
            consumer.num_pending or 0,
            consumer.num_ack_pending or 0,
            made,
            stream.config.retention == RetentionPolicy.LIMITS,
        )

    def _consumer(self, name: str, **more: Any) -> ConsumerConfig:
        from nats.js.api import AckPolicy, ConsumerConfig

        settings = self._settings
        return ConsumerConfig(
            durable_name=name,
            ack_policy=AckPolicy.EXPLICIT,
            ack_wait=settings.ack_wait_s,
            max_deliver=-1,
            max_ack_pending=settings.open_events,
            filter_subjects=list(settings.subjects) or None,
            **more,
        )

    def _fits(self, config: ConsumerConfig) -> bool:
        settings = self._settings
        subjects = config.filter_subjects or ([config.filter_subject] if config.filter_subject else [])
        seen = (config.ack_wait, config.max_ack_pending, sorted(subjects))
        return seen == (settings.ack_wait_s, settings.open_events, sorted(settings.subjects))

    async def _fetch(self, name: str, limit: int, timeout_s: float) -> list[Msg]:
        if name not in self._pulls:
            self._pulls[name] = await self._stream.pull_subscribe_bind(name, stream=self._settings.stream)
        try:
            return await self._pulls[name].fetch(limit, timeout=max(timeout_s, 0.05))
        except TimeoutError:
            return []

    async def _tell(self, replies: Sequence[str], what: bytes) -> None:
        assert self._client is not None
        for reply in replies:
            await self._client.publish(reply, what)
        await self._client.flush(ANSWER_S)

    async def _bring_again(self, begin: int, until: int) -> int:
        from nats.js.api import DeliverPolicy
        from nats.js.errors import NotFoundError

        stream = self._settings.stream
        with suppress(NotFoundError):
            old = await self._stream.consumer_info(stream, self._again)
            if old.ack_floor is not None:
                begin = min(begin, max(old.ack_floor.stream_seq + 1, old.config.opt_start_seq or 1))
            until = max(until, _until(old))
            await self._stream.delete_consumer(stream, self._again)
        config = self._consumer(
            self._again,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=max(begin, 1),
            metadata={UNTIL: str(until)},
        )
        await self._stream.add_consumer(stream, config)
        return until

    async def _ordered_until(self) -> int | None:
        from nats.js.errors import NotFoundError

        try:
            return _until(await self._stream.consumer_info(self._settings.stream, self._again))
        except NotFoundError:
            return None

    async def _is_brought(self, until: int) -> bool:
        from nats.js.errors import NotFoundError

        stream = self._settings.stream
        try:
            found = await self._stream.consumer_info(stream, self._again)
        except NotFoundError:
            return True
        empty = not found.num_pending and not found.num_ack_pending
        if not empty and (found.ack_floor is None or found.ack_floor.stream_seq < until):
            return False
        with suppress(NotFoundError):
            await self._stream.delete_consumer(stream, self._again)
        return True


def _until(consumer: ConsumerInfo) -> int:
    return int((consumer.config.metadata or {}).get(UNTIL, "0"))

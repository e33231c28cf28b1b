"""A real NATS server with JetStream for tests: own folder, free port, loopback only; it can be killed and come back."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import nats
from nats.js.api import StreamConfig

from server.clock import SystemClock
from server.ingest.base import Received, RewardSource
from server.ingest.nats import NatsSource
from server.ingest.nats_session import AGAIN
from server.ingest.nats_settings import NatsSettings

_START_S = 60.0


class NatsServer:
    """``start`` after ``kill`` serves the same folder on the same port."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._port = -1  # any free one
        self._process: subprocess.Popen[bytes] | None = None
        self.url = ""

    def start(self) -> None:
        """Serve; returns when it listens."""
        self._folder.mkdir(parents=True, exist_ok=True)
        for old in self._folder.glob("*.ports"):
            old.unlink()
        program = Path(sys.executable).with_name("nats-server")
        command = [
            str(program),
            "-a",
            "127.0.0.1",
            "-p",
            str(self._port),
            "-js",
            "-sd",
            str(self._folder / "kept"),
        ]
        self._process = subprocess.Popen(
            [*command, "--ports_file_dir", str(self._folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        deadline = time.monotonic() + _START_S
        while not (found := list(self._folder.glob("*.ports"))) or not found[0].read_text().endswith("}"):
            assert self._process.poll() is None, "nats-server ended at once"
            assert time.monotonic() < deadline, "nats-server does not listen"
            time.sleep(0.02)
        self.url = json.loads(found[0].read_text())["nats"][0]
        self._port = int(self.url.rpartition(":")[2])

    def kill(self) -> None:
        """kill -9."""
        if self._process is not None:
            self._process.kill()
            self._process.wait(30)
            self._process = None

    def stop(self) -> None:
        """End it in order."""
        if self._process is not None:
            self._process.terminate()
            self._process.wait(30)
            self._process = None


async def make_stream(url: str, name: str, subject: str) -> None:
    """A stream that takes the subject."""
    client = await nats.connect(url)
    await client.jetstream().add_stream(StreamConfig(name=name, subjects=[subject]))
    await client.close()


async def drop_stream(url: str, name: str) -> None:
    """Delete the stream with all it holds."""
    client = await nats.connect(url)
    await client.jetstream().delete_stream(name)
    await client.close()


async def publish(
    url: str, subject: str, values: Iterable[bytes], headers: dict[str, str] | None = None
) -> None:
    """Append each value; all are kept by the stream when it returns."""
    client = await nats.connect(url)
    stream = client.jetstream(publish_async_max_pending=2000)
    pending = [await stream.publish_async(subject, value, headers=headers) for value in values]
    for each in pending:
        await each
    await client.close()


class _Patient(NatsSource):
    """Says that nothing comes only when the server has nothing left: what a killed process had open takes its time."""

    def poll(self, limit: int, timeout_s: float) -> Sequence[Received]:
        """See RewardSource."""
        deadline = time.monotonic() + _START_S
        while not (found := super().poll(limit, timeout_s)):
            assert self._session is not None
            seen = self._session.see(latest=False)
            if not seen.waiting + seen.open or time.monotonic() > deadline:
                break
        return found


class NatsGround:
    """See ``tests.sources.Ground``: a stream of a server of its own."""

    def __init__(self, server: NatsServer) -> None:
        self._server = server
        asyncio.run(make_stream(server.url, "REWARDS", "rewards.>"))

    def send(self, bodies: Sequence[bytes], headers: Mapping[str, str] | None = None) -> None:
        """See Ground."""
        asyncio.run(publish(self._server.url, "rewards.all", bodies, dict(headers) if headers else None))

    def source(self) -> NatsSource:
        """See Ground."""
        settings = NatsSettings(servers=(self._server.url,), stream="REWARDS", ack_wait_s=3.0)
        return _Patient(settings, SystemClock().now_ms)

    def crash(self, source: RewardSource) -> None:
        """See Ground: the connection breaks, and the time that its events may be open is over at once."""
        assert isinstance(source, NatsSource)
        session, source._session = source._session, None
        if session is not None:
            session.tell(source._open, AGAIN)
            session.close()


def nats_source(
    server: NatsServer, *, now_ms: Callable[[], int] | None = None, **settings: Any
) -> NatsSource:
    """A source of the stream REWARDS, not opened yet."""
    given = {"stream": "REWARDS", "ack_wait_s": 30.0, "check_s": 0.5, **settings}
    return NatsSource(NatsSettings(servers=(server.url,), **given), now_ms or SystemClock().now_ms)


@contextmanager
def nats_server(folder: Path) -> Iterator[NatsServer]:
    """A server that runs."""
    server = NatsServer(folder)
    server.start()
    try:
        yield server
    finally:
        server.kill()


@contextmanager
def nats_ground(folder: Path) -> Iterator[NatsGround]:
    """For the contract suite of sources."""
    with nats_server(folder) as server:
        yield NatsGround(server)


async def left(url: str, stream: str, durable: str) -> int:
    """How many events were not acknowledged yet."""
    client = await nats.connect(url)
    try:
        found = await client.jetstream().consumer_info(stream, durable)
        return (found.num_pending or 0) + (found.num_ack_pending or 0)
    finally:
        await client.close()

"""Processes that read a source into a store until they kill themselves at a given step: forked from one that is warm.

A line on stdin is ``STEP NTH``: a child that dies by kill -9 just before it passes the step for the nth time ("" for
one that lives until it is killed). Its process id comes back on stdout. Steps beyond the pipeline's own: ``commit``
and ``committed`` (before and after the group is told), ``begin`` (where to begin is known, nothing is read yet).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from server.clock import SystemClock
from server.ingest.base import Chosen, RewardSource
from server.ingest.kafka import KafkaSource
from server.ingest.kafka_parts import Part
from server.ingest.kafka_settings import KafkaSettings
from server.ingest.kafka_topics import client
from server.ingest.nats import NatsSource
from server.ingest.nats_settings import NatsSettings
from server.ingest.pipeline import Pace, Pipeline
from server.ingest.watch import Watch
from server.snapshot import SnapshotKeeper
from server.store.redis import RedisStore

if TYPE_CHECKING:
    from confluent_kafka import Consumer

ROOT = Path(__file__).resolve().parents[1]
STEPS = ("poll", "decode", "append", "bury", "acknowledge", "go on")
KAFKA_STEPS = (*STEPS, "commit", "committed", "begin")


class Told(KafkaSource):
    """Says its own steps too."""

    told: Callable[[str], None]

    def _commit(self, consumer: Consumer, parts: Iterable[Part]) -> None:
        mine = list(parts)
        going = any(part.safe > part.told for part in mine)
        if going:
            self.told("commit")
        super()._commit(consumer, mine)
        if going:
            self.told("committed")

    def _read(self, consumer: Consumer, changed: Sequence[Part]) -> None:
        self.told("begin")
        super()._read(consumer, changed)


def source_of(kind: str, settings: dict[str, Any], told: Callable[[str], None]) -> RewardSource:
    """The source that a child reads."""
    lists: dict[str, Any] = {
        name: tuple(value) if isinstance(value, list) else value for name, value in settings.items()
    }
    if kind == "nats":
        return NatsSource(NatsSettings(**lists), SystemClock().now_ms)
    source = Told(KafkaSettings(**lists), SystemClock().now_ms, client())
    source.told = told
    return source


def killing(step: str, nth: int) -> Callable[[str], None]:
    """Ends this process just before the nth time of a step, as kill -9 does; or when nobody is left who would."""
    left, parent = [nth], os.getppid()

    def told(now: str) -> None:
        if os.getppid() != parent:
            os._exit(1)
        if now == step:
            left[0] -= 1
            if left[0] == 0:
                os.kill(os.getpid(), signal.SIGKILL)

    return told


def child(given: dict[str, Any], step: str, nth: int) -> None:
    """Read for ever."""
    clock = SystemClock()
    store = RedisStore(given["url"], namespace=given["namespace"], timeout_s=5.0)
    keeper = SnapshotKeeper(store, clock)
    keeper.poll()
    told = killing(step, nth)
    source = source_of(given["kind"], given["settings"], told)
    chosen = Chosen(given["source"], given["kind"], None)
    watch = Watch(given["source"], given["kind"], "here", clock.now_ms())
    pace = Pace(poll_limit=given["poll_limit"], poll_s=0.1, check_s=1.0, advance_s=1.0)
    Pipeline(chosen, source, store, keeper, clock, watch, pace=pace, told=told).run(threading.Event())


class Processes:
    """One child at a time, from outside."""

    def __init__(self, **given: Any) -> None:
        self._launcher = subprocess.Popen(
            [sys.executable, "-m", "tests.ingest_process", json.dumps(given)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        self._last = 0

    def start(self, step: str = "", nth: int = 1) -> int:
        """Start one; its process id."""
        launcher = self._launcher
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        launcher.stdin.write(f"{step}\t{nth}\n".encode())
        launcher.stdin.flush()
        self._last = int(launcher.stdout.readline())
        return self._last

    def __enter__(self) -> Processes:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._launcher.stdin is not None
        assert self._launcher.stdout is not None
        if self._last and alive(self._last):
            os.kill(self._last, signal.SIGKILL)
        self._launcher.stdin.close()
        self._launcher.wait(30)
        self._launcher.stdout.close()


def alive(pid: int) -> bool:
    """Does that process still run?"""
    return Path(f"/proc/{pid}").exists()


if __name__ == "__main__":
    import structlog

    structlog.configure(logger_factory=structlog.ReturnLoggerFactory())
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    for line in sys.stdin:
        name, _, number = line.rstrip("\n").partition("\t")
        pid = os.fork()
        if pid == 0:
            child(json.loads(sys.argv[1]), name, int(number))
            os._exit(1)
        print(pid, flush=True)  # noqa: T201

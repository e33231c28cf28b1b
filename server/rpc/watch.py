"""Statuses as they change, for many streams: each experiment is read once for all who watch it.

A stream holds the newest status only, so one that nobody reads costs one message.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from dataclasses import dataclass, field

import structlog

from bandit.errors import BanditError, StoreUnavailable
from bandit.v1 import experiment_pb2 as pb
from server.clock import Clock
from server.rpc.statuses import StatusReader

log = structlog.get_logger(__name__)

CHECK_S = 0.25
HEARTBEAT_S = 10.0


@dataclass(slots=True)
class _Watched:
    """One experiment, while somebody watches it. ``turn`` grows with each change."""

    status: pb.ExperimentStatus
    seen: bytes
    streams: int = 1
    turn: int = 1
    ended: BanditError | None = None
    changed: threading.Condition = field(default_factory=threading.Condition)


class Watcher:
    """Reads what is watched, four times a second, on one thread that lives while there are streams."""

    def __init__(self, reader: StatusReader, clock: Clock, *, check_s: float = CHECK_S) -> None:
        self._reader = reader
        self._clock = clock
        self._check_s = check_s
        self._watched: dict[str, _Watched] = {}
        self._lock = threading.Lock()
        self._thread: threading.Thread | None = None
        self._stop = threading.Event()

    def stop(self) -> None:
        """End all streams."""
        self._stop.set()
        with self._lock:
            for watched in self._watched.values():
                with watched.changed:
                    watched.changed.notify_all()

    def watch(self, name: str, heartbeat_s: float = HEARTBEAT_S) -> Iterator[pb.ExperimentStatus | None]:
        """The status now, each change, and the same again after ``heartbeat_s`` without one.

        None comes in between, so that the caller can look whether its client is still there. Ends by raising
        NotFound when the experiment is deleted, StoreUnavailable when this server stops.
        """
        watched = self._enter(name)
        try:
            turn, sent_s = 0, float("-inf")
            while not self._stop.is_set():
                with watched.changed:
                    if watched.turn == turn and watched.ended is None:
                        watched.changed.wait(self._check_s)
                    ended, status, newest = watched.ended, watched.status, watched.turn
                if ended is not None:
                    raise ended
                now_s = self._clock.monotonic_s()
                if newest == turn and now_s - sent_s < heartbeat_s:
                    yield None
                    continue
                turn, sent_s = newest, now_s
                yield status
            raise StoreUnavailable(
                "this server is stopping; watch again, another will answer", reason="STOPPING"
            )
        finally:
            self._leave(name, watched)

    def _enter(self, name: str) -> _Watched:
        status = self._reader.read(name)
        with self._lock:
            watched = self._watched.get(name)
            if watched is None or watched.ended is not None:
                watched = self._watched[name] = _Watched(status, _key(status))
            else:
                watched.streams += 1
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="watcher", daemon=True)
                self._thread.start()
            return watched

    def _leave(self, name: str, watched: _Watched) -> None:
        with self._lock:
            watched.streams -= 1
            if not watched.streams and self._watched.get(name) is watched:
                del self._watched[name]

    def _run(self) -> None:
        while not self._stop.wait(self._check_s):
            with self._lock:
                watched = list(self._watched.items())
                if not watched:
                    self._thread = None
                    return
            for name, each in watched:
                self._look(name, each)

    def _look(self, name: str, watched: _Watched) -> None:
        ended: BanditError | None = None
        try:
            status = self._reader.read(name)
        except StoreUnavailable:
            return  # the last status stays; its heartbeat goes on
        except BanditError as error:
            ended, status = error, watched.status
        except Exception:
            log.exception("watch_failed", experiment=name)
            return
        key = _key(status)
        if ended is None and key == watched.seen:
            return
        with watched.changed:
            watched.status, watched.seen, watched.ended = status, key, ended
            watched.turn += 1
            watched.changed.notify_all()


def _key(status: pb.ExperimentStatus) -> bytes:
    """What makes a status another one: all but the time of the look."""
    plain = pb.ExperimentStatus()
    plain.CopyFrom(status)
    plain.ClearField("evaluation_time")
    return plain.SerializeToString(deterministic=True)

"""Brings journaled decisions into the log of their experiment, in order, until the store has them; it counts nothing.

At least once: a batch that may have been taken is sent again, and the fenced writer drops what it has, because
numbers of one issuer and experiment arrive in order. So one call to the store holds at most one entry of an
experiment: an entry that failed can never be overtaken by the next.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from bandit.errors import StoreUnavailable
from bandit.log import EXPOSURES, Append
from server.clock import Clock
from server.journal.frames import Frame, Payload, payloads, scan
from server.journal.journal import Journal
from server.journal.segments import Folder, Segment, orphans
from server.store.base import LedgerStore

log = structlog.get_logger(__name__)

INTERVAL_S = 0.03
ADOPT_EVERY_S = 5.0
BACKOFF_S = 0.05
BACKOFF_CAP_S = 2.0
_uniform = random.SystemRandom().random


class Names(Protocol):
    """Which experiment has a number; see ``server.snapshot``."""

    def name_of(self, uid: int, since_s: float) -> str | None:
        """The experiment's name; "" when it is gone; None while nothing read after ``since_s`` can tell."""


@dataclass(slots=True)
class ShipCounts:
    """Decisions: in the log; dropped, as their experiment was deleted. Gaps of torn bytes. Folders adopted."""

    shipped: int = 0
    dropped: int = 0
    torn: int = 0
    adopted: int = 0


class Shipper:
    """One thread that ships the own journal, and those that dead processes left under the same root."""

    def __init__(
        self,
        journal: Journal,
        store: LedgerStore,
        names: Names,
        clock: Clock,
        *,
        interval_s: float = INTERVAL_S,
        uniform: Callable[[], float] = _uniform,
    ) -> None:
        self.counts = ShipCounts()
        self.failing_since_s: float | None = None
        self._journal = journal
        self._root = journal.path.parent
        self._store = store
        self._names = names
        self._clock = clock
        self._interval_s = interval_s
        self._uniform = uniform
        self._asked: dict[int, float] = {}
        self._adopted_s = float("-inf")
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)

    def start(self) -> None:
        """Begin to ship."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ship what is left, for at most so long. True when all is in the log."""
        self._stop.set()
        deadline = self._clock.monotonic_s() + timeout_s
        self._thread.join(timeout_s)
        while not self._thread.is_alive():
            with suppress(StoreUnavailable):
                self._ship_own()
                if self._journal.unshipped() is None:
                    return True
            left_s = deadline - self._clock.monotonic_s()
            if left_s <= 0:
                break
            self._clock.sleep(min(self._interval_s, left_s))
        return False

    def step(self) -> int:
        """One turn: ship what is there; adopt now and then. Returns decisions shipped. Raises StoreUnavailable."""
        shipped = self._ship_own()
        now = self._clock.monotonic_s()
        if now - self._adopted_s >= ADOPT_EVERY_S:
            self._adopted_s = now
            shipped += self._adopt()
        return shipped

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                self.step()
                failures, self.failing_since_s = 0, None
                pause = self._interval_s
            except Exception as error:  # a dead thread in a living process would lose decisions unseen
                pause = self._uniform() * min(BACKOFF_CAP_S, BACKOFF_S * 2 ** min(failures, 10))
                failures += 1
                if self.failing_since_s is None:
                    self.failing_since_s = self._clock.monotonic_s()
                    expected = isinstance(error, StoreUnavailable)
                    log.warning("exposures_waiting", reason=str(error), exc_info=not expected)
            self._stop.wait(pause)

    def _ship_own(self) -> int:
        shipped = 0
        while (found := self._journal.unshipped()) is not None:
            segment, written = found
            done = self._ship(segment, written)
            if done is None:
                break
            shipped += done
        return shipped

    def _adopt(self) -> int:
        shipped = 0
        for path in orphans(self._root, self._journal.path):
            folder = Folder.adopt(path)
            if folder is None:
                continue
            try:
                done = self._empty(folder)
            except BaseException:
                folder.release()
                raise
            if done is None:
                folder.release()
                continue
            folder.remove()
            self.counts.adopted += 1
            log.info("journal_adopted", issuer=path.name, decisions=done)
            shipped += done
        return shipped

    def _empty(self, folder: Folder) -> int | None:
        """Ship all of a dead process's segments and delete them; None when an experiment is not known yet."""
        shipped = 0
        for path in folder.segments():
            segment = Segment.open(path)
            if segment is None:
                path.unlink()
                continue
            try:
                done = self._ship(segment, len(segment.map))
            finally:
                segment.close()
            if done is None:
                return None
            shipped += done
            path.unlink()
        return shipped

    def _ship(self, segment: Segment, written: int) -> int | None:
        """Ship a segment's frames up to ``written``. None: nothing shipped, an experiment is not known yet."""
        with memoryview(segment.map)[:written] as view:
            frames, torn = scan(view, segment.shipped)
        named = self._named(frames)
        if named is None:
            return None
        shipped = self._append(list(payloads(frames, segment.issuer)), named)
        segment.shipped = written
        self.counts.torn += torn
        return shipped

    def _named(self, frames: Iterable[Frame]) -> dict[int, str] | None:
        named: dict[int, str] = {}
        for uid in {frame.uid for frame in frames}:
            since = self._asked.setdefault(uid, self._clock.monotonic_s())
            name = self._names.name_of(uid, since)
            if name is None:
                return None
            del self._asked[uid]
            named[uid] = name
        return named

    def _append(self, entries: Iterable[Payload], named: dict[int, str]) -> int:
        """Append entries round by round, the n-th of each experiment in the n-th call."""
        queues: dict[int, deque[Payload]] = {}
        dropped = shipped = 0
        for entry in entries:
            if named[entry.uid]:
                queues.setdefault(entry.uid, deque()).append(entry)
            else:
                dropped += entry.decisions
        while queues:
            turn = [queue.popleft() for queue in queues.values()]
            ids = self._store.append([Append(named[each.uid], EXPOSURES, each.payload) for each in turn])
            for entry, place in zip(turn, ids, strict=True):
                if place:
                    shipped += entry.decisions
                else:
                    dropped += entry.decisions
            queues = {uid: queue for uid, queue in queues.items() if queue}
        self.counts.dropped += dropped
        self.counts.shipped += shipped
        return shipped

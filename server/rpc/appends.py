"""Appends of calls that come at the same time, as one: each caller has its own answer, none waits when it is alone.

An append of one entry costs this process 114 us, of sixteen together 22 us each; with 16 callers that is 75 us a call
in place of 137, and half the worst wait (Valkey on a unix socket, 2 busy cores, CPU time). Order within a call is
kept; a failure is every caller's of that round, and each may send again.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass, field

from bandit.log import Append
from server.store.base import Durability, LedgerStore

MOST_ENTRIES = 256


def _shut() -> threading.Lock:
    gate = threading.Lock()
    gate.acquire()
    return gate


@dataclass(slots=True, eq=False)
class _Call:
    """One caller's entries and what became of them. ``gate`` is shut until it may lead a round, or has its answer."""

    entries: Sequence[Append]
    gate: threading.Lock = field(default_factory=_shut)
    ids: list[str] | None = None
    safe: Durability = Durability.MEMORY
    error: BaseException | None = None


class Appends:
    """Appends through one thread at a time: the first who comes takes along who came while it waited.

    ``wanted``: how safe every entry is to be before its caller is answered. ``taken`` is told of what was.
    """

    def __init__(
        self,
        store: LedgerStore,
        wanted: Durability = Durability.MEMORY,
        taken: Callable[[Sequence[Append], Sequence[str]], None] = lambda _entries, _ids: None,
    ) -> None:
        self._store = store
        self._wanted = wanted
        self._taken = taken
        self._lock = threading.Lock()
        self._queue: deque[_Call] = deque()
        self._busy = False

    def append(self, entries: Sequence[Append]) -> list[str]:
        """See LedgerStore. Raises what the store raised for the round."""
        return self.append_kept(entries)[0]

    def append_kept(self, entries: Sequence[Append]) -> tuple[list[str], Durability]:
        """As :meth:`append`; ids, and how safe the entries are."""
        call = _Call(entries)
        with self._lock:
            self._queue.append(call)
            leads = not self._busy
            self._busy = True
        if not leads:
            call.gate.acquire()
        if call.ids is None and call.error is None:
            self._round()
        if call.error is not None:
            raise copy(call.error)  # each its own: raising writes to it
        assert call.ids is not None
        return call.ids, call.safe

    def _round(self) -> None:
        """Append for the callers at the head of the queue, then let the next in the queue lead."""
        with self._lock:
            taken = [self._queue.popleft()]
            count = len(taken[0].entries)
            while self._queue and count + len(self._queue[0].entries) <= MOST_ENTRIES:
                count += len(self._queue[0].entries)
                taken.append(self._queue.popleft())
        try:
            entries = [entry for call in taken for entry in call.entries]
            if self._wanted is Durability.MEMORY:
                ids, safe = self._store.append(entries), Durability.MEMORY
            else:
                ids, safe = self._store.append_kept(entries, self._wanted)
            self._taken(entries, ids)
            start = 0
            for call in taken:
                call.safe = safe
                call.ids = ids[start : start + len(call.entries)]
                start += len(call.entries)
        except BaseException as error:  # noqa: BLE001 - each caller raises it
            for call in taken:
                call.error = error
        finally:
            with self._lock:
                following = self._queue[0] if self._queue else None
                self._busy = following is not None
            for call in taken[1:]:
                call.gate.release()
            if following is not None:
                following.gate.release()

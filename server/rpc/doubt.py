"""Log entries that callers were told are taken, kept for a minute: when the store loses them, they are appended again.

A failover and the loss of a disk's last second take acknowledged entries away; so do a FLUSHALL, and a copy that is put
in place of the keys while the server runs. Whenever the store lives another life than before, or lacks the newest entry
of an experiment, all are looked for, and those that are gone are appended once more; folding drops repeats, so nothing
counts twice. Entries of an experiment that the store lost whole wait until it is restored, or until this server gives
it up too. What is lost for good is what this process had forgotten (older than a minute while all was well, or beyond
its room), or what it held when it died itself together with the store.
"""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Mapping, Sequence, Set
from dataclasses import dataclass

import structlog

from bandit.errors import BanditError, CorruptStored
from bandit.ids import parse_ledger
from bandit.log import Append
from server.clock import Clock
from server.rpc.appends import MOST_ENTRIES
from server.store.base import Store

log = structlog.get_logger(__name__)

KEPT_S = 60.0
MOST_BYTES = 64 << 20
LOOK_S = 2.0
PROBED = 16
"""Experiments of which a look asks for the newest entry: all in turn, any of them when the whole store was emptied."""
_OVERHEAD = 200  # bytes of Python beside a payload, about


Slot = tuple[str, int]
"""A ledger's name and its experiment's uid."""
Slots = Mapping[Slot, Sequence[tuple[str, Append]]]
"""Entries and their ids by slot, oldest first."""


@dataclass(slots=True)
class DoubtCounts:
    """Entries that the store had lost and took again; those lost for good, as their experiment is gone."""

    put_back: int = 0
    lost: int = 0


class Doubt:
    """Safe for several threads. ``start`` looks every two seconds; ``look`` is one look, by one thread at a time.

    ``known(uid)``: does this server still have that experiment? What the store lacks of it then is not given up.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        *,
        most_bytes: int = MOST_BYTES,
        known: Callable[[int], bool] = lambda _uid: False,
    ) -> None:
        self.counts = DoubtCounts()
        self._store = store
        self._clock = clock
        self._most_bytes = most_bytes
        self._known = known
        self._kept: deque[tuple[float, str, Append]] = deque()
        self._bytes = 0
        self._history: tuple[str, ...] | None = None
        self._newest: dict[Slot, tuple[float, str]] = {}
        self._waiting: set[Slot] = set()
        self._probed: Slot = ("", 0)
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="doubt", daemon=True)

    def start(self) -> None:
        """Look now and then."""
        self._thread.start()

    def stop(self) -> None:
        """Look no more."""
        self._stop.set()

    def remember(self, entries: Sequence[Append], ids: Sequence[str]) -> None:
        """These were taken under these ids ("" for one that was not)."""
        now_s = self._clock.monotonic_s()
        with self._lock:
            for entry, id_ in zip(entries, ids, strict=True):
                if id_:
                    self._kept.append((now_s, id_, entry))
                    self._newest[_slot(entry)] = now_s, id_
                    self._bytes += _size(entry)
            while self._kept and self._bytes > self._most_bytes:
                self._bytes -= _size(self._kept.popleft()[2])

    def look(self) -> int:
        """Append again what the store does not have any more. Returns how many are gone. Raises StoreUnavailable."""
        began_s = self._clock.monotonic_s()
        history = self._store.history()
        whole = self._history not in (None, history) or self._lacks_one()
        gone = 0
        if whole or self._waiting:
            slots = self._slots()
            self._waiting &= slots.keys()
            gone = self._look_for(slots if whole else {slot: slots[slot] for slot in self._waiting})
        # Only now: a look that failed is taken again, and what it appended already is then found.
        self._history = history
        self._forget_old(began_s - KEPT_S)
        return gone

    def _slots(self) -> Slots:
        with self._lock:
            kept = list(self._kept)
        slots: dict[Slot, list[tuple[str, Append]]] = {}
        for _, id_, entry in kept:
            slots.setdefault(_slot(entry), []).append((id_, entry))
        return slots

    def _lacks_one(self) -> bool:
        """Does the store lack the newest entry of one of some experiments, the next ones in turn?"""
        with self._lock:
            newest = dict(self._newest)
        names = sorted(newest.keys() - self._waiting)
        after = bisect_right(names, self._probed)
        chosen = (names[after:] + names[:after])[:PROBED]
        if chosen:
            self._probed = chosen[-1]
        try:
            return not all(self._store.holds(slot[0], [newest[slot][1]])[0] for slot in chosen)
        except CorruptStored:
            return True

    def _look_for(self, slots: Slots) -> int:
        """Append what is gone; give up, or wait for, experiments that are gone themselves."""
        orders = self._store.orders()
        absent = {slot for slot in slots if orders.get(parse_ledger(slot[0])[0], (0, 0))[0] != slot[1]}
        missing: dict[tuple[str, str], Append] = {}
        for slot in slots.keys() - absent:
            try:
                missing |= self._missing(slot[0], slots[slot])
            except CorruptStored:
                absent.add(slot)
        put_back = self._put_back(missing)
        given_up = {slot for slot in absent if not self._known(slot[1])}
        lost = sum(len(slots[slot]) for slot in given_up)
        self._give_up(given_up)
        if missing:
            log.error("acknowledged_rewards_lost", gone=len(missing), appended_again=put_back)
        if lost:
            log.warning("rewards_given_up", entries=lost, reason="their experiments were deleted")
        for name, _ in absent - given_up - self._waiting:
            log.error(
                "acknowledged_rewards_wait",
                ledger=name,
                reason="the store lost this experiment; they are appended when it is restored",
            )
        self.counts.put_back += put_back
        self.counts.lost += lost
        self._waiting = (self._waiting - slots.keys()) | (absent - given_up)
        return len(missing) + lost

    def _give_up(self, slots: Set[Slot]) -> None:
        with self._lock:
            self._newest = {slot: each for slot, each in self._newest.items() if slot not in slots}
        self._forget(lambda _, entry: _slot(entry) in slots)

    def _missing(self, name: str, entries: Sequence[tuple[str, Append]]) -> dict[tuple[str, str], Append]:
        """Entries that the store does not have, by experiment and id."""
        there = self._store.holds(name, [id_ for id_, _ in entries])
        return {(name, id_): entry for (id_, entry), held in zip(entries, there, strict=True) if not held}

    def _put_back(self, missing: Mapping[tuple[str, str], Append]) -> int:
        """Append them, some at a time; what was appended before an error is known under its new id.

        One that is not taken keeps its old id: it will be missing again, and by then its experiment is told to be gone.
        """
        places = list(missing.items())
        old: set[tuple[str, str]] = set()
        entries: list[Append] = []
        ids: list[str] = []
        try:
            for start in range(0, len(places), MOST_ENTRIES):
                part = dict(places[start : start + MOST_ENTRIES])
                taken = self._store.append(list(part.values()))
                old |= {place for place, id_ in zip(part, taken, strict=True) if id_}
                entries += part.values()
                ids += taken
        finally:
            if old:
                self._forget(lambda id_, entry: (entry.experiment, id_) in old)
                self.remember(entries, ids)
        return len(old)

    def _forget(self, those: Callable[[str, Append], bool]) -> None:
        with self._lock:
            self._kept = deque(each for each in self._kept if not those(each[1], each[2]))
            self._bytes = sum(_size(entry) for _, _, entry in self._kept)

    def _forget_old(self, before_s: float) -> None:
        """Those that were told before, and do not wait for their experiment."""
        with self._lock:
            waiting: list[tuple[float, str, Append]] = []
            while self._kept and self._kept[0][0] < before_s:
                each = self._kept.popleft()
                if _slot(each[2]) in self._waiting:
                    waiting.append(each)
                else:
                    self._bytes -= _size(each[2])
            self._kept.extendleft(reversed(waiting))
            self._newest = {slot: each for slot, each in self._newest.items() if each[0] >= before_s}

    def _run(self) -> None:
        while True:
            try:
                self.look()  # at once: which life it is before anything is acknowledged
            except BanditError:
                pass  # it is away: the next look tells
            except Exception:
                log.exception("doubt_failed")
            if self._stop.wait(LOOK_S):
                return


def _slot(entry: Append) -> Slot:
    return entry.experiment, entry.uid


def _size(entry: Append) -> int:
    return len(entry.payload) + _OVERHEAD

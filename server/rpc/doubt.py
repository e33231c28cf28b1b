"""Log entries that callers were told are taken, kept for a minute: when the store loses them, they are appended again.

A failover and the loss of a disk's last second take acknowledged entries away. Whenever the store says that it lives
another life than before, the entries are looked for, and those that are gone are appended once more; folding drops
repeats, so nothing counts twice. What is lost for good is what this process had forgotten (older than a minute, or
beyond its room), or what it held when it died itself together with the store.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import structlog

from bandit.errors import BanditError
from bandit.log import Append
from server.clock import Clock
from server.rpc.appends import MOST_ENTRIES
from server.store.base import Store

log = structlog.get_logger(__name__)

KEPT_S = 60.0
MOST_BYTES = 64 << 20
LOOK_S = 2.0
_OVERHEAD = 200  # bytes of Python beside a payload, about


@dataclass(slots=True)
class DoubtCounts:
    """Entries that the store had lost and took again; those lost for good, as their experiment is gone."""

    put_back: int = 0
    lost: int = 0


class Doubt:
    """Safe for several threads. ``start`` looks every two seconds; ``look`` is one look."""

    def __init__(self, store: Store, clock: Clock, *, most_bytes: int = MOST_BYTES) -> None:
        self.counts = DoubtCounts()
        self._store = store
        self._clock = clock
        self._most_bytes = most_bytes
        self._kept: deque[tuple[float, str, Append]] = deque()
        self._bytes = 0
        self._history: tuple[str, ...] | None = None
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
                    self._bytes += _size(entry)
            while self._kept and (self._bytes > self._most_bytes or self._kept[0][0] < now_s - KEPT_S):
                self._bytes -= _size(self._kept.popleft()[2])

    def look(self) -> int:
        """Append again what another life of the store does not have. Returns how many. Raises StoreUnavailable."""
        history = self._store.history()
        if self._history in (None, history):
            self._history = history
            return 0
        with self._lock:
            kept = list(self._kept)
        missing = self._missing(kept)
        if missing:
            ids = self._put_back(missing)
            lost = sum(not id_ for id_ in ids)
            self.counts.put_back += len(ids) - lost
            self.counts.lost += lost
            log.error(
                "acknowledged_rewards_lost",
                looked_at=len(kept),
                gone=len(missing),
                appended_again=len(ids) - lost,
                of_deleted_experiments=lost,
            )
        # Only now: a look that failed is taken again, and what it appended already is then found.
        self._history = history
        return len(missing)

    def _put_back(self, missing: Mapping[tuple[str, str], Append]) -> list[str]:
        """Append them, some at a time; what was appended before an error is known under its new id."""
        places = list(missing.items())
        ids: list[str] = []
        for start in range(0, len(places), MOST_ENTRIES):
            part = dict(places[start : start + MOST_ENTRIES])
            taken = self._store.append(list(part.values()))
            self._replace(part, taken)
            ids += taken
        return ids

    def _replace(self, missing: Mapping[tuple[str, str], Append], ids: Sequence[str]) -> None:
        """Forget the entries under their old ids, remember them under the new ones."""
        with self._lock:
            self._kept = deque(each for each in self._kept if (each[2].experiment, each[1]) not in missing)
            self._bytes = sum(_size(entry) for _, _, entry in self._kept)
        self.remember(list(missing.values()), ids)

    def _missing(self, kept: Sequence[tuple[float, str, Append]]) -> dict[tuple[str, str], Append]:
        """Entries that the store does not have, by experiment and id."""
        by_name: dict[str, list[tuple[str, Append]]] = {}
        for _, id_, entry in kept:
            by_name.setdefault(entry.experiment, []).append((id_, entry))
        missing: dict[tuple[str, str], Append] = {}
        for name, those in by_name.items():
            there = self._store.holds(name, [id_ for id_, _ in those])
            for (id_, entry), held in zip(those, there, strict=True):
                if not held:
                    missing[name, id_] = entry
        return missing

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


def _size(entry: Append) -> int:
    return len(entry.payload) + _OVERHEAD

"""Keeps the snapshot as the store has it, on one thread; nobody who decides waits for it.

A version is polled several times a second and finds every change; messages from the store only make that quicker.
What was read is never replaced by something older, nor by nothing because of an error: an experiment goes only when
it is seen to be gone from a store that is still the one we knew.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Protocol

import structlog

from bandit.decide import Table
from bandit.errors import StoreUnavailable
from bandit.ids import experiment_resource
from bandit.token import KeyRing
from server.clock import Clock
from server.pauses import Pauses
from server.snapshot.draft import Draft, KeeperCounts
from server.snapshot.halts import stopped_tables
from server.snapshot.hints import Hints
from server.snapshot.view import LEASE_S, Snapshot
from server.stops import Ordered, Stop
from server.store.base import ControlStore, Stored

log = structlog.get_logger(__name__)

POLL_S = 0.75  # with the time to load, a change is served within a second though every message is lost
KEYS_EVERY_S = 5.0
START_JITTER_S, RESTORED_JITTER_S = 0.1, 1.0
HALT_S = 0.2  # how soon an order of another process of this machine is seen
_uniform = random.SystemRandom().random


class Halts(Protocol):
    """What operators ordered at this machine; see ``server.stops``."""

    @property
    def ordered(self) -> Ordered:
        """All orders, as last read."""

    def refresh(self) -> bool:
        """Read them again. True when they changed."""


class NoHalts:
    """Nothing is ordered."""

    ordered = Ordered()

    def refresh(self) -> bool:
        """Never."""
        return False


class SnapshotKeeper:
    """Keeps ``snapshot`` (None before the first read) as the store has it. Start it once; stop it at the end.

    ``lease_s``: see :class:`Snapshot`. ``kept(snapshot, changed)`` is told of each good poll, to keep it on disk.
    ``beat`` is called before each turn.
    """

    def __init__(
        self,
        store: ControlStore,
        clock: Clock,
        *,
        poll_s: float = POLL_S,
        uniform: Callable[[], float] = _uniform,
        lease_s: float = LEASE_S,
        halts: Halts | None = None,
        kept: Callable[[Snapshot, bool], None] = lambda _snapshot, _changed: None,
        beat: Callable[[], None] = lambda: None,
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.counts = KeeperCounts()
        self.ready = threading.Event()
        self.version = -1  # the store's, at the last good poll
        self._store = store
        self._clock = clock
        self._poll_s = poll_s
        self._uniform = uniform
        self._lease_s = lease_s
        self._halts: Halts = halts or NoHalts()
        self._kept = kept
        self._beat = beat
        self._served_by = self._halts.ordered
        self._fading: list[tuple[Stop, float]] = []
        self._accepted_ms = self._served_by.accepted_ms
        self._hints = Hints(store, clock, uniform)
        self._highest = -1
        self._keys: KeyRing | None = None
        self._keys_s = float("-inf")
        self._gone: set[int] = set()
        self._set_back = ""
        self._strange_keys = False
        self._failing = False
        self._pauses = Pauses(uniform)
        self._swapping = threading.Lock()
        self._stop = threading.Event()
        self._threads = [
            threading.Thread(target=self._run, name="snapshot", daemon=True),
            threading.Thread(target=self._watch, name="halts", daemon=True),
        ]

    def restore(self, snapshot: Snapshot) -> None:
        """Begin with what an earlier process kept. Before :meth:`start`."""
        self._keys, self._highest = snapshot.keys, snapshot.version
        # With everything read as of this number, a store that still has it need not be read at all.
        self.version = -1 if snapshot.unreadable or snapshot.set_back else snapshot.version
        self._set_back = snapshot.set_back
        # What was ordered since it was written is still to be done.
        self._accepted_ms = snapshot.accepted_ms
        self.snapshot = replace(snapshot, lease_s=self._lease_s, stopped=self._stopped(snapshot))
        self.ready.set()

    def start(self) -> None:
        """Begin to read."""
        for thread in self._threads:
            thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Read no more; the last snapshot stays."""
        self._stop.set()
        for thread in self._threads:
            thread.join(timeout_s)

    def name_of(self, uid: int, since_s: float) -> str | None:
        """Name of the experiment with this uid; "" when it is gone; None while nothing read after ``since_s`` tells."""
        if (snapshot := self.snapshot) is None:
            return None
        if (entry := snapshot.by_uid.get(uid)) is not None:
            return entry.table.name
        told = snapshot.read_s > since_s and not snapshot.unreadable and not snapshot.restored
        return "" if uid in self._gone or told else None

    def ledger_of(self, uid: int, issuer: int, since_s: float) -> str | None:
        """Name of the ledger that counts an issuer's decisions of the experiment; else as :meth:`name_of`."""
        entry = self.snapshot.by_uid.get(uid) if self.snapshot else None
        return self.name_of(uid, since_s) if entry is None else entry.ledger(issuer)

    def poll(self) -> None:
        """Read what changed, and swap. Raises StoreUnavailable; then the snapshot stays as it is."""
        began_s, began_ms = self._clock.monotonic_s(), self._clock.now_ms()
        self.counts.polls += 1
        accepting = self._accept_due()
        version = self._store.version()
        frozen = not self._store.learner_alive()
        if version < self._highest:
            self._suspect(f"its change number went back to {version} from {self._highest}")
        keys = self._read_keys(began_s)
        draft = Draft.after(self.snapshot, self.counts, self._record)
        draft.set_back, draft.strange = bool(self._set_back), self._strange_keys
        if accepting:
            self._take_all_anew(draft)
        elif version != self.version:
            self._read_all(draft)
        elif faulty := draft.faulty():
            draft.take(self._store.load_many(faulty))
        self.version = version
        self._highest = max(self._highest, version)
        self._believe(draft)
        self._swap(draft, keys, began_s, began_ms, frozen=frozen)
        if accepting:
            log.warning("store_accepted", version=version, experiments=len(draft.entries))

    def hear(self, names: Iterable[str]) -> None:
        """Read these experiments again, because the store said that they changed."""
        old = self.snapshot
        if old is None:
            return
        asked = sorted(set(names))
        loaded = self._store.load_many(asked)
        draft = Draft.after(old, self.counts, self._record)
        uids = {name: each.experiment.uid for name, each in loaded.items() if isinstance(each, Stored)}
        self._look_at_keys(draft, uids)
        draft.take(loaded)
        # The store told us of these by name, so what it does not have was deleted.
        draft.forget(name for name in asked if name not in loaded)
        if draft.changed:
            self._swap(draft, old.keys, old.read_s, old.read_ms, frozen=old.frozen)

    def look_at_halts(self) -> bool:
        """Serve by what was ordered at this machine, if it changed. True when it did."""
        self._halts.refresh()
        ordered = self._halts.ordered
        if ordered == self._served_by:
            return False
        self.serve_by_halts()
        log.warning("halts_changed", stopped=len(ordered.stops), reason=ordered.fault)
        return True

    def serve_by_halts(self) -> None:
        """Serve by what was ordered at this machine, as last read, from now on."""
        with self._swapping:
            before, self._served_by = self._served_by, self._halts.ordered
            # A stop ends when the store has a rollback in its place; here it does when that was read.
            now_s = self._clock.monotonic_s()
            self._fading += [(stop, now_s) for stop in before.stops if stop not in self._served_by.stops]
            if self.snapshot is not None:
                self.snapshot = replace(self.snapshot, stopped=self._stopped(self.snapshot))

    def first_pause(self) -> float:
        """How long to wait before the first turn, s: a while, when there is something to serve meanwhile."""
        return self._uniform() * (START_JITTER_S if self.snapshot is None else RESTORED_JITTER_S)

    def turn(self) -> float:
        """Poll once, whatever comes of it. Returns the seconds until the next turn."""
        try:
            self.poll()
        except Exception as error:  # noqa: BLE001 - the thread goes on
            return self._lost(error)
        self._pauses.reset()
        if self._failing:
            log.info("store_back")
        self._failing = False
        return self._poll_s * (0.95 + 0.05 * self._uniform())

    def _run(self) -> None:
        self._stop.wait(self.first_pause())
        while not self._stop.is_set():
            self._beat()
            pause_s = self.turn()
            if not self._failing:
                try:
                    self._listen(self._clock.monotonic_s() + pause_s)
                    continue
                except Exception as error:  # noqa: BLE001 - as above
                    pause_s = self._lost(error)
            self._stop.wait(pause_s)
        self._hints.close()

    def _lost(self, error: Exception) -> float:
        """The store did not answer, or not as it should: say so once. Returns how long to wait."""
        self.counts.failed_polls += 1
        if not self._failing:
            expected = isinstance(error, StoreUnavailable)
            log.warning("store_lost", reason=str(error), exc_info=None if expected else error)
        self._failing = True
        self._hints.close()  # it may listen to a node that is no longer the one
        return self._pauses.next()

    def _watch(self) -> None:
        while not self._stop.wait(HALT_S):
            try:
                self.look_at_halts()
            except Exception:
                log.exception("halts_failed")

    def _listen(self, due_s: float) -> None:
        """Until the next poll is due: read what the store says has changed."""
        while not self._stop.is_set() and (left := due_s - self._clock.monotonic_s()) > 0:
            names = self._hints.names(left)
            if names is None:
                self._stop.wait(left)
                return
            if names:
                self.hear(names)

    def _read_keys(self, now_s: float) -> KeyRing:
        if self._keys is None or now_s - self._keys_s >= KEYS_EVERY_S:
            keys = self._store.token_keys()
            self._keys_s = now_s
            if (
                self._keys is not None
                and keys.keys.get(self._keys.newest) != self._keys.keys[self._keys.newest]
            ):
                # Ours go on signing: what this server decides must be verified by those who know the same past.
                self._strange_keys = True
                self._suspect("it lost the key that signs tokens")
            else:
                self._strange_keys = False
                self._keys = keys
        return self._keys

    def _suspect(self, why: str) -> None:
        """The store was emptied or set back: from now on an experiment goes only when its delete is announced."""
        if not self._set_back:
            log.error(
                "store_set_back",
                reason=why,
                allowed="restore it, or take it as it is by `banditctl accept-store --server` with this server",
            )
        self._set_back = why

    def _believe(self, draft: Draft) -> None:
        """Believe the store again when nothing that we know contradicts it any more: somebody restored it."""
        if not self._set_back or self._strange_keys or self.version < self._highest:
            return
        if not any(entry.behind for entry in draft.entries.values()):
            log.info("store_restored", reason=self._set_back)
            self._set_back = ""

    def _accept_due(self) -> bool:
        accepted_ms = self._halts.ordered.accepted_ms
        if accepted_ms == self._accepted_ms:
            return False
        self._keys_s = float("-inf")
        self._keys, self._strange_keys = None, False
        self._highest = -1
        self._set_back = ""
        return True

    def _take_all_anew(self, draft: Draft) -> None:
        """Take the store as it is, whatever we had; from here on it is the one we know."""
        loaded = self._store.load_many(sorted(self._store.orders()))
        draft.forget({*draft.entries, *draft.unreadable})
        draft.set_back = draft.strange = False
        draft.take(loaded)
        draft.gone -= {entry.experiment.uid for entry in draft.entries.values()}
        self._accepted_ms = self._halts.ordered.accepted_ms

    def _read_all(self, draft: Draft) -> None:
        """Read every experiment that is not as we know it."""
        orders = self._store.orders()
        wanted = {
            name
            for name, order in orders.items()
            if (entry := draft.entries.get(name)) is None or entry.fault or entry.order != order
        }
        self._look_at_keys(draft, {name: uid for name, (uid, _) in orders.items()})
        loaded = self._store.load_many(sorted(wanted | draft.unreadable.keys()))
        draft.take(loaded)
        absent = {*draft.entries, *draft.unreadable} - orders.keys()
        absent |= {name for name in draft.entries if name in wanted and name not in loaded}
        if absent:
            self._drop(draft, absent)

    def _look_at_keys(self, draft: Draft, uids: Mapping[str, int]) -> None:
        """Before another experiment is taken for one that we know: is this the store that we know?"""
        if any(
            name in draft.entries and draft.entries[name].experiment.uid != uid for name, uid in uids.items()
        ):
            self._keys_s = float("-inf")
            self._read_keys(self._clock.monotonic_s())
        draft.set_back, draft.strange = bool(self._set_back), self._strange_keys

    def _drop(self, draft: Draft, names: set[str]) -> None:
        """Let experiments go that a list did not have, when they themselves and nothing else is gone."""
        self._keys_s = float("-inf")
        self._read_keys(self._clock.monotonic_s())
        draft.set_back, draft.strange = bool(self._set_back), self._strange_keys
        loaded = self._store.load_many(sorted(names))
        draft.take(loaded)
        absent = names - set(loaded)
        if not self._set_back and self._store.version() > self._highest:
            draft.forget(absent)
            return
        self.counts.refused_removals += 1
        for name in sorted(absent & set(draft.entries)):
            draft.keep(name, "the store lost it without a delete", behind=True)

    def _record(self, name: str, sequence: int) -> str | None:
        records = self._store.audit(name, sequence + 1, 1)
        return records[0].hash if records and records[0].sequence == sequence else None

    def _stopped(self, snapshot: Snapshot) -> Mapping[str, Table]:
        if self._fading:
            self._fading = [(stop, ended_s) for stop, ended_s in self._fading if ended_s >= snapshot.read_s]
        ordered = self._served_by
        stops = (*ordered.stops, *(stop for stop, _ in self._fading))
        return MappingProxyType(stopped_tables(snapshot.entries.values(), replace(ordered, stops=stops)))

    def _swap(self, draft: Draft, keys: KeyRing, read_s: float, read_ms: int, *, frozen: bool) -> None:
        with self._swapping:
            old = self.snapshot
            entries = draft.entries
            if old is not None and not draft.changed:
                new = replace(old, keys=keys, read_s=read_s, read_ms=read_ms, frozen=frozen)
            else:
                new = Snapshot(
                    entries=MappingProxyType(entries),
                    by_resource={experiment_resource(name): entry for name, entry in entries.items()},
                    by_uid={entry.experiment.uid: entry for entry in entries.values()},
                    unreadable=MappingProxyType(draft.unreadable),
                    keys=keys,
                    read_s=read_s,
                    read_ms=read_ms,
                    frozen=frozen,
                    lease_s=self._lease_s,
                )
            new = replace(
                new,
                stopped=self._stopped(new),
                version=self._highest,
                restored=False,
                set_back=self._set_back,
                accepted_ms=self._accepted_ms,
            )
            self.snapshot = new
        self._gone |= draft.gone
        changed = old is None or draft.changed or keys != old.keys or new.set_back != old.set_back
        self._kept(new, changed)
        self.ready.set()

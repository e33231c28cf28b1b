"""What a serving process decides from: an immutable snapshot, swapped by reference; nothing here is ever waited for.

One thread reads the store. A version is polled several times a second and finds every change; messages from the
store only make that quicker. What was read is never replaced by something older, nor by nothing because of an error:
an experiment goes only when it is seen to be gone from a store that is still the one we knew.
"""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from enum import StrEnum
from types import MappingProxyType

import structlog

from bandit.decide import Reason, Table, compile_table, fallback_table
from bandit.errors import StoreUnavailable
from bandit.ids import experiment_resource
from bandit.rollout.state import Allocation, Experiment
from bandit.token import KeyRing
from server.clock import Clock
from server.store.base import ControlStore, Stored, Subscription

log = structlog.get_logger(__name__)

POLL_S = 0.75  # with the time to load, a change is served within a second though every message is lost
FRESH_S, KEYS_EVERY_S = 3.0, 5.0
SWEEP, HINTS_AT_ONCE = 64, 256
START_JITTER_S, BACKOFF_S, BACKOFF_CAP_S = 0.1, 0.1, 2.0
_uniform = random.SystemRandom().random


class Mode(StrEnum):
    """How good the state is that a server decides from."""

    FRESH = "fresh"
    STALE = "stale"
    FROZEN = "frozen"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Entry:
    """One experiment as it is served. ``fault`` says why it is not as stored, "" when it is."""

    table: Table
    experiment: Experiment
    allocation: Allocation
    generation: int
    fault: str = ""

    @property
    def order(self) -> tuple[int, int]:
        """(uid, generation): grows with every change, also over a delete and a new experiment of the name."""
        return self.experiment.uid, self.generation


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All experiments at one moment, by name, by resource (``experiments/NAME``) and by uid.

    ``unreadable``: name -> why, for those that were never read whole. ``read_s``: monotonic time of the last good
    poll, taken before it. ``frozen``: no learner was alive then.
    """

    entries: Mapping[str, Entry]
    by_resource: Mapping[str, Entry]
    by_uid: Mapping[int, Entry]
    unreadable: Mapping[str, str]
    keys: KeyRing
    read_s: float
    read_ms: int
    frozen: bool

    def mode(self, entry: Entry, now_s: float) -> Mode:
        """How good the state of one experiment is now."""
        if entry.table.reason is Reason.FALLBACK:
            return Mode.FALLBACK
        if now_s - self.read_s > FRESH_S:
            return Mode.STALE
        return Mode.FROZEN if self.frozen else Mode.FRESH


@dataclass(slots=True)
class KeeperCounts:
    """What the keeper met since it started."""

    polls: int = 0
    failed_polls: int = 0
    loaded: int = 0
    refused_older: int = 0
    refused_removals: int = 0
    faults: int = 0


@dataclass(slots=True)
class _Draft:
    """The next snapshot while it is made."""

    entries: dict[str, Entry]
    unreadable: dict[str, str] = field(default_factory=dict)
    changed: bool = False


class SnapshotKeeper:
    """Keeps ``snapshot`` (None before the first read) as the store has it. Start it once; stop it at the end."""

    def __init__(
        self,
        store: ControlStore,
        clock: Clock,
        *,
        poll_s: float = POLL_S,
        uniform: Callable[[], float] = _uniform,
    ) -> None:
        self.snapshot: Snapshot | None = None
        self.counts = KeeperCounts()
        self.ready = threading.Event()
        self._store = store
        self._clock = clock
        self._poll_s = poll_s
        self._uniform = uniform
        self._subscription: Subscription | None = None
        self._subscribe_s = float("-inf")
        self._subscribe_failures = 0
        self._every_due = True
        self.version = -1  # the store's, at the last good poll
        self._highest = -1
        self._keys: KeyRing | None = None
        self._keys_s = float("-inf")
        self._swept = ""
        self._gone: set[int] = set()
        self._set_back = ""
        self._failing = False
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="snapshot", daemon=True)

    def start(self) -> None:
        """Begin to read."""
        self._thread.start()

    def stop(self, timeout_s: float = 2.0) -> None:
        """Read no more; the last snapshot stays."""
        self._stop.set()
        self._thread.join(timeout_s)

    def name_of(self, uid: int, since_s: float) -> str | None:
        """Name of the experiment with this uid; "" when it is gone; None while nothing read after ``since_s`` tells."""
        snapshot = self.snapshot
        if snapshot is None:
            return None
        entry = snapshot.by_uid.get(uid)
        if entry is not None:
            return entry.table.name
        known = uid in self._gone or (snapshot.read_s > since_s and not snapshot.unreadable)
        return "" if known else None

    def poll(self) -> None:
        """Read what changed, and swap. Raises StoreUnavailable; then the snapshot stays as it is."""
        began_s, began_ms = self._clock.monotonic_s(), self._clock.now_ms()
        self.counts.polls += 1
        version = self._store.version()
        frozen = not self._store.learner_alive()
        if version < self._highest:
            self._suspect(f"its change number went back to {version} from {self._highest}")
        keys = self._read_keys(began_s)
        old = self.snapshot
        draft = _Draft(dict(old.entries), dict(old.unreadable)) if old else _Draft({})
        if version != self.version:
            self._read_all(draft)
        elif faulty := self._faulty(draft):
            self._take(draft, self._store.load_many(faulty))
        self.version = version
        self._highest = max(self._highest, version)
        self._swap(draft, keys, began_s, began_ms, frozen=frozen)

    def hear(self, names: Iterable[str]) -> None:
        """Read these experiments again, because the store said that they changed."""
        old = self.snapshot
        if old is None:
            return
        asked = sorted(set(names))
        loaded = self._store.load_many(asked)
        draft = _Draft(dict(old.entries), dict(old.unreadable))
        self._take(draft, loaded)
        # The store told us of these by name, so what it does not have was deleted.
        self._forget(draft, {name for name in asked if name not in loaded})
        if draft.changed:
            self._swap(draft, old.keys, old.read_s, old.read_ms, frozen=old.frozen)

    def _run(self) -> None:
        self._stop.wait(self._uniform() * START_JITTER_S)
        failures = 0
        while not self._stop.is_set():
            try:
                self.poll()
                failures = 0
                if self._failing:
                    log.info("store_back")
                self._failing = False
                due_s = self._clock.monotonic_s() + self._poll_s * (0.95 + 0.05 * self._uniform())
                self._listen(due_s)
            except Exception as error:
                self.counts.failed_polls += 1
                if not self._failing:
                    expected = isinstance(error, StoreUnavailable)
                    log.warning("store_lost", reason=str(error), exc_info=not expected)
                self._failing = True
                self._unsubscribe()  # it may listen to a node that is no longer the one
                pause = self._uniform() * min(BACKOFF_CAP_S, BACKOFF_S * 2 ** min(failures, 10))
                failures += 1
                self._stop.wait(pause)
        self._unsubscribe()

    def _listen(self, due_s: float) -> None:
        """Until the next poll is due: read what the store says has changed."""
        while not self._stop.is_set() and (left := due_s - self._clock.monotonic_s()) > 0:
            if self._subscription is None and not self._subscribe():
                self._stop.wait(left)
                return
            try:
                names = self._heard(left)
            except StoreUnavailable:
                self._unsubscribe()
                continue
            if names:
                self.hear(names)

    def _heard(self, timeout_s: float) -> set[str]:
        subscription = self._subscription
        assert subscription is not None
        names: set[str] = set()
        name = subscription.next(timeout_s)
        while name is not None:
            names.add(name)
            name = subscription.next(0.0) if len(names) < HINTS_AT_ONCE else None
        return names

    def _subscribe(self) -> bool:
        now_s = self._clock.monotonic_s()
        if now_s < self._subscribe_s:
            return False
        try:
            self._subscription = self._store.subscribe()
        except StoreUnavailable:
            pause = self._uniform() * min(BACKOFF_CAP_S, BACKOFF_S * 2 ** min(self._subscribe_failures, 10))
            self._subscribe_failures += 1
            self._subscribe_s = now_s + pause
            return False
        self._subscribe_failures = 0
        # Messages before this moment are lost: compare the version, and read everything if it moved.
        self._every_due = True
        return True

    def _unsubscribe(self) -> None:
        if self._subscription is not None:
            self._subscription.close()
            self._subscription = None

    def _read_keys(self, now_s: float) -> KeyRing:
        if self._keys is None or now_s - self._keys_s >= KEYS_EVERY_S:
            keys = self._store.token_keys()
            self._keys_s = now_s
            if (
                self._keys is not None
                and keys.keys.get(self._keys.newest) != self._keys.keys[self._keys.newest]
            ):
                # Ours go on signing: what this server decides must be verified by those who know the same past.
                self._suspect("it lost the key that signs tokens")
            else:
                self._keys = keys
        return self._keys

    def _suspect(self, why: str) -> None:
        """The store was emptied or set back: from now on an experiment goes only when its delete is announced."""
        if not self._set_back:
            log.error(
                "store_set_back", reason=why, allowed="restore it, or restart this server to begin anew"
            )
        self._set_back = why

    def _read_all(self, draft: _Draft) -> None:
        """Read every experiment; with messages coming, only what is new or faulty, and a part of the rest in turn.

        A lost message is then found out at the latest when its part has its turn: with up to 64 experiments at
        once, with more after 0.75 s for each 64 of them.
        """
        names = self._store.names()
        wanted = set(names)
        if self._subscription is not None and not self._every_due:
            new = [name for name in names if name not in draft.entries]
            wanted = {*new, *self._faulty(draft), *self._next_part(names)}
        loaded = self._store.load_many(sorted(wanted))
        self._take(draft, loaded)
        absent = {*draft.entries, *draft.unreadable} - set(names)
        absent |= {name for name in draft.entries if name in wanted and name not in loaded}
        if absent:
            self._drop(draft, absent)
        self._every_due = self._subscription is None

    def _next_part(self, names: list[str]) -> list[str]:
        """The next names in turn, after those of the last time."""
        after = [name for name in names if name > self._swept]
        part = [*after, *names][: min(SWEEP, len(names))]
        self._swept = part[-1] if part else ""
        return part

    def _faulty(self, draft: _Draft) -> list[str]:
        return [*draft.unreadable, *(name for name, entry in draft.entries.items() if entry.fault)]

    def _take(self, draft: _Draft, loaded: Mapping[str, Stored | Exception]) -> None:
        for name, stored in loaded.items():
            self.counts.loaded += 1
            old = draft.entries.get(name)
            if isinstance(stored, Exception):
                self._keep(draft, name, old, f"what is stored cannot be read: {stored}")
                continue
            order = (stored.experiment.uid, stored.generation)
            if old is not None and order < old.order:
                self.counts.refused_older += 1
                self._keep(draft, name, old, f"the store went back to {order} from {old.order}")
                continue
            if old is not None and order == old.order and not old.fault:
                continue
            entry = _entry(stored)
            if old is not None and order == old.order and old.fault == entry.fault:
                continue
            if entry.fault:
                self.counts.faults += 1
                log.error("allocation_unfit", experiment=name, reason=entry.fault)
            if old is not None and old.experiment.uid != stored.experiment.uid:
                self._gone.add(old.experiment.uid)
            draft.unreadable.pop(name, None)
            draft.entries[name] = entry
            draft.changed = True

    def _keep(self, draft: _Draft, name: str, old: Entry | None, fault: str) -> None:
        """Go on with what was good, or know at least the name."""
        before = old.fault if old else draft.unreadable.get(name, "")
        if before == fault:
            return
        self.counts.faults += 1
        log.error("experiment_unreadable", experiment=name, reason=fault, last_good=old is not None)
        if old is not None:
            draft.entries[name] = replace(old, fault=fault)
        else:
            draft.unreadable[name] = fault
        draft.changed = True

    def _drop(self, draft: _Draft, names: set[str]) -> None:
        """Let experiments go that a list did not have, when they themselves and nothing else is gone."""
        self._keys_s = float("-inf")
        self._read_keys(self._clock.monotonic_s())
        loaded = self._store.load_many(sorted(names))
        self._take(draft, loaded)
        absent = names - set(loaded)
        if not self._set_back and self._store.version() > self._highest:
            self._forget(draft, absent)
            return
        self.counts.refused_removals += 1
        for name in sorted(absent & set(draft.entries)):
            self._keep(draft, name, draft.entries[name], "the store lost it without a delete")

    def _forget(self, draft: _Draft, names: set[str]) -> None:
        for name in names & {*draft.entries, *draft.unreadable}:
            old = draft.entries.pop(name, None)
            draft.unreadable.pop(name, None)
            draft.changed = True
            if old is not None:
                self._gone.add(old.experiment.uid)
                log.info("experiment_gone", experiment=name)

    def _swap(self, draft: _Draft, keys: KeyRing, read_s: float, read_ms: int, *, frozen: bool) -> None:
        old = self.snapshot
        if old is not None and not draft.changed:
            self.snapshot = replace(old, keys=keys, read_s=read_s, read_ms=read_ms, frozen=frozen)
        else:
            entries = draft.entries
            self.snapshot = Snapshot(
                entries=MappingProxyType(entries),
                by_resource={experiment_resource(name): entry for name, entry in entries.items()},
                by_uid={entry.experiment.uid: entry for entry in entries.values()},
                unreadable=MappingProxyType(draft.unreadable),
                keys=keys,
                read_s=read_s,
                read_ms=read_ms,
                frozen=frozen,
            )
        self.ready.set()


def _entry(stored: Stored) -> Entry:
    try:
        table, fault = compile_table(stored.experiment, stored.allocation), ""
    except ValueError as error:
        table, fault = fallback_table(stored.experiment), str(error)
    return Entry(table, stored.experiment, stored.allocation, stored.generation, fault)

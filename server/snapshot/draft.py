"""The next snapshot while it is made: what was read is never replaced by something older, nor by nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace

import structlog

from server.snapshot.view import Entry, Snapshot, entry_of
from server.store.base import Stored

log = structlog.get_logger(__name__)

Record = Callable[[str, int], str | None]
"""Hash of an experiment's audit record with this sequence, None when there is none; may raise StoreUnavailable."""


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
class Draft:
    """Experiments by name, still to be changed. ``set_back``: the whole store is not believed; ``strange``: it has not
    the key that signs our tokens, so that nothing in it is what we know by the same name.
    """

    counts: KeeperCounts
    record: Record
    entries: dict[str, Entry] = field(default_factory=dict)
    unreadable: dict[str, str] = field(default_factory=dict)
    gone: set[int] = field(default_factory=set)
    set_back: bool = False
    strange: bool = False
    changed: bool = False

    @classmethod
    def after(cls, old: Snapshot | None, counts: KeeperCounts, record: Record) -> Draft:
        """What goes on from a snapshot, or begins."""
        if old is None:
            return cls(counts, record)
        return cls(counts, record, dict(old.entries), dict(old.unreadable), set_back=bool(old.set_back))

    def faulty(self) -> list[str]:
        """Names of those that are not as stored."""
        return [*self.unreadable, *(name for name, entry in self.entries.items() if entry.fault)]

    def take(self, loaded: Mapping[str, Stored | Exception]) -> None:
        """Take over what was read."""
        for name, stored in loaded.items():
            self.counts.loaded += 1
            old = self.entries.get(name)
            if isinstance(stored, Exception):
                self.keep(name, f"what is stored cannot be read: {stored}")
                continue
            if old is not None and (why := self._behind(old, stored)):
                self.counts.refused_older += 1
                self.keep(name, why, behind=True)
                continue
            if old is not None and old.order == (stored.experiment.uid, stored.generation) and not old.fault:
                continue
            entry = entry_of(stored)
            if old is not None and old.order == entry.order and old.fault == entry.fault:
                continue
            if entry.fault:
                self.counts.faults += 1
                log.error("allocation_unfit", experiment=name, reason=entry.fault)
            if old is not None and old.experiment.uid != stored.experiment.uid:
                self.gone.add(old.experiment.uid)
            self.unreadable.pop(name, None)
            self.entries[name] = entry
            self.changed = True

    def keep(self, name: str, fault: str, *, behind: bool = False) -> None:
        """Go on with what was good, or know at least the name."""
        old = self.entries.get(name)
        before = old.fault if old else self.unreadable.get(name, "")
        if before == fault:
            return
        self.counts.faults += 1
        log.error("experiment_unreadable", experiment=name, reason=fault, last_good=old is not None)
        if old is None:
            self.unreadable[name] = fault
        else:
            behind = behind or old.behind
            table = replace(old.table, counted=False) if behind else old.table
            self.entries[name] = replace(old, table=table, fault=fault, behind=behind)
        self.changed = True

    def forget(self, names: Iterable[str]) -> None:
        """Let experiments go."""
        for name in set(names) & {*self.entries, *self.unreadable}:
            old = self.entries.pop(name, None)
            self.unreadable.pop(name, None)
            self.changed = True
            if old is not None:
                self.gone.add(old.experiment.uid)
                log.info("experiment_gone", experiment=name)

    def _behind(self, old: Entry, stored: Stored) -> str:
        """Why what is stored does not follow what we have; "" when it does."""
        if self.strange:
            return "the store is another one, or was emptied: it has not the key that signs tokens"
        order = (stored.experiment.uid, stored.generation)
        if order < old.order:
            return f"the store went back to {order} from {old.order}"
        if stored.experiment.uid != old.experiment.uid:
            return ""
        if order == old.order:
            same = (stored.experiment, stored.allocation) == (old.experiment, old.allocation)
            return old.fault if old.behind and not same else ""
        if self.set_back and old.behind and stored.audit_sequence == old.audit_sequence:
            return old.fault  # shares alone moved: nobody has said that this past is the right one
        # A store set back to an old copy soon counts on beyond us; whether it knows our past, its audit chain tells.
        if not old.audit_sequence:
            return ""
        if stored.audit_sequence <= old.audit_sequence:
            known = (stored.audit_sequence, stored.audit_hash) == (old.audit_sequence, old.audit_hash)
        else:
            known = self.record(old.experiment.name, old.audit_sequence) == old.audit_hash
        return (
            "" if known else f"the store lost audit record {old.audit_sequence}, or has another in its place"
        )

"""All experiments at one moment, as a serving process decides from them: immutable, swapped by reference."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from bandit.decide import Reason, Table, compile_table, fallback_table
from bandit.ids import ledger_name, ledger_names
from bandit.log import partition_of
from bandit.rollout.audit import GENESIS
from bandit.rollout.state import Allocation, Experiment
from bandit.token import KeyRing
from server.store.base import Stored

FRESH_S = 3.0
LEASE_S = 300.0
"""How long a server that does not reach the store may give challengers traffic, unless it is told otherwise."""


class Mode(StrEnum):
    """How good the state is that a server decides from."""

    FRESH = "fresh"
    STALE = "stale"
    FROZEN = "frozen"
    FALLBACK = "fallback"


@dataclass(frozen=True, slots=True)
class Entry:
    """One experiment as it is served. ``fault`` says why it is not as stored, "" when it is.

    ``lapsed``: what is served in the place of ``table`` when the exposure lease is over. ``behind``: the store has an
    older state, or another past, than this one, which goes on uncounted: the store may give its numbers to others.
    """

    table: Table
    lapsed: Table
    experiment: Experiment
    allocation: Allocation
    generation: int
    audit_sequence: int = 0
    audit_hash: str = GENESIS
    fault: str = ""
    behind: bool = False

    @property
    def order(self) -> tuple[int, int]:
        """(uid, generation): grows with every change, also over a delete and a new experiment of the name."""
        return self.experiment.uid, self.generation

    @property
    def ledgers(self) -> tuple[str, ...]:
        """Names of its ledgers, one for each partition."""
        return ledger_names(self.table.name, self.experiment.spec.partitions)

    def ledger(self, issuer: int, number: int = 0) -> str:
        """Name of the ledger that counts a decision; see ``bandit.log.partition_of``."""
        partitions = self.experiment.spec.partitions
        name = self.table.name
        return name if partitions == 1 else ledger_name(name, partition_of(issuer, number, partitions))


def entry_of(stored: Stored) -> Entry:
    """An experiment as stored; one whose allocation does not fit it is served its control, and says so."""
    experiment = stored.experiment
    try:
        table, fault = compile_table(experiment, stored.allocation), ""
    except ValueError as error:
        table, fault = fallback_table(experiment), str(error)
    # Who promoted an arm made it the release; what is tried, in contrast, is watched or ends.
    leased = table.reason is Reason.ASSIGNED
    return Entry(
        table,
        fallback_table(experiment, Reason.LEASE_EXPIRED) if leased else table,
        experiment,
        stored.allocation,
        stored.generation,
        stored.audit_sequence,
        stored.audit_hash,
        fault,
    )


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All experiments at one moment, by name, by resource (``experiments/NAME``) and by uid.

    ``unreadable``: name -> why, for those that were never read whole. ``read_s``: monotonic time of the last good
    poll, taken before it; ``version``: the highest number of the store so far. ``frozen``: no learner was alive then.
    ``restored``: it is from this machine's disk, and the store was not reached since. ``set_back``: why the store is
    not believed, "" when it is; ``accepted_ms``: when it was last accepted as it is. ``stopped``: name -> what is
    served in the place of an experiment of which arms are stopped here.
    """

    entries: Mapping[str, Entry]
    by_resource: Mapping[str, Entry]
    by_uid: Mapping[int, Entry]
    unreadable: Mapping[str, str]
    keys: KeyRing
    read_s: float
    read_ms: int
    frozen: bool
    version: int = -1
    restored: bool = False
    set_back: str = ""
    accepted_ms: int = 0
    lease_s: float = math.inf
    stopped: Mapping[str, Table] = field(default_factory=dict)

    def table(self, entry: Entry, now_s: float) -> Table:
        """What an experiment is decided by now. Lapsed leases before stops: the control is the safest of all."""
        if now_s - self.read_s > self.lease_s:
            return entry.lapsed
        if self.stopped:
            return self.stopped.get(entry.table.name, entry.table)
        return entry.table

    def lapsed(self, now_s: float) -> bool:
        """Has the store not been reached for so long that challengers get no traffic?"""
        return now_s - self.read_s > self.lease_s

    def mode_now(self, now_s: float) -> Mode:
        """The best that any experiment can be now."""
        if self.restored or now_s - self.read_s > FRESH_S:
            return Mode.STALE
        return Mode.FROZEN if self.frozen or self.set_back else Mode.FRESH

    def mode(self, entry: Entry, now_s: float) -> Mode:
        """How good the state of one experiment is now."""
        if entry.table.reason is Reason.FALLBACK:
            return Mode.FALLBACK
        mode = self.mode_now(now_s)
        return Mode.FROZEN if mode is Mode.FRESH and entry.behind else mode

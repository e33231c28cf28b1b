"""What the service asks of a store; two members keep the promise: ``redis`` and ``memory``.

One experiment lives in one slot, so each call below that names one experiment is atomic. Every call may raise
StoreUnavailable; then nothing or all of it happened, and the caller reads again (writes carry their own fence).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import NamedTuple, Protocol

from numpy import float64, int64
from numpy.typing import NDArray

from bandit.ledger import Layout, Ledger, Period
from bandit.log import Append, LogEntry
from bandit.rollout.audit import AuditRecord
from bandit.rollout.state import Allocation, Experiment
from bandit.seen import BucketKey, Page, PageKey, Seen, ValuePage
from bandit.token import KeyRing
from server.store.fed import FeedStore
from server.store.findings import Finding
from server.store.keys import request_digest


@dataclass(frozen=True, slots=True)
class Stored:
    """An experiment as stored. ``generation`` grows with every commit and never goes back.

    ``audit_sequence`` and ``audit_hash`` are those of its newest audit record (0 and GENESIS for none).
    """

    experiment: Experiment
    allocation: Allocation
    generation: int
    audit_sequence: int
    audit_hash: str


class Fence(NamedTuple):
    """Right to be the one writer and judge of an experiment; an older token changes nothing."""

    owner: str
    token: int


class Outcome(NamedTuple):
    """What a write with a request id came to: the revision that resulted, and the answer that it was committed with."""

    revision: int
    answer: bytes = b""


class Request(NamedTuple):
    """A write with a request id as it is remembered: ``keys.request_digest`` of the id, and what it came to."""

    digest: bytes
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class Commit:
    """One compare-and-set of an experiment.

    ``expected_generation`` 0 creates. With a ``fence`` the lease must still be held. ``audit`` (already chained)
    is appended when given. ``request_id`` is remembered for a day with the revision that resulted and ``answer``, what
    the caller told of it beside the experiment (opaque here). ``request``: in their place, of a commit made once more.
    """

    expected_generation: int
    experiment: Experiment
    allocation: Allocation
    audit: AuditRecord | None = None
    fence: Fence | None = None
    request_id: str = ""
    answer: bytes = b""
    request: Request | None = None

    @property
    def remembered(self) -> Request | None:
        """What is to be remembered of the request that it is of."""
        if not self.request_id:
            return self.request
        return Request(request_digest(self.request_id), Outcome(self.experiment.revision, self.answer))


@dataclass(slots=True)
class RewardCounts:
    """How many rewards met which end in the log, since the experiment exists.

    ``sources``: the same by source (see ``bandit.log``), as far as entries were folded by a version that tells them.
    """

    applied: int = 0
    duplicate: int = 0
    conflict: int = 0
    late: int = 0
    rejected: int = 0
    superseded: int = 0
    sources: dict[str, RewardCounts] = field(default_factory=dict, kw_only=True)


@dataclass(slots=True)
class WriterState:
    """All that the fenced writer of an experiment knows; what the store keeps is exactly this.

    ``sequence`` counts folds and is the fence: a fold is taken only when it is the store's. ``offset``: last log
    entry folded. ``folded``: accumulators of the guardrails over blocks (see ``bandit.guardrails``), opaque here.
    ``removals``: how many changes of quarantines it is right for (``Experiment.removals``).
    """

    sequence: int
    offset: str
    ledger: Ledger
    seen: Seen
    counts: RewardCounts
    exposures_lost: int = 0
    folded: tuple[NDArray[float64], NDArray[int64]] | None = None
    removals: int = 0


@dataclass(slots=True)
class FoldWrite:
    """What one fold changes, all or nothing: only when the stored sequence is ``expected_sequence``.

    Values are whole (period, page), never increments, so nothing can overflow or be half-added. ``add_foreign``
    holds new ids only, ``replace_foreign`` all that a bucket has from then on. ``replies``: reply name -> one outcome
    byte per reward of that entry. ``drop_allocations``: kept allocations up to this number are written as periods and
    may go. ``uid`` is the experiment's: a writer that slept through a delete and a new experiment of the same name
    changes nothing. ``layout`` is of ``epoch``.
    ``folded`` None leaves what is stored. ``trim_before_ms``: folded log entries older than this go.
    """

    uid: int
    expected_sequence: int
    offset: str
    epoch: int
    layout: Layout
    counts: RewardCounts
    exposures_lost: int
    set_periods: Mapping[int, Period] = field(default_factory=dict)
    drop_periods: Sequence[int] = ()
    set_pages: Mapping[PageKey, Page | ValuePage] = field(default_factory=dict)
    drop_pages: Sequence[PageKey] = ()
    add_foreign: Mapping[BucketKey, Mapping[int, int]] = field(default_factory=dict)
    replace_foreign: Mapping[BucketKey, Mapping[int, int]] = field(default_factory=dict)
    drop_foreign: Sequence[BucketKey] = ()
    exposed: Mapping[int, int] = field(default_factory=dict)
    folded: tuple[NDArray[float64], NDArray[int64]] | None = None
    replies: Mapping[bytes, bytes] = field(default_factory=dict)
    trim_before_ms: int = 0
    drop_allocations: int = 0
    removals: int = 0


class Written(NamedTuple):
    """The small numbers of a ledger: the last log entry it has, how rewards ended, and see ``WriterState.removals``."""

    offset: str
    counts: RewardCounts
    removals: int


class Durability(IntEnum):
    """How safe something is that the store took: in its memory, on a replica too, or on its disk."""

    MEMORY = 1
    REPLICATED = 2
    FSYNCED = 3


class Shipment(NamedTuple):
    """Exposures of one issuer for a log: their numbers go from ``first`` to ``following`` - 1.

    ``experiment``: name of the ledger.

    ``gap``: take them although the log lacks some before them, which nobody has any more; the fold counts those lost.
    """

    experiment: str
    uid: int
    issuer: int
    first: int
    following: int
    payload: bytes
    gap: bool = False


class Subscription(Protocol):
    """Names of experiments that changed, as a hint; messages may be lost."""

    def next(self, timeout_s: float) -> str | None:
        """The next name, or None after the timeout. Raises StoreUnavailable when the connection is gone."""

    def close(self) -> None:
        """Stop listening."""


class ControlStore(Protocol):
    """Experiments, their state, audit and leases."""

    def version(self) -> int:
        """A number that grows with every commit or delete of any experiment."""

    def names(self) -> list[str]:
        """Names of all experiments, sorted."""

    def orders(self) -> dict[str, tuple[int, int]]:
        """Name -> (uid, generation) of every experiment, none of which is read; (0, 0) where even these are lost.

        Who knows an experiment in this order knows it as it is.
        """

    def load(self, name: str) -> Stored | None:
        """The experiment, or None. Raises CorruptStored when what is stored cannot be read."""

    def load_many(self, names: Sequence[str]) -> dict[str, Stored | Exception]:
        """Several at once; a broken one is its exception; missing ones are left out."""

    def commit(self, commit: Commit) -> int:
        """Executes it once and tells every server. Returns the new generation.

        Raises Stale when the generation, or the lease of the fence, moved on; AlreadyExists on create.
        """

    def allocations(self, name: str, after: int) -> list[Allocation]:
        """Every allocation ever committed with a number above ``after``, oldest first, as far as it is kept.

        The writer turns each into a period; ``FoldWrite.drop_allocations`` lets go of those it has written.
        """

    def delete(
        self, name: str, expected_generation: int, last: AuditRecord | None = None, request_id: str = ""
    ) -> None:
        """Removes the experiment and all it has. Raises Stale.

        With a ``last`` audit record (already chained) its records stay for 90 days as :meth:`past_audit`;
        ``request_id`` is remembered for a day.
        The generation of an experiment that cannot be read is in the metadata of its CorruptStored, 0 when even
        that is lost; deleting with that number clears it away.
        """

    def clear_partitions(self, name: str) -> None:
        """Clears what partitions of the name have of experiments that are gone: a delete that died may have left it."""

    def outcome_of(self, name: str, request_id: str) -> Outcome | None:
        """What the write with this request id came to, or None."""

    def requests(self, name: str, limit: int) -> list[Request]:
        """The newest requests that are remembered, newest first."""

    def audit(self, name: str, before: int | None, limit: int) -> list[AuditRecord]:
        """Audit records newest first, with sequence below ``before``."""

    def past_audit(self, name: str, before: int | None, limit: int) -> list[AuditRecord]:
        """Likewise those of the last experiment of the name that was deleted, as long as they are kept."""

    def deleted_by(self, name: str, request_id: str) -> bool:
        """Did the request with this id delete the last one of the name? As long as it is remembered."""

    def next_uid(self) -> int:
        """A number for a new experiment, never given twice, 1 to 2**32 - 1."""

    def reserve_issuers(self, count: int) -> int:
        """First of ``count`` consecutive issuer numbers, never given twice, from 1."""

    def token_keys(self) -> KeyRing:
        """Keys that sign decision tokens; made at the first call ever."""

    def acquire(self, name: str, owner: str, ttl_ms: int) -> Fence | None:
        """The lease of an experiment, new or renewed (same owner, same token).

        None while another holds it, and for an experiment that does not exist.
        """

    def release(self, name: str, fence: Fence) -> None:
        """Give the lease up, if it is still held."""

    def beat(self, owner: str, ttl_ms: int) -> None:
        """Say that a learner is alive."""

    def learner_alive(self) -> bool:
        """Did any learner say so within its time?"""

    def put_status(self, name: str, status: bytes, fence: Fence) -> bool:
        """Publish the status of an experiment; False when the lease is lost."""

    def status(self, name: str) -> bytes | None:
        """The last published status."""

    def put_report(self, name: str, report: bytes, fence: Fence) -> bool:
        """Publish the report of an experiment; False when the lease is lost."""

    def report(self, name: str) -> bytes | None:
        """The last published report."""

    def subscribe(self) -> Subscription:
        """Listen for changed experiments."""

    def secured(self, name: str) -> Durability:
        """How safe everything is by now that was written to the experiment; waits for it, a bounded time."""

    def history(self) -> tuple[str, ...]:
        """Which life of which servers this is. Another one than before: what was acknowledged may be gone."""

    def findings(self) -> list[Finding]:
        """The start-up check."""

    def now_ms(self) -> int:
        """The store's clock, Unix milliseconds."""

    def close(self) -> None:
        """Close all connections."""


class LedgerStore(Protocol):
    """The logs and ledgers of experiments: one each, or one for each of its partitions.

    Names here are names of ledgers (``bandit.ids.ledger_name``); the first has its experiment's name. A trailing one
    (``bandit.ids.trailing_name``) has the log of its experiment; folds of one with an old ``uid`` are refused too.
    """

    def begin(self, ledger: str, uid: int) -> bool:
        """Make ready the slot of a partition beyond the first: an empty log, no ledger. Nothing where it is so already.

        ``uid`` is of the experiment that has the name now. False when a later one has the slot, which stays as it is.
        """

    def append(self, entries: Sequence[Append]) -> list[str]:
        """Append entries in order; returns their ids, all durable as the store is configured.

        The id is "" for an entry whose experiment does not exist (it was deleted): that entry is dropped. Another of
        its name takes it into its log with the uid that it has, and folding passes it over.
        On StoreUnavailable some may have been taken; append all again (folding drops repeats).
        """

    def append_kept(self, entries: Sequence[Append], wanted: Durability) -> tuple[list[str], Durability]:
        """As :meth:`append`, then wait until the entries are as safe as wanted; ids, and how safe they are by then.

        Waits a bounded time (``link.KEPT``). MEMORY when the store cannot tell, has no replica, or is too slow: the
        entries are taken all the same.
        """

    def holds(self, name: str, ids: Sequence[str]) -> list[bool]:
        """Which of these entries the experiment's log still has."""

    def ship(self, entries: Sequence[Shipment]) -> list[int | None]:
        """Append exposures, each only when the log has all of its issuer's before them.

        Per entry: up to which number the log has that issuer's exposures now; below ``first`` nothing was taken, and
        they are to be sent from that number on. None when there is no such experiment. At most one entry of an
        experiment in a call. On StoreUnavailable some may have been taken; send all again (repeats are not taken).
        """

    def shipped(self, names: Sequence[str], issuer: int) -> dict[str, int]:
        """Up to which number the logs of these experiments have the issuer's exposures; 0 for none."""

    def read(self, offsets: Mapping[str, str], count: int, block_ms: int) -> dict[str, list[LogEntry]]:
        """Per experiment at most ``count`` entries after its offset; waits up to ``block_ms`` for the first."""

    def behind(self, name: str, offset: str) -> int:
        """Number of log entries after the offset."""

    def load_writer(self, name: str) -> WriterState | None:
        """What the last writer left, or None. Raises CorruptStored."""

    def written(self, name: str) -> Written | None:
        """The small numbers of a ledger, or None where nothing was folded yet. Raises CorruptStored."""

    def forget(self, name: str, uid: int) -> None:
        """Remove a trailing ledger (``bandit.ids.trailing_name``) of the experiment with this uid, all or nothing."""

    def fold(self, name: str, write: FoldWrite) -> bool:
        """All of the write, or nothing and False when the stored sequence (0: nothing folded yet) or uid is another.

        Raises CorruptStored, and changes nothing, when a part of what is stored is gone or of another type.
        """

    def await_reply(self, name: str, reply: bytes, timeout_s: float) -> bytes | None:
        """Outcome bytes for a reply name, or None after the timeout."""


class Store(ControlStore, LedgerStore, FeedStore, Protocol):
    """All of them."""

"""The fenced writer of one experiment: log -> fold -> ledger, and nothing else; it holds all of the ledger in memory.

Every change reaches the store as one fold that is taken whole or not at all. When a fold is refused, somebody
else writes: this writer must be thrown away. When it is unknown whether a fold was taken, likewise; a new writer
reads what the store kept and goes on from there.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from bandit.counting import layout_of
from bandit.errors import CorruptStored, Stale
from bandit.learn import Folding, fold, newest_allocation, open_periods
from bandit.ledger import FloatArray, Int64Array, Ledger, fold_block
from bandit.log import (
    GRPC,
    MOST_SOURCES,
    OTHERS,
    OUTCOME_APPLIED,
    OUTCOME_CONFLICT,
    OUTCOME_DUPLICATE,
    OUTCOME_LATE,
    OUTCOME_REJECTED,
    OUTCOME_SUPERSEDED,
    START,
    LogEntry,
)
from bandit.reward import CLOCK_SLACK_S
from bandit.rollout.state import Allocation
from bandit.seen import BUCKET_MS, BucketKey, Page, PageKey, Seen, ValuePage
from server.evidence import Evidence
from server.store.base import FoldWrite, RewardCounts, Store, Stored, WriterState

TRIM_SLACK_MS = 600_000
HOUSEKEEPING_MS = 10_000


class Writer(Evidence):
    """Holds the writer state of one ledger between folds; alone it is all of an experiment's evidence.

    ``ledger``: its name (``bandit.ids.ledger_name``), the experiment's own when it is left out. ``beside``: writers of
    other ledgers that open the same allocations; what one of them has not stored yet is kept. ``young_ms``: all are
    kept until the experiment is so old, so that a slot beside may go back to before its first fold. Not safe for
    several threads.
    """

    leads = True
    """Lets go of allocations that are periods everywhere."""
    trims = True
    """Trims the log behind what it folded."""

    def __init__(self, store: Store, stored: Stored, state: WriterState, ledger: str = "") -> None:
        self._store = store
        self.ledger = ledger or stored.experiment.name
        self._dirty: set[int] = set()
        self._gone: set[int] = set()
        self._accumulated = False
        self._housekept_ms = 0
        self.stored = stored
        self.state = state
        self.kept = self.newest
        self.beside: Sequence[Writer] = ()
        self.young_ms = 0
        self.sync(stored)

    @classmethod
    def open(cls, store: Store, stored: Stored, ledger: str = "") -> Writer:
        """Take up what the last writer left.

        Raises CorruptStored when the experiment had allocations but its ledger is gone: a fresh ledger would pass
        for "no evidence" and give a harmful arm its traffic back.
        """
        name = stored.experiment.name
        state = store.load_writer(ledger or name)
        if state is None:
            kept = store.allocations(name, 0)
            if not kept or kept[0].number != 1:
                raise CorruptStored(
                    f"{ledger or name}: allocation {stored.allocation.number} is out but the ledger is gone; shares "
                    "stay as they are; restore the store, or delete and create the experiment again",
                    reason="LEDGER_GONE",
                )
            layout = layout_of(stored.experiment.spec)
            state = WriterState(0, START, Ledger(stored.experiment.epoch, layout), Seen(), RewardCounts())
        return cls(store, stored, state, ledger)

    @property
    def ledger_read(self) -> Ledger:
        """See Evidence."""
        return self.state.ledger

    @property
    def folded_state(self) -> WriterState:
        """See Evidence."""
        return self.state

    @property
    def counts(self) -> RewardCounts:
        """See Evidence."""
        return self.state.counts

    @property
    def exposures_lost(self) -> int:
        """See Evidence."""
        return self.state.exposures_lost

    @property
    def offsets(self) -> Mapping[str, str]:
        """See Evidence."""
        return {self.ledger: self.state.offset}

    @property
    def sequences(self) -> Mapping[str, int]:
        """See Evidence."""
        return {self.ledger: self.state.sequence}

    @property
    def newest(self) -> int:
        """Number of the newest allocation that has its period; ``kept``: of those that the store has."""
        return max((period.last for period in self.state.ledger.periods.values()), default=0)

    def sync(self, stored: Stored) -> None:
        """See Evidence."""
        newest = self.newest
        if stored.allocation.number > newest:
            self.opened(self._store.allocations(self.name, newest), stored)
        self.stored = stored

    def opened(self, allocations: Iterable[Allocation], stored: Stored) -> None:
        """Give those allocations that have none their periods."""
        self._dirty |= open_periods(self.state.ledger, allocations, stored.experiment)

    def knows(self, entries: Sequence[LogEntry]) -> bool:
        """See Evidence."""
        return newest_allocation(entries, self.stored.experiment.uid) <= self.newest

    def take(self, ledger: str, entries: Sequence[LogEntry]) -> Folding:
        """See Evidence."""
        return self.fold(entries)

    def fold(self, entries: Sequence[LogEntry]) -> Folding:
        """Fold the entries and write the result. Raises Stale when another writer was quicker."""
        folding = fold(entries, self.stored.experiment, self.state.ledger, self.state.seen)
        _count(self.state.counts, folding.outcomes)
        for source, ended in folding.sources.items():
            _count(_of_source(self.state.counts, source or GRPC), ended)
        self.state.exposures_lost += folding.exposures_lost
        self.state.offset = entries[-1].id
        self._write(folding, log_ms=entries[-1].time_ms)
        return folding

    def flush(self) -> None:
        """See Evidence."""
        if self._dirty or self._gone:
            self._write(Folding())

    def changed(self, numbers: Iterable[int], gone: Iterable[int] = ()) -> None:
        """Periods were changed or taken out of the ledger in memory; the next write has them."""
        self._gone |= set(gone)
        self._dirty = (self._dirty | set(numbers)) - self._gone

    def fold_group(
        self,
        group: Sequence[int],
        facts: FloatArray | None = None,
        units: FloatArray | None = None,
        *,
        accumulated: bool = False,
    ) -> None:
        """Make one block of a group of periods in memory, see ``ledger.fold_block``; the next write has it.

        ``accumulated``: and the accumulators too.
        """
        periods = self.state.ledger.periods
        block = fold_block([periods.pop(number) for number in group], facts, units)
        periods[block.number] = block
        self.changed([block.number], [number for number in group if number != block.number])
        self._accumulated = self._accumulated or accumulated

    def _fold_group(self, group: Sequence[int], facts: FloatArray | None, units: FloatArray | None) -> int:
        self.fold_group(group, facts, units, accumulated=True)
        return len(group)

    def _write_blocks(self, now_ms: int) -> None:
        self.flush()

    def _write(self, folding: Folding, *, log_ms: int = 0) -> None:
        state = self.state
        newest = self.newest
        dirty = (folding.periods | self._dirty) & state.ledger.periods.keys()
        drop_pages: list[PageKey] = []
        drop_foreign: list[BucketKey] = []
        trim = 0
        if log_ms - self._housekept_ms > HOUSEKEEPING_MS:
            drop_pages, drop_foreign = self._expired(log_ms)
            trim = log_ms - TRIM_SLACK_MS
            self._housekept_ms = log_ms
        write = FoldWrite(
            uid=self.stored.experiment.uid,
            expected_sequence=state.sequence,
            offset=state.offset,
            epoch=state.ledger.epoch,
            layout=state.ledger.layout,
            counts=state.counts,
            exposures_lost=state.exposures_lost,
            set_periods={number: state.ledger.periods[number] for number in sorted(dirty)},
            drop_periods=tuple(sorted(self._gone)),
            set_pages=self._changed_pages(folding),
            drop_pages=drop_pages,
            add_foreign={key: ids for key, ids in folding.foreign.items() if key in state.seen.foreign},
            drop_foreign=drop_foreign,
            exposed={issuer: state.seen.exposed[issuer] for issuer in folding.issuers},
            folded=state.folded if self._accumulated else None,
            replies=folding.replies,
            trim_before_ms=max(trim, 0) if self.trims else 0,
            drop_allocations=self._known_everywhere(newest),
            removals=state.removals,
        )
        if not self._store.fold(self.ledger, write):
            raise Stale(
                f"{self.ledger}: another writer folded after sequence {state.sequence}",
                reason="NOT_THE_WRITER",
            )
        state.sequence += 1
        self.kept = newest
        self._dirty.clear()
        self._gone.clear()
        self._accumulated = False

    def _known_everywhere(self, newest: int) -> int:
        """Number up to which allocations may go: each ledger beside has stored their periods."""
        experiment = self.stored.experiment
        if not self.leads or self.stored.allocation.time_ms < experiment.create_time_ms + self.young_ms:
            return 0
        return min((newest, *(each.kept for each in self.beside)))

    def _changed_pages(self, folding: Folding) -> dict[PageKey, Page | ValuePage]:
        """Pages that the fold changed and that are still there."""
        seen = self.state.seen
        marks = {key: seen.pages[key] for key in folding.pages if key in seen.pages}
        return marks | {key: seen.values[key] for key in folding.values if key in seen.values}

    def _expired(self, log_ms: int) -> tuple[list[PageKey], list[BucketKey]]:
        """Marks that no reward can ask for any more, by the log's clock; they are dropped here and in the store."""
        experiment, seen = self.stored.experiment, self.state.seen

        def gone(epoch: int, metric: int, newest_ms: int) -> bool:
            spec = experiment.spec_of(epoch)
            if spec is None or metric >= len(spec.metrics):
                return True
            return log_ms > newest_ms + (spec.metrics[metric].attribution_window + 2 * CLOCK_SLACK_S) * 1000

        pages = [key for key, page in seen.pages.items() if gone(key.epoch, key.metric, page.newest_ms)]
        values = [key for key, page in seen.values.items() if gone(key.epoch, key.metric, page.newest_ms)]
        buckets = [key for key in seen.foreign if gone(key.epoch, key.metric, (key.hour + 1) * BUCKET_MS)]
        for key in pages:
            del seen.pages[key]
        for key in values:
            del seen.values[key]
        for bucket in buckets:
            del seen.foreign[bucket]
        return pages + values, buckets


def _count(counts: RewardCounts, ended: Int64Array) -> None:
    counts.applied += int(ended[OUTCOME_APPLIED])
    counts.duplicate += int(ended[OUTCOME_DUPLICATE])
    counts.conflict += int(ended[OUTCOME_CONFLICT])
    counts.late += int(ended[OUTCOME_LATE])
    counts.rejected += int(ended[OUTCOME_REJECTED])
    counts.superseded += int(ended[OUTCOME_SUPERSEDED])


def _of_source(counts: RewardCounts, source: bytes) -> RewardCounts:
    """The counts of a source; of all others beyond the first so many together."""
    name = source.decode("utf-8", "replace")
    if name not in counts.sources and len(counts.sources) >= MOST_SOURCES:
        name = OTHERS.decode()
    return counts.sources.setdefault(name, RewardCounts())

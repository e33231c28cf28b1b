"""The fenced writer of one experiment: log -> fold -> ledger, and nothing else; it holds all of the ledger in memory.

Every change reaches the store as one fold that is taken whole or not at all. When a fold is refused, somebody
else writes: this writer must be thrown away. When it is unknown whether a fold was taken, likewise; a new writer
reads what the store kept and goes on from there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from bandit.clusters import design_effects, repeats_of
from bandit.compact import plan
from bandit.counting import layout_of
from bandit.errors import CorruptStored, Stale
from bandit.facts import settle
from bandit.guardrails.base import Folded
from bandit.guardrails.judge import accumulate
from bandit.inference.first_exposure import settle_units, unit_terms
from bandit.inference.terms import settle as settle_terms
from bandit.learn import Folding, fold, newest_allocation, open_periods
from bandit.ledger import (
    Clusters,
    FloatArray,
    Int64Array,
    Ledger,
    PeriodTable,
    cluster_totals,
    decay_weights,
    fold_block,
    split_table,
    table,
)
from bandit.linear.sums import Totals, totals
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
from bandit.rollout.state import Experiment
from bandit.seen import BUCKET_MS, BucketKey, Page, PageKey, Seen, ValuePage
from server.store.base import FoldWrite, RewardCounts, Store, Stored, WriterState

TRIM_SLACK_MS = 600_000
HOUSEKEEPING_MS = 10_000


class Writer:
    """Holds the writer state of one experiment between folds. Not safe for several threads."""

    def __init__(self, store: Store, stored: Stored, state: WriterState, ledger: str = "") -> None:
        self._store = store
        self.ledger = ledger or stored.experiment.name
        self._dirty: set[int] = set()
        self._housekept_ms = 0
        self.stored = stored
        self.state = state
        self.sync(stored)

    @classmethod
    def open(cls, store: Store, stored: Stored) -> Writer:
        """Take up what the last writer left.

        Raises CorruptStored when the experiment had allocations but its ledger is gone: a fresh ledger would pass
        for "no evidence" and give a harmful arm its traffic back.
        """
        name = stored.experiment.name
        state = store.load_writer(name)
        if state is None:
            kept = store.allocations(name, 0)
            if not kept or kept[0].number != 1:
                raise CorruptStored(
                    f"{name}: allocation {stored.allocation.number} is out but the ledger is gone; shares stay as they "
                    "are; restore the store, or delete and create the experiment again",
                    reason="LEDGER_GONE",
                )
            layout = layout_of(stored.experiment.spec)
            state = WriterState(0, START, Ledger(stored.experiment.epoch, layout), Seen(), RewardCounts())
        return cls(store, stored, state)

    @property
    def name(self) -> str:
        """Name of the experiment; ``ledger`` is that of the ledger (``bandit.ids.ledger_name``)."""
        return self.stored.experiment.name

    def sync(self, stored: Stored) -> None:
        """Learn of commits: each new allocation becomes a period (written with the next fold)."""
        newest = max((period.last for period in self.state.ledger.periods.values()), default=0)
        if stored.allocation.number > newest:
            allocations = self._store.allocations(self.name, newest)
            self._dirty |= open_periods(self.state.ledger, allocations, stored.experiment)
        self.stored = stored

    def knows(self, entries: Sequence[LogEntry]) -> bool:
        """True when every allocation that the entries speak of has its period; else :meth:`sync` first."""
        newest = max((period.last for period in self.state.ledger.periods.values()), default=0)
        return newest_allocation(entries, self.stored.experiment.uid) <= newest

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
        """Write periods that were opened or closed, when no entry took them along."""
        if self._dirty:
            self._write(Folding())

    def compact(self, now_ms: int) -> int:
        """Fold periods that can never change again into blocks. Returns how many were folded."""
        ledger, experiment = self.state.ledger, self.stored.experiment
        groups = plan(ledger, experiment, now_ms)
        if not groups:
            return 0
        dropped: list[int] = []
        for group in groups:
            periods = [ledger.periods[number] for number in group]
            facts = units = None
            if periods[0].epoch == experiment.epoch:
                self._accumulate(experiment, group)
                facts = self._settle(experiment, group)
                units = settle_units(experiment.spec, periods)
            block = fold_block(periods, facts, units)
            for number in group:
                del ledger.periods[number]
            ledger.periods[block.number] = block
            self._dirty.add(block.number)
            dropped.extend(number for number in group if number != block.number)
        self._dirty -= set(dropped)
        self._write(Folding(), drop_periods=tuple(dropped))
        return len(dropped)

    def tables(self) -> tuple[PeriodTable, PeriodTable]:
        """The periods of the present epoch as arrays, cohorts added up and a row per cohort."""
        periods, layout = self.state.ledger.current(), self.state.ledger.layout
        whole = table(periods, layout)
        if layout.cohorts > 1:
            return whole, split_table(periods, layout)
        return whole, replace(whole, cohort=np.zeros(len(whole.number), np.int64))

    def settled(self, now_ms: int) -> FloatArray:
        """Terms of units that met one arm alone (``inference.first_exposure``); zeros where units keep none."""
        return unit_terms(self.stored.experiment.spec, self.state.ledger.current(), now_ms)

    def clusters(self) -> Clusters | None:
        """Sums of the present epoch by hash bucket of the unit, where units keep their arm."""
        return cluster_totals(self.state.ledger.current(), self.state.ledger.layout)

    def totals(self, now_ms: int) -> Totals | None:
        """What linear models learn from, periods of the present epoch weighed by their age."""
        periods = [each for each in self.state.ledger.current() if each.linear is not None]
        if not periods:
            return None
        decay = self.stored.experiment.spec.decay
        weights = np.ones(len(periods))
        if decay is not None:
            weights = decay_weights(table(periods, self.state.ledger.layout), decay.half_life, now_ms)
        return totals(
            (each.linear, float(weight))
            for each, weight in zip(periods, weights, strict=True)
            if each.linear is not None
        )

    def folded(self) -> Folded:
        """Accumulators of the guardrails over blocks, for the present spec."""
        return folded_of(self.state, self.stored.experiment)

    def _accumulate(self, experiment: Experiment, group: list[int]) -> None:
        ledger = self.state.ledger
        rows = [period for number in group if not (period := ledger.periods[number]).is_block]
        since = np.array([arm.since for arm in experiment.arms], np.int64)
        periods, cohorts = table(rows, ledger.layout), split_table(rows, ledger.layout)
        spec, clusters = experiment.spec, self.clusters()
        effects = design_effects(spec, clusters, self.tables()[0])
        folded = accumulate(spec, self.folded(), periods, since, cohorts, repeats_of(effects, clusters))
        self.state.folded = (folded.sums, folded.since)

    def _settle(self, experiment: Experiment, group: list[int]) -> FloatArray:
        ledger = self.state.ledger
        periods = [period for number in group if not (period := ledger.periods[number]).is_block]
        rows = split_table(periods, ledger.layout)
        spec, cohorts = experiment.spec, ledger.layout.cohorts
        return np.concatenate([settle(spec, rows, cohorts), settle_terms(spec, rows, cohorts)], axis=1)

    def _write(self, folding: Folding, *, log_ms: int = 0, drop_periods: tuple[int, ...] = ()) -> None:
        state = self.state
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
            drop_periods=drop_periods,
            set_pages=self._changed_pages(folding),
            drop_pages=drop_pages,
            add_foreign={key: ids for key, ids in folding.foreign.items() if key in state.seen.foreign},
            drop_foreign=drop_foreign,
            exposed={issuer: state.seen.exposed[issuer] for issuer in folding.issuers},
            folded=state.folded if drop_periods else None,
            replies=folding.replies,
            trim_before_ms=max(trim, 0),
            drop_allocations=max((period.last for period in state.ledger.periods.values()), default=0),
        )
        if not self._store.fold(self.ledger, write):
            raise Stale(
                f"{self.ledger}: another writer folded after sequence {state.sequence}",
                reason="NOT_THE_WRITER",
            )
        state.sequence += 1
        self._dirty.clear()

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


def folded_of(state: WriterState, experiment: Experiment) -> Folded:
    """The guardrails' accumulators of a writer state; empty ones when there are none or the spec changed shape."""
    empty = Folded.empty_of(experiment.spec)
    if state.folded is None or state.folded[0].shape != empty.sums.shape:
        return empty
    return Folded(*state.folded)

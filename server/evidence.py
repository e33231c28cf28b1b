"""What judges read of an experiment's ledger, and how old periods of it are folded; one ledger or several merged."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bandit.clusters import design_effects, repeats_of
from bandit.compact import plan
from bandit.facts import settle
from bandit.guardrails.base import Folded
from bandit.guardrails.judge import accumulate
from bandit.inference.first_exposure import settle_units, unit_terms
from bandit.inference.terms import settle as settle_terms
from bandit.learn import Folding
from bandit.ledger import (
    Clusters,
    FloatArray,
    Ledger,
    Period,
    PeriodTable,
    cluster_totals,
    decay_weights,
    split_table,
    table,
)
from bandit.linear.sums import Totals, totals
from bandit.log import LogEntry
from bandit.rollout.state import Experiment
from server.store.base import RewardCounts, Stored, WriterState


class KeptEvents(NamedTuple):
    """Events that the log took after ``since_ms`` are kept; ``removals`` as in ``WriterState``.

    ``read`` of ``left`` + ``read`` entries were folded anew to remove a source; both None while nothing is removed.
    """

    since_ms: int
    removals: int
    read: int | None = None
    left: int | None = None


class Evidence:
    """An experiment with all its rewards: what is read of it. ``stored``: the experiment as last seen.

    The members that raise here are those of one writer (``server.learner``) or of several (``server.partitioned``).
    """

    stored: Stored

    @property
    def name(self) -> str:
        """Name of the experiment."""
        return self.stored.experiment.name

    @property
    def ledger_read(self) -> Ledger:
        """All periods, of every partition; nobody but the writers may change it."""
        raise NotImplementedError

    @property
    def folded_state(self) -> WriterState:
        """State that keeps the accumulators of the guardrails."""
        raise NotImplementedError

    @property
    def counts(self) -> RewardCounts:
        """How many rewards met which end."""
        raise NotImplementedError

    @property
    def exposures_lost(self) -> int:
        """Exposures that no log has, or no period."""
        raise NotImplementedError

    @property
    def offsets(self) -> Mapping[str, str]:
        """Last folded log entry, by ledger."""
        raise NotImplementedError

    @property
    def reads(self) -> Mapping[str, str]:
        """Those of the ledgers whose logs are to be read now."""
        return self.offsets

    @property
    def sequences(self) -> Mapping[str, int]:
        """Number of folds, by ledger."""
        raise NotImplementedError

    def sync(self, stored: Stored) -> None:
        """Learn of commits: each new allocation becomes a period (written with the next fold)."""
        raise NotImplementedError

    def knows(self, entries: Sequence[LogEntry]) -> bool:
        """True when every allocation that the entries speak of has its period; else :meth:`sync` first."""
        raise NotImplementedError

    def take(self, ledger: str, entries: Sequence[LogEntry]) -> Folding:
        """Fold entries of one of the logs and write the result. Raises Stale when another writer was quicker."""
        raise NotImplementedError

    def flush(self) -> None:
        """Write periods that were opened or closed, when no entry took them along."""
        raise NotImplementedError

    def told(self) -> Mapping[str, tuple[int, int]]:
        """Exposures of the present epoch and rewards applied, by ledger where there are several partitions."""
        return {}

    def warnings(self) -> list[str]:
        """What an operator has to know of how the ledgers were taken up."""
        return []

    @property
    def stands(self) -> bool:
        """True while the ledger is not what it will be in a moment: nothing is folded, and shares must not move."""
        return False

    def tend(self) -> bool:
        """Do a bounded piece of what can wait, once for each turn; True when more of it is to be done at once."""
        return False

    @property
    def events(self) -> KeptEvents | None:
        """Which counted events are kept; None where none are."""
        return None

    def compact(self, now_ms: int) -> int:
        """Fold periods that can never change again into blocks. Returns how many were folded."""
        groups = plan(self.ledger_read, self.stored.experiment, now_ms)
        folded = 0
        for group in groups:
            facts = units = None
            periods = [self.ledger_read.periods[number] for number in group]
            if periods[0].epoch == self.stored.experiment.epoch:
                self._accumulate(periods)
                facts = self._settle(periods)
                units = settle_units(self.stored.experiment.spec, periods)
            folded += self._fold_group(group, facts, units) - 1
        if groups:
            self._write_blocks(now_ms)
        return folded

    def _fold_group(self, group: Sequence[int], facts: FloatArray | None, units: FloatArray | None) -> int:
        """Make one period of a group; how many it had."""
        raise NotImplementedError

    def _write_blocks(self, now_ms: int) -> None:
        """Write what was folded together with the accumulators."""
        raise NotImplementedError

    def tables(self) -> tuple[PeriodTable, PeriodTable]:
        """The periods of the present epoch as arrays, cohorts added up and a row per cohort."""
        periods, layout = self.ledger_read.current(), self.ledger_read.layout
        whole = table(periods, layout)
        if layout.cohorts > 1:
            return whole, split_table(periods, layout)
        return whole, replace(whole, cohort=np.zeros(len(whole.number), np.int64))

    def settled(self, now_ms: int) -> FloatArray:
        """Terms of units that met one arm alone (``inference.first_exposure``); zeros where units keep none."""
        return unit_terms(self.stored.experiment.spec, self.ledger_read.current(), now_ms)

    def clusters(self) -> Clusters | None:
        """Sums of the present epoch by hash bucket of the unit, where units keep their arm."""
        return cluster_totals(self.ledger_read.current(), self.ledger_read.layout)

    def totals(self, now_ms: int) -> Totals | None:
        """What linear models learn from, periods of the present epoch weighed by their age."""
        periods = [each for each in self.ledger_read.current() if each.linear is not None]
        if not periods:
            return None
        decay = self.stored.experiment.spec.decay
        weights = np.ones(len(periods))
        if decay is not None:
            weights = decay_weights(table(periods, self.ledger_read.layout), decay.half_life, now_ms)
        return totals(
            (each.linear, float(weight))
            for each, weight in zip(periods, weights, strict=True)
            if each.linear is not None
        )

    def folded(self) -> Folded:
        """Accumulators of the guardrails over blocks, for the present spec."""
        return folded_of(self.folded_state, self.stored.experiment)

    def _accumulate(self, periods: Sequence[Period]) -> None:
        experiment, layout = self.stored.experiment, self.ledger_read.layout
        rows = [period for period in periods if not period.is_block]
        since = np.array([arm.since for arm in experiment.arms], np.int64)
        whole, cohorts = table(rows, layout), split_table(rows, layout)
        spec, clusters = experiment.spec, self.clusters()
        effects = design_effects(spec, clusters, self.tables()[0])
        folded = accumulate(spec, self.folded(), whole, since, cohorts, repeats_of(effects, clusters))
        self.folded_state.folded = (folded.sums, folded.since)

    def _settle(self, group: Sequence[Period]) -> FloatArray:
        layout = self.ledger_read.layout
        rows = split_table([period for period in group if not period.is_block], layout)
        spec, cohorts = self.stored.experiment.spec, layout.cohorts
        return np.concatenate([settle(spec, rows, cohorts), settle_terms(spec, rows, cohorts)], axis=1)


def folded_of(state: WriterState, experiment: Experiment) -> Folded:
    """The guardrails' accumulators of a writer state; empty ones when there are none or the spec changed shape."""
    empty = Folded.empty_of(experiment.spec)
    if state.folded is None or state.folded[0].shape != empty.sums.shape:
        return empty
    return Folded(*state.folded)

"""Looks of a rehearsal: the learner's own look, taken again and again at periods that a world drew.

It differs from the server in two ways: whatever a look takes away is taken at once, and shares are renewed at each.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

import bandit.look
from bandit.guardrails.base import Folded
from bandit.ledger import EVERY, FloatArray, PeriodTable
from bandit.rollout.rollback import ArmDecision
from bandit.rollout.state import Allocation, Experiment, State
from bandit.rollout.transitions import create
from bandit.simulate.by_features import Requests
from bandit.simulate.outcomes import Drawn
from bandit.spec.model import PPM, ExperimentSpec


@dataclass(slots=True)
class Standing:
    """Where an experiment stands between two looks. Its allocations are counted from 1, as the book's periods are."""

    experiment: Experiment
    allocation: Allocation
    folded: Folded

    @classmethod
    def begin(cls, spec: ExperimentSpec) -> Standing:
        """Before the first look."""
        draft = create(spec, 1, bytes(16), 0)
        return cls(replace(draft.experiment, state=State.RUNNING), draft.allocation, Folded.empty_of(spec))

    @property
    def shares_ppm(self) -> tuple[int, ...]:
        """[K] of the next period, in cohorts that are not apart."""
        return self.allocation.shares_ppm

    def shares(self, cohorts: int) -> FloatArray:
        """[G, K] of the next period, each in [0, 1]."""
        own = self.allocation.apart_ppm
        return np.array([own.get(cohort, self.shares_ppm) for cohort in range(cohorts)]) / PPM

    @property
    def centres(self) -> tuple[float, ...]:
        """[M] of the next period, scaled."""
        return self.allocation.centres


@dataclass(slots=True)
class Book:
    """The periods so far, as the ledger would hold them at a look: E periods, G cohorts, K arms, C channels. ``apart``:
    False where the G are segments, of which the ledger knows nothing."""

    period_ms: float
    assigned: FloatArray
    n: FloatArray
    s1: FloatArray
    s2: FloatArray
    share: FloatArray
    common: FloatArray
    centre: FloatArray
    apart: bool = True
    count: int = field(default=0, init=False)

    @classmethod
    def empty(
        cls,
        spec: ExperimentSpec,
        periods: int,
        lags: int,
        cohorts: int,
        period_s: float,
        *,
        apart: bool = True,
    ) -> Book:
        """No period yet, room for ``periods``."""
        arms, channels = len(spec.arms), len(spec.columns)
        cells = (periods, lags, cohorts, arms, channels)
        return cls(
            period_s * 1000.0,
            np.zeros((periods, cohorts, arms)),
            np.zeros(cells),
            np.zeros(cells),
            np.zeros(cells),
            np.zeros((periods, cohorts, arms)),
            np.zeros((periods, arms)),
            np.zeros((periods, len(spec.metrics))),
            apart,
        )

    def add(
        self,
        drawn: Drawn,
        shares: FloatArray,
        centres: tuple[float, ...],
        common: FloatArray | None = None,
    ) -> None:
        """The next period, under ``shares`` [K] or [G, K]; ``common`` [K]: those of cohorts that are not apart, where
        cohorts may be."""
        at = self.count
        self.assigned[at], self.n[at], self.s1[at], self.s2[at] = drawn
        self.share[at], self.centre[at] = shares, centres
        self.common[at] = shares if common is None else common
        self.count += 1

    @property
    def now_ms(self) -> int:
        """The end of the newest period."""
        return round(self.count * self.period_ms)

    def cells(self) -> tuple[FloatArray, FloatArray, FloatArray]:
        """(n, s1, s2) [E, G, K, C] as they are now."""
        rows = np.arange(self.count)
        lag = np.minimum(self.count - 1 - rows, self.n.shape[1] - 1)
        return self.n[rows, lag], self.s1[rows, lag], self.s2[rows, lag]

    def tables(self) -> tuple[PeriodTable, PeriodTable]:
        """(a row per period, a row per period and cohort) at the end of the newest period, which is still open."""
        rows = np.arange(self.count)
        n, s1, s2 = self.cells()
        assigned = self.assigned[: self.count]
        if assigned.shape[1] == 1:
            whole = self._table(rows, EVERY, assigned[:, 0], n[:, 0], s1[:, 0], s2[:, 0])
            return whole, whole
        whole = self._table(rows, EVERY, assigned.sum(1), n.sum(1), s1.sum(1), s2.sum(1))
        if not self.apart:
            return whole, whole
        period, cohort = (each.ravel() for each in np.indices(assigned.shape[:2]))
        parts = (each.reshape(-1, *each.shape[2:]) for each in (assigned, n, s1, s2))
        return whole, self._table(period, cohort, *parts)

    def _table(
        self,
        period: NDArray[np.int64],
        cohort: NDArray[np.int64] | int,
        assigned: FloatArray,
        n: FloatArray,
        s1: FloatArray,
        s2: FloatArray,
    ) -> PeriodTable:
        end = np.round((period + 1) * self.period_ms).astype(np.int64)
        return PeriodTable(
            number=period + 1,
            last=period + 1,
            start_ms=np.round(period * self.period_ms).astype(np.int64),
            end_ms=np.where(period == self.count - 1, 0, end),
            block=np.zeros(period.size, np.bool_),
            share=self.common[period] if isinstance(cohort, int) else self.share[period, cohort],
            centre=self.centre[period],
            assigned=assigned,
            n=n,
            s1=s1,
            s2=s2,
            facts=np.zeros((period.size, 0)),
            cohort=np.broadcast_to(np.asarray(cohort, np.int64), period.shape),
        )


def look(
    standing: Standing, book: Book, batch: float, *, told: bool = True, requests: Requests | None = None
) -> list[ArmDecision]:
    """Look until nothing is left to take away and shares and centres are renewed; what was decided on the way.

    ``batch``: requests until the next look; ``told`` as for ``guardrails.judge``; ``requests``: by their features, for
    a linear allocator.
    """
    table, rows = book.tables()
    if requests is not None:
        table = replace(table, weighed=requests.weighed(book.cells(), book.share[: book.count]))
    fell: list[ArmDecision] = []
    while True:
        seen = bandit.look.look(
            standing.experiment,
            standing.allocation,
            table,
            rows,
            standing.folded,
            book.now_ms,
            batch=batch,
            renew=True,
            told=told,
            totals=None if requests is None else requests.totals(table, book.cells(), book.now_ms),
        )
        assert seen.transition is not None
        standing.experiment, standing.allocation = seen.transition.experiment, seen.transition.allocation
        if seen.decided is None:
            return fell
        fell.append(seen.decided)

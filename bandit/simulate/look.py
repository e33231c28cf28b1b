"""One look of a rehearsal: what the learner and the judge do with the same evidence, by the same functions.

A look mirrors the server's: guardrails first, rollbacks and holds from the table of ``rollout.rollback``, then the
next shares within bounds. It differs in that all rollbacks of a look happen at once, and shares are always renewed.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.allocate import propose
from bandit.baselines.base import evidence_of
from bandit.guardrails.base import ArmStanding, Folded, Outcome, Verdict
from bandit.guardrails.judge import judge
from bandit.ledger import EVERY, FloatArray, PeriodTable
from bandit.reading import with_silence
from bandit.rollout.rollback import Kind, decisions
from bandit.rollout.state import ArmState, Rollback
from bandit.simulate.outcomes import Drawn
from bandit.spec.model import PPM, ExperimentSpec

REHEARSED = Rollback("rehearsed", 0, "rehearsal", "rehearsed")


class Fall(NamedTuple):
    """An arm that a guardrail acted on."""

    arm: int
    guardrail: str
    kind: Kind


@dataclass(slots=True)
class Standing:
    """Where an experiment stands between two looks."""

    arms: list[ArmState]
    shares_ppm: tuple[int, ...] | None
    centres: tuple[float, ...]
    folded: Folded

    @classmethod
    def begin(cls, spec: ExperimentSpec) -> Standing:
        """Before the first look."""
        centres = []
        for metric in spec.metrics:
            low, high = metric.scale
            centres.append(0.5 if metric.prior is None else (metric.prior.mean - low) / (high - low))
        arms = [ArmState() for _ in spec.arms]
        return cls(arms, None, tuple(centres), Folded.empty_of(spec))

    @property
    def live(self) -> NDArray[np.bool_]:
        """[K] may an arm have traffic?"""
        return np.array([arm.rollback is None for arm in self.arms], np.bool_)


@dataclass(slots=True)
class Book:
    """The periods so far, as the ledger would hold them at a look: E periods, G cohorts, K arms, C channels."""

    period_ms: float
    assigned: FloatArray
    n: FloatArray
    s1: FloatArray
    s2: FloatArray
    share: FloatArray
    centre: FloatArray
    count: int = field(default=0, init=False)

    @classmethod
    def empty(cls, spec: ExperimentSpec, periods: int, lags: int, cohorts: int, period_s: float) -> Book:
        """No period yet, room for ``periods``."""
        arms, channels = len(spec.arms), len(spec.columns)
        cells = (periods, lags, cohorts, arms, channels)
        return cls(
            period_s * 1000.0,
            np.zeros((periods, cohorts, arms)),
            np.zeros(cells),
            np.zeros(cells),
            np.zeros(cells),
            np.zeros((periods, arms)),
            np.zeros((periods, len(spec.metrics))),
        )

    def add(self, drawn: Drawn, shares: FloatArray, centres: tuple[float, ...]) -> None:
        """The next period."""
        at = self.count
        self.assigned[at], self.n[at], self.s1[at], self.s2[at] = drawn
        self.share[at], self.centre[at] = shares, centres
        self.count += 1

    @property
    def now_ms(self) -> int:
        """The end of the newest period."""
        return round(self.count * self.period_ms)

    def tables(self) -> tuple[PeriodTable, PeriodTable]:
        """(a row per period, a row per period and cohort) at the end of the newest period, which is still open."""
        count, lags = self.count, self.n.shape[1]
        rows = np.arange(count)
        lag = np.minimum(count - 1 - rows, lags - 1)
        n, s1, s2 = (each[rows, lag] for each in (self.n, self.s1, self.s2))
        assigned = self.assigned[:count]
        if assigned.shape[1] == 1:
            whole = self._table(rows, EVERY, assigned[:, 0], n[:, 0], s1[:, 0], s2[:, 0])
            return whole, whole
        whole = self._table(rows, EVERY, assigned.sum(1), n.sum(1), s1.sum(1), s2.sum(1))
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
            share=self.share[period],
            centre=self.centre[period],
            assigned=assigned,
            n=n,
            s1=s1,
            s2=s2,
            facts=np.zeros((period.size, 0)),
            cohort=np.broadcast_to(np.asarray(cohort, np.int64), period.shape),
        )


class Looked(NamedTuple):
    """What a look did, and the verdicts that led to it."""

    falls: list[Fall]
    verdicts: tuple[Verdict, ...]


def look(spec: ExperimentSpec, standing: Standing, book: Book, batch: float) -> Looked:
    """Judge, take away, and renew shares and centres of ``standing``; ``batch``: requests until the next look."""
    now_ms = book.now_ms
    table, rows = book.tables()
    falls: list[Fall] = []
    verdicts: tuple[Verdict, ...] = ()
    if book.count and spec.guardrails:
        arms = [ArmStanding(arm.attempt, arm.since, arm.rollback is None) for arm in standing.arms]
        verdicts = judge(spec, table, standing.folded, arms, now_ms, rows)
        if any(verdict.outcome is Outcome.FAIL for verdict in verdicts):
            falls = _act(standing, verdicts)
    before = standing.shares_ppm
    proposal = propose(
        spec,
        evidence_of(spec, rows, now_ms),
        standing.live,
        [arm.hold_ppm for arm in standing.arms],
        before,
        book.period_ms / 1000.0,
        batch,
    )
    standing.shares_ppm = proposal.shares_ppm
    standing.centres = centres(spec, table, standing.centres, now_ms)
    return Looked(falls, verdicts)


def _act(standing: Standing, verdicts: tuple[Verdict, ...]) -> list[Fall]:
    """Do what the verdicts ask for; freed shares go to the control's, from which others rise by their ramp."""
    falls = []
    for arm, kind, verdict in decisions(verdicts, standing.arms):
        state = standing.arms[arm]
        if kind is Kind.ROLL_BACK:
            standing.arms[arm] = ArmState(REHEARSED, None, state.attempt, state.since)
        else:
            share = standing.shares_ppm[arm] if standing.shares_ppm else PPM
            standing.arms[arm] = ArmState(None, share, state.attempt, state.since)
        falls.append(Fall(arm, verdict.guardrail, kind))
    return falls


def centres(
    spec: ExperimentSpec, table: PeriodTable, before: tuple[float, ...], now_ms: int
) -> tuple[float, ...]:
    """[M] the control's mean so far, scaled, silence filled in; what stood before where it has none."""
    control = spec.control_index
    found = []
    for index, (metric, old) in enumerate(zip(spec.metrics, before, strict=True)):
        n, s1, _, counted = with_silence(table, metric, index, now_ms)
        count = float(n[:, control] @ counted)
        found.append(float(s1[:, control] @ counted) / count if count > 0.0 else old)
    return tuple(found)

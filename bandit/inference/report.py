"""The report of an experiment: what its data show about each arm while shares learn, and what they do not; pure.

Estimates and intervals of effects are evidence and hold at every look. P(best) and expected loss are what the
allocation is made of, no evidence. Plain means are kept apart, as what they are: biased by the allocation.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bandit.facts import stream_width, streams
from bandit.inference.cohorts import CohortEffect, cohort_effects
from bandit.inference.effects import Interval, Outcome, aipw, interval, near, thinned
from bandit.inference.means import StratifiedMean, strata, stratified
from bandit.inference.outcomes import (
    Totals,
    answer_bounds,
    events,
    objective_of,
    outcome_of,
    totals_of,
    value_mean,
)
from bandit.inference.terms import Terms, joints, kept_of, near_pairs, terms_of
from bandit.inference.traffic import Traffic, traffic_of
from bandit.inference.winner import Winner, winner_of
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.channels import parts_of
from bandit.spec.metric import Direction, Metric, MetricKind
from bandit.spec.model import ExperimentSpec


@dataclass(frozen=True, slots=True)
class Effect:
    """Difference of a challenger from the control in the metric's unit (``Interval``), and over all traffic (AIPW) with
    its standard error. ``n``, ``n_control``: rewards behind it, of closed attribution windows."""

    interval: Interval
    aipw: float
    aipw_se: float
    n: int
    n_control: int

    @property
    def sign(self) -> int:
        """1 or -1 where the interval leaves 0 out, else 0."""
        return (self.interval.low > 0.0) - (self.interval.high < 0.0)


@dataclass(frozen=True, slots=True)
class ArmMetric:
    """One metric of one arm. ``n`` rewards so far; ``answered``: part of the decisions with one; ``plain``: their
    mean (silence filled in where it has a value), biased by the allocation, NaN without any. ``effect`` is None for
    the control. ``least``, ``most``: what the mean over all decisions of closed windows can be, whatever those without
    a reward would have been (NaN: nothing is missing, or nothing is known)."""

    arm: int
    n: int
    answered: float
    mean: StratifiedMean
    plain: float
    effect: Effect | None
    least: float = math.nan
    most: float = math.nan


@dataclass(frozen=True, slots=True)
class MetricReport:
    """One metric. ``matured``: part of all decisions whose attribution window is closed. ``design_effect``: how many
    rewards count as one, because units come back. ``cohorts``: effects by declared cohort."""

    metric: int
    matured: float
    arms: tuple[ArmMetric, ...]
    design_effect: float = 1.0
    cohorts: tuple[CohortEffect, ...] = ()


@dataclass(frozen=True, slots=True)
class Report:
    """See the module. ``objective``: effect of each arm on the objective, better up, None for the control."""

    metrics: tuple[MetricReport, ...]
    objective: tuple[Effect | None, ...]
    traffic: Traffic
    winner: Winner
    decisions: int
    notes: tuple[str, ...]


def terms_start(spec: ExperimentSpec) -> int:
    """Where the terms begin in the facts of a block."""
    return len(streams(spec)) * stream_width(len(spec.arms))


def report_of(
    spec: ExperimentSpec,
    rows: PeriodTable,
    live: Sequence[bool],
    now_ms: int,
    effects: FloatArray | None = None,
    visits: float = 1.0,
) -> Report:
    """``rows``: a row per period and cohort of one epoch. ``live``: which arms may have traffic. ``now_ms``: the time
    up to which the log has been folded. ``effects`` [M]: design effects of units that come back, ``visits`` that of
    their decisions."""
    terms = terms_of(spec, rows, now_ms) + kept_of(spec, rows, terms_start(spec))
    totals = totals_of(spec, rows, now_ms)
    means = strata(spec, rows, now_ms)
    decisions = rows.assigned.sum(axis=0)
    objective = thinned(objective_of(spec, totals), effects)
    apart = cohort_effects(spec, rows, now_ms)
    return Report(
        metrics=tuple(
            _metric(spec, index, rows, terms, totals, means, now_ms, effects, apart)
            for index in range(len(spec.metrics))
        ),
        objective=tuple(_effects(spec, objective, terms, totals)),
        traffic=traffic_of(terms, rows, visits),
        winner=winner_of(spec, objective, terms, totals, live, float(decisions.sum())),
        decisions=round(float(decisions.sum())),
        notes=_notes(spec),
    )


def _metric(
    spec: ExperimentSpec,
    index: int,
    rows: PeriodTable,
    terms: Terms,
    totals: Totals,
    means: dict[int, FloatArray],
    now_ms: int,
    design: FloatArray | None,
    apart: Sequence[CohortEffect],
) -> MetricReport:
    metric = spec.metrics[index]
    outcome = thinned(outcome_of(spec, index, totals), design)
    effects = _effects(spec, outcome, terms, totals)
    decisions = rows.assigned.sum(axis=0)
    every = float(decisions.sum())
    ripe = rows.mature(_window(spec, index), now_ms)
    counting = _counting(spec, index)
    bounds = answer_bounds(spec, rows, index, now_ms)
    arms = []
    for arm in range(len(spec.arms)):
        n = float(totals.arrived[0, counting, arm])
        arms.append(
            ArmMetric(
                arm=arm,
                n=round(n),
                answered=n / float(decisions[arm]) if decisions[arm] > 0.0 else math.nan,
                mean=stratified(spec, index, arm, means, _counted(spec, totals)),
                plain=_plain(spec, metric, index, arm, totals),
                effect=effects[arm],
                least=float(bounds[arm, 0]),
                most=float(bounds[arm, 1]),
            )
        )
    return MetricReport(
        metric=index,
        matured=float(rows.assigned[ripe].sum()) / every if every > 0.0 else 0.0,
        arms=tuple(arms),
        design_effect=outcome.effect,
        cohorts=tuple(each for each in apart if each.metric == index),
    )


def _effects(spec: ExperimentSpec, outcome: Outcome, terms: Terms, totals: Totals) -> list[Effect | None]:
    effects: list[Effect | None] = [None] * len(spec.arms)
    crosses = [(channel.metric, channel.other) for channel in joints(spec)]
    counting = next(iter(outcome.weights))
    for place, (arm, control) in enumerate(near_pairs(spec)):
        pair = near(terms, place, crosses, outcome)
        found = interval(outcome, pair, events(spec, outcome, totals.ripe, (arm, control)))
        n, n_control = (round(float(totals.ripe[0, counting, each])) for each in (arm, control))
        effects[arm] = Effect(found, *aipw(pair), n, n_control)
    return effects


def _counted(spec: ExperimentSpec, totals: Totals) -> FloatArray:
    """[M, K] values of each metric as means count them: silence too, once it is known, where it has a value."""
    silent = [metric.default_when_silent is not None for metric in spec.metrics]
    counted: FloatArray = np.where(np.array(silent)[:, None], totals.ripe[0], totals.arrived[0])
    return counted


def _counting(spec: ExperimentSpec, index: int) -> int:
    """The metric whose rewards are counted: a ratio counts its denominator's."""
    return parts_of(spec, index)[-1]


def _window(spec: ExperimentSpec, index: int) -> float:
    return max(spec.metrics[part].attribution_window for part in parts_of(spec, index))


def _plain(spec: ExperimentSpec, metric: Metric, index: int, arm: int, totals: Totals) -> float:
    sums = totals.arrived if metric.default_when_silent is None else totals.ripe
    if metric.kind is not MetricKind.RATIO:
        return value_mean(spec, index, arm, sums)
    above, below = parts_of(spec, index)
    over, under = value_mean(spec, above, arm, sums), value_mean(spec, below, arm, sums)
    return over / under if under > 0.0 else math.nan


def _notes(spec: ExperimentSpec) -> tuple[str, ...]:
    """What a reader must know of how it was counted."""
    notes = []
    if spec.unit.kind != "request":
        notes.append(
            f"a {spec.unit.kind} may bring several decisions, which are alike; where its arm is kept, rewards are "
            "divided by the design effect of their metric, which is right for many units"
        )
    if spec.cohorts is not None and spec.cohorts.apart is not None:
        notes.append(
            "cohorts may have shares of their own: effects and winner are means over all cohorts, each compared within "
            "its own shares; where a cohort is apart, its own effect is the one to read; first exposures count while "
            "none is"
        )
    if spec.decay is not None:
        notes.append(
            "decay steers the allocation only; the report weighs every period by what happened in it"
        )
    rated = [metric.name for metric in spec.metrics if metric.kind is MetricKind.RATING and metric.scores]
    if rated:
        notes.append(f"{', '.join(rated)}: by levels, not by what scores makes of them")
    return tuple(notes)


def better(metric: Metric, sign: int) -> str:
    """``better``, ``worse`` or ``not shown`` of an effect with that sign."""
    if sign == 0:
        return "not shown"
    return "better" if (sign > 0) == (metric.direction is Direction.MAXIMIZE) else "worse"

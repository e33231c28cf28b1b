"""A report where each request has shares of its own: nothing in it weighs by the shares of a period.

Effects are of requests as the arm serves them, each counted at most REACH times as often as the control serves its
like (``linear.weights``): S / A with S the sum of scores w (Y - m) of the arm less those of the control, A the mean of
both sums of w, which is what S grows by for each unit of difference. A score of the arm is at most 1, one of the
control at most REACH, in units of the range, so the bounds of ``effects.interval`` hold at every look, for a
difference that stays; where it moves, for its mean so far with these weights. Once old periods are folded, whose
centres are forgotten, the interval is asymptotic."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np

from bandit.inference.effects import Outcome, interval, pair_of, thinned
from bandit.inference.means import StratifiedMean
from bandit.inference.outcomes import Totals, events, objective_of, outcome_of, totals_of
from bandit.inference.report import Effect, Report
from bandit.ledger import FloatArray, PeriodTable
from bandit.linear.weights import CONTROLS, COUNT, OWN, REACH, ROUNDING, WW, WWX, WWXX, WX, W, read
from bandit.spec.metric import MetricKind
from bandit.spec.model import ExperimentSpec

UNLIKE = (
    "each arm serves other requests, by their features: plain means are of the requests that each arm served; effects "
    "and means beside the control's are of requests as the arm serves them, weighed by the exact chances of arm and "
    f"control for each, at most {REACH} times as often as the control serves its like; no winner and no "
    "ratio of traffic is told; the coefficients say what an arm is worth for which request"
)
_UNKNOWN = StratifiedMean(math.nan, math.nan, 0.0, 0.0)
_NO_CROSSES: dict[tuple[int, int], FloatArray] = {}


def by_features(
    report: Report,
    spec: ExperimentSpec,
    table: PeriodTable,
    now_ms: int,
    design: FloatArray | None = None,
) -> Report:
    """What stays true of a report whose shares differ within periods, with effects that hold there. ``table``: a row
    per period; ``design`` [M]: design effects of units that come back."""
    totals = totals_of(spec, table, now_ms)
    effects = [
        _effects(spec, thinned(_outcome(spec, index, totals, table), design), table, totals, now_ms)
        for index in range(len(spec.metrics))
    ]
    objective = objective_of(spec, totals)
    if table.block.any():
        objective = replace(objective, trust="asymptotic")
    return replace(
        report,
        metrics=tuple(
            replace(
                each,
                arms=tuple(
                    replace(
                        arm,
                        mean=weighed_mean(spec, table, each.metric, arm.arm, now_ms),
                        effect=effects[each.metric][arm.arm],
                    )
                    for arm in each.arms
                ),
                cohorts=(),
            )
            for each in report.metrics
        ),
        objective=tuple(_effects(spec, thinned(objective, design), table, totals, now_ms)),
        traffic=replace(
            report.traffic,
            arms=tuple(
                each._replace(
                    least_propensity=math.nan,
                    largest_weight=math.nan,
                    mean_weight=math.nan,
                    mean_weight_se=math.nan,
                )
                for each in report.traffic.arms
            ),
            log_e=0.0,
        ),
        winner=replace(
            report.winner,
            arm=None,
            leader=None,
            rival=None,
            log_e=0.0,
            decisions_more=math.inf,
            lift=math.nan,
            lift_se=math.nan,
        ),
        notes=(UNLIKE, *report.notes),
    )


def _outcome(spec: ExperimentSpec, index: int, totals: Totals, table: PeriodTable) -> Outcome:
    outcome = outcome_of(spec, index, totals)
    return replace(outcome, trust="asymptotic") if table.block.any() else outcome


def _effects(
    spec: ExperimentSpec, outcome: Outcome, table: PeriodTable, totals: Totals, now_ms: int
) -> list[Effect | None]:
    """[K] of an outcome; None for the control, and where a part of the outcome has no value of a single request."""
    found: list[Effect | None] = [None] * len(spec.arms)
    metrics = [index for index, weight in outcome.weights.items() if weight]
    if table.weighed is None or not metrics or not all(_is_weighed(spec, index) for index in metrics):
        return found
    control = spec.control_index
    for arm in range(len(spec.arms)):
        if arm == control:
            continue
        parts = np.zeros((len(spec.metrics), 3))
        counts = []
        for index in metrics:
            parts[index], n, n_control = weighed_terms(spec, table, index, arm, now_ms)
            counts.append((n, n_control))
        # Scores reach REACH ranges: in units of that they are at least -1, as the bounds want them.
        pair = pair_of(outcome, parts / np.array([REACH, REACH, REACH**2]), _NO_CROSSES)
        n, n_control = min(counts)
        found[arm] = Effect(
            interval(outcome, pair, events(spec, outcome, totals.ripe, (arm, control))),
            math.nan,
            math.nan,
            round(n),
            round(n_control),
        )
    return found


def _is_weighed(spec: ExperimentSpec, index: int) -> bool:
    metric = spec.metrics[index]
    return metric.kind is not MetricKind.RATIO and metric.default_when_silent is None


def weighed_terms(
    spec: ExperimentSpec, table: PeriodTable, index: int, arm: int, now_ms: int
) -> tuple[tuple[float, float, float], float, float]:
    """((A, S, V), rewards of the arm, of the control) of a metric in periods whose window is closed, in scaled
    units."""
    assert table.weighed is not None
    ripe = table.mature(spec.metrics[index].attribution_window, now_ms)
    sums, m = read(table.weighed[ripe][:, arm, index]), table.centre[ripe, index]
    own, control = sums[:, OWN], sums[:, CONTROLS]
    a = 0.5 * float((own[:, W] + control[:, W]).sum())
    s = float((own[:, WX] - m * own[:, W] - control[:, WX] + m * control[:, W]).sum())
    n, n_control = float(own[:, COUNT].sum()), float(control[:, COUNT].sum())
    # V is that around the difference found, or around none, whichever is more.
    half = 0.5 * s / a if a > 0.0 else 0.0
    v = max(_spread(own, m + shift) + _spread(control, m - shift) for shift in (0.0, half))
    return (a, s, v + ROUNDING * (n + n_control)), n, n_control


def _spread(sums: FloatArray, m: FloatArray) -> float:
    """Sum of w^2 (x - m)^2."""
    found = sums[:, WWXX] - 2.0 * m * sums[:, WWX] + m * m * sums[:, WW]
    return float(np.maximum(found, 0.0).sum())


def weighed_mean(
    spec: ExperimentSpec, table: PeriodTable, index: int, arm: int, now_ms: int
) -> StratifiedMean:
    """Mean of a challenger beside the control's over requests with the same weights, of closed windows, in the metric's
    unit. ``n_effective`` (sum w)^2 / sum w^2 (Kish 1965); ``covered``: mean weight of the arm's rewards."""
    if table.weighed is None or arm == spec.control_index or not _is_weighed(spec, index):
        return _UNKNOWN
    ripe = table.mature(spec.metrics[index].attribution_window, now_ms)
    own, control = read(table.weighed[ripe][:, arm, index]).sum(axis=0)
    if not (own[W] > 0.0 and control[W] > 0.0):
        return _UNKNOWN
    low, high = spec.metrics[index].scale
    mean, beside = (low + (high - low) * float(each[WX] / each[W]) for each in (own, control))
    rewards = float(table.n[ripe, arm, index].sum())
    return StratifiedMean(
        mean, beside, float(own[W] ** 2 / own[WW]), min(float(own[W]) / max(rewards, 1.0), 1.0)
    )

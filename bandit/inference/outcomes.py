"""What is compared: metrics, ratios and the objective as linear forms of scaled metrics, and their events."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bandit.inference.effects import LEAST_EVENTS, Outcome, Trust
from bandit.ledger import FloatArray, PeriodTable
from bandit.reading import counted
from bandit.spec.channels import Channel, ChannelKind, parts_of
from bandit.spec.metric import Direction, Metric, MetricKind
from bandit.spec.model import ExperimentSpec

NARROW = frozenset({MetricKind.BERNOULLI, MetricKind.FRACTION, MetricKind.RATING})
"""Kinds whose values fill their range."""
LIGHT = frozenset({MetricKind.POISSON, MetricKind.EXPONENTIAL, *NARROW})
"""Kinds whose tails are no heavier than a gamma's."""
KOHAVI = 355.0
_WEAKER: tuple[Trust, ...] = ("exact", "either", "asymptotic")


class Totals(NamedTuple):
    """Sums over periods [M, K], scaled: n values, sum, sum of squares; ``ripe``: only of closed attribution windows,
    silence filled in; ``arrived``: every reward so far, and nothing else."""

    ripe: FloatArray
    arrived: FloatArray


def totals_of(spec: ExperimentSpec, rows: PeriodTable, now_ms: int) -> Totals:
    """``ripe`` and ``arrived`` [3, M, K]."""
    shape = (3, len(spec.metrics), len(spec.arms))
    ripe, arrived = np.zeros(shape), np.zeros(shape)
    for index, metric in enumerate(spec.metrics):
        if metric.kind is MetricKind.RATIO:
            continue
        mature = rows.mature(metric.attribution_window, now_ms)
        cells = counted(rows, spec, Channel(ChannelKind.VALUE, index), now_ms)
        for place, each in enumerate(cells[:3]):
            ripe[place, index] = each[mature].sum(axis=0)
        for place, each in enumerate((rows.n, rows.s1, rows.s2)):
            arrived[place, index] = each[:, :, index].sum(axis=0)
    return Totals(ripe, arrived)


def answer_bounds(spec: ExperimentSpec, rows: PeriodTable, index: int, now_ms: int) -> FloatArray:
    """[K, 2] least and most that a metric's mean over all decisions of closed windows can be, in its unit.

    Rewards that never came may have been anything in the range (Manski 1990, worst-case bounds): the mean of those that
    came says what all would have said only where not answering has nothing to do with the value. NaN without decisions,
    for ratios, and where silence has a value (then nothing is missing).
    """
    metric = spec.metrics[index]
    bounds = np.full((len(spec.arms), 2), np.nan)
    if metric.kind is MetricKind.RATIO or metric.default_when_silent is not None:
        return bounds
    closed = rows.mature(metric.attribution_window, now_ms)
    decisions = rows.assigned[closed].sum(axis=0)
    n, s1 = (each[closed][:, :, index].sum(axis=0) for each in (rows.n, rows.s1))
    missing = np.maximum(decisions - n, 0.0)
    low, high = metric.scale
    seen = decisions > 0.0
    whole = np.maximum(decisions, n)[seen]
    bounds[seen, 0] = low + (high - low) * s1[seen] / whole
    bounds[seen, 1] = low + (high - low) * (s1 + missing)[seen] / whole
    return bounds


def outcome_of(spec: ExperimentSpec, index: int, totals: Totals) -> Outcome:
    """A metric in its own unit.

    A ratio N / D is x = N - theta D over the mean of D, theta and that mean the control's so far: the difference of the
    ratios to first order (Deng, Knoblich & Lu 2018, delta method).
    """
    metric = spec.metrics[index]
    low, high = metric.scale
    if metric.kind is MetricKind.RATIO:
        return Outcome(_ratio(spec, index, totals), "asymptotic")
    return Outcome({index: high - low}, "exact" if _narrow(metric) else "either")


def objective_of(spec: ExperimentSpec, totals: Totals) -> Outcome:
    """The objective, better up: each term's weight times the metric on the term's scale."""
    weights: dict[int, float] = {}
    trust: Trust = "exact"
    for term in spec.terms:
        index = spec.metric_index(term.metric)
        assert index is not None
        metric, of_metric = spec.metrics[index], outcome_of(spec, index, totals)
        trust = max(trust, of_metric.trust, key=_WEAKER.index)
        from_, to = term.scale or metric.scale
        sign = 1.0 if metric.direction is Direction.MAXIMIZE else -1.0
        for part, weight in of_metric.weights.items():
            weights[part] = weights.get(part, 0.0) + sign * term.weight / (to - from_) * weight
    return Outcome(weights, trust)


def _narrow(metric: Metric) -> bool:
    return metric.kind in NARROW or metric.winsorize is not None


def _ratio(spec: ExperimentSpec, index: int, totals: Totals) -> dict[int, float]:
    above, below = parts_of(spec, index)
    control = spec.control_index
    over, under = (value_mean(spec, each, control, totals.ripe) for each in (above, below))
    if not under > 0.0:
        return {above: 0.0, below: 0.0}
    (low_n, high_n), (low_d, high_d) = spec.metrics[above].scale, spec.metrics[below].scale
    weights = {above: (high_n - low_n) / under}
    weights[below] = weights.get(below, 0.0) - over / under * (high_d - low_d) / under
    return weights


def value_mean(spec: ExperimentSpec, index: int, arm: int, sums: FloatArray) -> float:
    """Mean of a metric with values of its own, in its unit, from ``sums`` [3, M, K]; NaN without any."""
    low, high = spec.metrics[index].scale
    n, s1 = float(sums[0, index, arm]), float(sums[1, index, arm])
    return low + (high - low) * s1 / n if n > 0.0 else float("nan")


def events(spec: ExperimentSpec, outcome: Outcome, sums: FloatArray, arms: tuple[int, int]) -> float:
    """Rewards that carry the least known of the outcome's means, on the scale of LEAST_EVENTS: the least over metrics,
    both arms and both ends of the scale of

    * (sum x)^2 / sum x^2 (Kish 1965), which for zeros and ones is the number of ones,
    * n / (KOHAVI skewness^2) * LEAST_EVENTS: a mean is nearly normal from n = 355 skewness^2 on (Kohavi et al. 2014).

    Skewness is guessed from the coefficient of variation c: that of a gamma or Poisson variable is at most 2 c, that of
    a log-normal one c^3 + 3 c, which is taken for all other kinds.
    """
    least = np.inf
    for index in outcome.weights:
        light = spec.metrics[index].kind in LIGHT
        for arm in arms:
            n, s1, s2 = (float(each) for each in sums[:, index, arm])
            for total, square in ((s1, s2), (n - s1, n - 2.0 * s1 + s2)):
                least = min(least, _events(n, total, square, light=light))
    return float(least)


def _events(n: float, total: float, square: float, *, light: bool) -> float:
    if not (n > 0.0 and total > 0.0 and square > 0.0):
        return 0.0
    kish = total * total / square
    variation = np.sqrt(max(n / kish - 1.0, 0.0))
    skewness = 2.0 * variation if light else variation**3 + 3.0 * variation
    if skewness <= 0.0:
        return kish
    return float(min(kish, n / (KOHAVI * skewness**2) * LEAST_EVENTS))

"""The level of all arms may do anything: arms are compared within periods and cohorts, and differences are added up.

Two-way fixed effects (periods and cohorts by arms): with the information L = sum of Laplacians of the comparisons (see
``bandit.facts``), the differences from the control are L^-1 times the pull, their covariance L^-1. Decay weighs the
information, so effects are forgotten and never the level. The prior says of any two arms that their means differ by
about the plausible lift (exchangeable normal means).

A unit variance is estimated from all cells together (``spread`` / ``freedom``); it may move with the level for
rates, which are weighed so. Lognormal metrics are compared by ln x, ratios by N - theta D at the ratio theta of all
arms (Deng, Knoblich and Lu 2018), ratings by their levels' scores.
"""

from __future__ import annotations

import math

import numpy as np

from bandit.baselines.base import Belief, Evidence, Normal, correlation, mean
from bandit.facts import Comparison, Stream, compare, evenness, kept, streams
from bandit.kernels.contrast import differences
from bandit.ledger import ONE, FloatArray
from bandit.reading import Cells, Sums, counted
from bandit.spec.channels import ChannelKind, log_scale, parts_of
from bandit.spec.metric import Metric, MetricKind
from bandit.spec.model import ExperimentSpec

LIFT_STRENGTH = 10.0
"""Without a plausible lift, two arms are believed to differ as the means of so many requests do by chance."""
PRIOR_FREEDOM = 1.0
VARIANCE_GUESS = 0.25**2
"""Variance of one value as a part of its range squared, believed as one value more; see ``posteriors.gaussian``."""
LEAST_VARIANCE = 1.0 / (12.0 * ONE * ONE)
LEAST_LEVEL = 1e-12
EQUAL = 1e-14
"""Variance that sums of equal values may seem to have."""
NORMAL_RULE = Normal()


class Contrast:
    """Normal beliefs whose differences are those of the fixed-effects estimate."""

    def beliefs(self, evidence: Evidence, doubt: float = 1.0) -> tuple[Belief, ...]:
        """See Baseline. ``doubt`` as for :func:`differences_of`."""
        spec = evidence.spec
        means = {
            index: differences_of(evidence, index, doubt)
            for index, metric in enumerate(spec.metrics)
            if metric.kind is not MetricKind.RATIO
        }
        made = []
        for index, metric in enumerate(spec.metrics):
            if metric.kind is MetricKind.RATIO:
                made.append(_ratio(evidence, index, means))
            else:
                value = evidence.reading.channel(index)
                made.append(believe(value.n, levelled(metric, value, *means[index])))
        return tuple(made)


def differences_of(evidence: Evidence, index: int, doubt: float = 1.0) -> tuple[FloatArray, FloatArray]:
    """(difference from the control, its part of the variance) [K] of a metric with rewards of its own.

    In the metric's scaled units, those of its LOG channel for a lognormal metric. ``doubt``: by how much wider than
    the spec's the prior is; a large one leaves the estimate alone.
    """
    spec, metric = evidence.spec, evidence.spec.metrics[index]
    found = {each.channel: each for each in streams(spec) if each.channel.metric == index}
    effect = float(evidence.effects[index])
    if metric.kind is MetricKind.RATING:
        levels = [each for each in found.values() if each.channel.kind is ChannelKind.LEVEL]
        facts = [gather(evidence, each) for each in levels]
        worth = scaled_scores(metric)
        pull = np.sum([value * each.pull for value, each in zip(worth, facts, strict=True)], axis=0)
        value = evidence.reading.channel(index)
        counts = evidence.reading.s1[:, [spec.columns[each.channel] for each in levels]]
        unit = _of_scores(counts, worth) if counts.any() else VARIANCE_GUESS
        return estimate(spec, metric, facts[0].links, pull, unit * effect, value.n, unit, doubt)
    kind = ChannelKind.LOG if metric.kind is MetricKind.LOGNORMAL else ChannelKind.VALUE
    stream = next(each for each in found.values() if each.channel.kind is kind)
    made = gather(evidence, stream)
    sums = evidence.reading.channel(spec.columns[stream.channel])
    guess = 1.0 if metric.kind is MetricKind.BERNOULLI else VARIANCE_GUESS
    unit = max((PRIOR_FREEDOM * guess + made.spread) / (PRIOR_FREEDOM + made.freedom), LEAST_VARIANCE)
    total = float(sums.n.sum())
    # Of all values together: arms whose own values never vary may well differ from each other.
    level, square = float(sums.s1.sum()) / max(total, 1.0), float(sums.s2.sum()) / max(total, 1.0)
    of_one = square - level * level if total > 0.0 else VARIANCE_GUESS
    if of_one <= EQUAL:
        # So many equal values do not say that no other will ever come.
        of_one = max(VARIANCE_GUESS / (total + 1.0), LEAST_VARIANCE)
    return estimate(spec, metric, made.links, made.pull, unit * effect, sums.n, of_one, doubt)


def gather(evidence: Evidence, stream: Stream, *, strata: bool = False) -> Comparison:
    """Facts of a stream over all rows, each by its weight."""
    spec, rows, weight = evidence.spec, evidence.rows, evidence.weight
    young = rows.rows(~rows.block)
    cells = counted(young, spec, stream.channel, evidence.now_ms, evidence.curves)
    even = evenness(spec, young, stream.channel)
    fresh = compare(cells, even, weight[~rows.block], spec.control_index, strata=strata)
    return fresh + kept(rows, stream, weight) if rows.block.any() else fresh


def estimate(
    spec: ExperimentSpec,
    metric: Metric,
    links: FloatArray,
    pull: FloatArray,
    unit: float,
    n: FloatArray,
    of_one: float,
    doubt: float = 1.0,
) -> tuple[FloatArray, FloatArray]:
    """(difference, variance part) [K] from facts; ``unit`` their unit variance, ``of_one`` that of one value."""
    arms = len(pull)
    prior = 2.0 / (arms * prior_variance(metric, of_one) * doubt)
    joined, right = links / unit + prior, pull / unit
    said = _said_before(spec, metric)
    if said is not None:
        joined += said.links / of_one
        right += said.pull / of_one
    np.fill_diagonal(joined, 0.0)
    delta, parts = np.empty(arms), np.empty(arms)
    worst = differences(joined, right, n, spec.control_index, delta, parts)
    if not math.isfinite(worst):
        return np.zeros(arms), np.full(arms, prior_variance(metric, of_one))
    return delta, parts


def _said_before(spec: ExperimentSpec, metric: Metric) -> Comparison | None:
    """The priors of the spec as one period of ``strength`` values per arm; read anew each time, so counted once.

    None without priors, and for kinds whose comparison has another scale than their mean.
    """
    index = spec.metric_index(metric.name)
    assert index is not None
    priors = spec.priors(index)
    if not any(priors) or metric.kind in (MetricKind.LOGNORMAL, MetricKind.RATING):
        return None
    low, high = metric.scale
    n = np.array([[0.0 if each is None else each.strength for each in priors]])
    means = np.array([[0.0 if each is None else (each.mean - low) / (high - low) for each in priors]])
    one = np.ones(1)
    return compare(Cells(n, n * means, n * means**2, one), one, one, spec.control_index, strata=False)


def prior_variance(metric: Metric, of_one: float) -> float:
    """Variance of the difference of two arms before any reward, in scaled units (of ln x for lognormal)."""
    if metric.plausible_lift is None:
        return of_one / LIFT_STRENGTH
    low, high = metric.scale
    if metric.kind is MetricKind.LOGNORMAL:
        return of_one / LIFT_STRENGTH
    return max((metric.plausible_lift / (high - low)) ** 2, LEAST_VARIANCE)


def levelled(
    metric: Metric, value: Sums, delta: FloatArray, parts: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """(mean, sd) [K] of the metric in scaled units: the level that the values of all arms imply, plus differences."""
    sd = np.sqrt(np.maximum(parts, LEAST_VARIANCE * 1e-6))
    total = float(value.n.sum())
    if metric.kind is not MetricKind.LOGNORMAL:
        level = 0.5 if total == 0.0 else float(value.n @ (mean(value) - delta)) / total
        return level + delta, sd
    low, high = log_scale(metric)
    ratio = np.exp(np.clip((high - low) * delta, -50.0, 50.0))
    bottom, top = metric.scale
    at = mean(value) + bottom / (top - bottom)
    level = 0.5 if total == 0.0 else max(float(value.n @ (at / ratio)) / total, LEAST_LEVEL)
    return level * ratio - bottom / (top - bottom), level * ratio * (high - low) * sd


def scaled_scores(metric: Metric) -> FloatArray:
    """[L] worth of each level on the scale of the metric."""
    low, high = metric.scale
    return (np.array(metric.worth) - low) / (high - low)


def _of_scores(counts: FloatArray, worth: FloatArray) -> float:
    """Variance of one score, arms apart: [K, L] counts."""
    n = np.maximum(counts.sum(axis=1), 1.0)
    first, second = counts @ worth / n, counts @ (worth * worth) / n
    return max(float(n @ np.maximum(second - first * first, 0.0)) / float(n.sum()), LEAST_VARIANCE)


def _ratio(evidence: Evidence, index: int, means: dict[int, tuple[FloatArray, FloatArray]]) -> Belief:
    """Numerator less theta times denominator, over the mean denominator."""
    spec, reading = evidence.spec, evidence.reading
    above, below = parts_of(spec, index)
    numerator, denominator = reading.channel(above), reading.channel(below)
    low, high = spec.metrics[index].scale
    theta, under = ratio_of(spec, index, numerator, denominator)
    (up, up_part), (down, down_part) = means[above], means[below]
    wide, deep = (top - bottom for bottom, top in (spec.metrics[above].scale, spec.metrics[below].scale))
    delta = (wide * up - theta * deep * down) / under
    one, two = wide * np.sqrt(up_part), theta * deep * np.sqrt(down_part)
    both = 2.0 * correlation(spec, reading, above, below) * one * two
    sd = np.sqrt(np.maximum(one * one + two * two - both, (LEAST_LEVEL * (one + two)) ** 2)) / under
    share = denominator.n / max(float(denominator.n.sum()), 1.0)
    level = theta - float(share @ delta)
    return believe(denominator.n, ((level + delta - low) / (high - low), sd / (high - low)))


def ratio_of(spec: ExperimentSpec, index: int, numerator: Sums, denominator: Sums) -> tuple[float, float]:
    """(ratio of all arms together, mean denominator), in units of the metrics; the middle of the range without any."""
    above, below = parts_of(spec, index)
    low, high = spec.metrics[index].scale
    n, m = float(numerator.n.sum()), float(denominator.n.sum())
    if n <= 0.0 or m <= 0.0:
        return 0.5 * (low + high), 1.0
    tops, unders = spec.metrics[above].scale, spec.metrics[below].scale
    top = tops[0] + (tops[1] - tops[0]) * float(numerator.s1.sum()) / n
    under = unders[0] + (unders[1] - unders[0]) * float(denominator.s1.sum()) / m
    under = max(under, LEAST_LEVEL * max(abs(unders[0]), abs(unders[1])))
    return top / under, under


def believe(n: FloatArray, moments: tuple[FloatArray, FloatArray]) -> Belief:
    """Normal belief of (mean, sd) [K]."""
    location, sd = moments
    return Belief(NORMAL_RULE, np.stack([location, np.maximum(sd, 1e-12)], axis=1), n)

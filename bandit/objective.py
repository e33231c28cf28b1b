"""Metric posteriors -> utility: weighted terms on fixed scales, better always up; new weights need no relearning.

A term's utility of one value x is (x - low) / (high - low) on its scale, or 1 minus that for a metric that is
minimised; the objective is the weighted sum. One term keeps its exact family; several independent ones are matched by
a normal (their sum's mean and variance), which is good from about 50 rewards per metric on.
"""

from __future__ import annotations

import numpy as np

from bandit.allocators.base import Utility
from bandit.kernels.best_arm import NORMAL
from bandit.ledger import FloatArray
from bandit.posteriors import POSTERIORS
from bandit.reading import MetricSums, Reading, Sums
from bandit.spec.model import Direction, ExperimentSpec, Metric, Term

LEAST_SD = 1e-12
MOST_VARIANCE = 0.25
"""Of anything in [0, 1] (Popoviciu); what is assumed before any reward."""


def utility(spec: ExperimentSpec, reading: Reading) -> Utility:
    """Utility of every arm under the spec's objective."""
    parts = [_part(spec, term, reading) for term in spec.objective]
    mean = np.sum([slope * location + base for _, location, _, slope, base, _ in parts], axis=0)
    variance = np.sum([(slope * sd) ** 2 for _, _, sd, slope, _, _ in parts], axis=0)
    sd = np.maximum(np.sqrt(variance), LEAST_SD)
    lowest = sum(base for *_, base, _ in parts)
    span = sum(slope for _, _, _, slope, _, _ in parts)
    observations = np.min([n for *_, n in parts], axis=0)
    unit_mean = np.clip((mean - lowest) / span, 0.0, 1.0)
    one = np.clip(_of_one(spec, reading) / span**2, 0.0, MOST_VARIANCE)
    if len(parts) == 1:
        (family, params), _, _, slope, _, _ = parts[0]
        return Utility(family, params, slope, mean, sd, unit_mean, observations, one, span)
    return Utility(NORMAL, np.stack([mean, sd], axis=1), 1.0, mean, sd, unit_mean, observations, one, span)


def _of_one(spec: ExperimentSpec, reading: Reading) -> FloatArray:
    """[K] variance of one request's utility, its terms taken as independent."""
    total = np.zeros(len(spec.arms))
    for term in spec.objective:
        index = spec.metric_index(term.metric)
        assert index is not None
        n, s1, s2 = reading.n[:, index], reading.s1[:, index], reading.s2[:, index]
        seen = np.maximum(n, 1.0)
        each = np.where(n > 0.0, np.maximum(s2 / seen - (s1 / seen) ** 2, 0.0), MOST_VARIANCE)
        total += _scale(spec.metrics[index], term)[0] ** 2 * each
    return total


def _part(
    spec: ExperimentSpec, term: Term, reading: Reading
) -> tuple[tuple[int, FloatArray], FloatArray, FloatArray, float, float, FloatArray]:
    """((family, params), mean, sd) of the scaled, better-up metric; slope and base of its utility; observations."""
    index = spec.metric_index(term.metric)
    assert index is not None
    metric = spec.metrics[index]
    posterior = POSTERIORS[metric.kind]
    params = posterior.parameters(metric, sums_of(reading, index), spec.priors(index))
    if metric.direction is Direction.MINIMIZE:
        params = posterior.mirrored(params)
    mean, sd = posterior.moments(params)
    slope, base = _scale(metric, term)
    return (posterior.family, params), mean, sd, slope, base, reading.n[:, index]


def sums_of(reading: Reading, index: int) -> MetricSums:
    """The sums of one metric's own channel."""
    return MetricSums(Sums(reading.n[:, index], reading.s1[:, index], reading.s2[:, index]))


def _scale(metric: Metric, term: Term) -> tuple[float, float]:
    """Weighted utility = slope * (scaled, better-up value) + base."""
    low, high = metric.scale
    from_, to = term.scale or metric.scale
    slope = term.weight * (high - low) / (to - from_)
    if metric.direction is Direction.MINIMIZE:
        return slope, term.weight * (to - high) / (to - from_)
    return slope, term.weight * (low - from_) / (to - from_)

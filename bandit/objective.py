"""Beliefs about metrics -> utility: weighted terms on fixed scales, better always up; new weights need no relearning.

A term's utility of one value x is (x - low) / (high - low) on its scale, or 1 minus that for a metric that is
minimised; the objective is the weighted sum. One term keeps its exact family. Several terms that every request answered
are one real number per request, whose sums follow from the cross-moments: w's and w'Cw are exact, so it has a posterior
of its own (normal-inverse-gamma). Otherwise terms are matched by a normal with the covariance that their common
requests show.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bandit.allocators.base import Utility
from bandit.baselines.base import LEAST_SD, Belief, correlation, overlap, variance
from bandit.kernels.best_arm import NORMAL, STUDENT_T
from bandit.ledger import FloatArray
from bandit.posteriors.gaussian import A0, SD_GUESS, STRENGTH, nig, squares
from bandit.reading import Reading, Sums
from bandit.spec.channels import Channel, ChannelKind
from bandit.spec.metric import MetricKind
from bandit.spec.model import Direction, ExperimentSpec, Metric, Term

MOST_VARIANCE = 0.25
"""Of anything in [0, 1] (Popoviciu); what is assumed before any reward."""
PLAIN = frozenset(
    {
        MetricKind.BERNOULLI,
        MetricKind.FRACTION,
        MetricKind.GAUSSIAN,
        MetricKind.POISSON,
        MetricKind.EXPONENTIAL,
    }
)
"""Kinds whose mean is that of their values."""
FEW = 20.0
"""Below so many requests of an arm a sum of terms is matched from the terms' own families."""


@dataclass(frozen=True, slots=True)
class _Part:
    """One term: metric index, better-up belief, slope and base of its utility, sign of its direction."""

    index: int
    belief: Belief
    slope: float
    base: float
    sign: float


def utility(spec: ExperimentSpec, reading: Reading, beliefs: tuple[Belief, ...]) -> Utility:
    """Utility of every arm under the spec's objective; ``beliefs`` as the baseline gives them, per metric."""
    parts = [_part(spec, term, beliefs) for term in spec.terms]
    lowest, span = sum(each.base for each in parts), sum(each.slope for each in parts)
    observations = np.min([each.belief.n for each in parts], axis=0)
    one = _of_one(spec, reading, parts) / span**2
    if len(parts) == 1:
        part = parts[0]
        mean, sd = part.slope * part.belief.mean + part.base, part.slope * part.belief.sd
        family, params, unit = part.belief.rule.family, part.belief.params, part.slope
    else:
        composite = _composite(spec, reading, parts)
        if composite is not None and spec.baseline == "stationary" and float(observations.min()) >= FEW:
            params = _nig(composite)
            family, unit = STUDENT_T, span
            mean = lowest + span * params[:, 0]
            sd = span * params[:, 1] * np.sqrt(params[:, 2] / (params[:, 2] - 2.0))
        else:
            mean = np.sum([each.slope * each.belief.mean + each.base for each in parts], axis=0)
            sd = np.sqrt(_variance(spec, reading, parts))
            family, unit = NORMAL, 1.0
            params = np.stack([mean, np.maximum(sd, LEAST_SD)], axis=1)
    return Utility(
        family=family,
        params=params,
        unit=unit,
        mean=mean,
        sd=np.maximum(sd, LEAST_SD),
        unit_mean=np.clip((mean - lowest) / span, 0.0, 1.0),
        observations=observations,
        variance=np.clip(one, 0.0, MOST_VARIANCE),
        span=span,
        shown=_shown(spec, reading, parts, mean, lowest, span),
    )


def _shown(
    spec: ExperimentSpec,
    reading: Reading,
    parts: list[_Part],
    mean: FloatArray,
    lowest: float,
    span: float,
) -> FloatArray | None:
    """[K] see Utility. Where periods are compared rewards alone show no level."""
    if spec.baseline != "stationary" or any(spec.metrics[each.index].kind not in PLAIN for each in parts):
        return None
    total, alone = np.zeros_like(mean), np.ones(mean.size, np.bool_)
    for each in parts:
        values = _better_up(each, reading)
        total += each.slope * values.s1 / np.maximum(values.n, LEAST_SD) + each.base
        said = np.array([prior is not None for prior in spec.priors(each.index)])
        alone &= (values.n > 0.0) & ~said
    found: FloatArray = np.clip((np.where(alone, total, mean) - lowest) / span, 0.0, 1.0)
    return found


def _variance(spec: ExperimentSpec, reading: Reading, parts: list[_Part]) -> FloatArray:
    """[K] variance of the mean utility: terms covary as their values do over the requests that they share."""
    total: FloatArray = np.zeros(len(spec.arms))
    for at, first in enumerate(parts):
        total += (first.slope * first.belief.sd) ** 2
        for second in parts[:at]:
            rho = correlation(spec, reading, first.index, second.index)
            shared = rho * overlap(spec, reading, first.index, second.index)
            both = first.slope * first.belief.sd * second.slope * second.belief.sd
            total += 2.0 * first.sign * second.sign * shared * both
    return np.maximum(total, LEAST_SD**2)


def _of_one(spec: ExperimentSpec, reading: Reading, parts: list[_Part]) -> FloatArray:
    """[K] variance of one request's utility; what is assumed before any reward where a term has none."""
    total: FloatArray = np.zeros(len(spec.arms))
    spreads = []
    for part in parts:
        value = reading.channel(part.index)
        spreads.append(part.slope * np.sqrt(np.where(value.n > 0.0, variance(value), MOST_VARIANCE)))
    for at, first in enumerate(parts):
        total += spreads[at] ** 2
        for to, second in enumerate(parts[:at]):
            rho = correlation(spec, reading, first.index, second.index)
            total += 2.0 * first.sign * second.sign * rho * spreads[at] * spreads[to]
    return np.maximum(total, 0.0)


def _composite(spec: ExperimentSpec, reading: Reading, parts: list[_Part]) -> Sums | None:
    """Sums [K] of the utility of one request on the scale [0, 1], where every request answered every term.

    None where terms have other requests, are no plain values, or a prior of their own.
    """
    metrics = [spec.metrics[each.index] for each in parts]
    if any(each.kind in (MetricKind.RATIO, MetricKind.RATING, MetricKind.LOGNORMAL) for each in metrics):
        return None
    if any(prior is not None for each in parts for prior in spec.priors(each.index)):
        return None
    n = reading.n[:, parts[0].index]
    span = sum(each.slope for each in parts)
    s1, s2 = np.zeros_like(n), np.zeros_like(n)
    for at, first in enumerate(parts):
        a, one = first.slope / span, _better_up(first, reading)
        if not np.array_equal(one.n, n):
            return None
        s1 += a * one.s1
        s2 += a * a * one.s2
        for second in parts[:at]:
            cross = _cross(spec, reading, first, second, n)
            if cross is None:
                return None
            s2 += 2.0 * a * (second.slope / span) * cross
    return Sums(n, np.clip(s1, 0.0, n), np.clip(s2, 0.0, n))


def _nig(sums: Sums) -> FloatArray:
    """[K, 3] Student's t of the mean, the prior variance from all arms together; see ``posteriors.gaussian``."""
    spread, freedom = float(squares(*sums).sum()), float(np.maximum(sums.n - 1.0, 0.0).sum())
    middle = float(sums.s1.sum()) / float(sums.n.sum())
    return nig(*sums, middle, STRENGTH, A0, A0 * (SD_GUESS**2 + spread) / (1.0 + freedom))


def _better_up(part: _Part, reading: Reading) -> Sums:
    """Sums of the value, or of 1 less the value where it is minimised."""
    value = reading.channel(part.index)
    if part.sign > 0.0:
        return value
    return Sums(value.n, value.n - value.s1, value.n - 2.0 * value.s1 + value.s2)


def _cross(
    spec: ExperimentSpec, reading: Reading, first: _Part, second: _Part, n: FloatArray
) -> FloatArray | None:
    """[K] sum of the products of two better-up values over all requests; None where some lack one of them."""
    low, high = sorted((first.index, second.index))
    pair = spec.columns.get(Channel(ChannelKind.PAIR, low, other=high))
    if pair is None or not np.array_equal(reading.n[:, pair], n):
        return None
    one, two, cross = reading.s1[:, first.index], reading.s1[:, second.index], reading.s1[:, pair]
    if first.sign < 0.0:
        one, cross = n - one, two - cross
    return one - cross if second.sign < 0.0 else cross


def _part(spec: ExperimentSpec, term: Term, beliefs: tuple[Belief, ...]) -> _Part:
    index = spec.metric_index(term.metric)
    assert index is not None
    metric, belief = spec.metrics[index], beliefs[index]
    down = metric.direction is Direction.MINIMIZE
    slope, base = scale(metric, term)
    return _Part(index, belief.mirrored() if down else belief, slope, base, -1.0 if down else 1.0)


def scale(metric: Metric, term: Term) -> tuple[float, float]:
    """Weighted utility = slope * (scaled, better-up value) + base."""
    low, high = metric.scale
    from_, to = term.scale or metric.scale
    slope = term.weight * (high - low) / (to - from_)
    if metric.direction is Direction.MINIMIZE:
        return slope, term.weight * (to - high) / (to - from_)
    return slope, term.weight * (low - from_) / (to - from_)

"""Ratio of two metrics of the same decisions, such as tokens per answer: sum over sum, never a mean of ratios.

With R = N / D of an arm, the values x = (N - R D) / mean D have mean 0 and the spread of R (delta method: Fieller 1954;
Deng, Knoblich and Lu 2018), var R = (S_NN - 2 R S_ND + R^2 S_DD) / (n^2 Dbar^2). So R has the posterior of a real mean:
normal-inverse-gamma on these values, all from additive sums and the cross-moment.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from bandit.ledger import FloatArray
from bandit.posteriors.arms import StudentMeans
from bandit.posteriors.base import MIDDLE, Stated
from bandit.posteriors.gaussian import A0, LEAST_VARIANCE, SD_GUESS, nig_state, squares
from bandit.reading import MetricSums, Sums
from bandit.spec.model import Metric, Prior

STRENGTH = 0.1
"""Without a prior the ratio is believed near that of all arms, as if a tenth of a decision had said so."""
LEAST_PART = 1e-9
"""Least mean denominator, as a part of its largest value: below it a ratio means nothing."""


class Moments(NamedTuple):
    """Of numerator and denominator in their own units, each [K]: decisions, means, and sums of squares and products
    around the means."""

    n: FloatArray
    above: FloatArray
    below: FloatArray
    square_above: FloatArray
    square_below: FloatArray
    product: FloatArray


class Ratio(StudentMeans):
    """Parameters (location, scale, degrees of freedom) [K, 3] of the ratio, scaled by the ratio's own range."""

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """See Posterior."""
        low, high = metric.scale
        width = high - low
        said = Stated(metric, priors, sums.value.n.size)
        k0 = said.strength_or(STRENGTH)
        made = moments(sums)
        all_n = float(made.n.sum())
        least = LEAST_PART * max(sums.scales[1][1], LEAST_PART)
        typical = max(float(made.n @ made.below) / all_n, least) if all_n > 0.0 else 1.0
        shared = float(made.n @ made.above) / (all_n * typical) if all_n > 0.0 else low + MIDDLE * width
        before = said.mean_or((shared - low) / width)
        # The prior is k0 decisions of the usual denominator, so an arm whose denominators are all 0 has a ratio.
        under = np.maximum((made.n * made.below + k0 * typical) / (made.n + k0), least)
        ratio = (made.n * made.above + k0 * typical * (low + width * before)) / ((made.n + k0) * under)
        spread = made.square_above - 2.0 * ratio * made.product + ratio * ratio * made.square_below
        spread = np.maximum(spread, 0.0) / (under * width) ** 2
        freedom = float(np.maximum(made.n - 1.0, 0.0).sum())
        variance = (SD_GUESS**2 + float(spread.sum())) / (1.0 + freedom)
        _, k, a, b = nig_state(made.n, made.n * before, spread, before, k0, A0, A0 * variance)
        return np.stack(
            [(ratio - low) / width, np.sqrt(np.maximum(b / a, LEAST_VARIANCE) / k), 2.0 * a], axis=1
        )


def moments(sums: MetricSums) -> Moments:
    """The two metrics in their own units. Products are those of decisions that have both, brought to all of them."""
    assert sums.numerator is not None
    assert sums.denominator is not None
    assert sums.pair is not None
    (low, high), (bottom, top) = sums.scales
    n = np.minimum(sums.numerator.n, sums.denominator.n)
    one, two = _mean(sums.numerator), _mean(sums.denominator)
    joint = np.divide(sums.pair.s1, sums.pair.n, out=one * two, where=sums.pair.n > 0.0) - one * two
    spread_one, spread_two = _variance(sums.numerator), _variance(sums.denominator)
    joint = np.clip(joint, -np.sqrt(spread_one * spread_two), np.sqrt(spread_one * spread_two))
    return Moments(
        n=n,
        above=low + (high - low) * one,
        below=bottom + (top - bottom) * two,
        square_above=n * (high - low) ** 2 * spread_one,
        square_below=n * (top - bottom) ** 2 * spread_two,
        product=n * (high - low) * (top - bottom) * joint,
    )


def _mean(sums: Sums) -> FloatArray:
    mean: FloatArray = np.divide(sums.s1, sums.n, out=np.zeros_like(sums.s1), where=sums.n > 0.0)
    return mean


def _variance(sums: Sums) -> FloatArray:
    spread: FloatArray = np.divide(squares(*sums), sums.n, out=np.zeros_like(sums.s1), where=sums.n > 0.0)
    return spread

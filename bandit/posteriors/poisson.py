"""Mean of a count: rate ~ Gamma(a0 + S / D, b0 + n / D), the conjugate posterior of Poisson counts when D = 1.

D is the variance of a count over its mean. Counts of real requests vary more than Poisson's (a few long conversations
bring most tokens), and the conjugate posterior is then too narrow by sqrt(D). So from D > 1.5 on the counts weigh 1 / D
each (quasi-likelihood: Wedderburn 1974; McCullagh and Nelder 1989, 9.2): the sd is that of a normal-inverse-gamma
posterior of the counts, and the mean is still positive and skewed as the mean of a count is.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit.kernels.best_arm import GAMMA
from bandit.ledger import FloatArray
from bandit.posteriors.arms import PositiveMeans
from bandit.posteriors.base import MIDDLE, Stated
from bandit.posteriors.gaussian import squares
from bandit.reading import MetricSums
from bandit.spec.model import Metric, Prior

OVER = 1.5
"""Dispersion from which on counts are not taken for Poisson's."""
SHARED = 4.0
"""An arm's own dispersion is believed as if so many of its counts had shown that of all arms."""


class Poisson(PositiveMeans):
    """Parameters (shape, rate, sign, shift) [K, 4] of the scaled mean.

    Without a prior each arm is believed to be like all arms together, as if one event had said so.
    """

    family = GAMMA

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """See Posterior."""
        n, s1, _ = sums.value
        most = metric.scale[1]
        events = most * np.maximum(s1, 0.0)
        rate = (float(events.sum()) + MIDDLE) / (float(n.sum()) + 1.0 / most)
        said = Stated(metric, priors, n.size)
        weight = said.strength_or(1.0 / rate)
        a0 = said.mean_or(rate / most) * most * weight
        d = dispersion(sums, most)
        ones = np.ones(n.size)
        return np.stack([a0 + events / d, (weight + n / d) * most, ones, 0.0 * ones], axis=1)


def dispersion(sums: MetricSums, most: float) -> FloatArray:
    """[K] variance of a count over its mean, as far as the counts of all arms show more than OVER; else 1.

    ``most``: the count that is 1 in the ledger.
    """
    n, s1, s2 = sums.value
    mean = np.divide(s1, n, out=np.zeros_like(s1), where=n > 0.0)
    freedom = np.maximum(n - 1.0, 0.0)
    index = np.divide(most * squares(n, s1, s2), mean, out=freedom.copy(), where=mean > 0.0)
    # One count more with the variance of Poisson's, so that two equal ones prove nothing.
    shared = (1.0 + float(index.sum())) / (1.0 + float(freedom.sum()))
    if shared <= OVER:
        return np.ones(n.size)
    return np.maximum((SHARED * shared + index) / (SHARED + freedom), 1.0)

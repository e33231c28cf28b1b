"""Mean of a waiting time: rate ~ Gamma(a0 + n, b0 + S), so the mean 1 / rate is inverse gamma.

E = (b0 + S) / (a0 + n - 1), Var = E^2 / (a0 + n - 2). A prior of mean m and strength M is a0 = M + 1, b0 = M m, so that
the posterior mean is (M m + S) / (M + n).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit.kernels.best_arm import INVERSE_GAMMA
from bandit.ledger import FloatArray
from bandit.posteriors.arms import LEAST_SD, PositiveMeans
from bandit.posteriors.base import Stated, pooled_mean
from bandit.reading import MetricSums
from bandit.spec.model import Metric, Prior

STRENGTH = 2.0
"""Without a prior each arm is believed to be like all arms together, as if so many values had said so: the least at
which the mean has a variance."""


class Exponential(PositiveMeans):
    """Parameters (shape, scale, sign, shift) [K, 4] of the scaled mean."""

    family = INVERSE_GAMMA

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """See Posterior."""
        n, s1, _ = sums.value
        said = Stated(metric, priors, n.size)
        m0, strength = said.mean_or(max(pooled_mean(n, s1), LEAST_SD)), said.strength_or(STRENGTH)
        ones = np.ones(n.size)
        scale = strength * m0 + np.maximum(s1, 0.0)
        return np.stack([strength + 1.0 + n, scale, ones, 0.0 * ones], axis=1)

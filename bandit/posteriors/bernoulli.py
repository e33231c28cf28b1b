"""Rate of a binary metric: Beta(a0 + s, b0 + n - s), the conjugate posterior of Bernoulli trials."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit.kernels.best_arm import BETA
from bandit.kernels.quantile import quantiles
from bandit.ledger import FloatArray
from bandit.posteriors.base import beliefs
from bandit.reading import MetricSums
from bandit.spec.model import Metric, Prior


class Bernoulli:
    """Parameters (a, b) [K, 2]. Prior of strength M and mean m: a0 = m M, b0 = (1 - m) M; without one Beta(1, 1)."""

    family = BETA

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """See Posterior. b counts failures n - s, never exposures."""
        n, s1, _ = sums.value
        mean, strength = beliefs(metric, priors, 0.5, 2.0, n.size)
        a = mean * strength + np.maximum(s1, 0.0)
        return np.stack([a, (1.0 - mean) * strength + np.maximum(n - s1, 0.0)], axis=1)

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        a, b = params.T
        total = a + b
        return a / total, np.sqrt(a / total * (b / total) / (total + 1.0))

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        low, high = quantiles(self.family, params, (0.5 - 0.5 * level, 0.5 + 0.5 * level)).T
        return low, high

    def mirrored(self, params: FloatArray) -> FloatArray:
        """See Posterior."""
        return params[:, ::-1].copy()

"""Rate of a binary metric: Beta(a0 + s, b0 + n - s), the conjugate posterior of Bernoulli trials."""

from __future__ import annotations

import numpy as np
from scipy import special

from bandit.kernels.best_arm import BETA
from bandit.ledger import FloatArray
from bandit.spec.model import Metric


class Bernoulli:
    """Parameters (a, b) [K, 2]. Prior of strength M and mean m: a0 = m M, b0 = (1 - m) M; without one Beta(1, 1)."""

    family = BETA

    def parameters(self, metric: Metric, n: FloatArray, s1: FloatArray, s2: FloatArray) -> FloatArray:
        """See Posterior. b counts failures n - s, never exposures."""
        a0, b0 = 1.0, 1.0
        if metric.prior is not None:
            a0 = metric.prior.mean * metric.prior.strength
            b0 = (1.0 - metric.prior.mean) * metric.prior.strength
        return np.stack([a0 + np.maximum(s1, 0.0), b0 + np.maximum(n - s1, 0.0)], axis=1)

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        a, b = params.T
        total = a + b
        return a / total, np.sqrt(a * b / (total + 1.0)) / total

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        tail = 0.5 * (1.0 - level)
        a, b = params.T
        return special.betaincinv(a, b, tail), special.betaincinv(a, b, 1.0 - tail)

    def mirrored(self, params: FloatArray) -> FloatArray:
        """See Posterior."""
        return np.ascontiguousarray(params[:, ::-1])

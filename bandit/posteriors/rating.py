"""Mean worth of a rating: Dirichlet over its levels, so any worth of the levels can be read from the same counts.

With a_j = prior + count and A their sum the mean is sum v_j a_j / A and its variance
(sum v_j^2 a_j / A - mean^2) / (A + 1) (Ferguson 1973); a normal of these moments ranks the arms.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit.ledger import FloatArray
from bandit.posteriors.arms import NormalMeans
from bandit.posteriors.base import Stated
from bandit.reading import MetricSums
from bandit.spec.model import Metric, Prior

STRENGTH = 2.0
"""Without a prior an arm is believed to be like all arms together, as if so many ratings had said so."""


class Rating(NormalMeans):
    """Parameters (mean, sd) [K, 2]."""

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """See Posterior."""
        low, high = metric.scale
        worth = (np.array(metric.worth) - low) / (high - low)
        arms = sums.value.n.size
        counts = np.zeros((arms, worth.size)) if sums.levels is None else np.maximum(sums.levels, 0.0)
        shared = (counts.sum(axis=0) + 1.0) / (counts.sum() + worth.size)
        said = Stated(metric, priors, arms)
        before = np.where(
            said.given[:, None], [_with_mean(shared, worth, each) for each in said.mean], shared
        )
        return dirichlet_mean(before * said.strength_or(STRENGTH)[:, None] + counts, worth)


def _with_mean(shares: FloatArray, worth: FloatArray, mean: float) -> FloatArray:
    """[L] shares, mixed with one level at an end by as much as gives them this mean."""
    now = float(shares @ worth)
    end = int(np.argmax(worth) if mean > now else np.argmin(worth))
    away = float(worth[end]) - now
    part = min(max((mean - now) / away, 0.0), 1.0) if away else 0.0
    mixed: FloatArray = (1.0 - part) * shares
    mixed[end] += part
    return mixed


def dirichlet_mean(alpha: FloatArray, worth: FloatArray) -> FloatArray:
    """[K, 2] mean and sd of the mean worth, for Dirichlet parameters [K, L] and the worth [L] of each level."""
    total = alpha.sum(axis=1)
    mean = alpha @ worth / total
    around = (alpha * (worth[None, :] - mean[:, None]) ** 2).sum(axis=1) / total
    return np.stack([mean, np.sqrt(around / (total + 1.0))], axis=1)

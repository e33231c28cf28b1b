"""KL-UCB as weights: the batch is poured over the arms until all that are served share one index (fluid KL-UCB).

The Bernoulli divergence is valid for any utility in [0, 1] (Garivier & Cappe 2011, sec. 2). An arg max frozen for a
batch would give one arm everything, without propensities for the others.
"""

from __future__ import annotations

import math

import numpy as np

from bandit.allocators.base import Problem
from bandit.kernels.ucb import fluid_weights
from bandit.ledger import FloatArray


class Ucb:
    """Fluid KL-UCB on the mean utility as a part of its range, level ln t, t the pulls so far."""

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator. Pulls count from exposures, so arms whose rewards are late are not piled upon."""
        alive = np.flatnonzero(problem.live)
        out = np.zeros(problem.live.size)
        pulls = np.maximum(problem.pulls, problem.utility.observations)[alive]
        shares = np.empty(alive.size)
        level = math.log(max(float(pulls.sum()), math.e))
        fluid_weights(problem.utility.unit_mean[alive], pulls, level, max(problem.batch, 1.0), shares)
        out[alive] = shares
        return out

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
    """Fluid KL-UCB on the mean utility as a part of its range, level ln t, t the requests so far.

    Requests without a reward count too, so that an arm whose rewards are late is not piled upon; but as less than one
    where only a part of all requests ever brings a reward: each as that part.
    """

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        alive = np.flatnonzero(problem.live)
        observed = problem.utility.observations[alive]
        pulls = np.maximum(problem.pulls[alive], observed)
        total = float(pulls.sum())
        answered = float(observed.sum()) / total if observed.any() else 1.0
        counts = np.maximum(observed, answered * pulls)
        shares = np.empty(alive.size)
        level = math.log(max(total, math.e))
        batch = max(problem.batch, 1.0) * answered
        fluid_weights(problem.utility.unit_mean[alive], counts, level, batch, shares)
        out = np.zeros(problem.live.size)
        out[alive] = shares
        return out

"""Epsilon-greedy as weights: an even part for all arms, the rest to the best mean so far; ties share it."""

from __future__ import annotations

import numpy as np

from bandit.allocators.base import Problem
from bandit.kernels.mixing import epsilon_greedy
from bandit.ledger import FloatArray


class EpsilonGreedy:
    """It does not know how sure it is; the oldest rule, for comparison."""

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        alive = np.flatnonzero(problem.live)
        out, shares = np.zeros(problem.live.size), np.empty(alive.size)
        epsilon_greedy(problem.utility.mean[alive], problem.epsilon, shares)
        out[alive] = shares
        return out

"""Exploration sampling as weights: in proportion to P(best) (1 - P(best)) (Kasy & Sautmann 2021)."""

from __future__ import annotations

import numpy as np

from bandit.allocators.base import Problem
from bandit.kernels.mixing import exploration
from bandit.ledger import FloatArray


class Exploration:
    """For an experiment whose decision at the end counts and not its traffic; no arm has more than half."""

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        alive = np.flatnonzero(problem.live)
        out, shares = np.zeros(problem.live.size), np.empty(alive.size)
        exploration(p_best[alive], shares)
        out[alive] = shares
        return out

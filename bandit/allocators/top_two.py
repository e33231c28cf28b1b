"""Top-two Thompson sampling as weights, in closed form from P(best) (Russo 2016, 2020), to find the best arm."""

from __future__ import annotations

import numpy as np

from bandit.allocators.base import Problem
from bandit.kernels.mixing import top_two
from bandit.ledger import FloatArray


class TopTwo:
    """``beta`` to the leader, the rest to its challengers; regret is about twice that of ``thompson``."""

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        alive = np.flatnonzero(problem.live)
        out, shares = np.zeros(problem.live.size), np.empty(alive.size)
        top_two(p_best[alive], problem.beta, shares)
        out[alive] = shares
        return out

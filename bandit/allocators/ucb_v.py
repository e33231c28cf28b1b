"""UCB-V as weights: mean + sqrt(2 v Z ln t / n) + 3 Z ln t / n, Z = 1.2, poured (Audibert et al. 2009)."""

from __future__ import annotations

from bandit.allocators.base import Problem
from bandit.allocators.fluid import fluid
from bandit.kernels.indices import UCB_V
from bandit.ledger import FloatArray


class UcbV:
    """Fluid UCB-V: the spread of one request's utility narrows its bonus."""

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        return fluid(UCB_V, problem)

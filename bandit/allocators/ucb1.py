"""UCB1 as weights: mean + sqrt(2 ln t / n), poured (Auer, Cesa-Bianchi & Fischer 2002, fig. 1)."""

from __future__ import annotations

from bandit.allocators.base import Problem
from bandit.allocators.fluid import fluid
from bandit.kernels.indices import UCB1
from bandit.ledger import FloatArray


class Ucb1:
    """Fluid UCB1: sure of itself only slowly, since it knows nothing of the spread of rewards."""

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        return fluid(UCB1, problem)

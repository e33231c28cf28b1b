"""KL-UCB as weights: the highest mean that n rewards do not contradict at level ln t, poured."""

from __future__ import annotations

from bandit.allocators.base import Problem
from bandit.allocators.fluid import fluid
from bandit.kernels.indices import KL
from bandit.ledger import FloatArray


class KlUcb:
    """Fluid KL-UCB (Garivier & Cappe 2011; Cappe et al. 2013), c = 0.

    The Bernoulli divergence is valid for any utility in [0, 1] (Garivier & Cappe 2011, sec. 2).
    """

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        return fluid(KL, problem)

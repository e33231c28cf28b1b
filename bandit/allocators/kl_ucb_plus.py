"""KL-UCB+ as weights: KL-UCB at level ln(t / n), so that what is well known is not explored, poured."""

from __future__ import annotations

from bandit.allocators.base import Problem
from bandit.allocators.fluid import fluid
from bandit.kernels.indices import KL_PLUS
from bandit.ledger import FloatArray


class KlUcbPlus:
    """Fluid KL-UCB+ (Garivier & Cappe 2011, sec. 3): better in practice than KL-UCB.

    As the index of an arm with all of t pulls is its mean, t is taken at the end of the batch.
    """

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        return fluid(KL_PLUS, problem)

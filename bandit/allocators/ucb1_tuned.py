"""UCB1-tuned as weights: mean + sqrt(ln t / n min(1/4, v + sqrt(2 ln t / n))), poured (Auer et al. 2002, sec. 4)."""

from __future__ import annotations

from bandit.allocators.base import Problem
from bandit.allocators.fluid import fluid
from bandit.kernels.indices import UCB1_TUNED
from bandit.ledger import FloatArray


class Ucb1Tuned:
    """Fluid UCB1-tuned: good in practice, without a proof."""

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        return fluid(UCB1_TUNED, problem)

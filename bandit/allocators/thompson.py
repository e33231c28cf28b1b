"""Thompson sampling as weights: each arm by its probability of being the best (Thompson 1933).

Serving a batch by these weights is serving it by one posterior draw per request, with the propensity known exactly.
"""

from __future__ import annotations

from bandit.allocators.base import Problem
from bandit.ledger import FloatArray


class Thompson:
    """P(best)."""

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        return p_best

"""Fixed shares from the spec; what a dead arm had goes to the others in proportion."""

from __future__ import annotations

import numpy as np

from bandit.allocators.base import Problem
from bandit.ledger import FloatArray


class Fixed:
    """The written shares, or equal ones when none are written."""

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        written = np.ones(problem.live.size) if problem.fixed is None else problem.fixed
        shares: FloatArray = np.where(problem.live, written, 0.0)
        if not shares.sum() > 0.0:
            shares = problem.live.astype(np.float64)
        out: FloatArray = shares / shares.sum()
        return out

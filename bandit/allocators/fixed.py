"""Fixed weights, as the spec wrote them down; it learns nothing."""

from __future__ import annotations

import numpy as np

from bandit.allocators.base import Problem
from bandit.ledger import FloatArray


class Fixed:
    """The written weights, in proportion over live arms; equal ones when none are left.

    Where the weights of a dead arm go is settled before, see ``bandit.allocate``: to the control.
    """

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        written = np.ones(problem.live.size) if problem.fixed is None else problem.fixed
        shares: FloatArray = np.where(problem.live, written, 0.0)
        if not shares.sum() > 0.0:
            shares = problem.live.astype(np.float64)
        out: FloatArray = shares / shares.sum()
        return out

"""What the optimistic allocators share: the live arms of a problem, poured over by one rule; see ``kernels.fluid``."""

from __future__ import annotations

import numpy as np

from bandit.allocators.base import Problem
from bandit.kernels.fluid import ucb_weights
from bandit.ledger import FloatArray


def fluid(rule: int, problem: Problem) -> FloatArray:
    """[K] shares of the next batch under a rule of ``kernels.indices``, on the mean utility as a part of its range.

    Utilities are scaled by what the declared ranges allow, so that another unit gives the same shares. Requests
    without a reward count too, see ``kernels.fluid.counted``.

    Indices stand on means of rewards, as in their papers: an arm that is tried little is believed to be like all arms,
    which for a poor one is optimism twice over. Measured, ten arms of 0.01 to 0.1, 20,000 requests: KL-UCB loses 149 on
    posterior means and 130 on these, KL-UCB+ 94 and 81.
    """
    alive = np.flatnonzero(problem.live)
    value = problem.utility
    out, shares = np.zeros(problem.live.size), np.empty(alive.size)
    ucb_weights(
        rule,
        (value.unit_mean if value.shown is None else value.shown)[alive],
        value.variance[alive],
        value.observations[alive],
        problem.pulls[alive],
        float(problem.batch),
        shares,
    )
    out[alive] = shares
    return out

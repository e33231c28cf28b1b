"""Bayes-UCB as weights: the upper quantile of each posterior as its index, poured (Kaufmann, Cappe & Garivier 2012)."""

from __future__ import annotations

import numpy as np

from bandit.allocators.base import Problem
from bandit.kernels.bayes_ucb import bayes_weights
from bandit.kernels.fluid import counted
from bandit.ledger import FloatArray

MOST_SIZE = 1e15


class BayesUcb:
    """Fluid Bayes-UCB, quantile 1 - 1 / (t + 1): works for every family, priors and unequal variances included.

    The size of an arm, in requests that are worth what is known of it, is the variance of one request's utility over
    that of its posterior mean; where rewards do not vary, the number of rewards.
    """

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """See Allocator."""
        alive = np.flatnonzero(problem.live)
        value = problem.utility
        observed, counts = value.observations[alive], np.empty(alive.size)
        total, answered = counted(observed, problem.pulls[alive], counts)
        size = value.variance[alive] * (value.span / np.maximum(value.sd[alive], 1e-150)) ** 2
        size = np.where(size > 0.0, size, observed)
        shares, out = np.empty(alive.size), np.zeros(problem.live.size)
        bayes_weights(
            value.family,
            np.ascontiguousarray(value.params[alive]),
            np.clip(size, 1.0, MOST_SIZE),
            counts - observed,
            total,
            max(problem.batch, 1.0) * answered,
            shares,
        )
        out[alive] = shares
        return out

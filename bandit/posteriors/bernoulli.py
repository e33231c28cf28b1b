"""Rate of a binary metric: Beta(a0 + s, b0 + n - s), the conjugate posterior of Bernoulli trials (Bayes 1763)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit.ledger import FloatArray
from bandit.posteriors.arms import BetaMeans
from bandit.posteriors.base import Stated
from bandit.reading import MetricSums
from bandit.spec.model import Direction, Metric, Prior

WARY = 4.0


class Bernoulli(BetaMeans):
    """Parameters (a, b) [K, 2].

    A prior of the spec with mean m and strength M: a0 = m M, b0 = (1 - m) M. Without one each arm is believed to be
    like all arms together, with one outcome of the rarer sort: m = (S + 1) / (N + 2) of all arms and
    M = 1 / min(m, 1 - m). That is Beta(1, 1) before any reward and at m = 1/2. Where successes are rare Beta(1, 1) has
    mean 1/2 still, and an arm with few rewards looks far too good until n is much more than 1 / rate.

    Where bad outcomes are the rare ones, m has up to WARY times as many of them, never more than half: who is tried
    less must show more. Measured, two arms of .9 and .8, 5,000 requests: regret 10.4 without that, 9.0 with it as with
    Beta(1, 1), which has no bound, so that beside bad outcomes of 1 % a new arm would have to serve hundreds first.
    """

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """See Posterior. b counts failures n - s, never exposures."""
        n, s1, _ = sums.value
        total = float(n.sum())
        rate = (min(max(float(s1.sum()), 0.0), total) + 1.0) / (total + 2.0)
        upward = metric.direction is Direction.MAXIMIZE
        worse = 1.0 - rate if upward else rate
        wary = max(worse, min(WARY * worse, 0.5))
        rate = 1.0 - wary if upward else wary
        rarer = min(rate, 1.0 - rate)
        said = Stated(metric, priors, n.size)
        a0 = np.where(said.given, said.mean * said.strength, rate / rarer)
        b0 = np.where(said.given, (1.0 - said.mean) * said.strength, (1.0 - rate) / rarer)
        return np.stack([a0 + np.maximum(s1, 0.0), b0 + np.maximum(n - s1, 0.0)], axis=1)

"""Mean of a revenue by its two parts: who pays (a rate) and how much (log-normal), as a second opinion in reports.

ln mean = ln p + mu + s^2 / 2 with p ~ Beta and (mu, s^2) ~ normal-inverse-gamma, independent; the moments of ln p are
psi(a) - psi(a + b) and psi'(a) - psi'(a + b). Matched by a normal: against draws, P(best) .401 for .381 with 5 payments
an arm, .354 for .349 with 30, .330 for .330 with 300. It trusts the tail of a log-normal, so nothing is decided by it.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit.kernels.best_arm import LOGNORMAL
from bandit.ledger import FloatArray
from bandit.posteriors.arms import PositiveMeans
from bandit.posteriors.bernoulli import Bernoulli
from bandit.posteriors.lognormal import log_mean, within
from bandit.reading import MetricSums, Sums
from bandit.spec.model import Metric, Prior

SHIFT = 10


class Hurdle(PositiveMeans):
    """Parameters (mean and sd of the log of the arm's mean, sign, shift) [K, 4], scaled. Priors are left out: they are
    about the mean itself and say nothing of its parts."""

    family = LOGNORMAL

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """See Posterior."""
        low, high = metric.scale
        n, paid = sums.value.n, sums.value.n if sums.log is None else sums.log.n
        none = [None] * n.size
        rate = Bernoulli().parameters(metric, MetricSums(Sums(n, paid, paid)), none)
        chance, spread = log_rate(rate)
        size, unsure = log_mean(metric, sums, none, stated=False)
        mean, variance = within(chance + size - np.log(high - low), spread + unsure, 1.0)
        ones = np.ones(mean.size)
        return np.stack([mean, np.sqrt(variance), ones, 0.0 * ones], axis=1)


def log_rate(params: FloatArray) -> tuple[FloatArray, FloatArray]:
    """(mean, variance) [K] of ln p for p ~ Beta(a, b)."""
    a, total = params[:, 0], params[:, 0] + params[:, 1]
    return digamma(a) - digamma(total), np.maximum(trigamma(a) - trigamma(total), 0.0)


def digamma(x: FloatArray) -> FloatArray:
    """psi(x) for x > 0 within 1e-13: recurrence up to x >= 10, then its asymptotic series (Bernoulli numbers)."""
    steps = np.arange(SHIFT)[:, None]
    y = 1.0 / (x + SHIFT) ** 2
    series = y * (1 / 12 - y * (1 / 120 - y * (1 / 252 - y * (1 / 240 - y / 132))))
    out: FloatArray = np.log(x + SHIFT) - 0.5 / (x + SHIFT) - series - (1.0 / (x + steps)).sum(axis=0)
    return out


def trigamma(x: FloatArray) -> FloatArray:
    """psi'(x) for x > 0 within 1e-13, as :func:`digamma`."""
    steps = np.arange(SHIFT)[:, None]
    z = x + SHIFT
    y = 1.0 / z**2
    series = y / z * (1 / 6 - y * (1 / 30 - y * (1 / 42 - y * (1 / 30 - y * 5 / 66))))
    out: FloatArray = 1.0 / z + 0.5 * y + series + ((x + steps) ** -2.0).sum(axis=0)
    return out

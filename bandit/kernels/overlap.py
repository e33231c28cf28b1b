"""Scores of an arm against its concurrent control in one period, added up; it never compares pooled means.

Scores of a period of N outcomes of arm and control, of which the part v is the arm's; A = 1 for the arm, Y = X / r its
badness over the margin r, X that of the control, all in [0, 1]; m a centre that was fixed before the period:

* overlap scores (A - v)(Y - m), whose means add up to N v (1 - v)(mu_1 / r - mu_0) whatever m is. A score is at least
  -max((1 - v) m, v (1 - m)); where that is below -LEAST, the period's scores shrink to fit;
* odds: for a ratio t the product of f_A^X, f_A = t^A (r v + 1 - v) / (r t v + 1 - v).

``guardrails.harm`` says why each is an e-process. A block of SCORES columns holds (S, V) of harm, (S, V) of safety, and
ln of the odds of each of RATIOS for harm and of their inverses for safety.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.confseq import log_mean_exp, log_normal_e, log_overlap_e, tuned_rho
from bandit.kernels.jit import kernel

LEAST = 0.1
# Most power when V is what 2,000 samples of the canary bring at variances of a steady cost and of a bad share of 10 %.
RHOS = np.array([tuned_rho(2000.0 * variance, 0.01) for variance in (2e-3, 0.1)])
# Parts of the mean of e-processes: of overlap scores for each of RHOS, of odds for each of RATIOS; each part costs its
# logarithm. Where outcomes are 0 or 1 odds are the stronger test, and a fifth more is the least harm that is worth a
# rollback. Measured medians of canary outcomes at alpha 1 % and shares of 1 to 50 % (before that with .13, .67 and a
# sixth of .2 for each ratio): a fifth more on a level that rises from 5 to 20 % 3,348 (4,092; 2,000 runs), on a level
# of 10 % 2,927 (3,549). A tenth more than 30 % takes longer.
PARTS = np.array([0.14, 0.11])
PARTS_ODDS = np.array([0.57, 0.07, 0.03, 0.02, 0.03, 0.03])
RATIOS = np.array([1.2, 1.5, 2.0, 3.0, 6.0, 20.0])
TYPICAL_RHO = float(RHOS[1])

TOTAL, VARIANCE, TOTAL_SAFE, VARIANCE_SAFE, ODDS = range(5)
ODDS_SAFE = ODDS + RATIOS.size
SCORES = ODDS_SAFE + RATIOS.size


@kernel
def add_scores(
    scores: NDArray[np.float64],
    n1: float,
    bad1: float,
    square1: float,
    n0: float,
    bad0: float,
    square0: float,
    m: float,
    r: float,
) -> None:
    """Add one period to a block ``scores`` [SCORES]: outcomes, sums of badness and of its square of arm and control."""
    v = n1 / max(n1 + n0, 1.0)
    total = (1.0 - v) * (bad1 / r - n1 * m) - v * (bad0 - n0 * m)
    spread1 = max(square1 / (r * r) - 2.0 * m * bad1 / r + n1 * m * m, 0.0)
    spread0 = max(square0 - 2.0 * m * bad0 + n0 * m * m, 0.0)
    variance = (1.0 - v) ** 2 * spread1 + v**2 * spread0
    fit = LEAST / max((1.0 - v) * m, v * (1.0 - m), LEAST)
    scores[TOTAL] += fit * total
    scores[VARIANCE] += fit * fit * variance
    fit = LEAST / max((1.0 - v) * (1.0 / r - m), v * m, LEAST)
    scores[TOTAL_SAFE] -= fit * total
    scores[VARIANCE_SAFE] += fit * fit * variance
    null = r * v + 1.0 - v
    for i in range(RATIOS.size):
        t = RATIOS[i]
        ln_t = math.log(t)
        scores[ODDS + i] += bad1 * ln_t + (bad1 + bad0) * math.log(null / (r * t * v + 1.0 - v))
        scores[ODDS_SAFE + i] += -bad1 * ln_t + (bad1 + bad0) * math.log(null / (r / t * v + 1.0 - v))


@kernel
def scores_log_e(scores: NDArray[np.float64]) -> tuple[float, float]:
    """(ln E of harm, ln E of safety) of a block [SCORES]."""
    harm = log_mixture(scores[TOTAL], scores[VARIANCE], scores[ODDS:ODDS_SAFE])
    safe = log_mixture(scores[TOTAL_SAFE], scores[VARIANCE_SAFE], scores[ODDS_SAFE:SCORES])
    return harm, safe


@kernel
def log_mixture(total: float, variance: float, odds: NDArray[np.float64]) -> float:
    """ln of the mean, by PARTS, of the e-processes of overlap scores, see ``log_overlap_e``, and, by PARTS_ODDS, of the
    odds of bad events, whose logarithms are ``odds``. A mean of e-processes is one."""
    values = np.empty(RHOS.size + RATIOS.size)
    for i in range(RHOS.size):
        values[i] = math.log(PARTS[i]) + log_overlap_e(total, variance, RHOS[i], LEAST)
    for i in range(RATIOS.size):
        values[RHOS.size + i] = math.log(PARTS_ODDS[i]) + odds[i]
    return log_mean_exp(values) + math.log(float(values.size))


@kernel
def reaches(scores: NDArray[np.float64], level: float) -> bool:
    """Is ln E of harm at least ``level``? As ``scores_log_e`` says, but most blocks cost a comparison only: no mean of
    likelihood ratios is above the greatest of them, and no overlap score's ratio above exp(S^2 / (2 V))."""
    total, variance = scores[TOTAL], scores[VARIANCE]
    most = max(total, 0.0) ** 2
    if most < 2.0 * level * variance and scores[ODDS:ODDS_SAFE].max() < level:
        return False
    return log_mixture(total, variance, scores[ODDS:ODDS_SAFE]) >= level


@kernel
def normal_log_e(total: float, variance: float) -> float:
    """ln of the mean over RHOS of one-sided normal mixtures of a sum of scores; asymptotic, see ``log_normal_e``."""
    top = -math.inf
    for i in range(RHOS.size):
        top = max(top, log_normal_e(total, variance, RHOS[i]))
    mean = 0.0
    for i in range(RHOS.size):
        mean += math.exp(log_normal_e(total, variance, RHOS[i]) - top)
    return top + math.log(mean / RHOS.size)


@kernel
def add_ipw(sums: NDArray[np.float64], w: float, n: float, x1: float, x0: float, centre: float) -> None:
    """Add a period to ``sums`` = (S, V) of inverse-propensity scores of bad events, for arms that share no period.

    ``w`` the arm's known share of ``n`` decisions, ``x1`` and ``x0`` bad events of arm and control:
    S += x1/w - x0/(1-w), V += x1 (1/w-p)^2 + x0 (1/(1-w)+p)^2 + (n-x1-x0) p^2, p = ``centre`` fixed beforehand.
    ln E is ``confseq.log_overlap_e`` with c >= 1/(1-w_max) + p_max. Measured: twice the delay of overlap scores.
    """
    other = 1.0 - w
    sums[0] += x1 / w - x0 / other
    sums[1] += x1 * (1.0 / w - centre) ** 2 + x0 * (1.0 / other + centre) ** 2 + (n - x1 - x0) * centre**2


def warm() -> None:
    """Compile for the types that the judges use."""
    scores = np.zeros(SCORES)
    add_scores(scores, 1.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.5, 1.0)
    scores_log_e(scores)
    reaches(scores, 1.0)
    normal_log_e(1.0, 1.0)
    add_ipw(np.zeros(2), 0.5, 1.0, 0.0, 0.0, 0.0)

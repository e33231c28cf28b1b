"""Harm against the concurrent control while shares and the baseline move; it never compares pooled means.

Two e-processes on the same mature periods, averaged (the mean of e-processes is one, whatever their dependence).
In a period of N outcomes of arm and control together let v be the arm's part of them, A = 1 for the arm, and
Y = X / r the badness of the arm over the margin r, or X of the control. Null: mu_k <= r mu_0 in every period, the
two means being constant inside it. Given how many outcomes each has:

* Overlap scores (A - v)(Y - m), m the control's mean frozen before the period. Their means add up to
  N v (1 - v)(mu_k / r - mu_0), whatever m is; a good m only makes V small. A score is at least
  -max((1 - v) m, v (1 - m)); where that is below -LEAST, the period's scores shrink to fit. With x >= -c,
  exp(l x - psi(l) x^2) <= 1 + l x, so the product over the period has mean at most exp(l * sum of means) <= 1.
* Odds of bad events: for a ratio t > r the product of f_A^X, f_A = (t/r)^A (r v + 1 - v) / (t v + 1 - v). Since
  f^x <= 1 + x (f - 1) on [0, 1], it has mean at most exp(N mu_0 [r v (f_1 - 1) + (1 - v) (f_0 - 1)]) = 1.
  Mean over RATIOS. This is what sees six bad events against none.

The first is strong where badness is common or varies little, the second where it is rare. Safety is the same with
the signs turned: null mu_k >= r mu_0.

v is counted, not the arm's share: traffic that does not follow the shares, because a few units are heavy or
responses are missing on one side, is then no evidence. Measured with a true part between 5 and 30 % at a share of
10 %: false alarms of 9 % at alpha 5 % with the share, of 1 % with the count; the delay is the same.
"""

from __future__ import annotations

import math

import numpy as np

from bandit.guardrails.base import CANNOT_TELL, Evidence, Levels, Pair
from bandit.guardrails.evidence import Outcomes
from bandit.kernels.confseq import log_harm_e, tuned_rho
from bandit.ledger import FloatArray
from bandit.spec.model import Guardrail

LEAST = 0.1
# Most power when V is what 2,000 samples of the canary bring at variances from a steady cost's to a bad share of 10 %.
RHOS = np.array([tuned_rho(2000.0 * variance, 0.01) for variance in (1e-4, 1e-3, 0.01, 0.1)])
RATIOS = np.array([1.2, 1.5, 2.0, 3.0, 6.0, 20.0])
FARTHEST = 1e9

N, N_CONTROL, BAD, EXPECTED, TOTAL, VARIANCE, TOTAL_SAFE, VARIANCE_SAFE = range(8)
ODDS = slice(8, 8 + RATIOS.size)
ODDS_SAFE = slice(ODDS.stop, ODDS.stop + RATIOS.size)
USED = ODDS_SAFE.stop


class Harm:
    """Columns: outcomes of arm and control, badness of the arm, badness that the control had in the same periods at
    the arm's traffic, S and V of harm and of safety, ln E of each ratio for harm and for safety."""

    def accumulate(
        self, guardrail: Guardrail, before: FloatArray, mature: Outcomes, pair: Pair
    ) -> FloatArray:
        """``before`` with the periods added in which both arm and control had traffic."""
        after = before.copy()
        after[:USED] += steps(guardrail, mature, pair).sum(axis=0)
        return after

    def weigh(
        self, guardrail: Guardrail, sums: FloatArray, young: Outcomes, pair: Pair, levels: Levels
    ) -> Evidence:
        """Evidence of harm and of safety; mature periods only, so ``young`` is not looked at."""
        del young, pair
        n, n_control = float(sums[N]), float(sums[N_CONTROL])
        log_e_harm, log_e_safe = log_e(sums)
        return Evidence(
            seen=n > 0.0 and n_control > 0.0,
            log_e=log_e_harm,
            log_threshold=levels.fail,
            log_e_safe=log_e_safe,
            n=n,
            n_control=n_control,
            observed=float(sums[BAD]) / n if n else 0.0,
            reference=guardrail.margin * float(sums[EXPECTED]) / n if n else 0.0,
            more=_rewards_more(sums, levels),
        )


def steps(guardrail: Guardrail, mature: Outcomes, pair: Pair) -> FloatArray:
    """[E, USED] what each period adds to the sums; zeros where the arm or the control had no traffic."""
    n1, bad1, square1 = (each[:, pair.arm] for each in (mature.n, mature.bad, mature.square))
    n0, bad0, square0 = (each[:, pair.control] for each in (mature.n, mature.bad, mature.square))
    m, r = mature.centre, guardrail.margin
    v = n1 / np.maximum(n1 + n0, 1.0)
    step = np.zeros((len(m), USED))

    step[:, N], step[:, N_CONTROL], step[:, BAD] = n1, n0, bad1
    step[:, EXPECTED] = n1 * np.where(n0 > 0.0, bad0 / np.maximum(n0, 1.0), m)

    total = (1.0 - v) * (bad1 / r - n1 * m) - v * (bad0 - n0 * m)
    spread1 = np.maximum(square1 / (r * r) - 2.0 * m * bad1 / r + n1 * m * m, 0.0)
    spread0 = np.maximum(square0 - 2.0 * m * bad0 + n0 * m * m, 0.0)
    variance = (1.0 - v) ** 2 * spread1 + v**2 * spread0
    fit = _fit(np.maximum((1.0 - v) * m, v * (1.0 - m)))
    step[:, TOTAL], step[:, VARIANCE] = fit * total, fit * fit * variance
    fit = _fit(np.maximum((1.0 - v) * (1.0 / r - m), v * m))
    step[:, TOTAL_SAFE], step[:, VARIANCE_SAFE] = -fit * total, fit * fit * variance

    part = v[:, None]
    null = r * part + 1.0 - part
    for columns, ratios in ((ODDS, RATIOS), (ODDS_SAFE, 1.0 / RATIOS)):
        tilted = r * ratios * part + 1.0 - part
        step[:, columns] = bad1[:, None] * np.log(ratios) + (bad1 + bad0)[:, None] * np.log(null / tilted)
    shared = (mature.share[:, pair.arm] > 0.0) & (mature.share[:, pair.control] > 0.0)
    step[~shared] = 0.0
    return step


def log_e(sums: FloatArray) -> tuple[float, float]:
    """(ln E of harm, ln E of safety) of sums."""
    return (
        log_harm_e(float(sums[TOTAL]), float(sums[VARIANCE]), sums[ODDS], RHOS, LEAST),
        log_harm_e(float(sums[TOTAL_SAFE]), float(sums[VARIANCE_SAFE]), sums[ODDS_SAFE], RHOS, LEAST),
    )


def _fit(least: FloatArray) -> FloatArray:
    """Factor that makes scores that are at least -``least`` at least -LEAST; 1 where they are."""
    factor: FloatArray = LEAST / np.maximum(least, LEAST)
    return factor


def _rewards_more(sums: FloatArray, levels: Levels) -> float:
    """About how many rewards of the arm more decide, at the present rate.

    With S and V in proportion to n, ln E is about S^2 / (2 V) - ln((V + rho) / rho) / 2; solved for n, less n.
    """
    n, rho = float(sums[N]), float(RHOS[2])
    for level, total, variance in (
        (levels.fail, float(sums[TOTAL]), float(sums[VARIANCE])),
        (levels.safe, float(sums[TOTAL_SAFE]), float(sums[VARIANCE_SAFE])),
    ):
        if n <= 0.0 or total <= 0.0 or variance <= 0.0:
            continue
        times = 1.0
        for _ in range(20):
            times = 2.0 * (level + 0.5 * math.log1p(times * variance / rho)) * variance / (total * total)
        return max(n * times - n, 1.0) if n * times < FARTHEST else CANNOT_TELL
    return CANNOT_TELL

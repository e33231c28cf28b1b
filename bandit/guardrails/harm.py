"""Harm against the concurrent control while shares and the baseline move; it never compares pooled means.

Two e-processes on the same mature periods, averaged (the mean of e-processes is one, whatever their dependence).
In a period let w = p_k / (p_k + p_0) be the arm's part of the traffic of the pair, Y = X / r the badness of the arm
over the margin r, or X of the control, and A = 1 for the arm. Null: mu_k <= r mu_0 in every period.

* Overlap score (A - w)(Y - m), m the control's mean frozen before the period: conditional mean w (1 - w)
  (mu_k / r - mu_0). Its sums S and V are additive. A score is at least -max((1-w) m, w (1-m)); where that is below
  -LEAST, the period's scores shrink to fit, by a factor known before the period.
* Odds of bad events: among them the arm's part is at most q = r w / (r w + 1 - w). For a ratio t > r the product of
  (t/r)^A (r w + 1 - w)/(t w + 1 - w), each to the power X, has mean at most 1: for X in {0, 1} by counting, for X
  in [0, 1] since f^x <= 1 + x (f - 1). Mean over RATIOS. It is what sees six bad events against none.

The first is strong where badness is common or varies little, the second where it is rare. Safety is the same with
the signs turned: null mu_k >= r mu_0. For both, responses that are missing (no ``default_when_silent``) must not
depend on the arm.
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
# Most power when V is what 2,000 samples of the canary bring at a bad share of 0.1, 1 and 10 per cent.
RHOS = np.array([tuned_rho(2000.0 * variance, 0.01) for variance in (0.001, 0.01, 0.1)])
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
    p1, p0 = mature.share[:, pair.arm], mature.share[:, pair.control]
    n1, bad1, square1 = (each[:, pair.arm] for each in (mature.n, mature.bad, mature.square))
    n0, bad0, square0 = (each[:, pair.control] for each in (mature.n, mature.bad, mature.square))
    m, r = mature.centre, guardrail.margin
    shared = (p1 > 0.0) & (p0 > 0.0)
    w = np.where(shared, p1, 0.5) / np.where(shared, p1 + p0, 1.0)
    step = np.zeros((len(m), USED))

    step[:, N], step[:, N_CONTROL], step[:, BAD] = n1, n0, bad1
    step[:, EXPECTED] = n1 * np.where(n0 > 0.0, bad0 / np.maximum(n0, 1.0), m)

    total = (1.0 - w) * (bad1 / r - n1 * m) - w * (bad0 - n0 * m)
    spread1 = np.maximum(square1 / (r * r) - 2.0 * m * bad1 / r + n1 * m * m, 0.0)
    spread0 = np.maximum(square0 - 2.0 * m * bad0 + n0 * m * m, 0.0)
    variance = (1.0 - w) ** 2 * spread1 + w**2 * spread0
    fit = _fit(np.maximum((1.0 - w) * m, w * (1.0 - m)))
    step[:, TOTAL], step[:, VARIANCE] = fit * total, fit * fit * variance
    fit = _fit(np.maximum((1.0 - w) * (1.0 / r - m), w * m))
    step[:, TOTAL_SAFE], step[:, VARIANCE_SAFE] = -fit * total, fit * fit * variance

    null = (r * w + 1.0 - w)[:, None]
    for columns, ratios in ((ODDS, RATIOS), (ODDS_SAFE, 1.0 / RATIOS)):
        tilted = r * ratios * w[:, None] + 1.0 - w[:, None]
        step[:, columns] = bad1[:, None] * np.log(ratios) + (bad1 + bad0)[:, None] * np.log(null / tilted)
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
    n, rho = float(sums[N]), float(RHOS[1])
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

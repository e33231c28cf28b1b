"""About how many rewards of an arm more a verdict needs, at the present rate; it is told to people and decides
nothing."""

from __future__ import annotations

import math

import numpy as np

from bandit.guardrails.base import CANNOT_TELL, Levels
from bandit.kernels import watch, weigh
from bandit.kernels.overlap import TOTAL, TOTAL_SAFE, TYPICAL_RHO, VARIANCE, VARIANCE_SAFE
from bandit.kernels.signals import RUNS
from bandit.kernels.weigh import BURN_IN_EVENTS, BURN_IN_SKEW
from bandit.ledger import FloatArray

FARTHEST = 1e9
TYPICAL_STRENGTH = 100.0
STEP, STEPS, HALVINGS = 1.25, 30, 3
_NONE = np.zeros((0, watch.EDGES))


def rewards_more(
    code: int, params: FloatArray, sums: FloatArray, young: FloatArray, answers: FloatArray, levels: Levels
) -> tuple[float, float]:
    """(rewards more, outcomes that still wait for their windows); CANNOT_TELL where the evidence points nowhere.

    A formula says where evidence will be enough; the sums, scaled to that, say whether it is so.
    """
    n = float(answers[weigh.N])
    if code == watch.BREAKER:
        return (float(RUNS[0]) - n if n < RUNS[0] else CANNOT_TELL), 0.0
    if code in (watch.RATE, watch.EVENTS):
        return _of_limit(code, params, sums, young, answers, levels)
    if code == watch.HARM_ASYMPTOTIC and answers[weigh.READY] == 0.0:
        return _burn_in(sums), 0.0
    if code not in (watch.HARM, watch.HARM_ASYMPTOTIC, watch.RATIO_HARM, watch.QUANTILE_HARM, watch.RESPONSE):
        return CANNOT_TELL, 0.0
    return _of_scores(code, params, sums, n, levels), 0.0


def _of_limit(
    code: int, params: FloatArray, sums: FloatArray, young: FloatArray, answers: FloatArray, levels: Levels
) -> tuple[float, float]:
    """[level + ln(1 + n/k)/2] / kl - n, towards failing with all outcomes, towards passing with the settled ones."""
    n, observed, limit = (float(answers[each]) for each in (weigh.N, weigh.OBSERVED, weigh.REFERENCE))
    fewer_is_worse = code == watch.EVENTS and params[1] < 0.0
    bad = (observed < limit) if fewer_is_worse else (observed > limit)
    if not bad:
        settled = float(sums[0])
        if settled <= 0.0:
            return CANNOT_TELL, n
        n, observed = settled, float(sums[1]) / settled
    total = sums.copy()
    if bad:
        watch.add_rows(code, params, total, young)
    divergence = _kl(observed, limit) if code == watch.RATE else _poisson_kl(observed, limit)
    level = levels.fail if bad else levels.safe
    if n <= 0.0 or divergence * FARTHEST < level:
        return CANNOT_TELL, 0.0
    needed = level / divergence
    for _ in range(20):
        needed = (level + 0.5 * math.log1p(needed / TYPICAL_STRENGTH)) / divergence
    which = weigh.LOG_E if bad else weigh.LOG_E_SAFE
    return _checked(code, params, total, n, needed, which, level), 0.0


def _of_scores(code: int, params: FloatArray, sums: FloatArray, n: float, levels: Levels) -> float:
    """With S and V in proportion to n, ln E is about S^2 / (2 V) - ln((V + rho) / rho) / 2; solved for n, less n."""
    block = sums[watch.BLOCK : watch.AFTER]
    harm, safe = (TOTAL, VARIANCE), (TOTAL_SAFE, VARIANCE_SAFE)
    if code not in (watch.QUANTILE_HARM, watch.RESPONSE) and params[1] > 0.0:
        harm, safe = safe, harm
    for level, which, (at, spread) in (
        (levels.fail, weigh.LOG_E, harm),
        (levels.safe, weigh.LOG_E_SAFE, safe),
    ):
        total, variance = float(block[at]), float(block[spread])
        if n <= 0.0 or total <= 0.0 or variance <= 0.0:
            continue
        times = 1.0
        for _ in range(20):
            times = (
                2.0 * (level + 0.5 * math.log1p(times * variance / TYPICAL_RHO)) * variance / (total * total)
            )
        if n * times >= FARTHEST:
            return CANNOT_TELL
        return _checked(code, params, sums, n, n * times, which, level)
    return CANNOT_TELL


def _checked(
    code: int, params: FloatArray, sums: FloatArray, n: float, needed: float, which: int, level: float
) -> float:
    """``needed - n``, more where the sums scaled to that are not enough yet."""
    low, high = 1.0, max(needed / n, STEP)
    for _ in range(STEPS):
        if _evidence(code, params, sums * high, which) >= level:
            break
        low, high = high, STEP * high
    else:
        return CANNOT_TELL
    if high <= 2.0 * low:
        return max(n * (high - 1.0), 1.0)
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        if _evidence(code, params, sums * middle, which) >= level:
            high = middle
        else:
            low = middle
    return max(n * (high - 1.0), 1.0)


def _evidence(code: int, params: FloatArray, sums: FloatArray, which: int) -> float:
    answers = np.zeros(weigh.ANSWERS)
    weigh.weigh(code, params, sums, _NONE, answers)
    return float(answers[which])


def _burn_in(sums: FloatArray) -> float:
    """Rewards of the arm until both sides may speak, at the present rates and skewness."""
    times = 1.0
    for at in (watch.MOMENTS, watch.MOMENTS + 4):
        n, s1, s2, s3 = (float(each) for each in sums[at : at + 4])
        if n <= 0.0 or s1 <= 0.0 or s2 <= 0.0:
            return CANNOT_TELL
        mean = s1 / n
        variance = max(s2 / n - mean * mean, 0.0)
        third = s3 / n - 3.0 * mean * s2 / n + 2.0 * mean**3
        if variance == 0.0:
            return CANNOT_TELL
        times = max(times, BURN_IN_EVENTS * s2 / (s1 * s1), BURN_IN_SKEW * third * third / variance**3 / n)
    return max(float(sums[watch.MOMENTS]) * (times - 1.0), 1.0)


def _kl(p: float, q: float) -> float:
    """Divergence of Bernoulli(p) from Bernoulli(q), 0 < q < 1."""
    left = p * math.log(p / q) if p > 0.0 else 0.0
    right = (1.0 - p) * math.log((1.0 - p) / (1.0 - q)) if p < 1.0 else 0.0
    return max(left + right, 0.0)


def _poisson_kl(p: float, q: float) -> float:
    """Divergence of Poisson(p) from Poisson(q), q > 0."""
    return max((p * math.log(p / q) if p > 0.0 else 0.0) + q - p, 0.0)

"""What the sums of a guardrail mean: evidence of harm and of safety; it holds no threshold and passes no verdict.

``weigh(code, params, sums, young, out)`` reads what ``watch.add`` added up. ``young`` [Y, R] are rows of periods that
are not settled yet, as far as they may count as evidence of harm.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.confseq import log_count_above, log_count_below, log_rate_above, log_rate_below
from bandit.kernels.jit import kernel
from bandit.kernels.overlap import (
    SCORES,
    TOTAL,
    TOTAL_SAFE,
    VARIANCE,
    VARIANCE_SAFE,
    normal_log_e,
    scores_log_e,
)
from bandit.kernels.signals import (
    LATEST,
    LATEST_ARRIVED,
    RUN,
    STATES,
    TILTS,
    add_newest,
    breaker,
    breaker_safe,
    detector_log_e,
    drift_log_e,
    silence_log_e,
    tilts_log_e,
)
from bandit.kernels.watch import (
    AFTER,
    ARRIVED,
    BAD,
    BLOCK,
    BREAKER,
    COLUMNS,
    COUNT,
    DETECTOR,
    DRIFT,
    EDGES,
    EVENTS,
    EVERY,
    EVERY_0,
    HARM_ASYMPTOTIC,
    MOMENTS,
    NUMBER,
    QUANTILE_HARM,
    RATE,
    RESPONSE,
    SAMPLE_RATIO,
    SECOND,
    SHOWN_BOTTOM,
    SHOWN_EXPECTED,
    SHOWN_N,
    SHOWN_N_0,
    SHOWN_TOP,
    SILENCE,
    add_rows,
)

# What ``weigh`` answers. READY is 0 while an asymptotic test may not speak yet.
SEEN, LOG_E, LOG_E_SAFE, N, N_CONTROL, OBSERVED, REFERENCE, READY = range(8)
ANSWERS = 8

STRENGTHS = np.array([10.0, 100.0, 1000.0])
"""Pseudo-outcomes of the priors mixed: 10 sees a catastrophe in three outcomes, 1,000 an excess of a fifth."""
EVENT_STRENGTHS = np.array([0.1, 1.0, 10.0, 100.0])
"""Pseudo-events of the priors mixed."""
BURN_IN_EVENTS = 50.0
BURN_IN_SKEW = 355.0


@kernel
def weigh(
    code: int,
    params: NDArray[np.float64],
    sums: NDArray[np.float64],
    young: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """Fill ``out`` [ANSWERS]: was there anything to judge, ln E of harm and of safety, outcomes of arm and control,
    what was observed and what it is compared with (without the margin)."""
    out[:] = 0.0
    out[READY] = 1.0
    if code in (RATE, EVENTS):
        _weigh_limit(code, params, sums, young, out)
    elif code == BREAKER:
        _weigh_breaker(params, sums, young, out)
    elif code == SAMPLE_RATIO:
        now = sums.copy()
        add_rows(code, params, now, young)
        at = TILTS.size
        out[SEEN] = 1.0 if now[at + 2] > 0.0 and now[at + 1] > 0.0 else 0.0
        out[LOG_E], out[LOG_E_SAFE] = tilts_log_e(now[:at])
        out[N], out[N_CONTROL] = now[at], now[at + 2] - now[at]
        out[OBSERVED] = now[at] / now[at + 2] if now[at + 2] > 0.0 else 0.0
        out[REFERENCE] = now[at + 1] / now[at + 2] if now[at + 2] > 0.0 else 0.0
    elif code == SILENCE:
        out[LOG_E], out[LOG_E_SAFE], out[REFERENCE] = silence_log_e(sums)
        out[N] = sums[RUN] if sums[RUN] > 0.0 else sums[LATEST]
        out[SEEN] = 1.0 if sums[LATEST] > 0.0 else 0.0
        out[OBSERVED] = min(sums[LATEST_ARRIVED] / sums[LATEST], 1.0) if sums[LATEST] > 0.0 else 0.0
    elif code == DRIFT:
        log_e, new_mean, new_n, old_mean, old_n = drift_log_e(sums)
        out[SEEN] = 1.0 if new_n + old_n > 0.0 else 0.0
        out[LOG_E], out[N], out[N_CONTROL], out[OBSERVED], out[REFERENCE] = (
            log_e,
            new_n,
            old_n,
            new_mean,
            old_mean,
        )
    else:
        _weigh_comparison(code, params, sums, out)


@kernel
def _weigh_limit(
    code: int,
    params: NDArray[np.float64],
    sums: NDArray[np.float64],
    young: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """``params``: the limit, and for EVENTS -1 where many events are good."""
    limit = params[0]
    n, bad, arrived = sums[0], sums[1], 0.0
    for e in range(young.shape[0]):
        n += young[e, COUNT]
        bad += young[e, BAD]
        arrived += young[e, ARRIVED]
    out[SEEN] = 1.0 if sums[0] > 0.0 or arrived > 0.0 else 0.0
    if code == RATE:
        out[LOG_E] = log_rate_above(bad, n, limit, STRENGTHS)
        out[LOG_E_SAFE] = log_rate_below(sums[1], sums[0], limit, STRENGTHS)
    elif params[1] >= 0.0:
        out[LOG_E] = log_count_above(bad, n * limit, EVENT_STRENGTHS)
        out[LOG_E_SAFE] = log_count_below(sums[1], sums[0] * limit, EVENT_STRENGTHS)
    else:
        out[LOG_E] = log_count_below(bad, n * limit, EVENT_STRENGTHS)
        out[LOG_E_SAFE] = log_count_above(sums[1], sums[0] * limit, EVENT_STRENGTHS)
    out[N], out[OBSERVED], out[REFERENCE] = n, bad / n if n > 0.0 else 0.0, limit


@kernel
def _weigh_breaker(
    params: NDArray[np.float64],
    sums: NDArray[np.float64],
    young: NDArray[np.float64],
    out: NDArray[np.float64],
) -> None:
    """``params``: the limit, ln of the tail."""
    now = sums.copy()
    arrived, settled = 0.0, 0.0
    for e in range(young.shape[0]):
        add_newest(now, young[e, NUMBER], young[e, COUNT], young[e, BAD])
        arrived += young[e, ARRIVED]
    for i in range(1, COLUMNS, 3):
        settled += sums[i]
    log_tail, n, bad = breaker(now, params[0])
    out[SEEN] = 1.0 if settled > 0.0 or arrived > 0.0 else 0.0
    out[LOG_E] = max(0.0, -log_tail)
    out[LOG_E_SAFE] = breaker_safe(sums, params[0], params[1])
    out[N], out[OBSERVED], out[REFERENCE] = n, bad / n if n > 0.0 else 0.0, params[0]


@kernel
def _weigh_comparison(
    code: int, params: NDArray[np.float64], sums: NDArray[np.float64], out: NDArray[np.float64]
) -> None:
    """``params`` but for QUANTILE_HARM: margin r of the mean; 1 where the sums count what is good, so that harm is what
    the scores call safety."""
    n, n_0, bottom = sums[SHOWN_N], sums[SHOWN_N_0], sums[SHOWN_BOTTOM]
    block = sums[BLOCK:AFTER]
    if code == HARM_ASYMPTOTIC:
        out[READY] = (
            1.0
            if _burnt_in(sums[MOMENTS : MOMENTS + 4]) and _burnt_in(sums[MOMENTS + 4 : MOMENTS + 8])
            else 0.0
        )
        if out[READY] > 0.0:
            harm = normal_log_e(block[TOTAL], block[VARIANCE])
            safe = normal_log_e(block[TOTAL_SAFE], block[VARIANCE_SAFE])
        else:
            harm, safe = 0.0, 0.0
    else:
        harm, safe = scores_log_e(block)
    if code == RESPONSE:
        harm_2, safe_2 = scores_log_e(sums[SECOND : SECOND + SCORES])
        top = max(harm, safe_2)
        both = top + math.log(0.5 * math.exp(harm - top) + 0.5 * math.exp(safe_2 - top))
        harm, safe = both, min(safe, harm_2)
    elif code != QUANTILE_HARM and params[1] > 0.0:
        harm, safe = safe, harm
    if code == DETECTOR:
        harm = detector_log_e(sums[AFTER : AFTER + STATES])
        safe -= harm
        if n == 0.0:
            n, n_0 = sums[EVERY], sums[EVERY_0]
    out[SEEN] = 1.0 if n > 0.0 and n_0 > 0.0 else 0.0
    out[LOG_E], out[LOG_E_SAFE], out[N], out[N_CONTROL] = harm, safe, n, n_0
    if bottom > 0.0:
        out[OBSERVED], out[REFERENCE] = sums[SHOWN_TOP] / bottom, sums[SHOWN_EXPECTED] / bottom


@kernel
def _burnt_in(moments: NDArray[np.float64]) -> bool:
    """At least BURN_IN_EVENTS events, and n >= 355 skewness^2 (Kohavi et al. 2014), of (n, s1, s2, s3)."""
    n, s1, s2, s3 = moments[0], moments[1], moments[2], moments[3]
    if n < 2.0 or s2 <= 0.0 or s1 * s1 < BURN_IN_EVENTS * s2:
        return False
    mean = s1 / n
    variance = s2 / n - mean * mean
    if variance <= 0.0:
        return False
    third = s3 / n - 3.0 * mean * s2 / n + 2.0 * mean**3
    return bool(n >= BURN_IN_SKEW * third * third / variance**3)


def warm() -> None:
    """Compile for the types that the judges use."""
    params, out = np.array([0.5, 0.0, 0.0, 0.0]), np.zeros(ANSWERS)
    weigh(RATE, params, np.zeros(COLUMNS), np.zeros((0, EDGES)), out)

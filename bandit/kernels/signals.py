"""Sequential signals of one arm, period by period in order: newest runs, tilts, silence, drift, became-worse; each
keeps a few sums and answers with evidence on the scale of ln E. It decides nothing."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.confseq import least_count, log_binomial_tails, log_mean_exp, log_rate_above, rarest_run
from bandit.kernels.jit import kernel
from bandit.kernels.overlap import (
    LEAST,
    ODDS,
    ODDS_SAFE,
    SCORES,
    TOTAL,
    TOTAL_SAFE,
    VARIANCE,
    VARIANCE_SAFE,
)

REACH = 32
RUNS = np.array([50.0, 100.0, 200.0])

TILTS = np.array([0.8, 0.9, 0.95, 1.05, 1.1, 1.25])
NEAREST_BELOW, NEAREST_ABOVE = 2, 3

RATES = np.array([0.1, 0.3, 1.0, 3.0, 8.0])
"""Steepnesses l of exp(l S - psi(l) V); below 1 / LEAST."""
PSI = (-np.log1p(-LEAST * RATES) - LEAST * RATES) / LEAST**2
SEEN_ODDS = np.array([1, 3])
"""Places in RATIOS of the odds that the detector follows: 1.5 and 3."""
STATES = RATES.size + SEEN_ODDS.size

ASSIGNED, ARRIVED, RUN, LATEST, LATEST_ARRIVED = range(5)
HALF = 0.5
NEVER = 0.005
"""Share of answers that a metric without any is held to."""
STOPPED = 0.001
SAFE_STRENGTHS = np.array([10.0, 100.0])

BUCKETS, PERIODS, FIRST = range(3)
MOST_BUCKETS = 23
PER_LEVEL = 2


@kernel
def add_newest(newest: NDArray[np.float64], number: float, n: float, bad: float) -> None:
    """Insert a period into ``newest`` [3 REACH], triples of (number, outcomes, bad outcomes), newest first.

    Periods without outcomes take no room; the oldest falls out.
    """
    if n <= 0.0:
        return
    place = 0
    while place < REACH and newest[3 * place + 1] > 0.0 and newest[3 * place] > number:
        place += 1
    if place == REACH:
        return
    for i in range(3 * REACH - 1, 3 * place + 2, -1):
        newest[i] = newest[i - 3]
    newest[3 * place], newest[3 * place + 1], newest[3 * place + 2] = number, n, bad


@kernel
def breaker(newest: NDArray[np.float64], limit: float) -> tuple[float, float, float]:
    """(ln tail, n, bad) of the rarest run in ``newest`` [3 REACH], see ``rarest_run``."""
    return rarest_run(newest[1::3].copy(), newest[2::3].copy(), RUNS, limit)


@kernel
def breaker_safe(newest: NDArray[np.float64], limit: float, log_tail: float) -> float:
    """-ln of the chance of so few bad outcomes in the newest full run, were the share what trips such a run."""
    total, bad, run_n, run_bad, wanted = 0.0, 0.0, 0.0, 0.0, 0
    for i in range(REACH):
        total += newest[3 * i + 1]
        bad += newest[3 * i + 2]
        if wanted < RUNS.size and total >= RUNS[wanted]:
            run_n, run_bad = total, bad
            while wanted < RUNS.size and total >= RUNS[wanted]:
                wanted += 1
    if run_n == 0.0:
        return 0.0
    catastrophe = least_count(run_n, limit, log_tail) / run_n
    if catastrophe >= 1.0:
        return 0.0
    return -log_binomial_tails(run_bad + 1.0, run_n, catastrophe)[1]


@kernel
def add_tilts(tilts: NDArray[np.float64], n: float, total: float, share: float) -> None:
    """Add n of ``total`` decisions at a known share to ln of the odds of TILTS: n ln d - total ln(1 + share (d - 1)).

    Each is a likelihood ratio whatever the shares do from period to period (cf. Lindon & Malek 2022).
    """
    for i in range(TILTS.size):
        d = TILTS[i]
        tilts[i] += n * math.log(d) - total * math.log1p(share * (d - 1.0))


@kernel
def tilts_log_e(tilts: NDArray[np.float64]) -> tuple[float, float]:
    """(ln E that the arm's part is not its share, ln E that it is within 5 % of it) of ``tilts`` [6]."""
    return log_mean_exp(tilts), min(-tilts[NEAREST_BELOW], -tilts[NEAREST_ABOVE])


@kernel
def log_sample_ratio(counts: NDArray[np.float64], shares: NDArray[np.float64]) -> float:
    """ln E of sample-ratio mismatch over all arms: mean over arms and TILTS; ``counts``, ``shares`` [E, K]."""
    arms = np.empty(counts.shape[1])
    for k in range(counts.shape[1]):
        tilts = np.zeros(TILTS.size)
        for e in range(counts.shape[0]):
            add_tilts(tilts, counts[e, k], counts[e].sum(), shares[e, k])
        arms[k] = log_mean_exp(tilts)
    return log_mean_exp(arms)


@kernel
def add_silence(sums: NDArray[np.float64], assigned: float, arrived: float) -> None:
    """Add a period of ``assigned`` decisions, ``arrived`` of them with a reward; one without decisions is no news."""
    if assigned <= 0.0 and arrived <= 0.0:
        return
    sums[ASSIGNED] += assigned
    sums[ARRIVED] += arrived
    sums[RUN] = 0.0 if arrived > 0.0 else sums[RUN] + assigned
    sums[LATEST], sums[LATEST_ARRIVED] = assigned, arrived


@kernel
def silence_log_e(sums: NDArray[np.float64]) -> tuple[float, float, float]:
    """(ln E that rewards stopped, ln E that they come, share of decisions with a reward before the silence).

    Were the share at least p, a run of k decisions without a reward after the j-th reward has chance (1 - p)^k;
    alpha / ((j+1)(j+2)) for each j bounds all runs of a lifetime by alpha. p is half the share so far, or NEVER.
    """
    before = sums[ASSIGNED] - sums[RUN]
    share = min(sums[ARRIVED] / before, 1.0) if before > 0.0 and sums[ARRIVED] > 0.0 else 0.0
    p = min(HALF * share, 0.99) if share > 0.0 else NEVER
    j = sums[ARRIVED]
    log_e = max(-sums[RUN] * math.log1p(-p) - math.log((j + 1.0) * (j + 2.0) / 2.0), 0.0)
    answered = min(sums[LATEST_ARRIVED], sums[LATEST])
    return log_e, log_rate_above(answered, sums[LATEST], STOPPED, SAFE_STRENGTHS), share


@kernel
def add_detector(states: NDArray[np.float64], scores: NDArray[np.float64], swap: bool) -> None:
    """One step of the Shiryaev-Roberts e-detectors M <- (M + 1) L, ``states`` [STATES] = ln(1 + M), by the ``scores``
    [SCORES] of one period; ``swap`` takes the scores of safety for those of harm (Shin, Ramdas & Rinaldo 2024)."""
    total = scores[TOTAL_SAFE] if swap else scores[TOTAL]
    variance = scores[VARIANCE_SAFE] if swap else scores[VARIANCE]
    odds = ODDS_SAFE if swap else ODDS
    for i in range(STATES):
        overlap = i < RATES.size
        step = RATES[i] * total - PSI[i] * variance if overlap else scores[odds + SEEN_ODDS[i - RATES.size]]
        x = states[i] + step
        states[i] = x + math.log1p(math.exp(-x)) if x > 0.0 else math.log1p(math.exp(x))


@kernel
def detector_log_e(states: NDArray[np.float64]) -> float:
    """ln of the mean of the detectors, at least 0: an alarm at ln A comes after A periods or more on average."""
    values = np.empty(STATES)
    for i in range(STATES):
        u = states[i]
        values[i] = u + math.log(-math.expm1(-u)) if u > 0.0 else -math.inf
    return max(log_mean_exp(values), 0.0)


@kernel
def add_bucket(sums: NDArray[np.float64], n: float, s1: float, s2: float) -> None:
    """Add a period to an exponential histogram: ``sums`` holds the number of buckets, of periods, then quadruples
    (level, n, s1, s2), newest first; a bucket of level l holds 2^l periods, at most PER_LEVEL of each (ADWIN2)."""
    if n <= 0.0:
        return
    used = int(sums[BUCKETS])
    for i in range(FIRST + 4 * used + 3, FIRST + 3, -1):
        if i < FIRST + 4 * MOST_BUCKETS:
            sums[i] = sums[i - 4]
    sums[FIRST], sums[FIRST + 1], sums[FIRST + 2], sums[FIRST + 3] = 0.0, n, s1, s2
    used += 1
    sums[PERIODS] += 1.0
    start = 0
    while start < used:
        level = sums[FIRST + 4 * start]
        end = start
        while end < used and sums[FIRST + 4 * end] == level:
            end += 1
        if end - start > PER_LEVEL or (used == MOST_BUCKETS and end == used and end - start > 1):
            used = _merge(sums, end - 2, used)
        start = end - 1 if end - start > PER_LEVEL else end
    sums[BUCKETS] = used


@kernel
def _merge(sums: NDArray[np.float64], place: int, used: int) -> int:
    """Merge bucket ``place`` and the older one after it; returns how many are left."""
    at = FIRST + 4 * place
    sums[at] += 1.0
    for i in range(1, 4):
        sums[at + i] += sums[at + 4 + i]
    for i in range(at + 4, FIRST + 4 * used - 4):
        sums[i] = sums[i + 4]
    for i in range(FIRST + 4 * used - 4, FIRST + 4 * used):
        sums[i] = 0.0
    return used - 1


@kernel
def drift_log_e(sums: NDArray[np.float64]) -> tuple[float, float, float, float, float]:
    """(evidence, mean and n of the newer part, mean and n of the older) at the cut of the history that shows most.

    ADWIN's cut (Bifet & Gavalda 2007) |m1 - m0| >= sqrt(2 v y / m) + 2 y / (3 m), 1/m = 1/n1 + 1/n0, solved for y. The
    evidence is y less ln 2 for both sides, ln of the cuts, and ln(pi^2 t^2 / 6) for a look at each of t periods.
    """
    used, t = int(sums[BUCKETS]), sums[PERIODS]
    n, s1, s2 = 0.0, 0.0, 0.0
    for i in range(used):
        n += sums[FIRST + 4 * i + 1]
        s1 += sums[FIRST + 4 * i + 2]
        s2 += sums[FIRST + 4 * i + 3]
    if n <= 0.0:
        return 0.0, 0.0, 0.0, 0.0, 0.0
    variance = max(s2 / n - (s1 / n) ** 2, 0.0)
    best, new_mean, new_n, old_mean, old_n = 0.0, s1 / n, n, s1 / n, 0.0
    n1, t1 = 0.0, 0.0
    for i in range(used - 1):
        n1 += sums[FIRST + 4 * i + 1]
        t1 += sums[FIRST + 4 * i + 2]
        n0 = n - n1
        m = n1 * n0 / n
        gap = abs(t1 / n1 - (s1 - t1) / n0)
        a, b = 2.0 / (3.0 * m), math.sqrt(2.0 * variance / m)
        y = ((math.sqrt(b * b + 4.0 * a * gap) - b) / (2.0 * a)) ** 2
        if y > best:
            best, new_mean, new_n, old_mean, old_n = y, t1 / n1, n1, (s1 - t1) / n0, n0
    spent = math.log(2.0 * max(used - 1, 1)) + math.log(math.pi**2 * t * t / 6.0)
    return max(best - spent, 0.0), new_mean, new_n, old_mean, old_n


def warm() -> None:
    """Compile for the types that the judges use."""
    many = np.zeros(3 * REACH)
    add_newest(many, 1.0, 60.0, 1.0)
    breaker(many, 0.1)
    breaker_safe(many, 0.1, -10.0)
    tilts = np.zeros(TILTS.size)
    add_tilts(tilts, 1.0, 2.0, 0.5)
    tilts_log_e(tilts)
    log_sample_ratio(np.ones((1, 2)), np.full((1, 2), 0.5))
    silence = np.zeros(5)
    add_silence(silence, 1.0, 1.0)
    silence_log_e(silence)
    states = np.zeros(STATES)
    add_detector(states, np.zeros(SCORES), False)
    detector_log_e(states)
    history = np.zeros(FIRST + 4 * MOST_BUCKETS)
    add_bucket(history, 1.0, 0.5, 0.25)
    drift_log_e(history)

"""Error rates and delays that guardrails are accepted by, through the shipped kernels in compiled runs; and that the
protections are what keeps them.

Bounds on counts of alarms are the 1e-6 quantiles of a binomial at the promised rate, so chance fails them once in a
million; each run is a whole release, looked at after every period.
"""

# ruff: noqa: NPY002 - compiled code has the old generator

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from bandit.guardrails.levels import thresholds
from bandit.kernels import watch, weigh
from bandit.kernels.confseq import log_normal_e
from bandit.kernels.jit import kernel
from bandit.kernels.overlap import TOTAL, VARIANCE, normal_log_e, reaches
from bandit.ledger import FloatArray, Int64Array
from tests.guardrail_periods import guarded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@kernel
def releases(
    seed: int, runs: int, batch: int, share: FloatArray, baseline: FloatArray, ratio: float, level: float
) -> tuple[Int64Array, Int64Array]:
    """[R] first look at which the harm guardrail fails, else -1, and outcomes of the canary until then."""
    np.random.seed(seed)
    looks, canary = np.full(runs, -1), np.zeros(runs, np.int64)
    params = np.array([1.0, 0.0, 0.0, 0.0])
    for run in range(runs):
        sums, row = np.zeros(watch.COLUMNS), np.zeros(watch.EDGES)
        n_0, bad_0 = 0.0, 0.0
        for e in range(share.size):
            n1 = np.random.binomial(batch, share[e])
            n0 = batch - n1
            row[watch.SHARE], row[watch.SHARE_0] = share[e], 1.0 - share[e]
            row[watch.COUNT], row[watch.COUNT_0] = n1, n0
            row[watch.BOTTOM], row[watch.BOTTOM_0] = n1, n0
            row[watch.BAD] = row[watch.SQUARE] = np.random.binomial(n1, baseline[e] * ratio)
            row[watch.BAD_0] = row[watch.SQUARE_0] = np.random.binomial(n0, baseline[e])
            row[watch.CENTRE] = bad_0 / n_0 if n_0 > 0.0 else 0.5
            n_0 += n0
            bad_0 += row[watch.BAD_0]
            watch.add(watch.HARM, params, sums, row)
            canary[run] += n1
            if reaches(sums[watch.BLOCK : watch.AFTER], level):
                looks[run] = e
                break
    return looks, canary


def at_most(rate: float, runs: int) -> int:
    """The most alarms in a million repetitions of ``runs`` runs at this rate."""
    return int(stats.binom.isf(1e-6, runs, rate))


RAMP, RISING = np.linspace(0.01, 0.5, 200), np.linspace(0.05, 0.20, 200)


def test_a_ramp_on_a_rising_baseline_is_no_harm() -> None:
    looks, _ = releases(11, 1000, 500, RAMP, RISING, 1.0, math.log(100.0))
    assert (looks >= 0).mean() <= 0.018


def test_a_fifth_more_harm_is_found_after_3500_canary_samples_at_the_median() -> None:
    looks, canary = releases(12, 2000, 500, RAMP, np.full(200, 0.10), 1.2, math.log(100.0))
    assert (looks >= 0).mean() >= 0.97
    assert float(np.median(canary)) <= 3500


def test_a_fifth_more_harm_is_found_as_soon_while_the_level_rises() -> None:
    looks, canary = releases(12, 2000, 500, RAMP, RISING, 1.2, math.log(100.0))
    assert (looks >= 0).mean() >= 0.97
    assert float(np.median(canary)) <= 3500


def test_doubled_errors_are_found_after_1500_canary_requests_at_the_median() -> None:
    looks, canary = releases(13, 400, 200, np.full(400, 0.1), np.full(400, 0.02), 2.0, math.log(100.0))
    assert (looks >= 0).mean() >= 0.99
    assert float(np.median(canary)) <= 1500


@kernel
def sparse(seed: int, runs: int, periods: int, batch: int, share: float, level: float, burn: bool) -> int:
    """Releases of equal arms with sparse revenue (3 % buy) in which "worse" is alarmed, of the asymptotic test."""
    np.random.seed(seed)
    params, out = np.array([1.0, 0.0, 0.0, 0.0]), np.zeros(weigh.ANSWERS)
    young = np.zeros((0, watch.EDGES))
    alarms = 0
    for _ in range(runs):
        sums, row = np.zeros(watch.COLUMNS), np.zeros(watch.EDGES)
        for _ in range(periods):
            row[:] = 0.0
            row[watch.SHARE], row[watch.SHARE_0] = share, 1.0 - share
            row[watch.CENTRE] = 0.985
            for _ in range(batch):
                value = 0.0
                if np.random.random() < 0.03:
                    value = min(math.exp(np.random.normal(-1.5, 1.0)), 1.0)
                at = watch.COUNT if np.random.random() < share else watch.COUNT_0
                bad = 1.0 - value
                row[at] += 1.0
                row[at + 1] += bad
                row[at + 2] += bad * bad
                row[at + 3] += bad**3
            watch.add(watch.HARM_ASYMPTOTIC, params, sums, row)
            block = sums[watch.BLOCK : watch.AFTER]
            if burn:
                weigh.weigh(watch.HARM_ASYMPTOTIC, params, sums, young, out)
                log_e = out[weigh.LOG_E]
            else:
                log_e = normal_log_e(block[TOTAL], block[VARIANCE])
            if log_e >= level:
                alarms += 1
                break
    return alarms


def test_the_burn_in_keeps_the_asymptotic_test_from_alarming_on_sparse_revenue() -> None:
    # At a share of 1 per cent and nominally 1 per cent; without the burn-in several times that.
    runs, level = 300, math.log(100.0)
    assert sparse(14, runs, 150, 400, 0.01, level, burn=True) <= at_most(0.02, runs)
    assert sparse(14, runs, 150, 400, 0.01, level, burn=False) > stats.binom.isf(0.01, runs, 0.01)


@kernel
def many_metrics(
    seed: int, runs: int, periods: int, batch: int, arms: int, rates: FloatArray, level: float
) -> int:
    """Releases of equal arms in which any metric of any challenger alarms; the control serves all of them."""
    np.random.seed(seed)
    params, row = np.array([1.0, 0.0, 0.0, 0.0]), np.zeros(watch.EDGES)
    alarmed = 0
    for _ in range(runs):
        sums = np.zeros((arms, rates.size, watch.COLUMNS))
        hit = False
        for e in range(periods):
            n = np.random.multinomial(batch, np.full(arms, 1.0 / arms))
            for m in range(rates.size):
                rate = rates[m] * (1.0 + 0.5 * math.sin(e / 9.0))
                bad_0 = np.random.binomial(n[0], rate)
                for k in range(1, arms):
                    row[:] = 0.0
                    row[watch.SHARE], row[watch.SHARE_0] = 0.5, 0.5
                    row[watch.COUNT], row[watch.COUNT_0] = n[k], n[0]
                    row[watch.BAD] = row[watch.SQUARE] = np.random.binomial(n[k], rate)
                    row[watch.BAD_0] = row[watch.SQUARE_0] = bad_0
                    row[watch.CENTRE] = rates[m]
                    watch.add(watch.HARM, params, sums[k, m], row)
                    hit = hit or reaches(sums[k, m, watch.BLOCK : watch.AFTER], level)
            if hit:
                break
        alarmed += hit
    return alarmed


def test_twenty_metrics_of_three_arms_alarm_together_as_seldom_as_one() -> None:
    metrics = [
        {"name": f"m{index}", "kind": "bernoulli", "direction": "minimize", "attribution_window": "1h"}
        for index in range(20)
    ]
    spec = guarded(
        *({"kind": "harm", "metric": metric["name"]} for metric in metrics),
        metrics=metrics,
        objective=[{"metric": "m0"}],
    )
    shared = thresholds(spec, spec.guardrails[0], 1).fail
    rates, runs = np.linspace(0.01, 0.3, 20), 250
    assert many_metrics(15, runs, 60, 600, 3, rates, shared) <= at_most(spec.alpha, runs)
    # Alpha for each of the forty: far more than alpha in all.
    assert many_metrics(15, runs, 60, 600, 3, rates, -math.log(spec.alpha)) > at_most(spec.alpha, runs)


@kernel
def run_lengths(seed: int, runs: int, most: int, level: float, decayed: bool) -> Int64Array:
    """[R] periods until the e-detector alarms for equal arms, ``most`` if it does not; or, ``decayed``, until a normal
    mixture on sums that are decayed does (half-life 7 periods)."""
    np.random.seed(seed)
    lengths = np.full(runs, most)
    params, young = np.array([1.0, 0.0, 0.0, 0.0]), np.zeros((0, watch.EDGES))
    for run in range(runs):
        sums, row, out = np.zeros(watch.COLUMNS), np.zeros(watch.EDGES), np.zeros(weigh.ANSWERS)
        total, variance = 0.0, 0.0
        for e in range(most):
            rate = 0.1 * (1.0 + 0.5 * math.sin(e / 50.0))
            row[watch.SHARE], row[watch.SHARE_0] = 0.5, 0.5
            row[watch.COUNT], row[watch.COUNT_0] = 40, 40
            row[watch.BOTTOM], row[watch.BOTTOM_0] = 40, 40
            row[watch.BAD] = row[watch.SQUARE] = np.random.binomial(40, rate)
            row[watch.BAD_0] = row[watch.SQUARE_0] = np.random.binomial(40, rate)
            row[watch.CENTRE] = 0.1
            if decayed:
                step = np.zeros(watch.COLUMNS)
                watch.add(watch.HARM_ASYMPTOTIC, params, step, row)
                total = 0.9 * total + step[watch.BLOCK + TOTAL]
                variance = 0.81 * variance + step[watch.BLOCK + VARIANCE]
                log_e = log_normal_e(total, variance, 1.0)
            else:
                watch.add(watch.DETECTOR, params, sums, row)
                out[weigh.LOG_E] = 0.0
                if sums[watch.AFTER : watch.PAGE].max() >= level:
                    weigh.weigh(watch.DETECTOR, params, sums, young, out)
                log_e = out[weigh.LOG_E]
            if log_e >= level:
                lengths[run] = e + 1
                break
    return lengths


def test_the_detector_keeps_its_run_length_and_decayed_sums_keep_nothing() -> None:
    # 50,000 checks in all; run length 1,000. A mean of 50 runs is above it by far, if cut at 10,000 periods.
    lengths = run_lengths(16, 50, 10_000, math.log(1000.0), False)
    assert lengths.mean() >= 1000
    # Alpha = 1 % for a whole life on decayed sums: most lives of 10,000 checks alarm.
    assert (run_lengths(17, 50, 10_000, math.log(100.0), True) < 10_000).mean() >= 0.5


@kernel
def lost(seed: int, runs: int, kept: float, level: float) -> Int64Array:
    """[R] requests until the sample ratio alarms, -1 if it does not in 50,000; the arm keeps a part of its choices."""
    np.random.seed(seed)
    found = np.full(runs, -1)
    params, young = np.zeros(watch.PARAMS), np.zeros((0, watch.EDGES))
    for run in range(runs):
        sums, row, out = np.zeros(watch.COLUMNS), np.zeros(watch.EDGES), np.zeros(weigh.ANSWERS)
        for e in range(100):
            share = 0.3 + 0.25 * math.sin(e / 7.0)
            arm = np.random.binomial(500, share)
            stays = np.random.binomial(arm, kept)
            row[watch.SHARE] = share
            row[watch.ASSIGNED], row[watch.ASSIGNED_ALL] = stays, 500 - arm + stays
            watch.add(watch.SAMPLE_RATIO, params, sums, row)
            weigh.weigh(watch.SAMPLE_RATIO, params, sums, young, out)
            if out[weigh.LOG_E] >= level:
                found[run] = (e + 1) * 500
                break
    return found


def test_lost_choices_are_found_within_50000_requests_and_moving_shares_are_none() -> None:
    level = math.log(2 / 0.05)
    assert int((lost(18, 400, 1.0, level) >= 0).sum()) <= at_most(0.025, 400)
    looks = lost(19, 100, 0.95, level)
    assert (looks >= 0).mean() >= 0.8
    assert np.median(looks[looks >= 0]) <= 30_000


@kernel
def calm(seed: int, runs: int, periods: int, level: float) -> int:
    """Lives without any change in which drift is flagged."""
    np.random.seed(seed)
    params, young = np.zeros(watch.PARAMS), np.zeros((0, watch.EDGES))
    flagged = 0
    for _ in range(runs):
        sums, row, out = np.zeros(watch.COLUMNS), np.zeros(watch.EDGES), np.zeros(weigh.ANSWERS)
        for _ in range(periods):
            row[watch.COUNT] = np.random.poisson(60.0)
            row[watch.BAD] = row[watch.SQUARE] = np.random.binomial(int(row[watch.COUNT]), 0.05)
            watch.add(watch.DRIFT, params, sums, row)
            weigh.weigh(watch.DRIFT, params, sums, young, out)
            if out[weigh.LOG_E] >= level:
                flagged += 1
                break
    return flagged


def test_a_mean_that_stays_is_not_called_drift() -> None:
    assert calm(20, 200, 500, math.log(1 / 0.05)) <= at_most(0.05, 200)


@kernel
def delayed(seed: int, runs: int, level: float, young: bool) -> int:
    """Releases of equal arms whose rewards come at another speed: bad outcomes at once, good ones of the control after
    one period and of the arm after ten. ``young``: periods count before they are mature."""
    np.random.seed(seed)
    params = np.array([1.0, 0.0, 0.0, 0.0])
    alarmed = 0
    for _ in range(runs):
        rows = np.zeros((60, watch.EDGES))
        hit = False
        for e in range(60):
            for at in (watch.COUNT, watch.COUNT_0):
                rows[e, at] = 100
                rows[e, at + 1] = rows[e, at + 2] = np.random.binomial(100, 0.1)
            rows[e, watch.SHARE], rows[e, watch.SHARE_0], rows[e, watch.CENTRE] = 0.5, 0.5, 0.1
            sums = np.zeros(watch.COLUMNS)
            for past in range(e + 1 if young else e - 9):
                row = rows[past].copy()
                if e - past < 10:
                    row[watch.COUNT] = row[watch.BAD]
                if e - past < 1:
                    row[watch.COUNT_0] = row[watch.BAD_0]
                watch.add(watch.HARM, params, sums, row)
            hit = hit or reaches(sums[watch.BLOCK : watch.AFTER], level)
        alarmed += hit
    return alarmed


def test_arms_that_differ_in_delay_alone_do_not_alarm_because_young_periods_wait() -> None:
    runs, level = 100, math.log(20.0)
    assert delayed(21, runs, level, young=False) <= at_most(0.05, runs)
    assert delayed(21, runs, level, young=True) >= 0.9 * runs

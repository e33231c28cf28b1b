"""Error rates in simulated releases: looked at after every batch, while shares ramp and the baseline moves.

Each world is R runs of T periods; a period has its own share and baseline. Everything is judged by the shipped
guardrails and kernels; where a usual test goes wrong it runs beside them, to show that the world is hard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pytest
from scipy import stats

from bandit.guardrails.levels import thresholds
from bandit.kernels import overlap
from bandit.kernels.confseq import (
    log_normal_e,
    log_overlap_e,
    log_rate_above,
    rarest_run,
    tuned_rho,
)
from bandit.kernels.jit import kernel
from bandit.kernels.overlap import ODDS, ODDS_SAFE, RATIOS, SCORES, TOTAL, TOTAL_SAFE, add_scores
from bandit.kernels.signals import REACH, RUNS
from bandit.kernels.weigh import STRENGTHS
from bandit.ledger import FloatArray, Int64Array
from tests.guardrail_periods import guarded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]

Numbers = FloatArray | Int64Array
RAMP = np.linspace(0.01, 0.5, 200)
RISING = np.linspace(0.05, 0.20, 200)
HARM, OVERLAP = 0, 1


@kernel
def running(
    n1: FloatArray,
    bad1: FloatArray,
    square1: FloatArray,
    n0: FloatArray,
    bad0: FloatArray,
    square0: FloatArray,
    centre: FloatArray,
    margin: float,
) -> FloatArray:
    """[R, T, SCORES] a block of scores after each period, by the shipped kernel."""
    sums = np.zeros((*n1.shape, SCORES))
    for run in range(n1.shape[0]):
        scores = np.zeros(SCORES)
        for look in range(n1.shape[1]):
            add_scores(
                scores,
                n1[run, look],
                bad1[run, look],
                square1[run, look],
                n0[run, look],
                bad0[run, look],
                square0[run, look],
                centre[run, look],
                margin,
            )
            sums[run, look] = scores
    return sums


@dataclass(frozen=True)
class World:
    """Counts [R, T] of the canary (1) and the control (0), and what was known: shares and centres."""

    share: FloatArray
    centre: FloatArray
    n1: FloatArray
    bad1: FloatArray
    square1: FloatArray
    n0: FloatArray
    bad0: FloatArray
    square0: FloatArray

    @classmethod
    def of(cls, share: FloatArray, n1: Numbers, n0: Numbers, *sums: Numbers) -> World:
        """``sums``: bad1, bad0 and, unless outcomes are 0 or 1, square1, square0. The centre is the control's mean
        so far, at first 0.5."""
        bad1, bad0, *squares = (each.astype(np.float64) for each in sums)
        seen, bad = (np.cumsum(each, axis=1) - each for each in (n0, bad0))
        centre = np.where(seen > 0, bad / np.maximum(seen, 1), 0.5)
        square1, square0 = squares or (bad1, bad0)
        wide = np.broadcast_to(share, n1.shape)
        return cls(wide, centre, n1.astype(np.float64), bad1, square1, n0.astype(np.float64), bad0, square0)

    def sums(self, margin: float = 1.0) -> FloatArray:
        """[R, T, SCORES] the scores of the harm guardrail after each period."""
        centre = np.broadcast_to(self.centre, self.n1.shape).copy()
        return running(self.n1, self.bad1, self.square1, self.n0, self.bad0, self.square0, centre, margin)

    def canary(self, look: Int64Array) -> FloatArray:
        """Outcomes of the canary up to the given look of each run that has one."""
        seen = look >= 0
        return np.asarray(np.cumsum(self.n1, axis=1)[seen, look[seen]])


def binary(
    seed: int,
    runs: int,
    batch: int,
    share: FloatArray,
    baseline: FloatArray,
    ratio: float = 1.0,
) -> World:
    """A batch of ``batch`` requests in each period; the canary's bad share is ``ratio`` times the baseline."""
    rng = np.random.default_rng(seed)
    n1 = rng.binomial(batch, share, (runs, len(share)))
    n0 = batch - n1
    return World.of(share, n1, n0, rng.binomial(n1, baseline * ratio), rng.binomial(n0, baseline))


@kernel
def first_look(
    sums: FloatArray, threshold: float, rhos: FloatArray, c: float, part: int, at: int
) -> Int64Array:
    """[R] first look at which ln E reaches the threshold, else -1; ``at``: column of S, followed by V."""
    looks = np.full(sums.shape[0], -1)
    odds = ODDS if at == TOTAL else ODDS_SAFE
    for run in range(sums.shape[0]):
        for look in range(sums.shape[1]):
            total, variance = sums[run, look, at], sums[run, look, at + 1]
            ratios = sums[run, look, odds : odds + RATIOS.size].copy()
            # No mean of likelihood ratios is above the greatest of them; most looks need no more than that.
            if max(total, 0.0) ** 2 < 2 * threshold * variance and ratios.max() < threshold:
                continue
            if part == HARM:
                log_e = overlap.log_mixture(total, variance, ratios)
            else:
                log_e = log_overlap_e(total, variance, rhos[1], c)
            if log_e >= threshold:
                looks[run] = look
                break
    return looks


def alarms(sums: FloatArray, alpha: float, part: int = HARM, at: int = TOTAL) -> Int64Array:
    return first_look(sums, -math.log(alpha), overlap.RHOS, overlap.LEAST, part, at)


@kernel
def pooled_look(
    n1: FloatArray, bad1: FloatArray, n0: FloatArray, bad0: FloatArray, threshold: float, rho: float
) -> Int64Array:
    """[R] first look at which an anytime-valid comparison of pooled means alarms: sound only while nothing moves."""
    looks = np.full(n1.shape[0], -1)
    for run in range(n1.shape[0]):
        for look in range(n1.shape[1]):
            total1, total0 = n1[run, look], n0[run, look]
            if bad1[run, look] < 20 or bad0[run, look] < 20:
                continue
            p1, p0 = bad1[run, look] / total1, bad0[run, look] / total0
            variance = p1 * (1 - p1) / total1 + p0 * (1 - p0) / total0
            if log_normal_e((p1 - p0) / variance, 1 / variance, rho) >= threshold:
                looks[run] = look
                break
    return looks


def pooled_alarms(world: World, alpha: float) -> Int64Array:
    counts = [np.cumsum(each, axis=1) for each in (world.n1, world.bad1, world.n0, world.bad0)]
    return pooled_look(
        counts[0], counts[1], counts[2], counts[3], -math.log(alpha), tuned_rho(2000 / 0.09, alpha)
    )


def share_of(looks: Int64Array) -> float:
    return float((looks >= 0).mean())


def test_a_ramp_on_a_rising_baseline_is_no_harm() -> None:
    world = binary(1, 1000, 500, RAMP, RISING)
    sums = world.sums()
    assert share_of(alarms(sums, 0.01)) <= 0.018
    assert share_of(alarms(sums, 0.01, OVERLAP)) <= 0.018
    assert share_of(pooled_alarms(world, 0.01)) >= 0.95


def test_harm_on_a_falling_baseline_is_found() -> None:
    world = binary(2, 200, 500, RAMP, RISING[::-1], ratio=1.2)
    assert share_of(alarms(world.sums(), 0.01)) >= 0.98
    assert share_of(pooled_alarms(world, 0.01)) <= 0.9


def test_the_tolerated_margin_itself_is_no_harm() -> None:
    sums = binary(3, 300, 500, RAMP, RISING, ratio=1.2).sums(margin=1.2)
    assert share_of(alarms(sums, 0.05)) <= 0.05
    assert share_of(alarms(sums, 0.05, at=TOTAL_SAFE)) <= 0.05


def test_a_safe_arm_passes() -> None:
    sums = binary(4, 100, 500, np.full(200, 0.3), np.full(200, 0.1)).sums(margin=1.2)
    assert share_of(alarms(sums, 0.05, at=TOTAL_SAFE)) >= 0.95


def test_peeking_at_every_batch_is_free() -> None:
    # C220: no difference at 2 %, 20,000 outcomes per arm, 100 looks.
    world = binary(5, 2000, 400, np.full(100, 0.5), np.full(100, 0.02))
    assert share_of(alarms(world.sums(), 0.05)) <= 0.05
    n1, bad1, n0, bad0 = (np.cumsum(each, axis=1) for each in (world.n1, world.bad1, world.n0, world.bad0))
    pooled = (bad1 + bad0) / (n1 + n0)
    z = (bad1 / n1 - bad0 / n0) / np.sqrt(np.maximum(pooled * (1 - pooled), 1e-9) * (1 / n1 + 1 / n0))
    assert float((z > stats.norm.isf(0.05)).any(axis=1).mean()) >= 0.25


@pytest.mark.parametrize(("share", "batch"), [(0.1, 100), (0.5, 20)])
def test_a_doubled_bad_share_is_found_as_soon_as_planned(share: float, batch: int) -> None:
    alpha, base, worse = 0.01, 0.02, 0.04
    world = binary(6, 300, batch, np.full(500, share), np.full(500, base), ratio=worse / base)
    looks = alarms(world.sums(), alpha)
    assert share_of(looks) >= 0.95
    v1, v0 = worse * (1 - worse), base * (1 - base)
    rho, planned = overlap.RHOS[1], 1000.0
    for _ in range(20):
        variance = planned * ((1 - share) ** 2 * v1 + share * (1 - share) * v0)
        gain = -math.log(alpha) + 0.5 * math.log1p(variance / rho)
        planned = 2 * gain * (v1 + v0 * share / (1 - share)) / (worse - base) ** 2
    # Planned for the best rho alone; the mean over rhos and odds costs the logarithms of their parts.
    assert 0.5 * planned <= float(np.median(world.canary(looks))) <= 1.6 * planned


def test_traffic_that_does_not_follow_the_shares_is_no_harm() -> None:
    # Few heavy units: the canary's real part of the traffic is 5 to 30 % in a run, its share 10 %.
    rng = np.random.default_rng(7)
    share, runs, periods = np.full(100, 0.1), 300, 100
    n1 = rng.binomial(500, rng.uniform(0.05, 0.3, (runs, 1)), (runs, periods))
    world = World.of(share, n1, 500 - n1, rng.binomial(n1, 0.1), rng.binomial(500 - n1, 0.1))
    assert share_of(alarms(world.sums(), 0.05)) <= 0.05


def test_means_of_bounded_values_keep_the_error_and_find_harm() -> None:
    # Values with little spread, such as costs: mean 0.2, sd 0.05; harm is 10 % more.
    rng = np.random.default_rng(8)
    share, shape, batch = np.full(100, 0.1), (300, 100), 100
    values = rng.beta(12.6, 50.4, (*shape, batch))
    canary = rng.random((*shape, batch)) < 0.1
    outcomes = {}
    for factor in (1.0, 1.1):
        x = np.where(canary, values * factor, values)
        n1 = canary.sum(axis=2)
        sums = [(x**power * chosen).sum(axis=2) for power in (1, 2) for chosen in (canary, ~canary)]
        world = World.of(share, n1, batch - n1, *sums)
        outcomes[factor] = alarms(world.sums(), 0.05)
        found = world.canary(outcomes[factor])
    assert share_of(outcomes[1.0]) <= 0.05
    assert share_of(outcomes[1.1]) >= 0.99
    assert float(np.median(found)) <= 300


@kernel
def any_limit_alarm(
    n: FloatArray,
    bad: FloatArray,
    limit: float,
    fail: float,
    tail: float,
    strengths: FloatArray,
    runs: FloatArray,
    reach: int,
) -> tuple[Int64Array, Int64Array]:
    """[R] did the rate limit, and did the breaker, alarm at any look?"""
    rate, breaker = np.zeros(n.shape[0], np.int64), np.zeros(n.shape[0], np.int64)
    for run in range(n.shape[0]):
        total, total_bad = 0.0, 0.0
        for look in range(n.shape[1]):
            total += n[run, look]
            total_bad += bad[run, look]
            rate_now = total_bad / total
            excess = rate_now > limit and total * (
                rate_now * math.log(rate_now / limit)
                + (1 - rate_now) * math.log((1 - rate_now) / (1 - limit))
            )
            if excess >= fail and log_rate_above(total_bad, total, limit, strengths) >= fail:
                rate[run] = 1
            first = max(0, look + 1 - reach)
            newest = n[run, first : look + 1][::-1].copy(), bad[run, first : look + 1][::-1].copy()
            if rarest_run(newest[0], newest[1], runs, limit)[0] <= tail:
                breaker[run] = 1
    return rate, breaker


def test_a_release_of_equal_arms_is_rolled_back_with_chance_alpha_at_most() -> None:
    # Three arms exactly at the limit, three guardrails on each challenger, shares that move, a look at each batch.
    limit, runs, periods = 0.03, 300, 80
    spec = guarded(
        {"kind": "rate_limit", "metric": "unsafe", "limit": limit},
        {"kind": "harm", "metric": "unsafe"},
        {"kind": "breaker", "metric": "unsafe", "limit": limit},
    )
    assert len(spec.arms) == 3
    fail = thresholds(spec, spec.guardrails[0], 1).fail
    rng = np.random.default_rng(9)
    moving = 0.2 + 0.15 * np.sin(np.arange(periods) / 9)
    n = np.stack([rng.binomial(400, part, (runs, periods)) for part in (1 - 2 * moving, moving, moving)])
    bad = rng.binomial(n, limit)
    rolled_back = np.zeros(runs, np.bool_)
    for arm in (1, 2):
        world = World.of(moving / (1 - moving), n[arm], n[0], bad[arm], bad[0])
        rate, breaker = any_limit_alarm(
            world.n1, world.bad1, limit, fail, math.log(1e-6), STRENGTHS, RUNS, REACH
        )
        rolled_back |= (alarms(world.sums(), math.exp(-fail)) >= 0) | (rate > 0) | (breaker > 0)
    assert int(rolled_back.sum()) <= stats.binom.isf(1e-6, runs, spec.alpha)
    assert rolled_back.mean() <= spec.alpha

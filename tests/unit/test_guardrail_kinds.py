"""Verdicts of single kinds of guardrails in the cases they are for, and how they read."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandit.guardrails.base import Outcome
from bandit.ledger import Period
from bandit.rollout.rollback import Kind, decisions
from bandit.spec.model import ExperimentSpec
from tests.builders import NOW
from tests.guardrail_periods import (
    HOUR,
    LIFE_MS,
    METRICS,
    guarded,
    judged,
    period,
    random_periods,
)

PAIR = [{"name": "control", "control": True}, {"name": "small"}]
HALVES = (0.5, 0.5)


def pair(*guardrails: dict[str, Any], **changes: Any) -> ExperimentSpec:
    return guarded(*guardrails, arms=PAIR, **changes)


def test_a_slow_tail_exceeds_its_limit_exactly() -> None:
    spec = pair({"kind": "quantile_limit", "metric": "latency", "limit": 800, "quantile": 0.99})
    # At the limit itself is within it.
    keeps = {"latency": [[], [800.0] * 1000]}
    assert judged(spec, [period(spec, 1, keeps, shares=HALVES)])["small", "g0"].outcome is Outcome.PASS
    slow = {"latency": [[], [100.0] * 960 + [801.0] * 40]}
    verdict = judged(spec, [period(spec, 1, slow, shares=HALVES)])["small", "g0"]
    assert verdict.outcome is Outcome.FAIL
    assert verdict.message.startswith(
        "g0: small latency above 800 0.040 of 1,000 exceeds the share 0.010 (ln E "
    )
    twin = pair({"kind": "rate_limit", "metric": "unsafe", "limit": 0.01})
    same = judged(twin, [period(twin, 1, {"unsafe": [(0, 0), (1000, 40)]}, shares=HALVES)])["small", "g0"]
    assert verdict.log_e == pytest.approx(same.log_e, rel=1e-12)


def test_a_low_quantile_of_what_should_be_high() -> None:
    spec = pair({"kind": "quantile_limit", "metric": "gain", "limit": 0.0, "quantile": 0.05})
    at = {"gain": [[], [0.0] * 1000]}
    assert judged(spec, [period(spec, 1, at, shares=HALVES)])["small", "g0"].outcome is Outcome.PASS
    below = {"gain": [[], [-0.01] * 150 + [0.5] * 850]}
    verdict = judged(spec, [period(spec, 1, below, shares=HALVES)])["small", "g0"]
    assert (verdict.outcome, verdict.observed, verdict.reference) == (Outcome.FAIL, 0.15, 0.05)
    assert "gain below 0 0.150 of 1,000" in verdict.message


QUANTILE = pair(
    {"kind": "quantile_harm", "metric": "latency", "quantile": 0.95, "between": [200, 4000], "margin": 1.2}
)


def slow(number_: int, factor: float, *, seed: int = 1, n: int = 600) -> Period:
    """Latencies of both arms, log-normal; the arm's are ``factor`` times the control's law."""
    rng = np.random.default_rng(seed + number_)
    values = np.clip(np.exp(rng.normal(6.0, 0.5, (2, n))) * [[1.0], [factor]], 0.0, 10_000.0)
    return period(QUANTILE, number_, {"latency": [list(each) for each in values]}, shares=HALVES)


@pytest.mark.parametrize(
    ("factor", "outcome"), [(1.0, Outcome.PASS), (1.2, Outcome.INCONCLUSIVE), (1.6, Outcome.FAIL)]
)
def test_a_quantile_is_compared_with_the_controls(factor: float, outcome: Outcome) -> None:
    verdict = judged(QUANTILE, [slow(each, factor) for each in range(1, 9)])["small", "g0"]
    assert verdict.outcome is outcome, verdict.message
    assert "latency above the control's p95 with margin 1.2 0." in verdict.message
    # The first period only tells the control's quantile.
    assert verdict.n == 7 * 600
    assert verdict.reference == pytest.approx(0.05, abs=0.02)


def test_a_baseline_that_becomes_slow_for_all_is_no_harm_of_the_arm() -> None:
    periods = [slow(each, 1.0) for each in range(1, 5)]
    for each in range(5, 13):
        rng = np.random.default_rng(each)
        values = np.clip(np.exp(rng.normal(7.0, 0.5, (2, 600))), 0.0, 10_000.0)
        periods.append(period(QUANTILE, each, {"latency": [list(v) for v in values]}, shares=HALVES))
    assert judged(QUANTILE, periods)["small", "g0"].outcome is Outcome.PASS


def test_events_per_decision_against_a_limit() -> None:
    spec = pair({"kind": "event_rate", "metric": "calls", "limit": 2.0})
    rng = np.random.default_rng(3)
    found = {}
    for rate in (1.4, 2.0, 3.0):
        counted = {"calls": [[], list(rng.poisson(rate, 400).astype(float))]}
        verdict = judged(spec, [period(spec, 1, counted, shares=HALVES)])["small", "g0"]
        found[rate] = verdict.outcome
    assert found == {1.4: Outcome.PASS, 2.0: Outcome.INCONCLUSIVE, 3.0: Outcome.FAIL}
    assert "small calls per decision 2.960 of 400" in verdict.message
    assert "exceeds 2.000" in verdict.message


def test_fewer_events_than_are_wanted_are_found_too() -> None:
    """Where more events are better, the limit is the least."""
    wanted = [{**each, "direction": "maximize"} if each["name"] == "calls" else each for each in METRICS]
    spec = pair({"kind": "event_rate", "metric": "calls", "limit": 2.0}, metrics=wanted)
    rng = np.random.default_rng(4)
    verdicts = {}
    for rate in (1.2, 2.0, 2.9):
        counted = {"calls": [[], list(rng.poisson(rate, 400).astype(float))]}
        verdicts[rate] = judged(spec, [period(spec, 1, counted, shares=HALVES)])["small", "g0"]
    assert [each.outcome for each in verdicts.values()] == [Outcome.FAIL, Outcome.INCONCLUSIVE, Outcome.PASS]
    assert "is below 2.000" in verdicts[1.2].message


def ratio_period(spec: ExperimentSpec, each: int, factor: float, calls: float, *, seed: int = 5) -> Period:
    """Cost per call is 0.1 for the control, ``factor`` times that for the arm, which makes ``calls`` as many calls."""
    rng = np.random.default_rng(seed + each)
    below = [rng.poisson(rate, 800).clip(0, 50).astype(float) for rate in (4.0, 4.0 * calls)]
    cost = [
        d * 0.1 * each_factor * rng.uniform(0.5, 1.5, 800)
        for d, each_factor in zip(below, (1.0, factor), strict=True)
    ]
    known = {"cost": 0.2, "calls": 0.08} if each > 1 else {"cost": 0.5, "calls": 0.5}
    counted = {"cost": [list(np.clip(c, 0, 2)) for c in cost], "calls": [list(d) for d in below]}
    return period(spec, each, counted, shares=HALVES, centres=known)


@pytest.mark.parametrize(("factor", "outcome"), [(1.0, Outcome.INCONCLUSIVE), (1.3, Outcome.FAIL)])
@pytest.mark.parametrize("calls", [1.0, 1.5])
def test_a_ratio_is_one_of_sums_never_an_average_of_ratios(
    factor: float, calls: float, outcome: Outcome
) -> None:
    # An arm that makes more calls costs more per decision and no more per call.
    spec = pair({"kind": "harm", "metric": "cost_per_call"}, {"kind": "harm", "metric": "cost"})
    periods = [ratio_period(spec, each, factor, calls) for each in range(1, 7)]
    verdicts = judged(spec, periods)
    verdict = verdicts["small", "g0"]
    assert verdict.outcome is outcome, verdict.message
    cells = [each.cells.sums[0, 1].astype(float) for each in periods[1:]]
    pooled = sum(c[2, 1] for c in cells) * 2.0 / (sum(c[7, 1] for c in cells) * 50.0)
    assert verdict.observed == pytest.approx(pooled, rel=1e-9)
    assert verdict.reference == pytest.approx(0.1, rel=0.05)
    if calls > 1.0:
        assert verdicts["small", "g1"].outcome is Outcome.FAIL
    # Before the control's ratio was known nothing counts.
    assert verdict.n == 5 * 800


@pytest.mark.parametrize("guessed", [{"cost": 0.5}, {"calls": 0.5}, {"calls": 0.0}])
def test_a_ratio_counts_from_the_time_that_both_its_means_were_learned(guessed: dict[str, float]) -> None:
    """0.5 is where a mean begins that nobody gave a prior, 0 what a period has that knew none."""
    spec = pair({"kind": "harm", "metric": "cost_per_call"})
    found = ratio_period(spec, 2, 1.0, 1.0)
    centres = {"cost": 0.2, "calls": 0.08} | guessed
    begun = replace(found, centres=tuple(centres.get(metric.name, 0.0) for metric in spec.metrics))
    verdict = judged(spec, [begun])["small", "g0"]
    assert (verdict.outcome, verdict.n) == (Outcome.NO_DATA, 0)
    assert judged(spec, [found])["small", "g0"].n == 800


def rare_success(rate: float, of: str, margin: float) -> Outcome:
    spec = pair({"kind": "harm", "metric": "satisfied", "margin": margin, "margin_of": of})
    counted = {"satisfied": [(20_000, 400), (20_000, round(20_000 * rate))]}
    each = period(spec, 1, counted, shares=HALVES, centres={"satisfied": 0.02})
    return judged(spec, [each])["small", "g0"].outcome


def test_a_margin_of_the_mean_guards_rare_successes_where_one_of_badness_tolerates_anything() -> None:
    # The control succeeds in 2 %, the arm never: 100 % failures are within 98 % times 1.1.
    assert rare_success(0.0, "badness", 1.1) is Outcome.PASS
    assert rare_success(0.0, "mean", 1.1) is Outcome.FAIL
    assert rare_success(0.012, "mean", 1.1) is Outcome.FAIL
    assert rare_success(0.02 / 1.1, "mean", 1.1) is Outcome.INCONCLUSIVE
    assert rare_success(0.02, "mean", 1.6) is Outcome.PASS


def test_a_margin_of_the_mean_reads_in_the_metrics_unit() -> None:
    spec = pair({"kind": "harm", "metric": "satisfied", "margin": 1.25, "margin_of": "mean"})
    counted = {"satisfied": [(2000, 1000), (2000, 400)]}
    verdict = judged(spec, [period(spec, 1, counted, shares=HALVES)])["small", "g0"]
    assert (verdict.observed, verdict.reference) == pytest.approx((0.2, 0.4))
    assert "is below the control's with margin 1.25 (of 2,000) 0.400" in verdict.message


def test_where_less_is_better_and_values_begin_at_zero_both_margins_are_one() -> None:
    verdicts = []
    for of in ("badness", "mean"):
        spec = pair({"kind": "harm", "metric": "cost", "margin": 1.1, "margin_of": of})
        values = {"cost": [[0.4, 0.6] * 200, [0.6, 0.8] * 200]}
        verdicts.append(
            judged(spec, [period(spec, 1, values, shares=HALVES, centres={"cost": 0.25})])["small", "g0"]
        )
    assert verdicts[0].log_e == pytest.approx(verdicts[1].log_e, rel=1e-9)
    assert verdicts[0].reference == pytest.approx(verdicts[1].reference, rel=1e-9)


def asymptotic(bad0: int, bad1: int, n: int, *, metric: str = "unsafe") -> Any:
    spec = pair({"kind": "harm", "metric": metric, "method": "asymptotic"})
    each = period(spec, 1, {metric: [(n, bad0), (n, bad1)]}, shares=HALVES, centres={"unsafe": bad0 / n})
    return judged(spec, [each])["small", "g0"]


def test_an_asymptotic_test_is_silent_during_its_burn_in() -> None:
    early = asymptotic(40, 400, 4000)
    assert (early.outcome, early.log_e, early.log_e_safe) == (Outcome.INCONCLUSIVE, 0.0, 0.0)
    assert (
        early.message.endswith("burn-in; needs about 31,241 more") or "burn-in; needs about" in early.message
    )
    assert asymptotic(400, 800, 4000).outcome is Outcome.FAIL
    # 60 events on each side, but so rare that 355 skewness^2 outcomes are not reached: skewness^2 is 1 / 0.01.
    assert "burn-in" in asymptotic(60, 200, 6000).message
    assert asymptotic(600, 1200, 60_000).outcome is Outcome.FAIL


def test_skewed_values_wait_longer_than_even_ones() -> None:
    spec = pair({"kind": "harm", "metric": "cost", "method": "asymptotic"})
    rng = np.random.default_rng(2)
    even = list(rng.uniform(0.2, 1.0, 400))
    skewed = list(np.clip(np.exp(rng.normal(-4.0, 1.5, 400)), 0, 2))
    messages = [
        judged(spec, [period(spec, 1, {"cost": [values, values]}, shares=HALVES, centres={"cost": 0.3})])[
            "small", "g0"
        ].message
        for values in (even, skewed)
    ]
    assert "burn-in" not in messages[0]
    assert "burn-in" in messages[1]


def life(good: int, bad: int, worse: float) -> list[Period]:
    """``good`` periods in which the arm is better than the control, ``bad`` ones where it is ``worse`` times it."""
    spec = WORSE
    rates = [(0.1, 0.06)] * good + [(0.1, 0.1 * worse)] * bad
    rng = np.random.default_rng(4)
    return [
        period(
            spec,
            each,
            {"unsafe": [(500, int(rng.binomial(500, p0))), (500, int(rng.binomial(500, p1)))]},
            shares=HALVES,
            centres={"unsafe": 0.1},
        )
        for each, (p0, p1) in enumerate(rates)
    ]


WORSE = pair(
    {"kind": "became_worse", "metric": "unsafe", "run_length": 1000}, {"kind": "harm", "metric": "unsafe"}
)


def test_trouble_after_a_long_good_life_is_seen_at_once() -> None:
    verdicts = judged(WORSE, life(150, 5, 2.0))
    assert verdicts["small", "g0"].outcome is Outcome.FAIL
    # Over its whole life the arm is better still.
    assert verdicts["small", "g1"].outcome is Outcome.PASS
    message = verdicts["small", "g0"].message
    assert "became above the control's" in message
    # What is shown is about the trouble, not the life.
    assert verdicts["small", "g0"].observed == pytest.approx(0.2, abs=0.03)
    assert verdicts["small", "g0"].n <= 20 * 500


def test_a_good_life_alone_passes_and_a_moving_baseline_alarms_nobody() -> None:
    assert judged(WORSE, life(60, 0, 1.0))["small", "g0"].outcome is Outcome.PASS
    rng = np.random.default_rng(6)
    rising = [
        period(
            WORSE,
            each,
            {"unsafe": [(400, int(rng.binomial(400, rate))), (400, int(rng.binomial(400, rate)))]},
            shares=HALVES,
            centres={"unsafe": 0.05},
        )
        for each, rate in enumerate(np.linspace(0.05, 0.5, 60))
    ]
    assert judged(WORSE, rising)["small", "g0"].outcome is not Outcome.FAIL


def test_traffic_that_follows_moving_shares_is_right_and_lost_choices_are_not() -> None:
    # The constant split of all periods together is off; each period is right.
    spec = pair({"kind": "sample_ratio", "action": "flag"})
    rng = np.random.default_rng(7)
    for kept, outcome in ((1.0, Outcome.PASS), (0.95, Outcome.FAIL)):
        periods = []
        for each, share in enumerate(np.linspace(0.1, 0.6, 50)):
            arm = rng.binomial(1000, share)
            assigned = (1000 - int(arm), int(rng.binomial(arm, kept)))
            periods.append(period(spec, each, {}, assigned=assigned, shares=(1 - share, share)))
        verdict = judged(spec, periods)["small", "g0"]
        assert verdict.outcome is outcome, verdict.message
    assert "traffic 0." in verdict.message
    assert "is not its share 0.349" in verdict.message
    assert decisions([verdict]) == ()


def test_lost_choices_are_seen_while_the_period_is_open() -> None:
    """An allocation may live for minutes; traffic needs no window to close."""
    spec = pair({"kind": "sample_ratio", "action": "flag"})
    lost = period(spec, 1, {}, assigned=(2000, 900), shares=HALVES, open_=True)
    verdict = judged(spec, [lost], now_ms=NOW + 2 * LIFE_MS)["small", "g0"]
    assert (verdict.outcome, verdict.n) == (Outcome.FAIL, 900)


def test_rewards_that_stop_are_missed_after_the_declared_time() -> None:
    spec = pair({"kind": "silence", "metric": "unsafe", "after": "10m", "action": "hold"})
    before = [
        period(spec, each, {"unsafe": [(50, 0), (50, 0)]}, assigned=(100, 100), shares=HALVES)
        for each in range(10)
    ]
    after = [period(spec, each, {}, assigned=(100, 100), shares=HALVES) for each in range(10, 13)]
    closed = NOW + 13 * LIFE_MS
    early = judged(spec, [*before, *after], now_ms=closed)["small", "g0"]
    assert early.outcome is Outcome.PASS
    late = judged(spec, [*before, *after], now_ms=closed + 10 * LIFE_MS)["small", "g0"]
    assert (late.outcome, late.n) == (Outcome.FAIL, 300)
    assert "small decisions with unsafe 0.000 of 300 stopped; before it was 0.500" in late.message
    assert [each.kind for each in decisions([late])] == [Kind.HOLD]


def test_a_metric_that_never_had_a_reward_is_missed_too() -> None:
    spec = pair({"kind": "silence", "metric": "unsafe", "action": "flag"})
    few = [period(spec, 1, {}, assigned=(300, 300), shares=HALVES)]
    many = [period(spec, 1, {}, assigned=(9000, 9000), shares=HALVES)]
    assert judged(spec, few)["small", "g0"].outcome is Outcome.INCONCLUSIVE
    assert judged(spec, many)["small", "g0"].outcome is Outcome.FAIL


@pytest.mark.parametrize("answered", [600, 1000])
def test_answers_that_differ_either_way_are_flagged(answered: int) -> None:
    spec = pair({"kind": "response_rate", "metric": "unsafe", "margin": 1.1, "action": "flag"})
    counted = {"unsafe": [(800, 0), (answered, 0)]}
    periods = [period(spec, each, counted, assigned=(1000, 1000), shares=HALVES) for each in range(4)]
    verdict = judged(spec, periods)["small", "g0"]
    assert (verdict.outcome, verdict.observed, verdict.reference) == (Outcome.FAIL, answered / 1000, 0.8)
    assert "is not the control's with margin 1.1 (of 4,000) 0.800" in verdict.message
    # Windows that are open say nothing.
    assert judged(spec, periods, now_ms=NOW + HOUR - 1)["small", "g0"].outcome is Outcome.NO_DATA


def test_a_mean_that_moved_is_flagged_with_both_means() -> None:
    spec = pair({"kind": "drift", "metric": "cost", "action": "flag"})
    rng = np.random.default_rng(8)
    means = [0.5] * 40 + [0.8] * 24
    periods = [
        period(spec, each, {"cost": [[], list(rng.uniform(mean - 0.3, mean + 0.3, 100))]}, shares=HALVES)
        for each, mean in enumerate(means)
    ]
    verdict = judged(spec, periods)["small", "g0"]
    assert verdict.outcome is Outcome.FAIL
    assert (verdict.observed, verdict.reference) == pytest.approx((0.8, 0.5), abs=0.05)
    assert judged(spec, periods[:40])["small", "g0"].outcome is Outcome.INCONCLUSIVE


def test_hostile_sums_give_verdicts_without_nan() -> None:
    kinds: list[dict[str, Any]] = [
        {"kind": "quantile_limit", "metric": "latency", "limit": 800, "quantile": 0.99},
        {"kind": "quantile_harm", "metric": "latency", "quantile": 0.99, "between": [200, 5000]},
        {"kind": "event_rate", "metric": "calls", "limit": 2.5},
        {"kind": "became_worse", "metric": "unsafe"},
        {"kind": "sample_ratio", "action": "flag"},
        {"kind": "silence", "metric": "unsafe", "action": "hold"},
        {"kind": "response_rate", "metric": "unsafe", "margin": 10, "action": "flag"},
        {"kind": "drift", "metric": "cost", "action": "flag"},
        {"kind": "harm", "metric": "cost_per_call", "margin": 10},
        {"kind": "harm", "metric": "cost", "method": "asymptotic"},
        {"kind": "harm", "metric": "satisfied", "margin": 10, "margin_of": "mean"},
    ]
    spec = guarded(*kinds)
    assert {str(metric["name"]) for metric in METRICS} > {"latency", "calls"}
    for seed in range(3):
        periods = random_periods(spec, seed, 6)
        for each in periods[:3]:
            each.cells.sums *= 2**28 // 400
            each.cells.exposures *= 2**28 // 400
        for verdict in judged(spec, periods).values():
            for value in (verdict.log_e, verdict.log_e_safe, verdict.observed, verdict.reference):
                assert math.isfinite(value), verdict

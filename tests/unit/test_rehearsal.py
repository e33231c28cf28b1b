"""Rehearsals: worlds one can check by hand, sums true to their laws, and numbers that say what they claim."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandit.reading import read
from bandit.simulate.advice import advice, outcomes_needed
from bandit.simulate.laws import Law, atoms, draw
from bandit.simulate.look import Book, Standing, look
from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import plan
from bandit.simulate.standard import standard_worlds
from bandit.simulate.tally import Part, tally
from bandit.spec.channels import Channel, ChannelKind
from bandit.spec.model import PPM, Metric
from tests.rehearsals import LIKED, UNSAFE, runs_of, spec_of, world_of

FIXED = {"kind": "fixed", "weights": {"a": 0.5, "b": 0.5}}
HARM = {"name": "worse", "kind": "harm", "metric": "unsafe"}
LIMIT = {"name": "limit", "kind": "rate_limit", "metric": "unsafe", "limit": 0.05}


def test_a_world_without_chance_is_what_one_adds_up_by_hand() -> None:
    # b always succeeds, a never: each request of a loses 1.
    spec = spec_of(allocator=FIXED)
    world = world_of(
        200, 5, {"a": {"liked": {"mean": 0.0}, "unsafe": {"mean": 0.0}}, "b": {"liked": {"mean": 1.0}}}
    )
    made, runs = runs_of(spec, world, 5, 3)
    assert made.best == 1
    for run in runs:
        assert run.regret == run.served[:, 0].sum()
        assert np.all(run.shares == 0.5)
        assert abs(run.served.sum() - 1000) < 6 * math.sqrt(1000)
    found = tally(made, runs)
    assert found.on_top == Part(3, 3)
    assert found.equal_regret == 500
    assert found.top_requests is not None
    assert found.top_requests.median == 0


def test_the_learner_goes_to_the_better_arm_and_regret_is_what_it_gave_the_other() -> None:
    world = world_of(
        200, 10, {"a": {"liked": {"mean": 0.0}, "unsafe": {"mean": 0.0}}, "b": {"liked": {"mean": 1.0}}}
    )
    _, runs = runs_of(spec_of(), world, 10, 3)
    for run in runs:
        assert run.regret == run.served[:, 0].sum()
        assert run.shares[0].tolist() == [0.5, 0.5]  # equal posteriors, equal weights
        assert run.shares[-1, 1] > 0.99


def test_sums_of_a_period_are_true_to_the_laws() -> None:
    metrics = [
        LIKED,
        {
            "name": "cost",
            "kind": "gaussian",
            "direction": "minimize",
            "range": [0, 10],
            "attribution_window": "1s",
        },
        {
            "name": "spent",
            "kind": "revenue",
            "direction": "maximize",
            "range": [0, 100],
            "attribution_window": "1s",
        },
    ]
    spec = spec_of(metrics=metrics, objective=[{"metric": "liked"}, {"metric": "cost"}])
    laws = {
        "a": {
            "liked": {"mean": 0.3, "answered": 0.5},
            "cost": {"mean": 4, "sd": 1},
            "spent": {"mean": 2, "sd": 5, "buyers": 0.2},
        },
        "b": {"cost": {"times": 1.25}},
    }
    made = plan(spec, world_of(40_000, 1, laws), 1)
    drawn = Outcomes(made).period(0, np.array([0.25, 0.75]), np.random.default_rng(3))
    at = spec.columns
    n, s1, s2 = (each[0, 0] for each in drawn[1:])
    assert drawn.assigned.sum() == pytest.approx(40_000, abs=6 * 200)
    assert drawn.assigned[0, 0] / drawn.assigned.sum() == pytest.approx(0.25, abs=0.015)
    liked, cost, spent = (at[Channel(ChannelKind.VALUE, m)] for m in range(3))
    assert n[0, liked] / drawn.assigned[0, 0] == pytest.approx(0.5, abs=0.03)
    assert s1[0, liked] / n[0, liked] == pytest.approx(0.3, abs=0.04)
    assert (s1[:, cost] / n[:, cost]).tolist() == pytest.approx([0.4, 0.5], abs=0.005)
    spread = s2[:, cost] / n[:, cost] - (s1[:, cost] / n[:, cost]) ** 2
    assert spread.tolist() == pytest.approx([0.01, 0.01], rel=0.08)
    assert s1[1, spent] / n[1, spent] == pytest.approx(made.truth[0, 0, 1, 2], rel=0.15)
    log = at[Channel(ChannelKind.LOG, 2)]
    assert n[1, log] / n[1, spent] == pytest.approx(0.2, abs=0.02)  # values above 0 alone
    pair = at[Channel(ChannelKind.PAIR, 0, other=1)]
    assert n[0, pair] == n[0, liked]  # both were answered
    assert s1[0, pair] / n[0, pair] == pytest.approx(0.3 * 0.4, abs=0.02)


def test_rewards_come_as_late_as_their_delays_and_never_after_the_window() -> None:
    metrics = [{**LIKED, "attribution_window": "30s", "default_when_silent": 0}, UNSAFE]
    spec = spec_of(metrics=metrics)
    made = plan(spec, world_of(20_000, 10, {"a": {"liked": {"mean": 1.0, "delay": "10s"}}}), 10)
    drawn = Outcomes(made).period(0, np.array([1.0, 0.0]), np.random.default_rng(4))
    arrived = drawn.n[:, 0, 0, 0] / drawn.assigned[0, 0]
    # A decision at u in (0, 1) periods, a delay of mean 1 period: P(u + D <= j + 1), j looks later; the window is 3.
    expected = [1 - math.exp(-j) * (1 - math.exp(-1)) for j in range(3)]
    assert arrived[:3].tolist() == pytest.approx(expected, abs=0.02)
    assert arrived[-1] == pytest.approx(1 - math.exp(-3), abs=0.01)
    parts = [at for channel, at in spec.columns.items() if channel.kind is ChannelKind.EARLY]
    early = drawn.s1[-1, 0, 0, parts] / drawn.n[-1, 0, 0, parts]
    whole = 1 - math.exp(-3)
    assert early[-2:].tolist() == pytest.approx([(1 - math.exp(-1.5)) / whole, 1.0], abs=0.02)


def test_what_comes_after_the_window_counts_as_silence() -> None:
    metrics = [{**LIKED, "attribution_window": "20s", "default_when_silent": 0}, UNSAFE]
    law = {"mean": 0.5, "delay": "10s", "answered": 0.8}
    made = plan(spec_of(metrics=metrics), world_of(10, 1, {"a": {"liked": law}}), 1)
    assert made.truth[0, 0, 0, 0] == pytest.approx(0.5 * 0.8 * (1 - math.exp(-2)))
    assert made.arm_utility[0] == made.truth[0, 0, 0, 0]


@pytest.mark.parametrize(
    ("metric", "law"),
    [
        ({"kind": "fraction", "range": (0.0, 2.0)}, Law(0.5, sd=0.2)),
        ({"kind": "gaussian", "range": (0.0, 1.0)}, Law(0.3, sd=0.4)),
        ({"kind": "poisson", "range": (0.0, 20.0)}, Law(3.0)),
        ({"kind": "exponential", "range": (0.0, 10.0)}, Law(4.0)),
        ({"kind": "lognormal", "range": (0.0, 50.0)}, Law(5.0, sd=9.0)),
        ({"kind": "revenue", "range": (0.0, 1000.0), "winsorize": 60.0}, Law(3.0, sd=40.0, buyers=0.1)),
        ({"kind": "rating", "levels": (1.0, 2.0, 5.0)}, Law(2.0, levels=(0.5, 0.2, 0.3))),
    ],
)
def test_true_means_are_those_of_what_is_drawn(metric: dict[str, Any], law: Law) -> None:
    """After range and winsorize, which cut these laws hard."""
    own = Metric.model_validate({"name": "m", "direction": "maximize", **metric})
    x = draw(own, law, np.full(200_000, law.mean), np.random.default_rng(5))
    assert x.min() >= 0.0
    assert x.max() <= 1.0
    assert atoms(own, law, law.mean).mean == pytest.approx(
        x.mean(), abs=5 * x.std() / math.sqrt(x.size) + 2e-4
    )


def test_a_guardrail_less_is_harm_more() -> None:
    laws = {
        "a": {"liked": {"mean": 0.3}, "unsafe": {"mean": 0.02}},
        "b": {"liked": {"times": 1.2}, "unsafe": {"times": 4}},
    }
    world = world_of(200, 30, laws)
    bounds = {"floor": 0.2, "control_floor": 0.2}
    guarded, bare = (
        tally(*runs_of(spec_of(guardrails=guardrails, bounds=bounds), world, 30, 8))
        for guardrails in ([HARM], [])
    )
    assert guarded.best == "a"  # b is better, and not feasible
    assert guarded.regret == 0.0  # what harm pays is no gain
    assert guarded.missed.share == 0.0
    assert guarded.guards[0].harmful
    assert guarded.guards[0].acted == Part(8, 8)
    assert guarded.arms[1].rolled_back == Part(8, 8)
    assert guarded.arms[1].share == 0.0
    assert bare.best == "b"
    harmless = [arm.harmful for arm in bare.arms]
    assert harmless == [False, False]  # nobody promised anything
    assert guarded.arms[1].requests < 0.5 * bare.arms[1].requests
    assert guarded.harm_requests == guarded.arms[1].requests


def test_a_rollback_lasts_and_what_is_freed_keeps_the_ramp() -> None:
    """The killed arm stays at exactly 0, and no other challenger leaps into its place."""
    spec = spec_of(
        3,
        guardrails=[LIMIT],
        bounds={"floor": 0.02, "control_floor": 0.1, "ramp_per_minute": 0.12},
        alpha=0.2,
    )
    laws = {
        "a": {"liked": {"mean": 0.3}, "unsafe": {"mean": 0.01}},
        "b": {"liked": {"mean": 0.9}},
        "c": {"unsafe": {"mean": 0.6}},
    }
    made, runs = runs_of(spec, world_of(600, 25, laws), 25, 4)
    for run in runs:
        fell = run.rolled_back[2]
        assert fell >= 0
        assert np.all(run.shares[fell + 1 :, 2] == 0.0)
        assert np.all(run.served[fell + 1 :, 2] == 0.0)
        assert np.all(np.diff(run.shares[:, 1]) <= 0.02 + 2e-6)  # a sixth of a minute per look
        assert np.all(run.shares[:, 0] >= 0.1)  # the control is never starved
        assert run.shares[-1, 1] > 0.3
    assert made.best == 1


def test_a_false_rollback_is_told_from_a_right_one() -> None:
    spec = spec_of(guardrails=[LIMIT])
    world = world_of(
        100, 4, {"a": {"liked": {"mean": 0.3}, "unsafe": {"mean": 0.01}}, "b": {"unsafe": {"mean": 0.5}}}
    )
    made, runs = runs_of(spec, world, 4, 2)
    assert tally(made, runs).false_rollbacks == Part(0, 2)
    # The same runs in a world where nobody is harmful.
    innocent = replace(made, harmful=np.full_like(made.harmful, made.periods))
    assert tally(innocent, runs).false_rollbacks == Part(2, 2)


@pytest.mark.parametrize(
    ("count", "of", "low", "high"), [(0, 20, 0.0, 0.1684), (20, 20, 0.8316, 1.0), (5, 100, 0.0164, 0.1128)]
)
def test_shares_of_runs_have_exact_intervals(count: int, of: int, low: float, high: float) -> None:
    part = Part(count, of)
    assert (part.low, part.high) == pytest.approx((low, high), abs=1e-4)  # Clopper and Pearson 1934, tables


def test_harm_is_judged_by_laws() -> None:
    """Each kind of promise, broken by one arm and kept by the other, from the right moment on."""
    metrics = [
        LIKED,
        UNSAFE,
        {
            "name": "ms",
            "kind": "lognormal",
            "direction": "minimize",
            "range": [0, 10_000],
            "attribution_window": "1s",
        },
    ]
    guardrails = [
        HARM,
        LIMIT,
        {"name": "p99", "kind": "quantile_limit", "metric": "ms", "quantile": 0.9, "limit": 900},
        {
            "name": "slow",
            "kind": "quantile_harm",
            "metric": "ms",
            "quantile": 0.9,
            "margin": 1.2,
            "between": [200, 2000],
        },
        {"name": "less", "kind": "harm", "metric": "liked", "margin": 1.1, "margin_of": "mean"},
    ]
    spec = spec_of(3, metrics=metrics, guardrails=guardrails)
    step = {"drift": {"shape": "step", "by": 1.0, "at": "50s"}}
    laws = {
        "a": {"liked": {"mean": 0.4}, "unsafe": {"mean": 0.03}, "ms": {"mean": 400, "sd": 300}},
        "b": {"liked": {"times": 0.95}, "ms": {"times": 1.1}},
        "c": {"liked": {"times": 0.85}, "unsafe": step, "ms": {"times": 1.5}},
    }
    made = plan(spec, world_of(100, 10, laws), 10)
    never = 10
    assert made.harmful.tolist() == [
        [never, never, 5],
        [never, never, 5],
        [never, never, 0],
        [never, never, 0],
        [never, never, 0],
    ]


def test_a_guardrail_that_the_traffic_is_too_thin_for_is_told_with_what_would_do() -> None:
    spec = spec_of(guardrails=[HARM], alpha=0.01, bounds={"floor": 0.0, "cap": 0.1, "control_floor": 0.1})
    world = world_of(20, 20, {"a": {"liked": {"mean": 0.3}, "unsafe": {"mean": 0.02}}})
    made, runs = runs_of(spec, world, 20, 2)
    (sentence,) = advice(made, tally(made, runs))
    assert "worse cannot see +20 % on b at 7,200 requests an hour within 200s: it needs about" in sentence
    assert "of the traffic" in sentence
    assert "watch for" in sentence
    # 2 % against 2.4 % at alpha 1 %: the design's formula gives about 35,000 outcomes, at a part of a tenth.
    assert 20_000 < outcomes_needed(made, spec.guardrails[0], 1, 1.2, 0.1) < 50_000
    plenty = world_of(200_000, 2, {"a": {"liked": {"mean": 0.3}, "unsafe": {"mean": 0.2}}})
    rich = plan(spec, plenty, 2)
    served = tally(made, runs)
    arms = tuple(replace(arm, requests=200_000.0) for arm in served.arms)
    assert advice(rich, replace(served, requests=400_000.0, arms=arms)) == ()


def test_standard_worlds_are_what_they_say() -> None:
    spec = spec_of(3, guardrails=[HARM, LIMIT])
    worlds = standard_worlds(spec)
    assert [world.world for world in worlds] == ["equal", "b-better", "c-better", "b-harmful", "rising"]
    equal, better, _, harmful, rising = (plan(spec, world, 10) for world in worlds)
    assert equal.best == 0
    assert np.ptp(equal.truth, axis=2).max() == 0.0
    assert better.best == 1
    assert (better.arm_utility / better.arm_utility[0]).tolist() == pytest.approx([1, 1.1, 1])
    assert harmful.harmful.tolist() == [[10, 0, 10], [10, 0, 10]]
    assert harmful.truth[0, 0, 1, 1] == pytest.approx(0.1)  # twice the limit
    assert harmful.truth[0, 0, 0, 1] == pytest.approx(0.025)  # half of it
    assert rising.harmful.min() == 10
    assert np.all(np.diff(rising.truth[:, 0, 0, 0]) > 0)


def test_standard_worlds_keep_limits_of_every_kind_but_where_they_break_them() -> None:
    """A quantile and a rate of events, in units of their metrics and in both directions."""
    wait = {"name": "wait", "kind": "exponential", "direction": "minimize", "range": [0, 10_000]}
    calls = {"name": "calls", "kind": "poisson", "direction": "minimize", "range": [0, 50]}
    score = {"name": "score", "kind": "gaussian", "direction": "maximize", "range": [0, 100]}
    limits = [
        {"name": "slow", "kind": "quantile_limit", "metric": "wait", "limit": 3000, "quantile": 0.95},
        {"name": "often", "kind": "event_rate", "metric": "calls", "limit": 2.5},
        {"name": "low", "kind": "quantile_limit", "metric": "score", "limit": 10, "quantile": 0.05},
    ]
    metrics = [{**each, "attribution_window": "1s"} for each in (wait, calls, score)]
    spec = spec_of(metrics=[LIKED, *metrics], guardrails=limits)
    equal, better, harmful, rising = (plan(spec, world, 10) for world in standard_worlds(spec))
    for kept in (equal, better, rising):
        assert kept.harmful.min() == 10
    assert harmful.harmful[:, 1].tolist() == [0, 0, 0]
    assert harmful.harmful[:, 0].tolist() == [10, 10, 10]
    assert equal.truth[0, 0, 0, 2] == pytest.approx(1.25 / 50, rel=0.01)  # half of the limit
    # Half of the twentieth that may wait longer than 3 s: exp(-3000 / mean) = 0.025.
    assert equal.truth[0, 0, 0, 1] == pytest.approx(3000 / math.log(40) / 10_000, rel=0.02)


def test_a_look_reads_the_book_as_the_ledger_would() -> None:
    spec = spec_of()
    made = plan(spec, world_of(50, 3, {"a": {"liked": {"mean": 0.3, "delay": "5s"}}}), 3)
    outcomes = Outcomes(made)
    book = Book.empty(spec, 3, outcomes.lags, 1, made.period_s)
    standing = Standing.begin(spec)
    look(standing, book, 50.0)
    for period in range(3):
        shares = np.array(standing.shares_ppm) / PPM
        drawn = outcomes.period(period, shares, np.random.default_rng(period))
        book.add(drawn, shares, standing.centres)
        whole, rows = book.tables()
        assert rows.end_ms[-1] == 0
        assert whole.number.tolist() == list(range(1, period + 2))
        reading = read(whole, spec, book.now_ms)
        assert reading.assigned.sum() == whole.assigned.sum()
        assert whole.n[-1, :, 0].sum() <= drawn.n[-1, 0, :, 0].sum()  # the rest is still to come

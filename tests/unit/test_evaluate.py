"""Evaluations of a spec by a log: numbers by hand, what guardrails do, and what is refused or doubted in words."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bandit.errors import InvalidArgument
from bandit.evaluate.logged import Collector, Logged
from bandit.evaluate.outcome import Evaluation, Z
from bandit.evaluate.rejection import by_replay
from bandit.evaluate.weights import by_weights
from bandit.ledger import FloatArray
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_mapping
from tests.evaluations import START_MS, drawn, logged, spec_of
from tests.rehearsals import LIKED, UNSAFE

FIXED: dict[str, Any] = {"allocator": {"kind": "fixed", "weights": {"a": 0.2, "b": 0.8}}}


def even(rng: np.random.Generator, size: int) -> FloatArray:
    return np.array([0.5, 0.5])


def warned(found: Evaluation) -> str:
    return " ".join(found.warnings)


def test_fixed_shares_by_hand() -> None:
    spec = spec_of(2, **FIXED)
    chances = np.array([[0.5, 0.5], [0.75, 0.25], [0.5, 0.5], [0.2, 0.8]])
    found = by_weights(logged(spec, [0, 1, 1, 0], chances, [1.0, 0.0, 1.0, 1.0]), 1.0)
    w, r = np.array([0.4, 3.2, 1.6, 1.0]), np.array([1.0, 0.0, 1.0, 1.0])
    ips, snips, dr, switch = found.estimates
    assert ips.value.value == pytest.approx((w * r).mean())
    assert ips.value.se == pytest.approx((w * r).std(ddof=1) / 2)
    assert ips.lift.value == pytest.approx((w * r - r).mean())
    assert ips.lift.se == pytest.approx((w * r - r).std(ddof=1) / 2)
    assert snips.value.value == pytest.approx((w * r).sum() / w.sum())
    assert snips.value.se == pytest.approx((w * (r - (w * r).sum() / w.sum()) / w.mean()).std(ddof=1) / 2)
    # What arms brought before, drawn to the mean of all as if by 100 decisions; 0.5 before any.
    q = np.array(
        [
            [0.5, 0.5],
            [101 / 101, 100 / 100],
            [(1 + 50) / 101, 50 / 101],
            [(1 + 200 / 3) / 101, (1 + 200 / 3) / 102],
        ]
    )
    chosen = q[np.arange(4), [0, 1, 1, 0]]
    expected = (q @ np.array([0.2, 0.8]) + w * (r - chosen)).mean()
    assert dr.value.value == pytest.approx(expected)
    assert switch.value == dr.value  # no weight is above 10
    assert (found.logged.value, found.logged.se) == pytest.approx((0.75, 0.25))
    assert ips.value.high == 1.0  # cut at what is possible
    assert ips.value.low == pytest.approx(max((w * r).mean() - Z * (w * r).std(ddof=1) / 2, 0.0))
    assert found.trust is not None
    assert found.trust.effective == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert (found.counts.decisions, found.counts.valued, found.counts.looks) == (4, 4, 4)
    assert [(arm.decisions, round(arm.share, 9)) for arm in found.arms] == [(2, 0.2), (2, 0.8)]


def test_a_cost_is_valued_in_the_unit_of_the_objective() -> None:
    cost = {**LIKED, "name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0, 4]}
    spec = spec_of(
        2,
        metrics=[LIKED, UNSAFE, cost],
        objective=[{"metric": "liked", "weight": 2}, {"metric": "cost", "weight": 1, "scale": [0, 2]}],
        **FIXED,
    )
    collector = Collector(spec, "log")
    rows = [("a", 1.0, 1.0), ("b", 0.0, 3.0), ("b", 1.0, 0.0)]
    for at, (arm, liked, paid) in enumerate(rows):
        decision = collector.decision(at + 1, time_ms=START_MS + at, arm=arm, propensity=0.5, attributes={})
        assert decision is not None
        collector.reward(at + 1, decision, "liked", liked)
        collector.reward(at + 1, decision, "cost", paid)
    found = by_weights(collector.finish(), 1.0)
    utility, w = np.array([2.0 + 0.5, 0.0 - 0.5, 2.0 + 1.0]), np.array([0.4, 1.6, 1.6])
    assert found.range == pytest.approx((-1.0, 3.0))
    assert found.logged.value == pytest.approx(utility.mean())
    assert found.estimates[1].value.value == pytest.approx((w * utility).sum() / w.sum())
    assert found.estimates[1].lift.value == pytest.approx((w * utility).sum() / w.sum() - utility.mean())
    paid_mean = next(each for each in found.metrics if each.metric == "cost")
    assert paid_mean.value.value == pytest.approx((0.4 * 1.0 + 1.6 * 3.0) / 3.6)
    assert paid_mean.logged == pytest.approx(4 / 3)
    assert paid_mean.decisions == 3


HARMFUL: dict[str, Any] = {
    "guardrails": [
        {"name": "limit", "kind": "rate_limit", "metric": "unsafe", "limit": 0.05},
        {"name": "worse", "kind": "harm", "metric": "unsafe", "margin": 1.5},
    ]
}


@pytest.mark.parametrize("mode", ["weights", "replay"])
def test_guardrails_take_an_arm_to_nothing_as_in_service(mode: str) -> None:
    spec = spec_of(2, **HARMFUL)
    rng = np.random.default_rng(5)
    arms = rng.integers(0, 2, 600).tolist()
    unsafe = (rng.random(600) < np.where(np.array(arms) == 1, 0.4, 0.02)).astype(float)
    log = logged(spec, arms, np.array([0.5, 0.5]), np.ones(600), unsafe=unsafe)
    found = by_weights(log, 10.0) if mode == "weights" else by_replay(log, 10.0)
    (fall,) = found.falls
    assert (fall.arm, fall.action) == ("b", "rolled_back")
    assert fall.guardrail in ("limit", "worse")
    assert "b unsafe" in fall.message
    at = int(np.searchsorted(found.at_ms, fall.time_ms))
    assert found.at_ms[at] == fall.time_ms
    assert 0 < at < 30
    assert (found.shares[at:, 1] == 0.0).all()
    assert (found.shares[:at, 1] > 0.0).all()
    assert not [each for each in found.warnings if "not judged" in each]


def test_what_compares_arms_is_not_judged_where_shares_are_not_known() -> None:
    spec = spec_of(3, **HARMFUL)
    log = drawn(
        spec, 1, 200, lambda rng, size: 0.7 * rng.dirichlet((1.0, 1.0, 1.0), size) + 0.1, np.full(3, 0.5)
    )
    told = warned(by_weights(log, 50.0))
    assert "worse: not judged, as the log does not tell the shares" in told
    assert "in 4 of 4 intervals the probabilities of the log differ" in told


def test_what_the_log_never_did_is_refused() -> None:
    log = logged(spec_of(2, **FIXED), [0] * 50, np.array([1.0, 0.0]), np.ones(50))
    with pytest.raises(
        InvalidArgument, match=r"80.00% of the decisions .* \(b never served\); at most 10% can"
    ):
        by_weights(log, 10.0)
    alone = logged(spec_of(2, **FIXED), [0] * 50, np.array([1.0, 0.0]), np.ones(50), told=False)
    with pytest.raises(InvalidArgument, match="b never served"):
        by_weights(alone, 10.0)
    with pytest.raises(InvalidArgument, match="b was never served, and a replay needs all arms"):
        by_replay(log, 10.0)


def test_what_it_hardly_ever_did_is_doubted_and_widens_intervals() -> None:
    spec = spec_of(3, allocator={"kind": "fixed", "weights": {"a": 0.48, "b": 0.48, "c": 0.04}})
    rng = np.random.default_rng(1)
    arms, liked = rng.integers(0, 2, 2000).tolist(), rng.integers(0, 2, 2000).astype(float)
    found = by_weights(logged(spec, arms, np.array([0.5, 0.5, 0.0]), liked), 100.0)
    assert (
        "the spec gives 4.00% of the decisions to arms that the log could not have given there (c never"
        in warned(found)
    )
    assert found.trust is not None
    assert found.trust.uncovered == pytest.approx(0.04, abs=1e-6)
    ips, snips, *_ = found.estimates
    assert ips.value.low == pytest.approx(ips.value.value - Z * ips.value.se)
    assert ips.value.high == pytest.approx(ips.value.value + Z * ips.value.se + 0.04, abs=1e-6)
    assert snips.value.low == pytest.approx(snips.value.value - Z * snips.value.se - 0.04, abs=1e-6)
    assert found.anytime is not None
    # c may be worth anything: at best 1, at worst 0.
    covered = float(np.mean(liked)) * 0.96
    assert found.anytime[0] < covered < covered + 0.04 < found.anytime[1]
    few = logged(spec, [0, 1] * 200 + [2] * 4, np.array([0.5, 0.49, 0.01]), np.ones(404))
    assert "hardly known are c (4 decisions, 4.0% under the spec)" in warned(by_weights(few, 100.0))


def repeated(keep: bool) -> Logged:
    """Each unit comes five times; its arm is drawn once, or each time."""
    rng = np.random.default_rng(2)
    size = 400
    units = [f"user-{at % (size // 5)}" for at in range(size)]
    own = rng.integers(0, 2, size)
    arms = own[np.arange(size) % (size // 5)] if keep else own
    level = rng.random(size // 5)[np.arange(size) % (size // 5)]
    liked = (level < np.where(arms == 1, 0.7, 0.4)).astype(float)
    return logged(spec_of(2, **FIXED), arms.tolist(), np.array([0.5, 0.5]), liked, units=units)


def test_units_that_keep_their_arm_count_once() -> None:
    kept, drawn_anew = by_weights(repeated(keep=True), 50.0), by_weights(repeated(keep=False), 50.0)
    assert "units keep their arm" in warned(kept)
    assert (kept.anytime, kept.anytime_lift) == (None, None)
    assert "units keep" not in warned(drawn_anew)
    assert drawn_anew.anytime is not None
    # 80 units, all decisions of one alike: as if 80 decisions had been made.
    log = repeated(keep=True)
    w = np.where(log.arm == 1, 1.6, 0.4)[:80]
    r = np.array([log.rewards.q[log.rewards.decision == at][0] / 2**30 for at in range(80)])
    assert kept.estimates[0].value.se == pytest.approx(float((w * r).std(ddof=1)) / math.sqrt(80))
    with pytest.raises(
        InvalidArgument, match="units keep their arm when they come back; a replay needs a new draw"
    ):
        by_replay(log, 50.0)


def test_answers_that_depend_on_the_arm_are_doubted() -> None:
    collector = Collector(spec_of(2), "log")
    rng = np.random.default_rng(4)
    for at in range(600):
        arm = int(rng.integers(0, 2))
        decision = collector.decision(
            at + 1, time_ms=START_MS + at * 1000, arm="ab"[arm], propensity=0.5, attributes={}
        )
        assert decision is not None
        if rng.random() < (0.9, 0.5)[arm]:
            collector.reward(at + 1, decision, "liked", 1.0)
    found = by_weights(collector.finish(), 100.0)
    assert "of the decisions of b have a value and" in warned(found)
    assert found.counts.unanswered == 600 - found.counts.valued > 100


def test_nothing_to_value_is_refused() -> None:
    spec = spec_of(2, metrics=[{**LIKED, "attribution_window": "1h", "default_when_silent": 0}, UNSAFE])
    log = logged(spec, [0, 1], np.array([0.5, 0.5]), [1.0, 0.0])
    with pytest.raises(
        InvalidArgument, match="none of 2 decisions has a value of liked, 2 of them because their window"
    ):
        by_weights(log, 10.0)
    assert by_weights(log, 10.0, complete=True).counts.valued == 2
    with pytest.raises(InvalidArgument, match="none of 1 decisions with a value was accepted"):
        by_replay(logged(spec_of(2, **FIXED), [0], np.array([0.5, 0.5]), [1.0]), 10.0, seed=3)


@pytest.mark.parametrize(
    ("chances", "told", "why"),
    [
        (
            [[0.5, 0.5], [0.4, 0.6]],
            True,
            "the propensity of a goes from 0.4 to 0.5; a replay needs a log of constant",
        ),
        ([[0.5, 0.5], [0.4, 0.6], [0.5, 0.5]], False, "the propensity of b goes from 0.5 to 0.6"),
        ([[0.25, 0.75], [0.5, 0.5]], False, "those of all arms add up to 0.75, not to 1"),
    ],
)
def test_a_replay_needs_constant_shares(chances: list[list[float]], told: bool, why: str) -> None:
    log = logged(spec_of(2), [0, 1, 1][: len(chances)], np.array(chances), [0.0] * len(chances), told=told)
    with pytest.raises(InvalidArgument, match=why):
        by_replay(log, 10.0)


def test_a_replay_by_hand() -> None:
    """Everything of b is accepted, of a what its share and the draw say."""
    spec = spec_of(2, **FIXED)
    log = drawn(spec, 1, 3000, even, np.array([0.2, 0.6]))
    found = by_replay(log, 100.0, seed=4)
    assert found.accepted is not None
    assert abs(found.accepted - 1500) < 5 * math.sqrt(750)
    (own,) = found.estimates
    assert own.value.value == pytest.approx(0.2 * 0.2 + 0.8 * 0.6, abs=5 * own.value.se)
    assert own.value.se == pytest.approx(math.sqrt(0.52 * 0.48 / found.accepted), rel=0.02)
    assert own.lift.value == pytest.approx(own.value.value - found.logged.value)
    assert found.anytime is not None
    assert found.anytime[0] < 0.52 < found.anytime[1]
    assert found.trust is None
    assert by_replay(log, 100.0, seed=4).estimates == found.estimates
    assert by_replay(log, 100.0, seed=5).estimates != found.estimates


def linear(**parts: Any) -> ExperimentSpec:
    return parse_mapping(
        {
            "experiment": "routed",
            "unit": {"kind": "request", "mode": "request"},
            "arms": [{"name": "a", "control": True}, {"name": "b"}],
            "metrics": [LIKED, UNSAFE],
            "objective": [{"metric": "liked"}],
            "allocator": {"kind": "lin_ts"},
            "features": [{"name": "plan", "kind": "categorical", "values": ["free", "pro"]}],
            "baseline": "stationary",
            "bounds": {"floor": 0.02, "control_floor": 0.02},
            **parts,
        }
    )


def routed(spec: ExperimentSpec, size: int = 2000, names: tuple[str, ...] = ("free", "pro")) -> Logged:
    """a is for the first of the plans and every other one from there, b for the rest, and it harms the former; the log
    does not know it."""
    rng = np.random.default_rng(1)
    plan = rng.integers(0, len(names), size)
    pro = plan % 2 == 1
    arms = rng.integers(0, 2, size)
    liked = (rng.random(size) < np.where(pro == (arms == 1), 0.8, 0.2)).astype(float)
    unsafe = (rng.random(size) < np.where((arms == 1) & ~pro, 0.5, 0.02)).astype(float)
    return logged(
        spec,
        arms.tolist(),
        np.array([0.5, 0.5]),
        liked,
        attributes=[{"plan": names[each]} for each in plan],
        unsafe=unsafe,
        step_ms=100,
    )


@pytest.mark.parametrize("kind", ["lin_ts", "lin_ucb"])
def test_a_spec_that_reads_features_is_worth_what_they_tell(kind: str) -> None:
    spec = linear(allocator={"kind": kind})
    found = by_weights(routed(spec), 10.0)
    ips, snips, dr, switch = (each.value for each in found.estimates)
    for each in (ips, snips, dr, switch):
        assert 0.7 < each.value < 0.83
        assert each.se < 0.03
    # The model of the look knows each plan, so that little is left to weigh.
    assert dr.se < 0.8 * ips.se
    assert found.logged.value == pytest.approx(0.5, abs=0.06)
    assert found.estimates[2].lift.low > 0.2
    replayed = by_replay(routed(spec), 10.0)
    assert 0.6 < replayed.estimates[0].value.value < 0.83
    assert found.arms[1].share == pytest.approx(0.5, abs=0.1)


def test_harm_is_judged_request_by_request_where_the_log_tells_its_shares() -> None:
    spec = linear(guardrails=[{"name": "worse", "kind": "harm", "metric": "unsafe", "margin": 1.2}])
    found = by_weights(routed(spec), 10.0)
    assert [(fall.arm, fall.guardrail) for fall in found.falls] == [("b", "worse")]
    assert found.arms[1].last == 0.0
    assert [fall.arm for fall in by_replay(routed(spec), 10.0).falls] in ([], ["b"])
    unlike = logged(
        spec, [0, 1] * 10, np.array([0.5, 0.25]), np.ones(20), told=False, attributes=[{"plan": "pro"}] * 20
    )
    assert "worse: not judged" in warned(by_weights(unlike, 100.0))


def test_cohorts_may_have_shares_of_their_own() -> None:
    names = ("free", "pro", "team", "firm", "school")
    apart = {"probability": 0.9, "min_decisions": 100}
    cohorts: dict[str, Any] = {"attribute": "plan", "values": names}
    found = by_weights(routed(spec_of(2, cohorts={**cohorts, "apart": apart}), 3000, names), 20.0)
    alike = by_weights(routed(spec_of(2, cohorts=cohorts), 3000, names), 20.0)
    assert found.estimates[1].value.low > alike.estimates[1].value.high + 0.1
    assert found.estimates[1].value.value == pytest.approx(0.8, abs=0.1)


def test_values_that_are_all_alike_are_not_for_sure() -> None:
    spec = spec_of(2, **FIXED)
    log = drawn(spec, 1, 400, even, np.zeros(2))
    for found in (by_weights(log, 50.0), by_replay(log, 50.0)):
        assert "0 of " in warned(found)
        assert "brought another value than the rest: standard errors are guesses" in warned(found)
        assert found.anytime is not None
        for each in found.estimates:
            assert each.value.value == pytest.approx(0.0, abs=0.01)
            assert each.value.high >= found.anytime[1] - 1e-12 > 0.005
    assert "standard errors are guesses" not in warned(
        by_weights(drawn(spec, 1, 400, even, np.full(2, 0.5)), 50.0)
    )

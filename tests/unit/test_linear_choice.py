"""From linear sums to a rule, and from a rule and a request to exact shares, the arm and its token."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.allocate import Proposal
from bandit.allocate_linear import learn, propose_linear
from bandit.baselines.base import evidence_of
from bandit.counting import layout_of
from bandit.decide import Table, arm_of, compile_table
from bandit.errors import CorruptStored
from bandit.features import Encoder
from bandit.ledger import ONE, split_table
from bandit.linear.crowd import crowd_of
from bandit.linear.rule import Chooser, LinearRule
from bandit.linear.sums import Totals, add, read, width_of
from bandit.reading import Reading
from bandit.rng import point_ppm
from bandit.rollout.state import Allocation, Experiment
from bandit.rollout.transitions import reallocate, roll_back
from bandit.spec.channels import Channel, ChannelKind
from bandit.spec.model import PPM, ExperimentSpec
from server.rpc.columns import decide_many
from server.store.codec import dump_allocation, load_allocation, misfit
from tests.builders import NOW, running, spec

FEATURES = [
    {"name": "plan", "kind": "categorical", "values": ["free", "pro"]},
    {"name": "tokens", "kind": "numeric", "low": 0, "high": 100},
]
LINEAR: dict[str, Any] = {
    "metrics": [{"name": "good", "kind": "fraction", "direction": "maximize"}],
    "objective": [{"metric": "good"}],
    "allocator": {"kind": "lin_ts"},
    "baseline": "stationary",
    "features": FEATURES,
}
BOXES = (np.array([50_000, 20_000, 20_000]), np.array([PPM, PPM, PPM]))


def rewarded(made: ExperimentSpec, count: int, seed: int = 1, *, mirrored: bool = False) -> Totals:
    """Sums of ``count`` rewards an arm, where the arms' order flips with the plan."""
    chance, encoder = np.random.default_rng(seed), Encoder(made.features)
    sums = np.zeros((3, 1, width_of(encoder.dimension)), np.int64)
    for arm in range(3):
        encoded = np.stack([chance.integers(0, 3, count), chance.integers(0, 256, count)], axis=1)
        mean = np.where(encoded[:, 0] == 2, [0.3, 0.6, 0.4][arm], [0.6, 0.3, 0.4][arm])
        y = np.clip(mean + 0.1 * chance.normal(size=count), 0.0, 1.0)
        q = np.rint((1.0 - y if mirrored else y) * ONE).astype(np.int64)
        add(sums[arm, 0], encoder.rows(encoded.astype(np.uint8)), q, np.ones(count, np.int64))
    return read(sums)


def proposed(
    made: ExperimentSpec, totals: Totals | None, live: tuple[bool, ...] = (True, True, True), **changes: Any
) -> Proposal:
    evidence = evidence_of(made, split_table([], layout_of(made)), 0, None)
    values: dict[str, Any] = {"hold_ppm": [None] * 3, "previous_ppm": None, "elapsed_s": 0.0}
    return propose_linear(made, evidence, totals, np.array(live), **(values | changes))


def reading_of(made: ExperimentSpec) -> Reading:
    return evidence_of(made, split_table([], layout_of(made)), 0, None).reading


def decided(made: ExperimentSpec, proposal: Proposal) -> tuple[Experiment, Allocation, Table]:
    experiment, allocation = running(**LINEAR)
    moved = reallocate(
        replace(experiment, spec=made),
        allocation,
        proposal.shares_ppm,
        (0.5,),
        "evidence",
        NOW,
        linear=proposal.linear,
    )
    return experiment, moved.allocation, compile_table(experiment, moved.allocation)


def test_nothing_known_is_even_but_for_the_floors() -> None:
    made = spec(**LINEAR)
    proposal = proposed(made, None)
    assert max(proposal.shares_ppm) - min(proposal.shares_ppm) <= 2
    assert proposal.p_best == pytest.approx(np.full(3, 1 / 3), abs=1e-9)
    assert proposal.linear is not None
    assert proposal.linear.rewards == (0.0, 0.0, 0.0)


def test_shares_follow_the_features_inside_the_bounds() -> None:
    made = spec(**LINEAR)
    proposal = proposed(made, rewarded(made, 400))
    _, _, table = decided(made, proposal)
    assert table.chooser is not None
    free = table.chooser.shares_ppm(table.chooser.encoder.encode({"plan": "free", "tokens": "50"}))
    pro = table.chooser.shares_ppm(table.chooser.encoder.encode({"plan": "pro", "tokens": "50"}))
    assert free == (960_000, 20_000, 20_000)
    assert pro == (50_000, 930_000, 20_000)
    assert 0.45 < proposal.shares_ppm[0] / PPM < 0.8
    assert sum(proposal.shares_ppm) == PPM
    assert proposal.expected_loss[2] > proposal.expected_loss[:2].max()
    assert proposal.coefficients is not None
    means, deviations = proposal.coefficients
    assert means[1, 3] - means[1, 2] == pytest.approx(0.3, abs=0.03)
    assert deviations[1, 3] < 0.03


@pytest.mark.parametrize("kind", ["lin_ts", "lin_ucb"])
def test_a_mirrored_metric_gives_the_same_rule(kind: str) -> None:
    up = spec(**(LINEAR | {"allocator": {"kind": kind}}))
    down = spec(
        **(
            LINEAR
            | {"allocator": {"kind": kind}}
            | {"metrics": [{"name": "good", "kind": "fraction", "direction": "minimize"}]}
        )
    )
    one, two = proposed(up, rewarded(up, 60)), proposed(down, rewarded(down, 60, mirrored=True))
    assert one.shares_ppm == two.shares_ppm
    assert one.linear is not None
    assert two.linear is not None
    assert two.linear.coefficients() == pytest.approx(one.linear.coefficients(), abs=1e-7)


def test_the_posterior_is_bayes_by_another_road() -> None:
    """Normal-inverse-gamma by sequential updates of one reward at a time."""
    made = spec(**LINEAR)
    totals = rewarded(made, 50)
    learned = learn(made, reading_of(made), totals, 5)
    middle = float(totals.xy[:, 0, 0].sum() / totals.n.sum())
    (term,) = learned.terms
    assert term.middle == pytest.approx(middle)
    a_matrix = np.eye(5) + totals.xx[1, 0]
    theta = np.linalg.inv(a_matrix) @ (totals.xy[1, 0] - middle * totals.xx[1, 0][:, 0])
    assert learned.theta[1] == pytest.approx(theta + middle * np.eye(5)[0], rel=1e-9)
    assert learned.variance[1] == pytest.approx(np.linalg.inv(a_matrix) * term.noise[1] ** 2, rel=1e-9)
    assert learned.noise == pytest.approx(0.01, rel=0.35)


def test_several_terms_err_together_as_their_common_requests_do() -> None:
    """Quality up, cost down, their noises correlated: as if the weighted sum had been reported as one metric."""
    made = spec(
        **(
            LINEAR
            | {
                "metrics": [
                    {"name": "good", "kind": "fraction", "direction": "maximize"},
                    {"name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0, 1]},
                ],
                "objective": [{"metric": "good", "weight": 0.6}, {"metric": "cost", "weight": 0.4}],
            }
        )
    )
    chance, encoder = np.random.default_rng(3), Encoder(made.features)
    both = np.zeros((3, 2, width_of(5)), np.int64)
    whole = np.zeros((3, 1, width_of(5)), np.int64)
    columns = len(made.columns)
    n, s1, s2 = (np.zeros((3, columns)) for _ in range(3))
    pair = made.columns[Channel(ChannelKind.PAIR, 0, other=1)]
    for arm in range(3):
        encoded = np.stack([chance.integers(0, 3, 800), chance.integers(0, 256, 800)], axis=1).astype(
            np.uint8
        )
        rows, noise = (
            encoder.rows(encoded),
            chance.multivariate_normal([0, 0], [[0.01, 0.007], [0.007, 0.01]], 800),
        )
        good = np.clip(0.5 + 0.1 * (encoded[:, 0] == 2) + noise[:, 0], 0, 1)
        cost = np.clip(0.4 + 0.1 * (encoded[:, 0] == 1) + noise[:, 1], 0, 1)
        one = np.ones(800, np.int64)
        for place, y in enumerate((good, cost)):
            add(both[arm, place], rows, np.rint(y * ONE).astype(np.int64), one)
            n[arm, place], s1[arm, place], s2[arm, place] = 800, y.sum(), (y * y).sum()
        n[arm, pair], s1[arm, pair] = 800, (good * cost).sum()
        add(whole[arm, 0], rows, np.rint((0.6 * good + 0.4 * (1 - cost)) * ONE).astype(np.int64), one)
    reading = Reading(np.full(3, 800.0), n, s1, s2)
    parts, sum_ = learn(made, reading, read(both), 5), learn(spec(**LINEAR), reading, read(whole), 5)
    assert parts.theta == pytest.approx(sum_.theta, abs=1e-6)
    assert parts.variance == pytest.approx(sum_.variance, rel=0.05)
    apart = learn(made, Reading(np.full(3, 800.0), np.zeros((3, columns)), s1, s2), read(both), 5)
    assert (
        apart.variance[0, 0, 0] > 1.3 * parts.variance[0, 0, 0]
    )  # good and cheap are at odds: together they err less


def test_a_term_without_weight_changes_nothing() -> None:
    made = spec(
        **(
            LINEAR
            | {
                "metrics": [
                    {"name": "good", "kind": "fraction", "direction": "maximize"},
                    {"name": "later", "kind": "fraction", "direction": "maximize"},
                ],
                "objective": [{"metric": "good"}, {"metric": "later", "weight": 0}],
            }
        )
    )
    one = rewarded(made, 50)
    none = Totals(*(np.zeros_like(each) for each in one))
    both = Totals(*(np.concatenate([a, b], axis=1) for a, b in zip(one, none, strict=True)))
    plain, later = proposed(spec(**LINEAR), one), proposed(made, both)
    assert later.linear == plain.linear
    assert later.utility_mean == pytest.approx(plain.utility_mean)


def test_optimism_tries_what_is_little_known_and_wider_with_confidence() -> None:
    made = spec(**(LINEAR | {"allocator": {"kind": "lin_ucb"}}))
    totals = rewarded(made, 400)
    few = Totals(*(each.copy() for each in totals))
    for each in few:
        each[2] *= 0.005
    assert proposed(made, few).weights[2] > proposed(made, totals).weights[2] + 0.3
    sure = spec(**(LINEAR | {"allocator": {"kind": "lin_ucb", "confidence": 0.05}}))
    plain, wide = proposed(made, totals).linear, proposed(sure, totals).linear
    assert plain is not None
    assert wide is not None
    assert (
        np.diagonal(wide.variance(), axis1=1, axis2=2) > np.diagonal(plain.variance(), axis1=1, axis2=2)
    ).all()


def test_the_arm_is_drawn_by_the_hash_from_exactly_the_shares_and_the_same_for_many() -> None:
    made = spec(**LINEAR)
    _, _, table = decided(made, proposed(made, rewarded(made, 5)))
    attributes = {"plan": "pro", "tokens": "80"}
    one = [table.decide(f"u{n}", attributes) for n in range(4000)]
    assert table.chooser is not None
    shares = table.chooser.shares_ppm(one[0].features)
    assert all(each.propensity_ppm == shares[each.arm] for each in one)
    assert all(each.arm == arm_of(shares, point_ppm(each.unit_hash)) for each in one)
    seen = np.bincount([each.arm for each in one], minlength=3) / 4000
    assert seen == pytest.approx(np.array(shares) / PPM, abs=0.04)
    many = decide_many(table, [f"u{n}" for n in range(4000)], (), one[0].features)
    assert many.arms.tolist() == [each.arm for each in one]
    assert many.propensities_ppm.tolist() == [each.propensity_ppm for each in one]
    again = compile_table(*decided(made, proposed(made, rewarded(made, 5)))[:2])
    assert [again.decide(f"u{n}", attributes) for n in range(50)] == one[:50]


@given(st.lists(st.integers(0, PPM), min_size=2, max_size=8), st.integers(0, PPM - 1))
def test_every_point_has_an_owner_and_no_arm_without_share_is_one(parts: list[int], point: int) -> None:
    total = sum(parts) or 1
    shares = [part * PPM // total for part in parts]
    shares[-1] += PPM - sum(shares)
    arm = arm_of(shares, point)
    assert shares[arm] > 0
    assert sum(shares[:arm]) <= point < sum(shares[: arm + 1])


def test_a_killed_arm_gets_exactly_nothing_and_a_rollback_ends_the_rule() -> None:
    made = spec(**LINEAR)
    totals = rewarded(made, 400)
    dead = proposed(made, totals, live=(True, False, True))
    assert dead.shares_ppm[1] == 0
    assert dead.p_best[1] == dead.expected_loss[1] == 0.0
    _, _, table = decided(made, dead)
    assert all(table.decide(f"u{n}", {"plan": "pro"}).arm != 1 for n in range(2000))
    experiment, allocation, _ = decided(made, proposed(made, totals))
    after = roll_back(experiment, allocation, 1, actor="t", reason="r", rollback_id="1", now_ms=NOW)
    assert after.allocation.linear is None
    assert after.allocation.shares_ppm[1] == 0
    # The rule of before does not fit the rolled back arm: the server goes to the control, not to the rule.
    with pytest.raises(ValueError, match="rolled back"):
        compile_table(after.experiment, replace(after.allocation, linear=allocation.linear))


def test_only_the_control_is_left() -> None:
    made = spec(**LINEAR)
    alone = proposed(made, rewarded(made, 20), live=(True, False, False))
    assert alone.shares_ppm == (PPM, 0, 0)


def test_holds_and_ramps_bound_every_request() -> None:
    made = spec(**(LINEAR | {"bounds": {"ramp_per_minute": 0.1}}))
    totals = rewarded(made, 400)
    first = proposed(made, totals)
    assert first.linear is not None
    assert first.linear.high_ppm == (PPM, 20_000, 20_000)
    later = proposed(made, totals, previous_ppm=first.linear.high_ppm, elapsed_s=60.0)
    assert later.linear is not None
    assert later.linear.high_ppm == (PPM, 120_000, 120_000)
    held = proposed(
        made, totals, previous_ppm=later.linear.high_ppm, elapsed_s=600.0, hold_ppm=[None, 70_000, None]
    )
    assert held.linear is not None
    assert held.linear.high_ppm == (PPM, 70_000, PPM)


def test_an_allocation_with_a_rule_is_whole_in_the_store_or_refused() -> None:
    made = spec(**LINEAR)
    experiment, allocation, _ = decided(made, proposed(made, rewarded(made, 40)))
    raw = dump_allocation(allocation)
    assert load_allocation("k", raw) == allocation
    assert misfit(experiment, allocation) is None
    plain, _ = running()
    assert "linear model" in str(
        misfit(replace(plain, spec=spec(**(LINEAR | {"features": FEATURES[:1]}))), allocation)
    )
    rule = allocation.linear
    assert rule is not None
    packed = rule.pack()
    assert LinearRule.unpack(packed) == rule
    for broken in (
        packed[:-1],
        packed + b"x",
        b"\x02" + packed[1:],
        b"",
        packed[:6] + bytes(24) + packed[30:],
    ):
        with pytest.raises(ValueError, match=r"linear rule|boxes|box of"):
            LinearRule.unpack(broken)
    nan = replace(allocation, linear=None)
    assert load_allocation("k", dump_allocation(nan)) == nan
    import base64
    import json

    fields = json.loads(raw)
    fields["linear"] = base64.b64encode(packed[:-8] + np.array([np.nan]).tobytes()).decode()
    with pytest.raises(CorruptStored, match="not finite"):
        load_allocation("k", json.dumps(fields).encode())


@settings(max_examples=25, deadline=None)
@given(
    st.integers(2, 6),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.sampled_from([0.0, 1e-9, 1.0, 1e6]),
)
def test_any_rule_gives_whole_shares_inside_its_boxes(
    arms: int, seed: int, optimistic: bool, wide: float
) -> None:
    chance = np.random.default_rng(seed)
    encoder = Encoder(spec(**LINEAR).features)
    root = chance.normal(size=(arms, 5, 5)) * wide
    low = chance.integers(0, PPM // arms, arms)
    high = np.minimum(low + chance.integers(0, PPM, arms), PPM)
    high[0] = PPM
    if arms > 2:
        low[1] = high[1] = 0
    rule = LinearRule.of(
        chance.normal(size=(arms, 5)),
        root @ root.transpose(0, 2, 1),
        chance.choice([0.0, 4.0, 1e9], size=arms),
        np.ones(arms),
        (low, high),
        optimistic=optimistic,
    )
    chooser = Chooser(rule, encoder)
    for each in crowd_of(encoder, None, 6):
        shares = chooser.shares_ppm(each.tobytes())
        assert sum(shares) == PPM
        assert all(a <= share <= b for a, share, b in zip(low, shares, high, strict=True))


def test_a_crowd_has_the_features_as_often_as_the_rewards_had() -> None:
    made = spec(**LINEAR)
    encoder = Encoder(made.features)
    totals = rewarded(made, 3000)
    crowd = crowd_of(encoder, totals, 600)
    mean = encoder.rows(crowd).mean(axis=0) / 127
    want = totals.xx.sum(axis=(0, 1))[0] / totals.n.sum()
    assert mean == pytest.approx(want, abs=0.02)

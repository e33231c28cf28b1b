"""Baselines against the long way round: one regression, strata by hand, blocks against their periods."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandit.allocate import propose
from bandit.baselines import BASELINES
from bandit.baselines.base import Evidence, evidence_of, thinned
from bandit.baselines.contrast import differences_of, prior_variance, ratio_of
from bandit.facts import compare, pack, settle, unpack
from bandit.kernels.contrast import differences
from bandit.ledger import PeriodTable
from bandit.reading import Cells, Reading, Sums
from bandit.spec.channels import ChannelKind
from bandit.spec.model import ExperimentSpec
from tests.builders import spec
from tests.evidence import beliefs_from, periods
from tests.oracles.slow_contrast import regression, resistance

LATE = 10**9
RATE = [{"name": "m", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1s"}]


def rates(arms: int = 3, **changes: Any) -> ExperimentSpec:
    """A rate to maximise, so many arms."""
    values: dict[str, Any] = {
        "arms": [{"name": f"a{k}", "control": k == 0} for k in range(arms)],
        "metrics": RATE,
        "objective": [{"metric": "m"}],
        "bounds": {"floor": 0.01, "control_floor": 0.01},
    }
    return spec(**values | changes)


def drawn(arms: int, rows: int, seed: int) -> tuple[Any, Any]:
    """Counts with moving shares and successes with a moving level."""
    chance = np.random.default_rng(seed)
    level = np.linspace(0.1, 0.4, rows)[:, None]
    n = chance.integers(0, 60, (rows, arms)) + (chance.random((rows, arms)) < 0.5)
    return n.astype(np.float64), chance.binomial(n, level).astype(np.float64)


def test_thinned_sums_keep_their_means() -> None:
    """Each metric has so many times fewer values, a cross-moment the geometric mean of its metrics' effects fewer."""
    made = spec()
    n = np.full((3, len(made.columns)), 90.0)
    read = Reading(np.full(3, 100.0), n, 0.4 * n, 0.2 * n)
    few = thinned(made, read, np.array([4.0, 9.0]))
    apart = [
        {0: 4.0, 1: 9.0}.get(each.metric) if each.kind is ChannelKind.VALUE else 6.0 for each in made.columns
    ]
    assert few.n == pytest.approx(n / np.array(apart))
    assert few.s1 == pytest.approx(0.4 * few.n)
    assert few.s2 == pytest.approx(0.2 * few.n)
    assert few.assigned is read.assigned
    assert thinned(made, read, np.ones(2)) is read


def test_a_plausible_lift_is_a_part_of_the_range() -> None:
    """0.2 in a range from 1 to 3 is a tenth of it."""
    one = spec(
        metrics=[
            {"name": "m", "kind": "gaussian", "direction": "maximize", "range": [1, 3], "plausible_lift": 0.2}
        ],
        objective=[{"metric": "m"}],
    )
    assert prior_variance(one.metrics[0], 0.25) == pytest.approx(0.01)


def test_a_ratio_of_parts_that_begin_above_zero() -> None:
    """Halves of [2, 6] and of [1, 3]: 4 over 2."""
    parts = [
        {"name": name, "kind": "gaussian", "direction": "minimize", "range": span}
        for name, span in (("up", [2, 6]), ("down", [1, 3]))
    ]
    ratio = {"name": "r", "kind": "ratio", "direction": "minimize", "range": [0, 9]}
    made = spec(
        metrics=[*parts, ratio | {"numerator": "up", "denominator": "down"}], objective=[{"metric": "r"}]
    )
    half = Sums(np.array([4.0, 0.0, 6.0]), np.array([2.0, 0.0, 3.0]), np.zeros(3))
    assert ratio_of(made, 2, half, half) == pytest.approx((2.0, 2.0))
    nothing = Sums(*np.zeros((3, 3)))
    assert ratio_of(made, 2, half, nothing) == (4.5, 1.0)


@pytest.mark.parametrize("arms", [2, 3, 5, 8])
def test_differences_are_those_of_one_regression(arms: int) -> None:
    n, s = drawn(arms, 30, arms)
    made = rates(arms, metrics=[RATE[0] | {"plausible_lift": 0.2}])
    rows = periods(made, n[:, :, None], s[:, :, None], centre=0.3)
    evidence = evidence_of(made, rows, LATE)
    delta, _ = differences_of(evidence, 0)
    even = np.full(30, 1 / (0.3 * 0.7))
    within = sum(
        even[e] * (s[e, k] - s[e, k] ** 2 / n[e, k]) for e in range(30) for k in range(arms) if n[e, k] > 1
    )
    unit = (1.0 + within) / (1.0 + np.maximum(n - 1, 0).sum())
    slow, _ = regression(n, s, even, np.ones(30), unit, 0.2**2, 0)
    assert delta == pytest.approx(slow, abs=1e-10)


@pytest.mark.parametrize("arms", [2, 3])
def test_the_star_has_the_variances_of_all_differences(arms: int) -> None:
    n, s = drawn(arms, 20, 7)
    _, covariance = regression(n, s, np.ones(20), np.ones(20), 0.2, 0.5, 0)
    made = compare(Cells(n, s, s, np.ones(20)), np.ones(20), np.ones(20), 0)
    links = made.links / 0.2 + 2.0 / (arms * 0.5)
    np.fill_diagonal(links, 0.0)
    delta, parts = np.empty(arms), np.empty(arms)
    worst = differences(links, made.pull / 0.2, n.sum(axis=0), 0, delta, parts)
    true = resistance(covariance)
    star = parts[:, None] + parts[None, :]
    apart = ~np.eye(arms, dtype=bool)
    assert star[apart] == pytest.approx(true[apart], rel=1e-9)
    assert worst < 1e-9
    assert (parts > 0.0).all()


def test_one_period_gives_the_arms_of_that_period() -> None:
    """Five arms in one period: an arm's part is v / n, whatever the number of arms."""
    n = np.array([[50.0, 100.0, 400.0, 25.0, 80.0]])
    made = compare(Cells(n, 0.3 * n, 0.3 * n, np.ones(1)), np.ones(1), np.ones(1), 0)
    links = made.links / 0.2
    delta, parts = np.empty(5), np.empty(5)
    assert differences(links, made.pull, n[0], 0, delta, parts) < 1e-9
    assert parts == pytest.approx(0.2 / n[0], rel=1e-9)


@pytest.mark.parametrize("bad", [np.nan, np.inf, 0.0])
def test_links_that_are_no_numbers_are_told(bad: float) -> None:
    links = np.full((3, 3), bad)
    delta, parts = np.empty(3), np.empty(3)
    assert np.isinf(differences(links, np.zeros(3), np.ones(3), 0, delta, parts))


def test_a_level_that_moves_with_the_shares_is_no_difference() -> None:
    """Equal arms; the first has its traffic while the level is low, the second while it is high."""
    level = np.linspace(0.05, 0.5, 40)[:, None]
    share = np.linspace(0.9, 0.1, 40)[:, None]
    n = np.concatenate([1000 * share, 1000 * (1 - share)], axis=1)
    for baseline, most in (("contrast", 1e-9), ("stratified", 1e-9), ("stationary", 0.5)):
        made = rates(2, baseline=baseline)
        mean = beliefs_from(made, periods(made, n[:, :, None], (n * level)[:, :, None]), LATE)[0].mean
        assert abs(mean[1] - mean[0]) < most
    assert mean[1] - mean[0] > 0.1, "pooled means are fooled"


def test_differences_that_change_are_weighed_by_traffic_where_strata_are_asked_for() -> None:
    """The arm is 0.2 better in a quiet half with equal shares and 0.1 worse in a busy half where it has a tenth."""
    n = np.array([[500.0, 500.0], [9000.0, 1000.0]])
    s = n * np.array([[0.3, 0.5], [0.3, 0.2]])
    made = rates(2, baseline="stratified")
    belief = beliefs_from(made, periods(made, n[:, :, None], s[:, :, None]), LATE)[0]
    assert belief.mean[1] - belief.mean[0] == pytest.approx((1000 * 0.2 - 10000 * 0.1) / 11000, abs=1e-3)
    whole = rates(2)
    weighed = beliefs_from(whole, periods(whole, n[:, :, None], s[:, :, None]), LATE)[0].mean
    assert weighed[1] - weighed[0] == pytest.approx((250 * 0.2 - 900 * 0.1) / 1150, abs=1e-3)


def test_an_arm_without_values_in_a_stratum_leaves_it_out() -> None:
    """The second arm came when the level had doubled: no part of its difference is the level's."""
    n = np.array([[1000.0, 0.0, 1000.0], [1000.0, 1000.0, 1000.0]])
    s = n * np.array([[0.1], [0.2]]) + n * np.array([0.0, 0.0, 0.02])
    for baseline in ("contrast", "stratified"):
        made = rates(3, baseline=baseline)
        mean = beliefs_from(made, periods(made, n[:, :, None], s[:, :, None]), LATE)[0].mean
        # The prior joins all arms, so a hundredth of the third arm's lift may rub off; the level has risen by 0.1.
        assert mean[1] - mean[0] == pytest.approx(0.0, abs=2e-4)
        assert mean[2] - mean[0] == pytest.approx(0.02, abs=1e-3)


def test_cohorts_of_other_levels_are_no_difference() -> None:
    """An arm gets more of the cohort that answers better: compared inside cohorts it is like the control."""
    n = np.array([[900.0, 100.0], [100.0, 900.0]])
    s = n * np.array([[0.1], [0.6]])
    made = rates(2)
    apart = periods(made, n[:, :, None], s[:, :, None], cohort=[0, 1])
    mean = beliefs_from(made, apart, LATE)[0].mean
    assert mean[1] - mean[0] == pytest.approx(0.0, abs=1e-9)
    pooled = periods(made, n.sum(axis=0)[None, :, None], s.sum(axis=0)[None, :, None])
    mixed = beliefs_from(made, pooled, LATE)[0].mean
    assert mixed[1] - mixed[0] > 0.3


def folded(made: ExperimentSpec, rows: PeriodTable, first: int) -> PeriodTable:
    """The first rows as one block, with its facts."""
    facts = settle(made, rows.rows(np.arange(first)), 1)
    block = rows.rows(np.arange(1))
    block = replace(
        block,
        last=rows.last[first - 1 : first],
        end_ms=rows.end_ms[first - 1 : first],
        block=np.ones(1, np.bool_),
        assigned=rows.assigned[:first].sum(axis=0, keepdims=True),
        n=rows.n[:first].sum(axis=0, keepdims=True),
        s1=rows.s1[:first].sum(axis=0, keepdims=True),
        s2=rows.s2[:first].sum(axis=0, keepdims=True),
        facts=facts,
    )
    rest = rows.rows(np.arange(first, len(rows.number)))
    rest = replace(rest, facts=np.zeros((len(rest.number), facts.shape[1])))
    names = [name for name in rows.__slots__ if name != "weighed"]
    return PeriodTable(*(np.concatenate([getattr(block, name), getattr(rest, name)]) for name in names))


@pytest.mark.parametrize("baseline", list(BASELINES))
def test_a_block_says_what_its_periods_said(baseline: str) -> None:
    n, s = drawn(4, 40, 11)
    n, s = n + 20, s + 5  # every arm in every period, so that strata end at the same places
    made = rates(4, baseline=baseline)
    rows = periods(made, n[:, :, None], s[:, :, None], centre=0.2)
    apart, block = beliefs_from(made, rows, LATE)[0], beliefs_from(made, folded(made, rows, 25), LATE)[0]
    assert block.mean == pytest.approx(apart.mean, rel=1e-9)
    assert block.sd == pytest.approx(apart.sd, rel=1e-9)


def test_facts_come_back_as_they_were() -> None:
    n, s = drawn(4, 9, 3)
    made = compare(Cells(n, s, s, np.ones(9)), np.ones(9), np.ones(9), 0)
    again = unpack(pack(made), 4)
    assert (again.links == made.links).all()
    assert (again.strata == made.strata).all()
    assert (again.pull == made.pull).all()
    assert (again.spread, again.freedom) == (made.spread, made.freedom)


def test_open_periods_are_not_settled() -> None:
    made = rates(2)
    rows = periods(made, np.ones((2, 2, 1)), np.zeros((2, 2, 1)))
    with pytest.raises(ValueError, match="closed"):
        settle(made, replace(rows, end_ms=np.zeros(2, np.int64)), 1)


def test_decay_forgets_differences_and_never_the_level() -> None:
    """The arm was better long ago and is worse now; the level moves all the time."""
    level = np.linspace(0.1, 0.5, 60)
    lift = np.where(np.arange(60) < 40, 0.05, -0.05)
    n = np.full((60, 2), 1000.0)
    s = n * np.stack([level, level + lift], axis=1)
    for half_life, sign in (("3650d", 1), ("5s", -1)):
        made = rates(2, decay={"half_life": half_life})
        mean = beliefs_from(made, periods(made, n[:, :, None], s[:, :, None]), 60_000)[0].mean
        assert np.sign(mean[1] - mean[0]) == sign
        assert abs(mean[1] - mean[0]) < 0.051


def test_a_prior_of_an_arm_is_counted_once() -> None:
    """A warm start is a period that the spec tells: it is there before any value, and reading twice changes nothing."""
    arms = [
        {"name": "a0", "control": True, "prior": {"m": {"mean": 0.1, "strength": 200}}},
        {"name": "a1", "prior": {"m": {"mean": 0.3, "strength": 200}}},
    ]
    made = spec(arms=arms, metrics=RATE, objective=[{"metric": "m"}])
    none = periods(made, np.zeros((0, 2, 1)), np.zeros((0, 2, 1)))
    one, two = (beliefs_from(made, none, LATE)[0] for _ in range(2))
    assert one.mean[1] - one.mean[0] == pytest.approx(0.2, rel=0.2)
    assert one.params.tobytes() == two.params.tobytes()
    n = np.full((1, 2, 1), 1e6)
    much = beliefs_from(made, periods(made, n, 0.2 * n), LATE)[0].mean
    assert much[1] - much[0] == pytest.approx(0.0, abs=1e-3)


@pytest.mark.parametrize("baseline", list(BASELINES))
@pytest.mark.parametrize("scale", [1.0, 1e3, 1e9])
def test_hostile_sums_give_shares(baseline: str, scale: float) -> None:
    chance = np.random.default_rng(5)
    for arms in (2, 3, 64):
        made = rates(arms, baseline=baseline, bounds={"floor": 0.0, "control_floor": 0.0})
        for rate in (0.0, 1.0, 0.5):
            n = np.floor(scale * chance.random((4, arms, 1)) ** 8)
            rows = periods(made, n, np.round(n * rate))
            live = np.ones(arms, np.bool_)
            got = propose(made, evidence_of(made, rows, LATE), live, [None] * arms, None, 0.0, 10.0)
            assert sum(got.shares_ppm) == 1_000_000
            assert np.isfinite(got.p_best).all()
            assert np.isfinite(got.expected_loss).all()
            assert (got.utility_sd > 0.0).all()


@pytest.mark.parametrize("baseline", list(BASELINES))
def test_equal_arms_have_equal_chances(baseline: str) -> None:
    for arms in (2, 3, 7):
        made = rates(arms, baseline=baseline)
        for n in (np.zeros((0, arms, 1)), np.full((5, arms, 1), 40.0)):
            evidence = evidence_of(made, periods(made, n, 0.25 * n), LATE)
            live = np.ones(arms, np.bool_)
            got = propose(made, evidence, live, [None] * arms, None, 0.0, 10.0)
            assert got.p_best == pytest.approx(np.full(arms, 1 / arms), abs=1e-12)


@pytest.mark.parametrize("baseline", list(BASELINES))
def test_rewards_turned_around_give_the_same_chances(baseline: str) -> None:
    n, s = drawn(5, 25, 2)
    up = rates(5, baseline=baseline)
    down = rates(5, baseline=baseline, metrics=[RATE[0] | {"direction": "minimize"}])
    live = np.ones(5, np.bool_)
    chances = []
    for made, sums in ((up, s), (down, n - s)):
        evidence: Evidence = evidence_of(made, periods(made, n[:, :, None], sums[:, :, None]), LATE)
        chances.append(propose(made, evidence, live, [None] * 5, None, 0.0, 10.0).p_best)
    assert chances[1] == pytest.approx(chances[0], abs=1e-11)


@pytest.mark.parametrize("level", [0.0, 0.1, 1.0])
def test_values_that_are_all_equal_do_not_say_that_none_will_differ(level: float) -> None:
    """Nothing is known of an arm without values; the more equal ones of the other there are, the less it may differ."""
    mean = [{"name": "m", "kind": "gaussian", "direction": "maximize", "range": [0.0, 1.0]}]
    made = rates(2, metrics=[mean[0] | {"attribution_window": "1s"}])
    spreads = []
    for values in (0.0, 1.0, 20.0, 400.0):
        n = np.array([[[values], [0.0]]])
        spreads.append(float(beliefs_from(made, periods(made, n, level * n, level**2 * n), LATE)[0].sd[1]))
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[1] > 0.5 * spreads[0]
    assert spreads[3] > 0.01 * spreads[0]

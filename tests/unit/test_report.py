"""The report of given periods: what it shows, what it refuses to show, hostile input, and folded periods."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from bandit.facts import settle
from bandit.inference.report import better, report_of, terms_start
from bandit.inference.terms import FOREVER_MS, kept_of, terms_of, width
from bandit.inference.terms import settle as settle_terms
from bandit.ledger import Layout, Period, fold_block, split_table
from bandit.spec.model import ExperimentSpec
from tests.builders import NOW
from tests.guardrail_periods import LONG_AFTER, period
from tests.reports import EQUAL, METRIC, effect, of, reported, rows_of


def test_effects_and_means_of_two_periods_by_hand() -> None:
    spec = of()
    shown = reported(
        spec,
        [
            period(spec, 1, {"good": [(80, 40), (10, 8), (10, 5)]}, centres={"good": 0.5}),
            period(
                spec,
                2,
                {"good": [(40, 30), (40, 34), (20, 15)]},
                shares=(0.4, 0.4, 0.2),
                centres={"good": 0.5},
            ),
        ],
    )
    found = effect(shown, 1)
    a1, a2 = 10 * 80 / 90, 20.0
    assert found.interval.estimate == pytest.approx((a1 * (0.8 - 0.5) + a2 * (0.85 - 0.75)) / (a1 + a2))
    assert found.aipw == pytest.approx((3 / 0.1 - 0 / 0.8 + 14 / 0.4 - 10 / 0.4) / 200)
    assert (found.n, found.n_control, found.interval.method) == (50, 120, "exact")
    one = shown.metrics[0].arms[1]
    # Two strata of 100 decisions each, whatever the arm's part of them.
    assert one.mean.mean == pytest.approx((0.8 + 0.85) / 2)
    assert one.mean.control == pytest.approx((0.5 + 0.75) / 2)
    assert one.mean.n_effective == pytest.approx(1 / (0.25 / 10 + 0.25 / 40))
    assert one.plain == pytest.approx(42 / 50)
    assert shown.decisions == 200
    assert shown.metrics[0].matured == 1.0


def test_periods_that_two_arms_do_not_share_are_left_out_for_both_and_told() -> None:
    spec = of()
    # The challenger has a value in the fifth and tenth period only, at a level that rises.
    periods = [
        period(
            spec,
            number,
            {"good": [(90, 9 * number), (int(number % 5 == 0), 0), (9, number)]},
            shares=(0.9, 0.01, 0.09),
            assigned=[90, int(number % 5 == 0), 9],
        )
        for number in range(1, 11)
    ]
    one = reported(spec, periods).metrics[0].arms[1]
    assert one.mean.control == pytest.approx((0.5 + 1.0) / 2)
    assert one.mean.covered == pytest.approx(200 / 992)
    assert one.mean.mean == 0.0


def test_open_windows_wait() -> None:
    spec = of()
    young = period(spec, 1, {"good": [(80, 40), (10, 8), (10, 5)]})
    shown = reported(spec, [young], now_ms=young.end_ms + 1000)
    assert shown.metrics[0].matured == 0.0
    assert effect(shown, 1).interval.method == "none"
    assert effect(shown, 1).n == 0
    # The mean so far is shown all the same, and traffic is known at once.
    assert shown.metrics[0].arms[1].mean.mean == pytest.approx(0.8)
    assert shown.traffic.arms[1].decisions == 10


def test_failures_without_a_reward_do_not_make_an_arm_look_better() -> None:
    # Both arms have 50 % good answers; in the first challenger one request of five fails before it is judged.
    silent = of(metrics=[METRIC | {"default_when_silent": 0.0}])
    missing = of()
    for spec, finding in ((silent, "worse"), (missing, "not shown")):
        periods = [
            period(
                spec,
                number,
                {"good": [(400, 200), (320, 160), (400, 200)]},
                shares=EQUAL,
                assigned=[400, 400, 400],
                centres={"good": 0.5},
            )
            for number in range(1, 6)
        ]
        shown = reported(spec, periods)
        assert better(spec.metrics[0], effect(shown, 1).sign) == finding
        assert better(spec.metrics[0], effect(shown, 2).sign) == "not shown"
        assert shown.metrics[0].arms[1].answered == pytest.approx(0.8)


def test_an_arm_that_came_late_is_compared_within_its_own_time() -> None:
    spec = of()
    before = [
        period(
            spec,
            number,
            {"good": [(900, 90), (0, 0), (100, 10)]},
            shares=(0.9, 0.0, 0.1),
            centres={"good": 0.1},
        )
        for number in range(1, 6)
    ]
    after = [
        period(spec, number, {"good": [(800, 400), (100, 50), (100, 50)]}, centres={"good": 0.1})
        for number in range(6, 9)
    ]
    shown = reported(spec, before + after)
    found = effect(shown, 1)
    assert found.interval.estimate == pytest.approx(0.0)
    assert found.aipw == pytest.approx(0.0, abs=1e-9)
    assert shown.metrics[0].arms[1].mean.control == pytest.approx(0.5)
    # What the report refuses to compare: the pooled means.
    plain = [each.plain for each in shown.metrics[0].arms]
    assert plain[1] - plain[0] > 0.2


def test_cohorts_with_other_levels_are_not_effects_of_arms() -> None:
    spec = of(cohorts={"attribute": "plan", "values": ["paid"]})
    layout = Layout(2, 3, len(spec.columns))
    periods = []
    for number in range(1, 21):
        one = period(spec, number, {"good": [(400, 80), (50, 10), (50, 10)]}, centres={"good": 0.2})
        paid = {"good": [(100, 60), (250, 150), (50, 30)]}
        one.cells.add(period(spec, number, paid, centres={"good": 0.2}, cohort=1).cells)
        periods.append(one)
    shown = report_of(spec, split_table(periods, layout), [True] * 3, LONG_AFTER)
    assert effect(shown, 1).interval.estimate == pytest.approx(0.0)
    assert effect(shown, 1).sign == 0
    plain = [each.plain for each in shown.metrics[0].arms]
    assert plain[1] - plain[0] > 0.2


def random_periods(spec: ExperimentSpec, count: int, seed: int = 3) -> list[Period]:
    rng = np.random.default_rng(seed)
    made = []
    for number in range(1, count + 1):
        shares = rng.dirichlet((8.0, 4.0, 2.0))
        if number % 7 == 0:
            shares = np.array([1.0, 0.0, 0.0])
        n = rng.multinomial(400, shares)
        counts = {
            metric.name: [(int(each), int(rng.binomial(each, 0.3))) for each in n] for metric in spec.metrics
        }
        made.append(
            period(spec, number, counts, shares=shares.tolist(), centres={"good": float(rng.random())})
        )
    return made


def folded(spec: ExperimentSpec, periods: Sequence[Period]) -> Period:
    rows = rows_of(spec, periods)
    facts = np.concatenate([settle(spec, rows, 1), settle_terms(spec, rows, 1)], axis=1)
    return fold_block(periods, facts)


@pytest.mark.parametrize("groups", [[40], [1, 39], [13, 13, 13]])
def test_folded_periods_report_the_same(groups: list[int]) -> None:
    spec = of()
    periods = random_periods(spec, 44)
    blocks, start = [], 0
    for size in groups:
        blocks.append(folded(spec, periods[start : start + size]) if size > 1 else periods[start])
        start += size
    whole, parts = reported(spec, periods), reported(spec, blocks + periods[start:])
    for arm in (1, 2):
        assert effect(parts, arm).interval[:3] == pytest.approx(effect(whole, arm).interval[:3], rel=1e-9)
        assert effect(parts, arm).aipw == pytest.approx(effect(whole, arm).aipw, rel=1e-9)
        assert effect(parts, arm).n == effect(whole, arm).n
    assert parts.winner.log_e == pytest.approx(whole.winner.log_e, rel=1e-9)
    assert parts.winner.lift == pytest.approx(whole.winner.lift, rel=1e-9)
    assert parts.traffic.log_e == pytest.approx(whole.traffic.log_e, rel=1e-9)
    for one, two in zip(parts.traffic.arms, whole.traffic.arms, strict=True):
        assert one.mean_weight == pytest.approx(two.mean_weight, rel=1e-9)
        assert two.least_propensity / 2 <= one.least_propensity <= two.least_propensity


def test_a_block_without_terms_counts_for_nothing_and_breaks_nothing() -> None:
    spec = of()
    periods = random_periods(spec, 10)
    bare = fold_block(periods[:5])
    assert effect(reported(spec, [bare, *periods[5:]]), 1).aipw == effect(reported(spec, periods[5:]), 1).aipw
    only_facts = fold_block(periods[:5], settle(spec, rows_of(spec, periods[:5]), 1))
    assert (
        effect(reported(spec, [only_facts, *periods[5:]]), 1).aipw
        == effect(reported(spec, periods[5:]), 1).aipw
    )


def test_open_periods_and_blocks_are_not_settled() -> None:
    spec = of()
    periods = random_periods(spec, 3)
    with pytest.raises(ValueError, match="closed"):
        settle_terms(spec, rows_of(spec, [replace(periods[0], end_ms=0)]), 1)
    with pytest.raises(ValueError, match="closed"):
        settle_terms(spec, rows_of(spec, [folded(spec, periods)]), 1)


def test_traffic_that_left_its_shares_is_said() -> None:
    spec = of()
    honest = period(spec, 1, {}, shares=(0.8, 0.1, 0.1), assigned=[4886, 610, 611])
    off = period(spec, 1, {}, shares=(0.8, 0.2, 0.0), assigned=[4072, 2035, 0])
    assert not reported(spec, [honest]).traffic.mismatch
    shown = reported(spec, [off]).traffic
    assert shown.mismatch
    assert shown.arms[1].mean_weight == pytest.approx(2035 / 6107 / 0.2)
    assert math.isnan(shown.arms[2].mean_weight)
    assert abs(shown.arms[1].mean_weight - 1.0) > 20 * shown.arms[1].mean_weight_se


def test_few_samples_have_no_winner_but_a_distance_to_one() -> None:
    cost = {
        "name": "cost",
        "kind": "gaussian",
        "direction": "minimize",
        "range": [-1, 3],
        "attribution_window": "1h",
    }
    spec = of(metrics=[cost], objective=[{"metric": "cost"}])
    values = [
        [mean + step for step in (-0.45, -0.3, -0.1, 0.0, 0.1, 0.3, 0.45)] for mean in (0.49, 0.25, 0.99)
    ]
    few = period(spec, 1, {"cost": values}, shares=EQUAL, assigned=[7, 7, 7], centres={"cost": 0.4})
    won = reported(spec, [few]).winner
    assert (won.arm, won.leader) == (None, 1)
    assert 0.0 < won.log_threshold == pytest.approx(math.log(6 / spec.alpha))
    assert won.log_e < won.log_threshold
    assert 10 <= won.decisions_more < math.inf
    many = [
        period(spec, number, {"cost": values}, shares=EQUAL, assigned=[7, 7, 7], centres={"cost": 0.4})
        for number in range(1, 200)
    ]
    assert reported(spec, many).winner.arm == 1
    # It is about as far as it says.
    for part, arm in ((0.6, None), (1.4, 1)):
        enough = many[: 1 + round(part * won.decisions_more / 21)]
        assert reported(spec, enough).winner.arm == arm, len(enough)


def test_a_rolled_back_arm_neither_wins_nor_stands_in_the_way() -> None:
    spec = of()
    periods = [
        period(spec, n, {"good": [(300, 90), (300, 180), (300, 179)]}, shares=EQUAL, centres={"good": 0.3})
        for n in range(1, 30)
    ]
    rows = rows_of(spec, periods)
    assert report_of(spec, rows, [True, True, True], LONG_AFTER).winner.arm is None
    assert report_of(spec, rows, [True, True, False], LONG_AFTER).winner.arm == 1
    assert report_of(spec, rows, [True, False, True], LONG_AFTER).winner.arm == 2
    assert report_of(spec, rows, [True, False, False], LONG_AFTER).winner.leader is None


def test_more_arms_than_pairs_are_kept_for_have_effects_and_no_winner() -> None:
    arms = [{"name": f"a{index}", "control": index == 0} for index in range(20)]
    spec = of(arms=arms)
    counts = {"good": [(50, 10 + 2 * (index == 3)) for index in range(20)]}
    periods = [period(spec, n, counts, shares=[1 / 20] * 20, centres={"good": 0.2}) for n in range(1, 400)]
    shown = reported(spec, periods)
    assert shown.winner.arm is None
    assert better(spec.metrics[0], effect(shown, 3).sign) == "better"
    assert width(spec) < 20 * 100


def test_a_ratio_is_compared_as_a_ratio_after_enough_rewards() -> None:
    many = {"range": [0, 1000], "kind": "gaussian", "attribution_window": "1h"}
    metrics = [
        {"name": "tokens", "direction": "minimize", **many},
        {"name": "answers", "direction": "maximize", **many, "range": [0, 20]},
        {
            "name": "per_answer",
            "kind": "ratio",
            "direction": "minimize",
            "numerator": "tokens",
            "denominator": "answers",
            "range": [0, 1000],
        },
    ]
    spec = of(metrics=metrics, objective=[{"metric": "per_answer"}])
    rng = np.random.default_rng(4)
    pair = spec.columns[next(each for each in spec.columns if each.other == 1)]
    periods = []
    for number in range(1, 41):
        values: dict[str, list[list[float]]] = {"tokens": [], "answers": []}
        for scale in (50.0, 60.0, 50.0):
            answers = rng.integers(1, 9, 100)
            values["answers"].append([float(each) for each in answers])
            values["tokens"].append([float(each) for each in answers * scale + rng.normal(0, 10, 100)])
        made = period(spec, number, values, shares=EQUAL, centres={"tokens": 0.2, "answers": 0.2})
        for arm in range(3):
            product = np.array(values["tokens"][arm]) / 1000 * np.array(values["answers"][arm]) / 20
            made.cells.sums[0, arm, pair, :2] = 100, round(product.sum() * 2**30)
        periods.append(made)
    shown = reported(spec, periods)
    found = effect(shown, 1, 2)
    assert found.interval.estimate == pytest.approx(10.0, abs=0.5)
    assert found.interval.method == "asymptotic"
    assert better(spec.metrics[2], found.sign) == "worse"
    assert effect(shown, 2, 2).sign == 0
    assert shown.metrics[2].arms[1].mean.mean == pytest.approx(60.0, abs=0.5)
    # The spread of x = N - theta D is 10 tokens, that of N a hundred: products of the two are what tells.
    assert found.interval.high - found.interval.low < 2.0
    few = effect(reported(spec, periods[:1]), 1, 2)
    assert few.interval.method in ("none", "asymptotic")


@pytest.mark.parametrize(
    "counts",
    [
        [(0, 0), (0, 0), (0, 0)],
        [(1, 1), (0, 0), (0, 0)],
        [(1, 0), (1, 0), (1, 0)],
        [(5, 5), (5, 5), (5, 5)],
        [(10**9, 10**8), (10**9, 10**8), (1, 1)],
        [(0, 0), (4, 1), (4, 1)],
    ],
)
def test_hostile_counts_give_no_wrong_numbers(counts: list[tuple[int, int]]) -> None:
    spec = of()
    for shares in ((0.8, 0.1, 0.1), (1.0, 0.0, 0.0), (0.0, 0.5, 0.5), (0.999998, 1e-6, 1e-6)):
        shown = reported(spec, [period(spec, 1, {"good": counts}, shares=shares)])
        for arm in (1, 2):
            found = effect(shown, arm)
            if found.interval.method == "none":
                assert math.isnan(found.interval.estimate)
                assert (found.interval.low, found.interval.high) == (-math.inf, math.inf)
            else:
                assert found.interval.low <= found.interval.estimate <= found.interval.high
        assert math.isfinite(shown.winner.log_e)
        assert math.isfinite(shown.traffic.log_e)
    empty = reported(spec, [])
    assert empty.decisions == 0
    assert empty.winner.arm is None


def test_terms_settle_to_what_is_read() -> None:
    spec = of()
    periods = random_periods(spec, 6)
    rows = rows_of(spec, periods)
    made = terms_of(spec, rows, FOREVER_MS).packed()
    block = rows_of(spec, [folded(spec, periods)])
    assert kept_of(spec, block, terms_start(spec)).packed() == pytest.approx(made, rel=1e-12)
    assert made.shape == (width(spec),)
    assert NOW < LONG_AFTER

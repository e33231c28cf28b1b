"""What a logged decision brought: aggregates as in the ledger, silence, windows, and the objective by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandit.errors import InvalidArgument
from bandit.evaluate.learner import Learner
from bandit.evaluate.logged import Collector, Logged
from bandit.evaluate.periods import schedule
from bandit.evaluate.worth import objective, worth
from bandit.ledger import ONE, S1, N
from bandit.spec.model import ExperimentSpec
from tests.evaluations import START_MS, spec_of

LIKED = {"name": "liked", "kind": "bernoulli", "direction": "maximize", "attribution_window": "10s"}
COST = {**LIKED, "name": "cost", "kind": "gaussian", "direction": "minimize", "range": [-1, 3]}


def one_by_one(spec: ExperimentSpec, rewards: list[list[tuple[str, float, int]]], **last: Any) -> Logged:
    """A decision each second, arms in turn; ``rewards``: (metric, value, delay in ms) of each."""
    collector = Collector(spec, "log")
    for at, own in enumerate(rewards):
        decision = collector.decision(
            at + 1,
            time_ms=START_MS + 1000 * at,
            arm=spec.arms[at % 2].name,
            propensity=0.5,
            attributes={},
        )
        assert decision is not None
        for metric, value, delay_ms in own:
            collector.reward(at + 1, decision, metric, value, delay_ms=delay_ms, **last)
    return collector.finish()


@pytest.mark.parametrize(
    ("aggregate", "expected"),
    [
        ("first", [1.0, 0.0, 3.0]),
        ("last", [2.0, 0.0, -1.0]),
        ("max", [2.0, 0.0, 3.0]),
        ("sum", [3.0, 0.0, 1.0]),
    ],
)
def test_several_rewards_come_to_one_value_as_in_the_ledger(aggregate: str, expected: list[float]) -> None:
    spec = spec_of(2, metrics=[LIKED, {**COST, "aggregate": aggregate}])
    log = one_by_one(
        spec,
        [
            [("cost", 2.0, 900), ("cost", 1.0, 100)],
            [("cost", 0.0, 0)],
            [("cost", 3.0, 0), ("cost", -1.0, 1), ("cost", -1.0, 2)],
            [],
        ],
    )
    values = worth(log, complete=True).values[:, 1]
    np.testing.assert_allclose(values[:3], expected, atol=1e-8)
    assert np.isnan(values[3])
    # The same fold as in service, to the bit.
    plan = schedule(log, 1.0)
    learner = Learner(log, plan, spec)
    for at in range(len(plan.at_ms)):
        learner.look(at)
        chosen = np.arange(plan.first[at], plan.first[at + 1])
        learner.take(at, chosen, plan.chance[plan.vector[chosen]], own=False)
    learner._fold_rewards(log.end_ms + 1, log.size)
    cells = learner._sums.sum(axis=(0, 1))[:, 1]
    q = np.rint((values + 1.0) / 4.0 * ONE)
    for arm in range(2):
        own = q[arm::2][~np.isnan(q[arm::2])]
        assert (cells[arm, N], cells[arm, S1]) == (own.size, own.sum())


def test_of_corrected_order_the_highest_stands() -> None:
    spec = spec_of(2, metrics=[LIKED, {**COST, "aggregate": "last"}])
    collector = Collector(spec, "log")
    decision = collector.decision(1, time_ms=START_MS, arm="a", propensity=0.5, attributes={})
    assert decision == 0
    for value, sequence in ((1.0, 5), (2.0, 9), (0.5, 9), (3.0, 7)):
        collector.reward(1, decision, "cost", value, sequence=sequence)
    assert worth(collector.finish(), complete=True).values[0, 1] == pytest.approx(2.0)


def test_silence_has_its_value_once_the_window_is_closed() -> None:
    spec = spec_of(2, metrics=[{**LIKED, "default_when_silent": 0}, COST])
    log = one_by_one(spec, [[("liked", 1.0, 500)], [], [], *[[("cost", 0.0, 0)]] * 10, [("liked", 1.0, 0)]])
    found = worth(log)
    # The end is 13 s in; windows of decisions up to 3 s in are closed.
    np.testing.assert_array_equal(found.values[:4, 0], [1.0, 0.0, 0.0, 0.0])
    assert np.isnan(found.values[4:, 0]).all()
    assert found.pending.tolist() == [False] * 4 + [True] * 10
    whole = worth(log, complete=True)
    np.testing.assert_array_equal(whole.values[:, 0], [1.0, *[0.0] * 12, 1.0])
    assert not whole.pending.any()
    np.testing.assert_array_equal(whole.unit, whole.values[:, 0])


def test_a_late_reward_counts_nowhere() -> None:
    spec = spec_of(2, metrics=[LIKED, COST])
    log = one_by_one(spec, [[("liked", 1.0, 10_000)], [("liked", 1.0, 10_001)]])
    assert log.late == 1
    np.testing.assert_array_equal(worth(log).values[:, 0], [1.0, np.nan])


def test_the_objective_by_hand() -> None:
    rating = {**LIKED, "name": "stars", "kind": "rating", "levels": [1, 2, 5], "scores": [1, 4, 5]}
    spec = spec_of(
        2,
        metrics=[LIKED, {**COST, "winsorize": 2}, rating],
        objective=[
            {"metric": "liked", "weight": 2},
            {"metric": "cost", "weight": 1, "scale": [0, 1]},
            {"metric": "stars", "weight": 4},
        ],
    )
    log = one_by_one(spec, [[("liked", 1.0, 0), ("cost", 2.5, 0), ("stars", 2.0, 0)], [("liked", 0.0, 0)]])
    found = worth(log)
    assert found.values[0, 1] == pytest.approx(2.0)  # above it counts as it
    # 2 * 1 for liked, 1 - 2 = -1 for a cost of 2 on the scale 0 to 1, 4 * (4 - 1) / 4 for a level that is worth 4.
    assert found.lowest + found.span * found.unit[0] == pytest.approx(2.0 - 1.0 + 3.0)
    assert (found.lowest, found.span) == pytest.approx((0.0 - 1.0 + 0.0, 2.0 + 3.0 + 4.0))
    assert np.isnan(found.unit[1])


def test_a_ratio_is_no_term() -> None:
    spec = spec_of(
        2,
        metrics=[
            LIKED,
            {**COST, "range": [1, 3]},
            {
                "name": "per",
                "kind": "ratio",
                "direction": "maximize",
                "numerator": "liked",
                "denominator": "cost",
                "range": [0, 1],
            },
        ],
        objective=[{"metric": "per"}],
    )
    with pytest.raises(InvalidArgument, match="per is a ratio, which no single decision has"):
        objective(spec, np.zeros((1, 3)))

"""Worlds: true to their laws, the same for everybody, and refused when a law does not fit its metric."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import pytest

from bandit.errors import InvalidArgument
from bandit.simulate import Law, Phase, Timing, World
from bandit.spec.model import Direction, Metric, MetricKind

LIKED = Metric(name="liked", kind=MetricKind.BERNOULLI, direction=Direction.MAXIMIZE)
COST = Metric(name="cost", kind=MetricKind.GAUSSIAN, direction=Direction.MINIMIZE, range=(0.0, 10.0))
UNITS = [f"u{number}" for number in range(20_000)]
FIVE_SD = 5.0


def world(
    laws: Mapping[str, Law] | None = None, timing: Mapping[str, Timing] | None = None, seed: int = 7
) -> World:
    laws = laws or {"liked": Law(0.3), "cost": Law(4.0, 0.8)}
    return World((LIKED, COST), {"a": [Phase(0.0, laws)], "b": [Phase(0.0, laws)]}, timing or {}, seed)


def values(
    of: World, metric: str, arm: str = "a", at_s: float = 0.0
) -> np.ndarray[tuple[int], np.dtype[np.float64]]:
    return np.array(
        [each.value for unit in UNITS for each in of.outcomes(arm, unit, at_s) if each.metric == metric]
    )


def test_a_share_is_met() -> None:
    seen = values(world(), "liked")
    assert set(seen) == {0.0, 1.0}
    assert abs(seen.mean() - 0.3) < FIVE_SD * math.sqrt(0.3 * 0.7 / len(UNITS))


def test_mean_and_spread_of_a_gaussian_law_are_met() -> None:
    seen = values(world(), "cost")
    assert abs(seen.mean() - 4.0) < FIVE_SD * 0.8 / math.sqrt(len(UNITS))
    assert abs(seen.std() - 0.8) < FIVE_SD * 0.8 / math.sqrt(2 * len(UNITS))
    # The third moment too: a wrong pair of uniforms would show here.
    assert abs(((seen - 4.0) ** 3).mean()) < FIVE_SD * 0.8**3 * math.sqrt(15 / len(UNITS))


def test_a_unit_has_one_fate_whatever_the_arm_the_order_and_the_process() -> None:
    one, other = world(), world()
    assert [list(one.outcomes("a", unit, 1.0)) for unit in UNITS[:50]] == [
        list(other.outcomes("b", unit, 2.0)) for unit in UNITS[:50]
    ]


def test_metrics_of_a_unit_are_independent_and_seeds_differ() -> None:
    liked, cost, other = values(world(), "liked"), values(world(), "cost"), values(world(seed=8), "cost")
    bound = FIVE_SD / math.sqrt(len(UNITS))
    assert abs(np.corrcoef(liked, cost)[0, 1]) < bound
    assert abs(np.corrcoef(cost, other)[0, 1]) < bound


def test_phases_follow_each_other() -> None:
    fallen = World((LIKED,), {"a": [Phase(0.0, {"liked": Law(0.0)}), Phase(5.0, {"liked": Law(1.0)})]})
    assert [fallen.law("a", "liked", at_s).mean for at_s in (0.0, 4.99, 5.0, 100.0)] == [0.0, 0.0, 1.0, 1.0]
    assert [next(fallen.outcomes("a", "u", at_s)).value for at_s in (4.99, 5.0)] == [0.0, 1.0]


def test_rewards_come_when_timing_says_and_some_never() -> None:
    timing = {"liked": Timing(least=1.0, more=0.5, most=3.0, answered=0.7)}
    found = [each for unit in UNITS for each in world(timing=timing).outcomes("a", unit, 0.0)]
    delays = np.array([each.delay_s for each in found if each.metric == "liked"])
    n = len(UNITS)
    assert abs(len(delays) - 0.7 * n) < FIVE_SD * math.sqrt(n * 0.7 * 0.3)
    assert delays.min() >= 1.0
    assert delays.max() == 3.0
    # Mean of an exponential part cut at 2 s: 0.5 (1 - exp(-4)).
    assert abs(delays.mean() - 1.0 - 0.5 * (1 - math.exp(-4))) < FIVE_SD * 0.5 / math.sqrt(len(delays))
    assert sum(each.metric == "cost" and each.delay_s == 0.0 for each in found) == n


def test_who_answers_does_not_depend_on_the_value() -> None:
    timing = {"liked": Timing(answered=0.5)}
    seen = values(world(timing=timing), "liked")
    assert abs(seen.mean() - 0.3) < FIVE_SD * math.sqrt(0.3 * 0.7 / len(seen))


@pytest.mark.parametrize(
    ("laws", "said"),
    [
        ({"liked": Law(0.3)}, "no law of metric cost"),
        ({"liked": Law(1.2), "cost": Law(4.0, 0.8)}, "a share in [0, 1]"),
        ({"liked": Law(0.3, 0.1), "cost": Law(4.0, 0.8)}, "no sd"),
        ({"liked": Law(0.3), "cost": Law(1.0, 0.8)}, "keep 4 sd to both ends"),
        ({"liked": Law(0.3), "cost": Law(9.0, 0.8)}, "keep 4 sd to both ends"),
        ({"liked": Law(0.3), "cost": Law(4.0, -0.1)}, "keep 4 sd to both ends"),
    ],
)
def test_laws_that_do_not_fit_are_refused(laws: Mapping[str, Law], said: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        world(laws)
    assert said in str(refused.value)


@pytest.mark.parametrize("begins", [(), (1.0,), (0.0, 5.0, 2.0)])
def test_phases_out_of_order_are_refused(begins: tuple[float, ...]) -> None:
    with pytest.raises(InvalidArgument, match="begin at 0 and go on in order"):
        World((LIKED,), {"a": [Phase(each, {"liked": Law(0.5)}) for each in begins]})

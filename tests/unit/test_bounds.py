"""Boxes in their order of priority, and whole ppm inside them."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.ledger import Int64Array
from bandit.rollout.bounds import bounded, boxes, quantise
from bandit.spec.model import PPM, ExperimentSpec
from tests.builders import spec

ALL = [True, True, True]
NONE_HELD: list[int | None] = [None, None, None]


def made(**bounds: Any) -> ExperimentSpec:
    return spec(bounds={"floor": 0.02, "control_floor": 0.05} | bounds)


def box(
    built: ExperimentSpec,
    live: list[bool] | None = None,
    held: list[int | None] | None = None,
    previous: tuple[int, ...] | None = (900_000, 50_000, 50_000),
    elapsed_s: float = 60.0,
) -> list[tuple[int, int]]:
    low, high = boxes(built, live or ALL, held or NONE_HELD, previous, elapsed_s)
    return list(zip(low.tolist(), high.tolist(), strict=True))


def test_floors_and_caps() -> None:
    assert box(made(cap=0.3)) == [(50_000, PPM), (20_000, 300_000), (20_000, 300_000)]


def test_a_killed_arm_has_nothing_left() -> None:
    assert box(made(cap=0.3), live=[True, False, True])[1] == (0, 0)


def test_everything_falls_back_to_the_control() -> None:
    low, high = boxes(made(cap=0.3), [False] * 3, NONE_HELD, None, 0.0)
    assert bounded(np.array([0.2, 0.5, 0.3]), low, high) == (PPM, 0, 0)


def test_a_cap_wins_over_a_floor() -> None:
    """Only a held arm or one whose bounds changed on the way can come to this; the spec's check refuses it."""
    assert box(made(floor=0.4, cap=0.3))[1] == (300_000, 300_000)


def test_a_hold_wins_over_the_floor_and_yields_to_the_cap() -> None:
    assert box(made(cap=0.3), held=[None, 5_000, 900_000])[1:] == [(5_000, 5_000), (20_000, 300_000)]


def test_the_control_is_never_held_or_ramped() -> None:
    assert box(made(ramp_per_minute=0.01), held=[10, None, None])[0] == (50_000, PPM)


def test_a_ramp_limits_the_rise_by_time() -> None:
    built = made(ramp_per_minute=0.06)
    for elapsed_s, most in ((0.0, 50_000), (10.0, 60_000), (60.0, 110_000), (-5.0, 50_000)):
        assert box(built, elapsed_s=elapsed_s)[1] == (20_000, most)


def test_a_floor_wins_over_the_ramp() -> None:
    assert box(made(ramp_per_minute=0.06), previous=(PPM, 0, 0), elapsed_s=1.0)[1] == (20_000, 20_000)


def test_a_first_allocation_starts_ramped_arms_at_their_floor() -> None:
    assert box(made(ramp_per_minute=0.06), previous=None, elapsed_s=600.0)[1] == (20_000, 20_000)
    assert box(made(), previous=None)[1] == (20_000, PPM)


def test_floors_beyond_the_whole_are_scaled_beside_the_control() -> None:
    got = box(made(floor=0.9, control_floor=0.1))
    assert [low for low, _ in got] == [100_000, 450_000, 450_000]


def test_a_killed_arms_share_goes_to_the_control_beyond_the_ramp() -> None:
    low, high = boxes(
        made(ramp_per_minute=0.06), [True, True, False], NONE_HELD, (300_000, 300_000, 400_000), 10.0
    )
    assert bounded(np.array([0.0, 1.0, 0.0]), low, high) == (690_000, 310_000, 0)


def test_the_control_keeps_its_floor_when_it_cannot_be_the_best() -> None:
    low, high = boxes(made(), ALL, NONE_HELD, None, 0.0)
    assert bounded(np.array([0.0, 0.5, 0.5]), low, high) == (50_000, 475_000, 475_000)


def test_no_dust_for_a_hopeless_arm_without_a_floor() -> None:
    low, high = boxes(made(floor=0.0), ALL, NONE_HELD, None, 0.0)
    assert bounded(np.array([1.0 - 2e-17, 1e-17, 1e-17]), low, high) == (PPM, 0, 0)


@pytest.mark.parametrize("arms", [2, 3, 7, 64])
def test_thirds_add_up(arms: int) -> None:
    shares = quantise(np.full(arms, 1 / arms), np.zeros(arms, np.int64), np.full(arms, PPM))
    assert sum(shares) == PPM
    assert max(shares) - min(shares) <= 1
    assert list(shares) == sorted(shares, reverse=True)


def test_boxes_that_hold_nothing_are_refused() -> None:
    with pytest.raises(ValueError, match="hold no shares that add up to 1000000"):
        quantise(np.array([0.5, 0.5]), np.zeros(2, np.int64), np.array([100, 100]))


@st.composite
def boxed(draw: st.DrawFn) -> tuple[np.ndarray[Any, np.dtype[np.float64]], Int64Array, Int64Array]:
    arms = draw(st.integers(1, 64))
    chance = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    p = chance.dirichlet(np.full(arms, draw(st.sampled_from([0.01, 1.0, 100.0]))))
    low = chance.integers(0, PPM // arms, arms, endpoint=True) * (chance.random(arms) > 0.5)
    high = np.minimum(low + np.floor(10 ** chance.uniform(0, 6, arms)).astype(np.int64), PPM)
    high[chance.integers(arms)] = PPM
    return p, low, high


@settings(max_examples=300)
@given(boxed())
def test_shares_are_whole_and_within_one_of_the_weights(
    problem: tuple[np.ndarray[Any, np.dtype[np.float64]], Int64Array, Int64Array],
) -> None:
    p, low, high = problem
    shares = np.array(bounded(p, low, high))
    assert shares.sum() == PPM
    assert (low <= shares).all()
    assert (shares <= high).all()

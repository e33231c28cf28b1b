"""Utility from metric posteriors: families, directions, scales and weights, each against a formula or draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandit.allocate import propose
from bandit.allocators.base import Utility, rank
from bandit.kernels.best_arm import BETA, NORMAL, STUDENT_T, best_arm
from bandit.objective import utility
from bandit.reading import Reading
from tests.builders import spec

ARMS = 3


def reading(rate: list[float], cost: list[float], n: float = 400.0) -> Reading:
    """n rewards of both metrics of each arm: a rate, and a cost of sd 0.2 in its range of [0, 2]."""
    mean = np.stack([rate, np.array(cost) / 2], axis=1)
    square = np.stack([rate, (np.array(cost) / 2) ** 2 + 0.1**2], axis=1)
    count = np.full((ARMS, 2), n)
    return Reading(count[:, 0], count, count * mean, count * square)


READ = reading([0.5, 0.55, 0.6], [1.0, 0.8, 1.2])


def value(objective: list[dict[str, Any]], read: Reading = READ) -> Utility:
    return utility(spec(objective=objective), read)


def test_one_binary_term_keeps_its_family() -> None:
    got = value([{"metric": "satisfied"}])
    assert got.family == BETA
    assert got.params == pytest.approx(np.array([[201.0, 201.0], [221.0, 181.0], [241.0, 161.0]]))
    assert got.mean == pytest.approx([201 / 402, 221 / 402, 241 / 402])
    assert got.unit_mean == pytest.approx(got.mean)
    assert got.observations.tolist() == [400.0] * ARMS


def test_one_real_term_that_is_minimised_is_turned_around() -> None:
    got = value([{"metric": "cost", "weight": 2.0}])
    assert got.family == STUDENT_T
    assert np.argsort(got.params[:, 0]).tolist() == [2, 0, 1]
    assert got.unit_mean == pytest.approx([0.5, 0.6, 0.4], abs=1e-4)
    assert got.mean == pytest.approx([1.0, 1.2, 0.8], abs=1e-3)
    assert got.sd == pytest.approx([2 * 0.1 / np.sqrt(400)] * ARMS, rel=0.02)


def test_a_scale_stretches_the_utility_and_not_who_is_best() -> None:
    """A cost of 1.5 is worth 0 and one of 0.5 is worth 1: twice the slope of the range [0, 2]."""
    plain, scaled = value([{"metric": "cost"}]), value([{"metric": "cost", "scale": [0.5, 1.5]}])
    assert scaled.mean == pytest.approx([0.5, 0.7, 0.3], abs=1e-3)
    assert scaled.sd == pytest.approx(2 * plain.sd)
    assert scaled.unit_mean == pytest.approx(plain.unit_mean)
    live = np.ones(ARMS, np.bool_)
    assert rank(scaled, live)[0].tobytes() == rank(plain, live)[0].tobytes()
    assert rank(scaled, live)[1] == pytest.approx(2 * rank(plain, live)[1])


def test_several_terms_add_means_and_variances() -> None:
    got = value(
        [{"metric": "satisfied", "weight": 3.0}, {"metric": "cost", "weight": 1.0, "scale": [0.0, 4.0]}]
    )
    assert got.family == NORMAL
    rate, cost = value([{"metric": "satisfied"}]), value([{"metric": "cost", "scale": [0.0, 4.0]}])
    assert got.mean == pytest.approx(3 * rate.mean + cost.mean)
    assert got.sd == pytest.approx(np.sqrt(9 * rate.sd**2 + cost.sd**2))
    assert got.params == pytest.approx(np.stack([got.mean, got.sd], axis=1))
    # A cost in [0, 2] reaches utilities from 1/2 to 1 on that scale.
    assert got.unit_mean == pytest.approx((got.mean - 0.5) / 3.5)


def test_the_fewest_observations_of_the_terms_count() -> None:
    read = reading([0.5] * ARMS, [1.0] * ARMS)
    read.n[1, 1] = 7.0
    both = [{"metric": "satisfied"}, {"metric": "cost"}]
    assert value(both, read).observations.tolist() == [400.0, 7.0, 400.0]


def test_expected_loss_is_that_of_draws() -> None:
    """Draws from the two posteriors themselves, so that the normal of their sum is tried too."""
    made = spec(objective=[{"metric": "satisfied", "weight": 3.0}, {"metric": "cost"}])
    live = np.ones(ARMS, np.bool_)
    got = propose(made, READ, live, [None] * ARMS, None, 0.0, 100.0)
    chance = np.random.default_rng(5)
    rate = value([{"metric": "satisfied"}]).params
    cost = value([{"metric": "cost"}]).params
    draws = 3 * chance.beta(rate[:, 0], rate[:, 1], (200_000, ARMS))
    draws += cost[:, 0] + cost[:, 1] * chance.standard_t(cost[:, 2], (200_000, ARMS))
    loss = draws.max(axis=1, keepdims=True) - draws
    assert got.expected_loss == pytest.approx(loss.mean(axis=0), abs=6 * loss.std() / np.sqrt(200_000))
    won = np.bincount(draws.argmax(axis=1), minlength=ARMS) / 200_000
    assert got.p_best == pytest.approx(won, abs=6 * 0.5 / np.sqrt(200_000))


def test_other_weights_need_only_the_same_sums() -> None:
    """Rate alone prefers the last arm, cost alone the second."""
    live = np.ones(ARMS, np.bool_)
    for weights, best in (((1.0, 1e-6), 2), ((1e-6, 1.0), 1)):
        objective = [{"metric": m, "weight": w} for m, w in zip(("satisfied", "cost"), weights, strict=True)]
        p_best, _ = rank(value(objective), live)
        assert p_best[best] > 0.9


def test_dead_arms_have_no_chance_and_take_none() -> None:
    got = value([{"metric": "satisfied"}])
    p_best, loss = rank(got, np.array([True, True, False]))
    assert p_best[2] == loss[2] == 0.0
    assert p_best.sum() == pytest.approx(1.0, abs=1e-15)
    pair = best_arm(BETA, got.params[:2])
    assert p_best[:2].tobytes() == pair.p.tobytes()
    assert loss[:2].tobytes() == pair.loss.tobytes()

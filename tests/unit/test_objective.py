"""Utility from metric posteriors: families, directions, scales and weights, each against a formula or draws."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.allocate import propose
from bandit.allocators import ALLOCATORS
from bandit.allocators.base import Problem, Utility, rank
from bandit.baselines import BASELINES
from bandit.kernels.best_arm import BETA, NORMAL, STUDENT_T, best_arm
from bandit.kernels.fluid import ucb_weights
from bandit.kernels.indices import KL
from bandit.objective import utility
from bandit.posteriors.gaussian import nig
from bandit.reading import Reading
from bandit.spec.model import Prior
from tests.builders import spec
from tests.evidence import evidence_from

ARMS = 3


def reading(rate: list[float], cost: list[float], n: float = 400.0) -> Reading:
    """n rewards of both metrics of each arm: a rate, and a cost of sd 0.2 in its range of [0, 2]."""
    mean = np.stack([rate, np.array(cost) / 2], axis=1)
    square = np.stack([rate, (np.array(cost) / 2) ** 2 + 0.1**2], axis=1)
    count = np.full((ARMS, 2), n)
    cross = count[:, :1] * mean[:, :1] * mean[:, 1:]  # as if the two had nothing to do with each other
    counts = np.concatenate([count, count[:, :1]], axis=1)
    sums = np.concatenate([count * mean, cross], axis=1)
    return Reading(count[:, 0], counts, sums, np.concatenate([count * square, cross], axis=1))


READ = reading([0.5, 0.55, 0.6], [1.0, 0.8, 1.2])


def value(objective: list[dict[str, Any]], read: Reading = READ) -> Utility:
    made = spec(objective=objective, baseline="stationary")
    return utility(made, read, BASELINES["stationary"].beliefs(evidence_from(made, read)))


def test_one_binary_term_keeps_its_family() -> None:
    got = value([{"metric": "satisfied"}])
    assert got.family == BETA
    assert got.params == pytest.approx(np.array([[201.0, 201.0], [221.0, 181.0], [241.0, 161.0]]), abs=1.0)
    assert got.mean == pytest.approx([201 / 402, 221 / 402, 241 / 402], abs=1e-3)
    assert got.unit_mean == pytest.approx(got.mean)
    assert got.observations.tolist() == [400.0] * ARMS


def test_optimistic_rules_stand_on_what_rewards_show() -> None:
    """An arm that is tried little is believed to be like all arms; its index is not raised by that as well."""
    read = reading([0.1, 0.0, 0.5], [1.0, 0.8, 1.2], 5000.0)
    part = np.array([1.0, 0.004, 0.0])
    few = Reading(
        part * read.assigned, part[:, None] * read.n, part[:, None] * read.s1, part[:, None] * read.s2
    )
    good, bad = value([{"metric": "satisfied"}], few), value([{"metric": "cost"}], few)
    assert good.shown is not None
    assert good.shown[:2] == pytest.approx([0.1, 0.0])
    assert good.unit_mean[1] > 0.02  # 20 failures among thousands of a tenth
    assert good.shown[2] == good.unit_mean[2]  # nothing shown
    assert bad.shown is not None
    assert bad.shown[:2] == pytest.approx([0.5, 0.6])
    live = np.array([True, True, False])
    shares = ALLOCATORS["kl_ucb"].weights(Problem(good, few.assigned, live, 100.0), rank(good, live)[0])
    twin = np.empty(2)
    ucb_weights(KL, np.array([0.1, 0.0]), np.array([0.09, 0.0]), few.n[:2, 0], few.n[:2, 0], 100.0, twin)
    assert shares[:2] == pytest.approx(twin, abs=1e-9)
    both = value([{"metric": "satisfied", "weight": 3.0}, {"metric": "cost", "weight": 1.0}], few)
    assert both.shown is not None
    assert both.shown[:2] == pytest.approx([(3 * 0.1 + 0.5) / 4, (3 * 0.0 + 0.6) / 4])


def test_a_prior_of_the_spec_counts_in_every_rule() -> None:
    metrics = [each.model_copy(update={"prior": Prior(mean=0.3, strength=50)}) for each in spec().metrics]
    made = spec(metrics=metrics, objective=[{"metric": "satisfied"}], baseline="stationary")
    got = utility(made, READ, BASELINES["stationary"].beliefs(evidence_from(made, READ)))
    assert got.shown == pytest.approx(got.unit_mean)
    compared = spec(objective=[{"metric": "satisfied"}], baseline="contrast")
    beliefs = BASELINES["contrast"].beliefs(evidence_from(compared, READ))
    assert utility(compared, READ, beliefs).shown is None


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


def test_several_terms_add_means_and_covariances() -> None:
    """Where not all requests answered both terms, a normal with what the common requests say of the covariance."""
    objective = [
        {"metric": "satisfied", "weight": 3.0},
        {"metric": "cost", "weight": 1.0, "scale": [0.0, 4.0]},
    ]
    rate, cost = value(objective[:1]), value(objective[1:])
    for shift in (0.0, 8.0, -8.0):  # of the sum of products, so of the correlation
        read = reading([0.5, 0.55, 0.6], [1.0, 0.8, 1.2])
        read.n[:, 2] -= 100.0
        read.s1[:, 2] = 300.0 * read.s1[:, 0] * read.s1[:, 1] / 400.0**2 + shift
        got = value(objective, read)
        assert got.family == NORMAL
        assert got.mean == pytest.approx(rate.mean + cost.mean)
        # A cost is minimised, so values that rise together make utilities that fall together.
        spread = sum(0.25 - (x - 0.5) ** 2 for x in (0.5, 0.55, 0.6)) / 3
        rho = -(shift / 300.0) / np.sqrt(spread * 0.1**2)
        both = 2 * rho * (300 / 400) * rate.sd * cost.sd
        assert got.sd == pytest.approx(np.sqrt(rate.sd**2 + cost.sd**2 + both), rel=1e-9)
        assert got.params == pytest.approx(np.stack([got.mean, got.sd], axis=1))
        # A cost in [0, 2] reaches utilities from 1/2 to 1 on that scale.
        assert got.unit_mean == pytest.approx((got.mean - 0.5) / 3.5)


def test_terms_that_every_request_answered_are_one_real_number_per_request() -> None:
    """Sums of 0.6 u + 0.4 v request by request, against those that the cross-moments give."""
    made = spec(
        objective=[{"metric": "satisfied", "weight": 0.6}, {"metric": "cost", "weight": 0.4}],
        baseline="stationary",
    )
    chance = np.random.default_rng(3)
    satisfied = (chance.random((ARMS, 500)) < 0.3).astype(np.float64)
    cost = np.clip(0.5 + 0.2 * satisfied + 0.1 * chance.standard_normal((ARMS, 500)), 0.0, 1.0)
    columns = [(satisfied, satisfied**2), (cost, cost**2), (satisfied * cost, (satisfied * cost) ** 2)]
    s1, s2 = (np.stack([pair[at].sum(axis=1) for pair in columns], axis=1) for at in (0, 1))
    read = Reading(np.full(ARMS, 500.0), np.full((ARMS, 3), 500.0), s1, s2)
    got = utility(made, read, BASELINES["stationary"].beliefs(evidence_from(made, read)))
    whole = 0.6 * satisfied + 0.4 * (1.0 - cost)
    assert got.family == STUDENT_T
    assert got.mean == pytest.approx(whole.mean(axis=1), abs=1e-3)
    assert got.sd == pytest.approx(whole.std(axis=1) / np.sqrt(500), rel=0.02)
    apart = np.sqrt((0.6 * satisfied.std(axis=1)) ** 2 + (0.4 * cost.std(axis=1)) ** 2) / np.sqrt(500)
    assert (np.abs(apart / got.sd - 1.0) > 0.08).all(), "independence would say something else"


def test_the_composite_of_the_golden_sums() -> None:
    """w's and w'Cw of 200 requests, and the variance of one request with and without the covariance."""
    row = json.loads((Path(__file__).parents[1] / "golden" / "posteriors.json").read_text())["composite"]
    made = spec(
        metrics=[
            {"name": "a", "kind": "gaussian", "direction": "maximize", "range": [0, 1]},
            {"name": "b", "kind": "gaussian", "direction": "minimize", "range": [0, 1]},
        ],
        objective=[{"metric": "a", "weight": 0.6}, {"metric": "b", "weight": 0.4}],
        baseline="stationary",
    )
    n = float(row["n"])
    s1 = np.array([float(row["sums"][0]), float(row["sums"][1]), float(row["cross"][0][1])])
    s2 = np.array([float(row["cross"][0][0]), float(row["cross"][1][1]), 0.0])
    read = Reading(np.full(ARMS, n), np.full((ARMS, 3), n), np.tile(s1, (ARMS, 1)), np.tile(s2, (ARMS, 1)))
    got = utility(made, read, BASELINES["stationary"].beliefs(evidence_from(made, read)))
    # 0.6 a + 0.4 (1 - b) is 0.6 a - 0.4 b, moved by 0.4.
    assert got.mean == pytest.approx([float(row["composite_sum"]) / n + 0.4] * ARMS, abs=1e-12)
    assert got.variance == pytest.approx([float(row["per_obs_var_with_cov"])] * ARMS, abs=1e-12)
    w, cross = np.array([float(each) for each in row["w"]]), np.array(row["cross"], np.float64)
    total, squared = w @ np.array(row["sums"], np.float64), w @ cross @ w
    assert (total, squared) == pytest.approx((float(row["composite_sum"]), float(row["composite_sumsq"])))
    prior = [float(each) for each in row["nig_prior"]]
    posterior = nig(np.array([n]), np.array([total]), np.array([squared]), *prior)[0]
    golden = [float(row[key]) for key in ("t_loc", "t_scale", "t_df")]
    assert posterior == pytest.approx(golden, rel=1e-12)
    apart = w**2 @ (np.diag(cross) / n - (s1[:2] / n) ** 2)
    assert apart == pytest.approx(float(row["per_obs_var_if_independent"]), rel=1e-12)
    exact = float(row["per_obs_var_with_cov"]) / n
    assert got.sd == pytest.approx([np.sqrt(exact)] * ARMS, rel=0.01)


def test_the_fewest_observations_of_the_terms_count() -> None:
    read = reading([0.5] * ARMS, [1.0] * ARMS)
    read.n[1, 1] = 7.0
    both = [{"metric": "satisfied"}, {"metric": "cost"}]
    assert value(both, read).observations.tolist() == [400.0, 7.0, 400.0]


def test_expected_loss_is_that_of_draws() -> None:
    """Draws from the two posteriors themselves, so that the normal of their sum is tried too."""
    made = spec(objective=[{"metric": "satisfied", "weight": 3.0}, {"metric": "cost"}], baseline="stationary")
    live = np.ones(ARMS, np.bool_)
    got = propose(made, evidence_from(made, READ), live, [None] * ARMS, None, 0.0, 100.0)
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


def test_a_term_of_weight_0_says_nothing_and_its_missing_values_stop_nobody() -> None:
    read = reading([0.3, 0.4, 0.5], [1.0] * ARMS)
    read.n[:, 1:] = read.s1[:, 1:] = read.s2[:, 1:] = 0.0
    alone = value([{"metric": "satisfied"}], read)
    beside = value([{"metric": "satisfied"}, {"metric": "cost", "weight": 0}], read)
    for name in ("family", "unit", "span"):
        assert getattr(beside, name) == getattr(alone, name)
    for name in ("params", "mean", "sd", "unit_mean", "observations", "variance"):
        assert getattr(beside, name).tolist() == getattr(alone, name).tolist()


def test_dead_arms_have_no_chance_and_take_none() -> None:
    got = value([{"metric": "satisfied"}])
    p_best, loss = rank(got, np.array([True, True, False]))
    assert p_best[2] == loss[2] == 0.0
    assert p_best.sum() == pytest.approx(1.0, abs=1e-15)
    pair = best_arm(BETA, got.params[:2])
    assert p_best[:2].tobytes() == pair.p.tobytes()
    assert loss[:2].tobytes() == pair.loss.tobytes()

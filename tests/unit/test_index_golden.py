"""Optimistic indices, their inverses and the poured batch against values of 40 digits and slow twins."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.kernels.bayes_ucb import bayes_weights, quantile, upper
from bandit.kernels.best_arm import BETA, GAMMA, NORMAL, STUDENT_T
from bandit.kernels.divergence import (
    bernoulli,
    bernoulli_gap,
    exponential,
    exponential_gap,
    gaussian_gap,
    poisson,
    poisson_gap,
)
from bandit.kernels.families import table
from bandit.kernels.fluid import pour, ucb_weights
from bandit.kernels.indices import KL, KL_PLUS, UCB1, UCB1_TUNED, UCB_V, count_at, gap_at
from tests.oracles import slow_allocation

GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "ucb_indices.json").read_text())
CODES = {"ucb1": UCB1, "ucb_v": UCB_V, "ucb1_tuned": UCB1_TUNED, "kl": KL, "kl_plus": KL_PLUS}
RULES = list(CODES.values())


def rows(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("row", GOLDEN[name], ids=str)


def test_every_golden_list_is_met() -> None:
    lists = {name: len(value) for name, value in GOLDEN.items() if isinstance(value, list)}
    assert lists == {
        "klucb_bernoulli": 11, "kllcb_bernoulli": 11, "klucb_gaussian": 2, "klucb_poisson": 3,
        "klucb_exponential": 2, "ucb1": 3, "ucb1_tuned": 3, "ucb_v": 3, "bayes_ucb_beta": 5, "fluid_ucb": 4,
    }  # fmt: skip


@rows("klucb_bernoulli")
def test_kl_ucb(row: dict[str, Any]) -> None:
    mean, budget = row["successes"] / row["n"], float(row["f"]) / row["n"]
    assert float(row["f"]) == pytest.approx(math.log(row["t"]) + row["c"] * math.log(math.log(row["t"])))
    index = mean + bernoulli_gap(mean, budget)
    assert index == pytest.approx(float(row["index"]), rel=0, abs=1e-10)
    assert index == pytest.approx(slow_allocation.kl_ucb(mean, 1.0, budget), rel=0, abs=1e-9)


@rows("kllcb_bernoulli")
def test_kl_lcb_is_its_mirror(row: dict[str, Any]) -> None:
    mean = row["successes"] / row["n"]
    assert float(row["f"]) == pytest.approx(math.log(row["t"]) + row["c"] * math.log(math.log(row["t"])))
    index = mean - bernoulli_gap(1 - mean, float(row["f"]) / row["n"])
    assert index == pytest.approx(float(row["index"]), rel=0, abs=1e-10)


@rows("klucb_gaussian")
def test_gaussian_kl_ucb(row: dict[str, Any]) -> None:
    gap = gaussian_gap(row["sigma"] ** 2, math.log(row["t"]) / row["n"])
    assert row["mean"] + gap == pytest.approx(float(row["index"]), rel=0, abs=1e-10)


@rows("klucb_poisson")
def test_poisson_kl_ucb(row: dict[str, Any]) -> None:
    gap = poisson_gap(row["mean"], math.log(row["t"]) / row["n"])
    assert row["mean"] + gap == pytest.approx(float(row["index"]), rel=0, abs=1e-10)


@rows("klucb_exponential")
def test_exponential_kl_ucb(row: dict[str, Any]) -> None:
    gap = exponential_gap(row["mean"], math.log(row["t"]) / row["n"])
    assert row["mean"] + gap == pytest.approx(float(row["index"]), rel=0, abs=1e-10)


@pytest.mark.parametrize(
    ("name", "row"),
    [(name, row) for name in ("ucb1", "ucb_v", "ucb1_tuned") for row in GOLDEN[name]],
    ids=str,
)
def test_closed_indices(name: str, row: dict[str, Any]) -> None:
    assert (row.get("zeta", 1.2), row.get("c", 1), row.get("b", 1)) == (1.2, 1, 1)  # as in the kernel
    mean = row["sum"] / row["n"]
    variance = row.get("sum_sq", row["sum"]) / row["n"] - mean**2
    index = mean + gap_at(CODES[name], mean, variance, float(row["n"]), float(row["t"]))
    assert index == pytest.approx(float(row["index"]), rel=0, abs=1e-10)


@rows("bayes_ucb_beta")
def test_bayes_ucb(row: dict[str, Any]) -> None:
    arm = np.array([1.0 + row["successes"], 1.0 + row["n"] - row["successes"], 1.0])
    assert quantile(BETA, arm, 1 / (row["t"] + 1)) == pytest.approx(float(row["index"]), rel=0, abs=1e-10)


@rows("fluid_ucb")
def test_a_poured_batch(row: dict[str, Any]) -> None:
    mean, counts, w = np.array(row["means"]), np.array(row["n"], np.float64), np.empty(len(row["means"]))
    rule, t, batch = CODES[row["kind"]], float(row["t"]), float(row["batch"])
    index = pour(rule, mean, mean * (1 - mean), counts, t, batch, w)
    assert index == pytest.approx(float(row["level"]), rel=0, abs=1e-10)
    assert w == pytest.approx([float(each) for each in row["weights"]], rel=0, abs=1e-10)
    assert w == pytest.approx(
        slow_allocation.fluid(row["kind"], row["means"], None, row["n"], t, batch), rel=0, abs=1e-7
    )


@pytest.mark.parametrize("name", list(CODES))
def test_pouring_equals_its_slow_twin(name: str) -> None:
    chance = np.random.default_rng(list(CODES).index(name))
    for _ in range(30):
        arms = int(chance.integers(2, 6))
        mean, counts = chance.uniform(0.05, 0.6, arms), np.floor(10 ** chance.uniform(1, 4, arms))
        variance, batch = mean * (1 - mean) * chance.uniform(0.1, 1, arms), float(10 ** chance.uniform(0, 4))
        w, t = np.empty(arms), counts.sum() + batch
        pour(CODES[name], mean, variance, counts, t, batch, w)
        twin = slow_allocation.fluid(name, mean.tolist(), variance.tolist(), counts.tolist(), t, batch)
        assert w == pytest.approx(twin, rel=0, abs=1e-6)


@pytest.mark.parametrize("rule", RULES)
def test_a_count_undoes_its_gap(rule: int) -> None:
    """From one pull to 1e12, where index and mean share their first digits."""
    chance = np.random.default_rng(rule)
    for _ in range(3000):
        mean, n = float(chance.random()), float(10 ** chance.uniform(0, 12))
        variance, t = mean * (1 - mean) * float(chance.random()), n * float(10 ** chance.uniform(0.5, 3))
        gap = gap_at(rule, mean, variance, n, t)
        if rule in (KL, KL_PLUS) and gap > 0.999 * (1 - mean):
            continue  # at the top of the range one gap has many counts
        assert count_at(rule, mean, variance, gap, t) == pytest.approx(n, rel=1e-11)


@pytest.mark.parametrize("mean", [1e-12, 0.3, 5.0, 1e9])
@pytest.mark.parametrize("budget", [1e-18, 1e-9, 0.1, 30.0])
def test_gaps_have_their_divergence(mean: float, budget: float) -> None:
    assert poisson(mean, poisson_gap(mean, budget)) == pytest.approx(budget, rel=1e-12)
    assert exponential(mean, exponential_gap(mean, budget)) == pytest.approx(budget, rel=1e-12)
    if mean < 1.0 and bernoulli(mean, (1 - mean) * (1 - 1e-9)) > budget:
        assert bernoulli(mean, bernoulli_gap(mean, budget)) == pytest.approx(budget, rel=1e-11)


@pytest.mark.parametrize("mean", [0.0, 1e-12, 0.3, 1 - 1e-12, 1.0])
@pytest.mark.parametrize("n", [1e-9, 1.0, 1e12])
def test_kl_ucb_stays_between_the_mean_and_one(mean: float, n: float) -> None:
    assert 0.0 <= bernoulli_gap(mean, 30.0 / n) <= 1.0 - mean


def test_a_tiny_batch_beside_many_pulls_is_still_divided() -> None:
    """One pull beside 1e12: shares of the arms with the highest index, to three digits."""
    mean, counts, w = np.array([0.3, 0.3, 0.3]), np.array([1e12, 1e12 + 0.25, 2e12]), np.empty(3)
    for rule in (UCB1, UCB_V, UCB1_TUNED, KL):
        pour(rule, mean, mean * 0.7, counts, 4e12, 1.0, w)
        assert w == pytest.approx([0.625, 0.375, 0.0], abs=2e-3)


@pytest.mark.parametrize("rule", RULES)
def test_one_arm_takes_all(rule: int) -> None:
    for n in (0.0, 1.0, 1e12):
        w, each = np.empty(1), np.array([n])
        ucb_weights(rule, np.array([0.4]), np.array([0.1]), each, each, 5.0, w)
        assert w.tolist() == [1.0]


@pytest.mark.parametrize(
    ("family", "params"),
    [
        (BETA, [[11.0, 80.0], [15.0, 100.0], [1.0, 22.0]]),
        (NORMAL, [[0.125, 0.031], [0.13, 0.03], [0.05, 0.03]]),
        (STUDENT_T, [[0.125, 0.031, 90.0], [0.13, 0.03, 115.0], [0.05, 0.03, 23.0]]),
        (GAMMA, [[11.0, 80.0], [15.0, 100.0], [1.0, 22.0]]),
    ],
)
def test_bayes_ucb_pours_to_one_index(family: int, params: list[list[float]]) -> None:
    """After its share of the batch each served arm has the same index, the others have less."""
    arms, size, batch, t = np.array(params), np.array([90.0, 115.0, 23.0]), 100.0, 228.0
    pending, w = np.array([0.0, 5.0, 2.0]), np.empty(3)
    index = bayes_weights(family, arms, size, pending, t, batch, w)
    assert w.sum() == pytest.approx(1.0, abs=1e-12)
    normal = slow_allocation.normal_upper(1 / (t + 1))
    for k in range(3):
        grown = 1 + (pending[k] + w[k] * batch) / size[k]
        after = upper(family, table(arms)[k], grown, 1 / (t + 1), normal)
        assert after == pytest.approx(index, abs=1e-8) if w[k] > 0 else after < index
    assert (w > 0).sum() >= 2

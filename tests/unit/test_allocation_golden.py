"""Allocation kernels against values of 40 digits, exact rationals and slow twins."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bandit.kernels.best_arm import BETA, GAMMA, LOGNORMAL, NORMAL, STUDENT_T, best_arm
from bandit.kernels.simplex import project_kl
from bandit.kernels.ucb import fluid_weights, kl_ucb_index
from bandit.posteriors.bernoulli import Bernoulli
from bandit.posteriors.gaussian import Gaussian, nig
from bandit.spec.model import Metric
from tests.oracles import slow_allocation

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = {"beta": BETA, "normal": NORMAL, "student_t": STUDENT_T, "gamma": GAMMA, "lognormal": LOGNORMAL}
DISTRIBUTIONS = {
    BETA: lambda row: stats.beta(*row),
    NORMAL: lambda row: stats.norm(*row),
    STUDENT_T: lambda row: stats.t(row[2], row[0], row[1]),
}


def golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


def ranked(family: int, params: np.ndarray[Any, np.dtype[np.float64]]) -> tuple[Any, Any, Any, float]:
    best = best_arm(family, params)
    return best.p, best.loss, best_arm(family, params, lowest=True).p, best.mass


PBEST = [case for case in golden("pbest.json")["cases"] if case["family"] in FAMILIES]


@pytest.mark.parametrize("case", PBEST, ids=lambda case: str(case["name"]))
def test_p_best(case: dict[str, Any]) -> None:
    p_best, loss, p_worst, total = ranked(FAMILIES[case["family"]], np.array(case["params"]))
    asked = p_worst if case["objective"] == "min" else p_best
    assert asked == pytest.approx([float(each) for each in case["p_best"]], abs=1e-9)
    assert total == pytest.approx(1.0, abs=1e-10)
    if "expected_loss_f64" in case and case["objective"] == "max":
        assert loss == pytest.approx(case["expected_loss_f64"], abs=1e-8)


@pytest.mark.parametrize(
    ("family", "rows"),
    [
        (NORMAL, [[0.0, 1.0], [0.3, 0.01]]),
        (NORMAL, [[0.0, 1.0], [0.05, 1e-4], [0.2, 0.3]]),
        (BETA, [[1.0, 1.0], [1e6, 1e6]]),
        (BETA, [[0.5, 0.5], [3.0, 40.0], [0.1, 7.0]]),
        (STUDENT_T, [[0.0, 1.0, 2.0], [0.3, 0.2, 5.0], [0.5, 2.0, 40.0]]),
    ],
)
def test_p_best_equals_its_slow_twin(family: int, rows: list[list[float]]) -> None:
    slow = slow_allocation.p_best([DISTRIBUTIONS[family](row) for row in rows])
    assert ranked(family, np.array(rows))[0] == pytest.approx(slow, abs=1e-7)


def test_the_same_posteriors_give_the_same_bits() -> None:
    rows = np.array([[100.0, 900.0], [120.0, 880.0], [95.0, 905.0]])
    first = ranked(BETA, rows)[0].tobytes()
    assert all(ranked(BETA, rows)[0].tobytes() == first for _ in range(5))


@pytest.mark.parametrize("arms", [1, 2, 3, 10, 64])
@pytest.mark.parametrize(
    ("family", "row"),
    [(BETA, [3.0, 5.0]), (NORMAL, [0.3, 0.1]), (STUDENT_T, [0.3, 0.1, 2.0]), (BETA, [1e12, 1e12])],
)
def test_equal_arms_have_equal_chances(arms: int, family: int, row: list[float]) -> None:
    p_best, _, p_worst, _ = ranked(family, np.array([row] * arms))
    assert p_best == pytest.approx([1 / arms] * arms, abs=1e-12)
    assert p_worst == pytest.approx([1 / arms] * arms, abs=1e-12)


def test_kl_ucb() -> None:
    for row in golden("ucb_indices.json")["klucb_bernoulli"]:
        index = kl_ucb_index(row["successes"] / row["n"], float(row["n"]), float(row["f"]))
        assert index == pytest.approx(float(row["index"]), abs=1e-10), row
        assert index == pytest.approx(
            slow_allocation.kl_ucb(row["successes"] / row["n"], row["n"], float(row["f"])), abs=1e-9
        )


def test_an_idle_arm_is_explored_again() -> None:
    """The bonus of an arm grows with the total, whether it is pulled or not."""
    indices = [kl_ucb_index(0.3, 10.0, float(np.log(total))) for total in (30, 1000, 1_000_000)]
    assert indices == sorted(indices)
    assert indices[-1] > 0.9


def test_fluid_weights() -> None:
    for row in golden("ucb_indices.json")["fluid_ucb"]:
        if row["kind"] != "kl":
            continue
        w = np.empty(len(row["means"]))
        pulls, level = np.array(row["n"], np.float64), float(np.log(row["t"]))
        index = fluid_weights(np.array(row["means"]), pulls, level, float(row["batch"]), w)
        assert index == pytest.approx(float(row["level"]), abs=1e-10)
        assert w == pytest.approx([float(each) for each in row["weights"]], abs=1e-9)
        assert w == pytest.approx(
            slow_allocation.fluid(row["means"], row["n"], level, row["batch"]), abs=1e-6
        )


@pytest.mark.parametrize("case", golden("projection.json")["cases"], ids=lambda case: str(case["name"]))
def test_projection(case: dict[str, Any]) -> None:
    if case["kl"] is None:
        return  # infeasible without smoothing, or in itself; see the laws
    w = np.empty(len(case["p"]))
    p = np.array(case["p"], np.float64)
    project_kl(p / p.sum(), np.array(case["lo"], np.float64), np.array(case["hi"], np.float64), w)
    assert w == pytest.approx(case["kl"], abs=2e-9)  # smoothing moves 1e-9
    if min(case["p"]) > 0:
        assert w == pytest.approx(slow_allocation.project(p / p.sum(), case["lo"], case["hi"]), abs=2e-9)


def test_zero_mass_meets_its_floor_and_its_cap_binds() -> None:
    w = np.empty(3)
    project_kl(np.array([1.0, 0.0, 0.0]), np.zeros(3), np.array([0.4, 1.0, 1.0]), w)
    assert w == pytest.approx([0.4, 0.3, 0.3], abs=1e-12)


@pytest.mark.parametrize(
    "row", golden("posteriors.json")["normal_inverse_gamma"]["rows"], ids=lambda row: str(row["n"])
)
def test_normal_inverse_gamma(row: dict[str, Any]) -> None:
    m0, k0, a0, b0 = map(float, row["prior_m_k_a_b"])
    n, s1, s2 = (np.array([float(row[key])]) for key in ("n", "sum", "sum_sq"))
    location, scale, df = nig(n, s1, s2, m0, k0, a0, b0)[0]
    exact = (
        float(row["sum_sq"]) < 1e12
    )  # the last row cancels in doubles; sums of the ledger are scaled to [0, 1]
    assert location == pytest.approx(float(row["post_m"]), rel=1e-12)
    assert df == float(row["t_df"])
    assert scale == pytest.approx(float(row["t_scale"]), rel=1e-12 if exact else 1e-4)


def metric(**changes: Any) -> Metric:
    return Metric.model_validate({"name": "m", "kind": "bernoulli", "direction": "maximize"} | changes)


def test_failures_are_not_exposures() -> None:
    """95 of 100 under a uniform prior: 96 / 102, not 96 / 197."""
    params = Bernoulli().parameters(metric(), np.array([100.0]), np.array([95.0]), np.array([95.0]))
    assert Bernoulli().moments(params)[0][0] == pytest.approx(0.941176470588, abs=1e-9)


def test_two_equal_values_are_not_certainty() -> None:
    gaussian = Gaussian()
    for n in (0.0, 1.0, 2.0):
        params = gaussian.parameters(
            metric(kind="gaussian"), np.array([n]), np.array([n * 0.4]), np.array([n * 0.16])
        )
        mean, sd = gaussian.moments(params)
        assert np.isfinite(params).all()
        assert sd[0] > 0.05
        assert 0 < mean[0] < 1

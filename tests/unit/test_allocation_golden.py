"""Allocation kernels against values of 40 digits, exact rationals and slow twins."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bandit.kernels.best_arm import BETA, GAMMA, LOGNORMAL, NORMAL, STUDENT_T, best_arm
from bandit.kernels.quantile import quantiles
from bandit.kernels.simplex import project_kl
from bandit.ledger import FloatArray
from bandit.posteriors.bernoulli import Bernoulli
from bandit.posteriors.gaussian import Gaussian, nig, squares
from bandit.reading import MetricSums, Sums
from bandit.spec.model import Metric
from tests.oracles import slow_allocation

GOLDEN = Path(__file__).parents[1] / "golden"
FAMILIES = {"beta": BETA, "normal": NORMAL, "student_t": STUDENT_T, "gamma": GAMMA, "lognormal": LOGNORMAL}
DISTRIBUTIONS = {
    BETA: lambda row: stats.beta(*row),
    NORMAL: lambda row: stats.norm(*row),
    STUDENT_T: lambda row: stats.t(row[2], row[0], row[1]),
    GAMMA: lambda row: stats.gamma(row[0], scale=1 / row[1]),
    LOGNORMAL: lambda row: stats.lognorm(row[1], scale=np.exp(row[0])),
}


def golden(name: str) -> Any:
    return json.loads((GOLDEN / name).read_text())


PBEST = golden("pbest.json")["cases"]


@pytest.mark.parametrize("name", ["beta_2_small", "beta_2_ctr"])
def test_p_best_of_whole_parameters_is_a_rational(name: str) -> None:
    row = golden("pbest.json")["exact_rational_check"][name]
    case = next(each for each in PBEST if each["name"] == name)
    exact = float(row["p_arm0_better_rational_numerator_over_denominator_digits"])
    assert best_arm(BETA, np.array(case["params"])).p[0] == pytest.approx(exact, rel=0, abs=1e-10)


def test_every_golden_case_is_met() -> None:
    assert len(PBEST) == 25
    assert {case["family"] for case in PBEST} == set(FAMILIES)
    assert sum("expected_loss_f64" in case for case in PBEST) == 12


@pytest.mark.parametrize("case", PBEST, ids=lambda case: str(case["name"]))
def test_p_best(case: dict[str, Any]) -> None:
    best = best_arm(FAMILIES[case["family"]], np.array(case["params"]), lowest=case["objective"] == "min")
    assert best.p == pytest.approx([float(each) for each in case["p_best"]], rel=0, abs=1e-10)
    assert best.mass == pytest.approx(1.0, rel=0, abs=1e-11)
    if "expected_loss_f64" in case:
        assert best.loss == pytest.approx(case["expected_loss_f64"], rel=0, abs=1e-9)


@pytest.mark.parametrize(
    ("family", "rows"),
    [
        (NORMAL, [[0.0, 1.0], [0.3, 0.01]]),
        (NORMAL, [[0.0, 1.0], [0.05, 1e-4], [0.2, 0.3]]),
        (NORMAL, [[1e6, 2.0], [1e6 + 1, 1.0], [1e6 - 2, 3.0]]),
        (BETA, [[1.0, 1.0], [1e6, 1e6]]),
        (BETA, [[0.5, 0.5], [3.0, 40.0], [0.1, 7.0]]),
        (BETA, [[3.0, 1e9], [4.0, 1.1e9], [2.0, 1e4]]),
        (STUDENT_T, [[0.0, 1.0, 3.0], [0.3, 0.2, 5.0], [0.5, 2.0, 40.0]]),
        (STUDENT_T, [[0.0, 1e-3, 4.0], [0.3, 2.0, 1e7], [0.2, 0.5, 12.0]]),
        (GAMMA, [[0.7, 2.0], [12.0, 40.0], [300.0, 1000.0]]),
        (LOGNORMAL, [[0.0, 1.0], [0.4, 0.2], [0.5, 0.05]]),
    ],
)
def test_best_arm_equals_its_slow_twin(family: int, rows: list[list[float]]) -> None:
    best = best_arm(family, np.array(rows))
    twins = [DISTRIBUTIONS[family](row) for row in rows]
    assert best.p == pytest.approx(slow_allocation.p_best(twins), rel=0, abs=1e-9)
    if family != STUDENT_T:  # the twin's own cut at 1e-14 of such tails would show
        assert best.loss == pytest.approx(slow_allocation.expected_loss(twins), rel=1e-7, abs=1e-9)


def test_wide_tails_are_integrated_out() -> None:
    """Two equal arms of Student's t with 3 degrees of freedom: each loses int F (1 - F) dx, here by x = tan(angle)."""
    best = best_arm(STUDENT_T, np.array([[0.0, 1.0, 3.0], [0.0, 1.0, 3.0]]))
    angle = np.linspace(-np.pi / 2, np.pi / 2, 100_003)[1:-1]
    cdf = stats.t.cdf(np.tan(angle), 3)
    exact = float(np.trapezoid(cdf * (1 - cdf) / np.cos(angle) ** 2, angle))
    assert best.loss == pytest.approx([exact] * 2, rel=1e-7)


@pytest.mark.parametrize(
    ("family", "rows"),
    [
        (BETA, [[1.0, 1.0], [0.5, 0.5], [2.0, 9.0], [0.5, 200.5], [1e6, 1e6], [96.0, 6.0], [3e5, 2e3]]),
        (NORMAL, [[3.0, 2.0], [-1e5, 1e-3], [0.0, 1e12]]),
        (STUDENT_T, [[3.0, 2.0, 4.0], [0.0, 1e-9, 10.0], [0.3, 0.1, 1e9]]),
        (GAMMA, [[31.0, 10.0], [0.5, 3.0], [200.0, 1000.0]]),
        (LOGNORMAL, [[0.3, 0.2], [-4.0, 1.5]]),
    ],
)
def test_quantiles(family: int, rows: list[list[float]]) -> None:
    levels = (0.001, 0.025, 0.5, 0.9, 0.975)
    got = quantiles(family, np.array(rows), levels)
    for row, each in zip(rows, got, strict=True):
        exact = DISTRIBUTIONS[family](row).ppf(levels)
        assert each == pytest.approx(exact, rel=1e-9, abs=1e-12 * np.ptp(exact)), row


def test_quantiles_of_a_sharp_rate_are_exact() -> None:
    """Beta(3, b) in closed form, where the library's inverse is off by 1e-8."""
    b = 1e9
    levels = np.array([0.001, 0.025, 0.5, 0.9, 0.975])
    x = quantiles(BETA, np.array([[3.0, b]]), tuple(levels))[0]
    n, odds = b + 2, x / (1 - x)
    cdf = 1 - np.exp(n * np.log1p(-x)) * (1 + n * odds + n * (n - 1) / 2 * odds**2)
    assert cdf == pytest.approx(levels, rel=1e-10)


def test_a_point_has_one_quantile() -> None:
    assert quantiles(STUDENT_T, np.array([[3.0, 0.0, 5.0]]), (0.01, 0.99)).tolist() == [[3.0, 3.0]]


@pytest.mark.parametrize("case", golden("projection.json")["cases"], ids=lambda case: str(case["name"]))
def test_projection(case: dict[str, Any]) -> None:
    p, low, high = (np.array(case[key], np.float64) for key in ("p", "lo", "hi"))
    w = np.empty(p.size)
    feasible = project_kl(p, low, high, w)
    assert (case["kl_exact"] is None) == (case["kl"] is None)
    if case["name"] == "zero_mass_arm_needs_mass":  # solved as the limit: hopeless arms share alike
        assert feasible
        assert w == pytest.approx([0.4, 0.3, 0.3], rel=0, abs=1e-12)
    elif case["kl"] is None:
        assert not feasible
    else:
        assert feasible
        assert w == pytest.approx(case["kl"], rel=0, abs=1e-12)
        assert w == pytest.approx([float(Fraction(each)) for each in case["kl_exact"]], rel=0, abs=1e-12)
        twin = slow_allocation.project(np.maximum(p, 1e-9).tolist(), case["lo"], case["hi"])
        assert w == pytest.approx(twin, rel=0, abs=1e-9)


def test_what_a_cap_takes_goes_to_hopeless_arms_alike() -> None:
    """Chances of 1e-20 and 1e-40 are rounding, and their ratio says nothing."""
    w = np.empty(3)
    assert project_kl(np.array([1.0, 1e-20, 1e-40]), np.zeros(3), np.array([0.4, 1.0, 1.0]), w)
    assert w == pytest.approx([0.4, 0.3, 0.3], rel=0, abs=1e-12)


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
    assert df / 2 == float(row["post_a"])
    assert scale == pytest.approx(float(row["t_scale"]), rel=1e-12 if exact else 1e-4)
    b = scale**2 * float(row["post_a"]) * float(row["post_k"])
    assert b == pytest.approx(float(row["post_b"]), rel=1e-12 if exact else 2e-4)


def of(n: FloatArray, s1: FloatArray, s2: FloatArray) -> MetricSums:
    return MetricSums(Sums(n, s1, s2))


def metric(**changes: Any) -> Metric:
    return Metric.model_validate({"name": "m", "kind": "bernoulli", "direction": "maximize"} | changes)


def test_failures_are_not_exposures() -> None:
    """95 of 100 under a uniform prior: 96 / 102, not 96 / 197."""
    params = Bernoulli().parameters(
        metric(prior={"mean": 0.5, "strength": 2}), of(np.array([100.0]), np.array([95.0]), np.array([95.0]))
    )
    assert Bernoulli().moments(params)[0][0] == pytest.approx(0.941176470588, abs=1e-9)


def test_two_equal_values_are_not_certainty() -> None:
    gaussian = Gaussian()
    for n in (0.0, 1.0, 2.0):
        params = gaussian.parameters(
            metric(kind="gaussian"), of(np.array([n]), np.array([n * 0.4]), np.array([n * 0.16]))
        )
        mean, sd = gaussian.moments(params)
        assert np.isfinite(params).all()
        assert sd[0] > 0.05
        assert 0 < mean[0] < 1


@pytest.mark.parametrize("centre", [0.0, 1e8])
def test_a_large_mean_hides_no_spread(centre: float) -> None:
    """A million values 1e8 +- 1: the squares are taken in units of the range and around its low end."""
    n, spread = 1_000_000.0, 1.0
    low, high = centre - 50.0, centre + 50.0
    x = (np.array([centre - spread, centre + spread]) - low) / (high - low)
    sums = np.array([n / 2 * x.sum()]), np.array([n / 2 * (x**2).sum()])
    params = Gaussian().parameters(metric(kind="gaussian", range=(low, high)), of(np.array([n]), *sums))
    sd_of_mean = Gaussian().moments(params)[1][0] * (high - low)
    assert sd_of_mean * np.sqrt(n) == pytest.approx(1.0, rel=1e-3)


def test_equal_values_have_next_to_no_variance() -> None:
    """A million copies of 0.2345: rounding never makes the sum of squares negative or not a number."""
    n = np.array([1e6])
    assert 0.0 <= squares(n, n * 0.2345, n * 0.2345**2)[0] / n[0] <= 1e-12
    for value in np.random.default_rng(3).random(1000):
        assert 0.0 <= squares(n, n * value, n * value * value)[0] / n[0] <= 1e-12


def test_a_loose_range_slows_learning_little() -> None:
    """Rewards 300 +- 100 in a range of a million: after 200 each the mean is known about as well as it can be."""
    n = np.full(3, 200.0)
    x, sd = (300.0 + 1000.0) / 1e6, 100.0 / 1e6
    params = Gaussian().parameters(
        metric(kind="gaussian", range=(-1000, 999_000)), of(n, n * x, n * (x * x + sd * sd))
    )
    assert Gaussian().moments(params)[1] * 1e6 == pytest.approx([100 / np.sqrt(200)] * 3, rel=25.0)
    tight = Gaussian().parameters(
        metric(kind="gaussian", range=(0, 1000)), of(n, n * 0.3, n * (0.3**2 + 0.1**2))
    )
    assert Gaussian().moments(tight)[1] * 1e3 == pytest.approx([100 / np.sqrt(200)] * 3, rel=0.02)

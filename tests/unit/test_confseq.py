"""E-processes and binomial tails against 40-digit values, at the edges and in extremes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.kernels import overlap
from bandit.kernels.confseq import (
    least_count,
    log_binomial_tails,
    log_mean_exp,
    log_normal_e,
    log_overlap_e,
    log_rate_above,
    log_rate_below,
    rarest_run,
    tuned_rho,
)

GOLDEN = Path(__file__).parents[1] / "golden"
SEQUENCES: dict[str, Any] = json.loads((GOLDEN / "confidence_sequences.json").read_text())
OVERLAP: dict[str, Any] = json.loads((GOLDEN / "eb_overlap.json").read_text())
STRENGTHS = np.array([10.0, 100.0, 1000.0])


def rate_e(row: dict[str, Any], *strengths: float) -> float:
    return log_rate_above(float(row["successes"]), float(row["n"]), float(row["p0"]), np.array(strengths))


@pytest.mark.parametrize("row", SEQUENCES["bernoulli_one_sided_e_recommended"]["rows"])
def test_rate_mixture_equals_its_golden_values(row: dict[str, Any]) -> None:
    for strength in STRENGTHS:
        assert rate_e(row, strength) == pytest.approx(float(row[f"ln_e_k{strength:.0f}"]), abs=1e-10)
    assert rate_e(row, *STRENGTHS) == pytest.approx(float(row["ln_e_mean"]), abs=1e-10)


def test_overlap_mixtures_equal_their_golden_values() -> None:
    for row in OVERLAP["rows"]:
        for epoch in row["epochs"]:
            total, variance, rho = float(epoch["S"]), float(epoch["V"]), float(row["rho"])
            exact = log_overlap_e(total, variance, rho, float(row["c"]))
            assert exact == pytest.approx(float(epoch["ln_e_exact"]), abs=1e-10)
            normal = log_normal_e(total, variance, rho)
            assert normal == pytest.approx(float(epoch["ln_e_normal_mixture"]), abs=1e-10)


@pytest.mark.parametrize("row", SEQUENCES["gamma_exponential_mixture"]["rows"])
def test_gamma_exponential_bound_is_where_e_reaches_one_over_alpha(row: dict[str, Any]) -> None:
    bound, v, rho, c = (float(row[key]) for key in ("bound", "v", "rho", "c"))
    assert tuned_rho(float(row["v_opt"]), float(row["alpha_opt"])) == pytest.approx(rho, rel=1e-12)
    assert log_overlap_e(bound, v, rho, c) == pytest.approx(-math.log(row["alpha"]), abs=1e-10)
    half = float(row["log_e_at_s_eq_bound_half"])
    assert log_overlap_e(bound / 2, v, rho, c) == pytest.approx(half, abs=1e-10)


@pytest.mark.parametrize("row", SEQUENCES["normal_mixture"]["rows"])
def test_normal_bound_is_where_e_reaches_one_over_alpha(row: dict[str, Any]) -> None:
    bound, v, rho = float(row["bound_one"]), float(row["v"]), float(row["rho_one"])
    assert tuned_rho(float(row["v_opt"]), float(row["alpha_opt"])) == pytest.approx(rho, rel=1e-12)
    assert log_normal_e(bound, v, rho) == pytest.approx(-math.log(row["alpha"]), abs=1e-10)


@pytest.mark.parametrize(
    ("n", "limit", "count"),
    [(50, 0.01, 7), (100, 0.01, 9), (200, 0.01, 13), (100, 0.001, 5), (100, 0.05, 19)],
)
def test_counts_that_trip_a_breaker(n: int, limit: float, count: int) -> None:
    tail = math.log(1e-6)
    assert least_count(float(n), limit, tail) == count
    assert log_binomial_tails(float(count), float(n), limit)[0] <= tail
    assert log_binomial_tails(count - 1.0, float(n), limit)[0] > tail


def test_nothing_seen_is_no_evidence() -> None:
    for limit in (1e-12, 0.01, 0.5, 1 - 1e-12):
        assert log_rate_above(0.0, 0.0, limit, STRENGTHS) == 0.0
        assert log_rate_below(0.0, 0.0, limit, STRENGTHS) == 0.0
    assert log_overlap_e(0.0, 0.0, 2.0, 0.1) == 0.0
    assert log_normal_e(0.0, 0.0, 2.0) == pytest.approx(0.0, abs=1e-15)


@pytest.mark.parametrize("limit", [1e-300, 1e-12, 1e-9, 0.001, 0.5, 0.999, 1 - 1e-9, 1 - 2**-53])
@pytest.mark.parametrize("n", [0.0, 1.0, 2.0, 1e3, 1e9, 1e12])
def test_rate_mixture_is_finite_for_any_sums(n: float, limit: float) -> None:
    for bad in {0.0, min(1.0, n), n * limit, n / 2, n}:
        above = log_rate_above(bad, n, limit, STRENGTHS)
        below = log_rate_below(bad, n, limit, STRENGTHS)
        assert math.isfinite(above)
        assert math.isfinite(below)
        # At the most likely null value both E are at most ln of the prior's cost, and never both large.
        assert min(above, below) < 1.0


@pytest.mark.parametrize("total", [-1e12, -1e3, 0.0, 1e-9, 1e3, 1e12])
@pytest.mark.parametrize("variance", [0.0, 1e-9, 1.0, 1e12])
def test_overlap_mixture_is_finite_for_any_sums(total: float, variance: float) -> None:
    for rho, c in ((0.2, 0.1), (20.0, 0.1), (2.0, 1.0)):
        assert math.isfinite(log_overlap_e(total, variance, rho, c))
        assert math.isfinite(log_normal_e(total, variance, rho))


def test_a_variance_below_zero_by_rounding_counts_as_none() -> None:
    assert log_overlap_e(3.0, -1e-12, 2.0, 0.1) == log_overlap_e(3.0, 0.0, 2.0, 0.1)


def test_harm_is_the_mean_of_its_parts() -> None:
    odds = np.array([1.0, 2.0, -5.0, 0.0, 0.0, 0.0])
    assert overlap.PARTS.sum() + overlap.PARTS_ODDS.sum() == pytest.approx(1.0)
    each = zip(overlap.PARTS, overlap.RHOS, strict=True)
    expected = sum(part * math.exp(log_overlap_e(4.0, 3.0, float(rho), overlap.LEAST)) for part, rho in each)
    expected += overlap.PARTS_ODDS @ np.exp(odds)
    assert overlap.log_mixture(4.0, 3.0, odds) == pytest.approx(math.log(expected), abs=1e-12)


def test_a_mean_of_huge_e_values_neither_overflows_nor_vanishes() -> None:
    assert log_mean_exp(np.array([1e6, 0.0])) == pytest.approx(1e6 - math.log(2))
    assert log_mean_exp(np.array([-1e6, -1e6])) == pytest.approx(-1e6)
    assert log_mean_exp(np.array([-math.inf, -math.inf])) == -math.inf


@pytest.mark.parametrize(("count", "expected"), [(0.0, (0.0, -math.inf)), (11.0, (-math.inf, 0.0))])
def test_tails_beyond_what_is_possible(count: float, expected: tuple[float, float]) -> None:
    assert log_binomial_tails(count, 10.0, 0.3) == expected


def runs(*periods: tuple[int, int], limit: float = 0.01) -> tuple[float, float, float]:
    n, bad = (np.array(each, np.float64) for each in zip(*periods, strict=True))
    return rarest_run(n, bad, np.array([50.0, 100.0, 200.0]), limit)


def test_the_rarest_run_is_found_wherever_it_begins() -> None:
    # Newest first: outcomes of the newest period have not come, the two before it are full of bad ones.
    log_tail, n, bad = runs((60, 0), (30, 10), (30, 10), (500, 0), (500, 0))
    assert (n, bad) == (60.0, 20.0)
    assert log_tail == pytest.approx(log_binomial_tails(20.0, 60.0, 0.01)[0])


def test_a_run_is_no_longer_than_it_must_be() -> None:
    assert runs((40, 3), (20, 3), (1000, 0))[1:] == (60.0, 6.0)


def test_only_the_newest_run_may_stop_short() -> None:
    assert runs((3, 3))[1:] == (3.0, 3.0)
    # The oldest three alone would be rarer, but a run that begins there is short of 50.
    assert runs((1000, 0), (3, 3))[1:] == (1000.0, 0.0)


def test_no_excess_is_no_evidence() -> None:
    assert runs((50, 0), (50, 0)) == (0.0, 100.0, 0.0)
    assert runs((0, 0), (0, 0)) == (0.0, 0.0, 0.0)

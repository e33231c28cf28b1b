"""Half-widths of anytime-valid intervals against 40-digit values, at the edges and in extremes."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.inference.effects import BOUND, RHOS
from bandit.kernels.confseq import log_overlap_e
from bandit.kernels.intervals import log_better_e, normal_bound, overlap_bound, two_sided_rho

GOLDEN = Path(__file__).parents[1] / "golden"
SEQUENCES: dict[str, Any] = json.loads((GOLDEN / "confidence_sequences.json").read_text())


@pytest.mark.parametrize("row", SEQUENCES["gamma_exponential_mixture"]["rows"])
def test_the_exact_bound_equals_its_golden_values(row: dict[str, Any]) -> None:
    v, rho, c = float(row["v"]), float(row["rho"]), float(row["c"])
    found = overlap_bound(v, -math.log(row["alpha"]), np.array([rho]), c)
    assert found == pytest.approx(float(row["bound"]), rel=1e-9)


@pytest.mark.parametrize("row", SEQUENCES["asymptotic_cs"]["rows"])
def test_the_asymptotic_half_width_equals_its_golden_values(row: dict[str, Any]) -> None:
    n, sd, alpha = float(row["n"]), float(row["sd"]), float(row["alpha"])
    r = two_sided_rho(alpha, float(row["t_star"]))
    assert r == pytest.approx(float(row["rho2_two"]), rel=1e-12)
    half = normal_bound(n * sd**2, -math.log(alpha), sd**2 / r) / n
    assert half == pytest.approx(float(row["halfwidth_two"]), rel=1e-12)


@pytest.mark.parametrize("row", SEQUENCES["normal_mixture"]["rows"])
def test_the_two_sided_normal_bound_equals_its_golden_values(row: dict[str, Any]) -> None:
    bound = normal_bound(float(row["v"]), -math.log(row["alpha"]), float(row["rho_two"]))
    assert bound == pytest.approx(float(row["bound_two"]), rel=1e-12)
    tuned = 1.0 / two_sided_rho(float(row["alpha_opt"]), float(row["v_opt"]))
    assert tuned == pytest.approx(float(row["rho_two_exact"]), rel=1e-12)


@pytest.mark.parametrize("v", [0.0, 1e-9, 1e-3, 1.0, 37.0, 1e4, 1e8, 1e12])
@pytest.mark.parametrize("alpha", [0.5, 0.025, 1e-6])
def test_the_bound_is_where_the_mean_of_mixtures_reaches_the_level(v: float, alpha: float) -> None:
    level = -math.log(alpha)
    found = overlap_bound(v, level, RHOS, BOUND)
    assert 0.0 < found < math.inf
    each = [log_overlap_e(found, v, float(rho), BOUND) for rho in RHOS]
    assert math.log(np.mean(np.exp(each))) == pytest.approx(level, abs=1e-6)
    assert log_better_e(found, v, RHOS, BOUND) == pytest.approx(level, abs=1e-6)


def test_wider_with_more_variance_and_less_error() -> None:
    bounds = [overlap_bound(v, 3.0, RHOS, BOUND) for v in (0.0, 1.0, 10.0, 100.0, 1e6)]
    assert bounds == sorted(bounds)
    assert overlap_bound(10.0, 3.0, RHOS, BOUND) < overlap_bound(10.0, 4.0, RHOS, BOUND)
    assert normal_bound(10.0, 3.0, 1.0) < normal_bound(10.0, 4.0, 1.0) < normal_bound(20.0, 4.0, 1.0)
    # Anytime costs something: no narrower than the bound of one look.
    assert normal_bound(100.0, -math.log(0.05), 10.0) > 1.96 * 10.0

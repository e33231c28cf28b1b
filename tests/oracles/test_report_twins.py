"""Slow twins: terms of the report from single decisions, one by one, straight from their definitions."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.inference.effects import Outcome, aipw, pair_of
from bandit.inference.terms import PHI, PHI2, A, N, S, V, pair_terms
from bandit.ledger import FloatArray

GOLDEN = Path(__file__).parents[1] / "golden"


def test_aipw_from_sums_equals_its_golden_values() -> None:
    golden: dict[str, Any] = json.loads((GOLDEN / "confidence_sequences.json").read_text())["aipw_from_sums"]
    total = squared = 0.0
    for row in golden["table"]:
        n, s, q, m = (np.array(row[key], float) for key in ("n", "sum", "sum_sq", "m"))
        found = pair_terms(n, s - n * m, q - 2 * m * s + n * m * m, np.array(row["p"]), [(1, 0)])[0]
        # The golden values have a centre for each arm; their difference d is known for every decision.
        d = m[1] - m[0]
        total += found[PHI] + found[N] * d
        squared += found[PHI2] + found[N] * d * d + 2 * d * found[PHI]
    assert total == pytest.approx(float(golden["sum_phi"]), rel=1e-12)
    assert squared == pytest.approx(float(golden["sum_phi_sq"]), rel=1e-12)
    count = golden["N"]
    assert total / count == pytest.approx(float(golden["mean"]), rel=1e-12)
    assert squared / count - (total / count) ** 2 == pytest.approx(float(golden["variance_pop"]), rel=1e-12)


def test_terms_equal_sums_over_single_decisions() -> None:
    rng = np.random.default_rng(5)
    for _ in range(40):
        arms = int(rng.integers(2, 5))
        share = rng.dirichlet(np.ones(arms))
        if arms > 2 and rng.random() < 0.3:
            share[2] = 0.0
            share /= share.sum()
        given = rng.choice(arms, int(rng.integers(0, 200)), p=share)
        x, centre = rng.random(len(given)), float(rng.random())
        k, j = 1, 0
        mine, other = given == k, given == j
        v = mine.sum() / max(int(mine.sum() + other.sum()), 1)
        overlap = ((mine - v) * (x - centre))[mine | other]
        phi = (x - centre) * (mine / share[k] - other / share[j])
        n = np.bincount(given, minlength=arms).astype(float)
        s, q = (np.bincount(given, each, arms) for each in (x, x * x))
        found = pair_terms(n, s - n * centre, q - 2 * centre * s + n * centre**2, share, [(k, j)])[0]
        twin = np.zeros(6)
        twin[[A, S, V, N]] = (1 - v) * mine.sum(), overlap.sum(), (overlap**2).sum(), len(given)
        twin[[PHI, PHI2]] = phi.sum(), (phi**2).sum()
        assert found == pytest.approx(twin, rel=1e-9, abs=1e-9)
        assert found[S] == pytest.approx(
            found[A] * (x[mine].mean() - x[other].mean()) if mine.any() and other.any() else 0.0, abs=1e-9
        ), "the centre cancels"
        if len(given):
            mean, se = aipw(pair_of(Outcome({0: 1.0}, "exact"), found[None], {}))
            assert (mean, se) == pytest.approx((phi.mean(), phi.std() / math.sqrt(len(phi))), abs=1e-9)


def test_a_sum_of_two_metrics_equals_the_sum_counted_as_one() -> None:
    rng = np.random.default_rng(6)
    share = np.array([0.7, 0.3])
    given = rng.choice(2, 500, p=share)
    x, y = rng.random(500), rng.random(500)
    y = 0.5 * (x + y)
    centres, weights = (0.4, 0.6), (2.0, -0.7)

    n = np.bincount(given, minlength=2).astype(np.float64)

    def terms(value: FloatArray, centre: float) -> FloatArray:
        s, q = (np.bincount(given, each, 2).astype(np.float64) for each in (value, value**2))
        found: FloatArray = pair_terms(
            n, s - n * centre, q - 2 * centre * s + n * centre**2, share, [(1, 0)]
        )[0]
        return found

    products = np.bincount(given, (x - centres[0]) * (y - centres[1]), 2).astype(np.float64)
    cross = pair_terms(n, np.zeros(2), products, share, [(1, 0)])[0][[A, V, PHI2]]
    parts = np.stack([terms(x, centres[0]), terms(y, centres[1])])
    found = pair_of(Outcome(dict(enumerate(weights)), "exact"), parts, {(0, 1): cross})
    one = terms(weights[0] * x + weights[1] * y, weights[0] * centres[0] + weights[1] * centres[1])
    assert found.complete
    assert found[:6] == pytest.approx(tuple(one), rel=1e-9)
    # Seen on different decisions: the variance is the largest that any dependence gives.
    loose = pair_of(Outcome(dict(enumerate(weights)), "exact"), parts, {})
    assert not loose.complete
    assert loose.s / loose.a == pytest.approx(found.s / found.a)
    assert loose.v >= found.v
    assert loose.v == pytest.approx((2.0 * math.sqrt(parts[0, V]) + 0.7 * math.sqrt(parts[1, V])) ** 2)

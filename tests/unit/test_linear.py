"""Linear models per arm: golden values, least squares by another road, coverage and use."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.kernels.best_arm import STUDENT_T, best_arm
from bandit.posteriors.linear import LinearSums, fit, leverage, linucb_index, oful_index, value_at

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "posteriors.json").read_text())[
    "linear"
]
X = np.array([float(each) for each in GOLDEN["x"]])


def golden_sums(ridge: float = 1.0) -> LinearSums:
    """The file's A holds lambda I; four rewards by its a."""
    a = np.array([[float(each) for each in row] for row in GOLDEN["A"]])
    b = np.array([float(each) for each in GOLDEN["b"]])
    n = 2.0 * (float(GOLDEN["a_post_with_a0_1"]) - 1.0)
    return LinearSums(
        np.array([n]), (a - ridge * np.eye(2))[None], b[None], np.array([float(GOLDEN["sum_y2"])])
    )


def test_the_golden_posterior() -> None:
    model = fit(golden_sums(), ridge=1.0, a0=1.0, b0=1.0)
    assert model.theta[0] == pytest.approx([float(each) for each in GOLDEN["theta"]], rel=1e-13)
    assert leverage(model, X)[0] == pytest.approx(float(GOLDEN["leverage"]), rel=1e-13)
    assert model.b[0] == pytest.approx(float(GOLDEN["b_post_with_b0_1"]), rel=1e-13)
    assert model.a[0] == float(GOLDEN["a_post_with_a0_1"])
    location, scale, df = value_at(model, X)[0]
    assert location == pytest.approx(float(GOLDEN["mean"]), rel=1e-13)
    assert df == 6.0
    assert scale == pytest.approx(np.sqrt(1.40125 / 3.0 * float(GOLDEN["leverage"])), rel=1e-13)
    assert linucb_index(model, X, 2.0)[0] == pytest.approx(1.3 + 2 * np.sqrt(float(GOLDEN["leverage"])))


def test_any_split_of_the_rewards_gives_the_same_sums() -> None:
    chance = np.random.default_rng(1)
    x, y = chance.normal(size=(40, 3)), chance.normal(size=40)
    whole = LinearSums.of(x, y)
    parts = [LinearSums.of(x[rows], y[rows]) for rows in np.array_split(chance.permutation(40), 5)]
    for one, many in zip(whole, zip(*parts, strict=True), strict=True):
        assert np.sum(many, axis=0) == pytest.approx(one, rel=1e-12, abs=1e-12)


def test_theta_is_ridge_regression_by_added_rows() -> None:
    """lambda I is D more rows sqrt(lambda) e_d with value 0, solved by orthogonal factors."""
    chance = np.random.default_rng(2)
    x, y = chance.normal(size=(30, 4)), chance.normal(size=30)
    rows = np.vstack([x, np.sqrt(0.7) * np.eye(4)])
    theta, _, _, _ = np.linalg.lstsq(rows, np.append(y, np.zeros(4)), rcond=None)
    model = fit(LinearSums.of(x, y), ridge=0.7)
    assert model.theta[0] == pytest.approx(theta, rel=1e-10)
    residual = np.append(y, np.zeros(4)) - rows @ theta
    assert model.b[0] == pytest.approx(1.0 + 0.5 * residual @ residual, rel=1e-10)


def stacked(parts: list[LinearSums]) -> LinearSums:
    return LinearSums(*(np.concatenate(each) for each in zip(*parts, strict=True)))


@pytest.mark.parametrize("turn", [1.0, -1.0])
def test_each_request_goes_to_the_arm_that_is_best_for_it(turn: float) -> None:
    """Two arms whose order depends on a feature; a turned sign turns the choice."""
    chance = np.random.default_rng(3)
    parts = []
    for slope in (0.5, -0.5):
        x = np.stack([np.ones(200), chance.uniform(-1, 1, 200)], axis=1)
        parts.append(LinearSums.of(x, turn * (x @ np.array([0.2, slope])) + chance.normal(0, 0.1, 200)))
    model = fit(stacked(parts), b0=0.01)
    for feature in (0.8, -0.8):
        p = best_arm(STUDENT_T, value_at(model, np.array([1.0, feature]))).p
        assert p[0 if feature * turn > 0 else 1] > 0.999


def test_intervals_cover_and_the_oful_width_does_at_all_times() -> None:
    chance = np.random.default_rng(4)
    truth, x = np.array([0.3, -0.2, 0.5]), np.array([1.0, 0.4, -0.6])
    covered = always = 0
    for _ in range(400):
        rows = np.column_stack([np.ones(80), chance.uniform(-1, 1, (80, 2))])
        y = rows @ truth + chance.normal(0, 0.3, 80)
        below = True
        for size in (2, 10, 40, 80):
            model = fit(LinearSums.of(rows[:size], y[:size]), ridge=0.1, b0=0.05)
            high = oful_index(model, x, delta=0.05, noise=0.3, bound=1.0, ridge=0.1)[0]
            below &= bool(high >= x @ truth)
        location, scale, _ = value_at(model, x)[0]
        covered += abs(location - x @ truth) <= 1.98 * scale
        always += below
    assert covered >= 0.90 * 400
    assert always >= 0.95 * 400


@pytest.mark.parametrize("size", [0, 1, 2])
@pytest.mark.parametrize("scale", [0.0, 1.0, 1e6])
def test_hostile_rows_stay_finite(size: int, scale: float) -> None:
    """No rewards, fewer than features, features that are all the same."""
    rows = scale * np.ones((size, 5))
    model = fit(LinearSums.of(rows, np.ones(size)))
    params = value_at(model, np.ones(5))
    assert np.isfinite(params).all()
    assert (params[:, 1] > 0.0).all()
    assert np.isfinite(oful_index(model, np.ones(5), delta=0.01, noise=1.0, bound=1.0)).all()

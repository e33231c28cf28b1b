"""Families of positive x, and of -x where lower is better: the kernels against plain sums on a fine grid."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from scipy import stats

from bandit.kernels.best_arm import GAMMA, INVERSE_GAMMA, LOGNORMAL, best_arm
from bandit.kernels.quantile import quantiles
from bandit.ledger import FloatArray

ARMS: dict[int, list[tuple[float, float]]] = {
    GAMMA: [(3.0, 1.0), (22.0, 8.0), (50.0, 15.0)],
    LOGNORMAL: [(0.3, 0.5), (0.2, 0.1), (0.4, 0.05)],
    INVERSE_GAMMA: [(3.0, 1.0), (22.0, 32.5), (50.0, 70.0)],
}
CASES = [(family, sign) for family in ARMS for sign in (1.0, -1.0)]


def frozen(family: int, one: float, two: float) -> Any:
    """The distribution of x by its other name."""
    if family == GAMMA:
        return stats.gamma(one, scale=1.0 / two)
    return stats.lognorm(two, scale=np.exp(one)) if family == LOGNORMAL else stats.invgamma(one, scale=two)


def slow(family: int, sign: float) -> tuple[FloatArray, FloatArray]:
    """P(best) and expected loss by the trapezoidal rule on 2^19 points of ln x."""
    arms = [frozen(family, *each) for each in ARMS[family]]
    ends = [(float(each.ppf(1e-15)), float(each.isf(1e-18))) for each in arms]
    z = np.linspace(np.log(min(low for low, _ in ends)), np.log(max(high for _, high in ends)), 1 << 19)
    x = np.exp(z)
    reached = np.array([each.cdf(x) if sign > 0 else each.sf(x) for each in arms])
    p, loss = [], []
    for k, arm in enumerate(arms):
        others = np.delete(reached, k, axis=0).prod(axis=0)
        p.append(np.trapezoid(arm.pdf(x) * x * others, z))
        loss.append(np.trapezoid(reached[k] * (1.0 - others) * x, z))
    return np.array(p), np.array(loss)


def signed(family: int, sign: float) -> FloatArray:
    return np.array([(*each, sign) for each in ARMS[family]])


@pytest.mark.parametrize(("family", "sign"), CASES)
def test_best_and_loss_are_those_of_the_grid(family: int, sign: float) -> None:
    best = best_arm(family, signed(family, sign))
    p, loss = slow(family, sign)
    assert best.mass == pytest.approx(1.0, abs=1e-12)
    assert best.p == pytest.approx(p, abs=1e-10)
    assert best.loss == pytest.approx(loss, rel=3e-6)


@pytest.mark.parametrize("family", ARMS)
def test_the_best_of_minus_x_is_the_worst_of_x(family: int) -> None:
    down = best_arm(family, signed(family, -1.0))
    worst = best_arm(family, signed(family, 1.0), lowest=True)
    assert down.p == pytest.approx(worst.p, abs=1e-13)
    assert down.loss == pytest.approx(worst.loss, rel=3e-6)


@pytest.mark.parametrize(("family", "sign"), CASES)
def test_quantiles_are_those_of_the_distribution(family: int, sign: float) -> None:
    levels = (0.025, 0.5, 0.975)
    got = quantiles(family, signed(family, sign), levels)
    for row, arm in zip(got, ARMS[family], strict=True):
        right = frozen(family, *arm).ppf(levels)
        assert row == pytest.approx(right if sign > 0 else -right[::-1], rel=1e-11)


@pytest.mark.parametrize(("family", "sign"), CASES)
@pytest.mark.parametrize("first", [1e-300, 1e-6, 3.0, 1e12, 1e300])
@pytest.mark.parametrize("second", [1e-300, 1.0, 1e12, 1e300])
def test_any_numbers_stay_finite(family: int, sign: float, first: float, second: float) -> None:
    best = best_arm(family, np.array([[3.0, 1.0, sign], [first, second, sign], [1e6, 1e6, sign]]))
    assert best.p.sum() == pytest.approx(1.0, abs=1e-12)
    assert np.isfinite(best.loss).all()

"""The slow twin of a linear rule: noise and coefficients are drawn, and the best arm of each draw counted."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bandit.features import Encoder
from bandit.linear.rule import Chooser, LinearRule
from bandit.posteriors.linear import LinearSums, fit
from bandit.spec.features import Feature

DRAWS = 100_000
SURE = 5.5
"""Standard errors: passed by chance once in 26 million."""


@pytest.mark.parametrize("rewards", [(0, 3, 8), (6, 6, 6), (40, 200, 12)])
def test_chances_are_those_of_drawn_posteriors(rewards: tuple[int, int, int]) -> None:
    chance = np.random.default_rng(sum(rewards))
    encoder = Encoder([Feature(name="plan", kind="categorical", values=("a", "b")), *_numbers(2)])
    d = encoder.dimension
    parts = [(np.zeros((0, d)), np.zeros(0)) for _ in rewards]
    for arm, n in enumerate(rewards):
        x = np.column_stack([np.ones(n), chance.uniform(-1, 1, (n, d - 1))])
        parts[arm] = x, x @ chance.normal(size=d) * 0.2 + 0.1 * chance.normal(size=n)
    sums = LinearSums(
        *(np.concatenate(each) for each in zip(*(LinearSums.of(*part) for part in parts), strict=True))
    )
    model = fit(sums, ridge=0.5, a0=2.0, b0=0.02)
    rule = LinearRule.of(
        model.theta,
        model.inverse * (model.b / model.a)[:, None, None],
        2.0 * model.a,
        np.array(rewards, np.float64),
        (np.zeros(3, np.int64), np.full(3, 1_000_000)),
        optimistic=False,
    )
    chooser = Chooser(rule, encoder)
    for encoded in (bytes([1, 40, 200]), bytes([0, 127, 127])):
        x = encoder.row(encoded)
        drawn = np.empty((3, DRAWS))
        for arm in range(3):
            noise = model.b[arm] / chance.gamma(model.a[arm], size=DRAWS)
            root = np.linalg.cholesky(model.inverse[arm])
            theta = model.theta[arm][:, None] + root @ chance.normal(size=(d, DRAWS)) * np.sqrt(noise)
            drawn[arm] = x @ theta
            scale = float(np.sqrt(model.b[arm] / model.a[arm] * (x @ model.inverse[arm] @ x)))
            told = stats.kstest(
                drawn[arm][:5000], "t", (2 * model.a[arm], float(x @ model.theta[arm]), scale)
            )
            assert told.pvalue > 1e-7
        best = np.bincount(drawn.argmax(axis=0), minlength=3) / DRAWS
        p, highest = chooser.chances(x)
        assert (np.abs(p - best) <= SURE * np.sqrt(p * (1 - p) / DRAWS) + 1e-4).all()
        top = drawn.max(axis=0)
        assert highest == pytest.approx(top.mean(), abs=SURE * top.std() / np.sqrt(DRAWS) + 1e-6)


def _numbers(count: int) -> list[Feature]:
    return [Feature(name=f"n{index}", kind="numeric", low=0, high=1) for index in range(count)]

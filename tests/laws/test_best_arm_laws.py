"""Laws of P(best) and expected loss: what must hold of any posteriors, however hostile."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.kernels.best_arm import BETA, GAMMA, LOGNORMAL, NORMAL, STUDENT_T, best_arm
from bandit.kernels.quantile import quantiles
from bandit.ledger import FloatArray

Problem = tuple[int, FloatArray]

NUMBERS = [0.0, -0.0, 1.0, -1.0, 1e-300, 5e-324, 1e-9, 0.5, 3.0, 1e6, 1e12, 1e18, 1e300, -1e300]
WRONG = [float("inf"), float("-inf"), float("nan")]


@st.composite
def sane(draw: st.DrawFn, families: tuple[int, ...] = (NORMAL, BETA, STUDENT_T, GAMMA, LOGNORMAL)) -> Problem:
    """Posteriors as sums of rewards give them: 1 to 12 arms, from no reward to 1e8."""
    family, arms = draw(st.sampled_from(families)), draw(st.integers(1, 12))
    seed = draw(st.integers(0, 2**32 - 1))
    chance = np.random.default_rng(seed)
    n = 10 ** chance.uniform(0, 8, arms)
    mean = np.clip(
        chance.beta(1, 2) + chance.choice([0.0, 1e-3, 0.3]) * chance.normal(size=arms), 1e-4, 0.9999
    )
    rows = {
        NORMAL: [mean, 0.5 / np.sqrt(n)],
        BETA: [0.5 + mean * n, 0.5 + (1 - mean) * n],
        STUDENT_T: [mean, 0.5 / np.sqrt(n), 3 + n],
        GAMMA: [0.5 + mean * n, 0.1 + n],
        LOGNORMAL: [mean, 0.5 / np.sqrt(n)],
    }
    return family, np.stack(rows[family], axis=1)


@settings(max_examples=300)
@given(sane())
def test_the_mass_is_one_before_it_is_made_one(problem: Problem) -> None:
    best = best_arm(*problem)
    assert abs(best.mass - 1.0) <= 1e-10
    assert abs(best.p.sum() - 1.0) <= 1e-15 * best.p.size
    assert (best.p >= 0).all()
    assert (best.loss >= 0).all()


@settings(max_examples=150)
@given(sane(), st.randoms(use_true_random=False))
def test_order_changes_the_last_digits_only(problem: Problem, random: object) -> None:
    family, params = problem
    order = np.random.default_rng(len(params)).permutation(len(params))
    best, turned = best_arm(family, params), best_arm(family, params[order])
    assert turned.p == pytest.approx(best.p[order], rel=0, abs=1e-12)
    assert turned.loss == pytest.approx(best.loss[order], rel=1e-9, abs=1e-13)


@settings(max_examples=100)
@given(sane())
def test_the_same_input_gives_the_same_bits(problem: Problem) -> None:
    first = best_arm(*problem)
    again = best_arm(*problem)
    assert first.p.tobytes() == again.p.tobytes()
    assert first.loss.tobytes() == again.loss.tobytes()


@settings(max_examples=150)
@given(sane((NORMAL, BETA, STUDENT_T)))
def test_turning_the_scale_around_swaps_best_and_worst(problem: Problem) -> None:
    family, params = problem
    mirrored = params.copy()
    if family == BETA:
        mirrored = params[:, ::-1]
    else:
        mirrored[:, 0] = 1.0 - params[:, 0]
    worst, best = best_arm(family, params, lowest=True), best_arm(family, mirrored)
    assert worst.p == pytest.approx(best.p, rel=0, abs=1e-10)
    assert worst.loss == pytest.approx(best.loss, rel=1e-8, abs=1e-10)


@settings(max_examples=100)
@given(sane((NORMAL, STUDENT_T)), st.sampled_from([-1e6, -1.0, 1e3]), st.sampled_from([1e-6, 1e6]))
def test_unit_and_origin_do_not_matter(problem: Problem, shift: float, factor: float) -> None:
    """Up to the rounding of the moved means themselves."""
    family, params = problem
    moved = params.copy()
    moved[:, 0] = (params[:, 0] + shift) * factor
    moved[:, 1] *= factor
    rounding = abs(shift) * 1e-15 / params[:, 1].min()
    first, second = best_arm(family, params), best_arm(family, moved)
    assert second.p == pytest.approx(first.p, rel=0, abs=1e-10 + rounding)
    assert second.loss == pytest.approx(
        first.loss * factor, rel=1e-6, abs=(1e-10 + abs(shift) * 1e-14) * factor
    )


@settings(max_examples=150)
@given(sane((NORMAL, BETA, STUDENT_T)), st.integers(0, 11))
def test_a_better_arm_gains(problem: Problem, arm: int) -> None:
    """More successes, or a higher mean: never less chance of being the best, for nobody else more."""
    family, params = problem
    arm %= len(params)
    better = params.copy()
    better[arm, 0] += max(1.0, 0.01 * params[arm, 0]) if family == BETA else 0.3 * params[arm, 1]
    before, after = best_arm(family, params), best_arm(family, better)
    assert after.p[arm] >= before.p[arm] - 1e-11
    assert (np.delete(after.p, arm) <= np.delete(before.p, arm) + 1e-11).all()
    assert after.loss[arm] <= before.loss[arm] + 1e-11


@settings(max_examples=100)
@given(sane((NORMAL, BETA)))
def test_losses_differ_as_the_means_do(problem: Problem) -> None:
    """E[max] - E[x_k]: the same E[max] for every arm."""
    family, params = problem
    mean = params[:, 0] / params.sum(axis=1) if family == BETA else params[:, 0]
    top = best_arm(family, params).loss + mean
    assert top == pytest.approx([top[0]] * top.size, rel=0, abs=1e-9)
    assert top[0] >= mean.max() - 1e-9


@pytest.mark.parametrize("arms", [1, 2, 3, 10, 16, 17, 64])
@pytest.mark.parametrize(
    ("family", "row"),
    [
        (BETA, [3.0, 5.0]), (BETA, [1.0, 1.0]), (BETA, [1e12, 1e12]), (BETA, [1e-6, 1e12]),
        (NORMAL, [0.3, 0.1]), (NORMAL, [0.3, 0.0]), (STUDENT_T, [0.3, 0.1, 2.0]), (GAMMA, [0.5, 3.0]),
        (LOGNORMAL, [-3.0, 0.2]),
    ],
)  # fmt: skip
def test_equal_arms_have_equal_chances(arms: int, family: int, row: list[float]) -> None:
    for lowest in (False, True):
        best = best_arm(family, np.array([row] * arms), lowest=lowest)
        assert best.p == pytest.approx([1 / arms] * arms, rel=0, abs=1e-12)
        assert best.mass == pytest.approx(0.0 if row[1] == 0.0 else 1.0, rel=0, abs=1e-10)
        assert best.loss == pytest.approx([best.loss[0]] * arms, rel=1e-9, abs=1e-15)


def test_one_arm_is_the_best_and_loses_nothing() -> None:
    assert best_arm(BETA, np.array([[3.0, 5.0]])).p.tolist() == [1.0]
    assert best_arm(BETA, np.array([[3.0, 5.0]])).loss.tolist() == [0.0]


def test_a_step_is_integrated_exactly() -> None:
    """A narrow arm in a wide one: the wide one's distribution function at a point, not a fixed grid's guess of it."""
    best = best_arm(NORMAL, np.array([[0.0, 1.0], [0.05, 1e-4]]))
    assert best.p[1] == pytest.approx(0.519938805838, rel=0, abs=1e-9)
    far = best_arm(NORMAL, np.array([[0.0, 1.0], [0.05, 0.0]]))
    assert far.p[1] == pytest.approx(0.519938805838, rel=0, abs=1e-9)


def test_hopeless_arms_keep_their_order() -> None:
    p = best_arm(NORMAL, np.array([[0.0, 1.0], [6.5, 1.0], [-0.5, 1.0], [0.2, 1.0]])).p
    assert 0 < p[2] < p[0] < p[3] < 1e-5


@settings(max_examples=600)
@given(st.data())
def test_any_numbers_give_a_distribution(data: st.DataObject) -> None:
    family = data.draw(st.sampled_from([NORMAL, BETA, STUDENT_T, GAMMA, LOGNORMAL]))
    arms, wrong = data.draw(st.integers(1, 20)), data.draw(st.booleans())
    numbers = st.sampled_from(NUMBERS + WRONG if wrong else NUMBERS) | st.floats(-10, 1e4)
    rows = [[data.draw(numbers) for _ in range(3 if family == STUDENT_T else 2)] for _ in range(arms)]
    best = best_arm(family, np.array(rows), lowest=data.draw(st.booleans()))
    assert np.isfinite(best.p).all()
    assert (best.p >= 0).all()
    assert abs(best.p.sum() - 1) <= 1e-12
    assert not np.isnan(best.loss).any()
    assert (best.loss >= 0).all()


@settings(max_examples=100)
@given(sane(), st.floats(0.001, 0.999))
def test_quantiles_rise_and_agree_with_chances(problem: Problem, level: float) -> None:
    """An arm that is a point at another's quantile is above it with that probability."""
    family, params = problem
    got = quantiles(family, params, (0.5 * level, level, 0.5 + 0.5 * level))
    assert (np.diff(got, axis=1) > 0).all()
    if family == NORMAL:
        pair = np.array([params[0], [got[0, 1], 0.0]])
        assert best_arm(family, pair).p[1] == pytest.approx(level, rel=0, abs=1e-9)

"""What every allocator promises, over the registry; and what bounds make of it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.allocate import propose
from bandit.allocators import ALLOCATORS
from bandit.allocators.base import Problem, Utility, rank
from bandit.kernels.best_arm import BETA, NORMAL, STUDENT_T
from bandit.kernels.simplex import project_kl
from bandit.ledger import FloatArray
from bandit.reading import Reading
from bandit.rollout.bounds import boxes, quantise
from bandit.spec.model import PPM
from tests.builders import spec

NAMES = pytest.mark.parametrize("name", list(ALLOCATORS))


def beta_utility(successes: FloatArray, n: FloatArray) -> Utility:
    params = np.stack([1 + successes, 1 + n - successes], axis=1)
    mean = params[:, 0] / params.sum(axis=1)
    sd = np.sqrt(mean * (1 - mean) / (params.sum(axis=1) + 1))
    return Utility(BETA, params, 1.0, mean, sd, mean, n)


def weights(name: str, problem: Problem) -> FloatArray:
    return ALLOCATORS[name].weights(problem, rank(problem.utility, problem.live)[0])


@NAMES
def test_random_states_give_distributions(name: str) -> None:
    """Any counts from 0 to 1e12, means at both ends, dead arms: finite, at least 0, sum 1, 0 for the dead."""
    chance = np.random.default_rng(7)
    for _ in range(4000):
        arms = int(chance.integers(1, 12))
        n = np.floor(10 ** chance.uniform(0, 12, arms)) * (chance.random(arms) > 0.15)
        successes = np.floor(n * chance.choice([0.0, 1.0, chance.random(), 1e-9], arms))
        live = chance.random(arms) > 0.2
        live[int(chance.integers(arms))] = True
        pulls = n * chance.uniform(1, 2)
        problem = Problem(beta_utility(successes, n), pulls, live, float(10 ** chance.uniform(0, 6)))
        w = weights(name, problem)
        assert np.isfinite(w).all()
        assert (w >= 0).all()
        assert abs(w.sum() - 1) < 1e-12
        assert (w[~live] == 0).all()


@pytest.mark.parametrize(("family", "columns"), [(NORMAL, 2), (STUDENT_T, 3)])
def test_random_posteriors_rank_finitely(family: int, columns: int) -> None:
    chance = np.random.default_rng(8)
    for _ in range(2000):
        arms = int(chance.integers(1, 10))
        params = np.empty((arms, columns))
        params[:, 0] = chance.choice([0.0, 1.0, chance.random()], arms)
        params[:, 1] = 10 ** chance.uniform(-12, 0, arms)
        if columns == 3:
            params[:, 2] = 2 * 10 ** chance.uniform(0, 9, arms)
        value = Utility(family, params, 1.0, params[:, 0], params[:, 1], params[:, 0], np.ones(arms))
        p_best, loss = rank(value, np.ones(arms, np.bool_))
        assert np.isfinite(p_best).all()
        assert np.isfinite(loss).all()
        assert abs(p_best.sum() - 1) < 1e-12


@NAMES
def test_the_order_of_the_arms_does_not_matter(name: str) -> None:
    chance = np.random.default_rng(9)
    for _ in range(200):
        arms = int(chance.integers(2, 8))
        n = np.floor(chance.uniform(1, 5000, arms))
        problem = Problem(beta_utility(np.floor(n * 0.1), n), n, np.ones(arms, np.bool_), 100.0)
        order = chance.permutation(arms)
        turned = Problem(beta_utility(np.floor(n * 0.1)[order], n[order]), n[order], problem.live, 100.0)
        assert weights(name, turned) == pytest.approx(weights(name, problem)[order], abs=1e-9)


@NAMES
@pytest.mark.parametrize("arms", [2, 4, 64])
@pytest.mark.parametrize("n", [0.0, 10.0, 1e6])
def test_equal_states_share_equally(name: str, arms: int, n: float) -> None:
    count = np.full(arms, n)
    w = weights(name, Problem(beta_utility(count // 3, count), count, np.ones(arms, np.bool_), 50.0))
    assert w == pytest.approx([1 / arms] * arms, abs=1e-9)


def test_pulls_without_rewards_count() -> None:
    """Five arms, ten thousand decisions, no reward at all: each is served."""
    pulls, zero = np.zeros(5), np.zeros(5)
    for _ in range(100):
        w = weights("ucb", Problem(beta_utility(zero, zero), pulls, np.ones(5, np.bool_), 100.0))
        pulls = pulls + 100 * w
    assert pulls.min() >= 0.15 * pulls.sum()


def test_the_share_is_an_estimate_and_not_a_draw() -> None:
    value = beta_utility(np.array([49.0, 54.0]), np.array([98.0, 98.0]))
    reads = {float(rank(value, np.ones(2, np.bool_))[0][1]) for _ in range(100)}
    assert len(reads) == 1
    assert reads.pop() == pytest.approx(0.762, abs=0.005)


def test_shares_are_explained_by_floors_and_p_best() -> None:
    made = spec(
        metrics=[{"name": "m", "kind": "bernoulli", "direction": "maximize"}],
        objective=[{"metric": "m"}],
        bounds={"floor": 0.02, "control_floor": 0.02},
    )
    n = np.full((3, 1), 1e5)
    s = n * np.array([[0.249], [0.333], [0.498]])
    proposal = propose(made, Reading(n[:, 0], n, s, s), np.ones(3, np.bool_), [None] * 3, None, 0.0, 100.0)
    assert proposal.shares_ppm == (20_000, 20_000, 960_000)
    assert proposal.p_best[2] > 0.999


@NAMES
def test_a_seeded_world_is_served_better_than_evenly(name: str) -> None:
    if name == "fixed":
        return
    chance = np.random.default_rng(10)
    rates = np.array([0.10, 0.11, 0.105, 0.09, 0.16])
    n, successes = np.zeros(5), np.zeros(5)
    for _ in range(60):
        w = weights(name, Problem(beta_utility(successes, n), n, np.ones(5, np.bool_), 500.0))
        served = chance.multinomial(500, w)
        n, successes = n + served, successes + chance.binomial(served, rates)
    assert n[4] / n.sum() > 0.5


@st.composite
def bounded_problem(draw: st.DrawFn) -> tuple[FloatArray, FloatArray, FloatArray]:
    arms = draw(st.integers(1, 10))
    p = np.array(draw(st.lists(st.floats(0, 1), min_size=arms, max_size=arms))) + 0.0
    p = np.full(arms, 1 / arms) if p.sum() < 1e-6 else p / p.sum()
    low = np.array(draw(st.lists(st.floats(0, 1 / arms), min_size=arms, max_size=arms)))
    room = np.array(draw(st.lists(st.floats(0, 1), min_size=arms, max_size=arms)))
    high = np.minimum(low + room, 1.0)
    high[0] = 1.0
    return p, low, high


@settings(max_examples=400)
@given(bounded_problem())
def test_projection_laws(problem: tuple[FloatArray, FloatArray, FloatArray]) -> None:
    p, low, high = problem
    w, again = np.empty(p.size), np.empty(p.size)
    project_kl(p, low, high, w)
    assert abs(w.sum() - 1) <= 1e-12
    assert (w >= low).all()
    assert (w <= high).all()
    assert (w[high == 0] == 0).all()
    project_kl(w, low, high, again)
    assert again == pytest.approx(w, abs=1e-8)
    if np.ptp(low) == 0 and np.ptp(high) == 0:
        assert (np.diff(w[np.argsort(p, kind="stable")]) >= -1e-12).all()


@settings(max_examples=300)
@given(bounded_problem(), st.integers(0, 9))
def test_projection_is_monotone(problem: tuple[FloatArray, FloatArray, FloatArray], arm: int) -> None:
    p, low, high = problem
    arm %= p.size
    more = p.copy()
    more[arm] += 0.2
    first, second = np.empty(p.size), np.empty(p.size)
    project_kl(p, low, high, first)
    project_kl(more / more.sum(), low, high, second)
    assert second[arm] >= first[arm] - 1e-8


@settings(max_examples=400)
@given(st.data())
def test_shares_stay_inside_every_bound(data: st.DataObject) -> None:
    draw = data.draw
    arms = draw(st.integers(2, 8))
    share = st.integers(0, 1000).map(lambda each: each / 1000)
    rows = [{"name": "control", "control": True}]
    for k in range(1, arms):
        floor = draw(st.integers(0, 900 // arms)) / 1000
        rows.append(
            {
                "name": f"a{k}",
                "bounds": {
                    "floor": floor,
                    "cap": draw(st.integers(round(floor * 1000), 1000)) / 1000,
                    "ramp_per_minute": draw(share),
                },
            }
        )
    made = spec(arms=rows, bounds={"control_floor": draw(st.integers(0, 100)) / 1000})
    live = [True] + [draw(st.booleans()) for _ in range(arms - 1)]
    held = [None] + [draw(st.none() | st.integers(0, PPM)) for _ in range(arms - 1)]
    p = np.array([draw(st.floats(0, 1)) * alive for alive in live])
    p = np.array(live) / sum(live) if p.sum() < 1e-9 else p / p.sum()
    previous = draw(st.none() | st.permutations([PPM] + [0] * (arms - 1)))
    elapsed = draw(st.floats(0, 600))
    low, high = boxes(made, live, held, previous, elapsed)
    w = np.empty(arms)
    project_kl(p, low / PPM, high / PPM, w)
    shares = quantise(w, low, high)
    assert sum(shares) == PPM
    assert max(abs(share / PPM - exact) for share, exact in zip(shares, w, strict=True)) < 1e-5
    for k in range(1, arms):
        floor, cap, ramp = made.bounds_ppm(k)
        if not live[k]:
            assert shares[k] == 0
            continue
        assert shares[k] <= cap
        hold = held[k]
        most = cap if hold is None else min(cap, hold)
        assert min(floor, most) <= shares[k] <= most
        if previous is not None and ramp < PPM:
            assert shares[k] <= max(previous[k] + ramp * elapsed / 60, floor)
    assert shares[0] >= made.bounds_ppm(0)[0]


def test_a_killed_arms_share_goes_no_further_than_the_ramp() -> None:
    made = spec(bounds={"floor": 0.02, "ramp_per_minute": 0.06, "control_floor": 0.05})
    low, high = boxes(made, [True, True, False], [None] * 3, (300_000, 300_000, 400_000), 10.0)
    w = np.empty(3)
    project_kl(np.array([0.0, 1.0, 0.0]), low / PPM, high / PPM, w)
    assert quantise(w, low, high) == (690_000, 310_000, 0)


def test_floors_beyond_the_whole_are_scaled_beside_the_control() -> None:
    made = spec(bounds={"floor": 0.9, "control_floor": 0.1})
    low, _ = boxes(made, [True] * 3, [None] * 3, None, 0.0)
    assert low.tolist() == [100_000, 450_000, 450_000]

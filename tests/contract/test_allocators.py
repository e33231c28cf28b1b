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
from bandit.kernels.indices import KL, gap_at
from bandit.kernels.simplex import project_kl
from bandit.ledger import FloatArray
from bandit.reading import Reading
from bandit.rollout.bounds import boxes, quantise
from bandit.spec.model import PPM
from tests.builders import spec
from tests.evidence import evidence_from

NAMES = pytest.mark.parametrize("name", list(ALLOCATORS))
STATES = dict.fromkeys(ALLOCATORS, 3000) | {"bayes_ucb": 300}


def beta_utility(successes: FloatArray, n: FloatArray) -> Utility:
    params = np.stack([1 + successes, 1 + n - successes], axis=1)
    mean = params[:, 0] / params.sum(axis=1)
    sd = np.sqrt(mean * (1 - mean) / (params.sum(axis=1) + 1))
    return Utility(BETA, params, 1.0, mean, sd, mean, n, mean * (1 - mean))


def weights(name: str, problem: Problem) -> FloatArray:
    return ALLOCATORS[name].weights(problem, rank(problem.utility, problem.live)[0])


@NAMES
def test_random_states_give_distributions(name: str) -> None:
    """Any counts from 0 to 1e12, means at both ends, dead arms: finite, at least 0, sum 1, 0 for the dead."""
    chance = np.random.default_rng(7)
    for _ in range(STATES[name]):
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
        value = Utility(
            family, params, 1.0, params[:, 0], params[:, 1], params[:, 0], np.ones(arms), np.full(arms, 0.25)
        )
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
    """Five arms, ten thousand decisions, no reward at all: each is served, and what had too many waits."""
    pulls, zero, live = np.array([9000.0, 500.0, 300.0, 200.0, 0.0]), np.zeros(5), np.ones(5, np.bool_)
    for _ in range(100):
        pulls = pulls + 100 * weights("kl_ucb", Problem(beta_utility(zero, zero), pulls, live, 100.0))
    assert pulls[0] == pytest.approx(9000, abs=1)
    assert pulls[1:] == pytest.approx([2750] * 4, abs=1)
    fresh = np.zeros(5)
    for _ in range(100):
        fresh = fresh + 100 * weights("kl_ucb", Problem(beta_utility(zero, zero), fresh, live, 100.0))
    assert fresh.min() >= 0.15 * fresh.sum()


def test_late_rewards_do_not_draw_traffic() -> None:
    """Two arms alike in their rewards: the one with more requests still open gets less of the next batch."""
    value = beta_utility(np.array([30.0, 30.0, 10.0]), np.array([100.0, 100.0, 100.0]))
    w = weights("kl_ucb", Problem(value, np.array([400.0, 150.0, 150.0]), np.ones(3, np.bool_), 100.0))
    assert w[0] < 0.01 < 0.9 < w[1]


def test_requests_that_never_answer_count_as_their_part() -> None:
    """One in ten answers, on both arms: the same shares as if only those had been made, but for ln t."""
    value = beta_utility(np.array([30.0, 25.0]), np.array([100.0, 100.0]))
    both = np.ones(2, np.bool_)
    few = weights("kl_ucb", Problem(value, np.array([100.0, 100.0]), both, 300.0))
    many = weights("kl_ucb", Problem(value, np.array([1000.0, 1000.0]), both, 3000.0))
    assert 0.01 < few[1] < many[1] < 0.5


def test_an_idle_arm_is_explored_again() -> None:
    """Ten pulls, then idle while the total grows a hundred thousand times: its bonus grows with ln t."""
    indices = [0.3 + gap_at(KL, 0.3, 0.21, 10.0, total) for total in (30.0, 1000.0, 1e6)]
    assert indices == sorted(indices)
    assert indices[-1] > 0.9
    shares = []
    for total in (30.0, 1e6):
        value = beta_utility(np.array([0.5 * total, 3.0]), np.array([total, 10.0]))
        shares.append(weights("kl_ucb", Problem(value, value.observations, np.ones(2, np.bool_), 10.0))[1])
    assert shares[0] < 0.5 < 0.9 < shares[1]


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
    evidence = evidence_from(made, Reading(n[:, 0], n, s, s))
    proposal = propose(made, evidence, np.ones(3, np.bool_), [None] * 3, None, 0.0, 100.0)
    assert proposal.shares_ppm == (20_000, 20_000, 960_000)
    assert proposal.p_best[2] > 0.999


@pytest.mark.parametrize("name", ["thompson", "kl_ucb"])
@pytest.mark.parametrize("seed", range(5))
def test_a_seeded_world_is_served_better_than_evenly(name: str, seed: int) -> None:
    """Regret of 30,000 requests at most half of what equal shares lose."""
    chance = np.random.default_rng(seed)
    rates = chance.permutation([0.10, 0.11, 0.105, 0.09, 0.16])
    n, successes = np.zeros(5), np.zeros(5)
    for _ in range(60):
        w = weights(name, Problem(beta_utility(successes, n), n, np.ones(5, np.bool_), 500.0))
        served = chance.multinomial(500, w)
        n, successes = n + served, successes + chance.binomial(served, rates)
    regret, even = n @ (rates.max() - rates), n.sum() * (rates.max() - rates).mean()
    assert regret < 0.5 * even


def test_fixed_weights_of_a_dead_arm_go_to_the_control() -> None:
    made = spec(
        allocator={"kind": "fixed", "weights": {"control": 0.5, "small": 0.3, "large": 0.2}},
        bounds={"floor": 0.0},
    )
    zero = np.zeros((3, len(made.columns)))
    reading = Reading(np.zeros(3), zero, zero, zero)
    for live, shares in (
        ([True, True, True], (500_000, 300_000, 200_000)),
        ([True, True, False], (700_000, 300_000, 0)),
        ([True, False, False], (1_000_000, 0, 0)),
    ):
        got = propose(made, evidence_from(made, reading), np.array(live), [None] * 3, None, 0.0, 100.0)
        assert got.shares_ppm == shares


@NAMES
def test_random_experiments_stay_within_bounds(name: str) -> None:
    """From no reward to 1e12 of them, at either end and in between, dead, held and ramping: whole legal shares."""
    chance = np.random.default_rng(11)
    arms = ["control", "small", "large"]
    for _ in range(300):
        floor, cap = chance.uniform(0, 0.3), chance.uniform(0.3, 1)
        written = {"kind": name} | ({"weights": dict.fromkeys(arms, 1 / 3)} if name == "fixed" else {})
        made = spec(
            allocator=written,
            bounds={"floor": floor, "cap": cap, "control_floor": 0.1, "ramp_per_minute": chance.choice([0.06, 1])},
        )  # fmt: skip
        n = np.floor(10 ** chance.uniform(-1, 12, (3, 3)))
        n[:, 2] = n[:, :2].min(axis=1)  # the pair of both metrics
        x = chance.choice([0.0, 1.0, 1e-12, chance.random()], (3, 3))
        reading = Reading(n.max(axis=1) * 1.5, n, n * x, n * x * x)
        live = np.array([True, chance.random() > 0.2, chance.random() > 0.2])
        held = [None, *(None if chance.random() > 0.3 else int(chance.integers(PPM)) for _ in range(2))]
        previous = None if chance.random() > 0.5 else (800_000, 150_000, 50_000)
        elapsed = float(chance.uniform(0, 100))
        batch = float(10 ** chance.uniform(0, 6))
        got = propose(made, evidence_from(made, reading), live, held, previous, elapsed, batch)
        low, high = boxes(made, live.tolist(), held, previous, elapsed)
        assert sum(got.shares_ppm) == PPM
        assert (low <= got.shares_ppm).all()
        assert (got.shares_ppm <= high).all()
        assert (np.array(got.shares_ppm)[~live] == 0).all()
        for each in (got.weights, got.p_best, got.expected_loss, got.utility_sd, got.mean, got.low, got.high):
            assert np.isfinite(each).all()
        assert abs(got.weights.sum() - 1) < 1e-12
        assert (got.expected_loss >= 0).all()


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
    assert again == pytest.approx(
        w, rel=0, abs=p.size * 1e-9
    )  # what is raised to 1e-9 is taken from the others
    if w.min() >= 1e-9:
        assert again == pytest.approx(w, rel=0, abs=1e-12)
    if (p >= low).all() and (p <= high).all() and p.min() >= 1e-9:
        assert w == pytest.approx(p, rel=0, abs=1e-12)
    order = np.random.default_rng(p.size).permutation(p.size)
    turned = np.empty(p.size)
    project_kl(p[order], low[order], high[order], turned)
    assert turned == pytest.approx(w[order], rel=0, abs=1e-14)
    free = (w > low) & (w < high) & (p > 1e-9)
    if free.any():
        assert np.ptp(w[free] / p[free]) <= 1e-9 * (w[free] / p[free]).max()
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

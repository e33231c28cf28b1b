"""Laws of every allocator and of the projection: a million random states, signs, scales, ties, batches and kills."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandit.allocate import propose
from bandit.allocators import ALLOCATORS
from bandit.allocators.base import Problem, Utility, rank
from bandit.kernels.best_arm import BETA, GAMMA, LOGNORMAL, NORMAL, STUDENT_T, compare
from bandit.kernels.fluid import ucb_weights
from bandit.kernels.jit import kernel
from bandit.kernels.mixing import epsilon_greedy, exploration, top_two
from bandit.kernels.simplex import project_kl
from bandit.ledger import FloatArray
from bandit.reading import Reading
from bandit.spec.model import ExperimentSpec
from tests.builders import spec
from tests.evidence import evidence_from

NAMES = pytest.mark.parametrize("name", list(ALLOCATORS))
LEARNING = [name for name in ALLOCATORS if name != "fixed"]
POURED = ("ucb1", "ucb_v", "ucb1_tuned", "kl_ucb", "kl_ucb_plus", "bayes_ucb")


@kernel
def _wrong(w: FloatArray, low: FloatArray, high: FloatArray) -> bool:
    """Not a distribution inside its box."""
    total = 0.0
    for k in range(w.size):
        if not low[k] <= w[k] <= high[k]:
            return True
        total += w[k]
    return not abs(total - 1.0) <= 1e-12


@kernel
def _storm(states: int, chance: np.random.Generator, wrong: FloatArray) -> int:
    """Random states through the kernels of all rules; counts the wrong answers of each into ``wrong`` [10]."""
    answers = 0
    for state in range(states):
        arms = 64 if state % 500 == 0 else 1 + state % 7
        zero, one = np.zeros(arms), np.ones(arms)
        n, pulls, params = np.zeros(arms), np.zeros(arms), np.empty((arms, 2))
        mean, variance, low, high = np.empty(arms), np.empty(arms), np.zeros(arms), np.ones(arms)
        for k in range(arms):
            if chance.random() > 0.15:
                n[k] = np.floor(10.0 ** chance.uniform(0.0, 12.0))
            kind, x = chance.integers(0, 5), chance.random()
            x = 0.0 if kind == 0 else 1.0 if kind == 1 else 1e-9 if kind == 2 else x
            pulls[k] = n[k] * chance.uniform(1.0, 3.0)
            params[k, 0], params[k, 1] = 1.0 + n[k] * x, 1.0 + n[k] * (1.0 - x)
            mean[k] = x if kind == 3 else params[k, 0] / (n[k] + 2.0)
            variance[k] = mean[k] * (1.0 - mean[k]) if chance.random() > 0.1 else 0.0
            low[k] = chance.random() / arms if chance.random() > 0.5 else 0.0
            high[k] = min(low[k] + chance.random(), 1.0)
        high[0] = 1.0
        w, p, loss = np.empty(arms), np.empty(arms), np.empty(arms)
        batch = 10.0 ** chance.uniform(0.0, 6.0)
        for rule in range(5):
            ucb_weights(rule, mean, variance, n, pulls, batch, w)
            wrong[rule] += _wrong(w, zero, one)
        compare(BETA, params, one, False, p, loss)
        wrong[5] += _wrong(p, zero, one)
        for k in range(arms):
            wrong[5] += not 0.0 <= loss[k] < np.inf
        top_two(p, chance.random(), w)
        wrong[6] += _wrong(w, zero, one)
        exploration(p, w)
        wrong[7] += _wrong(w, zero, one)
        epsilon_greedy(mean, chance.random(), w)
        wrong[8] += _wrong(w, zero, one)
        project_kl(p, low, high, w)
        wrong[9] += _wrong(w, low, high)
        answers += 10
    return answers


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_million_states_give_distributions() -> None:
    """n from 0 to 1e12, means at both ends, one arm to 64: finite, at least 0, sum 1, inside the box."""
    wrong = np.zeros(10)
    assert _storm(100_000, np.random.default_rng(1), wrong) == 1_000_000
    assert wrong.tolist() == [0.0] * 10


def one_metric(
    name: str, low: float, high: float, direction: str, arms: int = 3, weight: float = 1.0
) -> ExperimentSpec:
    rows = [{"name": f"a{k}", "control": k == 0} for k in range(arms)]
    metric = {"name": "m", "kind": "gaussian", "direction": direction, "range": [low, high]}
    allocator: dict[str, Any] = {"kind": name}
    if name == "fixed":
        allocator["weights"] = {row["name"]: 1 / arms for row in rows}
    return spec(
        arms=rows,
        metrics=[metric],
        objective=[{"metric": "m", "weight": weight}],
        allocator=allocator,
        bounds={"floor": 0.0, "control_floor": 0.0},
    )


def decided(
    made: ExperimentSpec, n: FloatArray, mean: FloatArray, sd: FloatArray, batch: float = 200.0
) -> Any:
    """The proposal from values of that mean and sd, metric's unit."""
    low, high = made.metrics[0].scale
    x, width = (mean - low) / (high - low), sd / (high - low)
    reading = Reading(n, n[:, None], (n * x)[:, None], (n * (x * x + width * width))[:, None])
    live = np.ones(n.size, np.bool_)
    return propose(made, evidence_from(made, reading), live, [None] * n.size, None, 0.0, batch)


@NAMES
@pytest.mark.parametrize("arms", range(2, 11))
def test_negated_rewards_to_minimise_are_the_same(name: str, arms: int) -> None:
    chance = np.random.default_rng(arms)
    n, mean = np.floor(chance.uniform(20, 500, arms)), chance.uniform(0.3, 0.6, arms)
    sd = chance.uniform(0.1, 0.3, arms)
    up = decided(one_metric(name, 0.0, 1.0, "maximize", arms), n, mean, sd)
    down = decided(one_metric(name, -1.0, 0.0, "minimize", arms), n, -mean, sd)
    assert down.weights == pytest.approx(up.weights, rel=0, abs=1e-9)
    assert up.p_best == pytest.approx(down.p_best, rel=0, abs=1e-9)
    assert up.p_best[mean.argmax()] > up.p_best[mean.argmin()]
    assert max(abs(a - b) for a, b in zip(up.shares_ppm, down.shares_ppm, strict=True)) <= 1


@NAMES
def test_another_unit_gives_the_same_shares(name: str) -> None:
    """Rewards, range and the weight of the only term times a thousand."""
    n, mean, sd = np.array([100.0, 200.0, 50.0]), np.array([0.4, 0.43, 0.41]), np.array([0.2, 0.2, 0.25])
    plain = decided(one_metric(name, 0.0, 1.0, "maximize"), n, mean, sd)
    large = decided(one_metric(name, 0.0, 1000.0, "maximize", weight=1000.0), n, 1000 * mean, 1000 * sd)
    assert large.weights == pytest.approx(plain.weights, rel=0, abs=1e-9)


def beta_utility(successes: FloatArray, n: FloatArray) -> Utility:
    params = np.stack([1 + successes, 1 + n - successes], axis=1)
    mean = params[:, 0] / params.sum(axis=1)
    sd = np.sqrt(mean * (1 - mean) / (params.sum(axis=1) + 1))
    return Utility(BETA, params, 1.0, mean, sd, mean, n, mean * (1 - mean))


def weights(name: str, value: Utility, batch: float, live: Any = None, **more: Any) -> FloatArray:
    live = np.ones(value.mean.size, np.bool_) if live is None else live
    p_best = rank(value, live)[0]
    return ALLOCATORS[name].weights(Problem(value, value.observations, live, batch, **more), p_best)


@NAMES
@pytest.mark.parametrize("arms", [2, 4, 9, 64])
def test_equal_posteriors_have_equal_weights(name: str, arms: int) -> None:
    for n in (0.0, 7.0, 1e6):
        count = np.full(arms, n)
        w = weights(name, beta_utility(np.floor(0.3 * count), count), 50.0)
        assert w == pytest.approx([1 / arms] * arms, rel=0, abs=1e-12)


@pytest.mark.parametrize("name", LEARNING)
def test_a_killed_arm_has_exactly_nothing(name: str) -> None:
    """The best by far, killed: 0.0 in weights and shares, whatever the rest."""
    n = np.array([100.0, 100.0, 100.0])
    live = np.array([True, True, False])
    w = weights(name, beta_utility(np.array([30.0, 35.0, 99.0]), n), 50.0, live)
    assert w[2] == 0.0
    assert w.sum() == pytest.approx(1.0, abs=1e-12)


@pytest.mark.parametrize("name", POURED)
def test_pouring_is_continuous_in_the_batch(name: str) -> None:
    """No cliff: a batch a little larger moves shares a little; one pull alone goes to the arg max."""
    value = beta_utility(np.array([30.0, 36.0, 33.0]), np.array([300.0, 310.0, 290.0]))
    previous = weights(name, value, 1.0)
    assert previous.max() > 0.99
    for batch in np.geomspace(1.0, 1e5, 120)[1:]:
        w = weights(name, value, float(batch))
        assert np.abs(w - previous).max() < 0.12
        previous = w
    assert previous.min() > 0.01


@pytest.mark.parametrize("name", POURED)
def test_half_a_batch_twice_is_a_whole_batch(name: str) -> None:
    """With means held at what they are, pouring in two steps ends where one does, but for ln t."""
    n = np.array([1000.0, 1010.0, 990.0, 500.0])
    mean = np.array([0.10, 0.115, 0.11, 0.08])
    value = beta_utility(mean * n, n)
    whole = 400.0 * weights(name, value, 400.0)
    half = 200.0 * weights(name, value, 200.0)
    both = half + 200.0 * weights(name, beta_utility(mean * (n + half), n + half), 200.0)
    assert both == pytest.approx(whole, abs=40.0)


def test_the_best_of_four_has_the_rest() -> None:
    """Cost 0.1 against 1.0, epsilon 0.4: 0.6 and a quarter of 0.4."""
    n = np.full(4, 50.0)
    value = beta_utility(np.array([0.0, 0.0, 0.0, 45.0]), n)
    assert weights("epsilon_greedy", value, 1.0, epsilon=0.4) == pytest.approx(
        [0.1, 0.1, 0.1, 0.7], abs=1e-12
    )


def test_ties_share_what_is_greedy() -> None:
    value = beta_utility(np.array([20.0, 30.0, 30.0, 10.0]), np.full(4, 100.0))
    assert weights("epsilon_greedy", value, 1.0, epsilon=0.2) == pytest.approx(
        [0.05, 0.45, 0.45, 0.05], abs=1e-12
    )


@pytest.mark.parametrize("beta", [0.2, 0.5, 0.8])
def test_top_two_is_its_own_draws(beta: float) -> None:
    """Against a hundred thousand times drawing a leader, and again until another leads."""
    chance = np.random.default_rng(6)
    p = np.array([0.6, 0.25, 0.1, 0.05])
    w = np.empty(4)
    top_two(p, beta, w)
    leader = chance.choice(4, 100_000, p=p)
    other = leader.copy()
    while (same := other == leader).any():
        other[same] = chance.choice(4, int(same.sum()), p=p)
    drawn = np.where(chance.random(100_000) < beta, leader, other)
    assert w == pytest.approx(np.bincount(drawn, minlength=4) / 100_000, abs=0.01)


def test_what_a_sure_leader_leaves_is_shared() -> None:
    for p in (np.array([1.0, 0.0, 0.0]), np.array([1.0, 1e-30, 1e-15])):
        w = np.empty(3)
        top_two(p, 0.5, w)
        assert w == pytest.approx([0.5, 0.25, 0.25], abs=1e-5)
        exploration(p, w)
        assert w == pytest.approx([0.5, 0.25, 0.25], abs=1e-5)


def test_exploration_never_gives_more_than_half() -> None:
    chance = np.random.default_rng(8)
    for _ in range(500):
        w = np.empty(5)
        exploration(chance.dirichlet(np.full(5, 0.2)), w)
        assert w.max() <= 0.5 + 1e-12


@pytest.mark.parametrize(
    ("family", "params"),
    [
        (GAMMA, [[30.0, 100.0], [45.0, 130.0], [20.0, 70.0]]),
        (LOGNORMAL, [[-1.0, 0.1], [-0.9, 0.1], [-1.1, 0.2]]),
        (NORMAL, [[0.3, 0.05], [0.33, 0.05], [0.28, 0.07]]),
        (STUDENT_T, [[0.3, 0.05, 9.0], [0.33, 0.05, 12.0], [0.28, 0.07, 5.0]]),
    ],
)
@pytest.mark.parametrize("name", ["thompson", "top_two", "exploration", "bayes_ucb"])
def test_every_family_of_posteriors_is_served(name: str, family: int, params: list[list[float]]) -> None:
    rows, n = np.array(params), np.full(3, 80.0)
    mean, sd = np.array([0.3, 0.34, 0.29]), np.full(3, 0.05)
    value = Utility(family, rows, 1.0, mean, sd, mean, n, np.full(3, 0.2))
    w = weights(name, value, 100.0)
    assert w[1] > 0.25
    assert w.sum() == pytest.approx(1.0, abs=1e-12)

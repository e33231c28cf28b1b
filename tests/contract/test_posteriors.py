"""What every posterior promises, over the registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandit.allocate import Proposal, propose
from bandit.allocators import ALLOCATORS
from bandit.kernels.best_arm import BETA, GAMMA, INVERSE_GAMMA, LOGNORMAL, NORMAL, STUDENT_T, best_arm
from bandit.ledger import FloatArray
from bandit.posteriors import POSTERIORS, SECOND
from bandit.posteriors.base import Posterior
from bandit.reading import MetricSums, Reading
from bandit.spec.metric import Metric, MetricKind
from bandit.spec.model import Prior
from tests.evidence import evidence_from
from tests.values import MEANS, added, drawn, experiment, sums_of

KINDS = pytest.mark.parametrize("kind", list(POSTERIORS))
RULES: list[tuple[MetricKind, Posterior]] = [*POSTERIORS.items(), *SECOND.items()]
EVERY = pytest.mark.parametrize(
    ("kind", "rule"), RULES, ids=[type(rule).__name__.lower() for _, rule in RULES]
)
LEARNERS = sorted(set(ALLOCATORS) - {"fixed"})


def measured(kind: MetricKind) -> Metric:
    return experiment(kind).metrics[-1]


def some(kind: MetricKind, size: int, seed: int = 1, arms: int = 3) -> MetricSums:
    """Sums of ``size`` values of arms with rising means."""
    made = experiment(kind, arms)
    means = list(np.linspace(MEANS[kind][0], MEANS[kind][2], arms))
    return sums_of(made, added(made, drawn(kind, np.random.default_rng(seed), means, size)))


def proposal(
    kind: MetricKind,
    direction: str,
    means: list[float],
    allocator: str,
    size: int = 200,
    reading: Reading | None = None,
    **changes: Any,
) -> Proposal:
    """What follows from values of each arm, without floors."""
    made = experiment(kind, len(means), direction, allocator={"kind": allocator}, **changes)
    if reading is None:
        reading = added(made, drawn(kind, np.random.default_rng(8), means, size))
    live = np.ones(len(means), np.bool_)
    return propose(made, evidence_from(made, reading), live, [None] * len(means), None, 0.0, 100.0)


@KINDS
@pytest.mark.parametrize("allocator", LEARNERS)
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_the_better_arm_gains_share(
    kind: MetricKind, allocator: str, direction: str, order: list[int]
) -> None:
    means = [MEANS[kind][index] for index in order]
    best = means.index(max(means) if direction == "maximize" else min(means))
    for baseline in ("stationary", "contrast"):
        got = proposal(kind, direction, means, allocator, baseline=baseline)
        assert got.weights[best] == got.weights.max(), baseline
        assert got.weights[best] >= 0.45, baseline
        assert got.p_best[best] >= 0.99, baseline


@pytest.mark.parametrize("kind", ["bernoulli", "fraction", "gaussian", "rating"])
@pytest.mark.parametrize("allocator", LEARNERS)
@pytest.mark.parametrize("arms", [2, 3, 10])
def test_a_sign_flip_changes_nothing(kind: MetricKind, allocator: str, arms: int) -> None:
    """All rewards turned around and the direction with them: the same weights."""
    kind = MetricKind(kind)
    made = experiment(kind, arms)
    low, high = made.metrics[0].scale
    means = list(np.random.default_rng(arms).uniform(0.28, 0.36, arms) * (high - low) + low)
    values = drawn(kind, np.random.default_rng(3), means, 50)
    turned = {"m": low + high - values["m"]}
    up = proposal(kind, "maximize", means, allocator, reading=added(made, values))
    down = proposal(kind, "minimize", means, allocator, reading=added(made, turned))
    assert down.weights == pytest.approx(up.weights, rel=0, abs=1e-9)
    assert down.expected_loss == pytest.approx(up.expected_loss, rel=0, abs=1e-9)
    assert np.abs(np.subtract(up.shares_ppm, down.shares_ppm)).max() <= 1


@EVERY
def test_minimising_looks_for_the_lowest(kind: MetricKind, rule: Posterior) -> None:
    """P(best) of the mirror image is P(lowest), and its loss is the distance from the lowest."""
    params = rule.parameters(measured(kind), some(kind, 12))
    down = best_arm(rule.family, rule.mirrored(params))
    lowest = best_arm(rule.family, params, lowest=True)
    assert down.p == pytest.approx(lowest.p, abs=1e-10)
    assert down.loss == pytest.approx(lowest.loss, rel=1e-5)
    mean, _ = rule.moments(params)
    assert down.loss[2] - down.loss[0] == pytest.approx(mean[2] - mean[0], rel=1e-5)


@pytest.mark.parametrize("kind", ["gaussian", "fraction", "exponential", "lognormal", "revenue", "poisson"])
@pytest.mark.parametrize("allocator", ["thompson", "kl_ucb"])
@pytest.mark.parametrize("better_first", [True, False])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("baseline", ["stationary", "contrast"])
def test_an_arm_that_pays_ten_beats_one_that_pays_one(
    kind: MetricKind, allocator: str, better_first: bool, direction: str, baseline: str
) -> None:
    """200 rewards each of 10.0 and 1.0, sd 0.5, as a real metric would bring them (whole where they are counts)."""
    kind = MetricKind(kind)
    paid = [10.0, 1.0] if better_first else [1.0, 10.0]
    x = np.array(paid)[:, None] + np.random.default_rng(2).normal(0, 0.5, (2, 200))
    x = np.round(x) if kind is MetricKind.POISSON else np.maximum(x, 0.05)
    cut = {"winsorize": 20} if kind is MetricKind.REVENUE else {}
    metric = {"range": [0, 20]} | cut
    reading = added(experiment(kind, 2, metric=metric), {"m": x})
    got = proposal(kind, direction, paid, allocator, reading=reading, metric=metric, baseline=baseline)
    best = paid.index(max(paid) if direction == "maximize" else min(paid))
    assert got.shares_ppm[best] >= 950_000
    if baseline == "stationary" and kind not in (MetricKind.FRACTION, MetricKind.LOGNORMAL):
        assert got.mean[:, 0] == pytest.approx(paid, rel=0.08)
    assert (got.low[:, 0] < got.mean[:, 0]).all()
    assert (got.mean[:, 0] < got.high[:, 0]).all()


@pytest.mark.parametrize("allocator", ["thompson", "kl_ucb"])
def test_the_unit_of_a_metric_does_not_matter(allocator: str) -> None:
    """Rewards in cents instead of dollars: the same weights, whatever the bandit."""
    kind = MetricKind.GAUSSIAN
    x = np.random.default_rng(4).normal([[0.31], [0.34], [0.29]], 0.1, (3, 80))
    one, other = (
        proposal(
            kind,
            "maximize",
            [0.0] * 3,
            allocator,
            metric={"range": [-unit, unit]},
            reading=added(experiment(kind, metric={"range": [-unit, unit]}), {"m": x * unit}),
        )
        for unit in (1.0, 1024.0)
    )
    assert other.weights.tobytes() == one.weights.tobytes()
    assert other.low == pytest.approx(one.low * 1024)


def draws(family: int, params: FloatArray, size: int) -> FloatArray:
    """[size, K] arm means by numpy's own samplers."""
    chance = np.random.default_rng(6)
    one, two = params[:, 0], params[:, 1]
    shape = (size, len(params))
    if family == NORMAL:
        return chance.normal(one, two, shape)
    if family == BETA:
        return chance.beta(one, two, shape)
    if family == STUDENT_T:
        return one + two * chance.standard_t(params[:, 2], shape)
    if family == LOGNORMAL:
        y = chance.lognormal(one, two, shape)
    else:
        gamma = chance.gamma(one, 1.0, shape)
        y = gamma / two if family == GAMMA else two / gamma
        assert family in (GAMMA, INVERSE_GAMMA)
    return params[:, 3] + params[:, 2] * y


@EVERY
@pytest.mark.parametrize("turn", [False, True])
def test_moments_intervals_and_ranking_are_those_of_draws(
    kind: MetricKind, rule: Posterior, turn: bool
) -> None:
    params = rule.parameters(measured(kind), some(kind, 40))
    params = rule.mirrored(params) if turn else params
    sample = draws(rule.family, params, 200_000)
    mean, sd = rule.moments(params)
    error = 6.0 * sample.std(axis=0) / np.sqrt(len(sample))
    assert (np.abs(sample.mean(axis=0) - mean) < error).all()
    assert sample.std(axis=0) == pytest.approx(sd, rel=0.05)
    low, high = rule.interval(params, 0.9)
    inside = ((low < sample) & (sample < high)).mean(axis=0)
    assert inside == pytest.approx([0.9] * 3, abs=6 * np.sqrt(0.09 / len(sample)))
    best = best_arm(rule.family, params)
    won = np.bincount(sample.argmax(axis=1), minlength=3) / len(sample)
    assert best.p == pytest.approx(won, abs=6 * 0.5 / np.sqrt(len(sample)))
    loss = sample.max(axis=1, keepdims=True) - sample
    assert (np.abs(best.loss - loss.mean(axis=0)) < 6 * loss.std(axis=0) / np.sqrt(len(sample)) + 1e-5).all()


@EVERY
def test_a_mirror_shows_itself_in_a_mirror(kind: MetricKind, rule: Posterior) -> None:
    params = rule.parameters(measured(kind), some(kind, 40))
    turned = rule.mirrored(params)
    assert rule.mirrored(turned) == pytest.approx(params, rel=1e-14, abs=1e-15)
    mean, sd = rule.moments(params)
    other_mean, other_sd = rule.moments(turned)
    assert other_mean == pytest.approx(1 - mean, abs=1e-12)
    assert other_sd == pytest.approx(sd, rel=1e-12)
    low, high = rule.interval(params, 0.95)
    other_low, other_high = rule.interval(turned, 0.95)
    assert 1 - other_high == pytest.approx(low)
    assert 1 - other_low == pytest.approx(high)


@KINDS
def test_intervals_cover(kind: MetricKind) -> None:
    """Of 1,200 arms with 60 values (300 where most are 0) at least 91 % of the 95 % intervals hold the mean."""
    rule, made, size = POSTERIORS[kind], experiment(kind, 4), 300 if kind is MetricKind.REVENUE else 60
    chance = np.random.default_rng(11)
    truth = MEANS[kind][1]
    low, high = made.metrics[-1].scale
    covered = 0
    for _ in range(300):
        values = drawn(kind, chance, [truth] * 4, size)
        params = rule.parameters(made.metrics[-1], sums_of(made, added(made, values)))
        least, most = (low + (high - low) * each for each in rule.interval(params, 0.95))
        covered += int(((least <= truth) & (truth <= most)).sum())
    assert covered / 1200 >= 0.91


@EVERY
def test_the_order_of_arms_does_not_matter(kind: MetricKind, rule: Posterior) -> None:
    made = experiment(kind, 4)
    means = list(np.linspace(MEANS[kind][0], MEANS[kind][2], 4))
    values = drawn(kind, np.random.default_rng(5), means, 30)
    order = [2, 0, 3, 1]
    params = rule.parameters(made.metrics[-1], sums_of(made, added(made, values)))
    moved = {name: each[order][:, ::-1] for name, each in values.items()}
    again = rule.parameters(made.metrics[-1], sums_of(made, added(made, moved)))
    assert again == pytest.approx(params[order], rel=1e-9)


@KINDS
def test_a_prior_of_the_spec_holds_without_values_and_counts_once(kind: MetricKind) -> None:
    rule, metric = POSTERIORS[kind], measured(kind)
    low, high = metric.scale
    truth = MEANS[kind][1]
    said = low + 0.3 * (high - low)
    strong = metric.model_copy(update={"prior": Prior(mean=said, strength=50)})
    before = rule.moments(rule.parameters(strong, some(kind, 0)))
    assert before[0] == pytest.approx([0.3] * 3, rel=1e-9)
    # Priors of arms come before the metric's, and one arm's is no other's.
    own = (None, Prior(mean=said, strength=50), None)
    mixed = rule.moments(rule.parameters(metric, some(kind, 0), own))[0]
    assert mixed[1] == pytest.approx(0.3, rel=1e-9)
    widths = []
    for size in (1, 100, 20_000):
        made = experiment(kind)
        values = drawn(kind, np.random.default_rng(2), [truth] * 3, size)
        sums = sums_of(made, added(made, values))
        mean, sd = rule.moments(rule.parameters(strong, sums))
        free, _ = rule.moments(rule.parameters(metric, sums))
        widths.append(sd[0])
        # Fifty pseudo-observations, whatever the number of readings before this one.
        part = 50 / (50 + size)
        if kind is not MetricKind.LOGNORMAL and size >= 100:
            assert mean == pytest.approx(part * 0.3 + (1 - part) * free, abs=0.02)
        reread = rule.parameters(strong, sums)
        assert reread.tobytes() == rule.parameters(strong, sums).tobytes()
    assert widths == sorted(widths, reverse=True)
    assert low + (high - low) * mean[0] == pytest.approx(truth, rel=0.05)


def hostile(kind: MetricKind, n: float, mean: float, sd: float, arms: int) -> MetricSums:
    made = experiment(kind, arms)
    shape = (arms, len(made.columns))
    count = np.full(shape, n)
    square = np.maximum(mean * mean, min(mean * mean + sd * sd, mean))
    return sums_of(made, Reading(count[:, 0], count, count * mean, count * square))


@EVERY
@pytest.mark.parametrize("n", [0.0, 0.3, 1.0, 2.0, 1e12])
@pytest.mark.parametrize("mean", [0.0, 1.0, 1e-9, 0.5])
@pytest.mark.parametrize("sd", [0.0, 0.3])
@pytest.mark.parametrize("arms", [2, 64])
def test_hostile_sums_stay_finite(
    kind: MetricKind, rule: Posterior, n: float, mean: float, sd: float, arms: int
) -> None:
    """No values, parts of them after decay, all equal, none that vary, more than anybody has."""
    params = rule.parameters(measured(kind), hostile(kind, n, mean, sd, arms))
    for turned in (params, rule.mirrored(params)):
        assert np.isfinite(turned).all()
        location, spread = rule.moments(turned)
        assert (spread > 0.0).all()
        low, high = rule.interval(turned, 0.95)
        assert (low <= high).all()
        for values in (location, spread, low, high):
            assert np.isfinite(values).all()
        best = best_arm(rule.family, turned)
        assert best.p == pytest.approx(np.full(arms, 1 / arms), abs=1e-9)
        assert np.isfinite(best.loss).all()


@EVERY
def test_arms_of_very_different_size_stay_finite(kind: MetricKind, rule: Posterior) -> None:
    few, many = hostile(kind, 1.0, 0.4, 0.1, 3), hostile(kind, 1e12, 0.5, 0.1, 3)
    made = experiment(kind)
    width = len(made.columns)
    n = np.stack([np.zeros(width), np.ones(width), np.full(width, 1e12)])
    sums = sums_of(made, Reading(n[:, 0], n, n * 0.5, n * 0.3))
    params = rule.parameters(measured(kind), sums)
    assert few.value.n[0] < many.value.n[0]
    best = best_arm(rule.family, params)
    assert best.p.sum() == pytest.approx(1.0)
    assert np.isfinite(params).all()
    assert rule.moments(params)[1][2] < rule.moments(params)[1][1]


@EVERY
def test_one_arm_is_enough(kind: MetricKind, rule: Posterior) -> None:
    params = rule.parameters(measured(kind), hostile(kind, 5.0, 0.5, 0.1, 2))
    assert best_arm(rule.family, params[:1]).p.tolist() == [1.0]

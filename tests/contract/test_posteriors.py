"""What every posterior promises, over the registry."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandit.allocate import Proposal, propose
from bandit.objective import sums_of
from bandit.posteriors import POSTERIORS
from bandit.posteriors.base import Posterior
from bandit.reading import Reading
from bandit.spec.model import Metric, MetricKind
from tests.builders import spec

KINDS = pytest.mark.parametrize("kind", list(POSTERIORS))


def metric(kind: MetricKind, direction: str = "maximize", **changes: Any) -> Metric:
    values = {"name": "m", "kind": kind, "direction": direction}
    return Metric.model_validate(values | changes)


def sums(kind: MetricKind, means: list[float], n: float, sd: float = 0.1) -> Reading:
    """n values of each arm with the given scaled means (and spread, for a real metric)."""
    mean = np.array(means)[:, None]
    square = mean if kind is MetricKind.BERNOULLI else mean**2 + sd**2
    count = np.full((len(means), 1), n)
    return Reading(np.full(len(means), n), count, count * mean, count * square)


def proposal(
    kind: MetricKind,
    direction: str,
    means: list[float],
    allocator: str,
    n: float = 200,
    sd: float = 0.1,
    **changes: Any,
) -> Proposal:
    """What follows from n rewards of each arm, without floors."""
    made = spec(
        arms=[{"name": f"a{k}", "control": k == 0} for k in range(len(means))],
        metrics=[{"name": "m", "kind": kind, "direction": direction} | changes],
        objective=[{"metric": "m"}],
        allocator={"kind": allocator},
        bounds={"floor": 0.0, "control_floor": 0.0},
    )
    live = np.ones(len(means), np.bool_)
    return propose(made, sums(kind, means, n, sd), live, [None] * len(means), None, 0.0, 100.0)


@KINDS
@pytest.mark.parametrize("allocator", ["thompson", "kl_ucb"])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("order", [[0, 1, 2], [2, 1, 0], [1, 2, 0]])
def test_the_better_arm_gains_share(
    kind: MetricKind, allocator: str, direction: str, order: list[int]
) -> None:
    means = [[0.2, 0.5, 0.8][index] for index in order]
    got = proposal(kind, direction, means, allocator).shares_ppm
    best = means.index(max(means) if direction == "maximize" else min(means))
    assert got[best] >= 950_000


@KINDS
@pytest.mark.parametrize("allocator", ["thompson", "kl_ucb"])
@pytest.mark.parametrize("arms", range(2, 11))
def test_a_sign_flip_changes_nothing(kind: MetricKind, allocator: str, arms: int) -> None:
    """All rewards turned around and the direction with them: the same weights."""
    chance = np.random.default_rng(arms)
    means = list(chance.uniform(0.28, 0.36, arms))
    up = proposal(kind, "maximize", means, allocator, 50)
    down = proposal(kind, "minimize", [1 - mean for mean in means], allocator, 50)
    assert down.weights == pytest.approx(up.weights, rel=0, abs=1e-10)
    assert down.expected_loss == pytest.approx(up.expected_loss, rel=0, abs=1e-10)
    assert np.abs(np.subtract(up.shares_ppm, down.shares_ppm)).max() <= 1


@pytest.mark.parametrize("allocator", ["thompson", "kl_ucb"])
@pytest.mark.parametrize("better_first", [True, False])
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
def test_an_arm_that_pays_ten_beats_one_that_pays_one(
    allocator: str, better_first: bool, direction: str
) -> None:
    """200 rewards each of 10.0 and 1.0, sd 0.5, as a real metric would bring them."""
    paid = [10.0, 1.0] if better_first else [1.0, 10.0]
    scaled = [each / 20 for each in paid]
    got = proposal(MetricKind.GAUSSIAN, direction, scaled, allocator, 200, sd=0.5 / 20, range=(0.0, 20.0))
    best = paid.index(max(paid) if direction == "maximize" else min(paid))
    assert got.shares_ppm[best] >= 950_000
    assert got.mean[:, 0] == pytest.approx(paid, rel=0.01)
    assert (got.low[:, 0] < got.mean[:, 0]).all()
    assert (got.mean[:, 0] < got.high[:, 0]).all()


@pytest.mark.parametrize("allocator", ["thompson", "kl_ucb"])
def test_the_unit_of_a_metric_does_not_matter(allocator: str) -> None:
    """Rewards in cents instead of dollars: the same weights, whatever the bandit."""
    means, n = [0.31, 0.34, 0.29], 80.0
    one = proposal(MetricKind.GAUSSIAN, "maximize", means, allocator, n, range=(-1.0, 1.0))
    other = proposal(MetricKind.GAUSSIAN, "maximize", means, allocator, n, range=(-1000.0, 1000.0))
    assert other.weights.tobytes() == one.weights.tobytes()
    assert other.low == pytest.approx(one.low * 1000)


@KINDS
def test_moments_agree_with_the_family(kind: MetricKind) -> None:
    posterior = POSTERIORS[kind]
    reading = sums(kind, [0.2, 0.7], 400)
    params = posterior.parameters(metric(kind), sums_of(reading, 0))
    mean, sd = posterior.moments(params)
    assert mean == pytest.approx([0.2, 0.7], abs=0.01)
    low, high = posterior.interval(params, 0.95)
    assert (high - low) / (2 * 1.96) == pytest.approx(sd, rel=0.02)
    mirrored_mean, mirrored_sd = posterior.moments(posterior.mirrored(params))
    assert mirrored_mean == pytest.approx(1 - mean, abs=1e-12)
    assert mirrored_sd == pytest.approx(sd, rel=1e-12)


@KINDS
def test_more_evidence_is_narrower_and_the_prior_holds_without_any(kind: MetricKind) -> None:
    posterior = POSTERIORS[kind]
    prior = metric(kind, prior={"mean": 0.3, "strength": 10})
    widths = []
    for n in (0.0, 1.0, 10.0, 1000.0, 1e12):
        reading = sums(kind, [0.6], n)
        params = posterior.parameters(prior, sums_of(reading, 0))
        mean, sd = posterior.moments(params)
        widths.append(sd[0])
        if n == 0:
            assert mean[0] == pytest.approx(0.3)
    assert widths[1:] == sorted(widths[1:], reverse=True)
    assert mean[0] == pytest.approx(0.6, abs=1e-6)


@KINDS
@pytest.mark.parametrize("n", [0.0, 1.0, 2.0, 1e12])
@pytest.mark.parametrize("mean", [0.0, 1.0, 1e-9, 0.5])
@pytest.mark.parametrize("sd", [0.0, 0.3])
def test_hostile_sums_stay_finite(kind: MetricKind, n: float, mean: float, sd: float) -> None:
    posterior: Posterior = POSTERIORS[kind]
    reading = sums(kind, [mean, mean], n, sd)
    params = posterior.parameters(metric(kind), sums_of(reading, 0))
    assert np.isfinite(params).all()
    assert (params[:, 1] > 0).all()
    for values in (*posterior.moments(params), *posterior.interval(params, 0.95)):
        assert np.isfinite(values).all()

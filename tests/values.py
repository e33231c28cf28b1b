"""Values of every kind of metric for tests: drawn with a given mean, and added up as the ledger would."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bandit.ledger import FloatArray
from bandit.reading import MetricSums, Reading, metric_sums
from bandit.spec.channels import ChannelKind, log_scale
from bandit.spec.metric import MetricKind
from bandit.spec.model import ExperimentSpec
from tests.builders import spec

Draw = Callable[[np.random.Generator, float, int], FloatArray]

METRICS: dict[MetricKind, dict[str, Any]] = {
    MetricKind.BERNOULLI: {},
    MetricKind.FRACTION: {},
    MetricKind.GAUSSIAN: {"range": [0, 20]},
    MetricKind.POISSON: {"range": [0, 40]},
    MetricKind.EXPONENTIAL: {"range": [0, 60]},
    MetricKind.LOGNORMAL: {"range": [0, 400]},
    MetricKind.REVENUE: {"range": [0, 500], "winsorize": 100},
    MetricKind.RATING: {"levels": [1, 2, 3, 4, 5]},
    MetricKind.RATIO: {"range": [0, 6], "numerator": "above", "denominator": "below"},
}
MEANS: dict[MetricKind, tuple[float, float, float]] = {
    MetricKind.BERNOULLI: (0.2, 0.45, 0.8),
    MetricKind.FRACTION: (0.2, 0.45, 0.8),
    MetricKind.GAUSSIAN: (5.0, 9.0, 16.0),
    MetricKind.POISSON: (2.0, 6.0, 18.0),
    MetricKind.EXPONENTIAL: (2.0, 6.0, 18.0),
    MetricKind.LOGNORMAL: (5.0, 20.0, 90.0),
    MetricKind.REVENUE: (2.0, 6.0, 18.0),
    MetricKind.RATING: (2.0, 3.0, 4.2),
    MetricKind.RATIO: (1.0, 2.0, 4.0),
}
"""Low, middle and high mean of an arm, in the metric's unit."""
PAYS = 0.4


def _rating(chance: np.random.Generator, mean: float, size: int) -> FloatArray:
    return np.asarray(1.0 + chance.binomial(4, (mean - 1.0) / 4.0, size), np.float64)


DRAWS: dict[MetricKind, Draw] = {
    MetricKind.BERNOULLI: lambda chance, mean, size: (chance.random(size) < mean).astype(np.float64),
    MetricKind.FRACTION: lambda chance, mean, size: chance.beta(5 * mean, 5 * (1 - mean), size),
    MetricKind.GAUSSIAN: lambda chance, mean, size: np.clip(chance.normal(mean, 0.8, size), 0, 20),
    MetricKind.POISSON: lambda chance, mean, size: chance.poisson(mean, size).astype(np.float64),
    MetricKind.EXPONENTIAL: lambda chance, mean, size: chance.exponential(mean, size),
    MetricKind.LOGNORMAL: lambda chance, mean, size: chance.lognormal(np.log(mean) - 0.125, 0.5, size),
    MetricKind.REVENUE: lambda chance, mean, size: (
        (chance.random(size) < PAYS) * chance.lognormal(np.log(mean / PAYS) - 0.045, 0.3, size)
    ),
    MetricKind.RATING: _rating,
}


def experiment(
    kind: MetricKind, arms: int = 3, direction: str = "maximize", **changes: Any
) -> ExperimentSpec:
    """A spec about one metric ``m`` of the kind, without floors, pooled; ``metric`` changes fields of it."""
    metric = {"name": "m", "kind": kind, "direction": direction} | METRICS[kind] | changes.pop("metric", {})
    parts = [
        {"name": name, "kind": "poisson", "direction": "maximize", "range": [0, 60]}
        for name in ("above", "below")
        if kind is MetricKind.RATIO
    ]
    fields = {
        "arms": [{"name": f"a{k}", "control": k == 0} for k in range(arms)],
        "metrics": [*parts, metric],
        "objective": [{"metric": "m"}],
        "guardrails": [],
        "bounds": {"floor": 0.0, "control_floor": 0.0},
        "baseline": "stationary",
    }
    return spec(**fields | changes)


def drawn(
    kind: MetricKind, chance: np.random.Generator, means: list[float], size: int
) -> dict[str, FloatArray]:
    """[K, size] values of each metric of ``experiment(kind)``."""
    if kind is MetricKind.RATIO:
        below = np.array([1.0 + chance.poisson(4, size) for _ in means])
        return {"above": chance.poisson(below * np.array(means)[:, None]).astype(np.float64), "below": below}
    return {"m": np.array([DRAWS[kind](chance, mean, size) for mean in means])}


def added(made: ExperimentSpec, values: dict[str, FloatArray]) -> Reading:
    """The reading of these decisions, in floats, by the definition of each channel."""
    scaled, sizes = {}, []
    for index, metric in enumerate(made.metrics):
        if metric.name in values:
            low, high = metric.scale
            scaled[index] = (np.clip(values[metric.name], low, high) - low) / (high - low)
            sizes.append(scaled[index].shape)
    arms, size = sizes[0]
    n, s1, s2 = (np.zeros((arms, len(made.columns))) for _ in range(3))
    for channel, column in made.columns.items():
        x = scaled.get(channel.metric)
        if x is None:
            continue
        counts = np.ones((arms, size))
        if channel.kind is ChannelKind.PAIR:
            x = x * scaled[channel.other]
        elif channel.kind is ChannelKind.LEVEL:
            metric = made.metrics[channel.metric]
            x = (values[metric.name] == metric.levels[channel.place]).astype(np.float64)
        elif channel.kind is ChannelKind.LOG:
            metric = made.metrics[channel.metric]
            bottom, top = log_scale(metric)
            raw = np.clip(values[metric.name], 0.0, metric.scale[1])
            counts = (raw > 0.0).astype(np.float64)
            x = counts * (np.log(np.maximum(raw, np.exp(bottom))) - bottom) / (top - bottom)
        n[:, column], s1[:, column], s2[:, column] = counts.sum(1), x.sum(1), (x * x).sum(1)
    return Reading(np.full(arms, float(size)), n, s1, s2)


def sums_of(made: ExperimentSpec, reading: Reading) -> MetricSums:
    """What the posterior of the metric ``m`` is made of."""
    index = made.metric_index("m")
    assert index is not None
    return metric_sums(made, reading, index)

"""What a posterior is: sums in, belief about arm means out, in scaled units (each value in [0, 1], see ``ledger``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bandit.ledger import FloatArray
from bandit.reading import MetricSums
from bandit.spec.model import Metric, Prior


class Posterior(Protocol):
    """One family. All methods are pure and take arrays over arms [K]."""

    family: int
    """Code of ``bandit.kernels.best_arm``: NORMAL, BETA or STUDENT_T."""

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """[K, P] parameters of the family from additive sums; no values at all give the prior.

        ``priors`` [K]: belief about each arm, see ``ExperimentSpec.priors``; empty: that of the metric for all. A prior
        lives in the spec and is added here, at each reading: nothing ever adds it to a ledger, so it counts once.
        """

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation [K] of the arm means; finite for any parameters."""

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """Central credible interval (low, high) [K] of the given level in (0, 1)."""

    def mirrored(self, params: FloatArray) -> FloatArray:
        """Parameters of 1 - x, so that up is better for a metric that is minimised."""


def beliefs(
    metric: Metric, priors: Sequence[Prior | None], mean: float, strength: float, arms: int
) -> tuple[FloatArray, FloatArray]:
    """(scaled mean, strength) [K] before any reward: what the spec says of each arm, else the two given."""
    low, high = metric.scale
    stated = list(priors) or [metric.prior] * arms
    means = [mean if each is None else (each.mean - low) / (high - low) for each in stated]
    return np.array(means), np.array([strength if each is None else each.strength for each in stated])

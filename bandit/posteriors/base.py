"""What a posterior is: sums in, belief about arm means out, in scaled units (each value in [0, 1], see ``ledger``)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from bandit.ledger import FloatArray
from bandit.reading import MetricSums
from bandit.spec.model import Metric, Prior

MIDDLE = 0.5
"""Scaled mean of an arm before any reward of any arm."""


class Posterior(Protocol):
    """One model of a metric's values. All methods are pure and take arrays over arms [K]."""

    family: int
    """Code of ``bandit.kernels.best_arm``."""

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """[K, P] parameters of the family from additive sums; no values at all give the prior.

        ``priors`` [K]: belief about each arm, see ``ExperimentSpec.priors``; empty: that of the metric for all. A prior
        lives in the spec and is added here, at each reading: nothing ever adds it to a ledger, so it counts once.
        """
        ...

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation [K] of the arm means; finite for any parameters."""
        ...

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """Central credible interval (low, high) [K] of the given level in (0, 1)."""
        ...

    def mirrored(self, params: FloatArray) -> FloatArray:
        """Parameters of 1 - x, so that up is better for a metric that is minimised."""
        ...


class Stated:
    """What the spec says of each arm before any reward: ``mean`` [K] scaled, ``strength`` [K] in observations, and
    ``given`` [K], False where it says nothing and the two are 0."""

    def __init__(self, metric: Metric, priors: Sequence[Prior | None], arms: int) -> None:
        low, high = metric.scale
        said = list(priors) or [metric.prior] * arms
        self.given = np.array([each is not None for each in said])
        self.mean = np.array([0.0 if each is None else (each.mean - low) / (high - low) for each in said])
        self.strength = np.array([0.0 if each is None else each.strength for each in said])

    def mean_or(self, otherwise: FloatArray | float) -> FloatArray:
        """[K] scaled mean, or ``otherwise`` where nothing is said."""
        return np.where(self.given, self.mean, otherwise)

    def strength_or(self, otherwise: FloatArray | float) -> FloatArray:
        """[K] strength, or ``otherwise`` where nothing is said."""
        return np.where(self.given, self.strength, otherwise)


def pooled_mean(n: FloatArray, s1: FloatArray) -> float:
    """Mean of all values of all arms; MIDDLE without any."""
    total = float(n.sum())
    return float(s1.sum()) / total if total > 0.0 else MIDDLE

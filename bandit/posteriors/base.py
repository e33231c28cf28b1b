"""What a posterior is: sums in, belief about arm means out, in scaled units (each value in [0, 1], see ``ledger``)."""

from __future__ import annotations

from typing import Protocol

from bandit.ledger import FloatArray
from bandit.spec.model import Metric


class Posterior(Protocol):
    """One family. All methods are pure and take arrays over arms [K]."""

    family: int
    """Code of ``bandit.kernels.best_arm``: NORMAL, BETA or STUDENT_T."""

    def parameters(self, metric: Metric, n: FloatArray, s1: FloatArray, s2: FloatArray) -> FloatArray:
        """[K, P] parameters of the family from n values, their sum and sum of squares; n = 0 gives the prior."""

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and standard deviation [K] of the arm means; finite for any parameters."""

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """Central credible interval (low, high) [K] of the given level in (0, 1)."""

    def mirrored(self, params: FloatArray) -> FloatArray:
        """Parameters of 1 - x, so that up is better for a metric that is minimised."""

"""A quantile against a fixed limit, without any sketch: p99 <= 800 ms *is* P(X > 800 ms) <= 1 per cent.

Values are compared with the limit before they are added up (an ABOVE channel), so the rate limit's e-process
judges their share, exactly and at any number of looks. Where more is better the quantile must not fall below
the limit.
"""

from __future__ import annotations

import numpy as np

from bandit.guardrails.evidence import Material, exceedances, metric_of
from bandit.guardrails.rate_limit import RateLimit
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.channels import watched_channels
from bandit.spec.model import Direction, ExperimentSpec, Guardrail


class QuantileLimit(RateLimit):
    """See the module."""

    def params(self, spec: ExperimentSpec, guardrail: Guardrail) -> FloatArray:
        """The share of outcomes that may lie beyond the limit."""
        _, metric = metric_of(spec, guardrail.metric)
        assert guardrail.quantile is not None
        upward = metric.direction is Direction.MAXIMIZE
        return np.array([guardrail.quantile if upward else 1.0 - guardrail.quantile, 0.0, 0.0, 0.0])

    def material(
        self, spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable, now_ms: int
    ) -> Material:
        """Outcomes beyond the limit."""
        index, metric = metric_of(spec, guardrail.metric)
        return exceedances(spec, table, watched_channels(guardrail, index, metric)[0], now_ms)

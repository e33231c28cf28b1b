"""Events per decision against a fixed limit, at any number of looks, for counts without a natural most.

Null of FAIL: each decision brings a count whose mean is at most the limit and that spreads no wider than a
Poisson one; evidence is ``confseq.log_count_above``, the mean over ``weigh.EVENT_STRENGTHS`` of gamma mixtures
with the number of decisions as exposure. Cutting counts at a cap (``winsorize``) keeps that. Counts that come
in bursts do not: where the variance of a count is well above its mean, watch the metric with kind harm, which
asks nothing of its spread.
"""

from __future__ import annotations

import numpy as np

from bandit.guardrails.evidence import Material, metric_of, outcomes
from bandit.guardrails.rate_limit import RateLimit
from bandit.kernels import watch
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.model import Direction, ExperimentSpec, Guardrail


class EventRate(RateLimit):
    """See the module."""

    def code(self, spec: ExperimentSpec, guardrail: Guardrail) -> int:
        """EVENTS."""
        del spec, guardrail
        return watch.EVENTS

    def params(self, spec: ExperimentSpec, guardrail: Guardrail) -> FloatArray:
        """The limit, and -1 where more events are better."""
        _, metric = metric_of(spec, guardrail.metric)
        assert guardrail.limit is not None
        return np.array([guardrail.limit, -1.0 if metric.direction is Direction.MAXIMIZE else 1.0, 0.0, 0.0])

    def material(
        self, spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable, now_ms: int
    ) -> Material:
        """Events in the metric's unit."""
        found = outcomes(spec, guardrail.metric, table, now_ms)
        found.bad = found.top
        return found

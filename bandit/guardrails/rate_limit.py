"""Share of bad outcomes against a fixed limit, at any number of looks; it compares with no other arm.

Null of FAIL: the arm's bad share is at most the limit, whatever its drift; of PASS: at least the limit. Harm
counts young periods where that is sound (see ``evidence.counts_young``); safety counts mature periods only.
Evidence are the e-processes ``confseq.log_rate_above`` and ``log_rate_below``, means over ``weigh.STRENGTHS``.
"""

from __future__ import annotations

import numpy as np

from bandit.guardrails.evidence import Material, outcomes
from bandit.kernels import watch
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.model import ExperimentSpec, Guardrail


class RateLimit:
    """See the module."""

    averages = True

    def code(self, spec: ExperimentSpec, guardrail: Guardrail) -> int:
        """RATE."""
        del spec, guardrail
        return watch.RATE

    def params(self, spec: ExperimentSpec, guardrail: Guardrail) -> FloatArray:
        """The limit."""
        del spec
        assert guardrail.limit is not None
        return np.array([guardrail.limit, 0.0, 0.0, 0.0])

    def material(
        self, spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable, now_ms: int
    ) -> Material:
        """Outcomes of the metric."""
        return outcomes(spec, guardrail.metric, table, now_ms)

    def shown(
        self, spec: ExperimentSpec, guardrail: Guardrail, observed: float, reference: float
    ) -> tuple[float, float]:
        """Shares of bad outcomes."""
        del spec, guardrail
        return observed, reference

"""Share of decisions with a reward, against the concurrent control's, in both directions: missing answers that
differ between arms bias every other number.

Harm's e-processes on "answered" in mature periods, upwards and downwards, averaged: the null is that the two
shares are within the margin of each other. PASS when both sides are refuted as far as the margin. The centre is
the control's share in earlier periods.
"""

from __future__ import annotations

import numpy as np

from bandit.guardrails.evidence import Material, metric_of, unfolded
from bandit.kernels import watch
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.model import ExperimentSpec, Guardrail


class ResponseRate:
    """See the module."""

    averages = True

    def code(self, spec: ExperimentSpec, guardrail: Guardrail) -> int:
        """RESPONSE."""
        del spec, guardrail
        return watch.RESPONSE

    def params(self, spec: ExperimentSpec, guardrail: Guardrail) -> FloatArray:
        """The margin."""
        del spec
        return np.array([guardrail.margin, 0.0, 0.0, 0.0])

    def material(
        self, spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable, now_ms: int
    ) -> Material:
        """Decisions, and those with a reward."""
        index, metric = metric_of(spec, guardrail.metric)
        table = unfolded(table)
        found = Material.of(table, table.mature(metric.attribution_window, now_ms))
        answered = np.minimum(table.n[:, :, index], table.assigned)
        found.count = found.bottom = table.assigned
        found.arrived = found.bad = found.square = found.top = answered
        return found

    def shown(
        self, spec: ExperimentSpec, guardrail: Guardrail, observed: float, reference: float
    ) -> tuple[float, float]:
        """Shares of decisions with a reward, the control's without the margin."""
        del spec, guardrail
        return observed, reference

"""Traffic that does not follow the shares: a wrong split, lost exposures, choices dropped on one side.

Shares move from period to period, so a chi-square test of the totals is wrong; likelihood ratios of the periods
with their own shares are not. E is the mean over tilts d of the arm's share of exp(sum n_k ln d - N ln(1 + w_k
(d - 1))), at any number of looks (cf. Lindon & Malek 2022). PASS: a share off by 5 per cent or more is refuted.

Where units decide many times and keep their arm, decisions count by their design effect (``clusters.visit_effect``).
"""

from __future__ import annotations

import numpy as np

from bandit.guardrails.evidence import Material, unfolded
from bandit.kernels import watch
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.model import ExperimentSpec, Guardrail


class SampleRatio:
    """See the module."""

    averages = True

    def code(self, spec: ExperimentSpec, guardrail: Guardrail) -> int:
        """SAMPLE_RATIO."""
        del spec, guardrail
        return watch.SAMPLE_RATIO

    def params(self, spec: ExperimentSpec, guardrail: Guardrail) -> FloatArray:
        """None."""
        del spec, guardrail
        return np.zeros(watch.PARAMS)

    def material(
        self, spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable, now_ms: int
    ) -> Material:
        """Decisions and shares; an open period counts as well as a closed one."""
        del spec, guardrail, now_ms
        table = unfolded(table)
        return Material.of(table, table.end_ms > 0, young=True)

    def shown(
        self, spec: ExperimentSpec, guardrail: Guardrail, observed: float, reference: float
    ) -> tuple[float, float]:
        """Parts of the traffic."""
        del spec, guardrail
        return observed, reference

"""A metric whose mean moved during the life of an arm, compared with the arm's own past: a warning, since a
baseline that moves takes the control along.

Mature periods are kept in an exponential histogram, and every cut of it into an older and a newer part is
tested (ADWIN, Bifet & Gavalda 2007) at a level that is spent over all cuts and periods, see
``signals.drift_log_e``. It has no PASS: no amount of rest shows that nothing will move.
"""

from __future__ import annotations

from bandit.guardrails.evidence import Material, in_unit, metric_of, outcomes
from bandit.guardrails.sample_ratio import SampleRatio
from bandit.kernels import watch
from bandit.ledger import PeriodTable
from bandit.spec.model import ExperimentSpec, Guardrail


class Drift(SampleRatio):
    """See the module."""

    averages = False

    def code(self, spec: ExperimentSpec, guardrail: Guardrail) -> int:
        """DRIFT."""
        del spec, guardrail
        return watch.DRIFT

    def material(
        self, spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable, now_ms: int
    ) -> Material:
        """Outcomes of the metric in mature periods."""
        return outcomes(spec, guardrail.metric, table, now_ms)

    def shown(
        self, spec: ExperimentSpec, guardrail: Guardrail, observed: float, reference: float
    ) -> tuple[float, float]:
        """Means of the newer and of the older part, in the metric's unit."""
        _, metric = metric_of(spec, guardrail.metric)
        return in_unit(metric, observed), in_unit(metric, reference)

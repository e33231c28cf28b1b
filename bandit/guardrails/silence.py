"""Rewards of a metric that stopped while decisions go on: a broken pipeline, not a bad arm.

Only decisions older than ``after`` count. FAIL when the newest of them, in a run without a single reward, are
more than chance leaves silent at half of the share of answers so far (``signals.silence_log_e``; where no
reward ever came, at a share of 0.005). It is the one guardrail whose verdict changes by time alone: that is
what it watches.
"""

from __future__ import annotations

from bandit.guardrails.evidence import Material, metric_of, unfolded
from bandit.guardrails.sample_ratio import SampleRatio
from bandit.kernels import watch
from bandit.ledger import PeriodTable
from bandit.spec.model import ExperimentSpec, Guardrail


class Silence(SampleRatio):
    """See the module."""

    averages = False

    def code(self, spec: ExperimentSpec, guardrail: Guardrail) -> int:
        """SILENCE."""
        del spec, guardrail
        return watch.SILENCE

    def material(
        self, spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable, now_ms: int
    ) -> Material:
        """Decisions and rewards of periods that ended ``after`` ago."""
        index, _ = metric_of(spec, guardrail.metric)
        table = unfolded(table)
        found = Material.of(table, table.mature(guardrail.after, now_ms))
        found.arrived = table.n[:, :, index]
        return found

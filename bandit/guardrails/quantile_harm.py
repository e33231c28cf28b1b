"""A quantile of the arm against the control's: exceedances of r tau by the arm against those of tau by the
control.

tau is the control's quantile in earlier mature periods, so it is fixed before the period it judges; it is
rounded to an edge of a geometric grid over ``between`` on which margin * tau is an edge too, so that counts
above edges (ABOVE channels) are all that is kept: at most 48 numbers of 32 bytes per period, arm and cohort.
Null: P(X_k > r tau) <= P(X_0 > tau). At tau the control's quantile that says quantile_k <= r quantile_0;
rounded by at most one step of the grid it says so for a neighbouring quantile, which holds for any arm that is
r times slower throughout. The e-process is harm's on 0s and 1s; a period counts from the time that the
control's quantile rests on 10 outcomes above it, and the control's memory halves when it holds 400 of them, so
that tau follows the baseline.
"""

from __future__ import annotations

import numpy as np

from bandit.guardrails.evidence import Material, filled, metric_of, outcomes, unfolded
from bandit.kernels import watch
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.channels import watched_channels
from bandit.spec.model import ExperimentSpec, Guardrail


class QuantileHarm:
    """See the module."""

    averages = True

    def code(self, spec: ExperimentSpec, guardrail: Guardrail) -> int:
        """QUANTILE_HARM."""
        del spec, guardrail
        return watch.QUANTILE_HARM

    def params(self, spec: ExperimentSpec, guardrail: Guardrail) -> FloatArray:
        """The share above the quantile, number of edges, edges from tau to r tau."""
        del spec
        assert guardrail.quantile is not None
        edges, steps = guardrail.edges()
        return np.array([1.0 - guardrail.quantile, float(len(edges)), float(steps), 0.0])

    def material(
        self, spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable, now_ms: int
    ) -> Material:
        """Outcomes above each edge."""
        index, metric = metric_of(spec, guardrail.metric)
        found = outcomes(spec, guardrail.metric, table, now_ms)
        channels = watched_channels(guardrail, index, metric)
        table = unfolded(table)
        found.edges = np.stack([filled(table, spec, channel)[1] for channel in channels], axis=2)
        return found

    def shown(
        self, spec: ExperimentSpec, guardrail: Guardrail, observed: float, reference: float
    ) -> tuple[float, float]:
        """Share of the arm's outcomes above margin * tau, and of the control's above tau."""
        del spec, guardrail
        return observed, reference

"""How much evidence each guardrail needs: alpha shared out, and an average run length for what has no end.

Errors are shared out by weighted Bonferroni over challengers, guardrails and cohorts, which holds for e-values
under any dependence: FAIL at E >= M / alpha_j, M = sum of priority * comparisons / own priority, alpha_j = 6
alpha / (pi^2 j^2) for the j-th attempt of the arm, so that all attempts together spend alpha. PASS at E >= 1 /
alpha.

Guardrails that only flag, and those that say that something is amiss, not that the arm is, share an alpha of
their own: they can roll nothing back. ``became_worse`` spends none: its detectors share a run length in the
same way.
"""

from __future__ import annotations

import math

from bandit.guardrails import GUARDRAILS
from bandit.guardrails.base import Levels
from bandit.spec.guardrail import WARNINGS
from bandit.spec.model import ExperimentSpec, Guardrail


def thresholds(spec: ExperimentSpec, guardrail: Guardrail, attempt: int) -> Levels:
    """ln(M / alpha_j) and ln(1 / alpha), see the module; ln(M run_length) for a detector."""
    parts = sum(
        each.priority * comparisons(spec, each) for each in spec.guardrails if pool(each) == pool(guardrail)
    )
    log_parts = math.log(parts * (len(spec.arms) - 1) / guardrail.priority)
    safe = -math.log(spec.alpha)
    if guardrail.kind == "became_worse":
        return Levels(fail=log_parts + math.log(guardrail.run_length), safe=safe)
    return Levels(fail=log_parts - math.log(6.0 * spec.alpha / (math.pi * attempt) ** 2), safe=safe)


def fail_level(guardrail: Guardrail, levels: Levels) -> float:
    """Where the guardrail fails: its part of alpha, or what it declares itself."""
    return -math.log(guardrail.tail) if guardrail.kind == "breaker" else levels.fail


def pool(guardrail: Guardrail) -> str:
    """Which guardrails share an alpha: ``release``, ``warning``, or ``detector``."""
    if guardrail.kind == "became_worse":
        return "detector"
    return "warning" if guardrail.kind in WARNINGS or guardrail.action == "flag" else "release"


def comparisons(spec: ExperimentSpec, guardrail: Guardrail) -> int:
    """Verdicts per challenger: one, or one per declared cohort and one for the mean over all of them."""
    if guardrail.cohorts == "all" or spec.cohorts is None:
        return 1
    return len(spec.cohorts.values) + int(GUARDRAILS[guardrail.kind].averages)

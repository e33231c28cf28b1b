"""Verdicts in one sentence: what was seen, what is allowed, how strong the evidence is; it decides nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bandit.guardrails.base import Evidence, Levels, Outcome
from bandit.guardrails.evidence import in_unit
from bandit.spec.model import Direction, Guardrail, Metric


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a sentence needs; ``of_control`` only where the control's own share of bad outcomes matters."""

    guardrail: Guardrail
    metric: Metric
    arm: str
    outcome: Outcome
    evidence: Evidence
    levels: Levels
    of_control: Evidence | None = None

    def in_unit(self) -> tuple[float, float]:
        """(observed, reference): shares of bad outcomes against a limit, else means in the metric's unit."""
        observed, reference = self.evidence.observed, self.evidence.reference
        if self.guardrail.kind != "harm":
            return observed, reference
        return in_unit(self.metric, observed), in_unit(self.metric, reference)


def sentence(seen: Seen) -> str:
    """For example ``unsafe-limit: candidate-b unsafe 0.081 of 1,204 exceeds 0.010 (ln E 35.2 >= 6.4)``."""
    evidence = seen.evidence
    _, reference = seen.in_unit()
    name = f"{seen.guardrail.name}: {seen.arm} "
    if seen.outcome is Outcome.NO_DATA:
        return f"{name}{_no_outcome(seen)}; {_bound(seen)} ({_strength(seen)}); nothing to judge"
    said = f"{name}{_observed(seen)}"
    if seen.outcome is Outcome.FAIL:
        return f"{said} {_verb(seen, worse=True)} {_number(reference)} ({_strength(seen)}){_control(seen)}"
    if seen.outcome is Outcome.PASS:
        what = "ln 1/tail of a catastrophe" if seen.guardrail.kind == "breaker" else "ln E of safety"
        safe = f"{what} {evidence.log_e_safe:.1f} >= {seen.levels.safe:.1f}"
        return f"{said} {_verb(seen, worse=False)} {_number(reference)} ({safe})"
    return (
        f"{said} against {_number(reference)} is undecided ({_strength(seen)}; "
        f"of safety {evidence.log_e_safe:.1f} < {seen.levels.safe:.1f}); {_more(evidence)}"
    )


def _observed(seen: Seen) -> str:
    """``unsafe 0.081 of 1,204``: a share of bad outcomes, or a mean in the metric's unit."""
    flipped = seen.guardrail.kind != "harm" and seen.metric.direction is Direction.MAXIMIZE
    noun = f"without {seen.metric.name}" if flipped else seen.metric.name
    return f"{noun} {_number(seen.in_unit()[0])} of {round(seen.evidence.n):,}"


def _no_outcome(seen: Seen) -> str:
    n, n_control = round(seen.evidence.n), round(seen.evidence.n_control)
    if seen.guardrail.kind != "harm":
        return f"has no outcome of {seen.metric.name} yet"
    return f"has {n:,} outcomes of {seen.metric.name} and the control {n_control:,} in the periods they share"


def _bound(seen: Seen) -> str:
    if seen.guardrail.kind == "harm":
        return f"margin {seen.guardrail.margin:g}"
    return f"limit {_number(seen.evidence.reference)}"


def _verb(seen: Seen, *, worse: bool) -> str:
    """How the observed value lies to the reference, and what that is."""
    if seen.guardrail.kind != "harm":
        fine = "is no catastrophe at limit" if seen.guardrail.kind == "breaker" else "keeps"
        return "exceeds" if worse else fine
    up = worse is (seen.metric.direction is Direction.MINIMIZE)
    margin = "" if seen.guardrail.margin == 1.0 else f" with margin {seen.guardrail.margin:g}"
    control = f"the control's{margin} (of {round(seen.evidence.n_control):,})"
    return f"is {'above' if up else 'below'} {control}"


def _strength(seen: Seen) -> str:
    evidence = seen.evidence
    sign = ">=" if evidence.log_e >= evidence.log_threshold else "<"
    what = "ln 1/tail" if seen.guardrail.kind == "breaker" else "ln E"
    return f"{what} {evidence.log_e:.1f} {sign} {evidence.log_threshold:.1f}"


def _control(seen: Seen) -> str:
    control = seen.of_control
    if control is None or control.log_e < control.log_threshold:
        return ""
    said = f"{_number(control.observed)} of {round(control.n):,} (ln E {control.log_e:.1f})"
    if control.observed >= seen.evidence.observed:
        return f"; control is worse with {said}: no safe arm"
    return f"; the control exceeds it too with {said}"


def _more(evidence: Evidence) -> str:
    if math.isinf(evidence.more):
        return "cannot tell how many more it needs"
    return f"needs about {math.ceil(evidence.more):,} more"


def _number(value: float) -> str:
    """Three decimals, or three digits where that would say too little."""
    return f"{value:.3f}" if value == 0.0 or 0.01 <= abs(value) < 1000.0 else f"{value:.3g}"

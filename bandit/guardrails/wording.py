"""Verdicts in one sentence: what was seen, what is allowed, how strong the evidence is; it decides nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

from bandit.guardrails import GUARDRAILS
from bandit.guardrails.base import Evidence, Levels, Outcome
from bandit.guardrails.levels import fail_level
from bandit.spec.guardrail import AGAINST_LIMIT
from bandit.spec.model import Direction, ExperimentSpec, Guardrail, Metric
from bandit.spec.quantity import format_duration


@dataclass(frozen=True, slots=True)
class Seen:
    """All that a sentence needs; ``of_control`` only where the control's own share of bad outcomes matters."""

    spec: ExperimentSpec
    guardrail: Guardrail
    arm: str
    cohort: str
    outcome: Outcome
    evidence: Evidence
    levels: Levels
    of_control: Evidence | None = None

    @property
    def kind(self) -> str:
        """Kind of the guardrail."""
        return self.guardrail.kind

    @property
    def metric(self) -> Metric | None:
        """The metric that is watched, if any."""
        index = None if self.guardrail.metric is None else self.spec.metric_index(self.guardrail.metric)
        return None if index is None else self.spec.metrics[index]

    @property
    def upward(self) -> bool:
        """Is more of the metric better?"""
        return self.metric is not None and self.metric.direction is Direction.MAXIMIZE

    def shown(self) -> tuple[float, float]:
        """(observed, reference) as a person reads them."""
        test = GUARDRAILS[self.kind]
        return test.shown(self.spec, self.guardrail, self.evidence.observed, self.evidence.reference)


def sentence(seen: Seen) -> str:
    """For example ``unsafe-limit: candidate-b unsafe 0.081 of 1,204 exceeds 0.010 (ln E 35.2 >= 6.4)``."""
    evidence = seen.evidence
    _, reference = seen.shown()
    name = f"{seen.guardrail.name}: {seen.arm}{_where(seen)} "
    if seen.outcome is Outcome.NO_DATA:
        return f"{name}{_no_outcome(seen)}; {_bound(seen)} ({_strength(seen)}); nothing to judge"
    said = f"{name}{_observed(seen)}"
    if seen.outcome is Outcome.FAIL:
        return f"{said} {_verb(seen, worse=True)} {number(reference)} ({_strength(seen)}){_control(seen)}"
    if seen.outcome is Outcome.PASS:
        safe = f"{_safety(seen)} {evidence.log_e_safe:.1f} >= {seen.levels.safe:.1f}"
        return f"{said} {_verb(seen, worse=False)} {number(reference)} ({safe})"
    return (
        f"{said} against {number(reference)} is undecided ({_strength(seen)}; "
        f"of safety {evidence.log_e_safe:.1f} < {seen.levels.safe:.1f}); {_more(evidence)}"
    )


def _where(seen: Seen) -> str:
    if not seen.cohort:
        return ""
    return " in some cohort" if seen.cohort == "any" else f" in cohort {seen.cohort}"


def _observed(seen: Seen) -> str:
    """``unsafe 0.081 of 1,204``: a share of bad outcomes, or a mean in the metric's unit."""
    return f"{_noun(seen)} {number(seen.shown()[0])} of {round(seen.evidence.n):,}"


def _noun(seen: Seen) -> str:
    name, guardrail = seen.guardrail.metric, seen.guardrail
    limit = f"{guardrail.limit:g}" if guardrail.limit is not None else ""
    without = f"without {name}" if seen.upward else str(name)
    return {
        "rate_limit": without,
        "breaker": without,
        "quantile_limit": f"{name} {'below' if seen.upward else 'above'} {limit}",
        "quantile_harm": f"{name} above the control's p{100 * (guardrail.quantile or 0.0):g}{_margin(seen)}",
        "event_rate": f"{name} per decision",
        "sample_ratio": "traffic",
        "silence": f"decisions with {name}",
        "response_rate": f"decisions with {name}",
        "drift": f"newer {name}",
    }.get(seen.kind, str(name))


def _margin(seen: Seen) -> str:
    return "" if seen.guardrail.margin == 1.0 else f" with margin {seen.guardrail.margin:g}"


def _no_outcome(seen: Seen) -> str:
    n, n_control = round(seen.evidence.n), round(seen.evidence.n_control)
    if seen.kind == "silence":
        return f"has no decision in a closed period that is {format_duration(seen.guardrail.after)} old"
    if seen.kind == "sample_ratio":
        return "has no traffic yet"
    if seen.kind in AGAINST_LIMIT or seen.kind == "drift":
        return f"has no outcome of {seen.guardrail.metric} yet"
    what = "decisions" if seen.kind == "response_rate" else f"outcomes of {seen.guardrail.metric}"
    return f"has {n:,} {what} and the control {n_control:,} in the periods they share"


def _bound(seen: Seen) -> str:
    if seen.kind in ("sample_ratio", "silence", "drift"):
        return "it compares with the share" if seen.kind == "sample_ratio" else "it compares with the past"
    if seen.kind not in AGAINST_LIMIT:
        return f"margin {seen.guardrail.margin:g}"
    return f"limit {number(seen.evidence.reference)}"


def _verb(seen: Seen, *, worse: bool) -> str:
    """How the observed value lies to the reference, and what that is."""
    of_control = f"(of {round(seen.evidence.n_control):,})"
    if seen.kind in ("harm", "became_worse"):
        up = worse is not seen.upward
        became = "became" if worse and seen.kind == "became_worse" else "is"
        return f"{became} {'above' if up else 'below'} the control's{_margin(seen)} {of_control}"
    return {
        "breaker": ("exceeds", "is no catastrophe at limit"),
        "quantile_limit": ("exceeds the share", "keeps the share"),
        "event_rate": ("is below" if seen.upward else "exceeds", "keeps"),
        "quantile_harm": (
            f"exceeds the control's share {of_control}",
            f"keeps the control's share {of_control}",
        ),
        "sample_ratio": ("is not its share", "follows its share"),
        "silence": ("stopped; before it was", "go on; so far it was"),
        "response_rate": (
            f"is not the control's{_margin(seen)} {of_control}",
            f"is the control's{_margin(seen)} {of_control}",
        ),
        "drift": (f"moved from the older {of_control}", f"is the older {of_control}"),
    }.get(seen.kind, ("exceeds", "keeps"))[0 if worse else 1]


def _strength(seen: Seen) -> str:
    evidence, fail = seen.evidence, fail_level(seen.guardrail, seen.levels)
    sign = ">=" if evidence.log_e >= fail else "<"
    what = {
        "breaker": "ln 1/tail",
        "became_worse": "ln run length",
        "silence": "ln 1/chance",
        "drift": "ln 1/chance",
    }.get(seen.kind, "ln E")
    return f"{what} {evidence.log_e:.1f} {sign} {fail:.1f}"


def _safety(seen: Seen) -> str:
    return "ln 1/tail of a catastrophe" if seen.kind == "breaker" else "ln E of safety"


def _control(seen: Seen) -> str:
    control = seen.of_control
    if control is None or control.log_e < fail_level(seen.guardrail, seen.levels):
        return ""
    said = f"{number(control.observed)} of {round(control.n):,} (ln E {control.log_e:.1f})"
    if control.observed >= seen.evidence.observed:
        return f"; control is worse with {said}: no safe arm"
    return f"; the control exceeds it too with {said}"


def _more(evidence: Evidence) -> str:
    if evidence.pending > 0.0:
        return f"waits until the windows of {round(evidence.pending):,} have closed"
    burn_in = "" if evidence.ready else "burn-in; "
    if math.isinf(evidence.more):
        return f"{burn_in}cannot tell how many more it needs"
    return f"{burn_in}needs about {math.ceil(evidence.more):,} more"


def number(value: float) -> str:
    """Three decimals; whole from 1,000 on; three digits where that would say too little or too much."""
    if 1000.0 <= abs(value) < 1e15:
        return f"{value:,.0f}"
    return f"{value:.3f}" if value == 0.0 or 0.01 <= abs(value) < 1000.0 else f"{value:.3g}"

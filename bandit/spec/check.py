"""Rules between the fields of a spec, all reported at once; it judges one spec and knows no older one.

Each finding names the fields its rule read, so that a parser can leave out what only follows from another
mistake.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bandit.spec.check_choice import choice_findings
from bandit.spec.check_counting import counting_findings
from bandit.spec.check_features import feature_findings
from bandit.spec.check_guardrails import guardrail_findings
from bandit.spec.check_metrics import metric_findings
from bandit.spec.finding import ANY, Finding, Loc, listed, unknown
from bandit.spec.model import (
    OTHER_COHORT,
    Arm,
    ExperimentSpec,
    Metric,
    Term,
    Unit,
)
from bandit.spec.shares import share_findings

LEAST_COHORTS = 4
"""Estimates below which a variance between cohorts is not estimated; see ``inference.cohorts``."""


def check(spec: ExperimentSpec) -> list[tuple[Loc, str]]:
    """Every broken rule as (path, sentence); empty when the spec is right."""
    return [(finding.loc, finding.sentence) for finding in findings(spec)]


def findings(spec: ExperimentSpec) -> Iterator[Finding]:
    """Every broken rule, in the order of the file's sections."""
    yield from _control(spec.arms)
    for section, kind, names in (
        ("arms", "arm", [arm.name for arm in spec.arms]),
        ("metrics", "metric", [metric.name for metric in spec.metrics]),
        ("guardrails", "guardrail", [guardrail.name for guardrail in spec.guardrails]),
    ):
        yield from _unique(section, "name", names, f"a second {kind} of this name")
    yield from _digests(spec.arms)
    yield from _unit(spec.unit)
    yield from metric_findings(spec.metrics, spec.arms)
    yield from _objective(spec.objective, spec.metrics)
    yield from share_findings(spec)
    yield from choice_findings(spec)
    yield from feature_findings(spec)
    yield from _cohorts(spec)
    yield from guardrail_findings(spec)
    yield from counting_findings(spec)
    if spec.event_retention and spec.partitions > 1:
        yield Finding(
            ("event_retention",),
            f"kept events with partitions: {spec.partitions}; they can be removed where one ledger counts them all, "
            "write partitions: 1, or leave event_retention out",
            (("event_retention",), ("partitions",)),
        )


def _control(arms: Sequence[Arm]) -> Iterator[Finding]:
    reads: tuple[Loc, ...] = (("arms", ANY, "control"),)
    controls = [index for index, arm in enumerate(arms) if arm.control]
    if not controls:
        yield Finding(
            ("arms",),
            "no arm is the control, to which everything falls back; "
            f"add control: true to one of {listed(arm.name for arm in arms)}",
            reads,
        )
    for index in controls[1:]:
        yield Finding(
            ("arms", index, "control"),
            f"{arms[index].name} is a second control, next to {arms[controls[0]].name}; "
            "exactly one arm is the control: take control off one of them",
            reads,
        )


def _unique(section: str, field: str, names: Sequence[str], what: str) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, name in enumerate(names):
        if first.setdefault(name, index) != index:
            yield Finding(
                (section, index, field),
                f"{name!r} is {what}, the first is {section}.{first[name]}; give each its own",
                ((section, first[name], field), (section, index, field)),
            )


def _digests(arms: Sequence[Arm]) -> Iterator[Finding]:
    first: dict[str, int] = {}
    for index, arm in enumerate(arms):
        if arm.digest and first.setdefault(arm.digest, index) != index:
            twin = first[arm.digest]
            yield Finding(
                ("arms", index, "digest"),
                f"{arm.name} has the same digest as {arms[twin].name}, so both serve one build; "
                "give each arm the digest of its own build, or leave it out",
                (("arms", index, "digest"), ("arms", twin, "digest")),
            )


def _unit(unit: Unit) -> Iterator[Finding]:
    if unit.mode == "session" and unit.kind in ("request", "session"):
        yield Finding(
            ("unit", "mode"),
            f"session, but a unit is one {unit.kind}, which has no sessions of its own; write kind: user or tenant, or "
            "mode: sticky",
            (("unit", "mode"), ("unit", "kind")),
        )


def _objective(terms: Sequence[Term], metrics: Sequence[Metric]) -> Iterator[Finding]:
    yield from _unique("objective", "metric", [term.metric for term in terms], "a second term of this metric")
    if terms and not any(term.weight for term in terms):
        yield Finding(
            ("objective", 0, "weight"),
            "0, like that of every term, so nothing is maximised; write a weight above 0",
            tuple(("objective", index, "weight") for index in range(len(terms))),
        )
    places = {metric.name: index for index, metric in enumerate(metrics)}
    for index, term in enumerate(terms):
        loc: Loc = ("objective", index, "metric")
        place = places.get(term.metric)
        if place is None:
            yield Finding(
                loc, unknown(term.metric, list(places), "a metric"), (loc, ("metrics", ANY, "name"))
            )
            continue
        low, high = metrics[place].scale
        if term.scale and (term.scale[1] <= low or term.scale[0] >= high):
            yield Finding(
                ("objective", index, "scale"),
                f"{_span(term.scale)} does not overlap the range {_span((low, high))} of {term.metric}, so all "
                "rewards would count the same; write a scale inside the range",
                (loc, ("objective", index, "scale"), ("metrics", place, "name"), ("metrics", place, "range")),
            )


def _cohorts(spec: ExperimentSpec) -> Iterator[Finding]:
    if spec.cohorts is None:
        return
    first: dict[str, int] = {}
    for index, value in enumerate(spec.cohorts.values):
        loc: Loc = ("cohorts", "values", index)
        if value == OTHER_COHORT:
            yield Finding(
                loc, f"{value!r} is the cohort of all values that are not listed; leave it out", (loc,)
            )
        if first.setdefault(value, index) != index:
            yield Finding(
                loc,
                f"{value!r} is listed twice, first as cohorts.values.{first[value]}; leave one out",
                (loc, ("cohorts", "values", first[value])),
            )
    if spec.cohorts.apart is not None:
        yield from _apart(spec, len(spec.cohorts.values))


def _apart(spec: ExperimentSpec, values: int) -> Iterator[Finding]:
    """What shares of their own do not go together with."""
    at: Loc = ("cohorts", "apart")
    if values + 1 < LEAST_COHORTS:
        yield Finding(
            at,
            f"of {values} values and {OTHER_COHORT} none can be told apart: how far cohorts differ is estimated from "
            f"{LEAST_COHORTS} or more; declare {LEAST_COHORTS - 1 - values} more, or leave apart out",
            (at, ("cohorts", "values")),
        )
    if spec.allocator.kind == "fixed":
        yield Finding(
            at,
            "apart with allocator fixed, whose shares are those written for all; leave one of them out",
            (at, ("allocator", "kind")),
        )
    if spec.is_linear:
        return  # refused, and told why, where features are checked
    if spec.baseline != "contrast":
        yield Finding(
            at,
            f"apart with baseline {spec.baseline}, which adds up cohorts whose shares would differ, so that a cohort's "
            "level would pass for an arm's; write baseline: contrast, or leave apart out",
            (at, ("baseline",)),
        )
    if spec.budget is not None:
        yield Finding(
            at,
            "apart with a budget, whose price is worked out for one set of shares; leave one of them out",
            (at, ("budget",)),
        )


def _span(pair: tuple[float, float]) -> str:
    return f"[{pair[0]:g}, {pair[1]:g}]"

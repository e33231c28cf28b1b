"""Rules about constraints, the budget and the numbers of an allocator; what each says alone is the types' matter."""

from __future__ import annotations

from collections.abc import Iterator

from bandit.spec.choice import Allocator, Constraint
from bandit.spec.finding import ANY, Finding, Loc, unknown
from bandit.spec.metric import Direction, MetricKind
from bandit.spec.model import ExperimentSpec

_OWNERS = {"beta": "top_two", "epsilon": "epsilon_greedy"}


def choice_findings(spec: ExperimentSpec) -> Iterator[Finding]:
    """Every broken rule, in the order of the file's sections."""
    yield from _numbers(spec.allocator)
    first: dict[str, int] = {}
    for index, constraint in enumerate(spec.constraints):
        yield from _constraint(spec, index, constraint)
        twin = first.setdefault(constraint.metric, index)
        if twin != index:
            yield Finding(
                ("constraints", index, "metric"),
                f"{constraint.metric!r} has a second constraint, the first is constraints.{twin}; "
                "keep the one that matters",
                (("constraints", twin, "metric"), ("constraints", index, "metric")),
            )
    yield from _budget(spec)


def _numbers(allocator: Allocator) -> Iterator[Finding]:
    for key, owner in _OWNERS.items():
        value = getattr(allocator, key)
        if allocator.kind != owner and value != Allocator.model_fields[key].default:
            yield Finding(
                ("allocator", key),
                f"{key} {value:g} with kind {allocator.kind}, which does not use it; leave {key} out, "
                f"or write kind: {owner}",
                (("allocator", "kind"), ("allocator", key)),
            )


def _constraint(spec: ExperimentSpec, index: int, constraint: Constraint) -> Iterator[Finding]:
    at: Loc = ("constraints", index)
    loc: Loc = (*at, "metric")
    limit, within = constraint.limit, constraint.within
    if (limit is None) == (within is None):
        seen = "neither limit nor within" if limit is None else "both limit and within"
        yield Finding(
            at,
            f"{seen}; a constraint has one of them: limit bounds the mean itself, within its distance from the best "
            "arm's",
            ((*at, "limit"), (*at, "within")),
        )
    place = spec.metric_index(constraint.metric)
    if place is None:
        names = [metric.name for metric in spec.metrics]
        yield Finding(loc, unknown(constraint.metric, names, "a metric"), (loc, ("metrics", ANY, "name")))
        return
    metric = spec.metrics[place]
    low, high = metric.scale
    reads = (loc, (*at, "limit"), (*at, "within"), ("metrics", place, "name"), ("metrics", place, "range"))
    if limit is not None and not low < limit < high:
        kept = (limit >= high) == (metric.direction is Direction.MINIMIZE)
        yield Finding(
            (*at, "limit"),
            f"limit {limit:g} of {metric.name}, whose values are {low:g} to {high:g}: "
            f"{'every' if kept else 'no'} arm keeps it; write one in between",
            reads,
        )
    if within is not None and within >= high - low:
        yield Finding(
            (*at, "within"),
            f"within {within:g} of the best {metric.name}, whose values are {low:g} to {high:g}: every arm keeps it; "
            f"write less than {high - low:g}",
            reads,
        )


def _budget(spec: ExperimentSpec) -> Iterator[Finding]:
    if spec.budget is None:
        return
    loc: Loc = ("budget", "metric")
    place = spec.metric_index(spec.budget.metric)
    if place is None:
        names = [metric.name for metric in spec.metrics]
        yield Finding(loc, unknown(spec.budget.metric, names, "a metric"), (loc, ("metrics", ANY, "name")))
        return
    metric = spec.metrics[place]
    reads = (loc, ("metrics", place))
    if metric.direction is not Direction.MINIMIZE:
        yield Finding(
            loc,
            f"{metric.name} is maximised, so it is nothing that is spent; name a metric with direction: minimize",
            reads,
        )
    elif metric.kind is MetricKind.RATIO:
        yield Finding(
            loc,
            f"{metric.name} is a ratio, which no request spends; name the metric above its line",
            reads,
        )
    elif metric.scale[0] < 0:
        yield Finding(
            loc,
            f"{metric.name} may be as low as {metric.scale[0]:g}; what is spent is never below 0: "
            "give it a range from 0 on, or name another metric",
            reads,
        )
    if spec.allocator.kind == "fixed":
        yield Finding(
            loc,
            "a budget with kind fixed, whose shares do not move; leave the budget out, or let another allocator learn",
            (loc, ("allocator", "kind")),
        )

"""Rules of guardrails: which fields each kind needs and takes, and which metrics it can watch."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bandit.spec.finding import ANY, Finding, Loc, listed, unknown
from bandit.spec.guardrail import AGAINST_LIMIT, MOST_EDGES, WARNINGS, Guardrail
from bandit.spec.metric import Direction, Metric, MetricKind
from bandit.spec.model import ExperimentSpec

_OWNERS: dict[str, tuple[str, ...]] = {
    "quantile": ("quantile_limit", "quantile_harm"),
    "between": ("quantile_harm",),
    "margin": ("harm", "quantile_harm", "became_worse", "response_rate"),
    "margin_of": ("harm", "became_worse"),
    "method": ("harm",),
    "tail": ("breaker",),
    "run_length": ("became_worse",),
    "after": ("silence",),
}
_NEEDED: dict[tuple[str, str], str] = {
    (
        "quantile_limit",
        "limit",
    ): "the quantile is compared with it, in the metric's unit: add one, for example 800",
    ("quantile_limit", "quantile"): "it says which quantile keeps the limit: add one, for example 0.99",
    ("quantile_harm", "quantile"): "it says which quantile is compared: add one, for example 0.99",
    (
        "quantile_harm",
        "between",
    ): "it says where the control's quantile will lie: add one, for example [200, 5000]",
    ("event_rate", "limit"): "events per decision are compared with it: add one, for example 0.2",
}
_IDENTITY = (
    *(
        "kind",
        "metric",
        "limit",
        "quantile",
        "between",
        "margin",
        "margin_of",
        "method",
        "tail",
        "run_length",
    ),
    *("after", "cohorts"),
)
_MOST_SUMS = 30_000


def guardrail_findings(spec: ExperimentSpec) -> Iterator[Finding]:
    """Every broken rule about guardrails."""
    for index, guardrail in enumerate(spec.guardrails):
        yield from _fields(index, guardrail, spec)
        yield from _metric(index, guardrail, spec.metrics)
    yield from _repeated(spec.guardrails)
    yield from _many(spec)


def _fields(index: int, guardrail: Guardrail, spec: ExperimentSpec) -> Iterator[Finding]:
    at: Loc = ("guardrails", index)
    kind: Loc = (*at, "kind")
    yield from _limit(index, guardrail)
    for (owner, key), why in _NEEDED.items():
        if owner == guardrail.kind and getattr(guardrail, key) is None:
            yield Finding((*at, key), f"missing; {why}", (kind, (*at, key)))
    for key, owners in _OWNERS.items():
        value = getattr(guardrail, key)
        if guardrail.kind not in owners and value != Guardrail.model_fields[key].default:
            shown = f"{value:g}" if isinstance(value, float) else str(value)
            yield Finding(
                (*at, key),
                f"{key} {shown} with kind {guardrail.kind}, which does not use it; leave {key} out, "
                f"or write kind: {owners[0]}",
                (kind, (*at, key)),
            )
    if guardrail.kind in WARNINGS and guardrail.action == "rollback":
        yield Finding(
            (*at, "action"),
            f"rollback with kind {guardrail.kind}, which says that something is amiss, not that the arm is; "
            "write action: flag, or action: hold",
            (kind, (*at, "action")),
        )
    if guardrail.cohorts == "each" and spec.cohorts is None:
        yield Finding(
            (*at, "cohorts"),
            "each, but this experiment declares no cohorts; leave it out, or declare cohorts",
            ((*at, "cohorts"), ("cohorts",)),
        )


def _limit(index: int, guardrail: Guardrail) -> Iterator[Finding]:
    at: Loc = ("guardrails", index)
    reads: tuple[Loc, ...] = ((*at, "kind"), (*at, "limit"))
    limit = guardrail.limit
    if guardrail.kind in ("rate_limit", "breaker"):
        if limit is None:
            yield Finding(
                (*at, "limit"),
                f"missing; {guardrail.kind} compares the share of bad outcomes with it: add one, for example 0.02",
                reads,
            )
        elif not 0.0 < limit < 1.0:
            hint = f"; for {limit:g} % write {limit / 100:.10g}" if 1 < limit < 100 else ""
            yield Finding(
                (*at, "limit"), f"{limit:g} is not allowed; allowed: above 0 and below 1{hint}", reads
            )
    elif guardrail.kind == "event_rate" and limit is not None and limit <= 0.0:
        yield Finding(
            (*at, "limit"),
            f"{limit:g} is not allowed; events per decision are above 0: write how many are tolerated",
            reads,
        )
    elif guardrail.kind not in AGAINST_LIMIT and limit is not None:
        what = (
            "compares with the control; leave limit out and write margin (1.1 tolerates 10 % more harm), or write "
            "kind: rate_limit"
            if guardrail.kind in _OWNERS["margin"]
            else "does not use it; leave limit out, or write kind: rate_limit"
        )
        yield Finding((*at, "limit"), f"limit {limit:g} with kind {guardrail.kind}, which {what}", reads)


def _metric(index: int, guardrail: Guardrail, metrics: Sequence[Metric]) -> Iterator[Finding]:
    at: Loc = ("guardrails", index)
    kind: Loc = (*at, "kind")
    loc: Loc = (*at, "metric")
    if guardrail.kind == "sample_ratio":
        if guardrail.metric is not None:
            yield Finding(
                loc,
                f"{guardrail.metric} with kind sample_ratio, which counts decisions; leave metric out",
                (kind, loc),
            )
        return
    if guardrail.metric is None:
        yield Finding(
            loc, f"missing; add the name of one: {listed(each.name for each in metrics)}", (kind, loc)
        )
        return
    found = [place for place, metric in enumerate(metrics) if metric.name == guardrail.metric]
    if not found:
        names = [each.name for each in metrics]
        yield Finding(loc, unknown(guardrail.metric, names, "a metric"), (loc, ("metrics", ANY, "name")))
        return
    place, metric = found[0], metrics[found[0]]
    reads: tuple[Loc, ...] = (kind, loc, ("metrics", place, "name"), ("metrics", place, "kind"))
    fault = _unfit(guardrail, metric)
    if fault:
        yield Finding(loc, f"{guardrail.kind} on {metric.name}, which is {metric.kind}; {fault}", reads)
        return
    yield from _values(index, guardrail, metric, reads, metrics)


def _unfit(guardrail: Guardrail, metric: Metric) -> str:
    """Why this kind cannot watch a metric of this kind; empty when it can."""
    kind = guardrail.kind
    if kind in ("rate_limit", "breaker") and metric.kind is not MetricKind.BERNOULLI:
        return "it counts bad outcomes of a bernoulli metric: name one, or write kind: harm"
    if kind == "event_rate" and metric.kind is not MetricKind.POISSON:
        return "it counts events of a poisson metric: name one, or write kind: harm"
    if kind in ("quantile_limit", "quantile_harm") and metric.kind in (
        MetricKind.BERNOULLI,
        MetricKind.RATIO,
    ):
        return "its quantiles say nothing: name a metric with values, or write kind: harm"
    if metric.kind is MetricKind.RATIO and kind != "harm":
        return "it has no rewards of its own: name its numerator, or write kind: harm"
    return ""


def _values(
    index: int, guardrail: Guardrail, metric: Metric, reads: tuple[Loc, ...], metrics: Sequence[Metric]
) -> Iterator[Finding]:
    """Rules that hold between a guardrail's numbers and the scale of its metric."""
    at: Loc = ("guardrails", index)
    low, high = metric.scale
    limit, never = guardrail.limit, high if metric.direction is Direction.MINIMIZE else low
    if (
        guardrail.kind == "quantile_limit"
        and limit is not None
        and (limit == never or not low <= limit <= high)
    ):
        yield Finding(
            (*at, "limit"),
            f"{limit:g} can never be passed by {metric.name} in [{low:g}, {high:g}]; write a limit inside",
            (*reads, (*at, "limit")),
        )
    if guardrail.kind == "quantile_harm":
        yield from _edges(index, guardrail, metric, reads)
    if guardrail.kind == "silence" and guardrail.after > metric.attribution_window:
        yield Finding(
            (*at, "after"),
            f"after {guardrail.after:g} s is longer than the attribution window of {metric.name} "
            f"({metric.attribution_window:g} s), past which no reward counts; write a shorter one",
            (*reads, (*at, "after")),
        )
    if guardrail.margin_of == "mean" and low < 0.0:
        yield Finding(
            (*at, "margin_of"),
            f"mean of {metric.name}, which goes down to {low:g}: a ratio of means needs values from 0 up; "
            "write margin_of: badness",
            (*reads, (*at, "margin_of")),
        )
    if metric.kind is MetricKind.RATIO:
        yield from _ratio(index, guardrail, metric, reads, metrics)


def _edges(index: int, guardrail: Guardrail, metric: Metric, reads: tuple[Loc, ...]) -> Iterator[Finding]:
    at: Loc = ("guardrails", index)
    low, high = metric.scale
    if metric.direction is not Direction.MINIMIZE:
        yield Finding(
            (*at, "metric"),
            f"quantile_harm on {metric.name}, of which more is better; it compares high quantiles of what is "
            "minimized: name such a metric, or write kind: harm",
            (*reads,),
        )
        return
    if guardrail.between is None:
        return
    begin, end = guardrail.between
    read = (*reads, (*at, "between"), (*at, "margin"))
    if begin <= low or end * guardrail.margin > high:
        yield Finding(
            (*at, "between"),
            f"[{begin:g}, {end:g}] times margin {guardrail.margin:g} is not inside {metric.name}'s scale "
            f"[{low:g}, {high:g}]; write a narrower one, or a wider range",
            read,
        )
    elif len(guardrail.edges()[0]) > MOST_EDGES:
        yield Finding(
            (*at, "between"),
            f"[{begin:g}, {end:g}] takes more than {MOST_EDGES} steps of the margin {guardrail.margin:g}; "
            "write a narrower one, or a larger margin",
            read,
        )


def _ratio(
    index: int, guardrail: Guardrail, metric: Metric, reads: tuple[Loc, ...], metrics: Sequence[Metric]
) -> Iterator[Finding]:
    at: Loc = ("guardrails", index)
    if guardrail.method == "asymptotic":
        yield Finding(
            (*at, "method"),
            f"asymptotic on {metric.name}, which is a ratio; write method: exact",
            (*reads, (*at, "method")),
        )
    for place, part in enumerate(metrics):
        if part.name not in (metric.numerator, metric.denominator):
            continue
        if part.scale[0] != 0.0 or part.default_when_silent:
            yield Finding(
                (*at, "metric"),
                f"harm on {metric.name}, whose part {part.name} does not count from 0; a ratio needs parts with a "
                "range from 0 up, and a default_when_silent of 0 or none",
                (*reads, ("metrics", place, "range"), ("metrics", place, "default_when_silent")),
            )


def _repeated(guardrails: Sequence[Guardrail]) -> Iterator[Finding]:
    first: dict[tuple[object, ...], int] = {}
    for index, each in enumerate(guardrails):
        key = tuple(getattr(each, name) for name in _IDENTITY)
        twin = first.setdefault(key, index)
        if twin != index and guardrails[twin].name != each.name:
            yield Finding(
                ("guardrails", index),
                f"{each.name} checks the same as {guardrails[twin].name}, which makes both slower; remove one",
                (("guardrails", index), ("guardrails", twin)),
            )


def _many(spec: ExperimentSpec) -> Iterator[Finding]:
    if spec.cohorts is None:
        return
    each = 1 + len(spec.cohorts.values)
    sums = sum(each if guardrail.cohorts == "each" else 1 for guardrail in spec.guardrails) * len(spec.arms)
    if sums > _MOST_SUMS:
        yield Finding(
            ("guardrails",),
            f"{sums:,} comparisons of arms and cohorts are more than {_MOST_SUMS:,}, which make each of them slow; "
            "write cohorts: all for some guardrails",
            (("guardrails", ANY), ("cohorts", "values"), ("arms", ANY)),
        )

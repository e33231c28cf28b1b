"""Rules between the fields of metrics, and between metrics and beliefs about them; it judges no single field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from bandit.spec.delay import delay_fault
from bandit.spec.finding import ANY, Finding, Loc, unknown
from bandit.spec.metric import RANGED, Metric, MetricKind, named, prior_fault
from bandit.spec.model import Arm


def metric_findings(metrics: Sequence[Metric], arms: Sequence[Arm]) -> Iterator[Finding]:
    """Every broken rule about metrics, in the order of the file."""
    for index, metric in enumerate(metrics):
        yield from _range(index, metric)
        yield from _levels(index, metric)
        yield from _ratio(index, metric, metrics)
    for index, arm in enumerate(arms):
        yield from _priors(index, arm, metrics)
        yield from _delays(index, arm, metrics)


def _range(index: int, metric: Metric) -> Iterator[Finding]:
    if metric.kind not in RANGED or "range" in metric.model_fields_set:
        return
    what = "the lowest and highest legal value, outside of which a reward is rejected"
    if metric.kind is MetricKind.RATIO:
        what = "the lowest and highest plausible ratio, which scale it"
    yield Finding(
        ("metrics", index, "range"),
        f"missing; {named(metric.kind)} such as {metric.name} needs {what}: add range: [low, high]",
        (("metrics", index, "range"), ("metrics", index, "kind")),
    )


def _levels(index: int, metric: Metric) -> Iterator[Finding]:
    if metric.kind is MetricKind.RATING and not metric.levels:
        yield Finding(
            ("metrics", index, "levels"),
            f"missing; a rating such as {metric.name} needs its legal values: add levels, for example "
            "[1, 2, 3, 4, 5]",
            (("metrics", index, "levels"), ("metrics", index, "kind")),
        )


def _ratio(index: int, metric: Metric, metrics: Sequence[Metric]) -> Iterator[Finding]:
    if metric.kind is not MetricKind.RATIO:
        return
    at: Loc = ("metrics", index)
    kind: Loc = (*at, "kind")
    for key in ("numerator", "denominator"):
        name = getattr(metric, key)
        loc: Loc = (*at, key)
        if name is None:
            yield Finding(
                loc,
                f"missing; {metric.name} is a ratio of two metrics of the same decisions: add the name of the "
                f"{'first' if key == 'numerator' else 'second'}",
                (kind, loc),
            )
            continue
        place = next((place for place, each in enumerate(metrics) if each.name == name), None)
        if place is None:
            yield Finding(
                loc,
                unknown(name, [each.name for each in metrics], "a metric"),
                (kind, loc, ("metrics", ANY, "name")),
            )
            continue
        part = metrics[place]
        reads: tuple[Loc, ...] = (kind, loc, ("metrics", place, "name"), ("metrics", place, "kind"))
        if part.kind is MetricKind.RATIO:
            yield Finding(loc, f"{name} is a ratio too; name a metric that has rewards of its own", reads)
        elif key == "denominator" and part.scale[0] < 0.0:
            low, high = part.scale
            yield Finding(
                loc,
                f"{name} may be below 0, its range is [{low:g}, {high:g}], and a ratio to it means nothing; "
                "name a metric whose values are 0 or more",
                (*reads, ("metrics", place, "range"), ("metrics", place, "levels")),
            )
    if metric.numerator is not None and metric.numerator == metric.denominator:
        yield Finding(
            (*at, "denominator"),
            f"{metric.denominator} is the numerator too, so the ratio is always 1; name another metric",
            (kind, (*at, "numerator"), (*at, "denominator")),
        )


def _priors(index: int, arm: Arm, metrics: Sequence[Metric]) -> Iterator[Finding]:
    for name, prior in arm.prior.items():
        loc: Loc = ("arms", index, "prior", name)
        place = next((place for place, each in enumerate(metrics) if each.name == name), None)
        if place is None:
            known = [each.name for each in metrics]
            yield Finding(loc, unknown(name, known, "a metric"), (loc, ("metrics", ANY, "name")))
            continue
        metric = metrics[place]
        low, high = metric.scale if not metric.scores else (min(metric.scores), max(metric.scores))
        if fault := prior_fault(metric.kind, low, high, prior.mean):
            yield Finding((*loc, "mean"), fault, (loc, ("metrics", place)))


def _delays(index: int, arm: Arm, metrics: Sequence[Metric]) -> Iterator[Finding]:
    for name, delay in arm.delay.items():
        loc: Loc = ("arms", index, "delay", name)
        place = next((place for place, each in enumerate(metrics) if each.name == name), None)
        if place is None:
            known = [each.name for each in metrics]
            yield Finding(loc, unknown(name, known, "a metric"), (loc, ("metrics", ANY, "name")))
            continue
        metric = metrics[place]
        if metric.kind is MetricKind.RATIO:
            yield Finding(
                loc,
                f"{name} is a ratio, which has no rewards of its own; write the delays of its two metrics",
                (loc, ("metrics", place, "kind")),
            )
            continue
        field, fault = delay_fault(delay, metric.attribution_window)
        if fault:
            yield Finding((*loc, field), fault, (loc, ("metrics", place, "attribution_window")))

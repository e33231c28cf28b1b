"""Worlds made from a spec alone, for who has written none: equal arms, a better one, a harmful one, a rising level; and
where cohorts may have shares of their own, an arm that is better in every second cohort and worse in the others, or
where features are read, one that is better for half of the requests, by their features, and worse for the others.

What is assumed of the control is ``laws.assumed``, but for what guardrails watch: of what a limit allows it has about
half. Rewards come as late as the spec declares, else at once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from bandit.simulate.laws import Law, assumed, atoms, fault, law_of
from bandit.simulate.world import (
    ArmLaws,
    CohortLaws,
    Drift,
    MetricLaw,
    SegmentLaws,
    WorldFile,
    cohorts_of,
)
from bandit.spec.model import Direction, ExperimentSpec, Feature, Guardrail, Metric, MetricKind
from bandit.spec.quantity import format_duration

TRAFFIC_PER_HOUR = 1000.0
HORIZON_S = 7 * 86400.0
LIFT = 0.1
"""Relative lift of the better arm in the objective's heaviest metric."""
HARM = 2.0
"""Factor of the harmful arm's badness; and it has at least so many times what a limit allows."""
USED = 0.5
"""Part of what a limit allows that the control has."""
HALVINGS = 40
SHARES = frozenset({"rate_limit", "breaker"})
"""Kinds whose limit is a share of bad outcomes."""
RISE = 0.9
MOST_BETTER = 3
"""Worlds with one better arm, for the first challengers."""


def standard_worlds(
    spec: ExperimentSpec, traffic_per_hour: float = TRAFFIC_PER_HOUR, horizon_s: float = HORIZON_S
) -> tuple[WorldFile, ...]:
    """The worlds of the module, in its order."""
    control = spec.arms[spec.control_index].name
    base = {
        metric.name: _control(spec, metric) for metric in spec.metrics if metric.kind is not MetricKind.RATIO
    }
    challengers = [arm.name for arm in spec.arms if not arm.control]

    def made(
        name: str,
        moves: Mapping[str, Mapping[str, MetricLaw]],
        rise: bool = False,
        cohorts: tuple[CohortLaws, ...] = (),
        segments: tuple[SegmentLaws, ...] = (),
    ) -> WorldFile:
        laws = {metric: _rising(spec, law) for metric, law in base.items()} if rise else base
        arms = [ArmLaws(name=control, metrics=tuple(laws.values()))]
        arms += [ArmLaws(name=arm, metrics=tuple(own.values())) for arm, own in moves.items()]
        # As a file says it: durations are text there.
        values = {"world": name, "traffic_per_hour": traffic_per_hour, "horizon": format_duration(horizon_s)}
        return WorldFile.model_validate({**values, "arms": arms, "cohorts": cohorts, "segments": segments})

    worlds = [made("equal", {})]
    worlds += [
        made(f"{arm}-better"[:63].rstrip("-"), {arm: _better(spec, base)})
        for arm in challengers[:MOST_BETTER]
    ]
    if harm := _harmful(spec, base):
        arm = challengers[0]
        worlds.append(made(f"{arm}-harmful"[:63].rstrip("-"), {arm: harm}))
    worlds.append(made("rising", {}, rise=True))
    if spec.cohorts is not None and spec.cohorts.apart is not None:
        worlds.append(made("divided", {}, cohorts=_divided(spec, base, challengers[0])))
    if spec.features and spec.cohorts is None:
        worlds.append(made("by-features", {}, segments=_by_features(spec, base, challengers[0])))
    return tuple(worlds)


def _divided(spec: ExperimentSpec, base: Mapping[str, MetricLaw], arm: str) -> tuple[CohortLaws, ...]:
    """The arm is better in every second cohort, from everyone else on, and worse in the others."""
    count = cohorts_of(spec)
    sides = [tuple(_better(spec, base, sign).values()) for sign in (1, -1)]
    return tuple(
        CohortLaws(
            name=spec.cohort_name(cohort),
            part=1.0 / count,
            arms=(ArmLaws(name=arm, metrics=sides[cohort % 2]),),
        )
        for cohort in range(count)
    )


def _by_features(spec: ExperimentSpec, base: Mapping[str, MetricLaw], arm: str) -> tuple[SegmentLaws, ...]:
    """Two kinds of requests that differ in every feature; the arm is better for the one and worse for the other."""
    return tuple(
        SegmentLaws(
            name=name,
            part=0.5,
            attributes={each.name: _value(each, side) for each in spec.features},
            arms=(ArmLaws(name=arm, metrics=tuple(_better(spec, base, sign).values())),),
        )
        for side, (name, sign) in enumerate((("one-kind", 1), ("other-kind", -1)))
    )


def _value(feature: Feature, side: int) -> str:
    """Text of a feature on one of two sides."""
    if feature.kind == "numeric":
        low, high = feature.low or 0.0, feature.high or 0.0
        return f"{low + (0.25 + 0.5 * side) * (high - low):.12g}"
    return (*feature.values, "", "")[side] if feature.kind == "categorical" else f"text {side}"


def _control(spec: ExperimentSpec, metric: Metric) -> MetricLaw:
    law = assumed(metric)
    watching = [each for each in spec.guardrails if each.metric == metric.name and each.limit is not None]
    if watching and metric.prior is None and metric.kind is not MetricKind.RATING:
        shares = [each.limit for each in watching if each.kind in SHARES and each.limit is not None]
        best = _at_badness(metric, 0.0)
        start = replace(law, mean=_at_badness(metric, USED * min(shares))) if shares else law

        def nearer(part: float) -> Law:
            return replace(start, mean=best + part * (start.mean - best), sd=part * start.sd)

        def kept(part: float) -> bool:
            return all(used(each, metric, nearer(part)) <= USED * (1.0 + 1e-9) for each in watching)

        law = nearer(1.0 if kept(1.0) else _last(kept))
    found = MetricLaw(
        name=metric.name,
        mean=law.mean,
        sd=law.sd or None,
        buyers=law.buyers if metric.kind is MetricKind.REVENUE else None,
        levels=law.levels,
    )
    if not fault(metric, law_of(metric, found, None)):
        return found
    usual = assumed(metric)
    return found.model_copy(update={"mean": usual.mean, "sd": usual.sd or None})


def used(guardrail: Guardrail, metric: Metric, law: Law) -> float:
    """What an arm with this law has of what the limit allows; above 1 it breaks the promise."""
    assert guardrail.limit is not None
    down = metric.direction is Direction.MINIMIZE
    if guardrail.kind in SHARES:
        return _badness(metric, law.mean) / guardrail.limit
    if guardrail.kind == "event_rate":
        return law.mean / guardrail.limit if down else guardrail.limit / max(law.mean, 1e-12)
    low, high = metric.scale
    found = atoms(metric, law, law.mean)
    above = float(found.weight[found.x > (guardrail.limit - low) / (high - low)].sum())
    assert guardrail.quantile is not None
    return above / (1.0 - guardrail.quantile) if down else (1.0 - above) / guardrail.quantile


def _last(holds: Callable[[float], bool]) -> float:
    """About the greatest part in (0, 1) for which it holds, when it holds for all below that."""
    low, high = 0.0, 1.0
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        low, high = (middle, high) if holds(middle) else (low, middle)
    return low if low > 0.0 else 0.5**HALVINGS


def _at_badness(metric: Metric, badness: float) -> float:
    low, high = metric.scale
    part = badness if metric.direction is Direction.MINIMIZE else 1.0 - badness
    return low + (high - low) * part


def _badness(metric: Metric, mean: float) -> float:
    low, high = metric.scale
    part = (mean - low) / (high - low)
    return part if metric.direction is Direction.MINIMIZE else 1.0 - part


def _better(spec: ExperimentSpec, base: Mapping[str, MetricLaw], sign: int = 1) -> dict[str, MetricLaw]:
    """The objective's heaviest metric, better by LIFT, or worse where ``sign`` is -1."""
    term = max(spec.objective, key=lambda each: each.weight)
    at = spec.metric_index(term.metric)
    assert at is not None
    metric = spec.metrics[at]
    if metric.kind is MetricKind.RATIO:
        at = spec.metric_index(metric.numerator or "")
        assert at is not None
    better = 1.0 + sign * LIFT if metric.direction is Direction.MAXIMIZE else 1.0 - sign * LIFT
    moved = spec.metrics[at]
    found = _moved(moved, base[moved.name], better)
    return {moved.name: found} if found else {}


def _moved(metric: Metric, law: MetricLaw, times: float) -> MetricLaw | None:
    """The law of a challenger with so many times the control's mean, or as near to it as fits; None when none does."""
    if metric.kind is MetricKind.RATING:
        return MetricLaw(name=metric.name, levels=_shifted(law.levels, times > 1.0))
    control = law_of(metric, law, None)
    for part in (1.0, 0.5, 0.25, 0.1):
        found = MetricLaw(name=metric.name, times=1.0 + part * (times - 1.0))
        if not fault(metric, law_of(metric, found, control)):
            return found
    return None


def _shifted(levels: tuple[float, ...], up: bool) -> tuple[float, ...]:
    """A tenth of every level moved to the next one."""
    moved = list(levels)
    for index, share in enumerate(levels):
        to = index + 1 if up else index - 1
        if 0 <= to < len(levels):
            moved[index] -= LIFT * share
            moved[to] += LIFT * share
    return tuple(moved)


def _harmful(spec: ExperimentSpec, base: Mapping[str, MetricLaw]) -> dict[str, MetricLaw]:
    """Laws of the harmful arm: each watched metric that can be is made bad."""
    found: dict[str, MetricLaw] = {}
    for guardrail in spec.guardrails:
        at = spec.metric_index(guardrail.metric) if guardrail.metric else None
        if at is None or guardrail.metric not in base:
            continue
        metric = spec.metrics[at]
        mean = base[metric.name].mean
        if metric.kind is MetricKind.RATING or mean is None:
            found[metric.name] = MetricLaw(
                name=metric.name,
                levels=_shifted(base[metric.name].levels, metric.direction is Direction.MINIMIZE),
            )
            continue
        before = law_of(metric, base[metric.name], None)
        bad = HARM * _badness(metric, mean)
        if guardrail.limit is not None:
            bad = max(bad, _bad_enough(guardrail, metric, before))
        law = MetricLaw(name=metric.name, mean=_at_badness(metric, min(bad, 0.99)))
        if metric.name in found and _badness(metric, found[metric.name].mean or mean) >= bad:
            continue
        if not fault(metric, law_of(metric, law, before)):
            found[metric.name] = law
    return found


def _bad_enough(guardrail: Guardrail, metric: Metric, before: Law) -> float:
    """Badness, at most 1, from which an arm has HARM times what the limit allows, its spread being the control's."""

    def spared(part: float) -> bool:
        return used(guardrail, metric, replace(before, mean=_at_badness(metric, part))) < HARM

    return 1.0 if spared(1.0) else _last(spared)


def _rising(spec: ExperimentSpec, law: MetricLaw) -> MetricLaw:
    at = spec.metric_index(law.name)
    assert at is not None
    metric = spec.metrics[at]
    if metric.kind is MetricKind.RATING:
        return law
    watching = [each for each in spec.guardrails if each.metric == metric.name and each.limit is not None]
    for by in (RISE, RISE / 3, RISE / 10):
        found = law.model_copy(update={"drift": Drift(shape="rising", by=by)})
        made = law_of(metric, found, None)
        at_last = replace(made, mean=made.mean * (1.0 + by))
        # A level that rises for all is no harm of an arm, so it must leave the limits alone.
        if not fault(metric, made) and all(used(each, metric, at_last) <= 1.0 for each in watching):
            return found
    return law

"""Rules of features and of allocators that read them: what each kind takes, and what does not fit weights that differ
from request to request."""

from __future__ import annotations

from collections.abc import Iterator

from bandit.spec.choice import Allocator
from bandit.spec.features import LINEAR, MAX_DIMENSION, MAX_FEATURES, Feature
from bandit.spec.finding import ANY, Finding, Loc
from bandit.spec.guardrail import AGAINST_LIMIT, Guardrail
from bandit.spec.metric import MetricKind
from bandit.spec.model import ExperimentSpec

KEPT_GUARDRAILS = AGAINST_LIMIT | {"silence"}
"""Kinds that stay right when each request has weights of its own: they compare no two arms."""
MAX_NUMBERS = 262_144
"""Whole numbers of the linear sums of one period, 2 MiB: a period is written whole by each fold that changes it."""
_OWNERS = {"low": "numeric", "high": "numeric", "values": "categorical", "buckets": "hashed"}
_KIND: Loc = ("allocator", "kind")


def feature_findings(spec: ExperimentSpec) -> Iterator[Finding]:
    """Every broken rule about features and linear allocators."""
    first: dict[str, int] = {}
    for index, feature in enumerate(spec.features):
        yield from _feature(index, feature)
        twin = first.setdefault(feature.name, index)
        if twin != index:
            yield Finding(
                ("features", index, "name"),
                f"{feature.name!r} is read twice, first as features.{twin}; leave one out",
                (("features", twin, "name"), ("features", index, "name")),
            )
    yield from _numbers(spec.allocator)
    yield from _size(spec)
    if spec.is_linear:
        yield from _whole(spec)
        yield from _objective(spec)
        yield from _guardrails(spec)


def _feature(index: int, feature: Feature) -> Iterator[Finding]:
    at: Loc = ("features", index)
    kind: Loc = (*at, "kind")
    for key, owner in _OWNERS.items():
        value = getattr(feature, key)
        given = value is not None and value != ()
        if owner == feature.kind and not given:
            yield Finding((*at, key), f"missing; a {owner} feature needs {key}: add it", (kind, (*at, key)))
        elif owner != feature.kind and given:
            yield Finding(
                (*at, key),
                f"{key} on a {feature.kind} feature, which does not use it; leave {key} out, or write kind: {owner}",
                (kind, (*at, key)),
            )
    low, high = feature.low, feature.high
    if low is not None and high is not None and not low < high:
        yield Finding(
            (*at, "high"),
            f"{high:g} is not above low {low:g}; write the lowest usual number as low, the highest as high",
            ((*at, "low"), (*at, "high")),
        )
    seen: dict[str, int] = {}
    for place, value in enumerate(feature.values):
        twin = seen.setdefault(value, place)
        if twin != place:
            yield Finding(
                (*at, "values", place),
                f"{value!r} is listed twice, first as values.{twin}; leave one out",
                ((*at, "values", twin), (*at, "values", place)),
            )


def _numbers(allocator: Allocator) -> Iterator[Finding]:
    """Numbers of linear allocators on another one, or two that say the same."""
    for key in ("ridge", "exploration", "confidence"):
        value = getattr(allocator, key)
        owners = {"lin_ucb"} if key == "confidence" else LINEAR
        if value != Allocator.model_fields[key].default and allocator.kind not in owners:
            yield Finding(
                ("allocator", key),
                f"{key} {value:g} with kind {allocator.kind}, which does not use it; leave {key} out, "
                f"or write kind: {'lin_ucb' if key == 'confidence' else 'lin_ts'}",
                (_KIND, ("allocator", key)),
            )
    if allocator.confidence is not None and allocator.exploration is not None:
        yield Finding(
            ("allocator", "confidence"),
            f"confidence {allocator.confidence:g} beside exploration {allocator.exploration:g}; both say how far an "
            "index lies above the mean: leave one out",
            (("allocator", "confidence"), ("allocator", "exploration")),
        )


def _size(spec: ExperimentSpec) -> Iterator[Finding]:
    columns = 1 + sum(feature.columns for feature in spec.features)
    if columns > MAX_DIMENSION:
        yield Finding(
            ("features",),
            f"{columns} columns with the intercept (1 for a numeric feature, 1 for each value and 1 for other, 1 for "
            f"each bucket); allowed: {MAX_DIMENSION}: list fewer values, or write kind: hashed",
            (("features", ANY),),
        )
    numbers = len(spec.arms) * len(spec.learned) * (columns * (columns + 1) // 2 + 2 * columns + 2)
    if columns <= MAX_DIMENSION and numbers > MAX_NUMBERS:
        yield Finding(
            ("features",),
            f"{len(spec.arms)} arms x {len(spec.learned)} terms x {columns} columns ask for {numbers:,} sums in each "
            f"period; allowed: {MAX_NUMBERS:,}: declare fewer arms, terms or columns",
            (("features", ANY), ("arms", ANY), ("objective", ANY)),
        )
    if spec.is_linear and not spec.features:
        yield Finding(
            ("features",),
            f"missing; {spec.allocator.kind} decides by features: declare what of a request matters, or write "
            "kind: thompson",
            (_KIND, ("features",)),
        )
    if spec.features and not spec.is_linear:
        yield Finding(
            ("features",),
            f"features with kind {spec.allocator.kind}, which does not read them; leave them out, or write "
            "kind: lin_ts",
            (_KIND, ("features",)),
        )


def _whole(spec: ExperimentSpec) -> Iterator[Finding]:
    """Sections that presume one weight of an arm for all requests of a period."""
    kind = spec.allocator.kind
    if spec.baseline != "stationary":
        yield Finding(
            ("baseline",),
            f"{spec.baseline} with kind {kind}, whose weights differ within a period, so that arms cannot be compared "
            "inside it; write baseline: stationary, if the level of all arms does not move, else kind: thompson",
            (_KIND, ("baseline",)),
        )
    refused: list[tuple[str, bool, str]] = [
        ("constraints", bool(spec.constraints), "constraints weigh each arm as a whole"),
        ("budget", spec.budget is not None, "a budget prices each arm as a whole"),
        (
            "cohorts.apart",
            spec.cohorts is not None and spec.cohorts.apart is not None,
            "it gives a cohort one weight of an arm; name the cohort's attribute as a feature instead",
        ),
        ("rewards_without_token", spec.rewards_without_token, "a reward without its token has no features"),
    ]
    for section, there, why in refused:
        if there:
            loc: Loc = tuple(section.split("."))
            yield Finding(
                loc,
                f"{section} with kind {kind}, which weighs arms request by request: {why}; leave {section} out, or "
                "write kind: thompson",
                (_KIND, loc),
            )
    for index, arm in enumerate(spec.arms):
        for name in arm.prior:
            yield Finding(
                ("arms", index, "prior", name),
                f"a prior of one arm with kind {kind}, which begins with one belief for all; leave it out, or write it "
                "on the metric",
                (_KIND, ("arms", index, "prior", name)),
            )
    if spec.decay is not None and spec.allocator.confidence is not None:
        yield Finding(
            ("allocator", "confidence"),
            "confidence with decay, under which the width of OFUL holds nothing; leave decay out, or write exploration",
            (_KIND, ("decay",), ("allocator", "confidence")),
        )


def _objective(spec: ExperimentSpec) -> Iterator[Finding]:
    kind = spec.allocator.kind
    reads: tuple[Loc, ...] = (_KIND, ("objective", ANY), ("metrics", ANY))
    confidence = spec.allocator.confidence
    if len(spec.objective) > 1 and confidence is not None:
        yield Finding(
            ("allocator", "confidence"),
            f"confidence {confidence:g} with {len(spec.objective)} terms of the objective, whose errors have no common "
            "width of OFUL; write exploration, or one term",
            (("allocator", "confidence"), ("objective", ANY)),
        )
    for index, term in enumerate(spec.objective):
        place = spec.metric_index(term.metric)
        if place is None:
            continue
        metric = spec.metrics[place]
        at: Loc = ("objective", index, "metric")
        if metric.kind is MetricKind.RATIO:
            yield Finding(
                at,
                f"{metric.name} is a ratio, which no single request has, with kind {kind}; name another metric, or "
                "write kind: thompson",
                reads,
            )
        if metric.scores and metric.scores != metric.levels:
            yield Finding(
                at,
                f"{metric.name} has scores, with kind {kind}, which learns from the levels themselves; report what a "
                "level is worth, or write kind: thompson",
                reads,
            )
        if metric.default_when_silent is not None:
            yield Finding(
                at,
                f"{metric.name} has default_when_silent, with kind {kind}: a decision without a reward leaves no "
                f"features to learn from; leave it out and report {metric.default_when_silent:g} as a reward, or write "
                "kind: thompson",
                reads,
            )


def _guardrails(spec: ExperimentSpec) -> Iterator[Finding]:
    kind = spec.allocator.kind
    for index, guardrail in enumerate(spec.guardrails):
        if guardrail.kind in KEPT_GUARDRAILS:
            continue
        if guardrail.kind in ("harm", "response_rate"):
            yield from _weighed(spec, index, guardrail)
            continue
        yield Finding(
            ("guardrails", index, "kind"),
            f"{guardrail.kind} with kind {kind}: each arm serves other requests by their features, so arms differ and "
            "their means move without any harm; compare with the control by kind: harm, with a fixed limit by "
            "rate_limit, quantile_limit, event_rate or breaker, or write kind: thompson with cohorts",
            (_KIND, ("guardrails", index, "kind")),
        )


def _weighed(spec: ExperimentSpec, index: int, guardrail: Guardrail) -> Iterator[Finding]:
    """What rewards weighed request by request cannot say."""
    at: Loc = ("guardrails", index)
    kind = spec.allocator.kind
    place = spec.metric_index(guardrail.metric or "")
    metric = None if place is None else spec.metrics[place]
    if not spec.weighs:
        yield Finding(
            (*at, "kind"),
            f"{guardrail.kind} with {len(spec.features)} features and {len(spec.arms)} arms, of each of which a token "
            f"brings a byte back; allowed: {MAX_FEATURES} together; declare fewer, or compare with a fixed limit",
            (("features", ANY), ("arms", ANY), (*at, "kind")),
        )
    refused: list[tuple[str, bool, str]] = [
        (
            "method",
            guardrail.method != "exact",
            "asymptotic has no burn-in for weighed rewards; leave method out",
        ),
        (
            "cohorts",
            guardrail.cohorts != "all",
            "weighed rewards are not kept by cohort; leave cohorts out: the cohort's attribute may be a feature",
        ),
        (
            "metric",
            metric is not None and metric.kind is MetricKind.RATIO,
            "a ratio has no value of a single request to weigh; name one of its parts",
        ),
        (
            "metric",
            metric is not None and metric.default_when_silent is not None,
            "a decision without a reward leaves nothing to weigh; report the value of default_when_silent instead",
        ),
    ]
    for field, there, why in refused:
        if there:
            yield Finding(
                (*at, field),
                f"{guardrail.kind} with kind {kind}, which weighs arms request by request: {why}",
                (_KIND, (*at, field), ("metrics", ANY)),
            )

"""Hypothesis strategies for specs: any mapping they draw is a right spec file, edges of its types included."""

from __future__ import annotations

from typing import Any, get_args

from hypothesis import strategies as st

from bandit.spec.choice import AllocatorKind
from bandit.spec.features import LINEAR
from bandit.spec.guardrail import WARNINGS
from bandit.spec.model import MAX_ARMS, PPM, ExperimentSpec
from bandit.spec.parse import parse_mapping
from tests.dice import Dice, linear, may_part

# Numbers make names quickly; what a name may look like is the parser's matter.
NAMES = st.integers(0, 10**62 - 1).map(lambda number: f"a{number}".replace("7", "-"))
METRICS = st.integers(0, 10**62 - 1).map(lambda number: f"m{number}".replace("7", "_"))
WORDS = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), max_size=30)
SOLID = st.text(st.characters(codec="utf-8", exclude_categories=["C", "Z"]), min_size=1, max_size=30)
POSITIVE = st.floats(1e-9, 1e6)


DELAYS = st.sampled_from(
    [{"median": "99ms"}, {"median": "1ms", "p90": "0.099s"}, {"median": "2ms", "strength": 7.5}]
)
"""Within the shortest window."""


def spans(low_ms: int, high_ms: int) -> st.SearchStrategy[str]:
    """Durations as text, to the millisecond."""
    whole = st.integers(low_ms, high_ms)
    return whole.map(lambda ms: f"{ms // 1000}.{ms % 1000:03d}s")


def shares(low_ppm: int, high_ppm: int) -> st.SearchStrategy[float]:
    """Shares of whole ppm."""
    return st.integers(low_ppm, high_ppm).map(lambda ppm: ppm / PPM)


def optional(**values: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """A mapping of any of these keys."""
    return st.fixed_dictionaries({}, optional=values)


INTERVALS = st.tuples(st.floats(-1e12, 1e12), st.floats(-1e12, 1e12)).filter(lambda pair: pair[0] < pair[1])


EDGES = {
    "fraction": INTERVALS,
    "gaussian": INTERVALS,
    "poisson": st.tuples(st.just(0.0), st.integers(1, 10**9).map(float)),
    "exponential": st.tuples(st.just(0.0), st.floats(1e-9, 1e12)),
    "lognormal": st.tuples(st.floats(0.0, 1.0), st.floats(1.0, 1e12, exclude_min=True)),
    "revenue": st.tuples(st.just(0.0), st.floats(1e-9, 1e12)),
}
"""Ranges by kind."""


@st.composite
def metrics(draw: st.DrawFn, name: str) -> dict[str, Any]:
    """One metric with rewards of its own."""
    kind = draw(st.sampled_from(["bernoulli", "bernoulli", "gaussian", "rating", *EDGES]))
    metric = draw(optional(attribution_window=spans(100, 90 * 86_400_000)))
    metric |= {"name": name, "kind": kind, "direction": draw(st.sampled_from(["maximize", "minimize"]))}
    if kind == "rating":
        metric["levels"] = draw(levels())
        if draw(st.booleans()):
            metric["scores"] = metric["levels"][::-1]
    elif kind != "bernoulli":
        metric["range"] = list(draw(EDGES[kind]))
    elif draw(st.booleans()):
        metric["range"] = [0.0, 1.0]
    if kind in ("exponential", "lognormal", "revenue") and draw(st.booleans()):
        metric["winsorize"] = metric["range"][1]
    low, high = span(metric)
    if kind != "lognormal" and draw(st.booleans()):
        metric["default_when_silent"] = draw(st.sampled_from([low, high]))
        metric |= draw(optional(pending=st.sampled_from(["wait", "weigh"])))
    several = ["first", "last", "max"] if kind in ("bernoulli", "rating") else ["first", "last", "sum", "max"]
    metric |= draw(optional(aggregate=st.sampled_from(several)))
    inside = 0.5 * low + 0.5 * high
    if low < inside < high and draw(st.booleans()):
        metric["prior"] = {"mean": inside, **draw(optional(strength=POSITIVE))}
    metric |= draw(optional(delay=DELAYS))
    if high - low <= 1e12:
        metric |= draw(optional(plausible_lift=st.just(high - low)))
    return metric


@st.composite
def levels(draw: st.DrawFn) -> list[float]:
    """Levels of a rating, rising."""
    return sorted(draw(st.lists(st.integers(-9, 9).map(float), unique=True, min_size=2, max_size=16)))


def span(metric: dict[str, Any]) -> tuple[float, float]:
    """Least and most that the metric's mean can be."""
    worth = metric.get("levels") or metric.get("range", [0.0, 1.0])
    return worth[0], worth[-1]


@st.composite
def ratio(draw: st.DrawFn, parts: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """A ratio of two of these metrics, or nothing."""
    names = [part["name"] for part in parts if span(part)[0] >= 0.0]
    if len(names) < 2 or draw(st.booleans()):
        return []
    above, below = draw(st.permutations(names))[:2]
    found = {"name": "per", "kind": "ratio", "numerator": above, "denominator": below}
    return [found | {"direction": "minimize", "range": list(draw(INTERVALS))}]


@st.composite
def guardrails(draw: st.DrawFn, kinds: dict[str, str]) -> list[dict[str, Any]]:
    """Guardrails of these metrics (name to kind), no two alike."""
    found: list[dict[str, Any]] = []
    own = sorted(metric for metric, kind in kinds.items() if kind != "ratio")
    binary = [metric for metric, kind in kinds.items() if kind == "bernoulli"]
    limits = ["rate_limit", "breaker"] if binary else []
    for name in draw(st.lists(NAMES, unique=True, max_size=4)):
        kind = draw(
            st.sampled_from(["harm", "became_worse", "response_rate", "drift", "sample_ratio", *limits])
        )
        guardrail: dict[str, Any] = {"name": name, "kind": kind}
        if kind != "sample_ratio":
            guardrail["metric"] = draw(st.sampled_from(binary if kind in limits else own))
        # Values that differ by the number of guardrails before, so that no two check the same.
        step = 1 + len(found)
        if kind in ("harm", "became_worse", "response_rate"):
            guardrail["margin"] = 1.0 + step / draw(st.integers(5, 1000))
        elif kind in limits:
            guardrail["limit"] = step / draw(st.integers(7, 1000))
        if kind == "breaker":
            guardrail |= draw(optional(tail=st.floats(1e-300, 0.001)))
        if kind == "became_worse":
            guardrail |= draw(optional(run_length=st.floats(100, 1e12)))
        actions = ["hold", "flag"] if kind in WARNINGS else ["rollback", "hold", "flag"]
        if kind in WARNINGS or draw(st.booleans()):
            guardrail["action"] = draw(st.sampled_from(actions))
        guardrail |= draw(optional(priority=st.floats(1e-6, 1000)))
        if not any(_same(guardrail, other) for other in found):
            found.append(guardrail)
    return found


def _same(one: dict[str, Any], other: dict[str, Any]) -> bool:
    keys = ("kind", "metric", "limit", "margin", "tail", "run_length")
    return [one.get(key) for key in keys] == [other.get(key) for key in keys]


@st.composite
def arms(draw: st.DrawFn) -> list[dict[str, Any]]:
    """Two to six arms, one of them the control."""
    names = draw(st.lists(NAMES, unique=True, min_size=2, max_size=6))
    digests = draw(st.lists(SOLID, unique=True, min_size=len(names), max_size=len(names)))
    control = draw(st.integers(0, len(names) - 1))
    most = PPM // (2 * MAX_ARMS)
    found = []
    for index, (name, digest) in enumerate(zip(names, digests, strict=True)):
        arm = draw(optional(metadata=st.dictionaries(SOLID, WORDS, max_size=3)))
        arm["name"] = name
        if draw(st.booleans()):
            arm["digest"] = digest
        if index == control:
            arm |= {"control": True, "bounds": draw(optional(floor=shares(0, most)))}
        else:
            ramp = shares(1, PPM)
            arm["bounds"] = draw(optional(floor=shares(0, most), cap=shares(most, PPM), ramp_per_minute=ramp))
        found.append(arm)
    return found


@st.composite
def mappings(draw: st.DrawFn) -> dict[str, Any]:
    """A whole spec file as plain values."""
    names = draw(st.lists(METRICS, unique=True, min_size=1, max_size=5))
    streams = [draw(metrics(name)) for name in names]
    streams += draw(ratio(streams))
    names = [metric["name"] for metric in streams]
    kinds = {metric["name"]: metric["kind"] for metric in streams}
    ranges = {metric["name"]: list(span(metric)) for metric in streams}
    most = PPM // (2 * MAX_ARMS)
    found = draw(
        optional(
            hypothesis=WORDS,
            unit=optional(
                kind=st.sampled_from(["request", "session", "user", "tenant"]),
                mode=st.sampled_from(["sticky", "epoch", "request"]),
            )
            | st.fixed_dictionaries(
                {"kind": st.sampled_from(["user", "tenant"]), "mode": st.just("session")}
            ),
            cohorts=st.fixed_dictionaries(
                {
                    "attribute": SOLID,
                    "values": st.lists(SOLID.filter("other".__ne__), unique=True, min_size=1, max_size=4),
                }
            ),
            alpha=st.floats(1e-300, 0.5),
            decay=st.fixed_dictionaries({"half_life": spans(1000, 3650 * 86_400_000)}),
            rewards_without_token=st.booleans(),
            event_retention=st.just("0s") | spans(60_000, 90 * 86_400_000),
        )
    )
    found |= {"experiment": draw(NAMES), "arms": draw(arms()), "metrics": streams}
    for arm in found["arms"]:
        arm["prior"] = {
            stream["name"]: stream["prior"] for stream in streams if "prior" in stream and draw(st.booleans())
        }
        arm["delay"] = {
            stream["name"]: draw(DELAYS)
            for stream in streams
            if stream["kind"] != "ratio" and draw(st.booleans())
        }
    found["bounds"] = {
        "floor": draw(shares(0, most)),
        **draw(
            optional(cap=shares(most, PPM), ramp_per_minute=shares(1, PPM), control_floor=shares(0, PPM // 2))
        ),
    }
    found["objective"] = [
        {"metric": name, **draw(optional(weight=POSITIVE, scale=st.just(ranges[name])))}
        for name in draw(st.lists(st.sampled_from(names), unique=True, min_size=1))
    ]
    found["guardrails"] = draw(guardrails(kinds))
    kind = draw(st.sampled_from(get_args(AllocatorKind)))
    found["allocator"] = {"kind": kind}
    if kind == "fixed":
        _fix(found, draw)
    if kind == "top_two":
        found["allocator"] |= draw(optional(beta=st.floats(1e-6, 0.999)))
    if kind == "epsilon_greedy":
        found["allocator"] |= draw(optional(epsilon=st.floats(0, 1)))
    found["constraints"] = [
        draw(constraint(name, *ranges[name])) for name in draw(st.lists(st.sampled_from(names), unique=True))
    ]
    spent = [
        stream["name"]
        for stream in streams
        if stream["direction"] == "minimize" and stream["kind"] != "ratio" and ranges[stream["name"]][0] >= 0
    ]
    if spent and kind != "fixed" and draw(st.booleans()):
        found["budget"] = {"metric": draw(st.sampled_from(spent)), "per_day": draw(POSITIVE)}
    if kind in LINEAR:
        linear(Dice(draw(st.integers(0, 1 << 32))), found)
        if "features" not in found:
            found["allocator"] = {"kind": "thompson"}
    if may_part(found):
        found["cohorts"] |= draw(
            optional(apart=optional(probability=st.floats(0.501, 0.999), min_decisions=st.integers(1, 10**9)))
        )
    return found


@st.composite
def constraint(draw: st.DrawFn, metric: str, low: float, high: float) -> dict[str, Any]:
    """A bound on the mean of a metric with this range."""
    found: dict[str, Any] = {"metric": metric, **draw(optional(probability=st.floats(0.5, 0.999)))}
    if draw(st.booleans()) or high - low < 1e-300:
        found["limit"] = draw(st.floats(low, high, exclude_min=True, exclude_max=True))
    else:
        found["within"] = draw(st.floats(0, min(high - low, 1e12), exclude_min=True, exclude_max=True))
    return found


def _fix(found: dict[str, Any], draw: st.DrawFn) -> None:
    """Weights for every arm, to the ppm, within bounds that allow any."""
    found["bounds"] = {"floor": 0.0, "control_floor": 0.0}
    for arm in found["arms"]:
        arm.pop("bounds", None)
    names = [arm["name"] for arm in found["arms"]]
    cuts = sorted(draw(st.lists(st.integers(0, PPM), min_size=len(names) - 1, max_size=len(names) - 1)))
    edges = zip([0, *cuts], [*cuts, PPM], strict=True)
    weights = {name: (high - low) / PPM for name, (low, high) in zip(names, edges, strict=True)}
    found["allocator"]["weights"] = weights


def specs() -> st.SearchStrategy[ExperimentSpec]:
    """Right specs."""
    return mappings().map(parse_mapping)

"""The JSON Schema of a spec file, for editors and gateways; the parser does not use it and checks more."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bandit.spec.guardrail import WARNINGS
from bandit.spec.metric import RANGED
from bandit.spec.model import ExperimentSpec, format_duration

DIALECT = "https://json-schema.org/draft/2020-12/schema"
TITLE = "banditd experiment"


def json_schema() -> dict[str, Any]:
    """The schema (draft 2020-12) of an experiment's YAML file: shares are numbers in [0, 1], durations are text.

    Beside the fields it holds the rules that it can express: one control, limit or margin by the guardrail's kind,
    weights by the allocator's, one bound in each constraint, a range for each gaussian metric. Rules over names and
    sums are the parser's alone.
    """
    schema = ExperimentSpec.model_json_schema()
    for part in _parts(schema):
        part.pop("title", None)
        if "pattern" in part and isinstance(part.get("default"), float):
            part["default"] = format_duration(part["default"])
    parts = schema["$defs"]
    schema["properties"]["arms"] |= {
        "contains": {"properties": {"control": {"const": True}}, "required": ["control"]},
        "minContains": 1,
        "maxContains": 1,
    }
    parts["Metric"]["allOf"] = [
        *(_when(kind, {"required": ["range"]}) for kind in sorted(RANGED)),
        _when("rating", _filled("levels"), _without("levels", "scores")),
        _when("ratio", {"required": ["numerator", "denominator"]}, _without("numerator", "denominator")),
    ]
    parts["Guardrail"]["allOf"] = [*_guardrail()]
    parts["Constraint"]["oneOf"] = [_number("limit"), _number("within")]
    parts["Allocator"] |= _when("fixed", {"required": ["weights"]}, _without("weights"))
    parts["Feature"]["allOf"] = [
        _when("numeric", {"required": ["low", "high"]}, _without("low", "high")),
        _when("categorical", {"required": ["values"]}, _without("values")),
        _when("hashed", {"required": ["buckets"]}, _without("buckets")),
    ]
    parts["Allocator"]["properties"]["weights"]["additionalProperties"] = False
    return {"$schema": DIALECT, "title": TITLE, **schema}


def _guardrail() -> Iterator[dict[str, Any]]:
    """What each kind of guardrail needs and may not have."""
    share = {"properties": {"limit": {"exclusiveMinimum": 0, "exclusiveMaximum": 1}}}
    for kind in ("rate_limit", "breaker"):
        yield _when(kind, {"required": ["metric", "limit"], **share})
    yield _when("event_rate", {"required": ["metric", "limit"]})
    yield _when("quantile_limit", {"required": ["metric", "limit", "quantile"]})
    yield _when("quantile_harm", {"required": ["metric", "quantile", "between"], **_without("limit")})
    for kind in ("harm", "became_worse"):
        yield _when(kind, {"required": ["metric"], **_without("limit")})
    warned = {
        "required": ["action"],
        "properties": {"action": {"enum": ["hold", "flag"]}, "limit": {"const": None}},
    }
    for kind in sorted(WARNINGS):
        needed = [] if kind == "sample_ratio" else ["metric"]
        yield _when(kind, {**warned, "required": ["action", *needed]})


def _when(kind: str, then: dict[str, Any], otherwise: dict[str, Any] | None = None) -> dict[str, Any]:
    condition: dict[str, Any] = {
        "if": {"properties": {"kind": {"const": kind}}, "required": ["kind"]},
        "then": then,
    }
    return condition | ({"else": otherwise} if otherwise else {})


def _without(*keys: str) -> dict[str, Any]:
    """No value at these keys; the empty ones that say the same are allowed."""
    return {"properties": {key: {"enum": [None, {}, []]} for key in keys}}


def _filled(key: str) -> dict[str, Any]:
    return {"properties": {key: {"minItems": 2}}, "required": [key]}


def _number(key: str) -> dict[str, Any]:
    return {"properties": {key: {"type": "number"}}, "required": [key]}


def _parts(part: object) -> Iterator[dict[str, Any]]:
    """Every schema within a schema, itself first."""
    if isinstance(part, dict):
        yield part
        for name, inner in part.items():
            yield from (
                _named(inner) if name in ("properties", "$defs", "patternProperties") else _parts(inner)
            )
    elif isinstance(part, list):
        for inner in part:
            yield from _parts(inner)


def _named(parts: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for inner in parts.values():
        yield from _parts(inner)

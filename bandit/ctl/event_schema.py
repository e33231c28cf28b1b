"""The JSON Schema of a plain reward event, as sources, HTTP and `ingest file` read it; made from the proto's fields."""

from __future__ import annotations

from typing import Any

from google.protobuf.descriptor import FieldDescriptor

from bandit.v1.reward_service_pb2 import RewardEvent, RewardOperation

DIALECT = "https://json-schema.org/draft/2020-12/schema"
_MEANING = {
    "token": "from the decide reply; left out where experiment, arm and unit name the decision",
    "metric": "name of the metric",
    "value": "the observed number; a text is none",
    "event_id": "id of the event: needed without a token, and for rewards that are summed",
    "event_time": "when it happened, with its zone; at most a minute ahead",
    "experiment": "without a token: experiments/NAME",
    "arm": "without a token: name of the arm",
    "unit": "without a token: the unit",
    "operation": "report when left out",
    "sequence": "order among corrections; below 2^64",
}


def event_schema() -> dict[str, Any]:
    """Every field under both of its names. What the schema allows is read; whether it counts is the spec's to say."""
    fields = {}
    for field in RewardEvent.DESCRIPTOR.fields:
        shape = {**_shape(field), "description": _MEANING[field.name]}
        fields[field.name] = shape
        fields[field.json_name] = shape
    return {
        "$schema": DIALECT,
        "title": "RewardEvent",
        "type": "object",
        "properties": fields,
        "additionalProperties": False,
        "not": {"anyOf": [{"required": list(pair)} for pair in _pairs()]},
    }


def _pairs() -> list[tuple[str, str]]:
    """Two names of the same field, which may not both be there."""
    named = [(field.name, field.json_name) for field in RewardEvent.DESCRIPTOR.fields]
    return [(name, json_name) for name, json_name in named if name != json_name]


def _shape(field: FieldDescriptor) -> dict[str, Any]:
    if field.type == FieldDescriptor.TYPE_BYTES:
        return {
            "type": ["string", "null"],
            "contentEncoding": "base64",
            "pattern": "^[A-Za-z0-9+/_-]*={0,2}$",
        }
    if field.type == FieldDescriptor.TYPE_DOUBLE:
        return {"type": ["number", "null"]}
    if field.type == FieldDescriptor.TYPE_ENUM:
        return {"enum": [*RewardOperation.keys(), *RewardOperation.values(), None]}
    if field.type == FieldDescriptor.TYPE_UINT64:
        return {
            "anyOf": [
                {"type": "integer", "minimum": 0, "maximum": (1 << 64) - 1},
                {"type": "string", "pattern": "^[0-9]{1,20}$"},
                {"type": "null"},
            ]
        }
    if field.type == FieldDescriptor.TYPE_MESSAGE:
        return {"type": ["string", "null"], "format": "date-time"}
    return {"type": ["string", "null"]}

"""Protos as JSON documents for scripts: the proto's own field names, every field, counts as numbers."""

from __future__ import annotations

import json
from typing import Any, cast

from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.json_format import MessageToDict
from google.protobuf.message import Message

from bandit.ctl.text import token_text

_WIDE = (FieldDescriptor.CPPTYPE_INT64, FieldDescriptor.CPPTYPE_UINT64)


def document(message: Message) -> dict[str, Any]:
    """A message as plain values.

    As proto JSON, but int64 are numbers (as text they would compare wrongly in scripts; ours stay below 2^53) and
    bytes are base64url without padding; readers of proto JSON take both.
    """
    values = MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    _mend(message, values)
    return values


def dumps(values: object, *, indent: int | None = 2) -> str:
    """JSON text, one document."""
    return json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False)


def _mend(message: Message, values: dict[str, Any]) -> None:
    for field in cast("list[FieldDescriptor]", message.DESCRIPTOR.fields):
        if field.name not in values:
            continue
        value = values[field.name]
        if field.cpp_type in _WIDE:
            values[field.name] = [int(each) for each in value] if field.is_repeated else int(value)
        elif field.type == FieldDescriptor.TYPE_BYTES:
            values[field.name] = token_text(getattr(message, field.name))
        elif isinstance(value, dict) and isinstance(inner := getattr(message, field.name), Message):
            _mend(inner, value)
        elif isinstance(value, list) and field.message_type is not None:
            for each, inner in zip(value, getattr(message, field.name), strict=True):
                _mend(inner, each)

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
    return _mended(message, values)


def dumps(values: object, *, indent: int | None = 2) -> str:
    """JSON text, one document."""
    return json.dumps(values, indent=indent, ensure_ascii=False, allow_nan=False)


def _mended(message: Message, values: dict[str, Any]) -> dict[str, Any]:
    """The values of a message in the order of its fields."""
    found: dict[str, Any] = {}
    for field in cast("list[FieldDescriptor]", message.DESCRIPTOR.fields):
        if field.name not in values:
            continue
        value, held = values[field.name], getattr(message, field.name)
        if field.cpp_type in _WIDE:
            value = [int(each) for each in value] if field.is_repeated else int(value)
        elif field.message_type is not None and field.message_type.GetOptions().map_entry:
            wide = field.message_type.fields_by_name["value"].cpp_type in _WIDE
            value = {key: int(each) if wide else each for key, each in value.items()}
        elif field.type == FieldDescriptor.TYPE_BYTES:
            value = token_text(held)
        elif isinstance(value, dict) and isinstance(held, Message):
            value = _mended(held, value)
        elif isinstance(value, list) and field.message_type is not None:
            value = [_mended(inner, each) for each, inner in zip(value, held, strict=True)]
        found[field.name] = value
    return found

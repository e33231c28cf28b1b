"""Enum values of the wire as the words of a spec file; light, so that a command that needs no more starts quickly."""

from __future__ import annotations

import re

from google.protobuf.descriptor import EnumDescriptor

_CAPITAL = re.compile(r"(?<=[a-z])(?=[A-Z])")


def enum_text(enum: EnumDescriptor, number: int) -> str:
    """``sticky`` for UNIT_MODE_STICKY; the number for one that this version does not know."""
    value = enum.values_by_number.get(number)
    return str(number) if value is None else value.name.removeprefix(enum_prefix(enum)).lower()


def enum_prefix(enum: EnumDescriptor) -> str:
    """``UNIT_MODE_`` for UnitMode."""
    return _CAPITAL.sub("_", enum.name).upper() + "_"

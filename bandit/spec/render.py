"""A spec as canonical YAML for people and as a plain mapping for the store; both parse back to the same spec.

The YAML leaves out what is at its default. The mapping leaves out nothing: what is stored means the same after a
default has moved.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

from pydantic import BaseModel

from bandit.spec.metric import RANGED, Metric
from bandit.spec.model import ExperimentSpec
from bandit.spec.quantity import DURATION_PATTERN
from bandit.spec.scalar import resolve

# Text that no reader of YAML 1.1 or 1.2 takes for anything else, when it resolves to text and holds no ": ".
_PLAIN = re.compile(r"[A-Za-z][A-Za-z0-9 _./@+,;?!'():-]*")
_SHORT_WORDS = frozenset("yYnN")
_DURATION = re.compile(DURATION_PATTERN)
_BLOCK = re.compile(r"\S.*\S|\S|")
_ESCAPES = {'"': '\\"', "\\": "\\\\", "\n": "\\n", "\t": "\\t", "\r": "\\r"}
_PRINTABLE = re.compile(
    "[ -~\u00a1-\u2027\u2030-\u205e\u2070-\ud7ff\uf900-\ufefe\uff00-\ufffc\U00010000-\U0001ffff]"
)


def to_mapping(spec: ExperimentSpec) -> dict[str, Any]:
    """Every field as JSON-able values: shares in [0, 1], durations as text; ``parse_mapping`` reads it back."""
    return spec.model_dump(mode="json")


def to_short_mapping(part: BaseModel) -> dict[str, Any]:
    """The fields of a spec, or of a part of one, that are required or not at their default."""
    return _short(part, part.model_dump(mode="json"))


def render_yaml(spec: ExperimentSpec) -> str:
    """The spec as YAML with its keys in fixed order; ``parse_yaml`` reads it back."""
    return "\n".join(_mapping_lines(to_short_mapping(spec), "")) + "\n"


def _short(part: BaseModel, plain: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, field in type(part).model_fields.items():
        value = getattr(part, name)
        must = field.is_required() or (isinstance(part, Metric) and name == "range" and part.kind in RANGED)
        if must or value != field.get_default(call_default_factory=True):
            kept[name] = _short_value(value, plain[name])
    return kept


def _short_value(value: object, plain: Any) -> Any:
    if isinstance(value, BaseModel):
        return _short(value, plain)
    if isinstance(value, tuple):
        return [_short_value(item, inner) for item, inner in zip(value, plain, strict=True)]
    if isinstance(value, dict):
        return {key: _short_value(item, plain[key]) for key, item in value.items()}
    return plain


def _mapping_lines(mapping: dict[str, Any], indent: str) -> Iterator[str]:
    for key, value in mapping.items():
        yield from _entry_lines(f"{indent}{_text(key)}:", value, indent)


def _entry_lines(head: str, value: Any, indent: str) -> Iterator[str]:
    deeper = indent + "  "
    if value == {}:
        yield f"{head} {{}}"  # a part that is there, all of it at its defaults; nothing would mean that it is not
    elif isinstance(value, dict):
        yield head
        yield from _mapping_lines(value, deeper)
    elif isinstance(value, list) and all(isinstance(item, float) for item in value):
        yield f"{head} [{', '.join(map(_number, value))}]"
    elif isinstance(value, list):
        yield head
        for item in value:
            lines = list(_mapping_lines(item, "")) if isinstance(item, dict) else [_scalar(item)]
            yield f"{deeper}- {lines[0]}"
            yield from (f"{deeper}  {line}" for line in lines[1:])
    elif isinstance(value, str) and _fits_block(value):
        yield f"{head} {'|' if value.endswith(chr(10)) else '|-'}"
        yield from (deeper + line if line else "" for line in value.removesuffix("\n").split("\n"))
    else:
        yield f"{head} {_scalar(value)}"


def _scalar(value: object) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    return _number(value) if isinstance(value, float) else _text(str(value))


def _number(value: float) -> str:
    if value == int(value) and abs(value) < 1e15:
        return str(int(value))
    mantissa, e, exponent = repr(value).partition("e")
    # Without the point a reader of YAML 1.1 takes 1e-06 for text.
    return f"{mantissa}.0e{exponent}" if e and "." not in mantissa else repr(value)


def _text(text: str) -> str:
    plain = _PLAIN.fullmatch(text) and ": " not in text and text[-1] not in ": " and text not in _SHORT_WORDS
    if _DURATION.fullmatch(text) or (plain and isinstance(resolve(text), str)):
        return text
    return f'"{"".join(map(_escaped, text))}"'


def _escaped(character: str) -> str:
    if character in _ESCAPES:
        return _ESCAPES[character]
    if _PRINTABLE.fullmatch(character):
        return character
    code = ord(character)
    return f"\\u{code:04X}" if code <= 0xFFFF else f"\\U{code:08X}"


def _fits_block(text: str) -> bool:
    lines = text.removesuffix("\n").split("\n")
    if len(lines) < 2 or not (lines[0] and lines[-1]):
        return False
    return all(_BLOCK.fullmatch(line) and all(map(_PRINTABLE.fullmatch, line)) for line in lines)

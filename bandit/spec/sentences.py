"""Errors of the types in our own words: what was seen, what is allowed, what to do; it validates nothing."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from difflib import get_close_matches
from enum import Enum
from typing import Any, Literal, NamedTuple, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from bandit.ids import METRIC_PATTERN, METRIC_RULE, NAME_PATTERN, NAME_RULE
from bandit.spec.finding import Loc, cut
from bandit.spec.model import ExperimentSpec
from bandit.spec.scalar import Odd

_LONGEST_KEY = 60
_SIGNS = {"ge": "at least", "gt": "above", "le": "at most", "lt": "below"}
# What operators write from habit: the key that says it here.
_SYNONYMS = {
    "algorithm": "allocator",
    "baseline": "control",
    "ceiling": "cap",
    "goal": "direction",
    "id": "name",
    "lower": "floor",
    "max": "cap",
    "min": "floor",
    "policy": "allocator",
    "significance": "alpha",
    "threshold": "limit",
    "ttl": "attribution_window",
    "type": "kind",
    "upper": "cap",
    "variants": "arms",
    "window": "attribution_window",
}


class Seen(NamedTuple):
    """One error of the types: its ``kind``, the ``value`` at ``loc``, and how that was written without quotes.

    ``root``: the type of the whole document."""

    kind: str
    loc: Loc
    value: object
    terms: Mapping[str, Any]
    written: str | None
    message: str
    root: type[BaseModel] = ExperimentSpec

    def shown(self) -> str:
        """The value in few words."""
        if self.value is None:
            return "nothing"
        return show(self.value) if self.written is None else cut(self.written)


def explain(seen: Seen) -> str:
    """The sentence for an error."""
    return _RULES.get(seen.kind, _other)(seen)


def show(value: object) -> str:
    """A value in few words, on one line."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, Mapping):
        return "a mapping"
    if isinstance(value, list | tuple):
        return "a list"
    text = repr(value) if isinstance(value, str | int | float | Odd) else f"a {type(value).__name__}"
    return cut(text)


def suggest(loc: Loc, root: type[BaseModel] = ExperimentSpec) -> tuple[str, ...] | None:
    """The keys, below the mapping that holds the unknown key ``loc[-1]``, which that key may stand for."""
    model = model_at(loc[:-1], root)
    key = str(loc[-1])
    if model is None or len(key) > _LONGEST_KEY:
        return None
    nested = {
        inner: (name, inner)
        for name, field in model.model_fields.items()
        if (part := model_in(field.annotation)) and not _many(field)
        for inner in part.model_fields
    }
    known = {**nested, **{name: (name,) for name in model.model_fields}}
    meant = key if key in known else _SYNONYMS.get(key.lower(), "")
    if meant in known:
        return known[meant]
    near = get_close_matches(key.lower(), model.model_fields, 1) or get_close_matches(
        key.lower(), nested, 1, 0.8
    )
    return known[near[0]] if near else None


def model_at(loc: Loc, root: type[BaseModel] = ExperimentSpec) -> type[BaseModel] | None:
    """The type of the mapping at ``loc``; None where keys are free."""
    field = field_at(loc, root)
    if not loc:
        return root
    if field is None or (get_origin(field.annotation) is dict and field_at(loc[:-1], root) is not field):
        return None
    return model_in(field.annotation)


def field_at(loc: Loc, root: type[BaseModel] = ExperimentSpec) -> FieldInfo | None:
    """The innermost field on the way to ``loc``."""
    model: type[BaseModel] | None = root
    field, free = None, False
    for key in loc:
        if free:
            free = False
        elif isinstance(key, str) and model:
            if key not in model.model_fields:
                break
            field = model.model_fields[key]
            model = model_in(field.annotation)
            free = get_origin(field.annotation) is dict
    return field


def model_in(annotation: object) -> type[BaseModel] | None:
    """The model that an annotation holds, however deep."""
    if inspect.isclass(annotation) and issubclass(annotation, BaseModel):
        return annotation
    return next(filter(None, map(model_in, get_args(annotation))), None)


def _many(field: FieldInfo) -> bool:
    return get_origin(field.annotation) is tuple


def _parts(annotation: object) -> Iterator[object]:
    yield annotation
    for part in (*get_args(annotation), *getattr(annotation, "metadata", ())):
        yield from _parts(part)


def _limits(field: FieldInfo | None) -> dict[str, float]:
    if field is None:
        return {}
    parts = [part for root in (field.annotation, *field.metadata) for part in _parts(root)]
    return {sign: getattr(part, sign) for part in parts for sign in _SIGNS if hasattr(part, sign)}


def _choices(field: FieldInfo | None) -> list[str]:
    annotation = field.annotation if field else None
    if get_origin(annotation) is Literal:
        return [str(choice) for choice in get_args(annotation)]
    if inspect.isclass(annotation) and issubclass(annotation, Enum):
        return [str(choice.value) for choice in annotation]
    return []


def _described(seen: Seen) -> str:
    field = field_at(seen.loc, seen.root)
    return field.description or "" if field else ""


def _or_leave_out(seen: Seen) -> str:
    field = field_at(seen.loc, seen.root)
    return (
        "" if field is None or field.is_required() or isinstance(seen.loc[-1], int) else ", or leave it out"
    )


def _missing(seen: Seen) -> str:
    if isinstance(seen.loc[-1], int):
        return "fewer than two numbers; write [low, high]"
    return f"missing; add {seen.loc[-1]} ({_described(seen)})"


def _unknown_key(seen: Seen) -> str:
    model = model_at(seen.loc[:-1], seen.root)
    near = suggest(seen.loc, seen.root)
    hint = f"did you mean {'.'.join(near)}? " if near else ""
    return f"unknown key; {hint}allowed: {', '.join(model.model_fields) if model else 'none'}"


def _pattern(seen: Seen) -> str:
    text = str(seen.value)
    pattern = seen.terms.get("pattern")
    if pattern not in (NAME_PATTERN, METRIC_PATTERN):
        return f"{seen.shown()} holds a space; it is one word: leave the space out"
    join, rule = ("-", NAME_RULE) if pattern == NAME_PATTERN else ("_", METRIC_RULE)
    better = re.sub(r"[^a-z0-9]+", join, text.lower()).strip(join)[:63]
    hint = f", for example {better}" if re.search(pattern, better) else ""
    return f"{seen.shown()} is not a name; use {rule}{hint}"


def _text(seen: Seen) -> str:
    if seen.value is None:
        return _nothing(seen, "text, in quotes if it looks like a number")
    if seen.written is None:
        return f"{seen.shown()} is not text; write text, in quotes"
    why = (
        "is true or false to some YAML readers"
        if isinstance(seen.value, Odd) and seen.value.word
        else "is not text"
    )
    return f'{seen.shown()} without quotes {why}; write "{cut(seen.written)}"'


def _long_text(seen: Seen) -> str:
    return f"{len(str(seen.value))} characters; at most {seen.terms['max_length']}: shorten it"


def _nothing(seen: Seen, what: str) -> str:
    return f"nothing is written here; write {what}{_or_leave_out(seen)}"


def _boolean(seen: Seen) -> str:
    if seen.value is None:
        return _nothing(seen, "true or false")
    text = str(seen.value).lower()
    meant = {
        "yes": "true",
        "on": "true",
        "true": "true",
        "no": "false",
        "off": "false",
        "false": "false",
    }.get(text)
    if meant is None:
        return f"{seen.shown()} is not true or false; write one of them"
    quotes = " without quotes" if isinstance(seen.value, str) else ""
    return f"{seen.shown()} is not true or false to every reader; write {meant}{quotes}"


def _choice(seen: Seen) -> str:
    choices = _choices(field_at(seen.loc, seen.root))
    if seen.value is None:
        return _nothing(seen, _either(choices))
    near = get_close_matches(str(seen.value)[:_LONGEST_KEY].lower(), choices, 1)
    hint = f"; did you mean {near[0]}?" if near else ""
    return f"{seen.shown()} is not allowed; write {_either(choices)}{hint}"


def _either(choices: Sequence[str]) -> str:
    return " or ".join(filter(None, (", ".join(choices[:-1]), *choices[-1:])))


def _not_a_number(seen: Seen) -> str:
    value, limits = seen.value, _allowed(seen)
    if value is None:
        return _nothing(seen, f"a number{limits}")
    if isinstance(value, Odd) and not value.word:
        return f"{seen.shown()} is a different number to different YAML readers; write plain decimal digits{limits}"
    if isinstance(value, str):
        text = value.strip()
        if re.fullmatch(r"[-+]?\.?(nan|inf|infinity)", text, re.IGNORECASE):
            return f"{seen.shown()} is not a finite number; write one{limits}"
        if re.fullmatch(r"[-+]?[0-9.]+([eE][-+]?[0-9]+)?", text):
            return f"{seen.shown()} is text; write the number without quotes: {text[:_LONGEST_KEY]}{limits}"
        if per_cent := re.fullmatch(r"([0-9]{1,3}(?:\.[0-9]{1,9})?) ?%", text):
            return f"{seen.shown()} is text; write a number: {float(per_cent[1]) / 100:.10g}{limits}"
        if re.fullmatch(r"[-+]?[0-9]{1,15},[0-9]{1,15}", text):
            return f"{seen.shown()} is text; write the decimal point: {text.replace(',', '.')}{limits}"
    return f"{seen.shown()} is not a number; write one{limits}"


def _whole_number(seen: Seen) -> str:
    limits = _allowed(seen)
    if seen.value is None:
        return _nothing(seen, f"a whole number{limits}")
    return f"{seen.shown()} is not a whole number; write plain decimal digits{limits}"


def _not_finite(seen: Seen) -> str:
    return f"{seen.shown()} is not a finite number; write one{_allowed(seen)}"


def _beyond(seen: Seen) -> str:
    limits = _limits(field_at(seen.loc, seen.root))
    per_cent = isinstance(seen.value, int | float) and 1 < seen.value <= 100
    hint = ""
    if per_cent and 1 in (limits.get("le"), limits.get("lt")):
        hint = f"; for {seen.value:g} % write {float(str(seen.value)) / 100:.10g}"
    return f"{seen.shown()} is not allowed{_allowed(seen)}{hint}"


def _allowed(seen: Seen) -> str:
    limits = _limits(field_at(seen.loc, seen.root))
    if "ge" in limits and "le" in limits:
        return f"; allowed: {limits['ge']:.15g} to {limits['le']:.15g}"
    words = " and ".join(f"{words} {limits[sign]:.15g}" for sign, words in _SIGNS.items() if sign in limits)
    return f"; allowed: {words}" if words else ""


def _mapping(seen: Seen) -> str:
    model = model_at(seen.loc, seen.root)
    keys = ", ".join(list(model.model_fields)[:4]) if model else "name: value"
    if seen.value is None:
        return _nothing(seen, f"its keys ({keys}) below it, indented")
    return f"{seen.shown()} is not a mapping; write its keys ({keys}) below it, indented"


def _sequence(seen: Seen) -> str:
    what = (
        "two numbers: [low, high]"
        if seen.loc[-1] in ("range", "scale")
        else "its items below it, each after '- '"
    )
    if seen.value is None:
        return _nothing(seen, what)
    return f"{seen.shown()} is not a list; write {what}"


def _count(seen: Seen) -> str:
    length = len(seen.value) if isinstance(seen.value, list | dict) else 0
    least, most = seen.terms.get("min_length"), seen.terms.get("max_length")
    if seen.loc[-1] in ("range", "scale"):
        return f"a list of {length}; write two numbers: [low, high]"
    if least is not None:
        return f"{length} given; at least {least} needed ({_described(seen)}): add what is missing"
    return f"{length} given; at most {most} allowed: remove some"


def _own(seen: Seen) -> str:
    if seen.value is None:
        return _nothing(seen, "a number and ms, s, m, h, d or w, for example 30m")
    return seen.message.replace(repr(seen.value), seen.shown())


def _other(seen: Seen) -> str:
    return f"{seen.shown()} is not allowed ({seen.message}); write what the schema allows"


_RULES: dict[str, Callable[[Seen], str]] = {
    "bool_type": _boolean,
    "dict_type": _mapping,
    "enum": _choice,
    "extra_forbidden": _unknown_key,
    "finite_number": _not_finite,
    "greater_than": _beyond,
    "greater_than_equal": _beyond,
    "int_from_float": _whole_number,
    "int_parsing": _whole_number,
    "int_parsing_size": _whole_number,
    "int_type": _whole_number,
    "less_than": _beyond,
    "less_than_equal": _beyond,
    "literal_error": _choice,
    "missing": _missing,
    "model_type": _mapping,
    "not_a_duration": _own,
    "not_a_number": _not_a_number,
    "not_finite": _not_finite,
    "share_too_small": _own,
    "string_pattern_mismatch": _pattern,
    "string_too_long": _long_text,
    "string_too_short": lambda seen: "the text is empty; write at least one character",
    "string_type": _text,
    "string_unicode": lambda seen: "half of a surrogate pair, which is no character; leave it out",
    "too_long": _count,
    "too_short": _count,
    "tuple_type": _sequence,
    "value_error": lambda seen: str(seen.terms["error"]),
}

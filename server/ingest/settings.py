"""The tables ``[[sources]]`` of the configuration as checked settings of each kind, or every mistake at once.

A kind's settings are a frozen dataclass; each field says by ``setting`` what it may be, and whether it is secret.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, Field, asdict, field, fields
from typing import Any, TypeVar

from bandit.errors import InvalidArgument, Violation
from server.config.layers import nearest
from server.config.values import MASKED, Parse, mask, seconds
from server.ingest.base import Alarms, Chosen, Kind

T = TypeVar("T")
MOST_SOURCES = 32
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")
# Doors that are always there, and all that are beyond the first so many: events are counted under these names.
RESERVED = ("grpc", "http", "file", "other")


def setting(parse: Parse, meaning: str, *, secret: bool = False, **default: Any) -> Any:
    """A field of a kind's settings: ``default`` or ``default_factory`` as of a dataclass, none when it must be given.

    ``parse`` takes a TOML value or raises ValueError(what is allowed).
    """
    return field(metadata={"parse": parse, "meaning": meaning, "secret": secret}, **default)


def text(most: int = 1000) -> Parse:
    """A text that is not empty."""

    def parse(raw: object) -> str:
        if not isinstance(raw, str) or not 0 < len(raw) <= most or "\0" in raw:
            raise ValueError(f"a text of 1 to {most} characters")
        return raw

    return parse


def texts(most: int = 100) -> Parse:
    """A list of texts that are not empty; one alone may stand for itself."""
    one = text()

    def parse(raw: object) -> tuple[str, ...]:
        listed = [raw] if isinstance(raw, str) else raw
        if not isinstance(listed, list | tuple) or not 0 < len(listed) <= most:
            raise ValueError(f"1 to {most} texts")
        return tuple(one(each) for each in listed)

    return parse


def read(tables: Sequence[Mapping[str, object]], kinds: Mapping[str, Kind]) -> list[Chosen]:
    """The configured sources in order. Raises InvalidArgument with every mistake of every table."""
    faults: list[Violation] = []
    chosen: list[Chosen] = []
    if len(tables) > MOST_SOURCES:
        faults.append(Violation("sources", f"{len(tables)} sources; at most {MOST_SOURCES} are read by one"))
    for index, table in enumerate(tables):
        where = f"sources[{index}]"
        found = list(_head(where, table, kinds, {each.name for each in chosen}))
        faults += found
        if not found:
            kind = str(table["kind"])
            named = f"{where} ({table['name']})"
            alarms, wrong = _alarms(named, table)
            settings, more = _settings(named, table, kinds[kind])
            faults += wrong + more
            if settings is not None:
                chosen.append(Chosen(str(table["name"]), kind, settings, alarms))
    if faults:
        text = "; ".join(f"{fault.field}: {fault.description}" for fault in faults)
        raise InvalidArgument(text, reason="BAD_CONFIG", violations=faults)
    return chosen


def shown(chosen: Chosen) -> dict[str, object]:
    """A source as plain values fit for logs: secrets and passwords of URLs are masked."""
    values: dict[str, object] = {"name": chosen.name, "kind": chosen.kind, **asdict(chosen.alarms)}
    for each in _fields(type(chosen.settings)):
        value = getattr(chosen.settings, each.name)
        if each.metadata["secret"]:
            value = MASKED if value else ""
        elif isinstance(value, str):
            value = mask(value) if "://" in value else value
        values[each.name] = list(value) if isinstance(value, tuple) else value
    return values


def _head(
    where: str, table: Mapping[str, object], kinds: Mapping[str, Kind], taken: set[str]
) -> Iterator[Violation]:
    name, kind = table.get("name"), table.get("kind")
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        yield Violation(
            f"{where}.name",
            f"{name!r} is not allowed; lower-case letters, digits and hyphens, at most 41, a letter first",
        )
    elif name in RESERVED or name in taken:
        why = (
            "is the name of a door that is always there" if name in RESERVED else "is the name of two sources"
        )
        yield Violation(
            f"{where}.name", f"{name!r} {why}; take another, and keep it: positions are kept by it"
        )
    if kind not in kinds:
        yield Violation(f"{where}.kind", f"{kind!r} is not known; {nearest(str(kind), kinds)}")


def _alarms(where: str, table: Mapping[str, object]) -> tuple[Alarms, list[Violation]]:
    faults: list[Violation] = []
    values: dict[str, float] = {}
    for name, parse in _ALARMS.items():
        if name in table:
            try:
                values[name] = parse(table[name])
            except ValueError as allowed:
                seen = f"{table[name]!r} is not allowed; it is to be {allowed}"
                faults.append(Violation(f"{where}.{name}", seen))
    return Alarms(**values), faults


def _share(raw: object) -> float:
    if isinstance(raw, bool) or not isinstance(raw, int | float) or not 0 <= raw <= 1:
        raise ValueError("a share from 0 to 1")
    return float(raw)


_ALARMS: dict[str, Parse] = {"silence_s": seconds(0, 30 * 86_400), "join_share": _share}
_OF_ALL = ("name", "kind", *_ALARMS)


def _settings(where: str, table: Mapping[str, object], kind: Kind) -> tuple[object, list[Violation]]:
    faults: list[Violation] = []
    known = {each.name: each for each in _fields(kind.settings)}
    values: dict[str, object] = {}
    for name, raw in table.items():
        if name in _OF_ALL:
            continue
        if name not in known:
            hint = nearest(name, [*known, *_OF_ALL])
            faults.append(Violation(f"{where}.{name}", f"no such setting; {hint}"))
            continue
        try:
            values[name] = known[name].metadata["parse"](raw)
        except ValueError as allowed:
            seen = MASKED if known[name].metadata["secret"] else mask(raw) if isinstance(raw, str) else raw
            faults.append(Violation(f"{where}.{name}", f"{seen!r} is not allowed; it is to be {allowed}"))
    for name, each in known.items():
        needed = each.default is MISSING and each.default_factory is MISSING
        if needed and name not in table:
            faults.append(Violation(f"{where}.{name}", f"is missing; it is to be {each.metadata['meaning']}"))
    if faults:
        return None, faults
    try:
        return kind.settings(**values), []
    except ValueError as error:  # of two settings that contradict each other
        return None, [Violation(where, str(error))]


def _fields(settings: type) -> tuple[Field[Any], ...]:
    return fields(settings)

"""JSON lines -> a log of decisions; the names of the fields are those of the protos, in either spelling.

A decision, as ``banditctl decide --json`` prints it and with the time at which it was made:

    {"time": "2026-01-31T12:00:00Z", "decision_id": "...", "unit": "user-7", "arm": "small", "propensity": 0.25,
     "propensities": {"large": 0.75, "small": 0.25}, "attributes": {"plan": "pro"},
     "rewards": [{"metric": "satisfied", "value": 1, "delay_s": 12.5}]}

Needed: ``time`` (RFC 3339, with its zone), ``arm``, and ``propensity`` (or ``propensity_ppm``, or ``propensities`` of
all arms, which tell for sure what the log could never have given). A reward has ``metric``, ``value``, and ``delay_s``
or ``event_time``; neither: it came at once. It may stand on a line of its own, below its decision, which it names by
``decision_id`` or ``token``. A decision with ``counted`` false, or with another ``reason`` than ASSIGNED, was not drawn
by shares: it and its rewards are left out.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, NoReturn

from bandit.evaluate.logged import Collector, Logged
from bandit.spec.model import PPM, ExperimentSpec

SPELLINGS = {
    "decisionId": "decision_id",
    "propensityPpm": "propensity_ppm",
    "eventTime": "event_time",
    "eventId": "event_id",
    "delayS": "delay_s",
    "allocationNumber": "allocation_number",
    "stateAge": "state_age",
}
REWARD = ("metric", "value", "delay_s", "event_time", "event_id", "sequence")
NAMES = ("decision_id", "token")
PASSED_OVER = ("experiment", "session", "epoch", "allocation_number", "state_age", "mode")
"""What a decide reply tells beside, and what is not needed here."""
DECISION = (
    *(
        "time",
        "arm",
        "propensity",
        "propensity_ppm",
        "propensities",
        "unit",
        "attributes",
        "rewards",
        "counted",
        "reason",
    ),
    *NAMES,
    *PASSED_OVER,
)
ALONE = (*REWARD, *NAMES, "experiment")
_KINDS: dict[str, tuple[type, ...]] = {
    "time": (str,),
    "arm": (str,),
    "propensity": (int, float),
    "propensity_ppm": (int,),
    "propensities": (dict,),
    "unit": (str,),
    "attributes": (dict,),
    "rewards": (list,),
    "counted": (bool,),
    "reason": (str,),
    "decision_id": (str,),
    "token": (str,),
    "metric": (str,),
    "delay_s": (int, float),
    "event_time": (str,),
    "event_id": (str,),
    "sequence": (int,),
}
_WORDS = {str: "a text", dict: "an object", list: "a list", bool: "true or false", int: "a whole number"}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_LONGEST_DELAY_S = 1e10
MOST_DIGITS = 20
ASSIGNED = "ASSIGNED"
"""The reason of a decision whose unit's point lies in a range that the arm owns."""


class _Wrong(Exception):
    """A fault of one field."""

    def __init__(self, field: str, sentence: str) -> None:
        super().__init__(field, sentence)
        self.field, self.sentence = field, sentence


def read_lines(lines: Iterable[str], spec: ExperimentSpec, place: str) -> Logged:
    """The log in these lines, empty ones passed over. Raises InvalidArgument with every fault and its line, up to
    twenty; ``place`` is what they are called."""
    collector = Collector(spec, place)
    skipped: set[str] = set()
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            _line(collector, skipped, number, _object(line))
        except json.JSONDecodeError as error:
            collector.fault(number, "", f"no JSON: {error.msg}; write one object per line", error.colno)
        except _Wrong as error:
            collector.fault(number, error.field, error.sentence)
        except UnicodeEncodeError:
            collector.fault(
                number, "", "half of a surrogate pair, which is no text; mend what writes the log"
            )
        except RecursionError:
            collector.fault(number, "", "lists or objects far too deep; write one object per line")
    return collector.finish()


def _object(line: str) -> dict[str, Any]:
    found = json.loads(line, parse_constant=_no_number, parse_int=_whole, object_pairs_hook=_once)
    if not isinstance(found, dict):
        raise _Wrong("", f"{line.strip()[:40]} is no object; write one object per line")
    return found


def _no_number(text: str) -> NoReturn:
    raise _Wrong("", f"{text} is no number of JSON; leave the field out")


def _whole(text: str) -> int:
    if len(text) > MOST_DIGITS:
        raise _Wrong("", f"{text[:MOST_DIGITS]}... is too long for a number; write fewer digits")
    return int(text)


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in pairs:
        name = SPELLINGS.get(key, key)
        if name in found:
            raise _Wrong(name, "told twice in one object; tell it once")
        found[name] = value
    return found


def _line(collector: Collector, skipped: set[str], number: int, values: dict[str, Any]) -> None:
    alone = "metric" in values and "arm" not in values
    _known(values, ALONE if alone else DECISION)
    keys = [values[name] for name in NAMES if _of_kind(values, name) is not None]
    if alone:
        decision = next((found for key in keys if (found := collector.found(key)) is not None), None)
        if decision is not None:
            _reward(collector, number, decision, values)
        elif not any(key in skipped for key in keys):
            named = f"{keys[0][:80]!r} is that of no line above" if keys else "missing"
            raise _Wrong("decision_id", f"{named}; write a reward below its decision, and name it")
    elif not _is_drawn(values):
        collector.uncounted += 1
        skipped.update(keys)
    else:
        decision = _decision(collector, number, values, keys)
        for at, reward in enumerate(_of_kind(values, "rewards") or ()):
            if not isinstance(reward, dict):
                raise _Wrong(f"rewards.{at}", f"{_told(reward)} is no object; write metric and value")
            _known(reward, REWARD, f"rewards.{at}.")
            if decision is not None:
                _reward(collector, number, decision, reward)


def _is_drawn(values: Mapping[str, Any]) -> bool:
    reason = _of_kind(values, "reason") or ASSIGNED
    return _of_kind(values, "counted") is not False and reason.upper().endswith(ASSIGNED)


def _decision(collector: Collector, number: int, values: Mapping[str, Any], keys: list[str]) -> int | None:
    for name in ("time", "arm"):
        if _of_kind(values, name) is None:
            raise _Wrong(name, "missing; a decision has time, arm and propensity")
    ppm, propensity = _of_kind(values, "propensity_ppm"), _of_kind(values, "propensity")
    if ppm is not None and propensity is not None:
        raise _Wrong("propensity_ppm", "told beside propensity; leave one of the two out")
    attributes = _of_kind(values, "attributes") or {}
    for name, text in attributes.items():
        if not isinstance(text, str):
            raise _Wrong(
                f"attributes.{name}",
                f"{_told(text)} is no text; attributes are texts, as in a decide request",
            )
    return collector.decision(
        number,
        time_ms=_milliseconds("time", values["time"]),
        arm=values["arm"],
        propensity=propensity if ppm is None else ppm / PPM,
        propensities=_numbers(_of_kind(values, "propensities")),
        unit=_of_kind(values, "unit") or "",
        attributes=attributes,
        keys=keys,
    )


def _reward(collector: Collector, number: int, decision: int, values: Mapping[str, Any]) -> None:
    metric, value, delay_s = _of_kind(values, "metric"), values.get("value"), _of_kind(values, "delay_s")
    if metric is None:
        raise _Wrong("metric", "missing; name the metric of the reward")
    event_time, sequence = _of_kind(values, "event_time"), _of_kind(values, "sequence")
    if delay_s is not None and event_time is not None:
        raise _Wrong("delay_s", "told beside event_time; leave one of the two out")
    if delay_s is not None and not 0.0 <= delay_s <= _LONGEST_DELAY_S:
        raise _Wrong(
            "delay_s",
            f"{delay_s:g} is not in [0, {_LONGEST_DELAY_S:g}] seconds; a reward comes after its decision",
        )
    if sequence is not None and not 0 <= sequence < 1 << 63:
        raise _Wrong("sequence", f"{sequence} is not in [0, 2^63); write a whole number that is")
    collector.reward(
        number,
        decision,
        metric,
        value,
        delay_ms=None if delay_s is None else math.ceil(1000.0 * delay_s),
        event_ms=None if event_time is None else _milliseconds("event_time", event_time),
        event_id=_of_kind(values, "event_id") or "",
        sequence=sequence,
    )


def _known(values: Mapping[str, Any], fields: tuple[str, ...], before: str = "") -> None:
    for key in values:
        if key not in fields:
            near = get_close_matches(key, fields, 1)
            hint = f"did you mean {near[0]}?" if near else f"the fields are {', '.join(fields)}"
            raise _Wrong(f"{before}{key[:80]}", f"no such field; {hint}")


def _of_kind(values: Mapping[str, Any], name: str) -> Any:
    """The value of a field, None where it is not there or null. Raises _Wrong for another type."""
    value = values.get(name)
    if value is None:
        return None
    kinds = _KINDS[name]
    if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
        wanted = "a number" if float in kinds else _WORDS[kinds[0]]
        raise _Wrong(name, f"{_told(value)} is not {wanted}")
    return value


def _numbers(values: Mapping[str, Any] | None) -> Mapping[str, float] | None:
    for name, value in (values or {}).items():
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise _Wrong(f"propensities.{name}", f"{_told(value)} is not a number")
    return values


def _milliseconds(field: str, text: str) -> int:
    """Milliseconds since 1970 of a time with its zone."""
    try:
        moment = datetime.fromisoformat(text)
    except ValueError:
        moment = None
    if moment is None or moment.tzinfo is None:
        raise _Wrong(field, f"{text[:40]!r} is no time with a zone; write it like 2026-01-31T12:00:00.5Z")
    return math.floor((moment - EPOCH) / timedelta(milliseconds=1))


def _told(value: object) -> str:
    """A value as its line has it, cut."""
    return json.dumps(value, default=str)[:40]

"""One event of a source as bytes -> a reward with its token, or what is wrong with it; it looks nothing up.

Four shapes, told apart by the headers, then by the body:

- a **plain event**: a JSON object as protobuf's JSON mapping writes ``bandit.v1.RewardEvent`` (camelCase or the names
  of the proto; the token in base64), strictly: no unknown field, no field twice, no NaN;
- a **CloudEvent** 1.0 of type ``io.bandit.reward.v1``, structured (its JSON has ``specversion``) or binary (headers
  ``ce-*`` or ``ce_*``), whose data is a plain event. What the event leaves out comes from the CloudEvent:
  ``experiment`` from ``subject`` (experiments/NAME), ``event_time`` from ``time``, ``event_id`` from ``source`` and
  ``id``, which together name an event (CloudEvents 1.0.2, section 3.1.1);
- ``RewardEvent`` as **protobuf**, when the content type says so, also as the data of a binary CloudEvent.

The package ``cloudevents`` reads more than that (other versions, times without a zone, headers that are no text, a body
that only looks like JSON); here what is unclear is refused, so that it can be mended and replayed. Tests write with it.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import NamedTuple
from urllib.parse import unquote

from bandit.errors import Rejected
from bandit.log import CORRECT, REPORT, RETRACT
from bandit.reward import RewardEvent

MOST_BODY_BYTES = 64 << 10
MOST_EVENTS = 1000
CLOUD_EVENT_TYPE = "io.bandit.reward.v1"
STRUCTURED, BATCH = "application/cloudevents+json", "application/cloudevents-batch+json"
PROTOBUF = ("application/protobuf", "application/x-protobuf", "application/vnd.google.protobuf")
_OPERATIONS = {
    "REWARD_OPERATION_UNSPECIFIED": REPORT,
    "REWARD_OPERATION_REPORT": REPORT,
    "REWARD_OPERATION_CORRECT": CORRECT,
    "REWARD_OPERATION_RETRACT": RETRACT,
}
_U64 = 1 << 64


class Poison(Rejected):
    """The bytes are no event. ``reason``: TOO_LARGE, NOT_UTF8, NOT_JSON, NOT_AN_OBJECT, UNKNOWN_FIELD, BAD_FIELD,
    NOT_A_CLOUD_EVENT, UNKNOWN_TYPE, NOT_PROTOBUF, NOT_A_BATCH."""

    default_reason = "POISON"


class Arrived(NamedTuple):
    """One reward as its sender gave it; without a ``token``, ``experiment`` (experiments/NAME) and arm are told."""

    token: bytes
    experiment: str
    event: RewardEvent


def decode(body: bytes, headers: Mapping[str, str]) -> Arrived:
    """The reward. ``headers``: names in lower case. Raises Poison."""
    if len(body) > MOST_BODY_BYTES:
        raise Poison(f"an event of {len(body)} bytes; at most {MOST_BODY_BYTES} are read", reason="TOO_LARGE")
    content = media_type(headers)
    if content == BATCH:
        raise Poison(
            "a batch where one event belongs; send its events one by one", reason="NOT_A_CLOUD_EVENT"
        )
    attributes = _attributes(headers)
    if content != STRUCTURED and attributes:
        cloud = _Cloud.of(attributes)
        return cloud.complete(_plain(body, content))
    if content in PROTOBUF:
        return _protobuf(body)
    fields = parse(body)
    if content == STRUCTURED or "specversion" in fields:
        return _structured(fields)
    return event_of(fields)


def decode_batch(body: bytes, content: str) -> list[Arrived | Poison]:
    """Events of a JSON list, structured CloudEvents (``BATCH``) or plain ones, each read or not by itself.

    Raises Poison when it is no list of 1 to ``MOST_EVENTS``.
    """
    rows = parse_any(body)
    if not isinstance(rows, list) or not 1 <= len(rows) <= MOST_EVENTS:
        seen = f"{len(rows)} events" if isinstance(rows, list) else _show(rows)
        raise Poison(f"{seen}; send a JSON list of 1 to {MOST_EVENTS} events", reason="NOT_A_BATCH")
    return [_row(row, content) for row in rows]


def _row(row: object, content: str) -> Arrived | Poison:
    try:
        if not isinstance(row, dict):
            raise Poison(f"{_show(row)} where a JSON object belongs", reason="NOT_AN_OBJECT")
        if content == BATCH or "specversion" in row:
            return _structured(row)
        return event_of(row)
    except Poison as error:
        return error


def media_type(headers: Mapping[str, str]) -> str:
    """The content type without its parameters, in lower case; "" when there is none."""
    return headers.get("content-type", "").partition(";")[0].strip().lower()


def parse(body: bytes) -> dict[str, object]:
    """A JSON object. Raises Poison."""
    fields = parse_any(body)
    if not isinstance(fields, dict):
        raise Poison(f"{_show(fields)} where a JSON object belongs", reason="NOT_AN_OBJECT")
    return fields


def parse_any(body: bytes) -> object:
    """Any JSON, strictly. Raises Poison."""
    try:
        text = body.decode()
    except UnicodeDecodeError as error:
        raise Poison(f"byte {error.start} is no UTF-8", reason="NOT_UTF8") from None
    try:
        return json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except RecursionError:
        raise Poison("JSON that is nested too deeply", reason="NOT_JSON") from None
    except ValueError as error:
        raise Poison(f"no JSON: {str(error)[:200]}", reason="NOT_JSON") from None


def event_of(fields: Mapping[str, object]) -> Arrived:
    """A plain event. Raises Poison."""
    given: dict[str, object] = {}
    for name, value in fields.items():
        snake = _SNAKE.get(name, name)
        if snake not in _READ:
            raise Poison(f"field {name[:80]!r} is not of a reward event{_hint(name)}", reason="UNKNOWN_FIELD")
        if snake in given:
            raise Poison(f"field {snake} is there twice, as {name} and {snake}", reason="BAD_FIELD")
        given[snake] = value
    read = {name: _READ[name](name, value) for name, value in given.items() if value is not None}
    token, experiment = read.pop("token", b""), read.pop("experiment", "")
    value = read.pop("value", None)
    event = RewardEvent(
        metric=str(read.pop("metric", "")),
        value=value,  # type: ignore[arg-type]  # whatever it is; what is no number is refused with the metric's words
        event_ms=_maybe_int(read.pop("event_time", None)),
        event_id=str(read.pop("event_id", "")),
        arm=str(read.pop("arm", "")),
        unit=str(read.pop("unit", "")),
        operation=_maybe_int(read.pop("operation", None)) or REPORT,
        sequence=_maybe_int(read.pop("sequence", None)),
    )
    return Arrived(token if isinstance(token, bytes) else b"", str(experiment), event)


class _Cloud(NamedTuple):
    """What a CloudEvent says beside its data."""

    id: str
    source: str
    subject: str
    time_ms: int | None

    @classmethod
    def of(cls, attributes: Mapping[str, object]) -> _Cloud:
        """Its attributes. Raises Poison."""
        if attributes.get("specversion") != "1.0":
            seen = _show(attributes.get("specversion"))
            raise Poison(f"CloudEvents version {seen}; this service reads 1.0", reason="NOT_A_CLOUD_EVENT")
        for name in ("id", "source", "type"):
            if not isinstance(attributes.get(name), str) or not attributes[name]:
                raise Poison(f"a CloudEvent without {name}", reason="NOT_A_CLOUD_EVENT")
        if attributes["type"] != CLOUD_EVENT_TYPE:
            seen = _show(attributes["type"])
            raise Poison(
                f"a CloudEvent of type {seen}; rewards are {CLOUD_EVENT_TYPE}", reason="UNKNOWN_TYPE"
            )
        subject, time = attributes.get("subject", ""), attributes.get("time")
        if not isinstance(subject, str):
            raise Poison("the subject of a CloudEvent is a text", reason="NOT_A_CLOUD_EVENT")
        time_ms = None if time is None else _time("time", time)
        return cls(str(attributes["id"]), str(attributes["source"]), subject, time_ms)

    def complete(self, arrived: Arrived) -> Arrived:
        """The event with what it left out."""
        event = arrived.event
        experiment = arrived.experiment
        if not experiment and self.subject.startswith("experiments/"):
            experiment = self.subject
        return Arrived(
            arrived.token,
            experiment,
            RewardEvent(
                event.metric,
                event.value,
                self.time_ms if event.event_ms is None else event.event_ms,
                event.event_id or f"{self.source}#{self.id}",
                event.arm,
                event.unit,
                event.operation,
                event.sequence,
            ),
        )


def _attributes(headers: Mapping[str, str]) -> dict[str, object]:
    """Attributes of a binary CloudEvent: of HTTP and NATS (``ce-``, percent-encoded), or of Kafka (``ce_``, plain)."""
    found: dict[str, object] = {}
    for name, value in headers.items():
        if name.startswith("ce-"):
            found[name[3:]] = unquote(value)
        elif name.startswith("ce_"):
            found[name[3:]] = value
    return found


def _structured(fields: dict[str, object]) -> Arrived:
    cloud = _Cloud.of(fields)
    if "data_base64" in fields:
        content = fields.get("datacontenttype", "")
        if not isinstance(content, str):
            raise Poison("datacontenttype is a text", reason="NOT_A_CLOUD_EVENT")
        body = _token("data_base64", fields["data_base64"])
        return cloud.complete(_plain(body, media_type({"content-type": content})))
    inner = fields.get("data")
    if not isinstance(inner, dict):
        raise Poison(f"{_show(inner)} as data of a CloudEvent; send an object", reason="NOT_AN_OBJECT")
    return cloud.complete(event_of(inner))


def _plain(body: bytes, content: str) -> Arrived:
    return _protobuf(body) if content in PROTOBUF else event_of(parse(body))


def _protobuf(body: bytes) -> Arrived:
    # Late: most sources bring JSON.
    from google.protobuf.message import DecodeError

    from bandit.v1.reward_service_pb2 import RewardEvent as Message

    try:
        message = Message.FromString(body)
    except DecodeError:
        raise Poison("no bandit.v1.RewardEvent in protobuf", reason="NOT_PROTOBUF") from None
    if message.operation > RETRACT:
        raise Poison(f"operation {message.operation} is not known here", reason="BAD_FIELD")
    time = message.event_time
    event = RewardEvent(
        message.metric,
        message.value if message.HasField("value") else None,
        time.seconds * 1000 + time.nanos // 1_000_000 if message.HasField("event_time") else None,
        message.event_id,
        message.arm,
        message.unit,
        message.operation or REPORT,
        message.sequence if message.HasField("sequence") else None,
    )
    return Arrived(message.token, message.experiment, event)


def _once(pairs: list[tuple[str, object]]) -> dict[str, object]:
    found = dict(pairs)
    if len(found) != len(pairs):
        raise ValueError("a key is there twice")
    return found


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is no number in JSON")


def _text(name: str, value: object) -> str:
    if not isinstance(value, str):
        raise Poison(f"{name}: {_show(value)} is no text", reason="BAD_FIELD")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise Poison(f"{name}: half a surrogate pair is no text", reason="BAD_FIELD") from None
    return value


def _token(name: str, value: object) -> bytes:
    """Base 64 of either alphabet, padded or not."""
    text = _text(name, value).rstrip("=").translate(str.maketrans("-_", "+/"))
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except (binascii.Error, ValueError):
        raise Poison(f"{name} is no base64", reason="BAD_FIELD") from None


def _value(_: str, value: object) -> object:
    if isinstance(value, int) and not isinstance(value, bool):
        try:
            return float(value)
        except OverflowError:
            return float("inf") if value > 0 else float("-inf")
    return value


def _time(name: str, value: object) -> int:
    try:
        moment = datetime.fromisoformat(_text(name, value))
        if moment.tzinfo is None:
            raise ValueError
        return int(moment.astimezone(UTC).timestamp() * 1000)
    except (ValueError, OverflowError):
        raise Poison(
            f"{name}: {_show(value)} is no time; write RFC 3339 with its zone, as 2026-01-31T12:00:00.5Z",
            reason="BAD_FIELD",
        ) from None


def _operation(name: str, value: object) -> int:
    known = value if isinstance(value, str) else None
    if known in _OPERATIONS:
        return _OPERATIONS[known]
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= RETRACT:
        return value or REPORT
    raise Poison(f"{name}: {_show(value)} is none of {', '.join(_OPERATIONS)}", reason="BAD_FIELD")


def _sequence(name: str, value: object) -> int:
    number = int(value) if isinstance(value, str) and value.isascii() and value.isdigit() else value
    if not isinstance(number, int) or isinstance(number, bool) or not 0 <= number < _U64:
        raise Poison(f"{name}: {_show(value)} is no whole number from 0 to 2^64 - 1", reason="BAD_FIELD")
    return number


_READ: dict[str, Callable[[str, object], object]] = {
    "token": _token,
    "metric": _text,
    "value": _value,
    "event_id": _text,
    "event_time": _time,
    "experiment": _text,
    "arm": _text,
    "unit": _text,
    "operation": _operation,
    "sequence": _sequence,
}
_SNAKE = {"eventId": "event_id", "eventTime": "event_time"}


def _hint(name: str) -> str:
    from difflib import get_close_matches

    near = get_close_matches(name[:80], list(_READ), 1)
    return f"; did you mean {near[0]}?" if near else ""


def _maybe_int(value: object) -> int | None:
    return value if isinstance(value, int) else None


def _show(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."

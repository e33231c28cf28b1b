"""Events as bytes: what the makers of the formats write is read, what they would not write is refused with a reason."""

from __future__ import annotations

import base64
import contextlib
import json
import math
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cloudevents.core.bindings import http, kafka
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent
from google.protobuf.json_format import MessageToJson
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.log import CORRECT, REPORT, RETRACT
from bandit.reward import RewardEvent
from bandit.v1.reward_service_pb2 import RewardEvent as Message
from server.intake.codec import (
    CLOUD_EVENT_TYPE,
    MOST_BODY_BYTES,
    MOST_EVENTS,
    Arrived,
    Poison,
    decode,
    decode_batch,
)

TOKEN = bytes(range(65))
TIME = datetime(2026, 1, 31, 12, 0, 0, 500_000, tzinfo=UTC)
PLAIN = {"token": base64.b64encode(TOKEN).decode(), "metric": "satisfied", "value": 0.25}


def cloud(inner: Any = None, **changes: Any) -> CloudEvent:
    attributes = {
        "id": "e1",
        "source": "//pipeline/ü",
        "type": CLOUD_EVENT_TYPE,
        "specversion": "1.0",
        "subject": "experiments/answers",
        "time": TIME,
        **changes,
    }
    return CloudEvent(
        {k: v for k, v in attributes.items() if v is not None}, PLAIN if inner is None else inner
    )


FROM_CLOUD = Arrived(
    TOKEN,
    "experiments/answers",
    RewardEvent("satisfied", 0.25, int(TIME.timestamp() * 1000), "//pipeline/ü#e1"),
)


def reason(body: bytes, **headers: str) -> str:
    with pytest.raises(Poison) as error:
        decode(body, {name.replace("_", "-"): value for name, value in headers.items()})
    assert len(str(error.value)) < 400
    return error.value.reason


def structured(**changes: Any) -> bytes:
    fields = json.loads(http.to_structured_event(cloud()).body)
    fields.update(changes)
    return json.dumps({k: v for k, v in fields.items() if v is not None}).encode()


def test_a_plain_event() -> None:
    assert decode(json.dumps(PLAIN).encode(), {}) == Arrived(TOKEN, "", RewardEvent("satisfied", 0.25))
    assert decode(json.dumps(PLAIN).encode(), {"content-type": "application/json; charset=utf-8"})[0] == TOKEN


@pytest.mark.parametrize("mode", ["structured", "binary", "structured, no content type"])
def test_what_the_cloudevents_package_writes_for_http_is_read(mode: str) -> None:
    made = (
        http.to_binary_event(cloud(), JSONFormat()) if mode == "binary" else http.to_structured_event(cloud())
    )
    headers = {name.lower(): value for name, value in made.headers.items()}
    if mode == "binary":
        headers["content-type"] = "application/json"
    elif mode.endswith("no content type"):
        headers = {}
    assert decode(made.body, headers) == FROM_CLOUD


@pytest.mark.parametrize("binary", [True, False])
def test_what_the_cloudevents_package_writes_for_kafka_is_read(binary: bool) -> None:
    made = kafka.to_binary_event(cloud()) if binary else kafka.to_structured_event(cloud())
    headers = {name.lower(): value.decode() for name, value in made.headers.items()}
    assert decode(made.value, headers) == FROM_CLOUD


def test_what_an_event_says_itself_stands_before_its_cloudevent() -> None:
    inner = {**PLAIN, "event_id": "own", "eventTime": "2026-01-01T00:00:00Z", "experiment": "experiments/x"}
    arrived = decode(http.to_structured_event(cloud(inner)).body, {})
    assert (arrived.experiment, arrived.event.event_id) == ("experiments/x", "own")
    assert arrived.event.event_ms == int(datetime(2026, 1, 1, tzinfo=UTC).timestamp() * 1000)


def test_a_subject_that_is_no_experiment_names_none() -> None:
    assert decode(structured(subject="decision/7"), {}).experiment == ""
    assert decode(structured(subject=None, time=None), {}).event.event_ms is None


messages = st.builds(
    lambda **fields: fields,
    token=st.binary(max_size=70),
    metric=st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    value=st.none() | st.floats(allow_nan=False, allow_infinity=False),
    event_id=st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    seconds=st.none() | st.integers(0, 4_000_000_000_000),
    experiment=st.sampled_from(["", "experiments/answers"]),
    arm=st.sampled_from(["", "small"]),
    unit=st.text(st.characters(exclude_categories=["Cs"]), max_size=10),
    operation=st.sampled_from([0, REPORT, CORRECT, RETRACT]),
    sequence=st.none() | st.integers(0, (1 << 64) - 1),
)


@settings(max_examples=200)
@given(fields=messages, names=st.booleans())
def test_protobuf_and_its_json_are_read_alike(fields: dict[str, Any], names: bool) -> None:
    ms = fields.pop("seconds")
    message = Message(**{name: value for name, value in fields.items() if value is not None})
    if ms is not None:
        message.event_time.FromMilliseconds(ms)
    expected = Arrived(
        fields["token"],
        fields["experiment"],
        RewardEvent(
            fields["metric"], fields["value"], ms, fields["event_id"], fields["arm"], fields["unit"],
            fields["operation"] or REPORT, fields["sequence"],
        ),
    )  # fmt: skip
    as_json = MessageToJson(message, preserving_proto_field_name=names).encode()
    assert decode(as_json, {}) == expected
    assert decode(message.SerializeToString(), {"content-type": "application/protobuf"}) == expected


def test_protobuf_in_a_cloudevent() -> None:
    body = Message(token=TOKEN, metric="satisfied", value=0.25).SerializeToString()
    headers = {"ce-specversion": "1.0", "ce-id": "e1", "ce-source": "s", "ce-type": CLOUD_EVENT_TYPE}
    assert decode(body, {**headers, "content-type": "application/x-protobuf"}).event.event_id == "s#e1"
    inner = base64.b64encode(body).decode()
    wrapped = structured(data=None, data_base64=inner, datacontenttype="application/protobuf")
    assert decode(wrapped, {}) == FROM_CLOUD


@pytest.mark.parametrize("padded", [True, False])
@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode])
def test_tokens_of_either_alphabet(encode: Any, padded: bool) -> None:
    token = bytes(range(191, 256))
    text = encode(token).decode()
    assert decode(json.dumps({"token": text if padded else text.rstrip("=")}).encode(), {}).token == token


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (1, 1.0),
        (-0.0, -0.0),
        (1e308, 1e308),
        ("1", "1"),
        (True, True),
        (None, None),
        ([1], [1]),
        ("NaN", "NaN"),
    ],
)
def test_a_value_is_never_converted(value: object, read: object) -> None:
    event = decode(json.dumps({"value": value}).encode(), {}).event
    assert event.value == read
    assert type(event.value) is type(read)


def test_a_number_beyond_all_numbers_is_infinite() -> None:
    assert decode(b'{"value": 1e999}', {}).event.value == math.inf
    assert decode(b'{"value": -1' + b"0" * 400 + b"}", {}).event.value == -math.inf


@pytest.mark.parametrize(
    ("body", "why"),
    [
        (b"", "NOT_JSON"),
        (b"\xff", "NOT_UTF8"),
        (b"\xef\xbb\xbf{}", "NOT_JSON"),
        (b"nonsense", "NOT_JSON"),
        (b'{"value": NaN}', "NOT_JSON"),
        (b'{"value": -Infinity}', "NOT_JSON"),
        (b'{"value": 1, "value": 2}', "NOT_JSON"),
        (b'{"value": ' + b"9" * 5000 + b"}", "NOT_JSON"),
        (b"[" * 60_000, "NOT_JSON"),
        (b'{"a":' * 10_000 + b"1" + b"}" * 10_000, "NOT_JSON"),
        (b"7", "NOT_AN_OBJECT"),
        (b"null", "NOT_AN_OBJECT"),
        (b'["x"]', "NOT_AN_OBJECT"),
        (b'{"valeu": 1}', "UNKNOWN_FIELD"),
        (b'{"eventId": "a", "event_id": "a"}', "BAD_FIELD"),
        (b'{"token": "***"}', "BAD_FIELD"),
        (b'{"token": 7}', "BAD_FIELD"),
        (b'{"metric": ["a"]}', "BAD_FIELD"),
        (b'{"unit": "\\ud800"}', "BAD_FIELD"),
        (b'{"eventTime": "yesterday"}', "BAD_FIELD"),
        (b'{"eventTime": "2026-01-31T12:00:00"}', "BAD_FIELD"),
        (b'{"eventTime": 1700000000}', "BAD_FIELD"),
        (b'{"operation": "UNDO"}', "BAD_FIELD"),
        (b'{"operation": 4}', "BAD_FIELD"),
        (b'{"operation": true}', "BAD_FIELD"),
        (b'{"sequence": -1}', "BAD_FIELD"),
        (b'{"sequence": 18446744073709551616}', "BAD_FIELD"),
        (b'{"sequence": "1.0"}', "BAD_FIELD"),
        (b"{" + b" " * MOST_BODY_BYTES + b"}", "TOO_LARGE"),
        (structured(specversion="0.3"), "NOT_A_CLOUD_EVENT"),
        (structured(specversion=1.0), "NOT_A_CLOUD_EVENT"),
        (structured(id=None), "NOT_A_CLOUD_EVENT"),
        (structured(id=""), "NOT_A_CLOUD_EVENT"),
        (structured(source=7), "NOT_A_CLOUD_EVENT"),
        (structured(subject=7), "NOT_A_CLOUD_EVENT"),
        (structured(type="io.bandit.decided.v1"), "UNKNOWN_TYPE"),
        (structured(time="noon"), "BAD_FIELD"),
        (structured(data=None), "NOT_AN_OBJECT"),
        (structured(data="{}"), "NOT_AN_OBJECT"),
        (structured(data={"valeu": 1}), "UNKNOWN_FIELD"),
        (structured(data_base64="***"), "BAD_FIELD"),
    ],
    ids=lambda value: value[:30].decode("latin-1") if isinstance(value, bytes) else value,
)
def test_what_is_no_event_says_why(body: bytes, why: str) -> None:
    assert reason(body) == why


def test_types_that_do_not_hold_what_they_say() -> None:
    assert reason(b"\xff\xff", content_type="application/protobuf") == "NOT_PROTOBUF"
    unknown = bytes([9 << 3, 9])  # operation 9
    assert reason(unknown, content_type="application/protobuf") == "BAD_FIELD"
    assert reason(b"[]", content_type="application/cloudevents-batch+json") == "NOT_A_CLOUD_EVENT"
    assert reason(b"{}", content_type="application/cloudevents+json") == "NOT_A_CLOUD_EVENT"
    assert reason(json.dumps(PLAIN).encode(), ce_id="e1") == "NOT_A_CLOUD_EVENT"


@settings(max_examples=300)
@given(
    body=st.binary(max_size=200),
    headers=st.dictionaries(
        st.sampled_from(["content-type", "ce-id", "ce_type", "ce-specversion"]),
        st.sampled_from(
            ["1.0", CLOUD_EVENT_TYPE, "application/protobuf", "application/cloudevents+json", "%", "é"]
        ),
    ),
)
def test_any_bytes_are_an_event_or_poison(body: bytes, headers: dict[str, str]) -> None:
    with contextlib.suppress(Poison):  # and nothing else
        decode(body, headers)


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)


@settings(max_examples=300)
@given(
    fields=st.dictionaries(
        st.sampled_from(
            [
                *PLAIN,
                "eventTime",
                "event_id",
                "operation",
                "sequence",
                "unit",
                "specversion",
                "id",
                "source",
                "type",
                "data",
                "time",
                "data_base64",
            ]
        ),
        json_values,
    )
)
def test_any_json_is_an_event_or_poison(fields: dict[str, object]) -> None:
    with contextlib.suppress(Poison):  # and nothing else
        decode(json.dumps(fields).encode(), {})


def test_a_batch_is_read_row_by_row() -> None:
    rows = [PLAIN, json.loads(structured()), 7, {"valeu": 1}, PLAIN]
    found = decode_batch(json.dumps(rows).encode(), "application/json")
    assert [each.reason if isinstance(each, Poison) else "" for each in found] == [
        "", "", "NOT_AN_OBJECT", "UNKNOWN_FIELD", "",
    ]  # fmt: skip
    clouds = decode_batch(
        json.dumps([json.loads(structured()), PLAIN]).encode(), "application/cloudevents-batch+json"
    )
    assert clouds[0] == FROM_CLOUD
    assert isinstance(clouds[1], Poison)


@pytest.mark.parametrize("body", [b"{}", b"[]", b"7", b"[" + b"{}," * MOST_EVENTS + b"{}]", b"[{]"])
def test_what_is_no_batch_is_refused_whole(body: bytes) -> None:
    with pytest.raises(Poison):
        decode_batch(body, "application/json")


def test_times_are_read_to_the_millisecond_in_any_zone() -> None:
    for text, expected in (
        ("2026-01-31T12:00:00.5Z", TIME),
        ("2026-01-31T13:00:00.500+01:00", TIME),
        ("1969-12-31T23:59:59Z", datetime(1970, 1, 1, tzinfo=UTC) - timedelta(seconds=1)),
    ):
        event = decode(json.dumps({"eventTime": text}).encode(), {}).event
        assert event.event_ms == int(expected.timestamp() * 1000)

"""What the published schema of an event allows is read, and what protobuf writes is allowed."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from google.protobuf.json_format import MessageToDict
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.ctl.event_schema import event_schema
from bandit.v1.reward_service_pb2 import RewardEvent, RewardOperation
from server.intake.codec import decode
from tests.double.command import Command

SCHEMA = event_schema()
CHECK = jsonschema.Draft202012Validator(SCHEMA)
NAMES = sorted(SCHEMA["properties"])

likely = st.one_of(
    st.none(),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.integers(-1, 1 << 65),
    st.text(st.characters(exclude_categories=["Cs"]), max_size=8),
    st.sampled_from([*RewardOperation.keys(), "123", "AQEB", "2026-01-31T12:00:00Z"]),
)


@settings(max_examples=400)
@given(fields=st.dictionaries(st.sampled_from([*NAMES, "valeu"]), likely, max_size=4))
def test_what_the_schema_allows_is_read(fields: dict[str, Any]) -> None:
    times = {fields.get(name) for name in ("event_time", "eventTime")} - {None, "2026-01-31T12:00:00Z"}
    texts = [fields.get("token"), fields.get("sequence")]
    odd = any(isinstance(text, str) and (len(text.rstrip("=")) % 4 == 1 or len(text) > 19) for text in texts)
    if (
        CHECK.is_valid(fields) and not times and not odd
    ):  # what no pattern can say: dates, lengths of base 64, 2^64
        decode(json.dumps(fields).encode(), {})


@settings(max_examples=100)
@given(
    token=st.binary(max_size=70),
    value=st.floats(allow_nan=False, allow_infinity=False),
    sequence=st.integers(0, (1 << 64) - 1),
    names=st.booleans(),
)
def test_what_protobuf_writes_is_allowed(token: bytes, value: float, sequence: int, names: bool) -> None:
    message = RewardEvent(
        token=token, metric="m", value=value, event_id="e", experiment="experiments/x", arm="a", unit="u",
        operation=RewardOperation.REWARD_OPERATION_CORRECT, sequence=sequence,
    )  # fmt: skip
    message.event_time.FromMilliseconds(1_700_000_000_123)
    CHECK.validate(MessageToDict(message, preserving_proto_field_name=names))


@pytest.mark.parametrize(
    "fields",
    [
        {"valeu": 1},
        {"value": "1"},
        {"value": True},
        {"token": "***"},
        {"event_id": "a", "eventId": "a"},
        {"sequence": -1},
    ],
)
def test_what_is_refused_is_not_allowed(fields: dict[str, object]) -> None:
    assert not CHECK.is_valid(fields)


def test_the_command_prints_it() -> None:
    done = Command("127.0.0.1:1")("ingest", "schema")
    assert done.code == 0
    assert json.loads(done.out) == json.loads(json.dumps(SCHEMA))

"""Bytes of any kind sent to every method: each call is answered, none as UNKNOWN, and the server goes on."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Any

import grpc
import pytest
from google.protobuf import message_factory
from google.protobuf.descriptor import FieldDescriptor, MethodDescriptor
from google.protobuf.message import Message

from bandit.v1 import decision_service_pb2 as dpb
from server.rpc.server import INGEST, LOCAL, SERVICES
from server.store.fed import DEAD, RECEIVED, Burial, Letter
from server.store.memory import MemoryStore
from tests.serving import Serving, code_of, put_running, serving, until

Code = grpc.StatusCode
METHODS = [(service, method) for service in (*SERVICES, INGEST, LOCAL) for method in service.methods]
IDS = [method.full_name.rpartition("bandit.v1.")[2] for _, method in METHODS]
ALLOWED = {
    Code.OK, Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.FAILED_PRECONDITION, Code.ABORTED,
    Code.UNAVAILABLE, Code.RESOURCE_EXHAUSTED, Code.DEADLINE_EXCEEDED, Code.UNIMPLEMENTED, Code.OUT_OF_RANGE,
}  # fmt: skip
TEXTS = (
    "", "experiments/answers", "experiments/answers/arms/tuned", "experiments/" + "é" * 70, "\x00", "a/b/c", "-",
    "answers", "tuned", "u" * 300, "{}", "experiment: x\narms: [", "&a [*a]", "\ufeff", "%s%n", "../..",
    "1-1", "0-18446744073709551616", "clicks", "NOT_JSON",
)  # fmt: skip
NUMBERS = (0, 1, -1, 2**31 - 1, -(2**31), 2**32 - 1, 2**63 - 1, -(2**63), 2**64 - 1)
FLOATS = (0.0, -0.0, 1.0, -1.0, 1e308, -1e308, 5e-324, float("inf"), float("-inf"), float("nan"))


def blank(method: MethodDescriptor) -> Message:
    """An empty request of a method."""
    made: Message = message_factory.GetMessageClass(method.input_type)()
    return made


def fill(message: Any, dice: random.Random, depth: int = 0) -> None:
    """Set some fields to values that somebody's bug might send."""
    for field in message.DESCRIPTOR.fields:
        if dice.random() < 0.4:
            continue
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            if field.message_type.fields_by_name["value"].type == FieldDescriptor.TYPE_STRING:
                getattr(message, field.name).update(
                    {dice.choice(TEXTS): dice.choice(TEXTS) for _ in range(3)}
                )
        elif field.type == FieldDescriptor.TYPE_MESSAGE:
            if depth < 6:
                inner = getattr(message, field.name)
                for each in (
                    [inner.add() for _ in range(dice.choice((1, 2, 9)))] if field.is_repeated else [inner]
                ):
                    fill(each, dice, depth + 1)
                if not field.is_repeated:
                    inner.SetInParent()
        elif field.is_repeated:
            getattr(message, field.name).extend(
                value
                for value in (_value(field, dice) for _ in range(dice.choice((1, 3, 40))))
                if value is not None
            )
        else:
            value = _value(field, dice)
            if value is not None:
                setattr(message, field.name, value)


def _value(field: FieldDescriptor, dice: random.Random) -> Any:
    kinds = FieldDescriptor
    if field.type == kinds.TYPE_STRING:
        return dice.choice(TEXTS)
    if field.type == kinds.TYPE_BYTES:
        return dice.randbytes(dice.choice((0, 1, 64, 65, 66, 96, 4000)))
    if field.type == kinds.TYPE_BOOL:
        return dice.random() < 0.5
    if field.type in (kinds.TYPE_DOUBLE, kinds.TYPE_FLOAT):
        return dice.choice(FLOATS)
    if field.type == kinds.TYPE_ENUM:
        return dice.choice((0, 1, 2, 3, 77))
    low, high = {
        kinds.TYPE_INT32: (-(2**31), 2**31 - 1), kinds.TYPE_UINT32: (0, 2**32 - 1),
        kinds.TYPE_INT64: (-(2**63), 2**63 - 1), kinds.TYPE_UINT64: (0, 2**64 - 1),
    }.get(field.type, (0, 0))  # fmt: skip
    return min(max(dice.choice(NUMBERS), low), high)


def mutated(blob: bytes, dice: random.Random) -> bytes:
    """Some bytes changed, cut, doubled or put in."""
    out = bytearray(blob)
    for _ in range(dice.choice((0, 1, 1, 2, 8))):
        at = dice.randrange(len(out) + 1)
        kind = dice.randrange(4)
        if kind == 0 and at < len(out):
            out[at] ^= 1 << dice.randrange(8)
        elif kind == 1:
            del out[at : at + dice.choice((1, 4, 64))]
        elif kind == 2:
            out[at:at] = dice.randbytes(dice.choice((1, 3, 20)))
        else:
            out[at:at] = out[: dice.choice((2, 30))]
    return bytes(out)


def bury(store: MemoryStore) -> None:
    """Dead letters and reports of sources, any bytes too, for methods that read them."""
    dice = random.Random("letters")
    good = b'{"token": "AQEB", "metric": "satisfied", "value": 1}'
    letters = [
        Letter("clicks", "NOT_JSON", dice.choice(TEXTS[:3]), mutated(good, dice), {"n": str(number)})
        for number in range(300)
    ]
    store.bury(Burial("clicks", letters, {RECEIVED: len(letters), DEAD: len(letters)}))
    for number in range(20):
        store.put_source(f"s{number}", mutated(b'{"time_ms": 1, "newest_ms": 2}', dice))


@pytest.fixture(scope="module")
def served() -> Iterator[Serving]:
    store = MemoryStore()
    put_running(store)
    bury(store)
    with serving(store) as made:
        yield made


@pytest.mark.parametrize(("service", "method"), METHODS, ids=IDS)
def test_any_bytes_to_any_method(
    served: Serving, service: Any, method: MethodDescriptor, full: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    dice = random.Random(f"{method.full_name}")
    path = f"/{service.full_name}/{method.name}"
    shape = ("stream_" if method.client_streaming else "unary_") + (
        "stream" if method.server_streaming else "unary"
    )
    call = getattr(served.channel, shape)(path, request_serializer=None, response_deserializer=None)
    codes: Counter[grpc.StatusCode] = Counter()
    for _ in range(20_000 if full else 200):
        message = blank(method)
        fill(message, dice)
        blob = message.SerializeToString()
        if dice.random() < 0.5:
            blob = mutated(blob, dice)
        code = code_of(partial(answer, call, blob, method))
        codes[code] += 1
        assert code in ALLOWED, (code, blob)
    assert "rpc_failed" not in capsys.readouterr().out
    assert codes[Code.INVALID_ARGUMENT]
    asked = dpb.DecideRequest(experiment="experiments/answers", unit="u")
    assert code_of(partial(served.decide.Decide, asked, timeout=30)) in (Code.OK, Code.NOT_FOUND)


def test_a_thousand_messages_of_another_type_cost_nobody_the_connection(served: Serving) -> None:
    put_running(served.store, "kept")
    asked = dpb.DecideRequest(experiment="experiments/kept", unit="u")
    until(lambda: code_of(partial(served.decide.Decide, asked)) == Code.OK, what="the experiment is served")
    call: Any = served.channel.unary_unary("/bandit.v1.DecisionService/Decide")
    for _ in range(1_100):
        assert code_of(partial(call, b"\xff\xff\xff", timeout=30)) == Code.INVALID_ARGUMENT
    assert served.decide.Decide(asked, timeout=30).counted


def answer(call: Any, blob: bytes, method: MethodDescriptor) -> None:
    """Make the call and take its first answer."""
    request = iter([blob]) if method.client_streaming else blob
    if not method.server_streaming:
        call(request, timeout=30)
        return
    replies = call(request, timeout=30)
    for _ in replies:
        break
    replies.cancel()

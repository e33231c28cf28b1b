"""Every error has one status, with details that a client can use, and none that only our log may know."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
import pytest
from google.rpc import error_details_pb2, status_pb2
from grpc_status import rpc_status

from bandit import errors
from bandit.client.errors import from_rpc
from bandit.errors import (
    BanditError,
    InvalidArgument,
    NotAllowed,
    NotFound,
    Overloaded,
    StoreUnavailable,
    Violation,
)
from server.rpc.status import CODES, INTERNAL_TEXT, code_of, status_of
from tests.serving import details_of


def subclasses(kind: type[BanditError]) -> Iterator[type[BanditError]]:
    for each in kind.__subclasses__():
        yield each
        yield from subclasses(each)


OWN = sorted((each for each in subclasses(BanditError) if each.__module__ == errors.__name__), key=str)


def unpacked(status: status_pb2.Status) -> dict[str, object]:
    found: dict[str, object] = {}
    for packed in status.details:
        kind = packed.type_url.rpartition(".")[2]
        message = getattr(error_details_pb2, kind)()
        packed.Unpack(message)
        found[kind] = message
    return found


@pytest.mark.parametrize("kind", OWN, ids=lambda kind: kind.__name__)
def test_every_error_has_its_own_line(kind: type[BanditError]) -> None:
    assert kind in CODES
    error = kind("it went wrong", reason="SOME_REASON", place="here")
    status = status_of(error)
    assert status.code == CODES[kind].value[0]
    assert CODES[kind] is not grpc.StatusCode.INTERNAL
    assert status.message == "it went wrong"
    found = unpacked(status)["ErrorInfo"]
    assert isinstance(found, error_details_pb2.ErrorInfo)
    assert (found.reason, found.domain) == ("SOME_REASON", "banditd")
    assert found.metadata["place"] == "here"


def test_the_table_has_no_line_too_many() -> None:
    assert set(CODES) == set(OWN)


def test_a_subclass_has_the_code_of_its_base() -> None:
    class Fenced(errors.Stale):
        pass

    assert code_of(Fenced("x")) is grpc.StatusCode.ABORTED


def test_an_error_without_a_line_says_nothing() -> None:
    status = status_of(BanditError("the password is swordfish"))
    assert status.code == grpc.StatusCode.INTERNAL.value[0]
    assert status.message == INTERNAL_TEXT
    assert not status.details


def test_details_by_kind() -> None:
    wrong = InvalidArgument("two", violations=[Violation("a", "b"), Violation("c", "d")])
    bad = unpacked(status_of(wrong))["BadRequest"]
    assert isinstance(bad, error_details_pb2.BadRequest)
    assert [(v.field, v.description) for v in bad.field_violations] == [("a", "b"), ("c", "d")]
    gone = unpacked(status_of(NotFound("no", resource="experiments/x/arms/y")))["ResourceInfo"]
    assert isinstance(gone, error_details_pb2.ResourceInfo)
    assert (gone.resource_type, gone.resource_name) == ("arm", "experiments/x/arms/y")
    failed = unpacked(status_of(NotAllowed("no", reason="RUNNING", resource="experiments/x")))
    failure = failed["PreconditionFailure"]
    assert isinstance(failure, error_details_pb2.PreconditionFailure)
    assert [(v.type, v.subject) for v in failure.violations] == [("RUNNING", "experiments/x")]
    for error in (StoreUnavailable("away"), Overloaded("full")):
        retry = unpacked(status_of(error))["RetryInfo"]
        assert isinstance(retry, error_details_pb2.RetryInfo)
        assert retry.retry_delay.ToMilliseconds() > 0


@pytest.mark.parametrize("letter", ["x", "é", "語"])
def test_the_longest_status_fits_a_real_call(letter: str) -> None:
    """Clients take 8 KiB of trailers; with more the call would fail with another error than ours."""
    violations = [Violation(f"spec.{letter * 400}[{i}]", letter * 1000) for i in range(500)]
    worst = InvalidArgument(
        letter * 5000, violations=violations, **{f"key{i}": letter * 900 for i in range(40)}
    )
    status = status_of(worst)

    def fail(request: bytes, context: grpc.ServicerContext) -> bytes:
        context.abort_with_status(rpc_status.to_status(status))

    server = grpc.server(ThreadPoolExecutor(1))
    handler: grpc.RpcMethodHandler[bytes, bytes] = grpc.unary_unary_rpc_method_handler(fail)
    server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler("s", {"m": handler}),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            call: Any = channel.unary_unary("/s/m")
            with pytest.raises(grpc.RpcError) as caught:
                call(b"")
    finally:
        server.stop(0)
    found = details_of(caught.value)
    assert len(found["BadRequest"].field_violations) >= 3
    assert "more" in found["BadRequest"].field_violations[-1].description
    back = from_rpc(caught.value, "x", 1.0)
    assert isinstance(back, InvalidArgument)
    assert back.violations

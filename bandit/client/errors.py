"""A failed call back to the error that the server raised, or to one that says what stood between; it retries nothing.

::

    BanditError
    ├── ...                     what the server said, as in ``bandit.errors``
    ├── ServerUnavailable       no server there, no answer in time         try again; a write may have happened
    └── UnexpectedAnswer        not a banditd of our version, or its bug   no retry
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import ClassVar, TypeVar

import grpc
from google.protobuf.message import DecodeError, Message
from google.rpc import error_details_pb2, status_pb2

from bandit.errors import (
    AlreadyExists,
    BanditError,
    CorruptStored,
    InvalidArgument,
    NotAllowed,
    NotFound,
    Overloaded,
    Stale,
    StoreUnavailable,
    Violation,
)

DETAILS_KEY = "grpc-status-details-bin"
_TEXT_CHARACTERS = 20_000

Kind = TypeVar("Kind", bound=Message)

_KINDS: tuple[type[Message], ...] = (
    error_details_pb2.ErrorInfo,
    error_details_pb2.BadRequest,
    error_details_pb2.RetryInfo,
    error_details_pb2.PreconditionFailure,
    error_details_pb2.ResourceInfo,
)


class ServerUnavailable(BanditError):
    """No server answered in time. Try again; whether a write happened is known only after reading."""

    default_reason: ClassVar[str] = "SERVER_UNAVAILABLE"


class UnexpectedAnswer(BanditError):
    """What answered is no banditd of our version, or it met a bug of its own. Retrying does not mend it."""

    default_reason: ClassVar[str] = "UNEXPECTED_ANSWER"


_BY_CODE: dict[grpc.StatusCode, type[BanditError]] = {
    grpc.StatusCode.NOT_FOUND: NotFound,
    grpc.StatusCode.ALREADY_EXISTS: AlreadyExists,
    grpc.StatusCode.ABORTED: Stale,
    grpc.StatusCode.FAILED_PRECONDITION: NotAllowed,
    grpc.StatusCode.RESOURCE_EXHAUSTED: Overloaded,
    grpc.StatusCode.DATA_LOSS: CorruptStored,
}


def from_rpc(error: grpc.RpcError, target: str, timeout_s: float | None) -> BanditError:
    """The error that a failed call to ``target`` stands for. ``timeout_s`` is the deadline that it had."""
    call = answered(error)
    code = call.code() if call else grpc.StatusCode.UNKNOWN
    text = ((call.details() or "") if call else str(error))[:_TEXT_CHARACTERS]
    details = _details(call) if call else []
    found = _first(details, error_details_pb2.ErrorInfo)
    reason = found.reason if found else ""
    metadata = {**_facts(details), **(dict(found.metadata) if found else {})}
    if code is grpc.StatusCode.INVALID_ARGUMENT:
        bad = _first(details, error_details_pb2.BadRequest)
        violations = [Violation(each.field, each.description) for each in bad.field_violations] if bad else []
        return _filled(InvalidArgument(text, reason=reason, violations=violations), metadata)
    if reason == CorruptStored.default_reason:
        return _filled(CorruptStored(text, reason=reason), metadata)
    if code is grpc.StatusCode.UNAVAILABLE and reason:
        return _filled(StoreUnavailable(text, reason=reason), metadata)
    if known := _BY_CODE.get(code):
        return _filled(known(text, reason=reason), metadata)
    return _between(code, text, target, timeout_s, reason)


def _between(
    code: grpc.StatusCode, text: str, target: str, timeout_s: float | None, reason: str
) -> BanditError:
    """The error of a call that the service itself did not answer."""
    if code is grpc.StatusCode.UNAVAILABLE:
        return ServerUnavailable(
            f"no banditd answers at {target} ({_cause(text)}); check the address and that the server is running",
            target=target,
            detail=text,
        )
    if code is grpc.StatusCode.DEADLINE_EXCEEDED:
        return ServerUnavailable(
            f"{target} did not answer within {timeout_s:g} s; try again, with a longer timeout if need be, and read "
            "first whether a change was made"
            if timeout_s is not None
            else f"{target} did not answer in time ({text}); try again",
            reason="DEADLINE_EXCEEDED",
            target=target,
        )
    if code is grpc.StatusCode.CANCELLED:
        return ServerUnavailable(
            f"{target} ended the call ({text}); try again", reason="CANCELLED", target=target
        )
    if code is grpc.StatusCode.UNIMPLEMENTED:
        return UnexpectedAnswer(
            f"what answers at {target} does not know this call ({text}); it must be a banditd of this version",
            reason=reason or code.name,
            target=target,
        )
    if "deserializing" in text:
        text = "bytes that are no answer to this call; it must be a banditd of this version"
    return UnexpectedAnswer(
        f"{target} answered {code.name}: {text or 'no text'}",
        reason=reason or code.name,
        target=target,
    )


def _cause(text: str) -> str:
    """The end of gRPC's chain of causes: ``Connection refused``."""
    return text.rpartition(": ")[2].strip("[]() ") or "no cause given"


def _filled(error: BanditError, metadata: dict[str, str]) -> BanditError:
    error.metadata.update(metadata)
    return error


def answered(error: grpc.RpcError) -> grpc.Call | None:
    """The call of an error that came out of one: its code, text and trailing metadata."""
    found: object = error
    return found if isinstance(found, grpc.Call) else None


def _details(call: grpc.Call) -> list[Message]:
    """The unpacked details of google.rpc.Status in the trailing metadata; what cannot be read is left out."""
    blob = next((value for key, value in call.trailing_metadata() or () if key == DETAILS_KEY), None)
    if not isinstance(blob, bytes):
        return []
    status = status_pb2.Status()
    try:
        status.ParseFromString(blob)
    except DecodeError:
        return []
    found = []
    for packed in status.details:
        for kind in _KINDS:
            message = kind()
            if packed.Is(message.DESCRIPTOR) and _unpacks(packed.Unpack, message):
                found.append(message)
    return found


def _unpacks(unpack: Callable[[Message], bool], message: Message) -> bool:
    try:
        return unpack(message)
    except DecodeError:
        return False


def _facts(details: Iterable[Message]) -> dict[str, str]:
    """Metadata out of RetryInfo, ResourceInfo and PreconditionFailure."""
    facts = {}
    for each in details:
        if isinstance(each, error_details_pb2.RetryInfo):
            facts["retry_delay_s"] = f"{each.retry_delay.ToMilliseconds() / 1000:g}"
        elif isinstance(each, error_details_pb2.ResourceInfo):
            facts["resource_type"], facts["resource_name"] = each.resource_type, each.resource_name
        elif isinstance(each, error_details_pb2.PreconditionFailure):
            for violation in each.violations:
                facts[f"precondition.{violation.type}"] = f"{violation.subject}: {violation.description}"
    return facts


def _first(details: Iterable[Message], kind: type[Kind]) -> Kind | None:
    return next((each for each in details if isinstance(each, kind)), None)

"""Every error as google.rpc.Status: one table; it decides nothing else, and says nothing that only our log may know.

Details travel in a trailer, of which clients take 8 KiB in all: long lists are cut and say so.
"""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import quote

import grpc
from google.protobuf.any_pb2 import Any as Packed
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from google.rpc import error_details_pb2, status_pb2

from bandit.errors import (
    AlreadyExists,
    BanditError,
    CorruptStored,
    InvalidArgument,
    NotAllowed,
    NotFound,
    Overloaded,
    Rejected,
    Stale,
    StoreUnavailable,
)

DOMAIN = "banditd"
INTERNAL_TEXT = "the server met a bug of its own; its log says more; retrying may help"

CODES: dict[type[BanditError], grpc.StatusCode] = {
    InvalidArgument: grpc.StatusCode.INVALID_ARGUMENT,
    NotFound: grpc.StatusCode.NOT_FOUND,
    AlreadyExists: grpc.StatusCode.ALREADY_EXISTS,
    Stale: grpc.StatusCode.ABORTED,
    NotAllowed: grpc.StatusCode.FAILED_PRECONDITION,
    Rejected: grpc.StatusCode.INVALID_ARGUMENT,
    StoreUnavailable: grpc.StatusCode.UNAVAILABLE,
    CorruptStored: grpc.StatusCode.DATA_LOSS,
    Overloaded: grpc.StatusCode.RESOURCE_EXHAUSTED,
}
RETRY_AFTER_S: dict[type[BanditError], float] = {StoreUnavailable: 1.0, Overloaded: 0.5, Stale: 0.05}

# Bytes of UTF-8. A trailer holds the message twice (percent-encoded too) and the details in base 64.
_TRAILER_BYTES = 7600
_MESSAGE_BYTES = 600
_SENTENCE_BYTES = 200
_VALUE_BYTES = 150
_METADATA_BYTES = 500
_VIOLATION_BYTES = 300
_OVERHEAD_BYTES = 200


def code_of(error: BanditError) -> grpc.StatusCode:
    """The status code of an error: its own line in the table, else that of its nearest base."""
    return next((CODES[base] for base in type(error).__mro__ if base in CODES), grpc.StatusCode.INTERNAL)


def status_of(error: BanditError) -> status_pb2.Status:
    """The status of an error with its details."""
    code = code_of(error)
    if code is grpc.StatusCode.INTERNAL:
        return internal()
    message = _cut(str(error), _MESSAGE_BYTES)
    status = status_pb2.Status(code=code.value[0], message=message)
    room = (_TRAILER_BYTES - len(quote(message))) * 3 // 4 - len(message.encode()) - _OVERHEAD_BYTES
    for detail in _details(error, room):
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def internal() -> status_pb2.Status:
    """The status of a bug. Its text stays in our log."""
    return status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message=INTERNAL_TEXT)


def _details(error: BanditError, room: int) -> Iterator[Message]:
    found = error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN)
    for key, value in error.metadata.items():
        found.metadata[key] = _cut(value, _VALUE_BYTES)
        if found.ByteSize() > _METADATA_BYTES:
            del found.metadata[key]
            break
    yield found
    if isinstance(error, InvalidArgument):
        yield _bad_request(error, room - found.ByteSize())
    if isinstance(error, NotFound | AlreadyExists):
        name = error.metadata.get("resource", "")
        kind = name.split("/")[-2].removesuffix("s") if "/" in name else ""
        yield error_details_pb2.ResourceInfo(
            resource_type=kind, resource_name=name, description=_cut(str(error), _SENTENCE_BYTES)
        )
    if isinstance(error, NotAllowed):
        failure = error_details_pb2.PreconditionFailure()
        failure.violations.add(
            type=error.reason,
            subject=error.metadata.get("resource", ""),
            description=_cut(str(error), _SENTENCE_BYTES),
        )
        yield failure
    for kind_of, delay_s in RETRY_AFTER_S.items():
        if isinstance(error, kind_of):
            delay = Duration()
            delay.FromMilliseconds(round(float(error.metadata.get("retry_delay_s", delay_s)) * 1000))
            yield error_details_pb2.RetryInfo(retry_delay=delay)


def _bad_request(error: InvalidArgument, room: int) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    for told, (field, description) in enumerate(error.violations):
        request.field_violations.add(
            field=_cut(field, _VALUE_BYTES), description=_cut(description, _VIOLATION_BYTES)
        )
        if request.ByteSize() > room:
            rest = len(error.violations) - told
            del request.field_violations[-1]
            request.field_violations.add(description=f"and {rest} more; mend these first")
            break
    return request


def _cut(text: str, most: int) -> str:
    """The text, or as much of it as has so many bytes."""
    raw = text.encode()
    return text if len(raw) <= most else raw[: most - 3].decode(errors="ignore") + "…"

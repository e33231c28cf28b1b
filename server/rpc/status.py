"""Every error as google.rpc.Status: one table; it decides nothing else, and says nothing that only our log may know.

Details travel in a trailer, of which clients take 8 KiB in all: long lists are cut and say so.
"""

from __future__ import annotations

from collections.abc import Iterator

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

_MESSAGE_CHARS = 600
_VALUE_CHARS = 200
_METADATA_KEYS = 16
_VIOLATION_CHARS = 300
_DETAILS_BYTES = 4000


def code_of(error: BanditError) -> grpc.StatusCode:
    """The status code of an error: its own line in the table, else that of its nearest base."""
    return next((CODES[base] for base in type(error).__mro__ if base in CODES), grpc.StatusCode.INTERNAL)


def status_of(error: BanditError) -> status_pb2.Status:
    """The status of an error with its details."""
    code = code_of(error)
    if code is grpc.StatusCode.INTERNAL:
        return internal()
    status = status_pb2.Status(code=code.value[0], message=_cut(str(error), _MESSAGE_CHARS))
    for detail in _details(error):
        packed = Packed()
        packed.Pack(detail)
        status.details.append(packed)
    return status


def internal() -> status_pb2.Status:
    """The status of a bug. Its text stays in our log."""
    return status_pb2.Status(code=grpc.StatusCode.INTERNAL.value[0], message=INTERNAL_TEXT)


def _details(error: BanditError) -> Iterator[Message]:
    metadata = {
        key: _cut(value, _VALUE_CHARS) for key, value in list(error.metadata.items())[:_METADATA_KEYS]
    }
    yield error_details_pb2.ErrorInfo(reason=error.reason, domain=DOMAIN, metadata=metadata)
    if isinstance(error, InvalidArgument):
        yield _bad_request(error)
    if isinstance(error, NotFound | AlreadyExists):
        name = error.metadata.get("resource", "")
        kind = name.split("/")[-2].removesuffix("s") if "/" in name else ""
        yield error_details_pb2.ResourceInfo(
            resource_type=kind, resource_name=name, description=_cut(str(error), 200)
        )
    if isinstance(error, NotAllowed):
        failure = error_details_pb2.PreconditionFailure()
        failure.violations.add(
            type=error.reason, subject=error.metadata.get("resource", ""), description=_cut(str(error), 200)
        )
        yield failure
    for kind_of, delay_s in RETRY_AFTER_S.items():
        if isinstance(error, kind_of):
            delay = Duration()
            delay.FromMilliseconds(round(delay_s * 1000))
            yield error_details_pb2.RetryInfo(retry_delay=delay)


def _bad_request(error: InvalidArgument) -> error_details_pb2.BadRequest:
    request = error_details_pb2.BadRequest()
    size = 0
    for told, (field, description) in enumerate(error.violations):
        field, description = _cut(field, _VALUE_CHARS), _cut(description, _VIOLATION_CHARS)
        size += len(field.encode()) + len(description.encode()) + 8
        if size > _DETAILS_BYTES:
            rest = len(error.violations) - told
            request.field_violations.add(field="", description=f"and {rest} more; mend these first")
            break
        request.field_violations.add(field=field, description=description)
    return request


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"

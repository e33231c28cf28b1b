"""What every RPC goes through: a pool with a limit, a catch-all, counters, one log line; it knows no method's work.

Pools are apart so that slow calls starve nobody: a decision never waits behind one that waits for the store. A
call beyond its pool's limit is refused at once, before its message is read.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from time import perf_counter
from types import SimpleNamespace
from typing import Any, NoReturn, Protocol, TypeVar

import grpc
import structlog
from google.protobuf.descriptor import ServiceDescriptor
from grpc_status import rpc_status

from bandit.errors import BanditError, InvalidArgument, Overloaded
from server.rpc.status import code_of, internal, status_of

log = structlog.get_logger(__name__)

T = TypeVar("T")


class RpcTelemetry(Protocol):
    """What is counted of each RPC."""

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """One RPC ended; a stream counts when it ends."""


class NoTelemetry:
    """Counts nothing."""

    def rpc(self, method: str, code: str, seconds: float) -> None:
        """Nothing."""


class Sending:
    """Streams that are sending a response now, and since when: one that is not read is cut off.

    A send ends when HTTP/2 has room for it, so a client that reads nothing holds a thread and one message.
    """

    def __init__(self, longest_s: float) -> None:
        self._longest_s = longest_s
        self._since: dict[int, tuple[grpc.ServicerContext, str, float]] = {}

    def begin(self, context: grpc.ServicerContext, name: str) -> None:
        """The next response goes out."""
        self._since[id(context)] = (context, name, perf_counter())

    def end(self, context: grpc.ServicerContext) -> None:
        """It is sent, or the stream is over."""
        self._since.pop(id(context), None)

    def cut(self) -> int:
        """End every stream that has been sending one response for too long. Returns how many."""
        late = perf_counter() - self._longest_s
        stuck = [(context, name) for context, name, since in list(self._since.values()) if since < late]
        for context, name in stuck:
            log.warning(
                "stream_cut", method=name, reason=f"its client read nothing for {self._longest_s:g} s"
            )
            self.end(context)
            context.cancel()
        return len(stuck)


class Pool(ThreadPoolExecutor):
    """Threads for some methods, with a limit on calls that run or wait.

    grpcio hands a call over by ``submit``, from one thread, right after the interceptors let it pass: so a look
    at ``in_flight`` there is exact, and a call that never arrives leaks nothing.
    """

    def __init__(self, name: str, threads: int, limit: int) -> None:
        super().__init__(threads, thread_name_prefix=name)
        self.name = name
        self.limit = limit
        self.in_flight = 0
        self.refused = 0
        self._counting = threading.Lock()

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """As the base; counts until the call is done."""
        with self._counting:
            self.in_flight += 1
        future = super().submit(fn, *args, **kwargs)
        future.add_done_callback(self._done)
        return future

    @property
    def full(self) -> bool:
        """Is the limit reached?"""
        return self.in_flight >= self.limit

    def _done(self, _: Future[Any]) -> None:
        with self._counting:
            self.in_flight -= 1


class Unreadable:
    """Stands for a message that is none of its type, until the method's guard refuses it."""


UNREADABLE = Unreadable()
OURS = "/bandit."  # services whose guards know what an unreadable message is


def readable(request: Any) -> Any:
    """The request. Raises InvalidArgument when its bytes could not be read."""
    if request is UNREADABLE:
        raise InvalidArgument(
            "the bytes sent are no message of this method's request type; generate the client from the same protos",
            reason="UNREADABLE_MESSAGE",
        )
    return request


def _tolerant(deserialize: Callable[[bytes], Any]) -> Callable[[bytes], Any]:
    """Never raises: after each message that its deserializer refuses, grpcio keeps the stream until the connection
    ends, so that a thousand of them close a connection for all its users (seen with 1.85.3)."""

    def read(blob: bytes) -> Any:
        try:
            return deserialize(blob)
        except Exception:  # noqa: BLE001 - protobuf has several, and any would do harm
            return UNREADABLE

    return read


class Admission(grpc.ServerInterceptor):
    """Refuses calls of a method whose pool is full: RESOURCE_EXHAUSTED with a time to wait.

    Methods that have a pool read their messages tolerantly, see :func:`readable`.
    """

    def __init__(self, pools: Mapping[str, Pool]) -> None:
        self._pools = pools
        self._tolerant: dict[str, grpc.RpcMethodHandler[Any, Any]] = {}

    def intercept_service(
        self,
        continuation: Callable[[grpc.HandlerCallDetails], grpc.RpcMethodHandler[Any, Any] | None],
        handler_call_details: grpc.HandlerCallDetails,
    ) -> grpc.RpcMethodHandler[Any, Any] | None:
        """The method's handler, or one of the same shape that refuses."""
        method = handler_call_details.method
        pool = self._pools.get(method)
        handler = self._tolerant.get(method) or continuation(handler_call_details)
        if pool is None or handler is None:
            return handler
        if pool.full:
            pool.refused += 1
            return _refusal(handler, pool)
        if method not in self._tolerant and method.startswith(OURS):
            replaced: Any = handler
            self._tolerant[method] = handler = replaced._replace(
                request_deserializer=_tolerant(replaced.request_deserializer)
            )
        return handler


def guarded(
    servicer: object,
    service: ServiceDescriptor,
    pools: Mapping[str, Pool],
    telemetry: RpcTelemetry,
    sending: Sending,
) -> Any:
    """The servicer's methods, wrapped once: each runs in its pool and no exception leaves it unanswered."""
    wrapped = SimpleNamespace()
    for method in service.methods:
        path = f"/{service.full_name}/{method.name}"
        behavior = getattr(servicer, method.name)
        if method.server_streaming:
            call = _stream(method.name, behavior, telemetry, sending)
        else:
            call = _unary(method.name, behavior, telemetry)
        call.experimental_thread_pool = pools[path]
        setattr(wrapped, method.name, call)
    return wrapped


def _unary(name: str, behavior: Callable[[Any, grpc.ServicerContext], Any], telemetry: RpcTelemetry) -> Any:
    def call(request: Any, context: grpc.ServicerContext) -> Any:
        began = perf_counter()
        try:
            response = behavior(readable(request), context)
        except Exception as error:  # noqa: BLE001 - the last place where it can be answered
            _fail(name, error, context, telemetry, began)
        _finish(name, "OK", telemetry, began)
        return response

    return call


def _stream(
    name: str,
    behavior: Callable[[Any, grpc.ServicerContext], Iterator[Any]],
    telemetry: RpcTelemetry,
    sending: Sending,
) -> Any:
    def call(request: Any, context: grpc.ServicerContext) -> Iterator[Any]:
        began = perf_counter()
        code = "CANCELLED"
        try:
            for response in behavior(_readable_all(request), context):
                sending.begin(context, name)
                yield response
                sending.end(context)
            if context.is_active():
                code = "OK"
        except Exception as error:  # noqa: BLE001 - the last place where it can be answered
            if not context.is_active():
                return  # the client is gone; its request iterator raises
            code = ""
            _fail(name, error, context, telemetry, began)
        finally:
            sending.end(context)
            if code:
                _finish(name, code, telemetry, began)

    return call


def _readable_all(request: Any) -> Any:
    """A request, or an iterator of requests that raises at the first that could not be read."""
    return map(readable, request) if isinstance(request, Iterator) else readable(request)


def _fail(
    name: str, error: Exception, context: grpc.ServicerContext, telemetry: RpcTelemetry, began: float
) -> NoReturn:
    if isinstance(error, BanditError) and code_of(error) is not grpc.StatusCode.INTERNAL:
        status, code, reason = status_of(error), code_of(error).name, error.reason
    else:
        log.error("rpc_failed", method=name, exc_info=error)
        status, code, reason = internal(), grpc.StatusCode.INTERNAL.name, type(error).__name__
    _finish(name, code, telemetry, began, reason)
    context.abort_with_status(rpc_status.to_status(status))


def _finish(name: str, code: str, telemetry: RpcTelemetry, began: float, reason: str = "") -> None:
    seconds = perf_counter() - began
    telemetry.rpc(name, code, seconds)
    log.debug("rpc_finished", method=name, code=code, reason=reason, seconds=seconds)


def _refusal(handler: grpc.RpcMethodHandler[Any, Any], pool: Pool) -> grpc.RpcMethodHandler[Any, Any]:
    status = rpc_status.to_status(
        status_of(
            Overloaded(
                f"{pool.limit} calls of this kind are in flight, which is the most this server takes; "
                "try again in a moment, or send batches",
                reason="TOO_MANY_CALLS",
                limit=pool.limit,
            )
        )
    )

    def refuse(_: Any, context: grpc.ServicerContext) -> Any:
        context.abort_with_status(status)

    # A stream's behavior may raise before it gives an iterator.
    if handler.request_streaming and handler.response_streaming:
        return grpc.stream_stream_rpc_method_handler(refuse)
    if handler.response_streaming:
        return grpc.unary_stream_rpc_method_handler(refuse)
    return grpc.unary_unary_rpc_method_handler(refuse)

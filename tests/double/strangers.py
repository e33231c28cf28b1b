"""Servers that are no banditd: one that speaks no gRPC, one that speaks another gRPC."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from concurrent import futures
from contextlib import contextmanager
from typing import Any

import grpc

Answer = Callable[[grpc.ServicerContext], bytes]


@contextmanager
def rude(answer: bytes) -> Iterator[str]:
    """Something that is no gRPC: it sends `answer` to whoever connects, and hangs up."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.1)
        over = threading.Event()

        def serve() -> None:
            while not over.is_set():
                try:
                    peer, _ = listener.accept()
                except TimeoutError:
                    continue
                with peer:
                    peer.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield f"127.0.0.1:{listener.getsockname()[1]}"
        finally:
            over.set()
            thread.join()


class _Odd(grpc.GenericRpcHandler):
    def __init__(self, answer: Answer) -> None:
        self._answer = answer

    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        if handler_call_details.method.endswith("WatchStatus"):
            return grpc.unary_stream_rpc_method_handler(
                lambda request, context: iter([self._answer(context)])
            )
        return grpc.unary_unary_rpc_method_handler(lambda request, context: self._answer(context))


@contextmanager
def odd(answer: Answer | None) -> Iterator[str]:
    """A gRPC server that answers every call with these bytes, or (None) knows no call."""
    server = grpc.server(futures.ThreadPoolExecutor(2))
    if answer is not None:
        server.add_generic_rpc_handlers((_Odd(answer),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield f"127.0.0.1:{port}"
    finally:
        server.stop(None).wait()

"""A DecisionService that decides nothing: the ceiling that the real one is held against. It only builds the reply.

    python benchmarks/echo.py HOST:PORT plain|guarded

``plain``: grpcio's sync server with eight threads and nothing else. ``guarded``: the same servicer inside banditd's
own server (interceptors, pools, limits). The reply has the fields and sizes of a real one.
"""

from __future__ import annotations

import sys
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import grpc
from google.protobuf.duration_pb2 import Duration

from bandit.token import TOKEN_BYTES
from bandit.v1 import decision_service_pb2 as pb
from bandit.v1 import decision_service_pb2_grpc, experiment_service_pb2_grpc, reward_service_pb2_grpc

THREADS = 8
_TOKEN = bytes(range(TOKEN_BYTES))
_ID = "0123456789abcdef-00000001-000000000001"
# Their methods that nobody calls stay as the stubs have them: UNIMPLEMENTED.
_REST: tuple[Any, ...] = (
    reward_service_pb2_grpc.RewardServiceServicer,
    experiment_service_pb2_grpc.ExperimentServiceServicer,
)


class Echo(decision_service_pb2_grpc.DecisionServiceServicer):
    """Reads the request's unit and answers the first arm, always."""

    def Decide(self, request: pb.DecideRequest, context: grpc.ServicerContext) -> pb.DecideResponse:  # noqa: N802
        """One unit."""
        del context
        if not request.unit:
            raise ValueError("no unit")
        return pb.DecideResponse(
            arm="baseline",
            propensity=0.5,
            reason=pb.DECISION_REASON_ASSIGNED,
            epoch=1,
            allocation_number=7,
            decision_id=_ID,
            token=_TOKEN,
            state_age=Duration(nanos=250_000_000),
            mode=pb.SERVING_MODE_FRESH,
            counted=True,
        )


def _echo() -> Any:
    made: Any = Echo
    return made()


def plain(address: str) -> grpc.Server:
    """grpcio as it comes."""
    server = grpc.server(ThreadPoolExecutor(THREADS), options=[("grpc.so_reuseport", 0)])
    decision_service_pb2_grpc.add_DecisionServiceServicer_to_server(_echo(), server)
    _listen(server, address)
    server.start()
    return server


def guarded(address: str) -> grpc.Server:
    """Inside banditd's server."""
    from server.rpc.server import build_server
    from server.telemetry import logs

    logs.configure("info", "text", "echo")
    started, server = build_server(_echo(), *(rest() for rest in _REST))
    _listen(server, address)
    started.start()
    return server


def _listen(server: grpc.Server, address: str) -> None:
    if not server.add_insecure_port(address):
        raise SystemExit(f"{address} cannot be bound; choose another port")


if __name__ == "__main__":
    {"plain": plain, "guarded": guarded}[sys.argv[2]](sys.argv[1]).wait_for_termination()

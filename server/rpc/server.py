"""Builds the gRPC server: services, health, limits; it starts nothing by itself and knows no configuration file."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import grpc
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from bandit.v1 import (
    decision_service_pb2,
    decision_service_pb2_grpc,
    experiment_service_pb2,
    experiment_service_pb2_grpc,
    ingest_service_pb2,
    ingest_service_pb2_grpc,
    reward_service_pb2,
    reward_service_pb2_grpc,
    server_service_pb2,
    server_service_pb2_grpc,
)
from server.rpc.decisions import Decisions
from server.rpc.experiments import Experiments
from server.rpc.ingestion import Ingestion
from server.rpc.interceptors import Admission, NoTelemetry, Pool, RpcTelemetry, Sending, guarded
from server.rpc.local import Local
from server.rpc.rewards import Rewards

SERVICES = (
    decision_service_pb2.DESCRIPTOR.services_by_name["DecisionService"],
    reward_service_pb2.DESCRIPTOR.services_by_name["RewardService"],
    experiment_service_pb2.DESCRIPTOR.services_by_name["ExperimentService"],
)

LOCAL = server_service_pb2.DESCRIPTOR.services_by_name["ServerService"]
INGEST = ingest_service_pb2.DESCRIPTOR.services_by_name["IngestService"]
REFLECTION = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"


@dataclass(frozen=True, slots=True)
class Limits:
    """Most of everything. Threads and calls (running or waiting) by kind; sizes in bytes, spans in seconds.

    Eight threads for decisions: 1.5 times the calls of one thread on one core, and no more with sixteen.
    """

    decide_threads: int = 8
    decide_calls: int = 1024
    reward_threads: int = 32
    reward_calls: int = 512
    operator_threads: int = 8
    operator_calls: int = 128
    local_calls: int = 32
    streams: int = 100
    message_bytes: int = 4 << 20
    metadata_bytes: int = 16 << 10
    streams_per_connection: int = 1000
    connection_age_s: float = 300.0
    keepalive_s: float = 30.0
    keepalive_timeout_s: float = 10.0
    ping_every_s: float = 9.0
    send_s: float = 60.0
    handshake_s: float = 20.0


DEFAULT_LIMITS = Limits()


class RpcServer:
    """A gRPC server with its pools. ``serving`` says to health checks what it can do."""

    def __init__(
        self,
        server: grpc.Server,
        checks: health.HealthServicer,
        pools: tuple[Pool, ...],
        sending: Sending,
        before_stop: Callable[[], None],
    ) -> None:
        self.pools = pools
        self._server = server
        self._checks = checks
        self._sending = sending
        self._before_stop = before_stop
        self._stopping = threading.Event()
        self._cutter = threading.Thread(target=self._cut, name="stream-cutter", daemon=True)
        self._say(health_pb2.HealthCheckResponse.NOT_SERVING)

    def start(self) -> None:
        """Take calls."""
        self._server.start()
        self._cutter.start()

    def serving(self) -> None:
        """From now on it can answer."""
        self._say(health_pb2.HealthCheckResponse.SERVING)

    def stop(self, grace_s: float) -> None:
        """Tell health checks, take no new calls, let the present ones end within ``grace_s``."""
        self._stopping.set()
        self._before_stop()
        self._checks.enter_graceful_shutdown()
        self._server.stop(grace_s).wait(grace_s + 5.0)
        for pool in self.pools:
            pool.shutdown(wait=False, cancel_futures=True)

    def _say(self, status: int) -> None:
        for name in ("", *(service.full_name for service in SERVICES)):
            self._checks.set(name, status)

    def _cut(self) -> None:
        while not self._stopping.wait(1.0):
            self._sending.cut()


def build_server(
    decisions: Decisions,
    rewards: Rewards,
    experiments: Experiments,
    *,
    local: Local | None = None,
    ingestion: Ingestion | None = None,
    limits: Limits = DEFAULT_LIMITS,
    telemetry: RpcTelemetry | None = None,
    reflection: bool = False,
    before_stop: Callable[[], None] = lambda: None,
) -> tuple[RpcServer, grpc.Server]:
    """A server with all services, still without a port: add one to the second, then start the first.

    ``before_stop`` ends streams that would otherwise last as long as they may.
    """
    decide = Pool("decide", limits.decide_threads, limits.decide_calls)
    reward = Pool("reward", limits.reward_threads, limits.reward_calls)
    operate = Pool("operate", limits.operator_threads, limits.operator_calls)
    stream = Pool("stream", max(limits.streams, 1), limits.streams)
    rest = Pool("rest", 2, 1 << 30)  # health and refusals: short, and never behind the others
    by_service = dict(zip(SERVICES, (decide, reward, operate), strict=True))
    pools = {
        f"/{service.full_name}/{method.name}": stream if method.server_streaming else by_service[service]
        for service in SERVICES
        for method in service.methods
    }
    pools[REFLECTION] = stream
    own = Pool("local", 2, limits.local_calls)  # a stop never waits behind calls that wait for the store
    pools.update({f"/{LOCAL.full_name}/{method.name}": own for method in LOCAL.methods})
    pools.update({f"/{INGEST.full_name}/{method.name}": operate for method in INGEST.methods})
    server = grpc.server(
        rest,
        interceptors=[Admission(pools)],
        options=_options(limits),
        maximum_concurrent_rpcs=2
        * (limits.decide_calls + limits.reward_calls + limits.operator_calls + limits.streams),
    )
    sending = Sending(limits.send_s)
    add: tuple[Callable[..., None], ...] = (
        decision_service_pb2_grpc.add_DecisionServiceServicer_to_server,
        reward_service_pb2_grpc.add_RewardServiceServicer_to_server,
        experiment_service_pb2_grpc.add_ExperimentServiceServicer_to_server,
    )
    for register, servicer, service in zip(add, (decisions, rewards, experiments), SERVICES, strict=True):
        register(guarded(servicer, service, pools, telemetry or NoTelemetry(), sending), server)
    if local is not None:
        server_service_pb2_grpc.add_ServerServiceServicer_to_server(
            guarded(local, LOCAL, pools, telemetry or NoTelemetry(), sending), server
        )
    if ingestion is not None:
        ingest_service_pb2_grpc.add_IngestServiceServicer_to_server(
            guarded(ingestion, INGEST, pools, telemetry or NoTelemetry(), sending), server
        )
    checks = health.HealthServicer(experimental_non_blocking=True, experimental_thread_pool=rest)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    if reflection:
        _reflect(server, stream)
    return RpcServer(
        server, checks, (decide, reward, operate, own, stream, rest), sending, before_stop
    ), server


def _reflect(server: grpc.Server, pool: Pool) -> None:
    """Answer reflection: streams, so they count with the others."""
    from grpc_reflection.v1alpha import reflection, reflection_pb2_grpc

    names = (
        *(service.full_name for service in (*SERVICES, LOCAL, INGEST)),
        health.SERVICE_NAME,
        reflection.SERVICE_NAME,
    )
    servicer: Any = reflection.ReflectionServicer(names)

    def call(request_iterator: Any, context: grpc.ServicerContext) -> Any:
        return servicer.ServerReflectionInfo(request_iterator, context)

    guarded_call: Any = call
    guarded_call.experimental_thread_pool = pool
    register: Any = reflection_pb2_grpc.add_ServerReflectionServicer_to_server
    register(SimpleNamespace(ServerReflectionInfo=guarded_call), server)


def _options(limits: Limits) -> list[tuple[str, int]]:
    return [
        ("grpc.so_reuseport", 1),
        ("grpc.max_receive_message_length", limits.message_bytes),
        ("grpc.max_send_message_length", limits.message_bytes),
        ("grpc.max_metadata_size", limits.metadata_bytes),
        ("grpc.absolute_max_metadata_size", limits.metadata_bytes),
        ("grpc.max_concurrent_streams", limits.streams_per_connection),
        # Connections end and come back now and then, so that workers sharing a port share the load.
        ("grpc.max_connection_age_ms", round(limits.connection_age_s * 1000)),
        # A socket that never gets past its greeting is closed; gRPC itself waits a minute.
        ("grpc.server_handshake_timeout_ms", round(limits.handshake_s * 1000)),
        ("grpc.keepalive_time_ms", round(limits.keepalive_s * 1000)),
        ("grpc.keepalive_timeout_ms", round(limits.keepalive_timeout_s * 1000)),
        ("grpc.keepalive_permit_without_calls", 1),
        ("grpc.http2.min_ping_interval_without_data_ms", round(limits.ping_every_s * 1000)),
    ]

"""The double of banditd on a port of loopback."""

from __future__ import annotations

from concurrent import futures

import grpc

from bandit.v1.decision_service_pb2_grpc import add_DecisionServiceServicer_to_server
from bandit.v1.experiment_service_pb2_grpc import add_ExperimentServiceServicer_to_server
from bandit.v1.reward_service_pb2_grpc import add_RewardServiceServicer_to_server
from tests.double.experiments import Experiments
from tests.double.ground import Ground
from tests.double.traffic import Decisions, Rewards


class Double:
    """A running server; ``ground`` is what it holds. A context manager."""

    def __init__(self, ground: Ground | None = None, port: int = 0) -> None:
        self.ground = ground or Ground()
        self.ground.open = True
        self._server = grpc.server(futures.ThreadPoolExecutor(8), options=[("grpc.so_reuseport", 0)])
        add_ExperimentServiceServicer_to_server(Experiments(self.ground), self._server)
        add_DecisionServiceServicer_to_server(Decisions(self.ground), self._server)
        add_RewardServiceServicer_to_server(Rewards(self.ground), self._server)
        self.port = self._server.add_insecure_port(f"127.0.0.1:{port}")
        self.address = f"127.0.0.1:{self.port}"
        self._server.start()

    def __enter__(self) -> Double:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Ends the server and its streams."""
        self.ground.close()
        self._server.stop(None).wait(5)

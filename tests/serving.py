"""What tests of a serving process share: a store that fails on demand, waiting, and a whole server in this process."""

from __future__ import annotations

import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import grpc

from bandit.errors import StoreUnavailable
from bandit.rollout.transitions import Transition, reallocate, start
from bandit.v1 import decision_service_pb2_grpc, experiment_service_pb2_grpc, reward_service_pb2_grpc
from server.clock import SystemClock
from server.journal import Journal, Shipper
from server.rates import Rates
from server.rpc.decisions import Decisions
from server.rpc.experiments import Experiments
from server.rpc.ingestion import Ingestion
from server.rpc.interceptors import RpcTelemetry
from server.rpc.local import Local
from server.rpc.rewards import Rewards
from server.rpc.server import DEFAULT_LIMITS, Limits, RpcServer, build_server
from server.snapshot import SnapshotKeeper
from server.stops import StopFile
from server.store.base import Commit, Store, Stored
from server.store.memory import MemoryStore
from tests.builders import NOW, SALT, spec

SHARES = (400_000, 300_000, 300_000)
ANY: Any = None  # the call's own side, of which servicers ask nothing


class Faulty:
    """A store of which calls fail, or are answered by a stand-in, as long as the test wants."""

    def __init__(self, store: Any) -> None:
        self.store = store
        self.broken: set[str] = set()
        self.instead: dict[str, Callable[..., Any]] = {}
        self.calls: list[str] = []

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any, **named: Any) -> Any:
            self.calls.append(name)
            if name in self.broken or "all" in self.broken:
                raise StoreUnavailable("the store does not answer; a test says so")
            if name in self.instead:
                return self.instead[name](*arguments, **named)
            return getattr(self.store, name)(*arguments, **named)

        return call


def until(met: Callable[[], object], timeout_s: float = 10.0, what: str = "condition") -> None:
    """Poll until it is met; fail with ``what`` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, f"not within {timeout_s:g} s: {what}"
        time.sleep(0.002)


def commit(store: Store, now: Stored | None, moved: Transition) -> Stored:
    """Commit a transition and read it back."""
    store.commit(Commit(now.generation if now else 0, moved.experiment, moved.allocation))
    return load(store, moved.experiment.name)


def load(store: Store, name: str = "answers") -> Stored:
    """The experiment, which must be there."""
    found = store.load(name)
    assert found is not None
    return found


def put_draft(store: Store, name: str = "answers", **changes: Any) -> Stored:
    """A new experiment in DRAFT."""
    from bandit.rollout.transitions import create

    made = create(spec(experiment=name, **changes), uid=store.next_uid(), salt=SALT, now_ms=NOW)
    return commit(store, None, made)


def put_running(
    store: Store, name: str = "answers", shares_ppm: tuple[int, ...] = SHARES, **changes: Any
) -> Stored:
    """A running experiment under the given shares."""
    now = put_draft(store, name, **changes)
    now = commit(store, now, start(now.experiment, now.allocation, NOW + 1000))
    return reshare(store, now, shares_ppm)


def reshare(store: Store, now: Stored, shares_ppm: tuple[int, ...]) -> Stored:
    """The same experiment under other shares."""
    moved = reallocate(
        now.experiment, now.allocation, shares_ppm, now.allocation.centres, "evidence", NOW + 2000
    )
    return commit(store, now, moved)


@dataclass
class Serving:
    """A serving process's parts in this process, and stubs to call it."""

    store: Any
    keeper: SnapshotKeeper
    journal: Journal
    shipper: Shipper
    decisions: Decisions
    experiments: Experiments
    server: RpcServer
    port: int
    channel: grpc.Channel

    def __post_init__(self) -> None:
        self.decide = decision_service_pb2_grpc.DecisionServiceStub(self.channel)
        self.reward = reward_service_pb2_grpc.RewardServiceStub(self.channel)
        self.operate = experiment_service_pb2_grpc.ExperimentServiceStub(self.channel)


@contextmanager
def serving(
    store: Any = None,
    *,
    ready: bool = True,
    limits: Limits = DEFAULT_LIMITS,
    telemetry: RpcTelemetry | None = None,
    reflection: bool = False,
    check_s: float = 0.02,
    rates: Rates | None = None,
) -> Iterator[Serving]:
    """A whole server on a free port of this machine, started, stopped at the end."""
    store = MemoryStore() if store is None else store
    clock = SystemClock()
    with tempfile.TemporaryDirectory() as folder:
        stops = StopFile(Path(folder))
        keeper = SnapshotKeeper(store, clock, poll_s=0.1, halts=stops)
        journal = Journal(Path(folder) / "journal", store.reserve_issuers(1))
        shipper = Shipper(journal, store, keeper, clock)
        decisions = Decisions(keeper, clock, journal)
        local = Local(keeper, stops, clock)
        experiments = Experiments(store, clock, check_s=check_s, standing=local.standing)
        rpc, grpc_server = build_server(
            decisions,
            Rewards(keeper, store, clock, rates=rates),
            experiments,
            local=local,
            limits=limits,
            telemetry=telemetry,
            reflection=reflection,
            ingestion=Ingestion(store, keeper, clock),
            before_stop=experiments.watcher.stop,
        )
        port = grpc_server.add_insecure_port("127.0.0.1:0")
        rpc.start()
        if ready:
            keeper.start()
            until(keeper.ready.is_set, what="the first snapshot")
            rpc.serving()
        shipper.start()
        options = [("grpc.use_local_subchannel_pool", 1)]
        try:
            with grpc.insecure_channel(f"127.0.0.1:{port}", options) as channel:
                yield Serving(store, keeper, journal, shipper, decisions, experiments, rpc, port, channel)
        finally:
            rpc.stop(0.2)
            shipper.stop(2.0)
            if ready:
                keeper.stop()
            journal.close()


def code_of(call: Callable[[], object]) -> grpc.StatusCode:
    """How a call ends. Any: what grpc raises is an RpcError and a Call, which its types cannot say."""
    try:
        call()
    except grpc.RpcError as error:
        failed: Any = error
        code: grpc.StatusCode = failed.code()
        return code
    return grpc.StatusCode.OK


def details_of(error: Any) -> dict[str, Any]:
    """Unpacked details of a failed call, by the name of their type."""
    from google.rpc import error_details_pb2, status_pb2

    trailing = dict(error.trailing_metadata() or ())
    status = status_pb2.Status.FromString(trailing["grpc-status-details-bin"])
    assert status.code == error.code().value[0]
    found = {}
    for packed in status.details:
        kind = packed.type_url.rpartition(".")[2]
        message = getattr(error_details_pb2, kind)()
        packed.Unpack(message)
        found[kind] = message
    return found


def in_thread(work: Callable[[], object]) -> threading.Thread:
    """Started."""
    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    return thread

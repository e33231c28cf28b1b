"""Servers that start, stop arms and let leases lapse while the store is away: real processes, killed as they come.

Faults 1, 2 and 4, case C514. Without a learner: what is served does not need one.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path
from threading import Event, Thread
from typing import Any

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from bandit.client import Client
from bandit.errors import BanditError
from bandit.rollout.state import State
from bandit.v1 import decision_service_pb2 as pb
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.conftest import PATIENT_S
from tests.service import Service, until
from tests.serving import load, put_running

SOON_S = 60.0


class Away:
    """A store at a place of its own, which may be away."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._link = folder / "store.sock"
        self.url = f"unix://{self._link}"
        self._server: Embedded | None = None

    def come(self) -> None:
        """It answers, with all that it had."""
        self._server = Embedded(self._folder / "valkey")
        self._server.start()
        self._link.unlink(missing_ok=True)
        self._link.symlink_to(self._server.url.removeprefix("unix://"))

    def go(self) -> None:
        """It is gone, in order."""
        if self._server is not None:
            self._server.stop()
            self._server = None

    @contextmanager
    def store(self) -> Iterator[RedisStore]:
        with closing(RedisStore(self.url, timeout_s=PATIENT_S)) as store:
            yield store


@pytest.fixture
def away(tmp_path: Path) -> Iterator[Away]:
    made = Away(tmp_path)
    yield made
    made.go()


class Server(Service):
    """A banditd that only serves, without the HTTP edge; ready when it decides."""

    def __init__(self, tmp_path: Path, away: Away, *arguments: str, name: str = "kept") -> None:
        usual = ["--role", "serve", "--http-listen", "off", "--poll-s", "0.2"]
        super().__init__(tmp_path / name, "--store", away.url, *usual, *arguments)

    def ready(self) -> bool:
        with self.client() as client:
            return answers(client) is not None


def answers(client: Client) -> pb.DecideResponse | None:
    """One decision, or None when there is none."""
    try:
        return client.decide("answers", "u1")
    except BanditError:
        return None


def until_answered(
    client: Client, wanted: Callable[[pb.DecideResponse], bool], what: str
) -> pb.DecideResponse:
    """Ask until the answer is as wanted, several times in a row: each worker may have answered."""
    row: list[pb.DecideResponse] = []

    def met() -> bool:
        reply = answers(client)
        if reply is None or not wanted(reply):
            row.clear()
            return False
        row.append(reply)
        return len(row) >= 5

    until(met, SOON_S, what)
    return row[-1]


def decided(service: Server, count: int = 60) -> tuple[Counter[str], set[str], set[int]]:
    """Arms, issuers and reasons over several connections, so that both workers answer."""
    arms: Counter[str] = Counter()
    issuers: set[str] = set()
    reasons: set[int] = set()
    for _ in range(6):
        with service.client() as client:
            for index in range(count // 6):
                reply = client.decide("answers", f"u{index}")
                arms[reply.arm] += 1
                reasons.add(reply.reason)
                if reply.decision_id:
                    issuers.add(reply.decision_id.split(".")[1])
    return arms, issuers, reasons


@pytest.mark.timeout(400)
def test_killed_and_started_again_while_the_store_is_away(tmp_path: Path, away: Away, full: bool) -> None:
    """Decides from its disk, stale, by issuers that nobody had; a stop holds over kill -9, and is reconciled once."""
    away.come()
    with away.store() as store:
        put_running(store)
    issuers: set[str] = set()
    starts = 20 if full else 1
    with Server(tmp_path, away, "--workers", "2") as server:
        with server.client() as client:
            until_answered(client, lambda reply: reply.counted, "decisions")
        until((tmp_path / "kept/snapshot/state").exists, SOON_S, "the state on disk")
        until((tmp_path / "kept/issuers").exists, SOON_S, "issuers on disk")
        arms, mine, _ = decided(server)
        issuers |= mine
        away.go()
        for _ in range(starts):
            server.kill_all()
            server.start()
            with server.client() as client:
                reply = until_answered(client, lambda reply: reply.counted, "decisions from disk")
                assert reply.mode == pb.SERVING_MODE_STALE
                assert reply.reason == pb.DECISION_REASON_ASSIGNED
            again, mine, _ = decided(server)
            assert again == arms, "the same units have the same arms"
            assert mine
            assert not mine & issuers, "no issuer number is used twice"
            issuers |= mine
        with Client(server.listen, actor="anna") as client:
            client.stop_arm("answers", "small", "it rambles")
            until_answered(client, lambda reply: reply.reason == pb.DECISION_REASON_STOPPED, "the stop")
        until(lambda: "small" not in decided(server)[0], SOON_S, "the stop in every process")
        server.kill_all()
        server.start()
        stopped, _, reasons = decided(server)
        assert "small" not in stopped
        assert reasons == {pb.DECISION_REASON_STOPPED}
        with server.client() as client:
            assert [stop.actor for stop in client.server().stops] == ["client/anna"]
        away.come()
        with server.client() as client, away.store() as store:
            until_answered(client, lambda reply: reply.mode != pb.SERVING_MODE_STALE, "the store is back")
            until(
                lambda: load(store).experiment.arms[1].rollback is not None,
                SOON_S,
                "the rollback in the store",
            )
            until(lambda: not client.server().stops, SOON_S, "the end of the stop")
            records = store.audit("answers", None, 100)
            assert [(record.action, record.actor, record.reason) for record in records] == [
                ("rolled_back", "client/anna", "it rambles")
            ]
            assert load(store).experiment.state is State.RUNNING
        assert "small" not in decided(server)[0]


@pytest.mark.timeout(300)
def test_without_state_and_store_it_waits_and_says_so(tmp_path: Path, away: Away) -> None:
    """Fault 2: it stays up, not serving, and serves when the store appears; then the lease ends and comes back."""
    server = Server(tmp_path, away, "--exposure-lease-s", "2")
    server.start(wait=False)
    try:
        with server.channel() as channel:
            stub: Any = health_pb2_grpc.HealthStub(channel)

            def status() -> int | None:
                try:
                    return int(stub.Check(health_pb2.HealthCheckRequest(), timeout=5).status)
                except grpc.RpcError:
                    return None

            not_serving, serving = (
                health_pb2.HealthCheckResponse.NOT_SERVING,
                health_pb2.HealthCheckResponse.SERVING,
            )
            until(lambda: status() == not_serving, SOON_S, "not serving")
            before = server.processes()
            with server.client() as client:
                assert answers(client) is None
            away.come()
            with away.store() as store:
                put_running(store)
            until(lambda: status() == serving, SOON_S, "serving")
        assert set(before) <= set(server.processes()), "nothing was restarted"
        with server.client() as client:
            until_answered(client, lambda reply: reply.counted, "decisions")
            away.go()
            reply = until_answered(
                client, lambda reply: reply.reason == pb.DECISION_REASON_LEASE_EXPIRED, "the end of the lease"
            )
            assert (reply.arm, reply.propensity, reply.counted) == ("control", 1.0, False)
            assert reply.state_age.ToMilliseconds() >= 2000
            assert set(decided(server)[0]) == {"control"}
            assert client.server().lease_expired
            server.kill_all()
            server.start()
            assert set(decided(server)[0]) == {"control"}, "not even by a restart"
            away.come()
            until_answered(client, lambda reply: reply.counted, "the lease again")
    finally:
        server.stop()


def _grew(answered: Counter[str], before: int) -> bool:
    return answered.total() > before


@pytest.mark.timeout(900)
def test_a_rolling_restart_fails_no_decision(tmp_path: Path, away: Away, full: bool) -> None:
    """Fault 43: two machines behind one name, restarted in turn under load, through the client's own retries."""
    away.come()
    with away.store() as store:
        put_running(store)
    with Server(tmp_path, away, name="one") as one, Server(tmp_path, away, name="two") as two:
        failed: list[str] = []
        answered = Counter[str]()
        enough = Event()

        def load_up() -> None:
            with Client(f"ipv4:{one.listen},{two.listen}", timeout_s=20.0) as client:
                number = 0
                while not enough.is_set():
                    number += 1
                    try:
                        answered[client.decide("answers", f"u{number}").arm] += 1
                    except BanditError as error:
                        failed.append(str(error))
                    time.sleep(0.01)

        lanes = [Thread(target=load_up) for _ in range(2)]
        for lane in lanes:
            lane.start()
        try:
            for turn in range(50 if full else 3):
                server = (one, two)[turn % 2]
                before = answered.total()
                assert server.stop() == 0
                server.start()
                until(partial(_grew, answered, before), SOON_S, "decisions")
        finally:
            enough.set()
            for lane in lanes:
                lane.join(60)
        assert failed == []
        assert set(answered) == {"control", "small", "large"}

"""Two whole services on one store: learners frozen and killed with their leases, and a machine whose clock is wrong.

Faults 15, 24 and 25: what each server decided and took is counted once, a harmful arm is rolled back once.
"""

from __future__ import annotations

import os
import random
import re
import signal
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path

import pytest

from bandit.client import Client
from bandit.errors import BanditError
from bandit.rollout.audit import first_broken
from bandit.v1 import reward_service_pb2 as wire
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.builders import spec
from tests.conftest import PATIENT_S
from tests.service import START_S, Service, until

SOON_S = 60.0
SKEW_S = 7200
AGREED_MS = 60_000
ARMS = ("control", "small", "large")
HARMED, BAD = "large", 0.6
METRICS = [
    {"name": "satisfied", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1h"},
    {"name": "bad", "kind": "bernoulli", "direction": "minimize", "attribution_window": "10m"},
]
SPEC = spec(
    metrics=METRICS,
    objective=[{"metric": "satisfied", "weight": 1.0}],
    bounds={"floor": 0.2, "control_floor": 0.2},
    guardrails=[{"name": "bad-limit", "kind": "rate_limit", "metric": "bad", "limit": 0.1}],
)


class World:
    """What requests meet: as long as it is not ``harmful`` no answer is bad, then most of one arm are."""

    def __init__(self) -> None:
        self.harmful = threading.Event()

    def bad(self, arm: str, draw: random.Random) -> bool:
        return arm == HARMED and self.harmful.is_set() and draw.random() < BAD


class Lane(threading.Thread):
    """Decides at one server and reports at the other, whatever is repeated until it is answered; keeps the truth."""

    def __init__(self, decides: Service, reports: Service, world: World, seed: int) -> None:
        super().__init__(daemon=True)
        self.decides, self.reports, self.world = decides, reports, world
        self.stop = threading.Event()
        self.decided = Counter[str]()
        self.bad = Counter[str]()
        self.latest: deque[str] = deque(maxlen=20)
        self.faults: list[str] = []
        self._draw = random.Random(seed)
        self._waiting: deque[wire.RewardEvent] = deque()

    def run(self) -> None:
        number = 0
        with self.decides.client() as asking, self.reports.client() as telling:
            while not self.stop.is_set() or self._waiting:
                if not self.stop.is_set():
                    number += 1
                    self._decide(asking, f"{self.decides.listen}-{number}")
                if len(self._waiting) >= 20 or self.stop.is_set():
                    self._report(telling)
                time.sleep(0.005)

    def _decide(self, client: Client, unit: str) -> None:
        try:
            reply = client.decide("answers", unit)
        except BanditError as error:
            self.faults.append(str(error))
            return
        if not reply.counted:
            self.faults.append(f"{unit} is not counted: {reply.reason}")
            return
        self.latest.append(reply.arm)
        self.decided[reply.arm] += 1
        bad = self.world.bad(reply.arm, self._draw)
        self.bad[reply.arm] += bad
        for metric, value in (("bad", float(bad)), ("satisfied", 1.0)):
            self._waiting.append(wire.RewardEvent(token=reply.token, metric=metric, value=value))

    def _report(self, client: Client) -> None:
        batch = [self._waiting.popleft() for _ in range(min(40, len(self._waiting)))]
        try:
            results = client.report_rewards(batch)
        except BanditError:
            self._waiting.extendleft(reversed(batch))  # the answer is unknown: all of it again
            return
        self.faults += [str(result) for result in results if result.outcome != wire.REWARD_OUTCOME_ACCEPTED]


def learner_of(service: Service) -> int:
    """Its learner's process."""
    (pid,) = [pid for pid, command in service.processes().items() if "--child learn" in command]
    return pid


def judge(store: RedisStore, other_than: int = 0) -> int:
    """Wait until the learner of some process, another one than this, holds the lease; that process."""
    deadline = time.monotonic() + SOON_S
    while time.monotonic() < deadline:
        owner = store._link.call("HGET", store._keys.of("answers").lease, "owner")
        if owner and (pid := int(owner.decode().rpartition("/")[2])) != other_than:
            return pid
        time.sleep(0.02)
    raise AssertionError(f"not within {SOON_S:g} s: a learner other than {other_than} with the lease")


def rollbacks(store: RedisStore) -> list[str]:
    """Who rolled back, oldest first; the whole chain of records holds."""
    records = list(reversed(store.audit("answers", None, 1000)))
    assert first_broken(records) is None
    return [record.actor for record in records if record.action == "rolled_back"]


def both(stack: ExitStack, *services: Service) -> None:
    """Start them beside each other; they end with the stack."""
    for service in services:
        stack.callback(service.stop)
        service.start(wait=False)
    for service in services:
        until(service.ready, START_S / 2, f"{service.listen} ready; see {service.log}")


def run(lanes: list[Lane]) -> None:
    """Start them, and wait until each is under way."""
    for lane in lanes:
        lane.start()
    until(lambda: min(lane.decided.total() for lane in lanes) > 100, SOON_S, "load")


def served(lanes: list[Lane]) -> None:
    """Wait until no server has given the harmful arm to its last twenty units."""
    until(lambda: not any(HARMED in list(lane.latest) for lane in lanes), SOON_S, "the rollback served")


def begin(client: Client) -> None:
    """A running experiment with shares for every arm."""
    client.create(SPEC)
    client.start("answers")
    until(lambda: min(arm.share_ppm for arm in client.status("answers").arms) > 0, SOON_S, "shares")


def end(lanes: list[Lane], client: Client) -> None:
    """Stop, and compare what the ledger counted with the truth."""
    for lane in lanes:
        lane.stop.set()
    for lane in lanes:
        lane.join(SOON_S)
        assert not lane.is_alive()
        assert lane.faults == []
    decided, bad = Counter[str](), Counter[str]()
    for lane in lanes:
        decided.update(lane.decided)
        bad.update(lane.bad)

    def counted() -> bool:
        status = client.status("answers")
        told = status.rewards
        ended = told.applied + told.late + told.rejected + told.conflict
        return ended >= 2 * decided.total() and sum(arm.exposures for arm in status.arms) >= decided.total()

    until(counted, SOON_S, f"all of {decided} counted")
    status = client.status("answers")
    assert (status.rewards.late, status.rewards.rejected, status.rewards.conflict) == (0, 0, 0)
    assert status.rewards.applied == 2 * decided.total()
    assert status.exposures_lost == 0
    assert {arm.arm: arm.exposures for arm in status.arms} == {arm: decided[arm] for arm in ARMS}
    for arm in status.arms:
        named = {metric.metric: metric for metric in arm.metrics}
        assert (named["bad"].n, named["satisfied"].n) == (decided[arm.arm], decided[arm.arm])
        assert round(named["bad"].mean * named["bad"].n, 6) == bad[arm.arm]


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Embedded]:
    server = Embedded(tmp_path / "valkey")
    server.start()
    yield server
    server.stop()


@pytest.mark.timeout(600)
def test_learners_frozen_and_killed_with_their_lease(tmp_path: Path, valkey: Embedded, full: bool) -> None:
    """Another takes over; the frozen one, awake again, changes nothing; harm seen meanwhile is rolled back once."""
    usual = ["--store", valkey.url, "--lease-ttl-s", "2", "--hang-s", "0"]
    with ExitStack() as stack:
        store = stack.enter_context(closing(RedisStore(valkey.url, timeout_s=PATIENT_S)))
        services = [Service(tmp_path / name, *usual) for name in ("one", "two")]
        both(stack, *services)
        client = stack.enter_context(services[0].client())
        begin(client)
        world = World()
        one, two = services
        lanes = [Lane(one, two, world, 1), Lane(two, one, world, 2)]
        run(lanes)

        for turn in range(20 if full else 4):
            frozen = judge(store)
            (its,) = [service for service in services if learner_of(service) == frozen]
            said = its.log.stat().st_size
            os.kill(frozen, signal.SIGSTOP)
            try:
                judge(store, other_than=frozen)
                if turn == 0:
                    world.harmful.set()
                    until(lambda: rollbacks(store), SOON_S, "the rollback")
                applied = client.status("answers").rewards.applied
                until(partial(more_applied, client, applied), SOON_S, "folds of the other one")
            finally:
                os.kill(frozen, signal.SIGCONT)
            until(partial(knows, its, said), SOON_S, "the frozen one finds that it was not the judge")
        killed = judge(store)
        os.kill(killed, signal.SIGKILL)
        judge(store, other_than=killed)
        served(lanes)
        end(lanes, client)
        assert rollbacks(store) == ["guardrail/bad-limit"]


def more_applied(client: Client, applied: int) -> bool:
    """Were rewards folded since there were so many?"""
    return client.status("answers").rewards.applied > applied


def knows(service: Service, said: int) -> bool:
    """Has a learner of it said, after so many bytes, that its lease went, or that it had to take a new one?"""
    text = service.log.read_bytes()[said:]
    return any(event in text for event in (b"lease_lost", b"writer_fenced", b"lease_gained"))


def wrong_clock(offset_s: int) -> dict[str, str]:
    """Variables under which a process and its children live at another wall-clock time."""
    found = sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))
    assert found, "no libfaketime: install Debian's faketime"
    return {
        "LD_PRELOAD": str(found[0]),
        "FAKETIME": f"{offset_s:+d}s",
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "NO_FAKE_STAT": "1",
        "PYTHONPATH": str(Path(__file__).resolve().parents[1] / "fixtures/wrong_clock"),
    }


@pytest.mark.timeout(600)
def test_a_machine_two_hours_off_counts_and_judges_as_the_others(
    tmp_path: Path, valkey: Embedded, full: bool
) -> None:
    """The only learner and one of two servers are ahead (full: then behind) by more than every attribution window."""
    for offset_s in (SKEW_S, -SKEW_S) if full else (SKEW_S,):
        apart(tmp_path / f"{offset_s:+d}", valkey.url, offset_s)


def apart(folder: Path, url: str, offset_s: int) -> None:
    """Two servers on the store, one with the only learner and a clock that is so much off."""
    folder.mkdir()
    with ExitStack() as stack:
        store = stack.enter_context(closing(RedisStore(url, timeout_s=PATIENT_S)))
        wrong = Service(folder / "wrong", "--store", url, environment=wrong_clock(offset_s))
        right = Service(folder / "right", "--store", url, "--role", "serve")
        both(stack, wrong, right)
        client = stack.enter_context(right.client())
        before_ms = store.now_ms()
        begin(client)
        world = World()
        lanes = [Lane(wrong, right, world, 1), Lane(right, wrong, world, 2), Lane(wrong, wrong, world, 3)]
        run(lanes)
        world.harmful.set()
        until(lambda: rollbacks(store), SOON_S, "the rollback")
        served(lanes)
        end(lanes, client)
        assert rollbacks(store) == ["guardrail/bad-limit"]
        times = [record.time_ms for record in store.audit("answers", None, 100)]
        times.append(client.status("answers").evaluation_time.ToMilliseconds())
        now_ms = store.now_ms()
        seen = float(re.findall(r'"([-+][0-9.]+) s from this server', wrong.log.read_text())[0])
        assert abs(seen + offset_s) < AGREED_MS / 1000, "the learner's machine is off indeed"
        assert all(before_ms - AGREED_MS <= time_ms <= now_ms + AGREED_MS for time_ms in times), times
        client.pause("answers")
        client.delete("answers")

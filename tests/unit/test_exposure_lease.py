"""Exposure as a lease: challengers lose their traffic when the store was not reached for too long, and only then."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bandit.errors import StoreUnavailable
from bandit.rollout.transitions import promote
from bandit.v1 import decision_service_pb2 as pb
from server.journal import Journal
from server.rpc.decisions import Decisions
from server.snapshot import Shelf, SnapshotKeeper
from server.store.memory import MemoryStore
from tests.builders import NOW
from tests.fakes import FakeClock
from tests.serving import Faulty, commit, load, put_running

LEASE_S = 20.0
ANY: Any = None


class Machine:
    """A serving process over a store that may be away; ``restart`` begins the next one on the same disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = FakeClock()
        self.store = Faulty(MemoryStore(self.clock.now_ms))
        self.store.beat("learner", 1_000_000_000)
        self.issuer = 0
        self.start()

    def start(self) -> None:
        self.issuer += 1
        self.shelf = Shelf(self.root / "snapshot", self.clock)
        self.keeper = SnapshotKeeper(self.store, self.clock, lease_s=LEASE_S, kept=self.shelf.keep)
        if (found := self.shelf.load()) is not None:
            self.keeper.restore(found)
        self.journal = Journal(self.root / "journal", self.issuer)
        self.decisions = Decisions(self.keeper, self.clock, self.journal)

    def restart(self) -> None:
        self.shelf.stop()
        self.journal.close()
        self.start()

    def poll(self) -> None:
        self.keeper.poll()
        self.shelf.save()

    def decide(self, count: int = 200) -> tuple[Counter[str], set[int], set[bool]]:
        """Arms, reasons, and whether they counted."""
        replies = [
            self.decisions.Decide(pb.DecideRequest(experiment="experiments/answers", unit=f"u{index}"), ANY)
            for index in range(count)
        ]
        batch = self.decisions.DecideBatch(
            pb.DecideBatchRequest(
                experiment="experiments/answers", units=[f"u{index}" for index in range(count)]
            ),
            ANY,
        )
        assert [batch.arms[index] for index in batch.arm_indexes] == [reply.arm for reply in replies]
        assert {batch.reason} == {reply.reason for reply in replies}
        assert all(reply.propensity == 1.0 for reply in replies if not reply.counted)
        assert bool(batch.tokens) == batch.counted
        return (
            Counter(reply.arm for reply in replies),
            {reply.reason for reply in replies},
            {reply.counted for reply in replies} | {batch.counted},
        )


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    made = Machine(tmp_path)
    put_running(made.store)
    made.poll()
    yield made
    made.shelf.stop()
    made.journal.close()


CONTROL_ALONE = {"control"}


def test_the_lease_ends_and_begins_again_with_the_store(machine: Machine) -> None:
    machine.store.broken.add("all")
    machine.clock.advance(LEASE_S)
    arms, reasons, counted = machine.decide()
    assert set(arms) == {"control", "small", "large"}
    assert reasons == {pb.DECISION_REASON_ASSIGNED}
    machine.clock.advance(0.1)
    recorded = machine.journal.recorded
    arms, reasons, counted = machine.decide()
    assert set(arms) == CONTROL_ALONE
    assert reasons == {pb.DECISION_REASON_LEASE_EXPIRED}
    assert counted == {False}
    assert machine.journal.recorded == recorded, "no period has these shares, so nothing is counted into one"
    with pytest.raises(StoreUnavailable):
        machine.keeper.poll()
    assert set(machine.decide()[0]) == CONTROL_ALONE
    machine.store.broken.clear()
    machine.keeper.poll()
    arms, reasons, counted = machine.decide()
    assert set(arms) == {"control", "small", "large"}
    assert counted == {True}


def test_a_restart_does_not_renew_it(machine: Machine) -> None:
    machine.store.broken.add("all")
    machine.clock.advance(LEASE_S - 1.0)
    machine.restart()
    assert set(machine.decide()[0]) == {"control", "small", "large"}
    machine.clock.advance(1.1)
    assert set(machine.decide()[0]) == CONTROL_ALONE
    machine.restart()
    assert set(machine.decide()[0]) == CONTROL_ALONE
    machine.store.broken.clear()
    machine.keeper.poll()
    assert set(machine.decide()[0]) == {"control", "small", "large"}


def test_a_promoted_arm_stays(machine: Machine) -> None:
    """It is the release: taking it back is an operator's decision, not an outage's."""
    now = load(machine.store)
    commit(machine.store, now, promote(now.experiment, now.allocation, 2, NOW + 5000))
    machine.poll()
    machine.store.broken.add("all")
    machine.clock.advance(LEASE_S * 10)
    arms, reasons, _ = machine.decide()
    assert set(arms) == {"large"}
    assert reasons == {pb.DECISION_REASON_PROMOTED}


def test_without_a_number_it_decides_from_its_disk_uncounted(machine: Machine) -> None:
    """The state is there, and no issuer number: a known experiment is decided all the same."""
    machine.store.broken.add("all")
    machine.restart()
    machine.decisions.journal = None
    replies = [
        machine.decisions.Decide(pb.DecideRequest(experiment="experiments/answers", unit=f"u{index}"), ANY)
        for index in range(100)
    ]
    assert {reply.arm for reply in replies} == {"control", "small", "large"}
    assert {(reply.counted, reply.token, reply.reason) for reply in replies} == {
        (False, b"", pb.DECISION_REASON_ASSIGNED)
    }

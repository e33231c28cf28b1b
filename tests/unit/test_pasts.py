"""What a learner notices of a store that is not as it left it: logs that others trimmed, and records that are gone."""

from __future__ import annotations

import copy

import pytest

from bandit.rollout.transitions import clear_rollback, roll_back, start
from bandit.v1.experiment_pb2 import ExperimentStatus
from server.runtime import LearnerLoop, LoopSettings
from server.store.base import Stored
from server.store.memory import MemoryStore
from tests.builders import spec
from tests.fakes import FakeClock
from tests.gateway import Gateway
from tests.learning import Silent

NAME = "answers"


class Noting(Silent):
    """Telemetry that remembers what went back."""

    def __init__(self) -> None:
        self.set_backs: list[str] = []

    def set_back(self, action: str) -> None:
        self.set_backs.append(action)


class World:
    """A running experiment, its gateway, and a learner that may be followed by another one."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.now_ms)
        self.gateway = Gateway(self.store, NAME)
        self.gateway.create(spec(), self.clock.now_ms())
        self.gateway.change(start, now_ms=self.clock.now_ms())
        self.accepted_ms = 0
        self.again()

    def again(self, *kept: Stored) -> None:
        """Another learner process, some time later."""
        self.clock.advance(10.0)
        self.telemetry = Noting()
        settings = LoopSettings("learner", block_s=0.0, parked_s=1.0)
        self.loop = LearnerLoop(
            self.store, self.clock, settings, self.telemetry, lambda: self.accepted_ms, kept
        )

    def step(self, seconds: float = 2.0) -> None:
        self.clock.advance(seconds)
        self.loop.step()

    def serve(self, count: int = 10) -> None:
        self.gateway.serve(
            count, self.clock.now_ms(), lambda arm, number: {"satisfied": float(arm == "large"), "cost": 0.5}
        )

    def roll_back(self) -> None:
        self.gateway.change(
            roll_back, 1, actor="ben", reason="slow", rollback_id="b", now_ms=self.clock.now_ms()
        )

    @property
    def stored(self) -> Stored:
        found = self.store.load(NAME)
        assert found is not None
        return found

    @property
    def status(self) -> ExperimentStatus:
        return ExperimentStatus.FromString(self.store.status(NAME) or b"")


@pytest.fixture
def world() -> World:
    return World()


def test_what_others_trimmed_before_it_was_read_is_told(world: World) -> None:
    world.step()
    world.serve()
    world.step()
    assert world.status.rewards.applied == 20
    world.serve()
    world.serve()
    # As XTRIM takes them: the oldest first, two of them not read yet.
    del world.store._kept[NAME].log[:-2]
    world.step()
    status = world.status
    assert (status.rewards.applied, status.exposures_lost) == (40, 10)
    assert any("somebody trimmed" in warning for warning in status.warnings)
    assert world.telemetry.set_backs == ["trimmed"]
    world.serve()
    world.step()
    assert world.telemetry.set_backs == ["trimmed"], "once"


def test_its_own_trimming_takes_nothing_that_was_not_read(world: World) -> None:
    """Half an hour in which the learner now and then sleeps longer than the log is kept."""
    for minutes in (1, 1, 12, 1, 15, 1, 1):
        for _ in range(3):
            world.serve()
        world.step(minutes * 60.0)
        world.step()
    assert len(world.store._kept[NAME].log) < 7 * 6
    assert world.telemetry.set_backs == []
    assert world.status.rewards.applied == world.gateway.rewarded
    assert world.status.exposures_lost == 0


def test_a_learner_that_only_began_does_not_undo_what_the_store_lost(world: World) -> None:
    world.step()
    old = copy.deepcopy(world.store._kept)
    world.roll_back()
    served = world.stored
    world.store._kept = old
    before = world.stored
    world.again(served)
    for _ in range(3):
        world.serve()
        world.step()
    assert world.stored == before
    assert world.loop.writers == {}
    assert set(world.telemetry.set_backs) == {"frozen"}
    world.accepted_ms = 1
    world.step()
    world.step()
    assert list(world.loop.writers) == [NAME]


def test_another_record_in_the_place_of_the_one_it_served_by_is_another_past(world: World) -> None:
    old = copy.deepcopy(world.store._kept)
    world.roll_back()
    served = world.stored
    world.store._kept = old
    world.clock.advance(1.0)
    world.roll_back()
    world.gateway.change(clear_rollback, 1, now_ms=world.clock.now_ms())
    assert world.stored.audit_sequence > served.audit_sequence
    world.again(served)
    world.step()
    assert (world.loop.writers, world.telemetry.set_backs) == ({}, ["frozen"])


def test_shares_that_moved_and_were_lost_are_found_anew(world: World) -> None:
    """They have no record; and whoever served before the last commands knows the same past."""
    first = world.stored
    world.roll_back()
    world.step()
    before = copy.deepcopy(world.store._kept)
    for _ in range(20):
        world.serve()
        world.step()
    served = world.stored
    assert served.generation > before[NAME].generation
    world.store._kept = before
    for kept in (served, first):
        world.again(kept)
        world.step()
        assert list(world.loop.writers) == [NAME]
        assert world.telemetry.set_backs == []

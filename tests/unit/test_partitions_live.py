"""A learner over several partitions: what it judges by, what it says of each, and what it leaves alone."""

from __future__ import annotations

from typing import Any

import pytest

from bandit.errors import Stale
from bandit.ids import ledger_name
from bandit.log import EXPOSURE, REWARDS, Append, exposure_entry
from bandit.reward import RewardRecord
from bandit.v1.experiment_pb2 import ExperimentStatus
from server.partitioned import Partitioned
from server.runtime import LearnerLoop, LoopSettings
from server.store.base import Shipment
from server.store.memory import MemoryStore
from tests.builders import NOW
from tests.fakes import FakeClock
from tests.learning import Silent
from tests.serving import load, put_running

NAME, PARTITIONS, READ = "answers", 3, 5


class World:
    """A store, a learner and the time."""

    def __init__(self) -> None:
        self.clock = FakeClock(NOW + 3000)
        self.store = MemoryStore(self.clock.now_ms)
        self.now = put_running(self.store, NAME, partitions=PARTITIONS)
        settings = LoopSettings("learner", block_s=0.0, tick_s=0.0, housekeeping_s=0.0, read_count=READ)
        self.loop = LearnerLoop(self.store, self.clock, settings, Silent())

    def reward(self, partition: int, number: int, q: int = 1) -> None:
        """One reward of an issuer whose partition it is."""
        newest = load(self.store, NAME).allocation.number
        record = RewardRecord(1 + partition, 1, number, self.clock.now_ms(), newest, q, 0, number % 3, 0)
        entry = Append(ledger_name(NAME, partition), self.now.experiment.uid, REWARDS, record.pack())
        assert self.store.append([entry]) != [""]

    def expose(self, partition: int, count: int) -> None:
        """So many decisions of that issuer."""
        rows = EXPOSURE.pack(load(self.store, NAME).allocation.number, 0, 0, 0) * count
        payload = exposure_entry(1 + partition, 1, 0, rows)
        sent = Shipment(
            ledger_name(NAME, partition), self.now.experiment.uid, 1 + partition, 0, count, payload
        )
        assert self.store.ship([sent]) == [count]

    @property
    def status(self) -> ExperimentStatus:
        """As published last."""
        raw = self.store.status(NAME)
        assert raw is not None
        return ExperimentStatus.FromString(raw)


def ms(status: ExperimentStatus) -> int:
    """When it was judged."""
    return status.evaluation_time.ToMilliseconds()


def test_it_is_judged_up_to_the_time_that_every_log_was_folded_to() -> None:
    """One partition has a long log: what the others say of the time after must not count against silence there."""
    world = World()
    world.loop.step()
    world.clock.advance(10)
    for number in range(4 * READ):
        world.reward(2, number)
        world.clock.advance(1)
    world.reward(0, 1)
    world.clock.advance(100)
    world.loop.step()
    status = world.status
    lagging = world.loop.writers[NAME].offsets["answers/2"]
    assert ms(status) == int(lagging.partition("-")[0]) < world.clock.now_ms() - 100_000
    assert status.log_entries_behind == 3 * READ
    assert [each.log_entries_behind for each in status.partitions] == [0, 0, 3 * READ]
    for _ in range(5):
        world.loop.step()
    assert world.status.log_entries_behind == 0
    assert ms(world.status) == world.clock.now_ms()


def test_the_status_tells_of_each_partition_and_of_all() -> None:
    world = World()
    world.loop.step()
    for partition, count in enumerate((3, 0, 5)):
        if count:
            world.expose(partition, count)
        for number in range(count):
            world.reward(partition, number)
            world.reward(partition, number)
    for _ in range(6):
        world.loop.step()
    status = world.status
    assert [(each.partition, each.exposures, each.rewards_applied) for each in status.partitions] == [
        (0, 3, 3),
        (1, 0, 0),
        (2, 5, 5),
    ]
    assert (status.exposures, status.rewards.applied, status.rewards.duplicate) == (8, 8, 8)
    assert {each.source: each.rewards.applied for each in status.sources} == {"grpc": 8}


def test_one_ledger_that_another_writer_wrote_takes_the_whole_writer_away() -> None:
    world = World()
    world.loop.step()
    asleep = world.loop.writers[NAME]
    other = World.__new__(World)
    other.__dict__.update(world.__dict__)
    settings = LoopSettings("other", block_s=0.0, tick_s=0.0, housekeeping_s=0.0, read_count=READ)
    other.loop = LearnerLoop(world.store, world.clock, settings, Silent())
    world.clock.advance(10)
    world.reward(1, 1)
    other.loop.step()
    assert other.loop.writers[NAME].counts.applied == 1
    world.reward(1, 2)
    with pytest.raises(Stale, match="answers/1: another writer"):
        asleep.take(
            "answers/1", world.store.read({"answers/1": asleep.offsets["answers/1"]}, 9, 0)["answers/1"]
        )


def test_a_deleted_experiment_is_not_made_again_by_the_learner_that_opens_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """It read the experiment, then somebody deleted it: what it made ready is cleared again."""
    world = World()
    stored = load(world.store, NAME)
    begin = world.store.begin

    def late(ledger: str, uid: int) -> Any:
        if world.store.load(NAME) is not None:
            world.store.delete(NAME, stored.generation)
        return begin(ledger, uid)

    monkeypatch.setattr(world.store, "begin", late)
    with pytest.raises(Stale, match="deleted meanwhile"):
        Partitioned.open(world.store, stored)
    assert world.store.append([Append("answers/1", stored.experiment.uid, REWARDS, b"x")]) == [""]


@pytest.mark.parametrize("left", range(4))
def test_the_first_write_of_each_partition_may_be_the_last(left: int) -> None:
    """A ledger that was never written is told from one that is gone: its allocations are all there still."""
    world = World()
    writer = Partitioned.open(world.store, load(world.store, NAME))
    for part in writer.parts[:left]:
        part.flush()
    again = Partitioned.open(world.store, load(world.store, NAME))
    again.flush()
    assert {len(part.state.ledger.periods) for part in again.parts} == {3}
    world.reward(0, 1)
    world.loop.step()
    assert world.loop.writers[NAME].counts.applied == 1
    assert len(world.store.allocations(NAME, 0)) >= 3


def test_allocations_are_kept_while_an_experiment_is_young_and_then_let_go() -> None:
    """A slot that goes back to before its first fold is no ledger that is gone, as long as it may be that young."""
    world = World()
    world.loop.step()
    assert [each.number for each in world.store.allocations(NAME, 0)][:3] == [1, 2, 3]
    world.clock.advance(700)
    for turn in range(3):
        for number in range(40):
            world.reward(number % 3, 100 * turn + number, 1 << 30 if number % 3 == 1 else 0)
        for _ in range(6):
            world.loop.step()
        world.clock.advance(5)
    newest = load(world.store, NAME).allocation
    assert newest.number > 3
    assert all(each.number > 3 for each in world.store.allocations(NAME, 0))

"""A store that was emptied, set back to an old copy, or exchanged: servers keep what they had until an operator acts.

Fault 10, invariant I6, case C417. A copy is what DUMP gives of every key; restoring it is what an operator does.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bandit.decide import Table
from bandit.errors import StoreUnavailable
from bandit.log import START
from bandit.reward import RECORD
from bandit.rollout.transitions import audit_record, clear_rollback, pause, roll_back
from bandit.token import Claims, sign
from bandit.v1 import reward_service_pb2 as wire
from server.app import kept_by
from server.rpc.changes import Asked, Changes
from server.rpc.reconcile import Reconciler
from server.rpc.rewards import Rewards
from server.runtime import LearnerLoop, LoopSettings
from server.snapshot import Mode, SnapshotKeeper, matters
from server.stops import StopFile
from server.store.base import Commit, Store, Stored
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.conftest import PATIENT_S
from tests.fakes import FakeClock
from tests.learning import Silent
from tests.serving import ANY, load, put_draft, put_running, reshare
from tests.shelves import STOP, Kept

pytestmark = pytest.mark.parametrize("own_server", ["valkey"], indirect=True)
NAMES = ("answers", "other", "third")


class Machine(Kept):
    """A server with its disk, and an operator beside it."""

    def __init__(self, store: Store, clock: FakeClock, folder: Path) -> None:
        super().__init__(store, clock, folder / "snapshot")
        self.folder = folder
        self.stops = StopFile(folder)
        self.keeper = SnapshotKeeper(store, clock, halts=self.stops, kept=self.shelf.keep)

    def look(self, polls: int = 3) -> None:
        """As time goes by, longer than keys are believed unseen."""
        for _ in range(polls):
            self.clock.advance(6.0)
            self.keeper.look_at_halts()
            self.poll_and_save()

    def tables(self) -> dict[str, tuple[int, ...]]:
        """Shares of each experiment that are served."""
        now_s = self.clock.monotonic_s()
        return {
            name: self.snapshot.table(entry, now_s).shares_ppm
            for name, entry in self.snapshot.entries.items()
        }

    def table(self, name: str = "answers") -> Table:
        return self.snapshot.table(self.snapshot.entries[name], self.clock.monotonic_s())

    def again(self, store: Store | None = None) -> Machine:
        """The next process of this machine."""
        self.shelf.stop()
        made = Machine(store or self.keeper._store, self.clock, self.folder)  # type: ignore[arg-type]
        assert made.restore()
        return made


def copy_of(admin: Any) -> dict[bytes, bytes]:
    """Every key as it is."""
    return {key: admin.dump(key) for key in admin.scan_iter()}


def set_back(admin: Any, copy: dict[bytes, bytes]) -> None:
    """What happens when an old dump file is put in place and the server started."""
    admin.flushall()
    for key, value in copy.items():
        if value is not None:
            admin.restore(key, 0, value)


def rolled_back(store: Store, now: Stored, arm: int = 1) -> Stored:
    """By an operator, with its audit record."""
    moved = roll_back(
        now.experiment,
        now.allocation,
        arm,
        actor="ben",
        reason="slow",
        rollback_id="b",
        now_ms=store.now_ms(),
    )
    record = audit_record(
        (now.experiment, now.allocation),
        moved,
        actor="ben",
        sequence=now.audit_sequence,
        previous_hash=now.audit_hash,
        now_ms=store.now_ms(),
    )
    store.commit(Commit(now.generation, moved.experiment, moved.allocation, record))
    return load(store, now.experiment.name)


@pytest.fixture
def machine(own: RedisStore, tmp_path: Path) -> Iterator[Machine]:
    for name in NAMES:
        put_running(own, name)
    made = Machine(own, FakeClock(), tmp_path)
    made.poll_and_save()
    yield made
    made.shelf.stop()


def test_an_emptied_store_moves_nothing_until_it_is_accepted(
    machine: Machine, own: RedisStore, admin: Any
) -> None:
    before = machine.tables()
    admin.flushall()
    machine.look(1)
    assert machine.snapshot.set_back, "alarm at the first look"
    assert machine.snapshot.mode_now(machine.clock.monotonic_s()) is Mode.FROZEN
    machine.look(4)
    assert machine.tables() == before
    assert not machine.table().counted, "the store gives these numbers to others"
    machine = machine.again()
    machine.look(4)
    assert machine.tables() == before
    assert machine.snapshot.set_back
    put_draft(own, "new")
    machine.look()
    assert set(machine.tables()) == {*NAMES, "new"}
    machine.stops.accept(1)
    machine.look(2)
    assert set(machine.tables()) == {"new"}
    assert not machine.snapshot.set_back
    assert machine.snapshot.keys == own.token_keys()
    machine = machine.again()
    machine.look(1)
    assert set(machine.tables()) == {"new"}


def test_shares_that_move_on_from_an_old_copy_are_not_followed(
    machine: Machine, own: RedisStore, admin: Any
) -> None:
    """A learner goes on from the old copy, and counts beyond every number that this server has."""
    copy = copy_of(admin)
    for _ in range(5):
        reshare(own, load(own), (600_000, 300_000, 100_000))
    machine.look(1)
    before = machine.tables()
    set_back(admin, copy)
    machine.look(1)
    assert machine.snapshot.set_back
    for _ in range(9):
        reshare(own, load(own), (100_000, 100_000, 800_000))
        machine.look(1)
        assert machine.tables() == before
    machine = machine.again()
    machine.look(2)
    assert machine.tables() == before
    assert not machine.table().counted
    assert machine.table("other").counted, "of these the store lost nothing"
    # A command on top of the past that both know: somebody decided.
    changes = Changes(own, machine.clock)
    changes.apply("answers", Asked(), lambda e, a, now_ms: pause(e, a, now_ms, "the store was set back"))
    machine.look(1)
    assert machine.table().shares_ppm == (1_000_000, 0, 0)
    assert machine.table().counted


def test_a_rollback_that_the_store_lost_holds(machine: Machine, own: RedisStore, admin: Any) -> None:
    """Though the old copy counts on beyond it, and though the server was away or starts anew meanwhile."""
    copy = copy_of(admin)
    rolled_back(own, load(own))
    machine.look(1)
    assert machine.table().shares_ppm[1] == 0
    set_back(admin, copy)
    for _ in range(6):
        reshare(own, load(own), (100_000, 800_000, 100_000))
    machine.look(2)
    assert machine.table().shares_ppm[1] == 0
    assert "audit record 1" in machine.snapshot.entries["answers"].fault
    machine = machine.again()
    machine.look(3)
    assert machine.table().shares_ppm[1] == 0
    Changes(own, machine.clock).apply("answers", Asked(), lambda e, a, now_ms: pause(e, a, now_ms, "other"))
    machine.look(2)
    assert machine.table().shares_ppm == (700_000, 0, 300_000), "another past, whoever wrote it"
    machine.stops.accept(1)
    machine.look(1)
    assert machine.table().shares_ppm == (1_000_000, 0, 0)


def test_a_learner_that_begins_on_an_old_copy_does_not_undo_a_rollback(
    machine: Machine, own: RedisStore, admin: Any
) -> None:
    """It saw nothing itself; the disk of its machine tells what was served there."""
    copy = copy_of(admin)
    rolled_back(own, load(own))
    reshare(own, load(own, "other"), (600_000, 300_000, 100_000))
    machine.look(1)
    set_back(admin, copy)
    settings = LoopSettings("begun", block_s=0.0, parked_s=1.0)

    def began(accepted_ms: int) -> LearnerLoop:
        kept = kept_by(machine.shelf, accepted_ms)
        return LearnerLoop(own, machine.clock, settings, Silent(), lambda: accepted_ms, kept)

    loop = began(0)
    for _ in range(3):
        machine.clock.advance(2.0)
        loop.step()
    assert set(loop.writers) == {"other", "third"}, "of these no record is gone"
    assert load(own).generation == 3
    loop = began(1)
    machine.clock.advance(6.0)
    loop.step()
    assert set(loop.writers) == set(NAMES)


def test_a_store_that_is_restored_is_believed_again_by_itself(
    machine: Machine, own: RedisStore, admin: Any
) -> None:
    whole = copy_of(admin)
    admin.flushall()
    machine.look(2)
    assert machine.snapshot.set_back
    set_back(admin, whole)
    machine.look(2)
    assert not machine.snapshot.set_back
    assert machine.table().counted
    assert not machine.snapshot.entries["answers"].fault
    now = reshare(own, load(own), (500_000, 250_000, 250_000))
    machine.look(1)
    assert machine.table().shares_ppm == now.allocation.shares_ppm


def test_acknowledged_rewards_come_back_with_an_emptied_store(
    machine: Machine, own: RedisStore, admin: Any
) -> None:
    """Emptied and restored without a restart: the server's life is the same, only what is in it tells."""
    rewards = Rewards(machine.keeper, own, machine.clock)
    experiment = machine.snapshot.entries["answers"].experiment
    copy = copy_of(admin)
    now_ms, issuer = machine.clock.now_ms(), own.reserve_issuers(1)
    tokens = [
        sign(own.token_keys(), Claims(experiment.uid, 1, 1, issuer, number, now_ms, 99, 300_000, 0, 1))
        for number in range(20)
    ]
    events = [wire.RewardEvent(token=token, metric="satisfied", value=1.0) for token in tokens]

    def report() -> list[int]:
        reply = rewards.ReportRewards(wire.ReportRewardsRequest(events=events), ANY)
        return [result.outcome for result in reply.results]

    rewards.doubt.look()
    assert set(report()) == {wire.REWARD_OUTCOME_ACCEPTED}
    admin.flushall()
    for _ in range(20):
        assert rewards.doubt.look() == 0
        machine.look(1)
    with pytest.raises(StoreUnavailable, match="may be restored"):
        report()
    set_back(admin, copy)
    machine.look(2)
    assert not machine.snapshot.set_back
    assert own.behind("answers", START) == 0
    assert rewards.doubt.look() == 1
    (entry,) = own.read({"answers": START}, 100, 0)["answers"]
    assert len(entry.payload) == 20 * RECORD.size


def test_an_acceptance_that_a_killed_server_did_not_see_is_not_lost(
    machine: Machine, own: RedisStore, admin: Any
) -> None:
    admin.flushall()
    put_draft(own, "new")
    machine.look(1)
    machine.stops.accept(1)
    machine = machine.again()
    assert set(machine.tables()) >= set(NAMES)
    machine.look(1)
    assert set(machine.tables()) == {"new"}


def test_a_stop_outlives_the_store_that_it_was_for(machine: Machine, own: RedisStore, admin: Any) -> None:
    """Stopped at a server whose store was emptied: no reconciliation gives the arm its traffic back."""
    uid = machine.snapshot.entries["answers"].experiment.uid
    machine.stops.add(replace(STOP, uid=uid))
    reconciler = Reconciler(
        own, machine.stops, machine.clock, lambda stop: matters(stop, machine.snapshot), rest_s=0.0
    )
    admin.flushall()
    machine.look(1)
    for _ in range(3):
        reconciler.step()
        machine.look(1)
        assert machine.table().shares_ppm == (700_000, 0, 300_000)
    machine.stops.accept(1)
    machine.look(1)
    reconciler.step()
    assert not machine.stops.ordered.stops


def test_another_store_is_not_taken_for_ours(machine: Machine, own: RedisStore, tmp_path: Path) -> None:
    """It has experiments of the same names, newer and with higher numbers; its key is another."""
    before = machine.tables()
    with (
        Embedded(tmp_path / "another") as server,
        contextlib.closing(RedisStore(server.url, timeout_s=PATIENT_S)) as another,
    ):
        for name in NAMES:
            now = put_running(another, name, (100_000, 100_000, 800_000))
            for _ in range(5):
                now = reshare(another, now, (100_000, 200_000, 700_000))
        again = machine.again(another)
        again.look(3)
        assert again.snapshot.set_back
        assert again.snapshot.keys == own.token_keys()
        assert again.tables() == before


def test_an_empty_list_empties_no_file_but_the_last_delete_does(
    machine: Machine, own: RedisStore, admin: Any
) -> None:
    """Case C417."""
    before = machine.tables()
    listed = admin.hgetall("banditd:{_registry}:names")
    admin.delete("banditd:{_registry}:names")
    reshare(own, load(own, "third"), (400_000, 300_000, 300_000))
    admin.delete("banditd:{_registry}:names")
    machine.look(2)
    again = machine.again()
    assert again.tables() == before
    admin.hset("banditd:{_registry}:names", mapping=listed)
    for name in NAMES:
        Changes(own, machine.clock).apply(name, Asked(), lambda e, a, now_ms: pause(e, a, now_ms, ""))
        own.delete(name, load(own, name).generation)
        again.look(1)
    assert again.tables() == {}
    last = again.again()
    assert last.tables() == {}


def test_a_cleared_arm_is_followed(machine: Machine, own: RedisStore) -> None:
    """The audit chain goes on: commands are taken, as often as they come."""
    for _ in range(3):
        now = rolled_back(own, load(own))
        machine.look(1)
        assert machine.snapshot.entries["answers"].generation == now.generation
        Changes(own, machine.clock).apply(
            "answers", Asked(), lambda e, a, now_ms: clear_rollback(e, a, 1, now_ms, "")
        )
        now = reshare(own, load(own), (400_000, 300_000, 300_000))
        machine.look(1)
        assert machine.table().shares_ppm == (400_000, 300_000, 300_000)
        assert not machine.snapshot.set_back

"""A stop of one machine becomes a rollback in the store, once, audited, and never against a newer command."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from bandit.errors import StoreUnavailable
from bandit.rollout.audit import first_broken
from server.rpc.changes import Asked, Changes, arm_index
from server.rpc.reconcile import Reconciler
from server.snapshot import SnapshotKeeper
from server.stops import StopFile
from server.store.memory import MemoryStore
from tests.builders import spec
from tests.fakes import FakeClock
from tests.hammer import at_once
from tests.serving import Faulty, load, put_running
from tests.shelves import STOP

REST_S = 10.0


class Ground:
    """A machine with a stop, and operators who speak to the store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.clock = FakeClock()
        self.store = Faulty(MemoryStore(self.clock.now_ms))
        put_running(self.store)
        self.changes = Changes(self.store, self.clock)
        self.stops = StopFile(root)
        self.served: set[str] = set()
        self.reconciler = Reconciler(
            self.store, self.stops, self.clock, lambda stop: stop.id in self.served, rest_s=REST_S
        )

    def stop(self, **changes: object) -> None:
        uid = load(self.store).experiment.uid
        self.stops.add(replace(STOP, **{"uid": uid, "time_ms": self.clock.now_ms(), **changes}))  # type: ignore[arg-type]

    def operator(self, move: Callable[..., object], name: str = "answers") -> None:
        self.clock.advance(1.0)
        self.changes.apply(name, Asked(actor="ben"), move)  # type: ignore[arg-type]
        self.clock.advance(1.0)

    def roll_back(self) -> None:
        from bandit.rollout.transitions import roll_back

        self.operator(
            lambda experiment, allocation, now_ms: roll_back(
                experiment,
                allocation,
                arm_index(experiment, "small"),
                actor="ben",
                reason="slow",
                rollback_id="ben-1",
                now_ms=now_ms,
            )
        )

    def clear(self, arm: str = "small") -> None:
        from bandit.rollout.transitions import clear_rollback

        self.operator(
            lambda experiment, allocation, now_ms: clear_rollback(
                experiment, allocation, arm_index(experiment, arm), now_ms, "it is mended"
            )
        )

    def actions(self) -> list[str]:
        return [record.action for record in reversed(self.store.store.audit("answers", None, 100))]

    def settle(self) -> int:
        settled = self.reconciler.step()
        self.clock.advance(REST_S)
        return settled + self.reconciler.step()


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    return Ground(tmp_path)


def test_it_becomes_a_rollback_once_and_ends_when_all_have_read_that(ground: Ground) -> None:
    ground.stop()
    assert ground.reconciler.step() == 0
    now = load(ground.store)
    rollback = now.experiment.arms[1].rollback
    assert rollback is not None
    assert (rollback.actor, rollback.reason) == ("client/anna", "it rambles")
    assert now.allocation.shares_ppm == (700_000, 0, 300_000)
    assert ground.stops.ordered.stops, "others have not read it yet"
    assert ground.reconciler.step() == 0
    ground.clock.advance(REST_S)
    assert ground.reconciler.step() == 1
    assert not ground.stops.ordered.stops
    records = ground.store.store.audit("answers", None, 100)
    assert [(record.action, record.actor, record.reason) for record in records] == [
        ("rolled_back", "client/anna", "it rambles")
    ]
    assert first_broken(list(reversed(records))) is None
    assert load(ground.store).generation == now.generation


def test_it_waits_while_the_store_is_away(ground: Ground) -> None:
    ground.stop()
    ground.store.broken.add("all")
    with pytest.raises(StoreUnavailable):
        ground.reconciler.step()
    assert ground.stops.ordered.stops
    ground.store.broken = {"commit"}
    with pytest.raises(StoreUnavailable):
        ground.reconciler.step()
    ground.store.broken.clear()
    assert ground.settle() == 1
    assert ground.actions() == ["rolled_back"]


def test_an_answer_that_was_lost_is_no_second_rollback(ground: Ground) -> None:
    """The commit happened, its reply did not come; then somebody clears the arm: that is the newer command."""
    ground.stop()
    whole = ground.store.store.commit

    def lost(commit: object) -> int:
        whole(commit)
        raise StoreUnavailable("the reply was lost")

    ground.store.instead["commit"] = lost
    with pytest.raises(StoreUnavailable):
        ground.reconciler.step()
    del ground.store.instead["commit"]
    ground.clear()
    assert ground.reconciler.step() == 1
    assert ground.actions() == ["rolled_back", "rollback_cleared"]
    assert load(ground.store).experiment.arms[1].rollback is None


def test_a_rollback_that_was_there_already_is_enough(ground: Ground) -> None:
    ground.roll_back()
    ground.stop()
    assert ground.settle() == 1
    assert ground.actions() == ["rolled_back"]


def test_a_newer_clearance_wins(ground: Ground) -> None:
    """Stopped here at one o'clock; rolled back and cleared elsewhere at two: the arm is wanted."""
    ground.stop()
    ground.roll_back()
    ground.clear()
    assert ground.reconciler.step() == 1
    assert not ground.stops.ordered.stops
    assert ground.actions() == ["rolled_back", "rollback_cleared"]


def test_an_older_clearance_does_not(ground: Ground) -> None:
    """Rolled back and cleared elsewhere while this server was away, then stopped here: the stop is newer."""
    ground.roll_back()
    ground.clear()
    ground.stop(attempt=1)
    assert ground.settle() == 1
    assert ground.actions() == ["rolled_back", "rollback_cleared", "rolled_back"]
    rollback = load(ground.store).experiment.arms[1].rollback
    assert rollback is not None
    assert rollback.actor == "client/anna"


def test_the_clearance_of_another_arm_is_not_this_ones(ground: Ground) -> None:
    ground.roll_back()
    ground.clear()
    ground.stop(attempt=1)
    from bandit.rollout.transitions import hold

    ground.operator(lambda e, a, now_ms: hold(e, a, 2, reason="r", now_ms=now_ms))
    ground.clear("large")
    assert ground.settle() == 1
    assert load(ground.store).experiment.arms[1].rollback is not None


def test_a_stop_of_what_is_gone_ends(ground: Ground) -> None:
    ground.stop(uid=4_000_000_000)
    ground.stop(id="s2", experiment="unknown")
    ground.stop(id="s3", digest="sha256:older")
    assert ground.reconciler.step() == 3
    assert ground.actions() == []


def test_a_stop_of_what_is_still_served_here_does_not_end(ground: Ground) -> None:
    """The store was emptied; this server goes on from its last good state, without the arm."""
    ground.stop()
    ground.served.add("s1")
    ground.store.store = MemoryStore(ground.clock.now_ms)
    assert ground.settle() == 0
    assert ground.stops.ordered.stops
    ground.served.clear()
    assert ground.reconciler.step() == 1


def test_new_guardrails_do_not_end_a_stop(ground: Ground) -> None:
    """They begin a new attempt of every arm, which is no clearance."""
    from bandit.rollout.transitions import update

    ground.stop()
    guardrails = [
        {"name": "limit", "kind": "rate_limit", "metric": "satisfied", "limit": 0.2, "action": "rollback"}
    ]
    changed = spec(guardrails=guardrails)
    ground.operator(lambda e, a, now_ms: update(e, a, changed, now_ms))
    assert load(ground.store).experiment.arms[1].attempt == 2
    assert ground.settle() == 1
    assert load(ground.store).experiment.arms[1].rollback is not None


@pytest.mark.parametrize("machines", [1, 2])
def test_many_processes_make_one_rollback(ground: Ground, tmp_path: Path, machines: int) -> None:
    """Of one machine, and of machines at which the same arm was stopped."""
    folders = [tmp_path, tmp_path / "second"][:machines]
    (tmp_path / "second").mkdir()
    uid = load(ground.store).experiment.uid
    for number, folder in enumerate(folders):
        stop = replace(STOP, id=f"s{number}", uid=uid, time_ms=ground.clock.now_ms())
        StopFile(folder).add(stop)
    reconcilers = [
        Reconciler(ground.store, StopFile(folders[index % machines]), ground.clock, bool, rest_s=0.0)
        for index in range(6)
    ]
    for _ in range(3):
        at_once(len(reconcilers), lambda index: reconcilers[index].step())
    assert ground.actions() == ["rolled_back"]
    assert not any(StopFile(folder).ordered.stops for folder in folders)


def test_an_arm_is_never_served_between_stop_and_rollback(ground: Ground) -> None:
    """From the stop to its end a server that looks at every step gives the arm nothing."""
    halts = StopFile(ground.root)
    keeper = SnapshotKeeper(ground.store, ground.clock, halts=halts)
    keeper.poll()
    ground.stop()
    keeper.look_at_halts()

    def share() -> int:
        assert keeper.snapshot is not None
        entry = keeper.snapshot.entries["answers"]
        return keeper.snapshot.table(entry, ground.clock.monotonic_s()).shares_ppm[1]

    assert share() == 0
    for _ in range(4):
        ground.reconciler.step()
        keeper.look_at_halts()
        assert share() == 0
        ground.clock.advance(REST_S / 2)
    assert not halts.ordered.stops
    keeper.poll()
    assert share() == 0

"""Arms stopped at a machine: on its disk before anybody is told, obeyed by all its processes, without the store."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from bandit.decide import Reason
from bandit.errors import NotAllowed, NotFound, Overloaded, StoreUnavailable
from bandit.ranges import PPM
from bandit.rollout.transitions import promote, roll_back
from bandit.v1 import server_service_pb2 as pb
from server.disk import Disk
from server.rpc.local import Local
from server.snapshot import SnapshotKeeper
from server.stops import MOST_STOPS, ROOM_BYTES, Ordered, StopFile
from server.store.findings import Finding
from server.store.memory import MemoryStore
from tests.builders import NOW
from tests.fakes import FakeClock
from tests.serving import ANY, Faulty, commit, load, put_running, reshare
from tests.shelves import STOP, Failing, Killed, full_disk, killed

# --- the file --------------------------------------------------------------------------------------------------------


def test_what_is_ordered_is_there_for_every_process_and_after_a_restart(tmp_path: Path) -> None:
    first, second = StopFile(tmp_path), StopFile(tmp_path)
    assert first.add(STOP) == STOP
    assert second.ordered == Ordered()
    assert second.refresh()
    assert second.ordered.stops == (STOP,)
    assert not second.refresh()
    assert StopFile(tmp_path).ordered.stops == (STOP,)
    assert (tmp_path / "stops").stat().st_mode & 0o777 == 0o600
    second.add(replace(STOP, id="s2", arm="large", digest="sha256:2"))
    first.accept(NOW)
    first.drop(["s1"])
    assert [stop.id for stop in StopFile(tmp_path).ordered.stops] == ["s2"]
    assert StopFile(tmp_path).ordered.accepted_ms == NOW


def test_the_same_arm_is_stopped_once(tmp_path: Path) -> None:
    stops = StopFile(tmp_path)
    stops.add(STOP)
    assert stops.add(replace(STOP, id="s2", reason="again")) == STOP
    assert stops.ordered.stops == (STOP,)


def test_acceptances_grow_though_the_clock_goes_back(tmp_path: Path) -> None:
    stops = StopFile(tmp_path)
    stops.accept(NOW)
    stops.accept(NOW - 1000)
    assert stops.ordered.accepted_ms == NOW + 1


def test_a_disk_that_refuses_refuses_the_order(tmp_path: Path) -> None:
    for at in range(4):
        disk = Failing(at)
        stops = StopFile(tmp_path, disk=disk)
        (tmp_path / "stops.room").unlink()
        with pytest.raises(Overloaded, match="No space left"):
            stops.add(STOP)
        assert stops.ordered == Ordered()
        assert StopFile(tmp_path).ordered == Ordered()


def test_a_disk_that_others_filled_has_room_for_orders(tmp_path: Path) -> None:
    """What is kept for them is given up, and kept again once there is room."""

    class Full(Disk):
        full = True

        def write(self, number: int, content: memoryview) -> int:
            if self.full and (tmp_path / "stops.room").exists():
                full_disk()
            return super().write(number, content)

    disk = Full()
    stops = StopFile(tmp_path, disk=disk)
    assert (tmp_path / "stops.room").stat().st_blocks * 512 >= ROOM_BYTES
    assert stops.add(STOP) == STOP
    disk.full = False
    (tmp_path / "stops.room").unlink()
    stops.drop(["s1"])
    assert (tmp_path / "stops.room").stat().st_size == ROOM_BYTES


def test_the_end_of_the_process_in_the_middle_leaves_the_file_as_it_was_or_will_be(tmp_path: Path) -> None:
    before = StopFile(tmp_path)
    before.add(STOP)
    for at in range(5):
        with pytest.raises(Killed):
            StopFile(tmp_path, disk=Failing(at, killed)).add(replace(STOP, id="s2", arm="large"))
        left = StopFile(tmp_path).ordered
        assert [stop.id for stop in left.stops] in (["s1"], ["s1", "s2"])
        assert not left.fault
        before.drop(["s2"])


def test_two_orders_at_once_are_both_there(tmp_path: Path) -> None:
    """Of two processes: the second reads what the first wrote, however long that takes."""
    first_writes, second_is_done = threading.Event(), threading.Event()

    class Slow(Disk):
        def make(self, path: Path) -> int:
            first_writes.set()
            second_is_done.wait(0.5)  # in vain, unless nothing keeps the second out
            return super().make(path)

    second = StopFile(tmp_path)
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(StopFile(tmp_path, disk=Slow()).add, STOP)
        assert first_writes.wait(60)
        second.add(replace(STOP, id="s2", arm="large"))
        second_is_done.set()
        writing.result(60)
    assert {stop.id for stop in StopFile(tmp_path).ordered.stops} == {"s1", "s2"}


def test_there_is_a_most(tmp_path: Path) -> None:
    stops = StopFile(tmp_path)
    stops.add(STOP)
    many = Ordered(tuple(replace(STOP, id=f"s{index}", uid=index) for index in range(MOST_STOPS)))
    from server import stops as module

    (tmp_path / "stops").write_bytes(module._dump(many))
    stops.refresh()
    with pytest.raises(Overloaded, match="1000 arms"):
        stops.add(replace(STOP, uid=MOST_STOPS + 1))


BROKEN = [
    b"",
    b"{",
    b"[]",
    b'{"schema":9}',
    b'{"schema":1,"accepted_ms":0,"stops":[{"id":"x"}]}',
    b'{"schema":1,"accepted_ms":1.5,"stops":[]}',
    b'{"schema":1,"accepted_ms":true,"stops":[]}',
    b"\xff" * 40,
]


@pytest.mark.parametrize("raw", BROKEN)
def test_a_file_that_cannot_be_read_says_so_and_takes_no_orders(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "stops").write_bytes(raw)
    (tmp_path / "stops").chmod(0o600)
    stops = StopFile(tmp_path)
    assert "cannot be read" in stops.ordered.fault
    with pytest.raises(NotAllowed, match="mend or delete"):
        stops.add(STOP)
    (tmp_path / "stops").unlink()
    assert stops.refresh()
    assert stops.ordered == Ordered()


def test_a_file_whose_mode_somebody_changed_is_obeyed(tmp_path: Path) -> None:
    """Volumes of a cluster get a group at each mount: a stop must not be lost by that, nor all traffic."""
    StopFile(tmp_path).add(STOP)
    (tmp_path / "stops").chmod(0o660)
    assert StopFile(tmp_path).ordered.stops == (STOP,)


# --- serving by it ---------------------------------------------------------------------------------------------------


class Ground:
    """One machine with two serving processes, and the service of the first."""

    def __init__(self, root: Path) -> None:
        self.clock = FakeClock()
        self.store = Faulty(MemoryStore(self.clock.now_ms))
        self.store.beat("learner", 1_000_000_000)
        self.stops = StopFile(root)
        self.keeper = SnapshotKeeper(self.store, self.clock, halts=self.stops)
        self.other = SnapshotKeeper(self.store, self.clock, halts=StopFile(root))
        self.local = Local(self.keeper, self.stops, self.clock)

    def stop(self, arm: str, reason: str = "it rambles", experiment: str = "answers") -> pb.LocalStop:
        name = f"experiments/{experiment}/arms/{arm}"
        return self.local.StopArm(pb.StopArmRequest(name=name, actor="anna", reason=reason), ANY).stop

    def server(self) -> pb.Server:
        return self.local.GetServer(pb.GetServerRequest(), ANY).server

    def shares(self, keeper: SnapshotKeeper | None = None, name: str = "answers") -> tuple[int, ...]:
        """Shares that are served."""
        snapshot = (keeper or self.keeper).snapshot
        assert snapshot is not None
        return snapshot.table(snapshot.entries[name], self.clock.monotonic_s()).shares_ppm


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    made = Ground(tmp_path)
    put_running(made.store)
    made.keeper.poll()
    made.other.poll()
    made.store.broken.add("all")
    return made


def test_its_units_get_the_control_and_no_other_unit_moves(ground: Ground) -> None:
    snapshot = ground.keeper.snapshot
    assert snapshot is not None
    before = snapshot.entries["answers"].table
    stop = ground.stop("small")
    assert (stop.name, stop.actor) == ("experiments/answers/arms/small", "client/anna")
    assert ground.shares() == (700_000, 0, 300_000)
    snapshot = ground.keeper.snapshot
    assert snapshot is not None
    table = snapshot.table(snapshot.entries["answers"], ground.clock.monotonic_s())
    assert (table.reason, table.counted, table.allocation) == (Reason.STOPPED, False, before.allocation)
    for index in range(500):
        was, now = before.decide(f"u{index}", {}), table.decide(f"u{index}", {})
        assert now.arm == (0 if was.arm == 1 else was.arm)
        assert now.propensity_ppm == table.shares_ppm[now.arm]
    assert ground.shares(ground.other) == (400_000, 300_000, 300_000)
    assert ground.other.look_at_halts()
    assert ground.shares(ground.other) == (700_000, 0, 300_000)
    assert [each.name for each in ground.server().stops] == ["experiments/answers/arms/small"]
    assert ground.local.standing("answers") == ["small is stopped on this server by client/anna: it rambles"]


def test_it_holds_for_new_allocations_until_the_store_has_a_rollback(ground: Ground) -> None:
    ground.stop("small")
    ground.store.broken.clear()
    now = reshare(ground.store, load(ground.store), (200_000, 500_000, 300_000))
    ground.keeper.poll()
    assert ground.shares() == (700_000, 0, 300_000)
    moved = roll_back(
        now.experiment, now.allocation, 1, actor="a", reason="r", rollback_id="1", now_ms=NOW + 9000
    )
    commit(ground.store, now, moved)
    ground.keeper.poll()
    snapshot = ground.keeper.snapshot
    assert snapshot is not None
    assert not snapshot.stopped, "what the store has needs no stop here, and counts"


def test_a_stop_that_ended_holds_until_the_store_was_read_again(ground: Ground) -> None:
    """Another process made the rollback and ended the stop; this one has not read it yet."""
    ground.stop("small")
    ground.other.look_at_halts()
    ground.store.broken.clear()
    now = load(ground.store)
    moved = roll_back(
        now.experiment, now.allocation, 1, actor="a", reason="r", rollback_id="1", now_ms=NOW + 9000
    )
    commit(ground.store, now, moved)
    ground.clock.advance(0.1)
    ground.stops.drop([ground.stops.ordered.stops[0].id])
    assert ground.other.look_at_halts()
    assert ground.shares(ground.other) == (700_000, 0, 300_000)
    ground.clock.advance(0.1)
    ground.other.poll()
    assert ground.shares(ground.other) == (700_000, 0, 300_000)
    snapshot = ground.other.snapshot
    assert snapshot is not None
    assert not snapshot.stopped


def test_a_promoted_arm_can_be_stopped(ground: Ground) -> None:
    ground.store.broken.clear()
    now = load(ground.store)
    commit(ground.store, now, promote(now.experiment, now.allocation, 2, NOW + 5000))
    ground.keeper.poll()
    assert ground.shares() == (0, 0, PPM)
    ground.stop("large")
    assert ground.shares() == (PPM, 0, 0)


def test_what_cannot_be_stopped_says_why(ground: Ground, tmp_path: Path) -> None:
    with pytest.raises(NotAllowed, match="is the control"):
        ground.stop("control")
    with pytest.raises(NotFound, match="the arms are"):
        ground.stop("medium")
    with pytest.raises(NotFound):
        ground.stop("small", experiment="unknown")
    empty = Local(SnapshotKeeper(ground.store, ground.clock), ground.stops, ground.clock)
    with pytest.raises(StoreUnavailable):
        empty.StopArm(pb.StopArmRequest(name="experiments/answers/arms/small"), ANY)
    assert "nothing was read" in empty.GetServer(pb.GetServerRequest(), ANY).server.warnings[0]


def test_while_the_file_cannot_be_read_no_challenger_has_traffic(ground: Ground, tmp_path: Path) -> None:
    """A stop that was lost must not look like no stop."""
    (tmp_path / "stops").write_bytes(b"?")
    assert ground.keeper.look_at_halts()
    assert ground.shares() == (PPM, 0, 0)
    assert "every unit gets the control" in ground.server().warnings[0]
    (tmp_path / "stops").unlink()
    assert ground.keeper.look_at_halts()
    assert ground.shares() == (400_000, 300_000, 300_000)


def test_another_build_is_another_arm(ground: Ground) -> None:
    ground.stops.add(replace(STOP, digest="sha256:older"))
    ground.keeper.serve_by_halts()
    assert ground.shares() == (400_000, 300_000, 300_000)


def test_what_was_found_is_told_again_for_a_second_and_then_looked_at_anew(ground: Ground) -> None:
    looks: list[Finding] = []

    def look() -> list[Finding]:
        looks.append(Finding("disk", f"look {len(looks) + 1}", "room", False, True))
        return looks[-1:]

    local = Local(ground.keeper, ground.stops, ground.clock, findings=look)

    def asked() -> list[tuple[str, str, str, bool, bool]]:
        rows = local.ListFindings(pb.ListFindingsRequest(), ANY).findings
        return [(row.check, row.seen, row.wanted, row.ok, row.fatal) for row in rows]

    assert asked() == [("disk", "look 1", "room", False, True)]
    ground.clock.advance(0.9)
    assert asked()[0][1] == "look 1"
    ground.clock.advance(0.2)
    assert asked()[0][1] == "look 2"

"""The snapshot's file: what is kept is what is served again; torn, damaged, foreign or public ones are refused."""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from server.disk import Disk
from server.snapshot import Mode, Shelf
from server.snapshot.document import HEAD, SCHEMA
from server.store.memory import MemoryStore
from tests.fakes import FakeClock
from tests.serving import Faulty, load, put_draft, put_running, reshare
from tests.shelves import Failing, Kept, Killed, full_disk, killed


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Faulty:
    made = Faulty(MemoryStore(clock.now_ms))
    made.beat("learner", 1_000_000_000)
    put_running(made)
    put_draft(made, "other")
    return made


@pytest.fixture
def kept(store: Faulty, clock: FakeClock, tmp_path: Path) -> Kept:
    made = Kept(store, clock, tmp_path)
    assert made.poll_and_save()
    return made


def again(kept: Kept, store: Faulty, folder: Path, disk: Disk | None = None) -> Kept:
    """The next process of the machine, after the end of the last."""
    kept.shelf.stop()
    return Kept(store, kept.clock, folder, disk)


def test_what_was_kept_is_served_again(kept: Kept, store: Faulty, tmp_path: Path) -> None:
    before = kept.snapshot
    store.broken.add("all")
    kept.clock.advance(30.0)
    after = again(kept, store, tmp_path)
    assert after.restore()
    assert after.keeper.ready.is_set()
    snapshot, now_s = after.snapshot, kept.clock.monotonic_s()
    assert {name: each.table for name, each in snapshot.entries.items()} == {
        name: each.table for name, each in before.entries.items()
    }
    assert {name: each.order for name, each in snapshot.entries.items()} == {
        name: each.order for name, each in before.entries.items()
    }
    assert snapshot.keys == before.keys
    assert snapshot.mode(snapshot.entries["answers"], now_s) is Mode.STALE
    assert now_s - snapshot.read_s == pytest.approx(30.0)


def test_what_was_not_written_yet_is_when_the_process_ends(kept: Kept, store: Faulty, tmp_path: Path) -> None:
    reshare(store, load(store), (600_000, 200_000, 200_000))
    kept.keeper.poll()
    after = again(kept, store, tmp_path)
    assert after.restore()
    assert after.snapshot.entries["answers"].table.shares_ppm == (600_000, 200_000, 200_000)


def test_what_the_store_lost_is_known_after_the_end_of_the_process_too(
    kept: Kept, store: Faulty, tmp_path: Path
) -> None:
    """Served as before and not counted, and the next process says why as this one does."""
    old = load(store)
    reshare(store, old, (600_000, 200_000, 200_000))
    kept.keeper.poll()
    store.instead["load_many"] = lambda names: {"answers": old}
    reshare(store, load(store), (500_000, 250_000, 250_000))
    assert kept.poll_and_save()
    before = kept.snapshot.entries["answers"]
    assert before.behind
    after = again(kept, store, tmp_path)
    assert after.restore()
    entry = after.snapshot.entries["answers"]
    assert (entry.behind, entry.fault, entry.table) == (True, before.fault, before.table)
    assert "went back" in entry.fault
    assert not entry.table.counted


def test_it_is_stale_however_young_until_the_store_is_reached(
    kept: Kept, store: Faulty, tmp_path: Path
) -> None:
    after = again(kept, store, tmp_path)
    after.restore()
    assert after.snapshot.mode_now(kept.clock.monotonic_s()) is Mode.STALE
    after.keeper.poll()
    assert after.snapshot.mode_now(kept.clock.monotonic_s()) is Mode.FRESH


def test_each_good_poll_confirms_what_is_kept(kept: Kept, store: Faulty, tmp_path: Path) -> None:
    for _ in range(40):
        kept.clock.advance(0.75)
        kept.keeper.poll()
    kept.clock.advance(5.0)
    after = again(kept, store, tmp_path)
    after.restore()
    assert kept.clock.monotonic_s() - after.snapshot.read_s == pytest.approx(5.0)


def test_a_poll_confirms_nothing_that_is_not_kept_yet(kept: Kept, store: Faulty, tmp_path: Path) -> None:
    """Else an old state would pass for a young one after ``kill -9``."""
    kept.clock.advance(10.0)
    reshare(store, load(store), (1_000_000, 0, 0))
    kept.keeper.poll()
    kept.clock.advance(10.0)
    kept.keeper.poll()
    other = Shelf(tmp_path, kept.clock)
    found = other.load()
    assert found is not None
    assert kept.clock.monotonic_s() - found.read_s == pytest.approx(20.0)


def test_a_store_that_did_not_change_is_not_read_at_all(kept: Kept, store: Faulty, tmp_path: Path) -> None:
    after = again(kept, store, tmp_path)
    after.restore()
    store.calls.clear()
    after.keeper.poll()
    assert not {"orders", "load_many", "names"} & set(store.calls)
    reshare(store, load(store), (1_000_000, 0, 0))
    after.keeper.poll()
    assert after.snapshot.entries["answers"].table.shares_ppm == (1_000_000, 0, 0)


def test_a_clock_that_was_set_back_makes_it_very_old(kept: Kept, store: Faulty, tmp_path: Path) -> None:
    kept.shelf.stop()
    after = Kept(store, FakeClock(now_ms=1_000_000_000_000), tmp_path)
    assert after.restore()
    assert after.snapshot.lapsed(after.clock.monotonic_s())


def test_the_files_are_private(kept: Kept, tmp_path: Path) -> None:
    reshare(kept.keeper._store, load(kept.keeper._store), (1_000_000, 0, 0))  # type: ignore[arg-type]
    kept.poll_and_save()
    modes = {path.name: path.stat().st_mode & 0o777 for path in tmp_path.iterdir()}
    assert modes == {"state": 0o600, "state.before": 0o600, "confirmed": 0o600, "lock": 0o600}


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o660])
def test_a_file_that_others_can_reach_is_not_used(
    kept: Kept, store: Faulty, tmp_path: Path, mode: int
) -> None:
    (tmp_path / "state").chmod(mode)
    after = again(kept, store, tmp_path)
    assert not after.restore()
    assert after.keeper.snapshot is None


def test_a_damaged_file_is_refused_and_the_one_before_used(kept: Kept, store: Faulty, tmp_path: Path) -> None:
    reshare(store, load(store), (1_000_000, 0, 0))
    kept.poll_and_save()
    raw = bytearray((tmp_path / "state").read_bytes())
    draw = random.Random(4)
    for _ in range(60):
        at, bit = draw.randrange(len(raw)), 1 << draw.randrange(8)
        raw[at] ^= bit
        (tmp_path / "state").write_bytes(raw)
        after = Kept(store, kept.clock, tmp_path)
        assert after.restore()
        assert after.snapshot.entries["answers"].table.shares_ppm == (400_000, 300_000, 300_000)
        raw[at] ^= bit


def test_a_cut_file_is_refused(kept: Kept, store: Faulty, tmp_path: Path) -> None:
    raw = (tmp_path / "state").read_bytes()
    for size in [0, 1, HEAD.size - 1, HEAD.size, *random.Random(4).sample(range(len(raw)), 30)]:
        (tmp_path / "state").write_bytes(raw[:size])
        assert not Kept(store, kept.clock, tmp_path).restore()
    (tmp_path / "state").write_bytes(raw)
    assert Kept(store, kept.clock, tmp_path).restore()


def test_another_schema_is_refused(kept: Kept, store: Faulty, tmp_path: Path) -> None:
    raw = bytearray((tmp_path / "state").read_bytes())
    raw[8:12] = (SCHEMA + 1).to_bytes(4, "little")
    (tmp_path / "state").write_bytes(raw)
    assert not Kept(store, kept.clock, tmp_path).restore()


def test_nothing_that_could_be_written_replaces_something_newer(
    kept: Kept, store: Faulty, clock: FakeClock, tmp_path: Path
) -> None:
    late = Kept(store, clock, tmp_path)
    late.keeper.poll()
    reshare(store, load(store), (1_000_000, 0, 0))
    assert kept.poll_and_save()
    kept.shelf.stop()
    assert not late.shelf.save()
    found = Shelf(tmp_path, clock).load()
    assert found is not None
    assert found.entries["answers"].table.shares_ppm == (1_000_000, 0, 0)
    assert late.poll_and_save()


def test_one_process_writes_and_another_takes_over(
    kept: Kept, store: Faulty, clock: FakeClock, tmp_path: Path
) -> None:
    second = Kept(store, clock, tmp_path)
    assert not second.poll_and_save()
    assert second.shelf.saved_ms is None
    kept.shelf.stop()
    assert second.poll_and_save()


def _calls_of_a_write(store: Faulty, clock: FakeClock, folder: Path) -> int:
    counting = Failing()
    made = Kept(store, clock, folder, counting)
    made.poll_and_save()
    counting.calls = 0
    reshare(store, load(store), (900_000, 50_000, 50_000))
    assert made.poll_and_save()
    made.shelf.stop()
    return counting.calls


def test_a_full_disk_at_any_step_leaves_one_whole_file_and_serving_as_it_was(
    store: Faulty, clock: FakeClock, tmp_path: Path
) -> None:
    steps = _calls_of_a_write(store, clock, tmp_path / "counted")
    assert steps >= 6
    for at in range(steps):
        folder = tmp_path / f"full-{at}"
        disk = Failing()
        made = Kept(store, clock, folder, disk)
        assert made.poll_and_save()
        old = made.snapshot.entries["answers"].table.shares_ppm
        disk.at, disk.calls, disk.end = at, 0, full_disk
        now = reshare(store, load(store), (800_000 - at, 100_000, 100_000 + at))
        made.poll_and_save()
        assert made.snapshot.entries["answers"].generation == now.generation, "serving goes on"
        assert made.shelf.failures == 1
        found = Shelf(folder, clock).load()
        assert found is not None
        assert found.entries["answers"].table.shares_ppm in (old, now.allocation.shares_ppm)
        assert not list(folder.glob(".*.new")), "what takes room is taken away"
        disk.at = -1
        assert made.shelf.save()
        made.shelf.stop()


def test_the_end_of_the_process_at_any_step_leaves_one_whole_file(
    store: Faulty, clock: FakeClock, tmp_path: Path
) -> None:
    steps = _calls_of_a_write(store, clock, tmp_path / "counted")
    for at in range(steps):
        folder = tmp_path / f"killed-{at}"
        disk = Failing()
        made = Kept(store, clock, folder, disk)
        assert made.poll_and_save()
        old = made.snapshot.entries["answers"].table.shares_ppm
        disk.at, disk.calls, disk.end = at, 0, killed
        now = reshare(store, load(store), (700_000 - at, 100_000, 200_000 + at))
        with pytest.raises(Killed):
            made.poll_and_save()
        found = Shelf(folder, clock).load()
        assert found is not None
        assert found.entries["answers"].table.shares_ppm in (old, now.allocation.shares_ppm)
        made.shelf._newest = None
        made.shelf.stop()


def test_what_a_newer_server_wrote_makes_one_experiment_unreadable(
    kept: Kept, store: Faulty, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from server.store import codec

    whole = codec.dump_experiment

    def newer(experiment: object) -> bytes:
        raw: bytes = whole(experiment)  # type: ignore[arg-type]
        return raw[:-1] + b',"quorum":3}' if b'"name":"other"' in raw else raw

    monkeypatch.setattr(codec, "dump_experiment", newer)
    after = again(kept, store, tmp_path)
    assert after.poll_and_save()
    monkeypatch.undo()
    last = again(after, store, tmp_path)
    assert last.restore()
    assert set(last.snapshot.entries) == {"answers"}
    assert "quorum" in last.snapshot.unreadable["other"]
    last.keeper.poll()
    assert set(last.snapshot.entries) == {"answers", "other"}

"""Snapshots: taken whole, swapped by reference, never replaced by something older or by nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bandit.decide import Reason
from bandit.errors import CorruptStored, StoreUnavailable
from bandit.rollout.transitions import pause, roll_back
from bandit.token import KeyRing
from server.clock import SystemClock
from server.snapshot import Entry, Mode, Snapshot, SnapshotKeeper
from server.store.base import Stored
from server.store.memory import MemoryStore
from tests.builders import NOW
from tests.fakes import FakeClock
from tests.serving import Faulty, commit, load, put_draft, put_running, reshare, until


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def store(clock: FakeClock) -> Faulty:
    made = Faulty(MemoryStore(clock.now_ms))
    made.beat("learner", 1_000_000)
    return made


@pytest.fixture
def keeper(store: Faulty, clock: FakeClock) -> SnapshotKeeper:
    return SnapshotKeeper(store, clock)


def seen(keeper: SnapshotKeeper) -> Snapshot:
    assert keeper.snapshot is not None
    return keeper.snapshot


def entry(keeper: SnapshotKeeper, name: str = "answers") -> Entry:
    return seen(keeper).entries[name]


def test_there_is_no_snapshot_before_the_first_poll(keeper: SnapshotKeeper, store: Faulty) -> None:
    store.broken.add("all")
    with pytest.raises(StoreUnavailable):
        keeper.poll()
    assert keeper.snapshot is None
    assert not keeper.ready.is_set()
    store.broken.clear()
    keeper.poll()
    assert keeper.ready.is_set()
    assert not seen(keeper).entries


def test_a_poll_takes_all_experiments(keeper: SnapshotKeeper, store: Faulty) -> None:
    put_running(store, "answers")
    put_draft(store, "other")
    keeper.poll()
    assert set(seen(keeper).entries) == {"answers", "other"}
    assert entry(keeper).table.reason is Reason.ASSIGNED
    assert entry(keeper, "other").table.reason is Reason.NOT_STARTED
    assert seen(keeper).by_uid[entry(keeper).experiment.uid] is entry(keeper)


def test_nothing_changed_costs_no_load_and_keeps_the_tables(keeper: SnapshotKeeper, store: Faulty) -> None:
    put_running(store)
    keeper.poll()
    before = seen(keeper)
    store.calls.clear()
    keeper.poll()
    assert seen(keeper).entries is before.entries
    assert not {"names", "orders", "load_many", "load"} & set(store.calls)


def test_an_error_changes_nothing(keeper: SnapshotKeeper, store: Faulty, clock: FakeClock) -> None:
    now = put_running(store)
    keeper.poll()
    before = seen(keeper)
    reshare(store, now, (0, 500_000, 500_000))
    for call in ("version", "learner_alive", "orders", "load_many"):
        store.broken = {call}
        clock.advance(1.0)
        with pytest.raises(StoreUnavailable):
            keeper.poll()
        assert seen(keeper) is before
    store.broken = set()
    keeper.poll()
    assert entry(keeper).table.shares_ppm == (0, 500_000, 500_000)


def test_age_and_mode(keeper: SnapshotKeeper, store: Faulty, clock: FakeClock) -> None:
    put_running(store)
    keeper.poll()

    def mode() -> Mode:
        return seen(keeper).mode(entry(keeper), clock.monotonic_s())

    assert mode() is Mode.FRESH
    clock.advance(3.0)
    assert mode() is Mode.FRESH
    clock.advance(0.1)
    assert mode() is Mode.STALE
    keeper.poll()
    assert mode() is Mode.FRESH
    clock.advance(2000)
    keeper.poll()
    assert mode() is Mode.FROZEN


def test_age_counts_from_before_the_poll(store: Faulty, clock: FakeClock) -> None:
    def slow() -> int:
        clock.advance(0.4)
        version: int = store.store.version()
        return version

    store.instead["version"] = slow
    keeper = SnapshotKeeper(store, clock)
    keeper.poll()
    assert clock.monotonic_s() - seen(keeper).read_s == pytest.approx(0.4)


def test_an_unreadable_experiment_keeps_its_last_good_state(keeper: SnapshotKeeper, store: Faulty) -> None:
    now = put_running(store)
    put_running(store, "other")
    keeper.poll()
    table = entry(keeper).table

    def broken(names: list[str]) -> dict[str, Stored | Exception]:
        loaded: dict[str, Stored | Exception] = store.store.load_many(names)
        if "answers" in loaded:
            loaded["answers"] = CorruptStored("answers: is no document")
        return loaded

    store.instead["load_many"] = broken
    now = reshare(store, now, (1_000_000, 0, 0))
    other = reshare(store, load(store, "other"), (1_000_000, 0, 0))
    keeper.poll()
    assert entry(keeper).table is table
    assert "is no document" in entry(keeper).fault
    assert entry(keeper, "other").generation == other.generation
    del store.instead["load_many"]
    keeper.poll()
    assert entry(keeper).generation == now.generation
    assert not entry(keeper).fault


def test_an_experiment_never_read_whole_is_known_by_name_only(keeper: SnapshotKeeper, store: Faulty) -> None:
    put_running(store)
    store.instead["load_many"] = lambda names: {name: CorruptStored("is no document") for name in names}
    keeper.poll()
    assert not seen(keeper).entries
    assert "is no document" in seen(keeper).unreadable["answers"]
    del store.instead["load_many"]
    keeper.poll()
    assert not seen(keeper).unreadable
    assert entry(keeper).table.name == "answers"


def test_a_shares_vector_that_does_not_fit_falls_back_to_the_control(
    keeper: SnapshotKeeper, store: Faulty
) -> None:
    """The experiment says that an arm is rolled back, the allocation gives it traffic: never serve that."""
    now = put_running(store)
    keeper.poll()
    moved = roll_back(
        now.experiment, now.allocation, 1, actor="a", reason="r", rollback_id="1", now_ms=NOW + 3000
    )
    bad = Stored(moved.experiment, now.allocation, now.generation + 1, 0, "")
    store.instead["load_many"] = lambda names: {"answers": bad}
    reshare(store, now, (400_000, 200_000, 400_000))
    keeper.poll()
    assert entry(keeper).table.reason is Reason.FALLBACK
    assert entry(keeper).table.shares_ppm == (1_000_000, 0, 0)
    assert seen(keeper).mode(entry(keeper), 1000.0) is Mode.FALLBACK
    assert "rolled back" in entry(keeper).fault
    before = seen(keeper).entries
    keeper.poll()
    assert seen(keeper).entries is before


def test_an_older_generation_is_refused(keeper: SnapshotKeeper, store: Faulty) -> None:
    old = put_running(store)
    newer = reshare(store, old, (600_000, 200_000, 200_000))
    keeper.poll()
    store.instead["load_many"] = lambda names: {"answers": old}
    reshare(store, newer, (500_000, 250_000, 250_000))
    keeper.poll()
    assert entry(keeper).generation == newer.generation
    assert entry(keeper).table.shares_ppm == (600_000, 200_000, 200_000)
    assert keeper.counts.refused_older == 1
    del store.instead["load_many"]
    keeper.poll()
    assert entry(keeper).table.shares_ppm == (500_000, 250_000, 250_000)


def test_a_new_experiment_of_the_name_replaces_a_deleted_one(keeper: SnapshotKeeper, store: Faulty) -> None:
    first = put_running(store)
    keeper.poll()
    store.delete("answers", first.generation)
    second = put_draft(store)
    assert second.generation < first.generation
    keeper.poll()
    assert entry(keeper).experiment.uid == second.experiment.uid
    assert keeper.name_of(second.experiment.uid, float("inf")) == "answers"
    assert keeper.name_of(first.experiment.uid, float("inf")) == ""


def test_a_deleted_experiment_goes(keeper: SnapshotKeeper, store: Faulty) -> None:
    now = put_running(store)
    put_running(store, "other")
    keeper.poll()
    uid = now.experiment.uid
    store.delete("answers", now.generation)
    keeper.poll()
    assert set(seen(keeper).entries) == {"other"}
    assert keeper.name_of(uid, float("inf")) == ""


def test_the_last_experiment_goes_too(keeper: SnapshotKeeper, store: Faulty) -> None:
    now = put_running(store)
    keeper.poll()
    store.delete("answers", now.generation)
    keeper.poll()
    assert not seen(keeper).entries


def test_an_empty_list_without_a_change_removes_nothing(keeper: SnapshotKeeper, store: Faulty) -> None:
    put_running(store)
    keeper.poll()
    version = store.store.version()
    store.instead["orders"] = dict
    store.instead["version"] = lambda: version + 1  # so that the list is read at all
    keeper.poll()
    assert set(seen(keeper).entries) == {"answers"}


@pytest.mark.parametrize("passed_s", [0.1, 6.0])
@pytest.mark.parametrize("grown", [0, 1000])
def test_nothing_is_removed_from_a_store_that_lost_everything(
    keeper: SnapshotKeeper, store: Faulty, clock: FakeClock, grown: int, passed_s: float
) -> None:
    """Emptied: names, experiments and keys are gone, and its number may have moved on since; between two looks at the
    keys or after the second."""
    put_running(store)
    put_running(store, "other")
    keeper.poll()
    keys = seen(keeper).keys
    version = store.store.version()
    store.store = MemoryStore(clock.now_ms)
    store.instead["version"] = lambda: version + grown
    clock.advance(passed_s)
    for _ in range(3):
        keeper.poll()
        assert set(seen(keeper).entries) == {"answers", "other"}
        assert seen(keeper).keys is keys
    put_draft(store, "third")
    store.instead["version"] = lambda: version + 2000
    keeper.poll()
    assert set(seen(keeper).entries) == {"answers", "other", "third"}
    assert keeper.counts.refused_removals >= 1


@pytest.mark.parametrize("heard", [False, True])
def test_another_store_under_the_same_name_is_found_out_before_it_is_taken(
    keeper: SnapshotKeeper, store: Faulty, clock: FakeClock, heard: bool
) -> None:
    """Between two looks at the keys: its experiments have our names and newer numbers."""
    put_running(store)
    keeper.poll()
    before = entry(keeper)
    another = MemoryStore(clock.now_ms)
    for _ in range(3):
        another.next_uid()
    put_running(another, "answers", (100_000, 100_000, 800_000))
    store.store = another
    clock.advance(0.1)
    if heard:
        keeper.hear(["answers"])
    else:
        store.instead["version"] = lambda: keeper.version + 1
        keeper.poll()
    assert entry(keeper).experiment.uid == before.experiment.uid
    assert entry(keeper).table.shares_ppm == before.table.shares_ppm
    assert seen(keeper).set_back
    another.beat("learner", 1_000_000)
    keeper.poll()
    assert not seen(keeper).frozen
    assert seen(keeper).mode_now(clock.monotonic_s()) is Mode.FROZEN


def test_nothing_is_removed_after_the_number_of_changes_went_back(
    keeper: SnapshotKeeper, store: Faulty
) -> None:
    now = put_running(store)
    put_running(store, "other")
    keeper.poll()
    version = store.store.version()
    store.store.delete("answers", now.generation)  # as if an old copy did not have it yet
    store.instead["version"] = lambda: version - 1
    keeper.poll()
    store.instead["version"] = lambda: version + 5
    keeper.poll()
    assert set(seen(keeper).entries) == {"answers", "other"}
    assert "without a delete" in entry(keeper).fault
    keeper.hear(["answers"])  # but an announced delete is one
    assert set(seen(keeper).entries) == {"other"}


def test_a_message_is_enough(keeper: SnapshotKeeper, store: Faulty) -> None:
    now = put_running(store)
    keeper.poll()
    now = commit(store, now, pause(now.experiment, now.allocation, NOW + 3000))
    store.calls.clear()
    keeper.hear(["answers"])
    assert entry(keeper).table.reason is Reason.PAUSED
    assert "names" not in store.calls
    store.delete("answers", now.generation)
    keeper.hear(["answers"])
    assert not seen(keeper).entries


def test_keys_are_read_again(keeper: SnapshotKeeper, store: Faulty, clock: FakeClock) -> None:
    keeper.poll()
    old = store.store.token_keys()
    ring = KeyRing({**old.keys, 2: bytes(32)}, 2)
    store.instead["token_keys"] = lambda: ring
    clock.advance(5.1)
    keeper.poll()
    assert seen(keeper).keys == ring


def test_a_name_is_gone_only_when_something_newer_says_so(keeper: SnapshotKeeper, clock: FakeClock) -> None:
    assert keeper.name_of(5, 0.0) is None
    keeper.poll()
    assert keeper.name_of(5, clock.monotonic_s()) is None
    clock.advance(0.5)
    keeper.poll()
    assert keeper.name_of(5, clock.monotonic_s() - 0.2) == ""


def test_a_name_is_not_gone_while_an_experiment_is_unreadable(
    keeper: SnapshotKeeper, store: Faulty, clock: FakeClock
) -> None:
    put_running(store)
    store.instead["load_many"] = lambda names: {name: CorruptStored("is no document") for name in names}
    keeper.poll()
    assert keeper.name_of(1, 0.0) is None


def test_only_what_changed_is_read_again(store: Faulty, keeper: SnapshotKeeper) -> None:
    """A thousand experiments of which one changed: their orders in one call, and one document."""
    for index in range(200):
        put_draft(store, f"e{index:03d}")
    keeper.poll()
    loads: list[str] = []

    def counted(names: list[str]) -> dict[str, Stored | Exception]:
        loads.extend(names)
        found: dict[str, Stored | Exception] = store.store.load_many(names)
        return found

    store.instead["load_many"] = counted
    now = reshare(store, load(store, "e100"), (1_000_000, 0, 0))
    store.calls.clear()
    keeper.poll()
    assert loads == ["e100"]
    assert store.calls.count("orders") == 1
    assert entry(keeper, "e100").generation == now.generation


def test_messages_come_while_it_runs(store: Faulty) -> None:
    put_running(store)
    keeper = SnapshotKeeper(store, SystemClock(), poll_s=30.0)
    keeper.start()
    try:
        until(keeper.ready.is_set)
        until(lambda: "subscribe" in store.calls)
        first = entry(keeper).generation

        def heard() -> bool:
            reshare(store, load(store), (1_000_000, 0, 0))  # a message may come before it listens
            return entry(keeper).generation > first

        until(heard)
    finally:
        keeper.stop()


def test_entries_are_immutable(keeper: SnapshotKeeper, store: Faulty) -> None:
    put_running(store)
    keeper.poll()
    with pytest.raises(TypeError):
        seen(keeper).entries["answers"] = entry(keeper)  # type: ignore[index]
    assert replace(entry(keeper), fault="x").fault == "x"

"""What every store promises about logs, folds and replies."""

from __future__ import annotations

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandit.ids import ledger_name
from bandit.ledger import ONE, Cells
from bandit.log import EXPOSURES, REWARDS, START, Append
from bandit.seen import BucketKey, Page, PageKey
from server.store.base import Durability, FoldWrite, RewardCounts, Shipment, Store
from tests import stores
from tests.conftest import Kept
from tests.stores import (
    LAYOUT,
    Writing,
    delete_ledger,
    following,
    new_name,
    next_allocation,
    page,
    period,
    put,
    put_ledger,
    same,
    simple_write,
    stored,
)

pytestmark = pytest.mark.usefixtures("each_ledger")


def entries(name: str, count: int, first: int = 0) -> list[Append]:
    return [Append(name, 7, REWARDS, b"payload %d" % index) for index in range(first, first + count)]


def test_an_experiment_without_folds_has_no_writer(store: Store) -> None:
    assert store.load_writer(new_name()) is None
    assert store.load_writer(put_ledger(store)) is None


def test_the_log_gives_back_what_was_appended_in_order(store: Store) -> None:
    name, other = (put_ledger(store) for _ in range(2))
    sent = [
        Append(name, 7, EXPOSURES, b"\x00\xff\r\n"),
        Append(other, 7, REWARDS, b"", reply=b"\x00who"),
        Append(name, 7, REWARDS, bytes(range(256)), reply=b"r"),
    ]
    ids = store.append(sent)
    assert ids[0] != ids[2]
    found = store.read({name: START, other: START}, 100, 0)
    assert [(e.kind, e.payload, e.reply) for e in found[name]] == [
        (EXPOSURES, b"\x00\xff\r\n", b""),
        (REWARDS, bytes(range(256)), b"r"),
    ]
    assert [(e.kind, e.payload, e.reply) for e in found[other]] == [(REWARDS, b"", b"\x00who")]
    assert [found[name][0].id, found[other][0].id, found[name][1].id] == ids
    assert abs(found[name][0].time_ms - store.now_ms()) < 60_000


def test_reading_goes_on_after_the_offset_in_portions(store: Store) -> None:
    name = put_ledger(store)
    ids = store.append(entries(name, 25))
    offset, seen = START, []
    while portion := store.read({name: offset}, 10, 0).get(name):
        assert len(portion) <= 10
        seen += portion
        offset = portion[-1].id
    assert [entry.id for entry in seen] == ids
    assert [entry.payload for entry in seen] == [entry.payload for entry in entries(name, 25)]
    assert store.read({}, 10, 0) == {}
    assert store.read({new_name(): START}, 10, 0) == {}


def test_behind_counts_what_comes_after(store: Store) -> None:
    name = put_ledger(store)
    assert store.behind(name, START) == 0
    ids = store.append(entries(name, 2500))
    assert store.behind(name, START) == 2500
    assert store.behind(name, ids[999]) == 1500
    assert store.behind(name, ids[-1]) == 0
    assert store.behind(new_name(), START) == 0
    with pytest.raises(ValueError, match="not the id"):
        store.behind(name, "yesterday")


def test_a_reader_wakes_when_something_is_appended(store: Store) -> None:
    name, idle = (put_ledger(store) for _ in range(2))
    with ThreadPoolExecutor(1) as pool:
        reading = pool.submit(store.read, {name: START, idle: START}, 10, 20_000)
        store.append(entries(name, 1))
        began = time.monotonic()
        assert list(reading.result()) == [name]
        assert time.monotonic() - began < 5


def test_a_reader_gives_up_after_its_time(store: Store) -> None:
    name = put_ledger(store)
    began = time.monotonic()
    assert store.read({name: START}, 10, 60) == {}
    assert 0.05 < time.monotonic() - began < 5


def test_what_does_not_exist_takes_no_entries_and_comes_not_back(store: Store) -> None:
    here, gone = put_ledger(store), put_ledger(store)
    store.append(entries(gone, 3))
    delete_ledger(store, gone)
    ids = store.append([*entries(gone, 1), *entries(here, 1), *entries(new_name(), 1)])
    assert [bool(id_) for id_ in ids] == [False, True, False]
    put_ledger(store, gone, uid=9)
    assert store.read({gone: START}, 10, 0) == {}
    assert store.load_writer(gone) is None


def test_an_entry_needs_a_kind(store: Store) -> None:
    name = put_ledger(store)
    with pytest.raises(ValueError, match="kind"):
        store.append([Append(name, 7, b"", b"x")])
    assert store.behind(name, START) == 0


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1 << 32), folds=st.integers(1, 6))
def test_what_was_folded_is_loaded(store: Store, seed: int, folds: int) -> None:
    name = put_ledger(store)
    writing = Writing(7, seed)
    for _ in range(folds):
        write = writing.draw()
        assert store.fold(name, write)
        writing.took(write)
        assert same(store.load_writer(name), writing.state)


def test_what_is_loaded_shares_nothing_with_what_was_given(store: Store) -> None:
    name = put_ledger(store)
    writing = Writing(7, 3)
    random = np.random.default_rng(1)
    key = PageKey(1, 1, 0, 0)
    marks, one = page(random), period(1, random)
    write = replace(
        writing.draw(),
        set_periods={1: one},
        set_pages={key: marks},
        folded=(np.ones((1, 1, 1)), np.ones(1, np.int64)),
    )
    assert store.fold(name, write)
    before = store.load_writer(name)
    one.cells.sums[:] = 0
    marks.marks[:] = 0
    assert write.folded is not None
    write.folded[0][:] = 5
    found = store.load_writer(name)
    assert same(before, found)
    assert found is not None
    found.ledger.periods[1].cells.sums += 1
    found.seen.pages[key].marks[:] = 9
    assert same(before, store.load_writer(name))


def test_of_two_writers_the_second_changes_nothing(store: Store) -> None:
    name = put_ledger(store)
    first, second = Writing(7, 1), Writing(7, 2)
    for _ in range(5):
        write, late = first.draw(), second.draw()
        assert store.fold(name, write)
        first.took(write)
        assert not store.fold(name, late)
        assert not store.fold(name, replace(late, expected_sequence=99))
        assert same(store.load_writer(name), first.state)


def test_a_fold_that_comes_twice_is_taken_once(store: Store) -> None:
    name = put_ledger(store)
    write = simple_write(7, 0, add_foreign={BucketKey(1, 1, 0): {5: 5}}, replies={b"r": b"\x01"})
    assert store.fold(name, write)
    assert not store.fold(name, write)
    state = store.load_writer(name)
    assert state is not None
    assert (state.sequence, state.seen.foreign) == (1, {BucketKey(1, 1, 0): {5: 5}})
    assert [store.await_reply(name, b"r", 0.01), store.await_reply(name, b"r", 0.01)] == [b"\x01", None]


def test_racing_writers_fold_each_sequence_once(store: Store) -> None:
    name = put_ledger(store)
    wins = [0] * 8

    def write(index: int) -> None:
        for sequence in range(30):
            wins[index] += store.fold(name, simple_write(7, sequence, exposed={index + 1: sequence}))

    threads = [threading.Thread(target=write, args=(index,)) for index in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    state = store.load_writer(name)
    assert state is not None
    assert state.sequence == sum(wins)
    assert state.sequence >= 1
    assert store.fold(name, simple_write(7, state.sequence))


def test_a_writer_of_a_deleted_experiment_changes_nothing(store: Store) -> None:
    name = ledger_name(new_name(), stores.PARTITION)
    assert not store.fold(name, simple_write(7, 0))
    put_ledger(store, name, uid=7)
    assert store.fold(name, simple_write(7, 0))
    delete_ledger(store, name)
    assert not store.fold(name, simple_write(7, 1))
    put_ledger(store, name, uid=8)
    assert not store.fold(name, simple_write(7, 0))
    assert store.load_writer(name) is None
    assert store.fold(name, simple_write(8, 0))
    assert not store.fold(name, simple_write(7, 1))


def test_a_fold_leaves_the_experiment_alone_and_a_commit_the_ledger(store: Store) -> None:
    now = put(store, new_name())
    name, writing = now.experiment.name, Writing(7, 5)
    write = writing.draw()
    assert store.fold(name, write)
    writing.took(write)
    assert stored(store, name) == now
    store.commit(following(now, allocation=next_allocation(now.allocation)))
    assert same(store.load_writer(name), writing.state)


def test_allocations_that_became_periods_are_let_go(store: Store) -> None:
    now = put(store, new_name())
    name = now.experiment.name
    for _ in range(4):
        store.commit(following(now, allocation=next_allocation(now.allocation)))
        now = stored(store, name)
    assert store.fold(name, simple_write(7, 0, drop_allocations=3))
    assert [each.number for each in store.allocations(name, 0)] == [4, 5]
    assert not store.fold(name, simple_write(7, 0, drop_allocations=5))
    assert [each.number for each in store.allocations(name, 0)] == [4, 5]
    store.commit(following(now))
    assert [each.number for each in store.allocations(name, 0)] == [4, 5]
    assert store.fold(name, simple_write(7, 1, drop_allocations=5))
    store.commit(following(stored(store, name)))
    assert store.allocations(name, 0) == []
    assert stored(store, name).allocation == now.allocation


def test_trimming_takes_folded_entries_only(kept: Kept) -> None:
    store = kept.store
    name = put_ledger(store)
    old = store.append(entries(name, 3))
    kept.pass_ms(5)
    new = store.append(entries(name, 3, first=3))
    middle_ms = int(new[0].partition("-")[0])
    write = simple_write(7, 0, offset=old[1], trim_before_ms=store.now_ms() + 60_000)
    assert store.fold(name, write)
    assert [entry.id for entry in store.read({name: START}, 10, 0)[name]] == [*old[1:], *new]
    assert store.fold(name, replace(write, expected_sequence=1, offset=new[-1], trim_before_ms=middle_ms))
    assert [entry.id for entry in store.read({name: START}, 10, 0)[name]] == new
    assert store.fold(name, replace(write, expected_sequence=2, offset=new[-1], trim_before_ms=0))
    assert store.behind(name, START) == 3
    assert store.append(entries(name, 1)) != [""]


def test_a_reply_reaches_the_one_who_waits(store: Store) -> None:
    name = put_ledger(store)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(store.await_reply, name, b"\x00who", 20.0)
        assert store.fold(name, simple_write(7, 0, replies={b"\x00who": b"\x01\x02\x00", b"early": b"\x03"}))
        assert waiting.result() == b"\x01\x02\x00"
    assert store.await_reply(name, b"early", 1.0) == b"\x03"
    began = time.monotonic()
    assert store.await_reply(name, b"nobody", 0.05) is None
    assert time.monotonic() - began < 5


def test_an_old_reply_can_still_be_fetched_without_waiting(store: Store) -> None:
    name = put_ledger(store)
    assert store.fold(name, simple_write(7, 0, replies={b"r": b"\x01"}))
    assert store.await_reply(name, b"r", 0.0) == b"\x01"


def _impossible() -> list[tuple[str, FoldWrite]]:
    random = np.random.default_rng(3)
    one = period(1, random)
    low = replace(one, cells=one.cells.copy())
    low.cells.sums[0, 0, 0] = (1, -1, 0, 0)
    high = replace(one, cells=one.cells.copy())
    high.cells.sums[0, 0, 0] = (1, ONE + 1, 0, 0)
    squares = replace(one, cells=one.cells.copy())
    squares.cells.sums[0, 0, 0] = (2, ONE, 0, 1)
    write = simple_write(7, 0)
    bucket, key = BucketKey(1, 1, 0), PageKey(1, 1, 0, 0)
    return [
        ("below 0", replace(write, set_periods={1: low})),
        ("no values", replace(write, set_periods={1: high})),
        ("no values", replace(write, set_periods={1: squares})),
        ("given as 2", replace(write, set_periods={2: one})),
        ("layout", replace(write, set_periods={1: replace(one, cells=Cells.zeros(LAYOUT._replace(arms=2)))})),
        ("finite", replace(write, set_periods={1: replace(one, centres=(0.5, float("nan")))})),
        ("set and drop", replace(write, set_periods={1: one}, drop_periods=[1])),
        ("set and drop", replace(write, set_pages={key: Page.empty()}, drop_pages=[key])),
        ("set and drop", replace(write, add_foreign={bucket: {1: 1}}, drop_foreign=[bucket])),
        ("not the id", replace(write, offset="now")),
        ("marks", replace(write, set_pages={key: Page(1, np.zeros(3, np.uint16))})),
    ]


@pytest.mark.parametrize(("says", "write"), _impossible())
def test_an_impossible_fold_is_refused(store: Store, says: str, write: FoldWrite) -> None:
    name = put_ledger(store)
    with pytest.raises(ValueError, match=says):
        store.fold(name, write)
    assert store.load_writer(name) is None
    assert store.fold(name, simple_write(7, 0, counts=RewardCounts(1, 2, 3, 4, 5)))


def shipment(
    name: str, first: int, following: int, *, issuer: int = 3, uid: int = 7, gap: bool = False
) -> Shipment:
    return Shipment(name, uid, issuer, first, following, b"%d-%d" % (first, following), gap)


def test_exposures_are_taken_once_and_in_order(store: Store) -> None:
    name = put_ledger(store)

    def ship(first: int, following: int, *, issuer: int = 3, gap: bool = False) -> int | None:
        (at,) = store.ship([shipment(name, first, following, issuer=issuer, gap=gap)])
        return at

    assert ship(5, 9) == 0  # 0 to 4 are missing
    assert ship(0, 5) == 5
    assert ship(0, 5) == 5  # a repeat
    assert ship(2, 5) == 5
    assert ship(3, 9) == 9  # the fold drops what it has of it
    assert ship(12, 13) == 9
    assert ship(12, 13, gap=True) == 13
    assert ship(1, 2, issuer=4) == 0  # another issuer counts for itself
    assert ship(0, 2, issuer=4) == 2
    found = store.read({name: START}, 100, 0)[name]
    assert [(e.kind, e.payload) for e in found] == [
        (EXPOSURES, payload) for payload in (b"0-5", b"3-9", b"12-13", b"0-2")
    ]
    assert store.shipped([name], 3) == {name: 13}
    assert store.shipped([name, new_name()], 5)[name] == 0


def test_exposures_of_what_is_gone_are_taken_by_nobody(store: Store) -> None:
    name, other = (put_ledger(store) for _ in range(2))
    assert store.ship([shipment(new_name(), 0, 1), shipment(name, 0, 1, uid=8), shipment(other, 0, 1)]) == [
        None,
        None,
        1,
    ]
    store.ship([shipment(name, 0, 1)])
    delete_ledger(store, name)
    assert store.ship([shipment(name, 1, 2)]) == [None]
    put_ledger(store, name, uid=8)
    assert store.shipped([name], 3) == {name: 0}


@pytest.mark.parametrize("wanted", list(Durability))
def test_an_append_says_how_safe_it_is(kept: Kept, wanted: Durability) -> None:
    store, name = kept.store, put_ledger(kept.store)
    ids, safe = store.append_kept([*entries(name, 3), Append(new_name(), 7, REWARDS, b"x")], wanted)
    assert safe in (wanted, Durability.MEMORY)
    assert ids[3] == ""
    assert [entry.id for entry in store.read({name: START}, 9, 0)[name]] == ids[:3]


def test_the_log_says_which_entries_it_has(store: Store) -> None:
    name = put_ledger(store)
    ids = store.append(entries(name, 3))
    assert store.holds(name, [ids[2], "1-1", ids[0]]) == [True, False, True]
    assert store.holds(new_name(), ids) == [False] * 3


def test_a_store_lives_one_life_until_it_is_another(store: Store) -> None:
    assert store.history() == store.history()
    assert all(store.history())

"""What every store promises about the partitions of an experiment: made with it, gone with it, whoever dies between."""

from __future__ import annotations

import pytest

from bandit.errors import AlreadyExists, Stale
from bandit.ids import ledger_names
from bandit.log import REWARDS, START, Append
from server.store.base import Commit, Store
from server.store.fed import RECEIVED, Feed
from tests.stores import fresh, new_name, put, simple_write, stored


def some(store: Store, ledger: str, uid: int = 7) -> None:
    """Write whatever a ledger can hold."""
    assert store.append([Append(ledger, uid, REWARDS, b"a")]) != [""]
    assert store.feed(Feed(ledger, uid, "orders", [(REWARDS, b"b")], {RECEIVED: 1})).taken
    assert store.fold(ledger, simple_write(uid, 0, exposed={3: 9}))


def is_empty(store: Store, ledger: str) -> bool:
    """Is there nothing of a ledger?"""
    return (
        store.load_writer(ledger) is None
        and store.read({ledger: START}, 9, 0) == {}
        and store.fed(ledger) == {}
    )


def takes(store: Store, ledger: str, uid: int = 7) -> bool:
    """Does a log take an entry?"""
    return store.append([Append(ledger, uid, REWARDS, b"x")]) != [""]


def test_an_experiment_has_as_many_ledgers_as_it_was_created_with(store: Store) -> None:
    name = put(store, new_name(), partitions=3).experiment.name
    ledgers = ledger_names(name, 4)
    assert [takes(store, ledger) for ledger in ledgers] == [True, True, True, False]
    assert name in store.names()
    assert not any("/" in each for each in (*store.names(), *store.orders()))
    assert stored(store, name).experiment.spec.partitions == 3


def test_ledgers_of_one_experiment_know_nothing_of_each_other(store: Store) -> None:
    name = put(store, new_name(), partitions=3).experiment.name
    first, second, third = ledger_names(name, 3)
    some(store, second)
    assert is_empty(store, first)
    assert is_empty(store, third)
    assert store.fold(third, simple_write(7, 0, exposed={4: 1}))
    state = store.load_writer(second)
    assert state is not None
    assert state.seen.exposed == {3: 9}
    assert set(store.read(dict.fromkeys((first, second, third), START), 9, 0)) == {second}


def test_all_ledgers_go_with_the_experiment_and_nothing_comes_back(store: Store) -> None:
    name = put(store, new_name(), partitions=3).experiment.name
    for ledger in ledger_names(name, 3):
        some(store, ledger)
    store.delete(name, 1)
    assert all(is_empty(store, ledger) and not takes(store, ledger) for ledger in ledger_names(name, 3))
    put(store, name, uid=9, partitions=2)
    assert [takes(store, ledger, 9) for ledger in ledger_names(name, 3)] == [True, True, False]
    assert all(store.load_writer(ledger) is None for ledger in ledger_names(name, 3))


def test_a_create_that_is_refused_leaves_the_ledgers_alone(store: Store) -> None:
    name = put(store, new_name(), partitions=3).experiment.name
    some(store, f"{name}/2")
    with pytest.raises(AlreadyExists):
        store.commit(Commit(0, *fresh(name, uid=8, partitions=3)))
    with pytest.raises(Stale):
        store.delete(name, 5)
    assert store.load_writer(f"{name}/2") is not None
    assert takes(store, f"{name}/2")


def test_a_slot_is_made_ready_once_and_by_the_newest_experiment_only(store: Store) -> None:
    name = put(store, new_name(), partitions=2).experiment.name
    some(store, f"{name}/1")
    assert store.begin(f"{name}/1", 7)
    assert store.load_writer(f"{name}/1") is not None
    assert not store.begin(f"{name}/1", 6)
    assert store.load_writer(f"{name}/1") is not None
    assert store.begin(f"{name}/1", 8)
    assert is_empty(store, f"{name}/1")
    assert not store.fold(f"{name}/1", simple_write(7, 1))
    assert store.fold(f"{name}/1", simple_write(8, 0))


def test_what_a_dead_create_or_delete_left_is_cleared_by_whoever_comes_next(store: Store) -> None:
    """Further slots are made after the create and cleared after the delete; who does it may die before that."""
    name = new_name()
    for partition in (1, 15):
        assert store.begin(f"{name}/{partition}", 5)
        some(store, f"{name}/{partition}", 5)
    store.clear_partitions(name)
    assert not takes(store, f"{name}/1", 5)
    for partition in (1, 2, 15):
        assert store.begin(f"{name}/{partition}", 5)
        some(store, f"{name}/{partition}", 5)
    put(store, name, partitions=2)
    assert is_empty(store, f"{name}/1")
    assert [takes(store, ledger) for ledger in ledger_names(name, 3)] == [True, True, False]
    assert not takes(store, f"{name}/15")


def test_clearing_leaves_what_belongs_to_the_experiment_that_is_there(store: Store) -> None:
    name = put(store, new_name(), partitions=2).experiment.name
    some(store, f"{name}/1")
    store.clear_partitions(name)
    assert store.load_writer(f"{name}/1") is not None


def test_a_log_that_was_lost_is_made_anew_with_its_ledger(store: Store) -> None:
    """The learner makes ready what a failover took; of an experiment that has one ledger nothing is made."""
    name = put(store, new_name()).experiment.name
    assert not takes(store, f"{name}/1")
    assert store.begin(f"{name}/1", 7)
    assert takes(store, f"{name}/1")

"""What every store promises about the trailing ledger: it shares the slot and the log of its experiment, no more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandit.ids import trailing_name
from bandit.log import START
from bandit.seen import BucketKey
from server.store.base import Commit, Store
from server.store.keys import bucket_name
from server.store.memory import MemoryStore
from tests.contract.test_store_ledger import entries
from tests.stores import Writing, fresh, new_name, put, same, simple_write, stored


def test_the_trailing_ledger_reads_the_log_of_its_experiment(store: Store) -> None:
    name = put(store, new_name()).experiment.name
    ids = store.append(entries(name, 3))
    trailing = trailing_name(name)
    assert [entry.id for entry in store.read({trailing: START}, 10, 0)[trailing]] == ids
    assert store.behind(trailing, ids[0]) == 2


def test_nothing_is_written_until_it_is(store: Store) -> None:
    name = put(store, new_name()).experiment.name
    assert store.written(name) is None
    assert store.written(trailing_name(name)) is None
    assert store.load_writer(trailing_name(name)) is None
    assert store.fold(name, simple_write(7, 0, removals=2, offset="5-1"))
    assert store.written(trailing_name(name)) is None
    found = store.written(name)
    assert found is not None
    assert (found.offset, found.removals) == ("5-1", 2)


@settings(
    max_examples=8,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
    derandomize=True,
)
@given(st.lists(st.booleans(), min_size=4, max_size=10), st.integers(0, 2**32))
def test_two_ledgers_are_folded_apart(store: Store, turns: list[bool], seed: int) -> None:
    """Each with its own sequence; neither fold, nor a repeat of it, touches the other one."""
    name = put(store, new_name()).experiment.name
    writers = {name: Writing(7, seed), trailing_name(name): Writing(7, seed + 1)}
    for own in turns:
        ledger = name if own else trailing_name(name)
        write = writers[ledger].draw()
        assert store.fold(ledger, write)
        assert not store.fold(ledger, write)
        writers[ledger].took(write)
        for each, writer in writers.items():
            if writer.state.sequence:
                assert same(store.load_writer(each), writer.state)


def test_a_bucket_can_be_replaced(store: Store) -> None:
    name = put(store, new_name()).experiment.name
    one, two = BucketKey(1, 1, 0), BucketKey(2, 1, 0)
    assert store.fold(name, simple_write(7, 0, add_foreign={one: {1: 2, 3: 4}, two: {9: 9}}))
    assert store.fold(name, simple_write(7, 1, replace_foreign={one: {3: 5}}, drop_foreign=[two]))
    state = store.load_writer(name)
    assert state is not None
    assert state.seen.foreign == {one: {3: 5}}
    assert store.fold(name, simple_write(7, 2, add_foreign={one: {7: 7}}))
    state = store.load_writer(name)
    assert state is not None
    assert state.seen.foreign == {one: {3: 5, 7: 7}}


def test_it_can_be_forgotten_and_begun_again(store: Store) -> None:
    name = put(store, new_name()).experiment.name
    trailing = trailing_name(name)
    assert store.fold(name, simple_write(7, 0))
    assert store.fold(trailing, simple_write(7, 0, add_foreign={BucketKey(1, 1, 0): {1: 2}}))
    store.forget(trailing, 8)
    assert store.written(trailing) is not None
    store.forget(trailing, 7)
    store.forget(trailing, 7)
    assert store.written(trailing) is None
    assert store.load_writer(trailing) is None
    assert store.written(name) is not None
    assert store.fold(trailing, simple_write(7, 0))


def left(store: Any, name: str, bucket: str) -> list[str]:
    """Keys that a store on a server still has of an experiment, whose ledgers had this bucket."""
    if isinstance(store, MemoryStore):
        return []
    names = store._keys.of(name).all([bucket], [bucket])
    return [key for key in names if store._link.call("EXISTS", key)]


def test_it_goes_with_its_experiment(store: Store) -> None:
    """Delete leaves none of its keys; and what somebody left all the same is not there for the next of the name."""
    name = put(store, new_name()).experiment.name
    trailing = trailing_name(name)
    bucket = BucketKey(1, 1, 0)
    for ledger in (name, trailing):
        assert store.fold(ledger, simple_write(7, 0, add_foreign={bucket: {1: 2}}))
    assert len(left(store, name, bucket_name(bucket))) in (0, 9)
    store.delete(name, stored(store, name).generation)
    assert left(store, name, bucket_name(bucket)) == []
    assert not store.fold(trailing, simple_write(7, 0))
    experiment, allocation = fresh(name, 8)
    store.commit(Commit(0, replace(experiment, uid=8), allocation))
    assert store.load_writer(trailing) is None
    assert not store.fold(trailing, simple_write(7, 0))
    assert store.fold(trailing, simple_write(8, 0))

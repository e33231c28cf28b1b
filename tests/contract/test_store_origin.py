"""Contract of the stores: an entry of the log says which experiment it was accepted for, and who brought it."""

from __future__ import annotations

import pytest

from bandit.log import REWARDS, START, Append
from server.store.base import Durability, Store
from server.store.fed import Feed
from tests.stores import put_ledger


@pytest.mark.parametrize("wanted", list(Durability))
def test_an_entry_names_the_experiment_it_is_of(store: Store, wanted: Durability) -> None:
    name = put_ledger(store)
    store.append_kept(
        [Append(name, 7, REWARDS, b"a", b"who"), Append(name, (1 << 32) - 1, REWARDS, b"b")], wanted
    )
    assert store.feed(Feed(name, 7, "orders", [(REWARDS, b"c")])).taken
    found = [(entry.payload, entry.reply, entry.uid) for entry in store.read({name: START}, 9, 0)[name]]
    assert found == [(b"a", b"who", 7), (b"b", b"", (1 << 32) - 1), (b"c", b"", 0)]


@pytest.mark.parametrize("wanted", list(Durability))
def test_an_entry_keeps_the_source_that_it_is_counted_under(store: Store, wanted: Durability) -> None:
    name = put_ledger(store)
    entries = [
        Append(name, 7, REWARDS, b"a", b"who", b"grpc/billing"),
        Append(name, 7, REWARDS, b"b", source=b"grpc/crm"),
        Append(name, 7, REWARDS, b"c"),
    ]
    store.append_kept(entries, wanted)
    found = [(entry.payload, entry.reply, entry.source) for entry in store.read({name: START}, 9, 0)[name]]
    assert found == [(b"a", b"who", b"grpc/billing"), (b"b", b"", b"grpc/crm"), (b"c", b"", b"")]

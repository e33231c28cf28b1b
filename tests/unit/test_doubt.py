"""What callers were told is taken is appended again when the store lost it, once, as far as it is remembered."""

from __future__ import annotations

import pytest

from bandit.errors import StoreUnavailable
from bandit.log import REWARDS, START, Append
from server.rpc.doubt import KEPT_S, Doubt
from server.store.memory import MemoryStore
from tests.fakes import FakeClock
from tests.serving import Faulty
from tests.stores import put


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


UIDS = {"answers": 7, "other": 8}


@pytest.fixture
def store() -> Faulty:
    made = Faulty(MemoryStore())
    for name, uid in UIDS.items():
        put(made.store, name, uid=uid)
    return made


def taken(doubt: Doubt, store: Faulty, *payloads: bytes, name: str = "answers") -> None:
    entries = [Append(name, UIDS[name], REWARDS, payload) for payload in payloads]
    doubt.remember(entries, store.store.append(entries))


def lose(store: Faulty, entries: int, name: str = "answers") -> None:
    """The store goes on in another life, without its last entries."""
    del store.store._kept[name].log[-entries:]
    store.instead["history"] = lambda: (f"life without {entries} of {name}",)


def log(store: Faulty, name: str = "answers") -> list[bytes]:
    return [entry.payload for entry in store.store.read({name: START}, 1000, 0).get(name, [])]


def test_only_what_is_gone_is_appended_again(store: Faulty, clock: FakeClock) -> None:
    doubt = Doubt(store, clock)
    taken(doubt, store, b"a", b"b", b"c", b"d")
    taken(doubt, store, b"x", name="other")
    assert doubt.look() == 0
    lose(store, 2)
    assert doubt.look() == 2
    assert log(store) == [b"a", b"b", b"c", b"d"]
    assert log(store, "other") == [b"x"]
    assert doubt.look() == 0
    assert (doubt.counts.put_back, doubt.counts.lost) == (2, 0)


def test_what_was_appended_again_is_looked_for_too(store: Faulty, clock: FakeClock) -> None:
    doubt = Doubt(store, clock)
    taken(doubt, store, b"a", b"b")
    doubt.look()
    lose(store, 1)
    doubt.look()
    lose(store, 2)
    doubt.look()
    assert sorted(log(store)) == [b"a", b"b"]


def test_a_look_that_failed_is_taken_again(store: Faulty, clock: FakeClock) -> None:
    doubt = Doubt(store, clock)
    taken(doubt, store, b"a", b"b")
    doubt.look()
    lose(store, 1)
    store.broken.add("holds")
    with pytest.raises(StoreUnavailable):
        doubt.look()
    store.broken.clear()
    assert doubt.look() == 1
    assert log(store) == [b"a", b"b"]


def test_entries_of_deleted_experiments_are_lost_for_good(store: Faulty, clock: FakeClock) -> None:
    doubt = Doubt(store, clock)
    taken(doubt, store, b"x", name="other")
    doubt.look()
    store.store.delete("other", 1)
    store.instead["history"] = lambda: ("another",)
    doubt.look()
    assert (doubt.counts.put_back, doubt.counts.lost) == (0, 1)


def test_what_is_old_or_too_much_is_forgotten(store: Faulty, clock: FakeClock) -> None:
    doubt = Doubt(store, clock, most_bytes=1000)
    taken(doubt, store, b"a")
    clock.advance(KEPT_S + 1)
    taken(doubt, store, *(b"%d" % number for number in range(10)))
    doubt.look()
    lose(store, 11)
    assert 0 < doubt.look() <= 5
    assert log(store)[-1] == b"9"

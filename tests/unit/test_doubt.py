"""What callers were told is taken is appended again when the store lost it, once, as far as it is remembered."""

from __future__ import annotations

import pytest

from bandit.errors import CorruptStored, StoreUnavailable
from bandit.log import REWARDS, START, Append
from server.rpc.doubt import KEPT_S, PROBED, Doubt
from server.store.memory import MemoryStore
from server.store.memory_ledger import Kept
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
    uid = store.store._kept[name].uid
    entries = [Append(name, uid, REWARDS, payload) for payload in payloads]
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


def test_what_vanishes_in_the_same_life_is_noticed(store: Faulty, clock: FakeClock) -> None:
    """As by hand, or by a copy that is put in place of the keys while the server runs."""
    doubt = Doubt(store, clock)
    taken(doubt, store, b"a", b"b", b"c")
    taken(doubt, store, b"x", name="other")
    assert doubt.look() == 0
    del store.store._kept["answers"].log[1:]
    assert doubt.look() == 2
    assert log(store) == [b"a", b"b", b"c"]
    assert (doubt.look(), doubt.counts.put_back) == (0, 2)


def test_an_experiment_that_the_store_lost_whole_is_waited_for(store: Faulty, clock: FakeClock) -> None:
    """However long it takes to restore it; others are looked after meanwhile."""
    doubt = Doubt(store, clock, known=lambda uid: True)
    taken(doubt, store, b"a", b"b")
    taken(doubt, store, b"x", name="other")
    doubt.look()
    copy = store.store._kept.pop("answers")
    for _ in range(3):
        assert doubt.look() == 0
        clock.advance(KEPT_S)
        taken(doubt, store, b"y", name="other")
    del store.store._kept["other"].log[-1:]
    assert doubt.look() == 1
    del copy.log[1:]
    store.store._kept["answers"] = copy
    assert doubt.look() == 1
    assert log(store) == [b"a", b"b"]
    assert log(store, "other") == [b"x", b"y", b"y", b"y"]
    assert (doubt.look(), doubt.counts.lost, doubt.counts.put_back) == (0, 0, 2)


def test_what_this_server_gives_up_is_given_up_then(store: Faulty, clock: FakeClock) -> None:
    known = {UIDS["answers"]}
    doubt = Doubt(store, clock, known=known.__contains__)
    taken(doubt, store, b"a", b"b")
    doubt.look()
    del store.store._kept["answers"]
    assert doubt.look() == 0
    known.clear()
    assert doubt.look() == 2
    put(store.store, "answers", uid=UIDS["answers"])
    assert (doubt.look(), doubt.counts.lost, log(store)) == (0, 2, [])


def test_a_new_experiment_of_the_name_gets_nothing_of_the_old(store: Faulty, clock: FakeClock) -> None:
    doubt = Doubt(store, clock, known=lambda uid: True)
    taken(doubt, store, b"a")
    doubt.look()
    del store.store._kept["answers"]
    put(store.store, "answers", uid=99)
    assert doubt.look() == 0
    assert log(store) == []


def test_ledgers_of_an_experiment_are_there_with_it(store: Faulty, clock: FakeClock) -> None:
    doubt = Doubt(store, clock)
    store.store._kept["answers/1"] = Kept(UIDS["answers"])
    taken(doubt, store, b"a", name="answers/1")
    doubt.look()
    store.instead["orders"] = lambda: {"answers": (UIDS["answers"], 1)}
    lose(store, 1, "answers/1")
    assert doubt.look() == 1
    assert log(store, "answers/1") == [b"a"]


def test_many_experiments_are_looked_at_in_turn(store: Faulty, clock: FakeClock) -> None:
    names = [f"e{number}" for number in range(2 * PROBED + 5)]
    for number, name in enumerate(names):
        put(store.store, name, uid=100 + number)
    doubt = Doubt(store, clock)
    for name in names:
        taken(doubt, store, b"a", name=name)
    for name in names:
        del store.store._kept[name].log[:]
        store.calls.clear()
        assert sum(doubt.look() for _ in range(3)) == 1, name
        assert store.calls.count("holds") < 3 * PROBED + len(names) + 3


def test_what_was_well_for_a_minute_is_never_missed(store: Faulty, clock: FakeClock) -> None:
    """The log is trimmed later, and nothing came meanwhile that would have pushed it out."""
    doubt = Doubt(store, clock)
    taken(doubt, store, b"a")
    doubt.look()
    clock.advance(KEPT_S + 1)
    doubt.look()
    lose(store, 1)
    assert (doubt.look(), log(store)) == (0, [])


def test_a_log_that_is_none_holds_up_no_other(store: Faulty, clock: FakeClock) -> None:
    doubt = Doubt(store, clock, known=lambda uid: True)
    taken(doubt, store, b"a")
    taken(doubt, store, b"x", name="other")
    doubt.look()
    lose(store, 1, "other")

    def holds(name: str, ids: list[str]) -> list[bool]:
        if name == "answers":
            raise CorruptStored("another type", key="log")
        found: list[bool] = store.store.holds(name, ids)
        return found

    store.instead["holds"] = holds
    assert doubt.look() == 1
    assert log(store, "other") == [b"x"]
    del store.instead["holds"]
    lose(store, 1)
    assert doubt.look() == 1
    assert log(store) == [b"a"]


def test_what_is_not_taken_again_is_not_forgotten(store: Faulty, clock: FakeClock) -> None:
    """Its experiment went between two calls: by the next look it is told to be gone, or it is back."""
    doubt = Doubt(store, clock, known=lambda uid: True)
    taken(doubt, store, b"a", b"b")
    doubt.look()
    lose(store, 1)
    store.instead["append"] = lambda entries: [""] * len(entries)
    assert doubt.look() == 1
    del store.instead["append"]
    assert doubt.look() == 1
    assert log(store) == [b"a", b"b"]
    assert doubt.counts.put_back == 1

"""What every store promises about sources of rewards: positions, counts, dead letters."""

from __future__ import annotations

import threading

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandit.log import REWARDS, START
from server.store.base import Durability, Store
from server.store.fed import DEAD, RECEIVED, Burial, Fed, Feed, Letter, Move, Position
from tests.conftest import Kept
from tests.stores import delete_ledger, new_name, put_ledger

pytestmark = pytest.mark.usefixtures("each_ledger")


def at(offset: int, epoch: str = "e1", partition: str = "topic/0") -> Position:
    return Position(partition, epoch, offset)


def feed(name: str, before: Position | None, after: Position, *payloads: bytes, uid: int = 7) -> Feed:
    entries = [(REWARDS, payload) for payload in payloads]
    return Feed(name, uid, "orders", entries, {RECEIVED: len(payloads)}, [Move(before, after)])


def in_log(store: Store, name: str) -> list[bytes]:
    return [entry.payload for entry in store.read({name: START}, 1000, 0).get(name, [])]


def test_what_is_fed_is_in_the_log_with_its_source(store: Store) -> None:
    name = put_ledger(store)
    assert store.fed(name) == {}
    assert store.feed(feed(name, None, at(4), b"a\x00\r\n", b"b")) == Fed(True)
    entries = store.read({name: START}, 10, 0)[name]
    assert [(each.kind, each.payload, each.source) for each in entries] == [
        (REWARDS, b"a\x00\r\n", b"orders"),
        (REWARDS, b"b", b"orders"),
    ]
    assert store.fed(name)["orders"].positions == {"topic/0": at(4)}
    assert store.fed(name)["orders"].counts == {RECEIVED: 2}


def test_a_feed_that_comes_twice_is_taken_once(store: Store) -> None:
    name = put_ledger(store)
    first = feed(name, None, at(4), b"a")
    assert store.feed(first).taken
    assert store.feed(first) == Fed(False, at=(at(4),))
    assert store.feed(feed(name, at(3), at(5), b"b")) == Fed(False, at=(at(4),))
    assert store.feed(feed(name, at(4, "e0"), at(5), b"b")) == Fed(False, at=(at(4),))
    assert in_log(store, name) == [b"a"]
    assert store.fed(name)["orders"].counts == {RECEIVED: 1}
    assert store.feed(feed(name, at(4), at(9, "e2"), b"b")).taken
    assert store.fed(name)["orders"].positions == {"topic/0": at(9, "e2")}


def test_one_move_that_does_not_fit_holds_all_back(store: Store) -> None:
    name = put_ledger(store)
    other = Move(None, at(1, partition="topic/1"))
    assert store.feed(Feed(name, 7, "orders", moves=[other])).taken
    both = Feed(name, 7, "orders", [(REWARDS, b"a")], {RECEIVED: 1}, [Move(None, at(1)), other])
    assert store.feed(both) == Fed(False, at=(None, at(1, partition="topic/1")))
    assert in_log(store, name) == []
    assert store.fed(name)["orders"].counts == {}


def test_sources_do_not_see_each_other(store: Store) -> None:
    name, other = (put_ledger(store) for _ in range(2))
    assert store.feed(feed(name, None, at(4), b"a")).taken
    assert store.feed(Feed(name, 7, "clicks", counts={RECEIVED: 3}, moves=[Move(None, at(9))])).taken
    assert store.feed(feed(other, None, at(1), b"b")).taken
    assert {source: slot.positions["topic/0"].offset for source, slot in store.fed(name).items()} == {
        "clicks": 9,
        "orders": 4,
    }
    assert store.buried() == {}


def test_nothing_reaches_an_experiment_that_is_gone_or_another(store: Store) -> None:
    name = put_ledger(store)
    assert store.feed(feed(name, None, at(4), b"a", uid=8)) == Fed(False, gone=True)
    assert store.feed(feed(name, None, at(4), b"a")).taken
    delete_ledger(store, name)
    assert store.feed(feed(name, at(4), at(5), b"b")) == Fed(False, gone=True)
    put_ledger(store, name, uid=9)
    assert store.fed(name) == {}
    assert in_log(store, name) == []


@pytest.mark.parametrize(
    "position", [at(-1), at(1, "e 1"), at(1, ""), at(1, partition=""), at(1, partition="a b")]
)
def test_a_position_that_could_not_be_read_back_is_refused(store: Store, position: Position) -> None:
    name = put_ledger(store)
    with pytest.raises(ValueError, match="position"):
        store.feed(feed(name, None, position, b"a"))
    assert in_log(store, name) == []


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.tuples(st.integers(0, 2), st.integers(0, 6), st.integers(0, 6)), max_size=12))
def test_a_slot_moves_as_its_model(store: Store, steps: list[tuple[int, int, int]]) -> None:
    """A slot is its positions: a move is taken exactly when it begins where the slot is."""
    name = put_ledger(store)
    model: dict[str, Position] = {}
    taken = 0
    for number, before, after in steps:
        partition = f"p{number}"
        start = at(before, partition=partition) if before else None
        move = Move(start, at(after, partition=partition))
        fits = model.get(partition) == start
        told = store.feed(Feed(name, 7, "s", [(REWARDS, b"%d" % taken)], {RECEIVED: 1}, [move]))
        assert told == (Fed(True) if fits else Fed(False, at=(model.get(partition),)))
        if fits:
            model[partition] = move.after
            taken += 1
    slot = store.fed(name).get("s")
    assert (dict(slot.positions) if slot else {}) == model
    assert in_log(store, name) == [b"%d" % number for number in range(taken)]
    assert slot is None or slot.counts == ({RECEIVED: taken} if taken else {})


def test_of_racing_readers_each_place_is_taken_once(store: Store) -> None:
    name = put_ledger(store)
    wins = [0] * 6

    def read(index: int) -> None:
        for offset in range(20):
            before = at(offset) if offset else None
            wins[index] += store.feed(feed(name, before, at(offset + 1), b"%d" % offset)).taken

    threads = [threading.Thread(target=read, args=(index,)) for index in range(len(wins))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert in_log(store, name) == [b"%d" % offset for offset in range(20)]
    assert sum(wins) == 20


def letter(number: int, source: str = "orders", reason: str = "NOT_JSON") -> Letter:
    body, headers = b"\xff\x00%d" % number, {"ce_type": "x", "Ü": "\n"}
    return Letter(
        source, reason, "no JSON: it begins with 0xff", body, headers, f"topic/0 {number}", 1000 + number
    )


def bury(store: Store, *letters: Letter) -> Fed:
    count = len(letters)
    return store.bury(Burial(letters[0].source, letters, {RECEIVED: count, DEAD: count}))


@pytest.mark.parametrize("wanted", list(Durability))
def test_a_feed_says_how_safe_it_is(kept: Kept, wanted: Durability) -> None:
    store, name = kept.store, put_ledger(kept.store)
    fed = store.feed(feed(name, None, at(4), b"a"), wanted)
    assert fed.taken
    assert fed.safe in (wanted, Durability.MEMORY)
    assert store.feed(feed(name, None, at(4), b"a"), wanted)[:3] == (False, False, (at(4),))
    assert [entry.payload for entry in store.read({name: START}, 9, 0)[name]] == [b"a"]
    assert store.feed(Feed(new_name(), 7, "orders"), wanted).gone


def test_letters_come_back_whole_and_in_order(store: Store) -> None:
    sent = [letter(number) for number in range(7)]
    assert bury(store, *sent) == Fed(True)
    first = store.letters("", 5)
    rest = store.letters(first[-1].id, 5)
    assert [len(first), len(rest)] == [5, 2]
    got = [*first, *rest]
    assert len({each.id for each in got}) == 7
    assert [
        (each.body, each.headers, each.place, each.time_ms, each.reason, each.message) for each in got
    ] == [(each.body, each.headers, each.place, each.time_ms, each.reason, each.message) for each in sent]
    assert store.buried()["orders"].counts == {RECEIVED: 7, DEAD: 7}
    assert store.letters(rest[-1].id, 5) == []


def test_a_burial_is_fenced_like_a_feed(store: Store) -> None:
    burial = Burial("orders", [letter(1)], {RECEIVED: 1, DEAD: 1}, [Move(None, at(5))])
    assert store.bury(burial).taken
    assert store.bury(burial) == Fed(False, at=(at(5),))
    assert len(store.letters("", 10)) == 1
    assert store.buried()["orders"].positions == {"topic/0": at(5)}


def test_where_a_source_has_no_order_its_letters_are_told_by_their_place(store: Store) -> None:
    def once(*numbers: int) -> Fed:
        letters = [letter(number) for number in numbers]
        return store.bury(Burial("orders", letters, {RECEIVED: len(letters), DEAD: len(letters)}, once=True))

    assert once(1, 2).taken
    assert once(2, 3, 1).taken
    assert once(3).taken
    assert [each.body for each in store.letters("", 10)] == [letter(number).body for number in (1, 2, 3)]
    assert store.buried()["orders"].counts == {RECEIVED: 3, DEAD: 3}


def test_a_letter_is_taken_away_once(store: Store) -> None:
    assert bury(store, letter(1), letter(2)).taken
    assert bury(store, letter(3, "clicks")).taken
    first = store.letters("", 1)[0]
    assert [store.unbury(first), store.unbury(first)] == [True, False]
    assert store.buried()["orders"].counts == {RECEIVED: 1, DEAD: 1}
    assert store.buried()["clicks"].counts == {RECEIVED: 1, DEAD: 1}
    assert [each.body for each in store.letters("", 10)] == [letter(2).body, letter(3).body]


def test_the_oldest_letters_make_room(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("redis_fed", "memory_fed"):
        monkeypatch.setattr(f"server.store.{module}.MOST_LETTERS", 3)
    assert bury(store, *(letter(number) for number in range(5))).taken
    assert [each.body for each in store.letters("", 10)] == [letter(number).body for number in (2, 3, 4)]
    assert store.buried()[""].counts == {"dropped": 2}
    assert store.buried()["orders"].counts == {RECEIVED: 5, DEAD: 5}


def test_what_a_source_said_of_itself_is_kept(store: Store) -> None:
    assert store.sources() == {}
    store.put_source("orders", b"\x00one")
    store.put_source("orders", b"\x00two")
    store.put_source("clicks", b"")
    assert store.sources() == {"orders": b"\x00two", "clicks": b""}

"""The store in memory goes by the clock it is given."""

from __future__ import annotations

from bandit.log import REWARDS, Append
from server.store.memory import MemoryStore
from tests.fakes import FakeClock
from tests.stores import following, new_name, put, simple_write


def test_request_ids_are_forgotten_after_a_day() -> None:
    clock = FakeClock()
    store = MemoryStore(clock.now_ms)
    now = put(store, new_name())
    store.commit(following(now, request_id="r"))
    clock.advance(86_399)
    assert store.outcome_of(now.experiment.name, "r") == (2, b"")
    clock.advance(1)
    assert store.outcome_of(now.experiment.name, "r") is None


def test_replies_are_kept_for_a_minute() -> None:
    clock = FakeClock()
    store = MemoryStore(clock.now_ms)
    name = put(store, new_name()).experiment.name
    assert store.fold(name, simple_write(7, 0, replies={b"early": b"\x01", b"late": b"\x02"}))
    clock.advance(59)
    assert store.await_reply(name, b"early", 0) == b"\x01"
    clock.advance(1)
    assert store.await_reply(name, b"late", 0) is None


def test_ids_of_the_log_never_go_back_when_the_clock_does() -> None:
    clock = FakeClock()
    store = MemoryStore(clock.now_ms)
    name = put(store, new_name()).experiment.name
    first = store.append([Append(name, 7, REWARDS, b"x")])
    clock.advance(-10)
    second = store.append([Append(name, 7, REWARDS, b"y")])
    assert store.behind(name, first[0]) == 1
    assert store.behind(name, second[0]) == 0

"""Appends of many callers as one: everyone has its own answer, failures included, and nobody is left waiting."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import pytest

from bandit.errors import StoreUnavailable
from bandit.log import REWARDS, Append
from server.rpc.appends import MOST_ENTRIES, Appends
from tests.serving import in_thread, until


class Log:
    """A store that only appends; each id names its entry. It can be held shut."""

    def __init__(self) -> None:
        self.rounds: list[list[Append]] = []
        self.open = threading.Event()
        self.open.set()
        self.fail: BaseException | None = None

    def append(self, entries: Sequence[Append]) -> list[str]:
        self.rounds.append(list(entries))
        self.open.wait(20)
        if self.fail is not None:
            raise self.fail
        return [f"{entry.experiment}/{entry.payload.decode()}" for entry in entries]


def entries(name: str, count: int = 1) -> list[Append]:
    return [Append(name, 7, REWARDS, str(index).encode()) for index in range(count)]


def ids(name: str, count: int = 1) -> list[str]:
    return [f"{name}/{index}" for index in range(count)]


@pytest.fixture
def log() -> Log:
    return Log()


@pytest.fixture
def appends(log: Log) -> Appends:
    store: Any = log
    return Appends(store)


def test_alone_it_is_an_append(appends: Appends, log: Log) -> None:
    for _ in range(3):
        assert appends.append(entries("a", 3)) == ids("a", 3)
    assert [len(each) for each in log.rounds] == [3, 3, 3]


def test_who_comes_meanwhile_goes_together(appends: Appends, log: Log) -> None:
    log.open.clear()
    got: dict[str, list[str]] = {}

    def call(name: str, count: int) -> None:
        got[name] = appends.append(entries(name, count))

    threads = [in_thread(lambda: call("first", 2))]
    until(lambda: len(log.rounds) == 1)
    threads += [in_thread(partial(call, name, count)) for name, count in (("b", 1), ("c", 3))]
    until(lambda: len(appends._queue) == 2)
    log.open.set()
    for thread in threads:
        thread.join(10)
    assert got == {"first": ids("first", 2), "b": ids("b"), "c": ids("c", 3)}
    assert [len(each) for each in log.rounds] == [2, 4]


def test_a_round_has_a_size(appends: Appends, log: Log) -> None:
    log.open.clear()
    threads = [in_thread(lambda: appends.append(entries("first")))]
    until(lambda: len(log.rounds) == 1)
    threads += [in_thread(partial(appends.append, entries(name, MOST_ENTRIES // 2))) for name in "abcd"]
    until(lambda: len(appends._queue) == 4)
    log.open.set()
    for thread in threads:
        thread.join(10)
    assert [len(each) for each in log.rounds] == [1, MOST_ENTRIES, MOST_ENTRIES]
    assert appends.append(entries("big", MOST_ENTRIES * 3)) == ids("big", MOST_ENTRIES * 3)


def test_a_failure_is_told_to_everybody_of_its_round_and_to_nobody_else(appends: Appends, log: Log) -> None:
    log.open.clear()
    ended: dict[str, Any] = {}

    def call(name: str) -> None:
        try:
            ended[name] = appends.append(entries(name))
        except StoreUnavailable as error:
            ended[name] = error

    threads = [in_thread(lambda: call("first"))]
    until(lambda: len(log.rounds) == 1)
    threads += [in_thread(partial(call, name)) for name in ("b", "c")]
    until(lambda: len(appends._queue) == 2)
    log.fail = StoreUnavailable("away", reason="AWAY")
    log.open.set()
    for thread in threads:
        thread.join(10)
    assert all(isinstance(ended[name], StoreUnavailable) for name in ("first", "b", "c"))
    assert {ended[name].reason for name in ended} == {"AWAY"}
    assert len({id(ended[name]) for name in ended}) == 3
    log.fail = None
    assert appends.append(entries("d")) == ids("d")


def test_no_exception_leaves_anybody_waiting(appends: Appends, log: Log) -> None:
    for error in (ValueError("a bug"), KeyboardInterrupt()):
        log.fail = error
        with pytest.raises(type(error)):
            appends.append(entries("a"))
    log.fail = None
    assert appends.append(entries("a")) == ids("a")


def test_nobody_gets_the_answer_of_another(appends: Appends, log: Log) -> None:
    def work(worker: int) -> int:
        for turn in range(300):
            name = f"w{worker}-{turn}"
            count = turn % 4 + 1
            assert appends.append(entries(name, count)) == ids(name, count)
        return 1

    with ThreadPoolExecutor(16) as pool:
        assert sum(pool.map(work, range(16))) == 16
    assert sum(len(each) for each in log.rounds) == 16 * 300 * 5 // 2

"""The store's time on a machine whose own clock is wrong."""

from __future__ import annotations

import threading

import pytest

from bandit.errors import StoreUnavailable
from server.clock import StoreClock
from tests.fakes import FakeClock

AHEAD_MS = 7_200_000


class Asked:
    """A store's clock that is two hours behind the machine's; an answer takes ``slow_s``, half of it on the way."""

    def __init__(self, machine: FakeClock) -> None:
        self.machine = machine
        self.slow_s = 0.0
        self.away = False
        self.times = 0

    def __call__(self) -> int:
        self.times += 1
        if self.away:
            raise StoreUnavailable("away")
        self.machine.advance(self.slow_s)
        return self.machine.now_ms() - AHEAD_MS


@pytest.fixture
def machine() -> FakeClock:
    return FakeClock()


@pytest.fixture
def asked(machine: FakeClock) -> Asked:
    return Asked(machine)


def test_until_the_store_was_heard_it_is_the_machines_clock(machine: FakeClock, asked: Asked) -> None:
    clock = StoreClock(asked, machine)
    asked.away = True
    clock.begin()
    with pytest.raises(StoreUnavailable):
        clock.follow()
    assert clock.now_ms() == machine.now_ms()
    asked.away = False
    clock.follow()
    assert clock.now_ms() == machine.now_ms() - AHEAD_MS


def test_it_goes_on_while_the_store_is_away(machine: FakeClock, asked: Asked) -> None:
    clock = StoreClock(asked, machine)
    clock.begin()
    asked.away = True
    machine.advance(3600)
    with pytest.raises(StoreUnavailable):
        clock.follow()
    assert clock.now_ms() == machine.now_ms() - AHEAD_MS


def test_it_asks_once_a_second(machine: FakeClock, asked: Asked) -> None:
    clock = StoreClock(asked, machine)
    for _ in range(100):
        clock.follow()
        machine.advance(0.1)
    assert asked.times == 10


def test_a_slow_answer_is_taken_only_when_there_is_no_better_one(machine: FakeClock, asked: Asked) -> None:
    clock = StoreClock(asked, machine)
    clock.begin()
    asked.slow_s = 30.0
    machine.advance(1.5)
    clock.follow()
    assert clock.now_ms() == machine.now_ms() - AHEAD_MS, "half of thirty seconds would have been wrong"
    machine.advance(1.5)
    asked.slow_s = 4.0
    clock.follow()
    assert clock.now_ms() == machine.now_ms() - AHEAD_MS + 2000


def test_a_store_that_does_not_answer_holds_no_start_up(machine: FakeClock) -> None:
    answered = threading.Event()

    def ask() -> int:
        answered.wait(60)
        return 5_000

    clock = StoreClock(ask, machine)
    clock.begin()
    assert clock.now_ms() == machine.now_ms()
    answered.set()

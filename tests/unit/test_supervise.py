"""The keeper of parts, with a clock and processes in the test's hand: starts, restarts, ordered ends."""

from __future__ import annotations

import signal
from collections.abc import Callable

import pytest

from bandit.errors import NotAllowed, StoreUnavailable
from server.supervise.child import Process
from server.supervise.keeper import BACKOFF_CAP_S, STEADY_S, Keeper, Part
from server.supervise.lifeline import HOPELESS
from tests.fakes import FakeClock

TERM = -signal.SIGTERM
KILL = -signal.SIGKILL


class Puppet:
    """A Process that does what the test says. ``deaf``: SIGTERM does not end it."""

    def __init__(self, pid: int, *, deaf: bool = False) -> None:
        self.pid = pid
        self.ready_fd: int | None = None
        self.deaf = deaf
        self.said = False
        self.turned_s: float | None = None
        self.code: int | None = None
        self.asked = 0
        self.closed = False

    def is_ready(self) -> bool:
        return self.said

    def pulse_s(self) -> float | None:
        return self.turned_s

    def ended(self) -> int | None:
        return self.code

    def terminate(self) -> None:
        self.asked += 1
        if not self.deaf:
            self.code = TERM

    def kill(self) -> None:
        self.code = KILL

    def close(self) -> None:
        assert self.code is not None, "closed while it runs"
        self.closed = True


class Stage:
    """A keeper with puppets."""

    def __init__(
        self, *names: str, deaf: str = "", last: str = "", luck: float = 1.0, hang_s: float = 0.0
    ) -> None:
        self.clock = FakeClock()
        self.started: dict[str, list[Puppet]] = {name: [] for name in names}
        self.when: dict[str, list[float]] = {name: [] for name in names}
        self.refusals: dict[str, Exception] = {}
        self.absent: set[str] = set()
        self.ready_times = 0
        self.ends: list[tuple[str, bool]] = []
        self.deaf = deaf
        parts = [
            Part(name, self.launcher(name), stage, 10.0, last=name == last, hang_s=hang_s)
            for stage, name in enumerate(names)
        ]
        self.keeper = Keeper(
            parts, self.clock, uniform=lambda: luck, on_ready=self.on_ready, on_end=self.on_end
        )

    def on_ready(self) -> None:
        self.ready_times += 1

    def on_end(self, name: str, unasked: bool) -> None:
        self.ends.append((name, unasked))

    def launcher(self, name: str) -> Callable[[], Process | None]:
        def launch() -> Process | None:
            if name in self.absent:
                return None
            if name in self.refusals:
                raise self.refusals[name]
            puppet = Puppet(100 * len(self.started[name]) + 1, deaf=name == self.deaf)
            self.started[name].append(puppet)
            self.when[name].append(self.clock.monotonic_s())
            return puppet

        return launch

    def now(self, name: str) -> Puppet:
        return self.started[name][-1]

    def ready(self, *names: str) -> None:
        for name in names:
            self.now(name).said = True
        self.keeper.step()

    def die(self, name: str, code: int = 1) -> None:
        self.now(name).code = code
        self.keeper.step()

    def run_for(self, seconds: float) -> None:
        """Let time pass as the driver would: never longer than the keeper asked."""
        end = self.clock.monotonic_s() + seconds
        while (left := end - self.clock.monotonic_s()) > 1e-9:
            self.clock.advance(min(left, max(self.keeper.step(), 1e-6)))
        self.keeper.step()


def test_all_parts_start_and_readiness_is_told_once() -> None:
    stage = Stage("serve", "learn")
    stage.keeper.step()
    assert [len(each) for each in stage.started.values()] == [1, 1]
    stage.ready("serve")
    assert stage.ready_times == 0
    stage.ready("learn")
    stage.keeper.step()
    assert stage.ready_times == 1


def test_what_dies_is_started_again_after_a_growing_pause_up_to_a_limit() -> None:
    stage = Stage("serve")
    stage.keeper.step()
    stage.ready("serve")
    for _ in range(12):
        stage.die("serve")
        stage.run_for(BACKOFF_CAP_S + 0.1)
    expected = [min(BACKOFF_CAP_S, 0.1 * 2**n) for n in range(12)]
    # Each death was BACKOFF_CAP_S + 0.1 after the one before; the pause is counted from there.
    deaths = [stage.when["serve"][0] + n * (BACKOFF_CAP_S + 0.1) for n in range(12)]
    restarts = [start - death for start, death in zip(stage.when["serve"][1:], deaths, strict=True)]
    assert restarts == pytest.approx(expected, abs=1e-4)
    assert stage.ends == [("serve", True)] * 12
    assert all(puppet.closed for puppet in stage.started["serve"][:-1])


def test_the_pause_is_drawn_at_random_below_its_limit() -> None:
    stage = Stage("serve", luck=0.25)
    stage.keeper.step()
    for n in range(4):
        stage.die("serve")
        began = stage.clock.monotonic_s()
        stage.run_for(1.0)
        assert stage.when["serve"][-1] - began == pytest.approx(0.25 * 0.1 * 2**n, abs=1e-4)


def test_failures_are_forgiven_after_a_steady_time_only() -> None:
    stage = Stage("serve")
    stage.keeper.step()
    for _ in range(6):
        stage.ready("serve")
        stage.die("serve")
        stage.run_for(6)
    stage.ready("serve")
    stage.run_for(STEADY_S - 0.1)
    stage.die("serve")
    began = stage.clock.monotonic_s()
    stage.run_for(6)
    assert stage.when["serve"][-1] - began == pytest.approx(BACKOFF_CAP_S, abs=1e-4)
    stage.ready("serve")
    stage.run_for(STEADY_S)
    stage.die("serve")
    began = stage.clock.monotonic_s()
    stage.run_for(6)
    assert stage.when["serve"][-1] - began == pytest.approx(0.1, abs=1e-4)


def test_a_part_that_never_gets_ready_is_left_to_it() -> None:
    stage = Stage("serve", "learn")
    stage.keeper.step()
    stage.ready("learn")
    stage.run_for(3600)
    assert len(stage.started["serve"]) == 1
    assert stage.ready_times == 0
    stage.ready("serve")
    assert stage.ready_times == 1


def test_a_part_that_cannot_start_yet_is_asked_again_soon() -> None:
    stage = Stage("serve")
    stage.absent.add("serve")
    stage.run_for(5)
    assert stage.started["serve"] == []
    stage.absent.clear()
    stage.run_for(0.3)
    assert len(stage.started["serve"]) == 1


def test_a_hopeless_start_ends_everything() -> None:
    stage = Stage("serve", "learn")
    stage.keeper.step()
    stage.ready("learn")
    stage.die("serve", HOPELESS)
    stage.keeper.step()
    assert stage.keeper.stopped
    assert stage.keeper.fault.startswith("serve cannot start")
    assert stage.now("learn").code == TERM
    assert len(stage.started["serve"]) == 1


def test_once_it_was_ready_the_same_end_is_one_to_recover_from() -> None:
    stage = Stage("serve")
    stage.keeper.step()
    stage.ready("serve")
    stage.die("serve", HOPELESS)
    stage.run_for(1)
    assert len(stage.started["serve"]) == 2
    assert not stage.keeper.fault


def test_a_launch_that_is_refused_at_first_is_a_fault_and_later_a_failure() -> None:
    stage = Stage("store")
    stage.refusals["store"] = NotAllowed("the folder is taken")
    stage.keeper.step()
    assert stage.keeper.fault == "store: the folder is taken"
    assert stage.keeper.stopped
    stage = Stage("store")
    stage.keeper.step()
    stage.ready("store")
    stage.refusals["store"] = StoreUnavailable("it does not answer")
    stage.die("store")
    stage.run_for(20)
    assert not stage.keeper.fault
    stage.refusals.clear()
    stage.run_for(BACKOFF_CAP_S)
    assert len(stage.started["store"]) == 2


def test_the_end_goes_stage_by_stage() -> None:
    stage = Stage("serve", "learn", "web", "store", deaf="serve")
    stage.keeper.step()
    stage.ready("serve", "learn", "web", "store")
    stage.keeper.stop()
    stage.run_for(5)
    assert [stage.now(name).asked for name in stage.started] == [1, 0, 0, 0]
    stage.now("serve").code = 0  # drained
    stage.keeper.step()
    assert [stage.now(name).asked for name in stage.started] == [1, 1, 0, 0]
    for _ in range(3):
        stage.keeper.step()
    assert [stage.now(name).asked for name in stage.started] == [1, 1, 1, 1]
    assert stage.keeper.stopped
    assert stage.ends == [(name, False) for name in stage.started]


def test_what_does_not_listen_is_killed_in_its_time() -> None:
    stage = Stage("serve", "learn", deaf="serve")
    stage.keeper.step()
    stage.ready("serve", "learn")
    stage.keeper.stop()
    stage.run_for(9.9)
    assert stage.now("serve").code is None
    stage.run_for(0.2)
    assert stage.now("serve").code == KILL
    stage.run_for(0.1)
    assert stage.keeper.stopped


def test_nothing_starts_while_it_ends() -> None:
    stage = Stage("serve", "learn", deaf="serve")
    stage.keeper.step()
    stage.ready("serve", "learn")
    stage.keeper.stop()
    stage.keeper.step()
    stage.die("learn")
    stage.run_for(30)
    assert len(stage.started["learn"]) == 1
    assert stage.keeper.stopped


def test_it_ends_while_a_part_waits_for_its_restart() -> None:
    stage = Stage("serve")
    stage.keeper.step()
    stage.die("serve")
    stage.keeper.stop()
    stage.keeper.step()
    assert stage.keeper.stopped


def test_the_end_of_the_last_part_is_the_end_of_all() -> None:
    stage = Stage("serve", "learn", "demo", last="demo")
    stage.keeper.step()
    stage.ready("serve", "demo")
    assert stage.ready_times == 0
    stage.ready("learn")
    assert stage.ready_times == 1
    stage.die("serve")
    stage.run_for(1)
    assert len(stage.started["serve"]) == 2
    stage.die("demo", 3)
    for _ in range(3):
        stage.keeper.step()
    assert stage.keeper.stopped
    assert stage.keeper.last_code == 3
    assert len(stage.started["demo"]) == 1
    assert not stage.keeper.fault


def test_killing_reaches_every_part() -> None:
    stage = Stage("serve", "learn", deaf="learn")
    stage.keeper.step()
    stage.keeper.kill()
    stage.keeper.step()
    assert stage.keeper.stopped
    assert [stage.now(name).code for name in stage.started] == [KILL, KILL]


def test_an_idle_keeper_sleeps_long() -> None:
    stage = Stage("serve")
    stage.keeper.step()
    stage.ready("serve")
    assert stage.keeper.step() >= 60


def test_a_part_whose_work_stands_still_is_killed_and_started_again() -> None:
    stage = Stage("learn", hang_s=20.0)
    stage.keeper.step()
    stage.run_for(300)  # not ready yet: a compile may take long
    assert len(stage.started["learn"]) == 1
    stage.ready("learn")
    stage.run_for(300)  # one that never beat is not watched
    for _ in range(100):
        stage.now("learn").turned_s = stage.clock.monotonic_s()
        stage.run_for(15)
    assert len(stage.started["learn"]) == 1
    stage.run_for(4)
    assert len(stage.started["learn"]) == 1
    stage.run_for(20.0 / 4 + 2 + BACKOFF_CAP_S)
    hung, _ = stage.started["learn"]
    assert hung.code == KILL
    assert hung.closed


def test_a_beat_of_before_it_was_ready_counts_from_then_on() -> None:
    stage = Stage("learn", hang_s=20.0)
    stage.keeper.step()
    stage.now("learn").turned_s = stage.clock.monotonic_s()
    stage.run_for(60)
    stage.ready("learn")
    stage.run_for(15)
    assert len(stage.started["learn"]) == 1


def test_without_a_limit_nobody_is_watched() -> None:
    stage = Stage("learn")
    stage.keeper.step()
    stage.now("learn").turned_s = stage.clock.monotonic_s()
    stage.ready("learn")
    stage.run_for(10_000)
    assert len(stage.started["learn"]) == 1

"""The supervisor piece by piece: restarts by a clock in the test's hand, ports, issuer numbers, locks, lifelines."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bandit.errors import NotAllowed, StoreUnavailable
from server.supervise.child import Child, Process, own_command
from server.supervise.folder import OwnedFolder
from server.supervise.issuers import IssuerPool
from server.supervise.keeper import BACKOFF_CAP_S, STEADY_S, Keeper, Part
from server.supervise.lifeline import HOPELESS, Orders
from server.supervise.ports import is_free, reserve
from server.supervise.signals import Forced, Interrupted, Signals
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
        self.code: int | None = None
        self.asked = 0
        self.closed = False

    def is_ready(self) -> bool:
        return self.said

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

    def __init__(self, *names: str, deaf: str = "", last: str = "", luck: float = 1.0) -> None:
        self.clock = FakeClock()
        self.started: dict[str, list[Puppet]] = {name: [] for name in names}
        self.when: dict[str, list[float]] = {name: [] for name in names}
        self.refusals: dict[str, Exception] = {}
        self.absent: set[str] = set()
        self.ready_times = 0
        self.ends: list[tuple[str, bool]] = []
        self.deaf = deaf
        parts = [
            Part(name, self.launcher(name), stage, 10.0, last=name == last)
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


# --- ports -----------------------------------------------------------------------------------------------------------


def test_a_taken_port_is_refused_even_by_one_that_shares() -> None:
    with socket.socket() as other:
        # As grpcio listens: a second server of the same user could join without a word.
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        with reserve("127.0.0.1:0", "listen", keep=False) as free:
            address = free.address
        other.bind(("127.0.0.1", int(address.rpartition(":")[2])))
        other.listen()
        assert not is_free(address)
        with pytest.raises(NotAllowed, match=f"listen: {address} is taken by another process"):
            reserve(address, "listen", keep=True)
    assert is_free(address)


def test_a_reservation_keeps_others_out_and_lets_our_servers_in() -> None:
    with reserve("127.0.0.1:0", "listen", keep=True) as taken:
        host, _, port = taken.address.rpartition(":")
        assert 20_000 <= int(port) < 32_000
        with pytest.raises(NotAllowed):
            reserve(taken.address, "listen", keep=True)
        with socket.socket() as ours:
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            ours.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            ours.bind((host, int(port)))
            ours.listen()
            # The socket that keeps the address takes no connection: all of them reach the server.
            for _ in range(20):
                with socket.create_connection((host, int(port)), timeout=5):
                    ours.accept()[0].close()
    with reserve(taken.address, "listen", keep=True):
        pass


def test_connections_that_ended_lately_are_no_obstacle() -> None:
    with reserve("127.0.0.1:0", "listen", keep=False) as free:
        host, _, port = free.address.rpartition(":")
    with socket.socket() as server:
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        server.bind((host, int(port)))
        server.listen()
        with socket.create_connection((host, int(port)), timeout=5) as client:
            taken, _ = server.accept()
            taken.close()  # the server ends it first, so its side waits in TIME_WAIT
            assert client.recv(1) == b""
    with reserve(f"{host}:{port}", "listen", keep=True):
        pass


def test_a_wildcard_and_a_name_are_looked_at_in_all_their_families() -> None:
    with reserve("0.0.0.0:0", "listen", keep=True) as taken:
        port = taken.address.rpartition(":")[2]
        assert not is_free(f"127.0.0.1:{port}")
        assert not is_free(f"localhost:{port}")
    assert is_free(f"localhost:{port}")


def test_an_address_of_another_machine_is_refused() -> None:
    with pytest.raises(NotAllowed, match="give an address of this machine"):
        reserve("192.0.2.1:50061", "listen", keep=False)


# --- issuer numbers --------------------------------------------------------------------------------------------------


class Numbers:
    """A store's numbers, sometimes away."""

    def __init__(self) -> None:
        self.given = 0
        self.calls = 0
        self.away = threading.Event()
        self.woken = threading.Semaphore(0)

    def reserve(self, count: int) -> int:
        self.calls += 1
        if self.away.is_set():
            raise StoreUnavailable("away")
        first = self.given + 1
        self.given += count
        return first


@pytest.fixture
def numbers() -> Iterator[tuple[Numbers, IssuerPool]]:
    source = Numbers()
    pool = IssuerPool(source.reserve, source.woken.release, batch=10, low=4, uniform=lambda: 0.01)
    yield source, pool
    pool.stop()


def test_each_issuer_number_is_given_once_and_more_are_fetched_in_time(
    numbers: tuple[Numbers, IssuerPool],
) -> None:
    source, pool = numbers
    source.away.set()
    pool.start()
    for _ in range(5):
        assert pool.take() is None
    source.away.clear()
    assert source.woken.acquire(timeout=10)
    taken: list[int] = []
    while len(taken) < 100:
        number = pool.take()
        if number is None:
            assert source.woken.acquire(timeout=10)
            continue
        taken.append(number)
    assert taken == list(range(1, 101))
    assert source.given <= 120


def test_numbers_in_hand_last_while_the_store_is_away(numbers: tuple[Numbers, IssuerPool]) -> None:
    source, pool = numbers
    pool.start()
    assert source.woken.acquire(timeout=10)
    source.away.set()
    assert [pool.take() for _ in range(11)] == [*range(1, 11), None]
    source.away.clear()
    assert source.woken.acquire(timeout=10)
    assert pool.take() == 11


# --- the folder ------------------------------------------------------------------------------------------------------


def test_a_folder_has_one_owner(tmp_path: Path) -> None:
    folder = tmp_path / "state" / "banditd"
    with closing(OwnedFolder(folder)):
        assert folder.stat().st_mode & 0o777 == 0o700
        with pytest.raises(NotAllowed, match=f"in use by the banditd of process {os.getpid()}"):
            OwnedFolder(folder)
    OwnedFolder(folder).close()


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(NotAllowed, match="--data-dir"):
        OwnedFolder(tmp_path / "file" / "banditd")


# --- children --------------------------------------------------------------------------------------------------------

CHILD = """
import os, signal, sys, time
from server.supervise.lifeline import reporter, tie
behaviour = sys.argv[1]
numbers = dict(zip(sys.argv[2::2], map(int, sys.argv[3::2])))
if behaviour == "deaf":
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
orders = tie(numbers["--line-fd"])
ready = reporter(numbers["--ready-fd"])
if behaviour == "echo":
    print(orders.part, orders.config, orders.issuer, flush=True)
if behaviour != "silent":
    ready()
    ready()
if behaviour == "frozen":
    os.kill(os.getpid(), signal.SIGSTOP)
time.sleep(600)
"""


def until(met: Callable[[], object], what: str, timeout_s: float = 60.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not met():
        assert time.monotonic() < deadline, f"not in time: {what}"
        time.sleep(0.01)


def start(behaviour: str, config: str = "{}") -> Child:
    return Child([sys.executable, "-c", CHILD, behaviour], Orders("serve-0", os.getpid(), config, 17))


def finish(child: Child) -> int:
    until(lambda: child.ended() is not None, "the child's end")
    code = child.ended()
    child.close()
    assert code is not None
    return code


def test_a_child_says_when_it_is_ready_and_ends_when_asked() -> None:
    child = start("good")
    waited_for = [child.ready_fd]
    until(child.is_ready, "ready")
    waited_for.append(child.ready_fd)
    assert waited_for[0] is not None
    assert waited_for[1] is None
    child.terminate()
    assert finish(child) == TERM


def test_a_child_that_says_nothing_is_not_ready_even_when_it_ends() -> None:
    child = start("silent")
    assert not child.is_ready()
    child.kill()
    until(lambda: child.ended() is not None, "the child's end")
    assert not child.is_ready()
    assert child.ready_fd is None
    child.close()


@pytest.mark.parametrize("behaviour", ["deaf", "frozen"])
def test_a_child_that_does_not_listen_can_be_killed(behaviour: str) -> None:
    child = start(behaviour)
    until(child.is_ready, "ready")
    child.terminate()
    child.kill()
    assert finish(child) == KILL


def test_a_child_ends_when_the_line_to_it_does() -> None:
    child = start("deaf")
    until(child.is_ready, "ready")
    os.close(child._line)
    until(lambda: child.ended() is not None, "the child's end")
    assert child.ended() == KILL
    child._line = os.open(os.devnull, os.O_RDONLY)
    child.close()


def test_orders_come_through_a_pipe_and_not_the_command_line(capfd: pytest.CaptureFixture[str]) -> None:
    config = json.dumps({"store": "redis://:hunter2@host", "filler": "x" * 3000})
    child = start("echo", config)
    until(child.is_ready, "ready")
    for place in ("cmdline", "environ"):
        assert "hunter2" not in Path(f"/proc/{child.pid}/{place}").read_text()
    assert capfd.readouterr().out == f"serve-0 {config} 17\n"
    child.kill()
    finish(child)


def test_our_own_package_is_found_where_a_folder_has_its_name(tmp_path: Path) -> None:
    (tmp_path / "server").mkdir()
    (tmp_path / "server" / "__init__.py").write_text("raise SystemExit('the wrong one')\n")
    done = subprocess.run(
        [*own_command("web"), "--help"], cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "--line-fd" in done.stdout


# --- signals ---------------------------------------------------------------------------------------------------------


def test_the_first_ctrl_c_asks_and_a_later_one_forces(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = FakeClock()
    monkeypatch.setattr("server.supervise.signals.time.monotonic", clock.monotonic_s)
    with Signals() as signals:
        signal.raise_signal(signal.SIGINT)
        assert signals.asked is signal.SIGINT
        signal.raise_signal(signal.SIGINT)  # the same one, passed on by whoever started us
        signal.raise_signal(signal.SIGTERM)
        clock.advance(0.5)
        with pytest.raises(Forced):
            signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGINT)  # while everything is being killed: not again


def test_a_long_call_is_cut_short() -> None:
    with Signals() as signals:
        with pytest.raises(Interrupted), signals.cut_short():
            signal.raise_signal(signal.SIGTERM)
        with pytest.raises(Interrupted), signals.cut_short():
            pytest.fail("it was asked before")


def test_waiting_ends_by_a_signal_or_a_word() -> None:
    with Signals() as signals:
        began = time.monotonic()
        threading.Timer(0.05, signals.wake).start()
        signals.wait([], 60)
        threading.Timer(0.05, os.kill, (os.getpid(), signal.SIGTERM)).start()
        signals.wait([], 60)
        assert time.monotonic() - began < 30
        signals.wait([], 0.01)  # and nothing is left over
    assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL

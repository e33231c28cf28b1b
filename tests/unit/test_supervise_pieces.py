"""What a supervisor stands on: ports, issuer numbers, the lock of its folder, lifelines to its children, signals."""

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
from functools import partial
from pathlib import Path

import pytest

from bandit.errors import NotAllowed, StoreUnavailable
from server.disk import Disk
from server.supervise.child import Child, own_command
from server.supervise.folder import OwnedFolder
from server.supervise.issuers import IssuerPool
from server.supervise.lifeline import Orders
from server.supervise.ports import is_free, reserve
from server.supervise.signals import Forced, Interrupted, Signals
from tests.fakes import FakeClock
from tests.shelves import Failing, Killed, killed

TERM = -signal.SIGTERM
KILL = -signal.SIGKILL


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
    source.away.clear()
    pool.stop()
    pool._thread.join(10)


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


def pool_of(source: Numbers, folder: Path, disk: Disk | None = None) -> IssuerPool:
    return IssuerPool(
        source.reserve,
        source.woken.release,
        folder=folder,
        batch=100,
        low=4,
        uniform=lambda: 0.01,
        disk=disk or Disk(),
    )


def ended(pool: IssuerPool) -> None:
    pool.stop()
    if pool._thread.ident is not None:
        pool._thread.join(10)


def on_disk(folder: Path) -> bool:
    return (folder / "issuers").exists()


def test_numbers_on_disk_serve_starts_without_a_store_and_none_is_given_twice(tmp_path: Path) -> None:
    """Each start is killed: what it took is marked taken before it is used."""
    source = Numbers()
    pool = pool_of(source, tmp_path)
    pool.start()
    assert source.woken.acquire(timeout=10)
    until(partial(on_disk, tmp_path), "numbers on disk")
    taken = [pool.take() for _ in range(3)]
    ended(pool)
    source.away.set()
    for _ in range(6):
        pool = pool_of(source, tmp_path)
        taken += [pool.take() for _ in range(2)]
    assert None not in taken
    assert len(set(taken)) == len(taken)
    assert pool_of(source, tmp_path).take() not in taken
    assert [pool_of(source, tmp_path).take() for _ in range(2)] == [None, None], (
        "the rest was wasted, not repeated"
    )


def test_a_disk_that_cannot_say_that_numbers_are_taken_gives_none(tmp_path: Path) -> None:
    source = Numbers()
    pool = pool_of(source, tmp_path)
    pool.start()
    until(partial(on_disk, tmp_path), "numbers on disk")
    ended(pool)
    for at in range(4):
        assert pool_of(source, tmp_path, Failing(at)).take() is None
    for at in range(4):
        with pytest.raises(Killed):
            pool_of(source, tmp_path, Failing(at, killed)).take()
    assert pool_of(source, tmp_path).take() is not None


@pytest.mark.parametrize("raw", [b"", b"{}", b"[1]", b'{"next": 5, "end": 4}', b'{"next": "5", "end": 9}'])
def test_numbers_that_cannot_be_read_are_not_given(tmp_path: Path, raw: bytes) -> None:
    (tmp_path / "issuers").write_bytes(raw)
    (tmp_path / "issuers").chmod(0o600)
    assert pool_of(Numbers(), tmp_path).take() is None


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
from server.supervise.lifeline import pulse, reporter, tie
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
beat = pulse(numbers["--pulse-fd"])
while behaviour == "beats":
    beat()
    time.sleep(0.01)
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


def test_the_beat_of_a_child_is_seen_by_the_same_clock() -> None:
    began_s = time.monotonic()
    child = start("beats")
    until(lambda: child.pulse_s() is not None, "a beat")
    first_s = child.pulse_s()
    assert first_s is not None
    assert began_s < first_s <= time.monotonic()
    until(lambda: (child.pulse_s() or 0.0) > first_s, "another beat")
    os.kill(child.pid, signal.SIGSTOP)
    child.kill()
    finish(child)


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

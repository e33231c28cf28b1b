"""The embedded server: keeps what it was given, has one owner, and never outlives the one who started it."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import redis

from bandit.errors import NotAllowed, StoreUnavailable
from server.store import embedded
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.stores import new_name, put, simple_write, stored

OWNER = """
import sys, time
import redis
from server.store.embedded import Embedded
server = Embedded(sys.argv[1], watchdog=sys.argv[2] == "True")
server.start()
print(server.pid, redis.Redis.from_url(server.url).incr("given"), flush=True)
time.sleep(100)
"""


def until(true: Callable[[], bool], limit_s: float = 10.0) -> bool:
    """Wait for it, at most the limit."""
    deadline = time.monotonic() + limit_s
    while not true():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def alive(pid: int) -> bool:
    """Is the process there and no zombie?"""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{pid}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"


def test_what_was_acknowledged_is_there_after_a_restart(tmp_path: Path) -> None:
    name = new_name()
    for turn in range(3):
        with Embedded(tmp_path / "kept") as server, contextlib.closing(RedisStore(server.url)) as store:
            if not turn:
                put(store, name)
            assert stored(store, name).generation == 1
            assert store.fold(name, simple_write(7, turn))
        assert not server.running()


def test_it_is_set_up_to_keep_everything(tmp_path: Path) -> None:
    with (
        Embedded(tmp_path / "kept", maxmemory_bytes=1 << 30) as server,
        contextlib.closing(RedisStore(server.url)) as store,
    ):
        assert [row for row in store.findings() if not row.ok] == []
        assert "everysec" in next(row.seen for row in store.findings() if row.check == "durability")
        client = redis.Redis.from_url(server.url)
        assert client.config_get("maxmemory")["maxmemory"] == str(1 << 30)
        assert client.config_get("port")["port"] == "0"
        client.close()


def test_only_its_owner_can_reach_it(tmp_path: Path) -> None:
    with Embedded(tmp_path / "a" / "kept") as server:
        socket = Path(server.url.removeprefix("unix://"))
        for path in (server.data_dir, socket.parent, socket):
            assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_second_owner_is_told_who_the_first_is(tmp_path: Path) -> None:
    with (
        Embedded(tmp_path / "kept") as first,
        pytest.raises(NotAllowed, match=rf"in use by process {os.getpid()}; stop that") as told,
    ):
        Embedded(tmp_path / "kept").start()
    assert told.value.reason == "DATA_DIR_IN_USE"
    assert not first.running()
    with Embedded(tmp_path / "kept") as again:
        assert again.running()


def test_a_second_owner_leaves_the_first_alone(tmp_path: Path) -> None:
    with Embedded(tmp_path / "kept") as first, contextlib.closing(RedisStore(first.url)) as store:
        with pytest.raises(NotAllowed):
            Embedded(tmp_path / "kept").start()
        assert store.names() == []
        assert Path(first.url.removeprefix("unix://")).exists()


@contextlib.contextmanager
def killed_owner(kept: Path, watchdog: bool) -> Iterator[tuple[int, int]]:
    """A process that owns a server (its pid, and the number it gave); killed without warning at the end."""
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(kept), str(watchdog)], stdout=subprocess.PIPE, text=True
    )
    try:
        assert owner.stdout is not None
        pid, given = map(int, owner.stdout.readline().split())
        yield pid, given
    finally:
        owner.kill()
        owner.communicate()


@pytest.mark.parametrize("watchdog", [False, True])
def test_it_dies_with_a_killed_parent_and_keeps_its_numbers(tmp_path: Path, watchdog: bool) -> None:
    with killed_owner(tmp_path / "kept", watchdog) as (pid, given):
        assert given == 1
    # Opening it again at once has to wait for the dying server.
    with Embedded(tmp_path / "kept") as server:
        client = redis.Redis.from_url(server.url)
        assert client.incr("given") == 2
        client.close()
    assert until(lambda: not alive(pid))


def test_a_server_of_a_killed_parent_is_gone_within_seconds(tmp_path: Path) -> None:
    with killed_owner(tmp_path / "kept", watchdog=False) as (pid, _):
        assert alive(pid)
    assert until(lambda: not alive(pid), 5)


def test_a_server_that_survives_its_owner_keeps_the_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "OWNER_ENDS_WITHIN_S", 0.2)
    with killed_owner(tmp_path / "kept", watchdog=True) as (pid, _):
        # Without its watchdog nothing ends the server when the owner is gone.
        (watchdog,) = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
        os.kill(int(watchdog), signal.SIGKILL)
    try:
        with pytest.raises(NotAllowed, match="in use by process"):
            Embedded(tmp_path / "kept").start()
        assert alive(pid)
    finally:
        os.kill(pid, signal.SIGTERM)
    assert until(lambda: not alive(pid))


def test_a_path_too_long_for_a_socket_works(tmp_path: Path) -> None:
    deep = tmp_path / ("d" * 100) / ("e" * 100)
    with Embedded(deep) as server, contextlib.closing(RedisStore(server.url)) as store:
        socket = Path(server.url.removeprefix("unix://"))
        assert len(os.fsencode(socket)) <= embedded.LONGEST_SOCKET
        assert stat.S_IMODE(socket.parent.stat().st_mode) == 0o700
        put(store, new_name())
    assert not socket.parent.exists()
    assert list(deep.glob("*SOCKET*")) == []


def test_sockets_of_a_crashed_run_are_cleaned_up(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    (kept / "socket").mkdir(parents=True)
    (kept / "socket" / "s").touch()
    stale = Path(tempfile.mkdtemp(prefix="banditd-"))
    (stale / "s").touch()
    (kept / "SOCKET").write_text(f"{stale}\n")
    with Embedded(kept) as server:
        assert server.running()
        assert not stale.exists()


@pytest.mark.parametrize("content", ["/", "", "..", "{tmp}/banditd-mine", "{tmp}/mine"])
def test_cleaning_up_removes_nothing_else(tmp_path: Path, content: str) -> None:
    ours = [tmp_path / "banditd-mine" / "letter", tmp_path / "mine" / "s"]
    for letter in ours:
        letter.parent.mkdir()
        letter.write_text("dear")
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "SOCKET").write_text(content.format(tmp=tmp_path))
    with Embedded(kept):
        assert [letter.read_text() for letter in ours] == ["dear", "dear"]


def test_it_starts_in_the_main_thread_only(tmp_path: Path) -> None:
    caught: list[Exception] = []

    def start() -> None:
        try:
            Embedded(tmp_path / "kept").start()
        except NotAllowed as error:
            caught.append(error)

    thread = threading.Thread(target=start)
    thread.start()
    thread.join()
    assert "main thread" in str(caught[0])


def test_starting_twice_and_asking_a_stopped_one_is_refused(tmp_path: Path) -> None:
    server = Embedded(tmp_path / "kept")
    with pytest.raises(NotAllowed, match="not running"):
        _ = server.pid
    with server:
        assert server.pid > 0
        with pytest.raises(NotAllowed, match="started already"):
            server.start()
        assert server.running()
    server.stop()


def test_a_server_that_cannot_start_says_why(tmp_path: Path) -> None:
    kept = tmp_path / "kept"
    with Embedded(kept) as server, contextlib.closing(RedisStore(server.url)) as store:
        put(store, new_name())
    for file in (kept / "appendonlydir").glob("*.incr.aof"):
        file.write_bytes(b"*1\r\n$7\r\nrubbish\r\n" + file.read_bytes())
    broken = Embedded(kept)
    with pytest.raises(StoreUnavailable, match=r"ended with code 1: .*(Bad|Unknown|unknown).*valkey.log"):
        broken.start()
    assert not broken.running()
    with pytest.raises(StoreUnavailable, match="ended with code"):
        Embedded(kept, binary=Path("/bin/false")).start()


def test_a_server_that_does_not_listen_to_sigterm_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(embedded, "STOP_WITHIN_S", 0.1)
    server = Embedded(tmp_path / "kept")
    server.start()
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)
    server.stop()
    assert not alive(pid)


def test_start_waits_until_a_long_file_is_loaded(tmp_path: Path) -> None:
    with Embedded(tmp_path / "kept") as server:
        client = redis.Redis.from_url(server.url)
        client.eval("for i = 1, 100000 do redis.call('SET', 'k' .. i, i) end", 0)
        client.close()
    with Embedded(tmp_path / "kept") as server:
        client = redis.Redis.from_url(server.url)
        assert client.dbsize() == 100_000
        client.close()

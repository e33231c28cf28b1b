"""A real banditd for tests: started, killed, restarted; its processes found by their parent."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Self

import grpc

from bandit.client import Client

START_S = 240.0


def free_port() -> int:
    """A port below the range that outgoing connections take; processes of a test run, neighbours, begin far apart."""
    first = os.getpid() * 617 % 12_000
    for port in (20_000 + (first + step) % 12_000 for step in range(12_000)):
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            if port not in _given:
                _given.add(port)
                return port
    raise RuntimeError("no free port between 20000 and 32000")


_given: set[int] = set()


def until(met: Callable[[], object], timeout_s: float, what: str) -> None:
    """Poll until the condition is met; fail with ``what`` at the deadline."""
    deadline = time.monotonic() + timeout_s
    while not met():
        if time.monotonic() > deadline:
            raise AssertionError(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.02)


class Service:
    """banditd with its children on free ports. ``environment``: variables beside ours, for all of them."""

    def __init__(self, data_dir: Path, *arguments: str, environment: Mapping[str, str] | None = None) -> None:
        self.environment = {**os.environ, **(environment or {})}
        self.data_dir = data_dir
        self.arguments = arguments
        self.listen = f"127.0.0.1:{free_port()}"
        self.http = f"127.0.0.1:{free_port()}"
        self.log = data_dir.parent / f"{data_dir.name}.log"
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
        except BaseException:
            self.stop()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if error is not None and self.log.exists():
            sys.stderr.write(self.log.read_text(errors="replace")[-6000:])

    def start(self, *, wait: bool = True) -> None:
        """Start, and wait until every part is ready."""
        command = [
            sys.executable, "-m", "server", "--data-dir", str(self.data_dir), "--listen", self.listen,
            "--http-listen", self.http, "--workers", "1", *self.arguments,
        ]  # fmt: skip
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                command, stdout=log, stderr=log, stdin=subprocess.DEVNULL, env=self.environment
            )
        if wait:
            until(self.ready, START_S, f"{self.listen} ready; see {self.log}")

    def ready(self) -> bool:
        """Does /readyz say yes?"""
        if self._process is not None and self._process.poll() is not None:
            text = self.log.read_text(errors="replace")[-3000:]
            raise AssertionError(f"banditd ended with {self._process.returncode}: {text}")
        try:
            with urllib.request.urlopen(f"http://{self.http}/readyz", timeout=2) as reply:
                return bool(reply.status == 200)
        except (urllib.error.URLError, OSError):
            return False

    def client(self, timeout_s: float = 10.0) -> Client:
        """A client of its own connection."""
        return Client(self.listen, timeout_s=timeout_s, actor="tests")

    @contextmanager
    def channel(self) -> Iterator[grpc.Channel]:
        """A bare channel of its own connection."""
        options = [("grpc.use_local_subchannel_pool", 1)]
        with grpc.insecure_channel(self.listen, options) as channel:
            yield channel

    def processes(self) -> dict[int, str]:
        """Pid -> command line of the supervisor and everything below it."""
        assert self._process is not None
        return {pid: command for pid, command in descendants(self._process.pid).items() if command}

    def kill(self, what: str) -> list[int]:
        """kill -9 every process below the supervisor whose command line holds ``what``."""
        assert self._process is not None
        pids = [
            pid for pid, command in self.processes().items() if what in command and pid != self._process.pid
        ]
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
        return pids

    def kill_all(self) -> None:
        """kill -9 the supervisor and all its own processes but the store, which ends by itself."""
        assert self._process is not None
        pids = self.processes()
        for pid, command in pids.items():
            if "valkey" not in command:
                os.kill(pid, signal.SIGKILL)
        self._process.wait(10)
        until(lambda: not any(_alive(pid) for pid in pids), 20, "every process gone after kill -9")

    def stop(self) -> int | None:
        """SIGTERM, wait, and see that nothing is left."""
        if self._process is None:
            return None
        pids = self.processes() if self._process.poll() is None else {}
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        try:
            code = self._process.wait(30)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise
        until(lambda: not any(_alive(pid) for pid in pids), 10, "no process left after a stop")
        return code


def descendants(root: int) -> dict[int, str]:
    """Pid -> command line of a process and all below it, by /proc."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            stat = (folder / "stat").read_text()
        except OSError:
            continue
        parents[int(folder.name)] = int(stat.rpartition(")")[2].split()[1])
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    out = {}
    for pid in found:
        try:
            out[pid] = Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        except OSError:
            continue
    return out


def _alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

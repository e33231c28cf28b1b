"""A banditd of a benchmark's own: on free ports and in an empty folder, pinned, measured, ended with its folder."""

from __future__ import annotations

import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from pathlib import Path
from types import TracebackType
from typing import Self

START_S = 300.0
STOP_S = 30.0


def free_port() -> int:
    """A port below the range that outgoing connections take."""
    for port in range(20_000 + os.getpid() % 5000, 32_000):
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


class Banditd:
    """banditd with its embedded store on free ports; a context manager. ``arguments``: further flags."""

    def __init__(self, *arguments: str) -> None:
        self.target = f"127.0.0.1:{free_port()}"
        self.http = f"127.0.0.1:{free_port()}"
        self.folder = Path(tempfile.mkdtemp(prefix="banditd-bench-"))
        self.log = self.folder / "log"
        self._arguments = arguments

    def __enter__(self) -> Self:
        command = [
            sys.executable, "-m", "server", "--data-dir", str(self.folder / "state"), "--listen", self.target,
            "--http-listen", self.http, "--log-format", "text", *self._arguments,
        ]  # fmt: skip
        with self.log.open("wb") as log:
            self._process = subprocess.Popen(command, stdout=log, stderr=log, stdin=subprocess.DEVNULL)
        try:
            self._await()
        except BaseException:
            self._end()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end()

    def processes(self) -> Mapping[int, str]:
        """Pid -> command line of the supervisor and all below it."""
        return descendants(self._process.pid)

    def one(self, what: str) -> int:
        """Pid of the one process whose command line holds ``what``."""
        found = [pid for pid, command in self.processes().items() if what in command]
        if len(found) != 1:
            raise RuntimeError(
                f"{len(found)} processes of {what!r} among {sorted(self.processes().values())}"
            )
        return found[0]

    def _await(self) -> None:
        deadline = time.monotonic() + START_S
        while time.monotonic() < deadline:
            if self._process.poll() is not None:
                break
            try:
                with urllib.request.urlopen(f"http://{self.http}/readyz", timeout=2) as reply:
                    if reply.status == 200:
                        return
            except (urllib.error.URLError, OSError):
                pass
            time.sleep(0.05)
        raise RuntimeError(f"banditd is not ready: {self.log.read_text(errors='replace')[-2000:]}")

    def _end(self) -> None:
        self._process.send_signal(signal.SIGTERM)
        try:
            self._process.wait(STOP_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)


@contextmanager
def pinned(cores: Sequence[int] | None) -> Iterator[None]:
    """What is started inside runs on these cores (None: on all)."""
    if cores is None or not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores)
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def pin(pid: int, cores: Sequence[int]) -> None:
    """Move a process with all its threads to these cores."""
    for task in Path(f"/proc/{pid}/task").iterdir():
        os.sched_setaffinity(int(task.name), cores)


def cpu_s(pid: int) -> float:
    """CPU time that a process has used, s, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def descendants(root: int) -> dict[int, str]:
    """Pid -> command line of a process and all below it."""
    parents: dict[int, int] = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(folder.name)] = int((folder / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    found = {root}
    while more := {pid for pid, parent in parents.items() if parent in found and pid not in found}:
        found |= more
    commands = {}
    for pid in found:
        try:
            commands[pid] = (
                Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            )
        except OSError:
            continue
    return commands


def machine(*packages: str) -> dict[str, object]:
    """The machine and the versions that the numbers are of."""
    cpu = "unknown"
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        names = [line for line in cpuinfo.read_text().splitlines() if line.startswith("model name")]
        cpu = names[0].partition(": ")[2] if names else cpu
    return {
        "cpu": cpu,
        "cores": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "load_average": round(os.getloadavg()[0], 2),
        "system": f"{platform.system()} {platform.release()}",
        "python": platform.python_version(),
        "versions": {name: version(name) for name in packages},
    }

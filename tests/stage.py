"""A real supervisor whose parts are those of ``tests/part.py``, and what it and they said."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from tests.service import descendants, free_port, until

PART = Path(__file__).resolve().parent / "part.py"
PATIENCE_S = 90.0
# Runs banditd as the command does, but with parts from tests/part.py.
PROGRAM = """
import sys
from server.__main__ import run
part, arguments = sys.argv[1], sys.argv[2:]
raise SystemExit(run(arguments, lambda kind: [sys.executable, part, kind]))
"""
Event = dict[str, Any]


class Stage:
    """banditd on free ports, in a process group of its own, with parts that misbehave."""

    def __init__(self, folder: Path, *arguments: str, ports: bool = True) -> None:
        self.parts = folder / "parts"
        self.parts.mkdir()
        self.data_dir = folder / "state"
        self.listen = f"127.0.0.1:{free_port()}"
        self.arguments = ["--log-format", "json", "--log-level", "debug", *arguments]
        if ports:
            http = f"127.0.0.1:{free_port()}"
            self.arguments += [
                "--data-dir",
                str(self.data_dir),
                "--listen",
                self.listen,
                "--http-listen",
                http,
            ]
        self.err = folder / "stderr"
        self._seen: set[int] = set()
        self.process: subprocess.Popen[bytes]

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self.process.poll() is None:
            self.look()
            self.process.kill()
            self.process.wait(30)
        if error is not None:
            sys.stderr.write(self.err.read_text()[-6000:])

    def behave(self, part: str, how: str) -> None:
        """From its next start on."""
        (self.parts / part).write_text(how)

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("BANDITD_")}
        with self.err.open("ab") as err:
            self.process = subprocess.Popen(
                [sys.executable, "-c", PROGRAM, str(PART), *self.arguments],
                stdin=subprocess.DEVNULL,
                stderr=err,
                env={**environment, "PARTS_DIR": str(self.parts)},
                process_group=0,
            )

    def events(self, event: str, part: str = "") -> list[Event]:
        """What the parts met."""
        file = self.parts / "events"
        lines = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
        return [line for line in lines if line["event"] == event and part in ("", line["part"])]

    def logged(self, event: str) -> list[Event]:
        """What the supervisor said."""
        lines = [line for line in self.err.read_text().splitlines() if line.startswith("{")]
        return [line for line in map(json.loads, lines) if line["event"] == event]

    def sentences(self) -> str:
        """Lines for people."""
        return "".join(
            line for line in self.err.read_text().splitlines(keepends=True) if not line.startswith("{")
        )

    def ready(self, times: int = 1) -> None:
        self.until(lambda: len(self.logged("service_ready")) >= times, "ready")

    def until(self, met: Any, what: str, timeout_s: float = PATIENCE_S) -> None:
        def or_ended() -> bool:
            if met():
                return True
            assert self.process.poll() is None, f"banditd ended with {self.process.returncode}, not {what}"
            return False

        until(or_ended, timeout_s, what)

    def started(self, part: str, times: int = 1) -> Event:
        """The newest start of a part that started so often."""
        self.until(lambda: len(self.events("started", part)) >= times, f"{part} started {times} times")
        return self.events("started", part)[-1]

    def look(self) -> dict[int, str]:
        """Its processes now; they are remembered for :meth:`gone`."""
        found = descendants(self.process.pid)
        self._seen |= found.keys()
        return found

    def store_pid(self) -> int:
        found = [pid for pid, command in self.look().items() if "valkey-server" in command]
        assert len(found) == 1, found
        return found[0]

    def end(self, number: int = signal.SIGTERM) -> int:
        self.look()
        self.process.send_signal(number)
        return self.wait()

    def wait(self) -> int:
        return self.process.wait(PATIENCE_S)

    def gone(self) -> None:
        """Nothing that it started is left."""
        until(lambda: not [pid for pid in self._seen if alive(pid)], 30, f"all of {self._seen} gone")


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False

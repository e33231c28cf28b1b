"""Runs of banditctl for tests: in this process, as a program, and in a terminal of a given width."""

from __future__ import annotations

import contextlib
import fcntl
import io
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple
from unittest import mock

from bandit.ctl.main import run

PROGRAM = (sys.executable, "-c", "from bandit.ctl.main import main; main()")
SPEC = """\
experiment: answers
hypothesis: the new model helps more
arms:
  - {name: old, control: true, digest: "sha256:a"}
  - {name: new, digest: "sha256:b", bounds: {cap: 0.5}}
metrics:
  - {name: helpful, kind: bernoulli, direction: maximize}
  - {name: flagged, kind: bernoulli, direction: minimize}
  - {name: profit, kind: gaussian, direction: maximize, range: [-10, 10]}
objective: [{metric: helpful}]
guardrails:
  - {name: flags, kind: rate_limit, metric: flagged, limit: 0.02}
"""


class Done(NamedTuple):
    """How a run ended and what it said."""

    code: int
    out: str
    err: str

    @property
    def document(self) -> Any:
        """stdout as exactly one JSON document."""
        return json.loads(self.out)


def environment(server: str, **more: str) -> dict[str, str]:
    """This process's environment with the server's address and nothing that changes how text is shown."""
    kept = {
        key: value for key, value in os.environ.items() if key not in ("COLUMNS", "NO_COLOR", "FORCE_COLOR")
    }
    return {**kept, "BANDITCTL_SERVER": server, **more}


CTRL_C = b"\x03"


def press(process: subprocess.Popen[bytes], terminal: int, keys: bytes) -> None:
    """Types keys; Ctrl-C becomes the signal that a terminal makes of it."""
    if keys == CTRL_C:
        process.send_signal(signal.SIGINT)
    else:
        os.write(terminal, keys)


class Command:
    """banditctl against one server, in this process."""

    def __init__(self, server: str) -> None:
        self.server = server

    def __call__(self, *arguments: str, stdin: str | bytes = b"", terminal: bool = False) -> Done:
        """One run; ``terminal``: as if stdin were one."""
        raw = stdin.encode() if isinstance(stdin, str) else stdin
        source = io.TextIOWrapper(io.BytesIO(raw), encoding="utf-8")
        out, err = io.StringIO(), io.StringIO()
        with (
            mock.patch.dict(os.environ, environment(self.server), clear=True),
            mock.patch.object(sys, "stdin", source),
            mock.patch("bandit.ctl.invocation.on_terminal", return_value=terminal),
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            code = run(arguments)
        return Done(code, out.getvalue(), err.getvalue())

    def program(self, *arguments: str, **more: str) -> Done:
        """One run as a program with pipes; ``more``: of its environment."""
        done = subprocess.run(
            [*PROGRAM, *arguments],
            env=environment(self.server, **more),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        return Done(done.returncode, done.stdout, done.stderr)

    @contextlib.contextmanager
    def started(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        """A program that goes on, with pipes; ended at the end."""
        process = subprocess.Popen(
            [*PROGRAM, *arguments],
            env=environment(self.server, PYTHONUNBUFFERED="1"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        with process:
            try:
                yield process
            finally:
                process.kill()

    def typed(
        self,
        *arguments: str,
        columns: int = 80,
        then: Callable[[str], bytes] = lambda seen: b"",
        **more: str,
    ) -> Done:
        """One run in a terminal; ``then`` gets all it showed so far and says which keys to press next."""
        master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 60, columns, 0, 0))
        process = subprocess.Popen(
            [*PROGRAM, *arguments],
            env=environment(self.server, TERM="xterm-256color", **more),
            stdin=slave,
            stdout=slave,
            stderr=slave,
        )
        os.close(slave)
        shown = b""
        ends = time.monotonic() + 60
        try:
            while time.monotonic() < ends:
                if select.select([master], [], [], 0.1)[0]:
                    try:
                        got = os.read(master, 65536)
                    except OSError:
                        break
                    if not got:
                        break
                    shown += got
                if keys := then(shown.decode(errors="replace")):
                    press(process, master, keys)
            code = process.wait(10)
        finally:
            if process.poll() is None:
                process.send_signal(signal.SIGKILL)
                process.wait()
            os.close(master)
        return Done(code, shown.decode().replace("\r\n", "\n"), "")

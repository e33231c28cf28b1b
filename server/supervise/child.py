"""One child process as its supervisor sees it; it is started, looked at, told to end, and never waited for."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import Protocol

from server.supervise.lifeline import READY, Orders, last_pulse


class Process(Protocol):
    """Something that runs and may end."""

    @property
    def pid(self) -> int:
        """Its process id."""

    @property
    def ready_fd(self) -> int | None:
        """Becomes readable when ``is_ready`` may have changed; None when it will not change any more."""

    def is_ready(self) -> bool:
        """Has it said so?"""

    def pulse_s(self) -> float | None:
        """When its work turned last, monotonic s; None when it never said so."""

    def ended(self) -> int | None:
        """None while it runs; then its exit code, or minus the signal that ended it."""

    def terminate(self) -> None:
        """Ask it to end."""

    def kill(self) -> None:
        """End it."""

    def close(self) -> None:
        """It has ended: let go of what belongs to it."""


class Child:
    """A process of our own program; see ``lifeline`` for the other side.

    ``command`` gets `--line-fd N --ready-fd M --pulse-fd P`. It has a process group of its own, so that a Ctrl-C at the
    terminal reaches the supervisor only, which knows the order in which to end; ``attached`` leaves it the terminal's.
    """

    def __init__(
        self,
        command: Sequence[str],
        orders: Orders,
        environment: Mapping[str, str] | None = None,
        *,
        attached: bool = False,
    ) -> None:
        line_end, self._line = os.pipe()
        self._ready, ready_end = os.pipe()
        self._pulse = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the child
        self._is_ready = False
        self._ready_open = True
        self._attached = attached
        try:
            os.write(self._line, orders.to_line())  # a few hundred bytes: a pipe takes 4096 at once
            self._process = subprocess.Popen(  # noqa: S603 - our own program
                [
                    *command,
                    *("--line-fd", str(line_end)),
                    *("--ready-fd", str(ready_end)),
                    *("--pulse-fd", str(self._pulse.fileno())),
                ],
                pass_fds=(line_end, ready_end, self._pulse.fileno()),
                stdin=None if attached else subprocess.DEVNULL,
                process_group=None if attached else 0,
                env=None if environment is None else dict(environment),
            )
        except BaseException:
            os.close(self._line)
            os.close(self._ready)
            self._pulse.close()
            raise
        finally:
            os.close(line_end)
            os.close(ready_end)
        os.set_blocking(self._ready, False)

    @property
    def pid(self) -> int:
        """See Process."""
        return self._process.pid

    @property
    def ready_fd(self) -> int | None:
        """See Process."""
        return self._ready if self._ready_open else None

    def is_ready(self) -> bool:
        """See Process."""
        if self._ready_open:
            try:
                said = os.read(self._ready, len(READY))
            except BlockingIOError:
                return self._is_ready
            self._is_ready = said == READY
            self._ready_open = False
            os.close(self._ready)
        return self._is_ready

    def pulse_s(self) -> float | None:
        """See Process."""
        return last_pulse(self._pulse.fileno())

    def ended(self) -> int | None:
        """See Process."""
        return self._process.poll()

    def terminate(self) -> None:
        """See Process."""
        self._process.terminate()

    def kill(self) -> None:
        """See Process; with whatever it has started in its group."""
        if self._process.poll() is not None:
            return
        if self._attached:
            self._process.kill()
        else:
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """See Process."""
        os.close(self._line)
        self._pulse.close()
        if self._ready_open:
            self._ready_open = False
            os.close(self._ready)


def own_command(kind: str) -> list[str]:
    """The command of a child of this kind."""
    # -P: a folder called `server` in the directory where banditd was started must not be taken for ours.
    return [sys.executable, "-P", "-m", "server", "--child", kind]

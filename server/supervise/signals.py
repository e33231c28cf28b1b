"""The signals that a supervisor lives by: the first asks it to end, a Ctrl-C after that means now."""

from __future__ import annotations

import os
import select
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType, TracebackType
from typing import Any

ASKING = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)
# One Ctrl-C may come twice: from the terminal, and passed on by the program that started us.
SAME_S = 0.3


class Interrupted(BaseException):
    """A long call was cut short, because the supervisor is asked to end."""


class Forced(BaseException):
    """Somebody asked again: end everything now."""


class Signals:
    """A context manager for the main thread. ``asked``: the signal that asked to end, or None."""

    def __init__(self) -> None:
        self.asked: signal.Signals | None = None
        self._asked_s = 0.0
        self._cutting = False
        self._before: dict[int, Any] = {}
        self._awake, self._wake = os.pipe()
        os.set_blocking(self._awake, False)
        os.set_blocking(self._wake, False)

    def __enter__(self) -> Signals:
        self._before_wake = signal.set_wakeup_fd(self._wake, warn_on_full_buffer=False)
        for number in ASKING:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and shells' background jobs
                self._before[number] = signal.signal(number, self._ask)
        self._before[signal.SIGCHLD] = signal.signal(signal.SIGCHLD, _note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        signal.set_wakeup_fd(self._before_wake)
        os.close(self._awake)
        os.close(self._wake)

    def wake(self) -> None:
        """End a ``wait`` that goes on; from any thread."""
        with suppress(BlockingIOError):
            os.write(self._wake, b"\0")

    def wait(self, fds: Sequence[int], timeout_s: float) -> None:
        """Until a signal comes, somebody wakes, one of the descriptors is readable, or the time has passed."""
        poll = select.poll()
        for fd in (self._awake, *fds):
            poll.register(fd, select.POLLIN)
        poll.poll(
            max(0.0, timeout_s) * 1000 + 1
        )  # one more ms: rounding down would make the last of it a busy loop
        with suppress(BlockingIOError):
            while os.read(self._awake, 4096):
                continue

    @contextmanager
    def cut_short(self) -> Iterator[None]:
        """While inside, asking raises Interrupted at once, also when it was asked before."""
        if self.asked is not None:
            raise Interrupted
        self._cutting = True
        try:
            yield
        finally:
            self._cutting = False

    def _ask(self, number: int, frame: FrameType | None) -> None:
        del frame
        if self.asked is not None:
            if number == signal.SIGINT and time.monotonic() - self._asked_s > SAME_S:
                for each in ASKING:
                    signal.signal(each, signal.SIG_IGN)
                raise Forced
            return
        self.asked = signal.Signals(number)
        self._asked_s = time.monotonic()
        if self._cutting:
            self._cutting = False
            raise Interrupted


def _note(number: int, frame: FrameType | None) -> None:
    """A child ended: the wake-up descriptor says so, and there is nothing else to do."""
    del number, frame

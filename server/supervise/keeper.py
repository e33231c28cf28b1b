"""Keeps a set of parts running: starts them, restarts what dies, ends all in order. It waits for nothing itself.

Whoever drives it calls ``step`` when something happened or the time it gave has passed. Restarts wait for a random
time up to a limit that doubles (full jitter; M. Brooker, AWS Architecture Blog, 2015), so that parts which fail for
one common reason do not come back all at once.
"""

from __future__ import annotations

import random
import signal
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto

import structlog

from bandit.errors import BanditError
from server.clock import Clock
from server.supervise.child import Process
from server.supervise.lifeline import HOPELESS

log = structlog.get_logger(__name__)

BACKOFF_S = 0.1
BACKOFF_CAP_S = 5.0
STEADY_S = 10.0  # a part that was ready for so long has its failures forgiven
WAITING_S = 10.0
AGAIN_S = 0.2
IDLE_S = 60.0
KILLED_S = 5.0
_uniform = random.SystemRandom().random


@dataclass(frozen=True, slots=True)
class Part:
    """One thing to keep running.

    ``launch`` starts it, or gives None when it cannot yet (asked again soon), or raises BanditError. ``stage``: parts
    of a lower one are ended first; within ``stop_s`` seconds, then they are killed. ``last`` is not restarted, and
    its end is the end of all. ``hang_s``: a part that is ready and whose work has not turned for so long is killed,
    so that it comes back (0: never).
    """

    name: str
    launch: Callable[[], Process | None]
    stage: int
    stop_s: float
    last: bool = False
    hang_s: float = 0.0


class _Phase(Enum):
    DUE = auto()
    STARTING = auto()
    READY = auto()
    ENDING = auto()
    ENDED = auto()


class _Kept:
    """A part and how it stands."""

    def __init__(self, part: Part, now_s: float) -> None:
        self.part = part
        self.phase = _Phase.DUE
        self.process: Process | None = None
        self.failures = 0
        self.was_ready = False
        self.due_s = now_s
        self.since_s = now_s
        self.told_s = now_s
        self.deadline_s = now_s


class Keeper:
    """Not safe for several threads. ``on_end(name, unasked)`` is called for each process that ended."""

    def __init__(
        self,
        parts: Sequence[Part],
        clock: Clock,
        *,
        uniform: Callable[[], float] = _uniform,
        on_ready: Callable[[], None] = lambda: None,
        on_end: Callable[[str, bool], None] = lambda _name, _unasked: None,
    ) -> None:
        now_s = clock.monotonic_s()
        self._clock = clock
        self._uniform = uniform
        self._on_ready = on_ready
        self._on_end = on_end
        self._kept = [_Kept(part, now_s) for part in parts]
        self._all_ready = False
        self._stopping = False
        self._last_code: int | None = None
        self.fault = ""

    @property
    def stopped(self) -> bool:
        """Has everything ended after :meth:`stop`?"""
        return self._stopping and all(kept.phase is _Phase.ENDED for kept in self._kept)

    @property
    def stopping(self) -> bool:
        """Is it ending, or has it ended?"""
        return self._stopping

    @property
    def last_code(self) -> int | None:
        """Exit code of the part that is the last, when it has ended; 128 + N when signal N ended it."""
        return self._last_code

    def ready_fds(self) -> list[int]:
        """File descriptors that become readable when a part is ready."""
        processes = [kept.process for kept in self._kept if kept.phase is _Phase.STARTING]
        return [fd for process in processes if process is not None and (fd := process.ready_fd) is not None]

    def stop(self) -> None:
        """Begin to end everything, stage by stage; go on with ``step`` until ``stopped``."""
        self._stopping = True

    def kill(self) -> None:
        """End everything now."""
        self._stopping = True
        for kept in self._kept:
            if kept.process is not None:
                kept.process.kill()

    def step(self) -> float:
        """Do what is to be done now. Returns the seconds after which to call again at the latest."""
        for kept in self._kept:
            self._look(kept)
        if self._stopping:
            self._end_next_stage()
        else:
            self._start_due()
            self._announce()
        now_s = self._clock.monotonic_s()
        due = [kept.due_s for kept in self._kept if kept.phase is _Phase.DUE]
        due += [kept.deadline_s for kept in self._kept if kept.phase is _Phase.ENDING]
        due += [kept.told_s + WAITING_S for kept in self._kept if kept.phase is _Phase.STARTING]
        due += [now_s + kept.part.hang_s / 4 for kept in self._kept if self._watched(kept)]
        return min([IDLE_S, *(max(0.0, each - now_s) for each in due)])

    def _look(self, kept: _Kept) -> None:
        """See whether it ended or got ready."""
        process = kept.process
        if process is None:
            return
        now_s = self._clock.monotonic_s()
        ready = kept.phase is _Phase.STARTING and process.is_ready()
        if (code := process.ended()) is not None:
            self._ended(kept, process, code)
        elif ready:
            kept.phase = _Phase.READY
            kept.was_ready = True
            log.info(
                "part_ready", name=kept.part.name, pid=process.pid, after_s=round(now_s - kept.since_s, 3)
            )
            kept.since_s = now_s
        elif kept.phase is _Phase.STARTING and now_s - kept.told_s >= WAITING_S:
            kept.told_s = now_s
            log.warning(
                "part_waiting", name=kept.part.name, pid=process.pid, for_s=round(now_s - kept.since_s)
            )

        elif kept.phase is _Phase.READY:
            self._look_whether_it_hangs(kept, process, now_s)

    def _watched(self, kept: _Kept) -> bool:
        return kept.phase is _Phase.READY and kept.part.hang_s > 0

    def _look_whether_it_hangs(self, kept: _Kept, process: Process, now_s: float) -> None:
        turned_s = process.pulse_s()
        if turned_s is None or not self._watched(kept):
            return
        still_s = now_s - max(turned_s, kept.since_s)
        if still_s > kept.part.hang_s:
            log.error("part_hung", name=kept.part.name, pid=process.pid, still_s=round(still_s, 1))
            kept.since_s = now_s  # once; its end is seen at the next look
            process.kill()

    def _ended(self, kept: _Kept, process: Process, code: int) -> None:
        process.close()
        kept.process = None
        name, steady = kept.part.name, kept.phase is _Phase.READY
        unasked = kept.phase is not _Phase.ENDING
        self._on_end(name, unasked)
        kept_s = self._clock.monotonic_s() - kept.since_s
        if kept.part.last:
            self._last_code = code if code >= 0 else 128 - code
        if not unasked or self._stopping:
            kept.phase = _Phase.ENDED
            log.info("part_stopped", name=name, pid=process.pid, how=_how(code))
        elif kept.part.last:
            kept.phase = _Phase.ENDED
            self.stop()
        elif code == HOPELESS and not kept.was_ready:
            self._fail(kept, f"{name} cannot start; see what it said above")
        else:
            if steady and kept_s >= STEADY_S:
                kept.failures = 0
            pause_s = self._back_off(kept)
            log.error("part_died", name=name, pid=process.pid, how=_how(code), again_in_s=round(pause_s, 3))

    def _back_off(self, kept: _Kept) -> float:
        limit_s = min(BACKOFF_CAP_S, BACKOFF_S * float(2 ** min(kept.failures, 10)))
        pause_s = self._uniform() * limit_s
        kept.failures += 1
        kept.phase = _Phase.DUE
        kept.due_s = self._clock.monotonic_s() + pause_s
        return pause_s

    def _fail(self, kept: _Kept, sentence: str) -> None:
        kept.phase = _Phase.ENDED
        self.fault = self.fault or sentence
        self.stop()

    def _start_due(self) -> None:
        for kept in self._kept:
            if self._stopping:
                return
            if kept.phase is _Phase.DUE and kept.due_s <= self._clock.monotonic_s():
                self._start(kept)

    def _start(self, kept: _Kept) -> None:
        began_s = self._clock.monotonic_s()
        try:
            process = kept.part.launch()
        except (BanditError, OSError) as error:
            if not kept.was_ready and not kept.failures:
                self._fail(kept, f"{kept.part.name}: {error}")
                return
            pause_s = self._back_off(kept)
            log.warning(
                "part_not_started", name=kept.part.name, reason=str(error), again_in_s=round(pause_s, 3)
            )
            return
        if process is None:
            kept.due_s = self._clock.monotonic_s() + AGAIN_S
            return
        kept.process = process
        kept.phase = _Phase.STARTING
        kept.since_s = kept.told_s = began_s
        log.debug("part_started", name=kept.part.name, pid=process.pid)
        self._look(kept)

    def _announce(self) -> None:
        if not self._all_ready and all(kept.was_ready for kept in self._kept if not kept.part.last):
            self._all_ready = True
            self._on_ready()

    def _end_next_stage(self) -> None:
        """Ask all parts of the lowest stage that still runs; kill those that were asked long enough ago."""
        now_s = self._clock.monotonic_s()
        for kept in self._kept:
            if kept.process is None:
                kept.phase = _Phase.ENDED
        running = [kept for kept in self._kept if kept.process is not None]
        stage = min((kept.part.stage for kept in running), default=0)
        for kept in running:
            process = kept.process
            if kept.part.stage != stage or process is None:
                continue
            if kept.phase is not _Phase.ENDING:
                kept.phase = _Phase.ENDING
                kept.deadline_s = now_s + kept.part.stop_s
                process.terminate()
            elif now_s >= kept.deadline_s:
                log.warning("part_killed", name=kept.part.name, pid=process.pid, after_s=kept.part.stop_s)
                kept.deadline_s = now_s + KILLED_S
                process.kill()


def _how(code: int) -> str:
    """An exit code in words."""
    if code >= 0:
        return f"exit code {code}"
    try:
        return signal.Signals(-code).name
    except ValueError:
        return f"signal {-code}"

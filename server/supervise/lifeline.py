"""What ties a child process to its supervisor: orders at its start, one word back when it is ready, a common end.

The child ends at once, by SIGKILL, when the supervisor is gone: what it must not lose is safe against that anyway,
and a new supervisor wants its ports and locks. One pipe carries the orders and then stays open for as long as the
supervisor lives, on every system; on Linux the kernel also ends children that cannot notice by themselves.
"""

from __future__ import annotations

import json
import os
import signal
import struct
import sys
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

READY = b"ready\n"
# A child's exit code for: trying again would end the same way (EX_CONFIG of sysexits.h).
HOPELESS = 78
_PR_SET_PDEATHSIG = 1
_PULSE = struct.Struct("<d")
_PULSE_EVERY_S = 0.5


@dataclass(frozen=True, slots=True)
class Orders:
    """What a child is told. ``config``: JSON of all settings, secrets too; ``issuer`` 0 for none."""

    part: str
    supervisor: int
    config: str = "{}"
    issuer: int = 0

    def to_line(self) -> bytes:
        """One line."""
        return json.dumps(asdict(self)).encode() + b"\n"


def tie(line: int) -> Orders:
    """Read the orders from the file descriptor, and die with the supervisor from now on. Once, at the very start."""
    received = bytearray()
    while not received.endswith(b"\n"):
        part = os.read(line, 1)  # byte by byte: what follows the line is the supervisor's end
        if not part:
            os._exit(1)
        received += part
    values: Mapping[str, object] = json.loads(received)
    orders = Orders(**values)  # type: ignore[arg-type]
    tie_to(orders.supervisor)
    threading.Thread(target=_wait_for_end, args=(line,), name="lifeline", daemon=True).start()
    return orders


def tie_to(supervisor: int) -> None:
    """Die when the process ``supervisor``, our parent, does; on Linux only, elsewhere the pipe must do."""
    if sys.platform != "linux":
        return
    import ctypes

    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != supervisor:  # it died before we asked
        os._exit(1)


def reporter(ready: int) -> Callable[[], None]:
    """A function that says once, through the file descriptor, that the part is ready."""
    lock = threading.Lock()
    left = [ready]

    def report() -> None:
        with lock:
            if not left:
                return
            number = left.pop()
        try:
            os.write(number, READY)
        except BrokenPipeError:
            pass  # the lifeline tells
        finally:
            os.close(number)

    return report


def pulse(number: int) -> Callable[[], None]:
    """A function that a part calls at each turn of its work; it writes the time into the file descriptor.

    The time is of the monotonic clock, which all processes of a machine share.
    """
    last_s = 0.0

    def beat() -> None:
        nonlocal last_s
        now_s = time.monotonic()
        if now_s - last_s >= _PULSE_EVERY_S:
            last_s = now_s
            os.pwrite(number, _PULSE.pack(now_s), 0)

    return beat


def last_pulse(number: int) -> float | None:
    """When the part on the other side wrote last, monotonic s; None before it ever did."""
    written = os.pread(number, _PULSE.size, 0)
    return float(_PULSE.unpack(written)[0]) if len(written) == _PULSE.size else None


def _wait_for_end(line: int) -> None:
    while os.read(line, 64):
        continue
    os.kill(os.getpid(), signal.SIGKILL)

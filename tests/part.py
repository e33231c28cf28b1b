"""A part that behaves as a file tells it; a program, started by a supervisor in the place of a real one.

`$PARTS_DIR/NAME` holds the behaviour, read at each start:

good        as without a file
crash       ends at once with 1
hopeless    ends at once with 78
silent      is never ready
slow        takes half a second to end, and tells whether the store was there until then
deaf        SIGTERM does not end it
frozen      is ready, then stopped
stuck       is ready, then none of its threads and handlers runs
exit N      is ready, then ends with N

What it met it appends to `$PARTS_DIR/events`, one JSON line each.
"""

from __future__ import annotations

import itertools
import json
import os
import signal
import socket
import sys
import time
from pathlib import Path
from types import FrameType

from server.supervise.lifeline import HOPELESS, Orders, pulse, reporter, tie

FOLDER = Path(os.environ["PARTS_DIR"])


def note(orders: Orders, event: str, **values: object) -> None:
    line = json.dumps({"part": orders.part, "event": event, "pid": os.getpid(), **values}) + "\n"
    number = os.open(FOLDER / "events", os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    os.write(number, line.encode())
    os.close(number)


def answers(url: str) -> bool:
    """Does somebody listen at a unix:// URL?"""
    with socket.socket(socket.AF_UNIX) as client:
        try:
            client.connect(url.removeprefix("unix://"))
            client.sendall(b"PING\r\n")
            return client.recv(64).startswith(b"+PONG")
        except OSError:
            return False


def main() -> None:
    arguments = sys.argv[2:]
    line, ready = (int(arguments[arguments.index(flag) + 1]) for flag in ("--line-fd", "--ready-fd"))
    orders = tie(line)
    behaviour = FOLDER / orders.part
    word, _, rest = (behaviour.read_text() if behaviour.exists() else "good").partition(" ")

    def end(number: int, frame: FrameType | None) -> None:
        note(orders, "asked", signal=number)
        if word == "slow":
            time.sleep(0.5)
            note(orders, "drained", store=answers(json.loads(orders.config)["store"]))
        if word != "deaf":
            os._exit(0)

    signal.signal(signal.SIGTERM, end)
    if word == "crash":
        os._exit(1)
    if word == "hopeless":
        os._exit(HOPELESS)
    note(
        orders,
        "started",
        issuer=orders.issuer,
        config=json.loads(orders.config),
        arguments=arguments,
        variables=sorted(name for name in os.environ if name.startswith("BANDITD_")),
        target=os.environ.get("BANDITD_DEMO_TARGET"),
    )
    if word != "silent":
        reporter(ready)()
    if word == "exit":
        os._exit(int(rest))
    if word == "hangs":
        beat = pulse(int(arguments[arguments.index("--pulse-fd") + 1]))
        beat()
        behaviour.unlink()  # the next one is well
    if word == "frozen":
        os.kill(os.getpid(), signal.SIGSTOP)
    if word == "stuck":
        sum(itertools.repeat(0))
    while True:
        time.sleep(600)


if __name__ == "__main__":
    main()

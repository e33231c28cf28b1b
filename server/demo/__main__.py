"""``python -m server.demo``: what `banditd --demo` starts beside its servers. It starts and stops no server."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import threading
from types import FrameType, TracebackType
from typing import Self

from rich.console import Console
from rich.live import Live

from bandit.errors import BanditError
from server.demo.happenings import Event
from server.demo.play import DEFAULT_TARGET, LEAST_SECONDS, SECONDS, End, Ended, Play
from server.demo.screen import Moment, event_line, picture, second_line

TARGET_VARIABLE = "BANDITD_DEMO_TARGET"
BUDGET_S = 55.0
BROKEN_PIPE = 141


class Terminal:
    """The live picture; it stays on the screen when the demo ends."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._live = Live(console=console, auto_refresh=False, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._live.stop()

    def show(self, moment: Moment) -> None:
        """Draw it anew."""
        self._live.update(picture(moment, self._console.width, self._console.height), refresh=True)

    def tell(self, event: Event) -> None:
        """Part of the picture."""


class Lines:
    """For a pipe: a line each second and one for each event."""

    def __init__(self) -> None:
        self._second = ""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        pass

    def show(self, moment: Moment) -> None:
        """Say it when another second has begun."""
        second = moment.note or f"{int(moment.at_s)}"
        if second != self._second:
            self._second = second
            say(second_line(moment))

    def tell(self, event: Event) -> None:
        """Say it."""
        say(event_line(event))


def say(line: str) -> None:
    """A line to stdout, at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def main(arguments: list[str] | None = None) -> int:
    """Play the demo. Returns the exit status: 0, or with ``--exit`` 1 when the facts are not as they must be."""
    parser = argparse.ArgumentParser(
        prog="banditd --demo", description="A simulated world for a running banditd."
    )
    parser.add_argument(
        "--exit", action="store_true", help="end by itself, with status 1 if anything is not as it must be"
    )
    parser.add_argument(
        "--seconds", type=_seconds, help=f"with --exit: how long the world lives ({SECONDS:.0f})"
    )
    options = parser.parse_args(arguments)
    target = os.environ.get(TARGET_VARIABLE, DEFAULT_TARGET)
    stop = threading.Event()

    def end(number: int, frame: FrameType | None) -> None:
        del number, frame
        stop.set()

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, end)
    console = Console(highlight=False, markup=False, emoji=False)
    try:
        with Terminal(console) if console.is_terminal and not console.is_dumb_terminal else Lines() as screen:
            play = Play(
                target,
                screen,
                stop,
                seconds=(options.seconds or SECONDS) if options.exit else None,
                budget_s=BUDGET_S if options.exit and options.seconds is None else None,
            )
            found = play.run()
        if not options.exit:
            _suggest(play)
        code = _status(found, demanded=options.exit)
        say(found.line())
    except (Ended, BanditError) as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    except BrokenPipeError:
        # Whoever read our lines has enough; what is still in the buffer must not fail at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    return code


def _seconds(text: str) -> float:
    seconds = float(text)
    if not LEAST_SECONDS <= seconds <= 86_400:
        raise argparse.ArgumentTypeError(f"{text} is not between {LEAST_SECONDS:g} and 86400 seconds")
    return seconds


def _status(found: End, *, demanded: bool) -> int:
    """0, or 1 with a sentence when the facts were demanded and are not so."""
    objection = found.objection()
    if not demanded or not objection:
        return 0
    sys.stderr.write(f"demo: {objection}\n")
    return 1


def _suggest(play: Play) -> None:
    say("\nWhile the demo runs, try in another terminal:")
    for command in ("status", "watch", "audit"):
        say(f"    uv run {play.command} {command} {play.experiment}")
    say("")


if __name__ == "__main__":
    sys.exit(main())

"""The command watch: the status as it changes, until Ctrl-C; it comes back by itself when the connection breaks."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, NamedTuple

import click

from bandit.ctl.invocation import Invocation, command, say
from bandit.ctl.names import ExperimentName
from bandit.errors import Overloaded, StoreUnavailable

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bandit.client import Client
    from bandit.v1.experiment_pb2 import ExperimentStatus

_FIRST_PAUSE_S = 0.5
_LONGEST_PAUSE_S = 10.0


class Sight(NamedTuple):
    """What watching gives: a status, or why there is none now (a sentence)."""

    status: ExperimentStatus | None
    trouble: str = ""


@command("watch")
@click.argument("name", type=ExperimentName())
@click.pass_obj
def watch(invocation: Invocation, name: str) -> None:
    """Follow the status of an experiment until Ctrl-C.

    On a terminal a live table; in a pipe a line for each change, with --json a JSON document on each line.
    """
    invocation.lines = True
    with invocation.connect() as client:
        sights = look(client, name, time.sleep)
        if sys.stdout.isatty() and not invocation.documents:
            _live(name, sights)
        elif invocation.documents:
            _documents(invocation, sights)
        else:
            _lines(sights)


def look(client: Client, name: str, pause: Callable[[float], None]) -> Iterator[Sight]:
    """Statuses, for ever; troubles that may pass come between them.

    Raises the errors that trying again does not mend, NotFound first of all. Before the first status every error
    is raised: a wrong address should not be waited for.
    """
    from bandit.client import ServerUnavailable

    seen = False
    wait_s = _FIRST_PAUSE_S
    while True:
        trouble = f"{client.target} ended the stream"
        try:
            began = time.monotonic()
            for status in client.watch(name):
                wait_s = _FIRST_PAUSE_S
                seen = True
                yield Sight(status)
            if time.monotonic() - began > 1:
                continue
        except (ServerUnavailable, StoreUnavailable, Overloaded) as error:
            if not seen:
                raise
            trouble = str(error)
        yield Sight(None, f"{trouble}; trying again in {wait_s:g} s")
        pause(wait_s)
        wait_s = min(2 * wait_s, _LONGEST_PAUSE_S)


def changes(sights: Iterator[Sight]) -> Iterator[Sight]:
    """Without the statuses that say only that nothing changed since they were judged last."""
    last: ExperimentStatus | None = None
    for sight in sights:
        if sight.status is None:
            yield sight
            continue
        essence = type(sight.status)()
        essence.CopyFrom(sight.status)
        essence.ClearField("evaluation_time")
        essence.ClearField("log_entries_behind")
        for each in essence.partitions:
            each.ClearField("log_entries_behind")
        if essence != last:
            last = essence
            yield sight


def _lines(sights: Iterator[Sight]) -> None:
    from bandit.ctl.render import status_line

    for status, trouble in changes(sights):
        if status is None:
            say(trouble)
        else:
            click.echo(status_line(status))


def _documents(invocation: Invocation, sights: Iterator[Sight]) -> None:
    from bandit.ctl.document import document

    for status, trouble in changes(sights):
        if status is None:
            say(trouble)
        else:
            invocation.answer(document(status))


def _live(name: str, sights: Iterator[Sight]) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    from bandit.ctl.render import screen, status_view
    from bandit.ctl.text import plain

    console = screen()
    shown, seen = Sight(None, f"waiting for {name}"), Sight(None)

    def view() -> RenderableType:
        # Drawn anew each second, so that the age of the evaluation is true while nothing changes.
        parts: list[RenderableType] = []
        if seen.status is not None:
            parts.append(status_view(seen.status, time.time(), console.width))
        if shown.trouble:
            parts.append(Text(plain(shown.trouble), "bold yellow"))
        return Group(*parts, Text("Ctrl-C ends watching.", "dim"))

    with Live(get_renderable=view, console=console, refresh_per_second=1, vertical_overflow="crop") as live:
        for shown in sights:
            if shown.status is not None:
                seen = shown
            live.refresh()

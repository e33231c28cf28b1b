"""The command evaluate: what a spec would have been worth, by a log of decisions that another one made."""

from __future__ import annotations

import gzip
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Literal, cast

import click

from bandit.ctl.apply import read_spec
from bandit.ctl.invocation import Invocation, command
from bandit.errors import InvalidArgument, NotFound

if TYPE_CHECKING:
    from bandit.evaluate.logged import Logged
    from bandit.evaluate.outcome import Evaluation
    from bandit.spec.model import ExperimentSpec

LOOKS = 200
"""Looks at most, unless --every says otherwise."""
MOST_LINE = 1 << 20
GZIP = b"\x1f\x8b"
Form = Literal["auto", "jsonl", "open-bandit"]
file_type = click.Path(exists=True, dir_okay=False)


@command("evaluate")
@click.option("-f", "--file", "path", required=True, type=file_type, help="The spec that is evaluated.")
@click.option("--log", "log_path", required=True, type=file_type, help="The log, also gzipped.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["auto", "jsonl", "open-bandit"]),
    default="auto",
    show_default=True,
    help="Of the log; auto: open-bandit for .csv, else jsonl.",
)
@click.option(
    "--mode",
    type=click.Choice(["weights", "replay"]),
    default="weights",
    show_default=True,
    help="weights: any log; replay: the spec learns from its own decisions, of a log of constant random shares.",
)
@click.option(
    "--every",
    metavar="DURATION",
    help="Between two looks.  [default: the spec's longest period, or the log's 200th part]",
)
@click.option(
    "--complete", is_flag=True, help="No reward will come any more: windows count as closed at the end."
)
@click.option(
    "--seed", type=click.IntRange(0), default=1, show_default=True, help="Of the draws of a replay."
)
@click.option("--plot", type=click.Path(dir_okay=False, writable=True), help="Write a picture, .png or .svg.")
@click.pass_obj
def evaluate(
    invocation: Invocation,
    path: str,
    log_path: str,
    form: Form,
    mode: Literal["weights", "replay"],
    every: str | None,
    complete: bool,
    seed: int,
    plot: str | None,
) -> int:
    """Value a spec by logged decisions, without a server.

    Off-policy values with intervals, and what they are more than the log itself was worth.

    \b
    The log has a decision per line, as `banditctl decide --json` prints it, with its time and its rewards:
    {"time": "2026-01-31T12:00:00Z", "arm": "small", "propensity": 0.25,
     "rewards": [{"metric": "satisfied", "value": 1, "delay_s": 12.5}]}
    Also: decision_id, unit, attributes, and propensities of all arms; a reward may have a line of its own, with the
    decision_id or token of its decision. Or CSV in the form of the Open Bandit Dataset.
    """
    spec = read_spec(path)
    every_s = None if every is None else _duration(every)
    if plot:
        from bandit.ctl.pictures import check_plot

        check_plot(plot)
    with _progress(invocation) as told:
        log = read_log(log_path, spec, form, lambda lines: told("lines read", lines, None))
        every_s = every_s or default_every_s(log)
        from bandit.evaluate.rejection import by_replay
        from bandit.evaluate.weights import by_weights

        def advance(done: int, of: int) -> None:
            told("looks", done, of)

        if mode == "replay":
            found = by_replay(log, every_s, seed=seed, complete=complete, advance=advance)
        else:
            found = by_weights(log, every_s, complete=complete, advance=advance)
    if plot:
        from bandit.ctl.evaluation_picture import draw_evaluation

        draw_evaluation(plot, found)
    _answer(invocation, found, plot)
    return 0


def default_every_s(log: Logged) -> float:
    """The spec's longest period, or the 200th part of the log's time where that is longer."""
    from bandit.look import longest_period_s

    span_ms = int(log.time_ms[-1] - log.time_ms[0]) + 1
    return max(longest_period_s(log.spec), -(-span_ms // LOOKS) / 1000.0)


def read_log(
    path: str, spec: ExperimentSpec, form: Form = "auto", told: Callable[[int], None] = lambda lines: None
) -> Logged:
    """The log in a file. Raises InvalidArgument with ``file:line:column`` in each line, and NotFound when it cannot be
    read; ``told`` hears from time to time how many lines are read."""
    from bandit.evaluate.lines import read_lines
    from bandit.evaluate.open_bandit import read_open_bandit

    csv = form == "open-bandit" or (form == "auto" and path.removesuffix(".gz").endswith(".csv"))
    try:
        with Path(path).open("rb") as raw:
            packed = raw.read(2) == GZIP
            raw.seek(0)
            file = cast("IO[bytes]", gzip.GzipFile(fileobj=raw)) if packed else raw
            return (read_open_bandit if csv else read_lines)(_lines(file, path, told), spec, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise InvalidArgument(f"{path}:1:1: cannot be unpacked ({error}); pack it again with gzip") from None
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from None


def _lines(file: IO[bytes], path: str, told: Callable[[int], None]) -> Iterator[str]:
    number = 0
    while line := file.readline(MOST_LINE + 1):
        number += 1
        if len(line) > MOST_LINE:
            raise InvalidArgument(
                f"{path}:{number}:1: longer than {MOST_LINE:,} bytes; write one decision per line"
            )
        try:
            yield line.decode()
        except UnicodeDecodeError as error:
            raise InvalidArgument(
                f"{path}:{number}:{error.start + 1}: byte 0x{line[error.start]:02x} is not UTF-8; save it as UTF-8"
            ) from None
        if number % 1000 == 0:
            told(number)


def _duration(text: str) -> float:
    from bandit.spec.quantity import parse_duration

    try:
        span = parse_duration(text)
    except ValueError as error:
        raise InvalidArgument.at("--every", str(error)) from None
    if not 0.001 <= span <= 366 * 86400:
        raise InvalidArgument.at("--every", f"{text} is not within 1ms to 366d; write one that is")
    return span


@contextmanager
def _progress(invocation: Invocation) -> Iterator[Callable[[str, int, int | None], None]]:
    """A bar on a terminal's stderr; nothing elsewhere."""
    if not sys.stderr.isatty() or invocation.documents:
        yield lambda what, done, of: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    bar = Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.completed:,}"),
        TimeRemainingColumn(),
        console=Console(stderr=True),
        transient=True,
    )
    with bar:
        task = bar.add_task("reading", total=None)
        yield lambda what, done, of: bar.update(task, description=what, completed=done, total=of)


def _answer(invocation: Invocation, found: Evaluation, plot: str | None) -> None:
    from bandit.ctl.evaluation_text import document, evaluation_view

    if invocation.documents:
        invocation.answer(document(found))
        return
    from bandit.ctl.render import screen, show

    console = screen()
    show(console, evaluation_view(found, console.width))
    if plot:
        click.echo(f"the picture is in {plot}")

"""Commands for sources of rewards: how they do, what could not be counted, and sending that, or a file, in again."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import click

from bandit.ctl.exits import Exit
from bandit.ctl.invocation import Invocation, command, confirm, not_confirmed, say
from bandit.ctl.removing import release, remove

if TYPE_CHECKING:
    from rich.console import RenderableType

    from bandit.v1.ingest_service_pb2 import DeadLetter, ListSourcesResponse, Source
    from bandit.v1.reward_service_pb2 import RewardEvent

_PORTION = 1000
_SHOWN_BYTES = 160
_MOST_SAID = 20
_COUNTS = (
    *("received", "applied", "duplicate", "conflict", "superseded", "late", "rejected", "dead_lettered"),
    "waiting",
)


@click.group("ingest")
def ingest() -> None:
    """Sources of rewards, and events that could not be counted."""


@command("status")
@click.pass_obj
def status(invocation: Invocation) -> None:
    """Print counts, lag and warnings of every source."""
    with invocation.connect() as client:
        found = client.sources()
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer(document(found))
        return
    from bandit.ctl.render import screen, show

    show(screen(), sources_view(found, time.time()))


@command("letters")
@click.option("--source", default="", help="Only of this source.")
@click.option("--reason", default="", help="Only with this reason, such as UNKNOWN_METRIC.")
@click.option("-n", "--limit", type=click.IntRange(1), default=20, show_default=True, help="Most to print.")
@click.pass_obj
def letters(invocation: Invocation, source: str, reason: str, limit: int) -> None:
    """Print dead letters, oldest first, with why."""
    from itertools import islice

    with invocation.connect() as client:
        found = list(islice(client.dead_letters(source, reason), limit))
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer({"letters": [document(each) for each in found]})
        return
    for line in letter_lines(found):
        click.echo(line)


@command("replay")
@click.option("--source", default="", help="Only of this source.")
@click.option("--reason", default="", help="Only with this reason, such as UNKNOWN_METRIC.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@click.pass_obj
def replay(invocation: Invocation, source: str, reason: str, yes: bool) -> int:
    """Send dead letters back through the pipeline.

    Each that can be counted now is counted, once, and is no letter any more; what still cannot stays. Age is taken
    from the decision: letters of decisions whose attribution window is over end as late.
    """
    which = " ".join(filter(None, (reason, f"of {source}" if source else ""))) or "all"
    if not confirm(f"Read dead letters again ({which})?", yes=yes, what="replay"):
        return not_confirmed()
    accepted = refused = stayed = 0
    reasons: Counter[str] = Counter()
    with invocation.connect() as client:
        for page in client.replay(source, reason):
            accepted += page.accepted
            refused += page.refused
            stayed += page.stayed
            reasons.update(page.reasons)
    if invocation.documents:
        invocation.answer(
            {"accepted": accepted, "refused": refused, "stayed": stayed, "reasons": dict(reasons)}
        )
        return 0
    why = ", ".join(f"{name} {count}" for name, count in reasons.most_common())
    stay = f"{stayed} stay ({why})" if why else f"{stayed} stay"
    click.echo(f"{accepted} counted now, {refused} late or rejected, {stay}")
    return 0


@command("file")
@click.argument("file", type=click.Path(exists=True, dir_okay=False, allow_dash=True))
@click.pass_obj
def file_(invocation: Invocation, file: str) -> int:
    """Report rewards from JSON lines in FILE, or - for stdin.

    One event a line, as protobuf's JSON of RewardEvent. Counted once, so a broken run may be made again. For a file
    that grows, configure a source of kind jsonl instead.
    """
    from bandit.client.words import enum_text
    from bandit.v1.reward_service_pb2 import RewardOutcome

    outcomes: Counter[str] = Counter()
    bad = 0
    with invocation.connect() as client:
        for numbers, events, wrong in _portions(file):
            bad += len(wrong)
            for number, why in wrong:
                _tell(bad, f"line {number}: {why}")
            for number, result in zip(numbers, client.report_rewards(events), strict=True):
                outcome = enum_text(RewardOutcome.DESCRIPTOR, result.outcome)
                outcomes[outcome] += 1
                if result.reason:
                    bad += 1
                    _tell(bad, f"line {number}: {outcome} ({result.reason}): {result.message}")
            outcomes["unreadable"] += len(wrong)
    counts = {name: count for name, count in outcomes.items() if count}
    if invocation.documents:
        invocation.answer({"lines": sum(counts.values()), "outcomes": counts})
    else:
        click.echo(", ".join(f"{count} {name}" for name, count in counts.items()) or "no lines")
    return int(Exit.NOT_COUNTED) if bad else 0


@command("schema")
def schema() -> None:
    """Print the JSON Schema of a reward event, for senders."""
    from bandit.ctl.document import dumps
    from bandit.ctl.event_schema import event_schema

    click.echo(dumps(event_schema()))


def sources_view(found: ListSourcesResponse, now_s: float) -> RenderableType:
    """A table of counts, and under it what is wrong."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from bandit.ctl.text import plain

    table = Table(box=None, pad_edge=False)
    for name in ("source", "kind", "state"):
        table.add_column(name)
    for name in ("lag", *_COUNTS):
        table.add_column(name.removesuffix("_lettered"), justify="right")
    below: list[RenderableType] = []
    for source in found.sources:
        counts = [str(getattr(source.counts, name)) for name in _COUNTS]
        lag = str(source.lag) if source.kind else ""
        table.add_row(plain(source.name), plain(source.kind) or "door", _state(source, now_s), lag, *counts)
        if source.lost:
            lost = f"{source.lost} events were gone from it before they were read"
            below.append(Text(f"{plain(source.name)}: {lost}"))
        below += [Text(f"{plain(source.name)}: {plain(warning)}", "yellow") for warning in source.warnings]
        below += [
            Text(f"{plain(source.name)}: removed from {plain(name)}, its events there are rejected", "yellow")
            for name in source.removed_from
        ]
    dropped = f", {found.dead_letters_dropped} had to make room" if found.dead_letters_dropped else ""
    below.append(Text(f"dead letters: {found.dead_letters}{dropped}"))
    if not found.sources:
        return Text("nothing was ever received, and no source is configured")
    return Group(table, *below)


def letter_lines(found: Iterable[DeadLetter]) -> Iterator[str]:
    """Two lines a letter: why, and how it begins."""
    from bandit.ctl.text import plain

    empty = True
    for letter in found:
        empty = False
        at = letter.time.ToJsonString()
        yield plain(f"{letter.id}  {at}  {letter.source}  {letter.reason}: {letter.message}")
        cut = "..." if len(letter.body) > _SHOWN_BYTES else ""
        yield "    " + plain(letter.body[:_SHOWN_BYTES].decode("utf-8", "backslashreplace")) + cut
    if empty:
        yield "no such letters"


def _state(source: Source, now_s: float) -> str:
    if not source.kind:
        return ""
    if not source.connected:
        return "down"
    if not source.HasField("newest_time"):
        return "up, nothing yet"
    return f"up, newest {max(now_s - source.newest_time.ToMilliseconds() / 1000, 0):.0f} s ago"


def _tell(bad: int, sentence: str) -> None:
    if bad <= _MOST_SAID:
        say(sentence)
    elif bad == _MOST_SAID + 1:
        say("there are more; the counts at the end tell how many")


def _portions(file: str) -> Iterator[tuple[list[int], list[RewardEvent], list[tuple[int, str]]]]:
    """Line numbers and events, a thousand at a time, and what was no event."""
    numbers: list[int] = []
    events: list[RewardEvent] = []
    wrong: list[tuple[int, str]] = []
    for number, line in _lines(file):
        try:
            events.append(_event(line))
            numbers.append(number)
        except ValueError as error:
            wrong.append((number, str(error)))
        if len(events) + len(wrong) >= _PORTION:
            yield numbers, events, wrong
            numbers, events, wrong = [], [], []
    if events or wrong:
        yield numbers, events, wrong


def _lines(file: str) -> Iterator[tuple[int, bytes]]:
    stream = sys.stdin.buffer if file == "-" else Path(file).open("rb")  # noqa: SIM115 - closed below
    try:
        for number, line in enumerate(stream, 1):
            if line.strip():
                yield number, line
    finally:
        if file != "-":
            stream.close()


def _event(line: bytes) -> RewardEvent:
    """Raises ValueError in our words. A value must be a number: protobuf's parser would take the text "1" for one."""
    import json

    from google.protobuf.json_format import ParseDict, ParseError

    from bandit.v1.reward_service_pb2 import RewardEvent

    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        raise ValueError("no JSON; write one event a line") from None
    if not isinstance(fields, dict):
        raise ValueError("no JSON object; write one event a line")
    value = fields.get("value")
    if value is not None and (isinstance(value, bool) or not isinstance(value, int | float)):
        raise ValueError(f"value {value!r} is no number")
    try:
        return ParseDict(fields, RewardEvent())
    except ParseError as error:
        raise ValueError(str(error)) from None


for _each in (status, letters, replay, remove, release, file_, schema):
    ingest.add_command(_each)

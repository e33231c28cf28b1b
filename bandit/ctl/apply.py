"""The command apply: a file becomes the spec of an experiment; its effect is shown before, and read back after."""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from bandit.ctl.invocation import Invocation, command, confirm, not_confirmed
from bandit.ctl.text import count, plain
from bandit.ctl.writes import durability_option, reached, warn, yes_option
from bandit.errors import AlreadyExists, InvalidArgument, NotFound, Stale

if TYPE_CHECKING:
    from bandit.client import Client
    from bandit.spec.model import ExperimentSpec
    from bandit.v1.experiment_pb2 import Experiment
    from bandit.v1.experiment_service_pb2 import DryRunResponse

MOST_BYTES = 4 << 20


@command("apply")
@click.option(
    "-f",
    "--file",
    "path",
    required=True,
    type=click.Path(exists=True, dir_okay=False, allow_dash=True),
    help="The spec; - reads it from stdin.",
)
@click.option("--dry-run", is_flag=True, help="Only print what would change.")
@yes_option
@durability_option
@click.pass_obj
def apply(invocation: Invocation, path: str, dry_run: bool, yes: bool, durability: str | None) -> int:
    """Create an experiment, or change it to what FILE says.

    Prints what changes and asks before it does it. A new experiment is a DRAFT until it is started.
    """
    spec = read_spec(path)
    with invocation.connect(durability) as client:
        effect = client.dry_run(spec)
        if not invocation.documents:
            _print_effect(spec, effect)
        if dry_run or not (effect.creates or effect.changes):
            if invocation.documents:
                invocation.answer(_document(effect, applied=False))
            return 0
        question = f"{'Create' if effect.creates else 'Change'} {spec.experiment}?"
        if not confirm(question, yes=yes, what="apply"):
            return not_confirmed()
        found = _write(client, spec, effect)
    if invocation.documents:
        invocation.answer(
            {**_document(effect, applied=True, experiment=found), **reached(client, durability)}
        )
        warn(client, durability)
        return 0
    from bandit.client.words import enum_text
    from bandit.v1.experiment_pb2 import ExperimentState

    done = "created" if effect.creates else "changed"
    state = enum_text(ExperimentState.DESCRIPTOR, found.state)
    click.echo(f"{spec.experiment} is {done} as in {path}: {state}, epoch {found.epoch}, etag {found.etag}")
    if effect.creates:
        click.echo(f"`banditctl start {spec.experiment}` lets its shares move")
    warn(client, durability)
    return 0


def read_spec(path: str) -> ExperimentSpec:
    """The spec in a file, or in stdin for ``-``. Raises InvalidArgument with ``file:line:column`` in each line."""
    from bandit.spec.parse import parse_yaml

    return parse_yaml(read_text(path), "<stdin>" if path == "-" else path)


def read_text(path: str) -> str:
    """The text of a file, or of stdin for ``-``.

    Raises InvalidArgument when it is not UTF-8 or longer than any spec, and NotFound when it cannot be read.
    """
    try:
        with contextlib.nullcontext(sys.stdin.buffer) if path == "-" else Path(path).open("rb") as file:
            raw = file.read(MOST_BYTES + 1)
        if len(raw) > MOST_BYTES:
            raise InvalidArgument(
                f"{path} has more than {MOST_BYTES} bytes, which no spec has; is it another file?"
            )
        return raw.decode("utf-8")
    except UnicodeDecodeError as error:
        before = raw[: error.start]
        line, column = before.count(b"\n") + 1, error.start - before.rfind(b"\n")
        raise InvalidArgument(
            f"{path}:{line}:{column}: byte 0x{raw[error.start]:02x} is not UTF-8; save the file as UTF-8"
        ) from None
    except OSError as error:
        raise NotFound(f"{path} cannot be read: {error.strerror}") from None


def _write(client: Client, spec: ExperimentSpec, effect: DryRunResponse) -> Experiment:
    """Creates or updates, reads back and compares. Raises Stale when somebody else was faster."""
    from bandit.client import UnexpectedAnswer
    from bandit.client.convert import spec_from_proto

    name = spec.experiment
    try:
        written = client.create(spec) if effect.creates else client.update(spec, effect.etag).experiment
    except AlreadyExists:
        raise Stale(
            f"{name} was created by somebody else meanwhile; apply again to see what differs"
        ) from None
    found = client.get(name)
    if spec_from_proto(found.spec) == spec:
        return found
    if found.etag != written.etag:
        raise Stale(
            f"{name} was changed again by somebody else; see `banditctl audit {name}` and apply again"
        )
    raise UnexpectedAnswer(
        f"{name} was written, but what was read back differs from what was sent; compare the file with "
        f"`banditctl get {name}`"
    )


def _print_effect(spec: ExperimentSpec, effect: DryRunResponse) -> None:
    if effect.creates:
        click.echo(f"{spec.experiment} does not exist yet; it would be created:")
        for change in effect.changes:
            click.echo(f"  {plain(change.path)}: {plain(change.effect or change.after)}")
        return
    if not effect.changes:
        click.echo(f"{spec.experiment} is already as in the file; nothing to change")
        return
    click.echo(f"{spec.experiment}: {count(len(effect.changes), 'change')}")
    for change in effect.changes:
        before = click.style(plain(change.before) or "(unset)", fg="red")
        after = click.style(plain(change.after) or "(unset)", fg="green")
        click.echo(
            f"  {plain(change.path)}: {before} -> {after}"
            + (f"; {plain(change.effect)}" if change.effect else "")
        )
    if effect.new_epoch:
        click.echo(click.style("  a new epoch begins: statistics begin anew", fg="yellow"))
    if effect.restarts_guardrails:
        click.echo(click.style("  the guardrails begin a new attempt, with less alpha", fg="yellow"))


def _document(
    effect: DryRunResponse, *, applied: bool, experiment: Experiment | None = None
) -> dict[str, Any]:
    from bandit.ctl.document import document

    values = {**document(effect), "applied": applied}
    if experiment is not None:
        values["experiment"] = document(experiment)
    return values

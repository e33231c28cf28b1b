"""Commands that take the events of one source back out of an experiment, and let it count again."""

from __future__ import annotations

import time
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from bandit.ctl.invocation import Invocation, command, confirm, not_confirmed
from bandit.ctl.names import ExperimentName
from bandit.errors import NotFound, StoreUnavailable

if TYPE_CHECKING:
    from bandit.client import Client
    from bandit.v1.experiment_pb2 import Experiment, ExperimentStatus

_POLL_S = 0.1
_name = click.argument("name", type=ExperimentName())
_source = click.option("--source", required=True, help="As `ingest status` names it.")


class Moment(click.ParamType[int]):
    """A time as RFC 3339 has it, or how long ago: 2h."""

    name = "time"

    def convert(self, value: str, param: click.Parameter | None, ctx: click.Context | None) -> int:
        """Unix ms."""
        from bandit.spec.quantity import parse_duration

        try:
            return round((time.time() - parse_duration(value)) * 1000)
        except ValueError:
            pass
        try:
            moment = datetime.fromisoformat(value)
        except ValueError:
            self.fail(
                f"{value!r} is no time; write 2026-01-31T12:00:00Z, or 2h for two hours ago", param, ctx
            )
        return round((moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp() * 1000)


@command("remove")
@_name
@_source
@click.option(
    "--since",
    type=Moment(),
    help="Only events that came since: 2026-01-31T12:00:00Z, or 2h for two hours ago.",
)
@click.option(
    "--kept-only", is_flag=True, help="Where older events can no longer be removed: those that are kept."
)
@click.option("--reason", default="", help="Why, for the audit.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@click.pass_obj
def remove(
    invocation: Invocation, name: str, source: str, since: int | None, kept_only: bool, reason: str, yes: bool
) -> int:
    """Take the events of a source back out of an experiment, exactly.

    What was counted becomes what it would be had its events never come, and those that still come are rejected until
    `ingest release`. Success is said when the ledger is made anew. A rollback that they caused stays.
    """
    if since is not None and kept_only:
        raise click.UsageError("--kept-only with --since; write one of them")
    if not confirm(f"Take the events of {source} back out of {name}?", yes=yes, what="remove"):
        return not_confirmed()
    with invocation.connect() as client:
        answer = client.remove_source(name, source, reason, since_ms=since, kept_only=kept_only)
        status = _until_rebuilt(client, answer.experiment, invocation.timeout_s)
        found = client.get(name)
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer({"removal": document(answer), "status": document(status)})
        return 0
    stay = f"; {answer.staying} that are older than the events kept stay" if answer.staying else ""
    click.echo(
        f"{name}: the events of {source} are taken back, {answer.counted} had been counted{stay}; those that come are "
        f"rejected until `banditctl ingest release {name} --source {source}`"
    )
    for arm, state in zip(found.spec.arms, found.arms, strict=False):
        if state.HasField("rollback"):
            click.echo(
                f"{arm.name} stays rolled back ({state.rollback.reason}); if these events were the cause, "
                f"`banditctl clear-rollback {name} {arm.name}` lets it have traffic again"
            )
    return 0


@command("release")
@_name
@_source
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def release(invocation: Invocation, name: str, source: str, reason: str) -> None:
    """Count the events of a removed source again that come from now on."""
    with invocation.connect() as client:
        found = client.release_source(name, source, reason)
        _until_rebuilt(client, found, invocation.timeout_s)
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer(document(found))
        return
    click.echo(f"{name}: events of {source} count from now on; those that were removed stay so")


def _until_rebuilt(client: Client, wanted: Experiment, timeout_s: float) -> ExperimentStatus:
    """The status once the learner has done it. A big log takes longer than the timeout, which then says so."""
    name, deadline = wanted.name.removeprefix("experiments/"), time.monotonic() + timeout_s
    removals = sum(1 + each.HasField("until_time") for each in wanted.quarantines)
    status: ExperimentStatus | None = None
    while time.monotonic() < deadline:
        try:
            status = client.status(name)
        except NotFound:
            status = None  # the learner has not published one yet
        if status is not None and status.removals >= removals:
            return status
        time.sleep(_POLL_S)
    if status is not None and status.HasField("rebuild"):
        raise StoreUnavailable(
            f"{name}: it is being done, {status.rebuild.entries_left} log entries are to be read; shares stand still "
            f"meanwhile: see `banditctl status {name}`"
        )
    raise StoreUnavailable(
        f"{name}: it is committed, but no learner has done it within {timeout_s:g} s: see `banditctl status {name}`"
    )

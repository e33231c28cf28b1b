"""Commands to one server itself, by its own address; they work while it cannot reach the store."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from bandit.ctl.invocation import Invocation, command, confirm, not_confirmed
from bandit.ctl.names import ArmName, ExperimentName
from bandit.errors import Stale

if TYPE_CHECKING:
    from bandit.v1.server_service_pb2 import Server


@command("server")
@click.pass_obj
def server(invocation: Invocation) -> None:
    """Print how one server stands, and its own stops."""
    with invocation.connect() as client:
        found = client.server()
    _answer(invocation, found)


@command("doctor")
@click.pass_obj
def doctor(invocation: Invocation) -> int:
    """Look at one server's machine and its store.

    One table of what is right and wrong, as that server sees it now; nothing is changed. Exits with 0 when all is
    right, 3 when something is not as wanted, 1 when something forbids learning. Where no server runs, `banditd
    doctor` looks at the same things.
    """
    from bandit.ctl.findings import exit_code, table
    from bandit.ctl.text import plain

    with invocation.connect() as client:
        rows = client.findings()
    code = exit_code(rows)
    if invocation.documents:
        names = ("check", "seen", "wanted", "ok", "fatal")
        shown = [{name: getattr(row, name) for name in names} for row in rows]
        invocation.answer({"findings": shown, "exit_code": code})
    else:
        for line in table(rows).splitlines():
            click.echo(plain(line))
    return code


@command("stop-arm")
@click.argument("name", type=ExperimentName())
@click.argument("arm", type=ArmName())
@click.option("--reason", required=True, help="Why, for the audit.")
@click.pass_obj
def stop_arm(invocation: Invocation, name: str, arm: str, reason: str) -> None:
    """Stop an arm on one server, without the store. Never asks.

    It gets no traffic there any more. Say which server by --server; where several machines serve, say it to each. It
    holds for every process of that machine within two seconds and across restarts. Once the store is reached it
    becomes a rollback there.
    """
    with invocation.connect() as client:
        client.stop_arm(name, arm, reason)
        found = client.server()
    wanted = f"experiments/{name}/arms/{arm}"
    if wanted not in {stop.name for stop in found.stops}:
        raise Stale(f"{name}: the stop of {arm} has ended already; see `banditctl audit {name}`")
    if invocation.documents:
        _answer(invocation, found)
        return
    click.echo(
        f"{name}: {arm} is stopped on {invocation.server}; once that server reaches the store, it is rolled back there"
    )


@command("accept-store")
@click.option("--reason", required=True, help="Why, for the log.")
@click.option("--yes", is_flag=True, help="Ask nothing.")
@click.pass_obj
def accept_store(invocation: Invocation, reason: str, yes: bool) -> int:
    """Let one server take the store as it is.

    After the store was emptied, set back or exchanged; until then the server goes on from its last good state.
    """
    with invocation.connect() as client:
        seen = client.server()
        why = seen.set_back or "it believes the store as it is"
        question = f"{invocation.server}: {why}. Give up its last good state for what the store has now?"
        if not confirm(question, yes=yes, what="accept-store"):
            return not_confirmed()
        found = client.accept_store(reason)
    if invocation.documents:
        _answer(invocation, found)
    else:
        click.echo(f"{invocation.server} takes the store as it is at its next look, within seconds")
    return 0


def _answer(invocation: Invocation, found: Server) -> None:
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer(document(found))
        return
    for line in lines(invocation.server, found):
        click.echo(line)


def lines(address: str, found: Server) -> list[str]:
    """A server in lines for people."""
    from bandit.client.words import enum_text
    from bandit.ctl.text import plain
    from bandit.v1.decision_service_pb2 import ServingMode

    mode = enum_text(ServingMode.DESCRIPTOR, found.mode) if found.mode else "not ready"
    age = (
        f", state {found.state_age.ToMilliseconds() / 1000:.1f} s old" if found.HasField("state_age") else ""
    )
    faulty = f", {found.faulty} of them not as stored" if found.faulty else ""
    saved = (
        f"kept on disk at {found.saved_time.ToDatetime():%Y-%m-%d %H:%M:%S} UTC"
        if found.HasField("saved_time")
        else "not kept on disk by this process"
    )
    told = [f"{address}: {mode}{age}, {found.experiments} experiments{faulty}, {saved}"]
    told += [f"warning: {warning}" for warning in found.warnings]
    told += [f"stopped here: {stop.name} by {stop.actor}: {stop.reason}" for stop in found.stops]
    return [plain(line) for line in told]

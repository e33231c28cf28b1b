"""Commands that change an experiment; each prints success only after it read back what it asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from bandit.ctl.invocation import Invocation, command, confirm, not_confirmed, say
from bandit.ctl.names import ArmName, ExperimentName
from bandit.errors import NotFound, Stale, StoreUnavailable

if TYPE_CHECKING:
    from bandit.client import Client
    from bandit.v1.experiment_pb2 import ArmState, Experiment, ExperimentStatus

_POLL_S = 0.1

name_argument = click.argument("name", type=ExperimentName())
arm_argument = click.argument("arm", type=ArmName())
yes_option = click.option("--yes", is_flag=True, help="Ask nothing.")
durability_option = click.option(
    "--durability",
    type=click.Choice(("replicated", "fsynced")),
    default=None,
    help="How safe the change is to be in the store before it is confirmed; it is out at once all the same.",
)


@command("start")
@name_argument
@durability_option
@click.pass_obj
def start(invocation: Invocation, name: str, durability: str | None) -> None:
    """Let shares move by evidence: DRAFT to RUNNING."""
    _lifecycle(invocation, name, "EXPERIMENT_STATE_RUNNING", lambda client: client.start(name), durability)


@command("pause")
@name_argument
@click.option("--reason", default="", help="Why, for the audit.")
@durability_option
@click.pass_obj
def pause(invocation: Invocation, name: str, reason: str, durability: str | None) -> None:
    """Give every unit the control: RUNNING to PAUSED."""
    _lifecycle(
        invocation, name, "EXPERIMENT_STATE_PAUSED", lambda client: client.pause(name, reason), durability
    )


@command("resume")
@name_argument
@durability_option
@click.pass_obj
def resume(invocation: Invocation, name: str, durability: str | None) -> None:
    """Go on after a pause: PAUSED to RUNNING."""
    _lifecycle(invocation, name, "EXPERIMENT_STATE_RUNNING", lambda client: client.resume(name), durability)


@command("promote")
@name_argument
@arm_argument
@click.option("--reason", default="", help="Why, for the audit.")
@yes_option
@durability_option
@click.pass_obj
def promote(
    invocation: Invocation, name: str, arm: str, reason: str, yes: bool, durability: str | None
) -> int:
    """Give every unit to one arm and conclude."""
    with invocation.connect(durability) as client:
        seen = client.get(name)
        question = f"Give all traffic of {name} to {arm} and conclude it?"
        if not confirm(question, yes=yes, what="promote"):
            return not_confirmed()
        client.promote(name, arm, reason, seen.etag)
        found = client.get(name)
    if found.promoted_arm != arm:
        raise _moved_on(name, f"its promoted arm is {found.promoted_arm or 'none'}, not {arm}")
    _answer(invocation, found, f"{name} is concluded: every unit gets {arm}", client, durability)
    return 0


@command("rollback")
@name_argument
@arm_argument
@click.option("--reason", required=True, help="Why, for the audit.")
@durability_option
@click.pass_obj
def rollback(invocation: Invocation, name: str, arm: str, reason: str, durability: str | None) -> None:
    """Take all traffic from an arm until it is cleared. Never asks.

    Success is said when the share that is read back is 0.
    """
    with invocation.connect(durability) as client:
        client.roll_back(name, arm, reason)
        found = _until_no_share(client, name, arm, invocation.timeout_s)
    sentence = (
        f"{name}: {arm} is rolled back and its share is 0 (allocation {found.allocation.number}); "
        f"`banditctl clear-rollback {name} {arm}` lets it have traffic again"
    )
    _answer(invocation, found, sentence, client, durability)


@command("clear-rollback")
@name_argument
@arm_argument
@click.option("--reason", default="", help="Why, for the audit.")
@durability_option
@click.pass_obj
def clear_rollback(invocation: Invocation, name: str, arm: str, reason: str, durability: str | None) -> None:
    """Let a rolled back or held arm serve again.

    That is a new attempt, which is judged by new evidence with less alpha.
    """
    with invocation.connect(durability) as client:
        client.clear_rollback(name, arm, reason)
        found = client.get(name)
    state = arm_state(found, arm)
    if state.HasField("rollback") or state.HasField("hold_ppm"):
        raise _moved_on(name, f"{arm} is rolled back or held again")
    sentence = f"{name}: {arm} may have traffic again; this is attempt {state.attempt}"
    _answer(invocation, found, sentence, client, durability)


@command("delete")
@name_argument
@yes_option
@durability_option
@click.pass_obj
def delete(invocation: Invocation, name: str, yes: bool, durability: str | None) -> int:
    """Delete an experiment with its statistics."""
    with invocation.connect(durability) as client:
        seen = client.get(name)
        if not confirm(f"Delete {name} with all its statistics?", yes=yes, what="delete"):
            return not_confirmed()
        client.delete(name, seen.etag)
        try:
            found = client.get(name)
        except NotFound:
            pass
        else:
            what = "is still there" if found.uid == seen.uid else "was created again by somebody else"
            raise _moved_on(name, f"it {what}")
    if invocation.documents:
        invocation.answer({"name": seen.name, "deleted": True, **reached(client, durability)})
    else:
        click.echo(f"{name} is deleted")
    warn(client, durability)
    return 0


def reached(client: Client, durability: str | None) -> dict[str, str]:
    """What a document says of how safe the change is; nothing where nobody asked."""
    return {"durability": f"DURABILITY_{(client.reached or 'unspecified').upper()}"} if durability else {}


def warn(client: Client, durability: str | None) -> None:
    """Say when a change is less safe than was asked for."""
    from bandit.client.changes import short_of

    if not short_of(durability or "", client.reached):
        return
    found = f"only {client.reached}" if client.reached else "of unknown safety"
    say(
        f"the change is made, but {found} in the store, though {durability} was asked for: the store cannot tell, was "
        "too slow, or lost it in a failover; see `banditctl doctor`, and `banditctl audit` whether it is still there"
    )


def arm_state(experiment: Experiment, arm: str) -> ArmState:
    """The state of an arm by its bare name. Raises NotFound."""
    for state in experiment.arms:
        if state.name.rpartition("/")[2] == arm:
            return state
    names = ", ".join(each.name for each in experiment.spec.arms)
    raise NotFound(f"{experiment.name} has no arm {arm!r}; its arms are {names}")


def _lifecycle(
    invocation: Invocation,
    name: str,
    wanted: str,
    change: Callable[[Client], Experiment],
    durability: str | None,
) -> None:
    from bandit.client.words import enum_text
    from bandit.v1.experiment_pb2 import ExperimentState

    with invocation.connect(durability) as client:
        change(client)
        found = client.get(name)
    state = enum_text(ExperimentState.DESCRIPTOR, found.state)
    if found.state != ExperimentState.Value(wanted):
        raise _moved_on(name, f"it is {state} now")
    _answer(invocation, found, f"{name} is {state}", client, durability)


def _answer(
    invocation: Invocation,
    found: Experiment | ExperimentStatus,
    sentence: str,
    client: Client,
    durability: str | None,
) -> None:
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer({**document(found), **reached(client, durability)})
    else:
        click.echo(sentence)
    warn(client, durability)


def _moved_on(name: str, what: str) -> Stale:
    return Stale(
        f"the change of {name} was accepted, but {what}: somebody changed it meanwhile; see `banditctl audit {name}`"
    )


def _until_no_share(client: Client, name: str, arm: str, timeout_s: float) -> ExperimentStatus:
    """The status once the arm is rolled back with share 0. Raises StoreUnavailable when that takes too long."""
    ends = time.monotonic() + timeout_s
    while True:
        status = client.status(name)
        index = next((i for i, each in enumerate(status.arms) if each.arm == arm), None)
        if index is None:
            raise _moved_on(name, f"it has no arm {arm} any more")
        found = status.arms[index]
        shares = status.allocation.shares_ppm
        if not found.state.HasField("rollback"):
            raise _moved_on(name, f"{arm} is not rolled back")
        left = max(found.share_ppm, shares[index] if index < len(shares) else 0)
        if left == 0:
            return status
        if time.monotonic() > ends:
            raise StoreUnavailable(
                f"the rollback of {arm} is recorded, but after {timeout_s:g} s its share is still {left} ppm; "
                f"look at `banditctl status {name}`, and pause the experiment if it stays"
            )
        time.sleep(_POLL_S)

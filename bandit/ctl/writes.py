"""Commands that change an experiment; each prints success only after it read back what it asked for."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from bandit.ctl.invocation import Invocation, command, confirm, not_confirmed
from bandit.ctl.names import ArmName, ExperimentName
from bandit.errors import NotFound, Stale, StoreUnavailable

if TYPE_CHECKING:
    from bandit.client import Client
    from bandit.v1.experiment_pb2 import ArmState, Experiment, ExperimentStatus

_POLL_S = 0.1

name_argument = click.argument("name", type=ExperimentName())
arm_argument = click.argument("arm", type=ArmName())
yes_option = click.option("--yes", is_flag=True, help="Ask nothing.")


@command("start")
@name_argument
@click.pass_obj
def start(invocation: Invocation, name: str) -> None:
    """Let shares move by evidence: DRAFT to RUNNING."""
    _lifecycle(invocation, name, "EXPERIMENT_STATE_RUNNING", lambda client: client.start(name))


@command("pause")
@name_argument
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def pause(invocation: Invocation, name: str, reason: str) -> None:
    """Give every unit the control: RUNNING to PAUSED."""
    _lifecycle(invocation, name, "EXPERIMENT_STATE_PAUSED", lambda client: client.pause(name, reason))


@command("resume")
@name_argument
@click.pass_obj
def resume(invocation: Invocation, name: str) -> None:
    """Go on after a pause: PAUSED to RUNNING."""
    _lifecycle(invocation, name, "EXPERIMENT_STATE_RUNNING", lambda client: client.resume(name))


@command("promote")
@name_argument
@arm_argument
@click.option("--reason", default="", help="Why, for the audit.")
@yes_option
@click.pass_obj
def promote(invocation: Invocation, name: str, arm: str, reason: str, yes: bool) -> int:
    """Give every unit to one arm and conclude."""
    with invocation.connect() as client:
        seen = client.get(name)
        question = f"Give all traffic of {name} to {arm} and conclude it?"
        if not confirm(question, yes=yes, what="promote"):
            return not_confirmed()
        client.promote(name, arm, reason, seen.etag)
        found = client.get(name)
    if found.promoted_arm != arm:
        raise _moved_on(name, f"its promoted arm is {found.promoted_arm or 'none'}, not {arm}")
    _answer(invocation, found, f"{name} is concluded: every unit gets {arm}")
    return 0


@command("rollback")
@name_argument
@arm_argument
@click.option("--reason", required=True, help="Why, for the audit.")
@click.pass_obj
def rollback(invocation: Invocation, name: str, arm: str, reason: str) -> None:
    """Take all traffic from an arm until it is cleared. Never asks.

    Success is said when the share that is read back is 0.
    """
    with invocation.connect() as client:
        client.roll_back(name, arm, reason)
        found = _until_no_share(client, name, arm, invocation.timeout_s)
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer(document(found))
        return
    click.echo(
        f"{name}: {arm} is rolled back and its share is 0 (allocation {found.allocation.number}); "
        f"`banditctl clear-rollback {name} {arm}` lets it have traffic again"
    )


@command("clear-rollback")
@name_argument
@arm_argument
@click.option("--reason", default="", help="Why, for the audit.")
@click.pass_obj
def clear_rollback(invocation: Invocation, name: str, arm: str, reason: str) -> None:
    """Let a rolled back or held arm serve again.

    That is a new attempt, which is judged by new evidence with less alpha.
    """
    with invocation.connect() as client:
        client.clear_rollback(name, arm, reason)
        found = client.get(name)
    state = arm_state(found, arm)
    if state.HasField("rollback") or state.HasField("hold_ppm"):
        raise _moved_on(name, f"{arm} is rolled back or held again")
    _answer(invocation, found, f"{name}: {arm} may have traffic again; this is attempt {state.attempt}")


@command("delete")
@name_argument
@yes_option
@click.pass_obj
def delete(invocation: Invocation, name: str, yes: bool) -> int:
    """Delete an experiment with its statistics."""
    with invocation.connect() as client:
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
        invocation.answer({"name": seen.name, "deleted": True})
    else:
        click.echo(f"{name} is deleted")
    return 0


def arm_state(experiment: Experiment, arm: str) -> ArmState:
    """The state of an arm by its bare name. Raises NotFound."""
    for state in experiment.arms:
        if state.name.rpartition("/")[2] == arm:
            return state
    names = ", ".join(each.name for each in experiment.spec.arms)
    raise NotFound(f"{experiment.name} has no arm {arm!r}; its arms are {names}")


def _lifecycle(
    invocation: Invocation, name: str, wanted: str, change: Callable[[Client], Experiment]
) -> None:
    from bandit.client.words import enum_text
    from bandit.v1.experiment_pb2 import ExperimentState

    with invocation.connect() as client:
        change(client)
        found = client.get(name)
    state = enum_text(ExperimentState.DESCRIPTOR, found.state)
    if found.state != ExperimentState.Value(wanted):
        raise _moved_on(name, f"it is {state} now")
    _answer(invocation, found, f"{name} is {state}")


def _answer(invocation: Invocation, experiment: Experiment, sentence: str) -> None:
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer(document(experiment))
    else:
        click.echo(sentence)


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

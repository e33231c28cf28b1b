"""Commands that act as traffic: decide and reward, for trying an experiment by hand."""

from __future__ import annotations

import math
from collections import Counter
from typing import TYPE_CHECKING, Any

import click

from bandit.ctl.exits import Exit
from bandit.ctl.invocation import Invocation, command, say
from bandit.ctl.names import ArmName, ExperimentName
from bandit.ctl.text import count, plain, token_bytes, token_text
from bandit.errors import InvalidArgument

if TYPE_CHECKING:
    from bandit.client import Client
    from bandit.v1.decision_service_pb2 import DecideResponse
    from bandit.v1.reward_service_pb2 import RewardEvent

_MOST_UNITS = 1_000_000
_FATE = {
    "accepted": "it is in the log and will be counted",
    "applied": "it is counted",
    "duplicate": "it was counted before, with the same value",
    "conflict": "it was counted before with another value, which stays",
    "superseded": "a later or larger one, or a correction, of the same decision stands",
    "late": "it came after the attribution window and is not counted",
    "rejected": "it is not counted",
}
_LEVELS = ("memory", "replicated", "fsynced")
_SAFE = {
    "memory": "it is in the store's memory",
    "replicated": "a replica has it too",
    "fsynced": "it is on the store's disk",
}
_COUNTED = frozenset({"accepted", "applied", "duplicate"})


def _attributes(ctx: click.Context, param: click.Parameter, pairs: tuple[str, ...]) -> dict[str, str]:
    found = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not key or not equals:
            raise click.BadParameter(f"{pair!r} is no attribute; write key=value", ctx, param)
        found[key] = value
    return found


@command("decide")
@click.argument("name", type=ExperimentName())
@click.argument("unit")
@click.option(
    "-a",
    "--attribute",
    "attributes",
    multiple=True,
    callback=_attributes,
    metavar="KEY=VALUE",
    help="For cohorts.",
)
@click.option("--session", default="", help="Where the experiment draws a unit anew in each of its sessions.")
@click.option(
    "-n",
    "--count",
    "number",
    type=click.IntRange(1, _MOST_UNITS),
    default=None,
    help="Decide that many units, UNIT-1, UNIT-2 ..., and count the arms.",
)
@click.pass_obj
def decide(
    invocation: Invocation,
    name: str,
    unit: str,
    attributes: dict[str, str],
    session: str,
    number: int | None,
) -> None:
    """Ask which arm serves a unit. Each decision counts as an exposure."""
    with invocation.connect() as client:
        if number is not None:
            units = [f"{unit}-{index}" for index in range(1, number + 1)]
            _decide_many(invocation, client, name, units, attributes, session)
            return
        reply = client.decide(name, unit, attributes, session)
    if invocation.documents:
        from bandit.ctl.document import document

        invocation.answer(document(reply))
        return
    click.echo(_sentence(reply))
    if reply.token:
        click.echo(f"token {token_text(reply.token)}")


def _sentence(reply: DecideResponse) -> str:
    from bandit.client.words import enum_text
    from bandit.v1.decision_service_pb2 import DecisionReason, ServingMode

    reason = enum_text(DecisionReason.DESCRIPTOR, reply.reason)
    mode = enum_text(ServingMode.DESCRIPTOR, reply.mode)
    counted = "counted" if reply.counted else "not counted"
    return (
        f"{plain(reply.arm)}  propensity {reply.propensity:g}  {reason}  epoch {reply.epoch}  "
        f"allocation {reply.allocation_number}  {mode} state  {counted}"
    )


def _decide_many(
    invocation: Invocation,
    client: Client,
    name: str,
    units: list[str],
    attributes: dict[str, str],
    session: str,
) -> None:
    from bandit.client.connection import MAX_UNITS, split_tokens
    from bandit.client.words import enum_text
    from bandit.v1.decision_service_pb2 import DecisionReason

    arms: Counter[str] = Counter()
    propensities: dict[str, set[int]] = {}
    decisions: list[dict[str, Any]] = []
    reasons: dict[str, None] = {}
    for start in range(0, len(units), MAX_UNITS):
        batch = units[start : start + MAX_UNITS]
        reply = client.decide_batch(name, batch, attributes, [session] * len(batch) if session else ())
        reasons[enum_text(DecisionReason.DESCRIPTOR, reply.reason)] = None
        columns = zip(batch, reply.arm_indexes, reply.propensities_ppm, split_tokens(reply), strict=True)
        for unit, index, ppm, token in columns:
            arm = reply.arms[index]
            arms[arm] += 1
            propensities.setdefault(arm, set()).add(ppm)
            if invocation.documents:
                decisions.append(
                    {"unit": unit, "arm": arm, "propensity_ppm": ppm, "token": token_text(token)}
                )
    if invocation.documents:
        invocation.answer({"decisions": decisions, "arms": dict(arms), "reasons": list(reasons)})
        return
    click.echo(f"{count(len(units), 'unit')} of {name}: {', '.join(reasons)}")
    width = max(len(plain(arm)) for arm in arms)
    for arm, seen in arms.most_common():
        exact = ", ".join(f"{ppm / 1e6:g}" for ppm in sorted(propensities[arm]))
        click.echo(f"  {plain(arm):<{width}}  {seen:>9,}  {seen / len(units):8.4%}  propensity {exact}")


def _event(
    metric: str, value: float | None, event_id: str, *, correct: bool, retract: bool, sequence: int | None
) -> RewardEvent:
    from bandit.v1 import reward_service_pb2 as pb

    event = pb.RewardEvent(metric=metric, value=value, event_id=event_id, sequence=sequence)
    if correct or retract:
        event.operation = pb.REWARD_OPERATION_CORRECT if correct else pb.REWARD_OPERATION_RETRACT
        if sequence is None:
            event.event_time.GetCurrentTime()
    return event


@command("reward", context_settings={"ignore_unknown_options": True})
@click.argument("metric")
@click.argument("value", type=float, required=False)
@click.option("--token", help="The token of the decision.")
@click.option("--experiment", type=ExperimentName(), help="Without a token, when the spec allows it.")
@click.option("--arm", type=ArmName("experiment"), help="Without a token.")
@click.option("--unit", help="Without a token.")
@click.option(
    "--event-id",
    default="",
    help="Two rewards with the same id count once; needed without a token, and where rewards are summed.",
)
@click.option("--correct", is_flag=True, help="The decision's value becomes VALUE, whatever was reported.")
@click.option("--retract", is_flag=True, help="The decision has no value any more; leave VALUE out.")
@click.option(
    "--sequence",
    type=click.IntRange(0, (1 << 64) - 1),
    default=None,
    help="Order among corrections: the highest stands. Left out: the time of this call.",
)
@click.option("--wait", is_flag=True, help="Wait until it is counted.")
@click.option(
    "--durability",
    type=click.Choice(_LEVELS),
    default=None,
    help="How safe it is to be before the answer, which says what was reached; left out: as the server has it.",
)
@click.pass_obj
def reward(
    invocation: Invocation,
    metric: str,
    value: float | None,
    token: str | None,
    experiment: str | None,
    arm: str | None,
    unit: str | None,
    event_id: str,
    correct: bool,
    retract: bool,
    sequence: int | None,
    wait: bool,
    durability: str | None,
) -> int:
    """Report, correct or retract one reward or cost.

    A repeated reward is counted once, so an unanswered one may be sent again. Only metrics that remember their
    values can be corrected (corrections: true in the spec)."""
    from bandit.client.words import enum_text
    from bandit.ids import experiment_resource
    from bandit.v1.reward_service_pb2 import RewardOutcome

    if correct and retract:
        raise click.UsageError("a reward is corrected or retracted; give one of --correct and --retract")
    if retract != (value is None):
        raise click.UsageError(
            "--retract takes no VALUE" if retract else "give a VALUE, or --retract to take it back"
        )
    named = [option is not None for option in (experiment, arm, unit)]
    if (token is None) == (not any(named)) or (token is None and not all(named)):
        raise click.UsageError(
            "name the decision by --token alone, or by --experiment, --arm and --unit together"
        )
    if value is not None and not math.isfinite(value):
        raise InvalidArgument.at("VALUE", f"{value} is not a finite number")
    event = _event(metric, value, event_id, correct=correct, retract=retract, sequence=sequence)
    if token is not None:
        event.token = token_bytes(token)
    else:
        event.experiment = experiment_resource(experiment or "")
        event.arm, event.unit = arm or "", unit or ""
    with invocation.connect() as client:
        reported = client.report_rewards([event], wait=wait, durability=durability or "")
    result, reached = reported[0], reported.durability
    outcome = enum_text(RewardOutcome.DESCRIPTOR, result.outcome)
    if invocation.documents:
        from bandit.ctl.document import document

        durable = f"DURABILITY_{(reached or 'unspecified').upper()}"
        invocation.answer(document(result) | {"durability": durable})
    counted = outcome in _COUNTED
    sentence = f"{outcome}: {_FATE.get(outcome, 'an outcome that this version does not know')}"
    if result.message or result.reason:
        sentence += f" ({': '.join(filter(None, (result.reason, result.message)))})"
    if reached and (durability or reached != _LEVELS[0]):
        sentence += f"; {_SAFE.get(reached, reached)}"
        if durability and reached != durability:
            sentence += f", though {durability} was asked for: the store cannot tell, or was too slow"
    if not counted:
        say(sentence)
    elif not invocation.documents:
        click.echo(plain(sentence))
    return int(Exit.OK if counted else Exit.NOT_COUNTED)

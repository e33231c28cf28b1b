"""Batches of rewards on the wire: cut, sent one after the other, answered as one; it knows no connection."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from bandit.client.errors import UnexpectedAnswer
from bandit.client.words import enum_text
from bandit.errors import InvalidArgument
from bandit.v1 import reward_service_pb2 as pb

MAX_EVENTS = 1000
LEVELS = {
    "memory": pb.DURABILITY_MEMORY,
    "replicated": pb.DURABILITY_REPLICATED,
    "fsynced": pb.DURABILITY_FSYNCED,
}
"""Words for how safe rewards are to be before they are answered, least first."""


class Reported(list[pb.RewardResult]):
    """What became of each event, in order.

    ``durability``: how safe all accepted ones were when the server answered, a word of ``LEVELS``; "" when none was
    accepted, or the server does not say.
    """

    durability: str = ""


def report(
    send: Callable[[pb.ReportRewardsRequest], pb.ReportRewardsResponse],
    events: Iterable[pb.RewardEvent],
    *,
    wait: bool,
    durability: str,
    source: str = "",
    target: str,
) -> Reported:
    """Send events in batches by ``send``; ``target`` names its server.

    Raises InvalidArgument for another word than those of ``LEVELS`` and "", and UnexpectedAnswer.
    """
    if durability and durability not in LEVELS:
        raise InvalidArgument.at("durability", f"{durability!r} is none; give {', '.join(LEVELS)}")
    wanted = LEVELS.get(durability, pb.DURABILITY_UNSPECIFIED)
    todo, reported = list(events), Reported()
    reached: list[pb.Durability.ValueType] = []
    for start in range(0, len(todo), MAX_EVENTS):
        batch = todo[start : start + MAX_EVENTS]
        reply = send(pb.ReportRewardsRequest(events=batch, wait=wait, durability=wanted, source=source))
        if len(reply.results) != len(batch):
            raise UnexpectedAnswer(
                f"{target} answered {len(reply.results)} results for {len(batch)} rewards; send them again "
                "to a banditd of this version"
            )
        reported += reply.results
        if reply.durability:
            reached.append(reply.durability)
    if reached:
        reported.durability = enum_text(pb.Durability.DESCRIPTOR, min(reached))
    return reported

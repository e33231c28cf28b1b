"""Senders of rewards that name themselves: each is a source of its own, counted apart, and their number is bounded."""

from __future__ import annotations

import pytest

from bandit.errors import InvalidArgument, Overloaded
from bandit.v1 import reward_service_pb2 as pb
from server.intake.codec import decode
from server.intake.door import Door
from server.intake.senders import MOST_SENDERS, Senders
from server.rpc.rewards import Rewards
from server.rpc.tally import Tally
from server.store.memory import MemoryStore
from tests.ingesting import World, adds_up
from tests.serving import ANY

WRONG = ["Billing", "a b", "grpc/x", "a:b", "-a", "1a", "a" * 42, "ä", "a\n", "../x", "\x00"]


@pytest.fixture
def world() -> World:
    return World(MemoryStore())


def request(world: World, source: str, *numbers: int) -> pb.ReportRewardsRequest:
    good = [pb.RewardEvent(token=world.token(each), metric="satisfied", value=1.0) for each in numbers]
    return pb.ReportRewardsRequest(events=[*good, pb.RewardEvent(token=b"none")], source=source)


def test_each_sender_over_grpc_has_accounts_of_its_own(world: World) -> None:
    tally = Tally(world.store)
    rewards = Rewards(world.keeper, world.store, world.clock, tally=tally)
    for source, numbers in (("billing", (1, 2)), ("", (2, 3)), ("crm", (4,)), ("billing", (4, 5))):
        rewards.ReportRewards(request(world, source, *numbers), ANY)
    tally.tell()
    ends = {source: world.ends(source) for source in ("grpc", "grpc/billing", "grpc/crm")}
    for counts in ends.values():
        adds_up(counts)
    assert {source: (counts["applied"], counts["duplicate"]) for source, counts in ends.items()} == {
        "grpc": (1, 1),
        "grpc/billing": (3, 1),
        "grpc/crm": (1, 0),
    }
    assert [ends[source]["received"] for source in ends] == [3, 6, 2]


def test_each_sender_over_http_has_too(world: World) -> None:
    door = Door(world.store, world.keeper, world.clock, "http")
    for sender, body in zip(("billing", "", "billing"), world.good(3), strict=True):
        door.take([decode(body, {"content-type": "application/json"})], sender)
    assert world.ends("http/billing")["applied"] == 2
    assert world.ends("http")["applied"] == 1


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_name_is_refused_before_anything_is_taken(world: World, name: str) -> None:
    rewards = Rewards(world.keeper, world.store, world.clock)
    with pytest.raises(InvalidArgument, match="not the name of a sender; use lower-case"):
        rewards.ReportRewards(request(world, name, 1), ANY)
    with pytest.raises(InvalidArgument):
        Door(world.store, world.keeper, world.clock, "http").take([], name)
    assert world.ends("grpc")["applied"] == 0


def test_their_number_is_bounded_and_those_known_go_on() -> None:
    """Each has accounts in the store, which one that makes names up must not fill."""
    senders = Senders("grpc")
    names = [f"s{number}" for number in range(MOST_SENDERS)]
    assert [senders.source_of(name) for name in names] == [f"grpc/{name}" for name in names]
    with pytest.raises(Overloaded, match="64 senders"):
        senders.source_of("one-more")
    assert senders.source_of("s0") == "grpc/s0"
    assert senders.source_of("") == "grpc"

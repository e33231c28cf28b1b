"""The ingest service: accounts of every source that add up, dead letters page by page, and replays that count once."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pytest

from bandit.errors import InvalidArgument
from bandit.v1 import experiment_pb2, reward_service_pb2
from bandit.v1 import ingest_service_pb2 as pb
from server.control.status import _rewards
from server.rpc.ingestion import Ingestion
from server.rpc.rewards import Rewards
from server.rpc.tally import Tally
from server.store.fed import Burial, Letter
from server.store.memory import MemoryStore
from tests.ingesting import NAME, World, drain, event
from tests.serving import Faulty
from tests.sources import Folder


class Context:
    """As much of gRPC's as these calls look at."""

    def time_remaining(self) -> None:
        return None

    def is_active(self) -> bool:
        return True


class Ground(NamedTuple):
    world: World
    folder: Folder
    service: Ingestion

    def read(self, *bodies: bytes) -> None:
        self.folder.send(bodies)
        source = self.folder.source()
        pipeline = self.world.pipeline(source)
        pipeline.open()
        drain(pipeline)
        pipeline._end()

    def publish(self) -> None:
        """As the learner does, as far as it is looked at here."""
        counts = self.world.fold()
        fence = self.world.store.acquire(self.world.name, "here", 60_000)
        assert fence is not None
        status = experiment_pb2.ExperimentStatus(
            sources=[
                experiment_pb2.SourceRewards(source=source, rewards=_rewards(each))
                for source, each in counts.sources.items()
            ]
        )
        self.world.store.put_status(self.world.name, status.SerializeToString(), fence)

    def sources(self) -> dict[str, pb.Source]:
        reply = self.service.ListSources(pb.ListSourcesRequest(), Context())  # type: ignore[arg-type]
        return {source.name: source for source in reply.sources}

    def replay(self, **which: str) -> tuple[int, int, int]:
        told = [0, 0, 0]
        token = ""
        while True:
            request = pb.ReplayDeadLettersRequest(page_size=3, page_token=token, **which)
            reply = self.service.ReplayDeadLetters(request, Context())  # type: ignore[arg-type]
            told = [told[0] + reply.accepted, told[1] + reply.refused, told[2] + reply.stayed]
            token = reply.next_page_token
            if not token:
                return told[0], told[1], told[2]


@pytest.fixture
def ground(tmp_path: Path) -> Ground:
    world = World(MemoryStore())
    return Ground(world, Folder(tmp_path), Ingestion(world.store, world.keeper, world.clock))


def added(counts: pb.SourceCounts) -> int:
    return (
        counts.applied + counts.duplicate + counts.conflict + counts.superseded
        + counts.late + counts.rejected + counts.dead_lettered + counts.waiting
    )  # fmt: skip


def test_accounts_add_up_while_things_wait_and_after(ground: Ground) -> None:
    good = ground.world.good(20)
    late = event(token=ground.world.token(900, age_ms=7_200_000))
    ground.read(*good, good[0], late, event(token=ground.world.token(901), value="1"), b"{")
    waiting = ground.sources()[NAME].counts
    assert (waiting.received, waiting.waiting, waiting.dead_lettered) == (24, 21, 1)
    assert added(waiting) == 24
    ground.publish()
    source = ground.sources()[NAME]
    assert source.counts == pb.SourceCounts(
        received=24, applied=20, duplicate=1, late=1, rejected=1, dead_lettered=1
    )
    assert (source.kind, source.connected, source.lag, source.owner) == ("test", True, 0, "here")
    assert dict(source.reasons) == {"LATE": 1, "NOT_A_NUMBER": 1, "NOT_JSON": 1}
    assert source.HasField("newest_time")


def test_a_source_that_nobody_reads_any_more_is_down_and_says_so(ground: Ground) -> None:
    ground.read(*ground.world.good(1))
    now_ms = ground.world.clock.now_ms()
    later_ms = [16_000]

    class Later:
        def now_ms(self) -> int:
            return now_ms + later_ms[0]

        def monotonic_s(self) -> float:
            return 0.0

        def sleep(self, seconds: float) -> None:
            raise AssertionError(seconds)

    service = Ingestion(ground.world.store, ground.world.keeper, Later())
    (source,) = service.ListSources(pb.ListSourcesRequest(), Context()).sources  # type: ignore[arg-type]
    assert not source.connected
    assert any("nobody reads it" in warning for warning in source.warnings)
    later_ms[0] = 2 * 86_400_000 + 1000
    (source,) = service.ListSources(pb.ListSourcesRequest(), Context()).sources  # type: ignore[arg-type]
    assert (source.connected, list(source.warnings), source.counts.received) == (False, [], 1)
    assert "2 days ago" in source.detail


@pytest.mark.parametrize("said", [b"", b"{}", b"[1]", b'{"time_ms": "x"}', b"\xff"])
def test_what_cannot_be_read_of_a_source_is_said_to_be_so(ground: Ground, said: bytes) -> None:
    ground.world.store.put_source("odd", said)
    assert "cannot be read" in ground.sources()["odd"].warnings[0]


def test_the_reward_service_is_a_source_too(ground: Ground) -> None:
    world = ground.world
    tally = Tally(world.store)
    rewards = Rewards(world.keeper, world.store, world.clock, tally=tally)

    def sent(number: int, **fields: object) -> reward_service_pb2.RewardEvent:
        given = {"metric": "satisfied", "value": 1.0, **fields}
        return reward_service_pb2.RewardEvent(token=world.token(number), **given)  # type: ignore[arg-type]

    events = [sent(1), sent(2), sent(2), sent(3, value=7.0), sent(4, metric="joy")]
    events.append(
        reward_service_pb2.RewardEvent(token=world.token(5, age_ms=7_200_000), metric="satisfied", value=1.0)
    )
    request = reward_service_pb2.ReportRewardsRequest(events=events)
    for _ in range(2):
        rewards.ReportRewards(request, Context())  # type: ignore[arg-type]
    tally.tell()
    ground.publish()
    assert ground.sources()["grpc"].counts == pb.SourceCounts(
        received=12, applied=2, duplicate=4, rejected=4, late=2
    )


def test_counts_of_which_it_is_not_known_whether_they_were_taken_are_not_told_twice(ground: Ground) -> None:
    faulty = Faulty(ground.world.store)
    tally = Tally(faulty)
    rewards = Rewards(ground.world.keeper, ground.world.store, ground.world.clock, tally=tally)
    request = reward_service_pb2.ReportRewardsRequest(
        events=[reward_service_pb2.RewardEvent(token=ground.world.token(1), metric="satisfied", value=1.0)]
    )
    rewards.ReportRewards(request, Context())  # type: ignore[arg-type]
    faulty.broken = {"feed"}
    tally.tell()
    faulty.broken = set()
    tally.tell()
    assert "grpc" not in ground.sources()
    rewards.ReportRewards(request, Context())  # type: ignore[arg-type]
    tally.tell()
    tally.tell()
    assert ground.sources()["grpc"].counts.received == 1


def test_letters_come_page_by_page_and_can_be_picked(ground: Ground) -> None:
    for number in range(7):
        reason = "BAD_TOKEN" if number % 2 else "NOT_JSON"
        letter = Letter(
            f"s{number % 3}", reason, "why", b"\xff%d" % number, {"ce_id": "7"}, "place 1", 1_700_000_000_000
        )
        ground.world.store.bury(Burial(letter.source, [letter], {"received": 1, "dead": 1}))

    def bodies(**which: object) -> list[bytes]:
        found: list[bytes] = []
        token = ""
        while True:
            request = pb.ListDeadLettersRequest(page_size=2, page_token=token, **which)  # type: ignore[arg-type]
            reply = ground.service.ListDeadLetters(request, Context())  # type: ignore[arg-type]
            found += [letter.body for letter in reply.letters]
            token = reply.next_page_token
            if not token:
                return found

    assert bodies() == [b"\xff%d" % number for number in range(7)]
    assert bodies(reason="BAD_TOKEN") == [b"\xff1", b"\xff3", b"\xff5"]
    assert bodies(source="s0") == [b"\xff0", b"\xff3", b"\xff6"]
    assert bodies(source="s1", reason="NOT_JSON") == [b"\xff4"]


@pytest.mark.parametrize(("field", "value"), [("page_size", -1), ("page_size", 501), ("page_token", "x")])
def test_a_page_that_cannot_be_is_refused(ground: Ground, field: str, value: object) -> None:
    given: Any = {field: value}
    here: Any = Context()
    with pytest.raises(InvalidArgument, match=field):
        ground.service.ListDeadLetters(pb.ListDeadLettersRequest(**given), here)
    with pytest.raises(InvalidArgument, match=field):
        ground.service.ReplayDeadLetters(pb.ReplayDeadLettersRequest(**given), here)


def test_a_replay_counts_what_can_be_counted_now_once(ground: Ground) -> None:
    world = ground.world
    early = [
        event(experiment="experiments/later", arm="small", unit=f"u{n}", event_id=f"e{n}") for n in range(8)
    ]
    ground.read(*early, b"{", *early[:2])
    assert [letter.reason for letter in world.store.letters("", 20)].count("UNKNOWN_EXPERIMENT") == 10
    assert ground.replay() == (0, 0, 11)
    later = World(world.store, "later")
    world.keeper.poll()
    assert ground.replay(reason="NOT_JSON") == (0, 0, 1)
    assert ground.replay(source="nobody") == (0, 0, 0)
    assert ground.replay(source=NAME, reason="UNKNOWN_EXPERIMENT") == (10, 0, 0)
    assert ground.replay() == (0, 0, 1)
    counts = later.fold()
    assert (counts.applied, counts.duplicate) == (8, 2)
    assert counts.sources[NAME].applied == 8
    assert ground.sources()[NAME].counts.received == 11
    assert [letter.body for letter in world.store.letters("", 20)] == [b"{"]


def test_a_replay_that_breaks_off_counts_once_all_the_same(ground: Ground) -> None:
    world = ground.world
    ground.read(
        *(
            event(experiment="experiments/later", arm="small", unit=f"u{n}", event_id=f"e{n}")
            for n in range(5)
        )
    )
    later = World(world.store, "later")
    world.keeper.poll()
    faulty = Faulty(world.store)
    faulty.broken = {"unbury"}
    broken = Ingestion(faulty, world.keeper, world.clock)
    with pytest.raises(Exception, match="does not answer"):
        broken.ReplayDeadLetters(pb.ReplayDeadLettersRequest(), Context())  # type: ignore[arg-type]
    assert ground.replay() == (5, 0, 0)
    counts = later.fold()
    assert (counts.applied, counts.duplicate) == (5, 5)
    assert world.store.letters("", 10) == []


def test_a_letter_whose_source_tells_no_time_has_that_of_its_burial(ground: Ground) -> None:
    for time_ms in (0, 1_700_000_000_000):
        letter = Letter("files", "NOT_JSON", "why", b"x", {}, "p", time_ms)
        ground.world.store.bury(Burial("files", [letter], {"received": 1, "dead": 1}))
    reply = ground.service.ListDeadLetters(pb.ListDeadLettersRequest(), Context())  # type: ignore[arg-type]
    untold, told = (letter.time.ToMilliseconds() for letter in reply.letters)
    assert untold == int(reply.letters[0].id.partition("-")[0])
    assert told == 1_700_000_000_000


def test_letters_whose_window_is_over_end_as_late(ground: Ground) -> None:
    world = ground.world
    body = event(token=world.token(77, age_ms=7_200_000))
    letter = Letter("old", "UNKNOWN_EXPERIMENT", "why", body, {}, "p", 1)
    world.store.bury(Burial("old", [letter], {"received": 1, "dead": 1}))
    assert ground.replay() == (0, 1, 0)
    ground.publish()
    assert ground.sources()["old"].counts == pb.SourceCounts(received=1, late=1)

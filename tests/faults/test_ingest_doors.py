"""The same rewards through every door at once, on a real Valkey: gRPC, HTTP, a source; one answer everywhere."""

from __future__ import annotations

import json
import math
import random
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bandit.ledger import ONE
from bandit.v1 import reward_service_pb2 as pb
from server.intake.codec import Poison, decode
from server.intake.door import Door
from server.intake.sort import Fate, sort
from server.rpc.rewards import Rewards
from server.rpc.tally import Tally
from server.store.embedded import Embedded
from server.store.memory import MemoryStore
from server.store.redis import RedisStore
from tests.conftest import PATIENT_S
from tests.ingesting import NAME, World, adds_up, drain, event
from tests.sources import Folder


class Context:
    """As much of gRPC's as the reward service looks at."""

    def time_remaining(self) -> None:
        return None

    def is_active(self) -> bool:
        return True


HERE: Any = Context()


@pytest.fixture
def valkey(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "kept") as embedded:
        yield embedded


@pytest.mark.timeout(3600)
def test_repeats_through_three_doors_at_once_are_counted_once(
    tmp_path: Path, valkey: Embedded, full: bool
) -> None:
    """Row 16: each event one to five times, through doors at random, all at once."""
    count = 200_000 if full else 3_000
    with closing(RedisStore(valkey.url, timeout_s=PATIENT_S)) as store:
        world = World(store)
        bodies = world.good(count)
        luck = random.Random(11)
        doors: list[list[bytes]] = [[], [], []]
        for body in bodies:
            for _ in range(luck.randint(1, 5)):
                luck.choice(doors).append(body)
        sent = [len(each) for each in doors]
        tally = Tally(store)
        rewards = Rewards(world.keeper, store, world.clock, tally=tally)
        http = Door(store, world.keeper, world.clock, "http")
        folder = Folder(tmp_path)

        def over_grpc() -> None:
            for start in range(0, sent[0], 200):
                events = []
                for body in doors[0][start : start + 200]:
                    token, _, reward = decode(body, {})
                    events.append(pb.RewardEvent(token=token, metric=reward.metric, value=reward.value))
                reply = rewards.ReportRewards(pb.ReportRewardsRequest(events=events), HERE)
                assert {each.outcome for each in reply.results} == {pb.REWARD_OUTCOME_ACCEPTED}

        def over_http() -> None:
            for start in range(0, sent[1], 100):
                taken = http.take([decode(body, {}) for body in doors[1][start : start + 100]])
                assert {each.fate for each in taken} == {Fate.ACCEPTED}

        def from_a_file() -> None:
            folder.send(doors[2])
            pipeline = world.pipeline(folder.source())
            pipeline.open()
            drain(pipeline)
            pipeline._end()

        threads = [threading.Thread(target=each) for each in (over_grpc, over_http, from_a_file)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        tally.tell()
        assert world.counted() == world.expected
        ends = [world.ends(source) for source in ("grpc", "http", NAME)]
        assert [each["received"] for each in ends] == sent
        assert all(map(adds_up, ends))
        assert sum(each["applied"] for each in ends) == count
        assert sum(each["duplicate"] for each in ends) == sum(sent) - count


def test_the_future_is_allowed_for_a_minute_and_refused_beyond(tmp_path: Path) -> None:
    """Row 19, through every door."""
    world = World(MemoryStore())
    rewards = Rewards(world.keeper, world.store, world.clock)
    http = Door(world.store, world.keeper, world.clock, "http")
    folder = Folder(tmp_path)
    expected = ["accepted", "rejected", "rejected"]
    now_ms = world.clock.now_ms()
    for door in range(3):
        events = []
        for at, ahead_s in enumerate((1, 120, 365 * 86_400)):
            message = pb.RewardEvent(token=world.token(door * 10 + at), metric="satisfied", value=1.0)
            message.event_time.FromMilliseconds(now_ms + ahead_s * 1000)
            events.append(message)
        bodies = [event(token=each.token, eventTime=each.event_time.ToJsonString()) for each in events]
        if door == 0:
            reply = rewards.ReportRewards(pb.ReportRewardsRequest(events=events), HERE)
            found = [
                pb.RewardOutcome.Name(each.outcome).removeprefix("REWARD_OUTCOME_").lower()
                for each in reply.results
            ]
            reasons = [each.reason for each in reply.results]
        elif door == 1:
            taken = http.take([decode(body, {}) for body in bodies])
            found, reasons = [each.fate.value for each in taken], [each.reason for each in taken]
        else:
            snapshot = world.keeper.snapshot
            assert snapshot is not None
            by_file = [sort(world.keeper, snapshot, body, {}, world.clock.now_ms()) for body in bodies]
            found, reasons = [each.fate.value for each in by_file], [each.reason for each in by_file]
            folder.send(bodies)
            pipeline = world.pipeline(folder.source())
            pipeline.open()
            drain(pipeline)
            pipeline._end()
        assert found == expected
        assert reasons == ["", "FUTURE", "FUTURE"]
    assert world.fold().applied == 3


values: st.SearchStrategy[Any] = st.one_of(
    st.floats(),
    st.integers(),
    st.booleans(),
    st.none(),
    st.text(max_size=5),
    st.lists(st.integers(), max_size=2),
    st.sampled_from(
        [0.0, -0.0, 5e-324, 1e-9, 1e-10, 1.0, 2.0, 2.0000001, math.inf, -math.inf, math.nan, "1", "NaN"]
    ),
)


@pytest.fixture(scope="module")
def memory() -> World:
    return World(MemoryStore())


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(value=values, metric=st.sampled_from(["satisfied", "cost"]))
@example(value=-0.0, metric="satisfied")
@example(value=10**400, metric="cost")
@example(value="1", metric="satisfied")
@example(value=True, metric="satisfied")
def test_no_door_lets_a_value_in_that_is_none(memory: World, value: Any, metric: str) -> None:
    """Row 33: a value is counted exactly when it is a number in the declared range, through every door alike."""
    world = memory
    number = isinstance(value, int | float) and not isinstance(value, bool)
    try:
        finite = number and math.isfinite(value)
    except OverflowError:
        finite = False
    allowed = bool(finite) and (
        value in (0, 1) if metric == "satisfied" else 0 <= value <= 2 and not 0 < value < 2**-30
    )
    token = world.token(world.made)
    world.made += 1
    snapshot = world.keeper.snapshot
    assert snapshot is not None
    body = event(token=token, value=value, metric=metric)
    found = sort(world.keeper, snapshot, body, {}, world.clock.now_ms())
    if number and not finite and isinstance(value, float):
        assert found.fate in (Fate.DEAD, Fate.REJECTED)  # NaN and Infinity are no JSON
    else:
        assert found.fate is (Fate.ACCEPTED if allowed else Fate.REJECTED), (value, found.reason)
    if number and (finite or isinstance(value, float)):
        rewards = Rewards(world.keeper, world.store, world.clock)
        message = pb.RewardEvent(token=token, metric=metric, value=float(value))
        (result,) = rewards.ReportRewards(pb.ReportRewardsRequest(events=[message]), HERE).results
        assert (result.outcome == pb.REWARD_OUTCOME_ACCEPTED) == allowed
    try:
        arrived: Any = decode(body, {})
    except Poison as poison:
        arrived = poison
    (taken,) = Door(world.store, world.keeper, world.clock, "http").take([arrived])
    assert (taken.fate is Fate.ACCEPTED) == allowed


def test_what_came_in_through_any_door_is_in_its_range(memory: World) -> None:
    """After all of the above: sums of values in [0, 1], and -0.0 counted as 0."""
    world = memory
    for number, value in enumerate((-0.0, 0.0, 1.0)):
        token = world.token(9_000_000 + number)
        (taken,) = Door(world.store, world.keeper, world.clock, "http").take(
            [decode(event(token=token, value=value), {})]
        )
        assert taken.fate is Fate.ACCEPTED
    outcomes = Counter(world.counted())
    assert outcomes
    for n, total in world.counted().values():
        assert 0 <= total <= n * ONE
    assert json.dumps(world.ends("http"))
    assert adds_up(world.ends("http"))

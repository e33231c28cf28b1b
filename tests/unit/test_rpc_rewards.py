"""The reward service: each event its own result, a call whole or not at all, nothing told about what is not ours."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import pytest

from bandit.errors import InvalidArgument, StoreUnavailable
from bandit.log import AMENDMENTS, CORRECT, RETRACT, REWARDS
from bandit.reward import AMENDMENT, AMENDMENT_BYTES, RECORD, RECORD_BYTES
from bandit.rollout.transitions import update
from bandit.token import Claims, KeyRing, sign
from bandit.v1 import reward_service_pb2 as pb
from server.intake.accept import BEHIND_MS, foreign_key
from server.rpc.rewards import Rewards
from server.snapshot import SnapshotKeeper
from server.store.base import Durability, Stored
from server.store.memory import MemoryStore
from tests.builders import spec
from tests.fakes import FakeClock
from tests.serving import Faulty, commit, load, put_running

ACCEPTED, REJECTED, LATE = pb.REWARD_OUTCOME_ACCEPTED, pb.REWARD_OUTCOME_REJECTED, pb.REWARD_OUTCOME_LATE


class Caller:
    """A call's context: how long it may take, and whether anybody still waits."""

    def __init__(self, left_s: float | None = 5.0, *, active: bool = True) -> None:
        self.left_s = left_s
        self.active = active

    def time_remaining(self) -> float | None:
        return self.left_s

    def is_active(self) -> bool:
        return self.active


class Ground:
    """A reward servicer over a memory store."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = Faulty(MemoryStore(self.clock.now_ms))
        self.keeper = SnapshotKeeper(self.store, self.clock)
        self.rewards = Rewards(self.keeper, self.store, self.clock)

    def token(self, now: Stored, **changes: Any) -> bytes:
        claims = Claims(
            now.experiment.uid,
            now.experiment.epoch,
            now.allocation.number,
            5,
            17,
            self.clock.now_ms(),
            99,
            300_000,
            0,
            1,
        )
        return sign(self.store.store.token_keys(), claims._replace(**changes))

    def report(
        self, *events: pb.RewardEvent, wait: bool = False, caller: Any = None
    ) -> list[pb.RewardResult]:
        request = pb.ReportRewardsRequest(events=events, wait=wait)
        context: Any = caller or Caller()
        return list(self.rewards.ReportRewards(request, context).results)

    def log(self, name: str = "answers") -> list[tuple[int, ...]]:
        entries = self.store.store.read({name: "0-0"}, 10_000, 0).get(name, [])
        assert all(entry.kind == REWARDS for entry in entries)
        return [record for entry in entries for record in RECORD.iter_unpack(entry.payload)]


@pytest.fixture
def ground() -> Ground:
    return Ground()


def event(token: bytes, value: float | None = 1.0, metric: str = "satisfied", **more: Any) -> pb.RewardEvent:
    return pb.RewardEvent(token=token, metric=metric, value=value, **more)


def test_a_reward_becomes_a_record_of_its_decision(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    (result,) = ground.report(event(ground.token(now)))
    assert result.outcome == ACCEPTED
    assert not result.reason
    (record,) = ground.log()
    issuer, epoch, number, issued_ms, allocation, q, cohort, arm, metric, _ = record
    assert (issuer, epoch, number, allocation) == (5, 1, 17, now.allocation.number)
    assert (issued_ms, q, cohort, arm, metric) == (ground.clock.now_ms(), 1 << 30, 0, 1, 0)


def test_a_correction_goes_to_an_entry_of_its_own_kind(ground: Ground) -> None:
    """The builders' two metrics are joined, so both remember their values."""
    now = put_running(ground.store)
    ground.keeper.poll()
    token = ground.token(now)
    results = ground.report(
        event(token),
        event(token, 0.0, operation=pb.REWARD_OPERATION_CORRECT, sequence=7),
        event(token, None, operation=pb.REWARD_OPERATION_RETRACT, sequence=1 << 63),
        event(token, 0.0, operation=pb.REWARD_OPERATION_CORRECT),
        event(token, 0.0, operation=9, sequence=8),
    )
    assert [result.reason for result in results] == ["", "", "", "NO_ORDER", "UNKNOWN_OPERATION"]
    entries = ground.store.store.read({"answers": "0-0"}, 100, 0)["answers"]
    assert [(entry.kind, len(entry.payload)) for entry in entries] == [
        (REWARDS, RECORD_BYTES),
        (AMENDMENTS, 2 * AMENDMENT_BYTES),
    ]
    orders = [
        AMENDMENT.unpack_from(entries[1].payload, at) for at in (RECORD_BYTES, AMENDMENT_BYTES + RECORD_BYTES)
    ]
    assert orders == [(7, 0, CORRECT), (1 << 63, 0, RETRACT)]


def test_one_entry_for_each_experiment(ground: Ground) -> None:
    first, second = put_running(ground.store, "answers"), put_running(ground.store, "other")
    ground.keeper.poll()
    events = [event(ground.token(now, number=n)) for n in range(10) for now in (first, second)]
    assert all(result.outcome == ACCEPTED for result in ground.report(*events))
    for name in ("answers", "other"):
        (entry,) = ground.store.store.read({name: "0-0"}, 100, 0)[name]
        assert len(entry.payload) == 10 * RECORD_BYTES
        assert [record[2] for record in ground.log(name)] == list(range(10))


NO_NUMBER = [
    (None, "NO_VALUE"),
    (math.nan, "NOT_FINITE"),
    (math.inf, "NOT_FINITE"),
    (-math.inf, "NOT_FINITE"),
    (0.3, "NOT_BINARY"),
    (1.7, "NOT_BINARY"),
    (-0.2, "NOT_BINARY"),
]


def test_what_is_wrong_with_one_event_is_its_own_result(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    token = ground.token(now)
    future = event(token)
    future.event_time.FromMilliseconds(ground.clock.now_ms() + 61_000)
    wrong = [
        *((event(token, value), reason) for value, reason in NO_NUMBER),
        (event(token, 2.5, "cost"), "OUT_OF_RANGE"),
        (event(token, -1e-9, "cost"), "OUT_OF_RANGE"),
        (event(token, 1e-300, "cost"), "BELOW_RESOLUTION"),
        (event(token, metric="nps"), "UNKNOWN_METRIC"),
        (event(token, metric=""), "UNKNOWN_METRIC"),
        (event(token, metric="m" * 5000), "TOO_LONG"),
        (future, "FUTURE"),
        (event(token[:-1]), "BAD_TOKEN"),
        (event(token + b"x"), "BAD_TOKEN"),
        (event(bytes(65)), "BAD_TOKEN"),
        (event(sign(KeyRing({1: b"x" * 32}, 1), Claims(now.experiment.uid, 1, 3, 5, 17, 0, 0, 0, 0, 1))), "BAD_TOKEN"),
        (event(b""), "NO_TOKEN"),
        (event(b"", experiment="experiments/answers", unit="u"), "TOKEN_REQUIRED"),
        (event(b"", experiment="experiments/nowhere", unit="u"), "UNKNOWN_EXPERIMENT"),
        (event(b"", unit="u" * 257), "TOO_LONG"),
        (event(ground.token(now, epoch=0)), "UNKNOWN_EPOCH"),
        (event(ground.token(now, arm=3)), "BAD_TOKEN"),
    ]  # fmt: skip
    good = event(ground.token(now, number=18), 0.5, "cost")
    results = ground.report(*(each for each, _ in wrong), good)
    assert [result.reason for result in results[:-1]] == [reason for _, reason in wrong]
    assert all(result.outcome == REJECTED and result.message for result in results[:-1])
    assert all(len(result.message) <= 300 for result in results)
    assert results[-1].outcome == ACCEPTED
    assert [record[2] for record in ground.log()] == [18]


def test_zero_is_a_value_and_minus_zero_is_zero(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    results = ground.report(event(ground.token(now), 0.0), event(ground.token(now, number=18), -0.0))
    assert all(result.outcome == ACCEPTED for result in results)
    assert [record[5] for record in ground.log()] == [0, 0]


def test_late_is_told_as_late(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    token = ground.token(now)
    ground.clock.advance(601.0)
    cost, satisfied = ground.report(event(token, 0.5, "cost"), event(token))
    assert (cost.outcome, cost.reason) == (LATE, "LATE")
    assert satisfied.outcome == ACCEPTED


def test_a_bad_token_tells_nothing_of_any_experiment(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    good = ground.token(now)
    flipped = [
        good[:at] + bytes([good[at] ^ bit]) + good[at + 1 :] for at in range(len(good)) for bit in (1, 128)
    ]
    for start in range(0, len(flipped), 100):
        results = ground.report(*map(event, flipped[start : start + 100]))
        assert {(each.outcome, each.reason, each.message) for each in results} == {
            (REJECTED, "BAD_TOKEN", results[0].message)
        }
        assert "answers" not in results[0].message
    assert ground.log() == []


def test_batches_have_a_size(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    for count in (0, 1001):
        with pytest.raises(InvalidArgument, match="1 to 1000"):
            ground.report(*[event(b"")] * count)
    token = ground.token(now)
    assert len(ground.report(*[event(token)] * 1000)) == 1000


def test_a_store_that_is_away_takes_nothing_and_the_call_may_be_sent_again(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    ground.store.broken.add("append")
    with pytest.raises(StoreUnavailable):
        ground.report(event(ground.token(now)))
    assert ground.log() == []
    ground.store.broken.clear()
    assert ground.report(event(ground.token(now)))[0].outcome == ACCEPTED


def test_nothing_accepted_needs_no_store(ground: Ground) -> None:
    put_running(ground.store)
    ground.keeper.poll()
    ground.store.broken.add("all")
    assert ground.report(event(b"x"))[0].reason == "BAD_TOKEN"


def test_before_the_first_read_the_call_is_to_be_sent_again(ground: Ground) -> None:
    with pytest.raises(StoreUnavailable, match="has not read"):
        ground.report(event(b"x"))


# --- a snapshot that is behind ---


def test_a_fresh_token_of_an_experiment_not_seen_yet_is_to_be_sent_again(ground: Ground) -> None:
    ground.keeper.poll()
    now = put_running(ground.store)
    fresh = event(ground.token(now))
    with pytest.raises(StoreUnavailable, match="send all again"):
        ground.report(fresh)
    ground.keeper.poll()
    assert ground.report(fresh)[0].outcome == ACCEPTED


def test_a_fresh_token_of_an_epoch_not_seen_yet_is_to_be_sent_again(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    wider = spec(
        arms=[*({"name": n, "control": n == "control"} for n in ("control", "small", "large", "huge"))]
    )
    moved = update(now.experiment, now.allocation, wider, ground.clock.now_ms())
    assert moved is not None
    now = commit(ground.store, now, moved)
    token = ground.token(now, arm=3)
    with pytest.raises(StoreUnavailable, match="send all again"):
        ground.report(event(token))
    ground.keeper.poll()
    assert ground.report(event(token))[0].outcome == ACCEPTED


def test_an_entry_names_the_experiment_that_this_server_knew(ground: Ground) -> None:
    """It has not heard yet that the experiment was deleted and made again; allocations have the same numbers."""
    now = put_running(ground.store)
    ground.keeper.poll()
    ground.store.store.delete("answers", now.generation)
    again = put_running(ground.store)
    ground.report(event(ground.token(now)))
    ground.keeper.poll()
    ground.report(event(ground.token(again)))
    uids = [entry.uid for entry in ground.store.store.read({"answers": "0-0"}, 9, 0)["answers"]]
    assert uids == [now.experiment.uid, again.experiment.uid]
    assert uids[0] != uids[1]


def test_tokens_of_a_deleted_experiment_are_rejected_at_once_or_soon(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    token = event(ground.token(now))
    ground.store.delete("answers", now.generation)
    # Still in the snapshot: the log is gone, so nothing is taken.
    assert ground.report(token)[0].reason == "UNKNOWN_EXPERIMENT"
    ground.keeper.poll()
    assert ground.report(token)[0].reason == "UNKNOWN_EXPERIMENT"
    # A server that never had it knows by the age of the token.
    other = SnapshotKeeper(ground.store, ground.clock)
    other.poll()
    ground.rewards = Rewards(other, ground.store, ground.clock)
    with pytest.raises(StoreUnavailable):
        ground.report(token)
    ground.clock.advance(BEHIND_MS / 1000 + 1)
    other.poll()
    assert ground.report(token)[0].reason == "UNKNOWN_EXPERIMENT"


# --- without a token ---


def test_without_a_token(ground: Ground) -> None:
    now = put_running(ground.store, rewards_without_token=True)
    ground.keeper.poll()

    def foreign(**changes: Any) -> pb.RewardEvent:
        fields = {"experiment": "experiments/answers", "arm": "small", "unit": "u", "event_id": "e"}
        return pb.RewardEvent(metric="satisfied", value=1.0, **{**fields, **changes})

    results = ground.report(
        foreign(), foreign(), foreign(event_id="f"), foreign(arm="huge"), foreign(experiment="x")
    )
    assert [result.outcome for result in results] == [ACCEPTED] * 3 + [REJECTED] * 2
    assert [result.reason for result in results[3:]] == ["UNKNOWN_ARM", "NO_TOKEN"]
    numbers = [record[2] for record in ground.log()]
    assert numbers[0] == numbers[1] != numbers[2]
    assert all(record[0] == 0 for record in ground.log())
    assert now.experiment.salt not in numbers[0].to_bytes(8, "little")


def test_ids_hash_the_same_when_token_keys_change(ground: Ground) -> None:
    put_running(ground.store, rewards_without_token=True)
    put_running(ground.store, "other", rewards_without_token=True)
    ground.keeper.poll()
    one = pb.RewardEvent(
        metric="satisfied", value=1.0, experiment="experiments/answers", arm="small", unit="u", event_id="e"
    )
    ground.report(one)
    old = ground.store.store.token_keys()
    ground.store.instead["token_keys"] = lambda: KeyRing({**old.keys, 2: b"n" * 32}, 2)
    ground.clock.advance(6.0)
    ground.keeper.poll()
    assert ground.keeper.snapshot is not None
    assert ground.keeper.snapshot.keys.newest == 2
    ground.report(one)
    first, second = ground.log()
    assert first[2] == second[2]
    experiment = load(ground.store).experiment
    assert foreign_key(experiment) == foreign_key(experiment)
    assert len(foreign_key(experiment)) == 32


# --- waiting for the end ---


def test_outcomes_are_waited_for(ground: Ground) -> None:
    put_running(ground.store, "answers")
    put_running(ground.store, "other")
    ground.keeper.poll()
    first, second = load(ground.store), load(ground.store, "other")
    asked: list[tuple[str, bytes, float]] = []

    def reply(name: str, token: bytes, timeout_s: float) -> bytes:
        asked.append((name, token, timeout_s))
        return bytes([1, 2, 3]) if name == "answers" else bytes([4, 5])

    ground.store.instead["await_reply"] = reply
    events = [event(ground.token(first, number=n)) for n in range(3)]
    events[1:1] = [event(b"bad"), *(event(ground.token(second, number=n)) for n in range(2))]
    results = ground.report(*events, wait=True, caller=Caller(2.0))
    assert [result.outcome for result in results] == [
        pb.REWARD_OUTCOME_APPLIED, REJECTED, LATE, REJECTED,
        pb.REWARD_OUTCOME_DUPLICATE, pb.REWARD_OUTCOME_CONFLICT,
    ]  # fmt: skip
    assert [result.reason for result in results] == [
        "",
        "BAD_TOKEN",
        "LATE",
        "UNKNOWN_ALLOCATION",
        "",
        "CONFLICT",
    ]
    assert [name for name, _, _ in asked] == ["answers", "other"]
    assert all(len(token) == 16 for _, token, _ in asked)
    assert asked[0][1] != asked[1][1]
    assert [timeout_s for _, _, timeout_s in asked] == pytest.approx([1.95, 1.95])
    entries = ground.store.store.read({"answers": "0-0", "other": "0-0"}, 10, 0)
    assert [entries[name][0].reply for name in ("answers", "other")] == [token for _, token, _ in asked]


@pytest.mark.parametrize("how", ["no-time", "no-reply", "store-away", "client-gone"])
def test_without_an_outcome_in_time_it_is_accepted(ground: Ground, how: str) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    caller = Caller(0.01 if how == "no-time" else 5.0, active=how != "client-gone")
    waited: list[str] = []

    def reply(name: str, token: bytes, timeout_s: float) -> None:
        waited.append(name)
        if how == "store-away":
            raise StoreUnavailable("away")

    ground.store.instead["await_reply"] = reply
    (result,) = ground.report(event(ground.token(now)), wait=True, caller=caller)
    assert result.outcome == ACCEPTED
    assert len(ground.log()) == 1
    assert waited == ([] if how in ("no-time", "client-gone") else ["answers"])


def test_rewards_go_to_the_partition_of_their_decision_and_are_waited_for_there(ground: Ground) -> None:
    now = put_running(ground.store, partitions=3, rewards_without_token=True)
    ground.keeper.poll()
    asked: list[str] = []

    def reply(ledger: str, token: bytes, timeout_s: float) -> bytes:
        asked.append(ledger)
        return bytes([1, 2])

    ground.store.instead["await_reply"] = reply
    events = [event(ground.token(now, issuer=issuer, number=5)) for issuer in (1, 2, 3, 4)]
    results = ground.report(*events, wait=True, caller=Caller(2.0))
    applied, repeated = pb.REWARD_OUTCOME_APPLIED, pb.REWARD_OUTCOME_DUPLICATE
    assert [result.outcome for result in results] == [applied, applied, applied, repeated]
    assert asked == ["answers", "answers/1", "answers/2"]
    assert [len(ground.log(ledger)) for ledger in asked] == [2, 1, 1]
    foreign = event(b"", experiment="experiments/answers", arm="small", unit="u", event_id="e")
    ground.report(foreign)
    ground.report(foreign)
    assert sum(len(ground.log(ledger)) for ledger in asked) == 6
    taken = [ledger for ledger in asked for record in ground.log(ledger) if record[0] == 0]
    assert len(set(taken)) == 1, "the same thing goes the same way"


def test_only_some_wait_at_a_time(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    depth: list[int] = []

    def reply(name: str, token: bytes, timeout_s: float) -> bytes:
        depth.append(1)
        ground.report(event(ground.token(now, number=100 + len(depth))), wait=True)
        return bytes([1])

    ground.store.instead["await_reply"] = reply
    assert ground.report(event(ground.token(now)), wait=True)[0].outcome == pb.REWARD_OUTCOME_APPLIED
    assert len(depth) == 16, "the seventeenth is accepted and does not wait"
    depth.clear()
    ground.report(event(ground.token(now)), wait=True)
    assert len(depth) == 16, "each gave its place back"


def test_a_stream_answers_each_batch(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()

    def requests() -> Iterator[pb.ReportRewardStreamRequest]:
        for number in range(3):
            events = [event(ground.token(now, number=number)), event(b"bad")]
            yield pb.ReportRewardStreamRequest(request=pb.ReportRewardsRequest(events=events))

    caller: Any = Caller()
    replies = list(ground.rewards.ReportRewardStream(requests(), caller))
    assert [[r.outcome for r in each.response.results] for each in replies] == [[ACCEPTED, REJECTED]] * 3
    assert [record[2] for record in ground.log()] == [0, 1, 2]


def test_the_answer_says_how_safe_the_rewards_are(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    asked: list[Durability] = []

    def append_kept(entries: Any, wanted: Durability) -> tuple[list[str], Durability]:
        asked.append(wanted)
        return ground.store.store.append(entries), Durability.MEMORY if len(asked) > 2 else wanted

    ground.store.instead["append_kept"] = append_kept

    def safe(wanted: Any, *events: pb.RewardEvent) -> Any:
        request = pb.ReportRewardsRequest(events=events or [event(ground.token(now))], durability=wanted)
        caller: Any = Caller()
        return ground.rewards.ReportRewards(request, caller).durability

    assert safe(pb.DURABILITY_UNSPECIFIED) == pb.DURABILITY_MEMORY
    assert asked == []
    assert safe(pb.DURABILITY_REPLICATED) == pb.DURABILITY_REPLICATED
    assert safe(pb.DURABILITY_FSYNCED) == pb.DURABILITY_FSYNCED
    assert safe(pb.DURABILITY_FSYNCED) == pb.DURABILITY_MEMORY  # the store was too slow: it says so
    assert asked == [Durability.REPLICATED, Durability.FSYNCED, Durability.FSYNCED]
    assert safe(pb.DURABILITY_FSYNCED, event(b"no token")) == pb.DURABILITY_UNSPECIFIED
    with pytest.raises(InvalidArgument, match="durability"):
        safe(9)
    ground.rewards = Rewards(ground.keeper, ground.store, ground.clock, durability=Durability.REPLICATED)
    asked.clear()
    assert safe(pb.DURABILITY_UNSPECIFIED) == pb.DURABILITY_REPLICATED
    assert asked == [Durability.REPLICATED]

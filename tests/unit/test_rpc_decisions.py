"""The decision service: right arms, exact propensities, tokens that verify; the control whatever is broken."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bandit.decide import Table
from bandit.errors import BanditError, CorruptStored, InvalidArgument, NotFound, StoreUnavailable
from bandit.ids import DecisionId
from bandit.rollout.transitions import pause, promote, roll_back
from bandit.token import TOKEN_BYTES, verify
from bandit.v1 import decision_service_pb2 as pb
from server.journal import Journal
from server.rpc import decisions as module
from server.rpc.decisions import Decisions
from server.snapshot import SnapshotKeeper
from server.store.memory import MemoryStore
from tests.builders import NOW
from tests.fakes import FakeClock
from tests.serving import Faulty, commit, put_draft, put_running

ANY: Any = None


class Ground:
    """A decision servicer over a memory store."""

    def __init__(self, root: Path) -> None:
        self.clock = FakeClock()
        self.store = Faulty(MemoryStore(self.clock.now_ms))
        self.store.beat("learner", 3_600_000)
        self.keeper = SnapshotKeeper(self.store, self.clock)
        self.journal = Journal(root, 5, segment_bytes=1 << 16)
        self.decisions = Decisions(self.keeper, self.clock, self.journal)

    def decide(self, unit: str = "u1", experiment: str = "answers", **attributes: str) -> pb.DecideResponse:
        request = pb.DecideRequest(experiment=f"experiments/{experiment}", unit=unit, attributes=attributes)
        return self.decisions.Decide(request, ANY)

    def batch(
        self, units: list[str], experiment: str = "answers", **attributes: str
    ) -> pb.DecideBatchResponse:
        request = pb.DecideBatchRequest(
            experiment=f"experiments/{experiment}", units=units, attributes=attributes
        )
        return self.decisions.DecideBatch(request, ANY)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    made.journal.close()


def test_a_decision_says_everything(ground: Ground) -> None:
    now = put_running(ground.store)
    ground.keeper.poll()
    ground.clock.advance(1.5)
    arms: Counter[str] = Counter()
    for index in range(300):
        unit = f"u{index}"
        reply = ground.decide(unit)
        table = ground.keeper.snapshot.entries["answers"].table  # type: ignore[union-attr]
        want = table.decide(unit, {})
        assert reply.arm == table.arms[want.arm]
        assert reply.propensity == want.propensity_ppm / 1e6
        assert reply.reason == pb.DECISION_REASON_ASSIGNED
        assert (reply.epoch, reply.allocation_number) == (1, now.allocation.number)
        assert reply.state_age.ToMilliseconds() == 1500
        assert reply.mode == pb.SERVING_MODE_FRESH
        assert reply.counted
        claims = verify(ground.store.store.token_keys(), reply.token)
        assert str(claims.decision_id) == reply.decision_id
        assert DecisionId.parse(reply.decision_id) == DecisionId(now.experiment.uid, 5, index)
        assert (claims.unit_hash, claims.arm, claims.propensity_ppm) == (
            want.unit_hash,
            want.arm,
            want.propensity_ppm,
        )
        assert claims.issued_ms == ground.clock.now_ms()
        arms[reply.arm] += 1
    assert set(arms) == {"control", "small", "large"}


def test_the_journal_has_it_before_the_reply(ground: Ground) -> None:
    put_running(ground.store)
    ground.keeper.poll()
    ground.decide("u1")
    assert ground.journal.recorded == 1
    ground.batch(["a", "b", "c"])
    assert ground.journal.recorded == 4


def test_a_cohort_comes_from_its_attribute(ground: Ground) -> None:
    put_running(ground.store, cohorts={"attribute": "plan", "values": ["free", "team"]})
    ground.keeper.poll()
    keys = ground.store.store.token_keys()
    for plan, cohort in (("free", 1), ("team", 2), ("unknown", 0)):
        assert verify(keys, ground.decide("u", plan=plan).token).cohort == cohort
        assert verify(keys, ground.batch(["u", "v"], plan=plan).tokens[TOKEN_BYTES:]).cohort == cohort
    assert verify(keys, ground.decide("u").token).cohort == 0


def test_where_each_decision_is_drawn_anew_a_unit_meets_all_arms_by_their_shares(ground: Ground) -> None:
    """Of 3,000 decisions each share is met within 5 sd; no two decisions hash the same text."""
    put_running(ground.store, unit={"kind": "user", "mode": "request"})
    ground.keeper.poll()
    keys = ground.store.store.token_keys()
    ones = [ground.decide("u1") for _ in range(3000)]
    many = ground.batch(["u1"] * 3000)
    for arms in ([each.arm for each in ones], [many.arms[index] for index in many.arm_indexes]):
        counts = Counter(arms)
        for arm, share in (("control", 0.4), ("small", 0.3), ("large", 0.3)):
            assert abs(counts[arm] - 3000 * share) < 5 * (3000 * share * (1 - share)) ** 0.5
    hashes = {verify(keys, each.token).unit_hash for each in ones}
    hashes |= {
        verify(keys, many.tokens[at : at + TOKEN_BYTES]).unit_hash
        for at in range(0, len(many.tokens), TOKEN_BYTES)
    }
    assert len(hashes) == 6000
    assert {each.propensity for each in ones} == {0.4, 0.3}


def test_reasons_follow_the_state(ground: Ground) -> None:
    now = put_draft(ground.store)
    ground.keeper.poll()
    reply = ground.decide()
    assert (reply.arm, reply.reason) == ("control", pb.DECISION_REASON_NOT_STARTED)
    assert reply.propensity == 1.0
    assert reply.counted
    now = put_running(ground.store, "second")
    ground.keeper.poll()
    back = now
    for arm in (1, 2):
        moved = roll_back(
            back.experiment, back.allocation, arm, actor="a", reason="r", rollback_id=str(arm), now_ms=NOW
        )
        back = commit(ground.store, back, moved)
    ground.keeper.poll()
    reply = ground.decide(experiment="second")
    assert (reply.arm, reply.reason) == ("control", pb.DECISION_REASON_ROLLED_BACK)
    paused = commit(ground.store, back, pause(back.experiment, back.allocation, NOW))
    ground.keeper.poll()
    assert ground.decide(experiment="second").reason == pb.DECISION_REASON_PAUSED
    commit(ground.store, paused, promote(paused.experiment, paused.allocation, 0, NOW))
    ground.keeper.poll()
    assert ground.decide(experiment="second").reason == pb.DECISION_REASON_PROMOTED


def test_a_batch_is_the_same_decisions_in_columns(ground: Ground) -> None:
    put_running(ground.store)
    ground.keeper.poll()
    units = [f"u{index}" for index in range(500)]
    singles = [ground.decide(unit) for unit in units]
    batch = ground.batch(units)
    assert [batch.arms[index] for index in batch.arm_indexes] == [each.arm for each in singles]
    assert [share / 1e6 for share in batch.propensities_ppm] == [each.propensity for each in singles]
    assert (batch.reason, batch.epoch, batch.mode, batch.counted) == (
        singles[0].reason, singles[0].epoch, singles[0].mode, True,
    )  # fmt: skip
    assert batch.allocation_number == singles[0].allocation_number
    assert batch.token_size == TOKEN_BYTES
    assert len(batch.tokens) == TOKEN_BYTES * len(units)
    first = DecisionId.parse(batch.first_decision_id)
    assert first.number == len(units)
    keys = ground.store.store.token_keys()
    for index, single in enumerate(singles):
        claims = verify(keys, batch.tokens[index * TOKEN_BYTES : (index + 1) * TOKEN_BYTES])
        want = verify(keys, single.token)
        assert claims.decision_id == first._replace(number=first.number + index)
        assert claims._replace(number=0) == want._replace(number=0)


def test_wrong_requests_are_refused(ground: Ground) -> None:
    put_running(ground.store)
    ground.keeper.poll()
    with pytest.raises(NotFound, match="no experiments/other"):
        ground.decide(experiment="other")
    for name in ("", "Answers", "a" * 64):
        with pytest.raises(InvalidArgument):
            ground.decide(experiment=name)
    with pytest.raises(InvalidArgument):
        ground.decisions.Decide(pb.DecideRequest(experiment="answers", unit="u"), ANY)
    for unit in ("", "u" * 257):
        with pytest.raises(InvalidArgument):
            ground.decide(unit)
        with pytest.raises(InvalidArgument, match=r"units\.1"):
            ground.batch(["good", unit])
    with pytest.raises(InvalidArgument, match="65 attributes"):
        ground.decide("u", **{f"k{index}": "v" for index in range(65)})
    for count in (0, 10_001):
        with pytest.raises(InvalidArgument, match="1 to 10000"):
            ground.batch(["u"] * count)
    assert ground.journal.recorded == 0
    assert len(ground.batch(["u"] * 10_000).arm_indexes) == 10_000


def test_before_the_first_read_there_is_no_answer(ground: Ground) -> None:
    with pytest.raises(StoreUnavailable, match="has not read any experiment"):
        ground.decide()
    with pytest.raises(StoreUnavailable, match="has not read any experiment"):
        ground.batch(["u"])


def test_an_unreadable_experiment_says_so(ground: Ground) -> None:
    put_running(ground.store)
    ground.store.instead["load_many"] = lambda names: {
        name: CorruptStored("is no document") for name in names
    }
    ground.keeper.poll()
    with pytest.raises(CorruptStored, match="is no document"):
        ground.decide()


def test_the_store_is_never_asked(ground: Ground) -> None:
    put_running(ground.store)
    ground.keeper.poll()
    ground.store.broken.add("all")
    ground.store.calls.clear()
    ground.clock.advance(100)
    assert ground.decide().mode == pb.SERVING_MODE_STALE
    assert ground.batch(["u"]).mode == pb.SERVING_MODE_STALE
    assert ground.decide().counted
    assert ground.store.calls == []


def test_without_room_in_the_journal_decisions_go_on_uncounted(ground: Ground, tmp_path: Path) -> None:
    put_running(ground.store)
    ground.keeper.poll()
    ground.decisions.journal = Journal(tmp_path / "small", 6, segment_bytes=4096, max_bytes=4096)
    replies = [ground.decide(f"u{index}") for index in range(150)]
    counted = [reply.counted for reply in replies]
    assert counted == [True] * 126 + [False] * 24
    assert {reply.arm for reply in replies[126:]} == {"control", "small", "large"}
    assert all(not reply.token and not reply.decision_id for reply in replies[126:])
    batch = ground.batch(["u"])
    assert (batch.counted, batch.tokens, batch.token_size, batch.first_decision_id) == (False, b"", 0, "")
    ground.decisions.journal.close()


@pytest.mark.parametrize("where", ["table", "journal", "sign", "clock"])
def test_a_known_experiment_answers_its_control_whatever_breaks(
    ground: Ground, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    put_running(ground.store)
    ground.keeper.poll()

    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("a planted bug")

    if where == "table":
        monkeypatch.setattr(Table, "decide", fail)
    elif where == "journal":
        monkeypatch.setattr(Journal, "record", fail)
        monkeypatch.setattr(Journal, "record_many", fail)
    elif where == "sign":
        monkeypatch.setattr(module, "sign", fail)
        monkeypatch.setattr(module, "sign_many", fail)
    else:
        monkeypatch.setattr(FakeClock, "now_ms", fail)
    for _ in range(3):
        reply = ground.decide()
        assert (reply.arm, reply.reason) == ("control", pb.DECISION_REASON_FALLBACK)
        assert (reply.propensity, reply.counted, reply.token) == (1.0, False, b"")
        assert reply.mode == pb.SERVING_MODE_FALLBACK
    batch = ground.batch(["a", "b"])
    assert [batch.arms[index] for index in batch.arm_indexes] == ["control", "control"]
    assert (list(batch.propensities_ppm), batch.counted, batch.tokens) == ([1_000_000] * 2, False, b"")
    assert batch.reason == pb.DECISION_REASON_FALLBACK
    assert ground.decisions.fallbacks == 4


def test_a_stream_answers_in_order_and_ends_with_the_first_mistake(ground: Ground) -> None:
    put_running(ground.store)
    ground.keeper.poll()

    def requests() -> Iterator[pb.DecideStreamRequest]:
        for unit in ("a", "b", "", "c"):
            yield pb.DecideStreamRequest(
                request=pb.DecideRequest(experiment="experiments/answers", unit=unit)
            )

    replies = ground.decisions.DecideStream(requests(), ANY)
    assert [next(replies).response.arm for _ in range(2)] == [ground.decide(unit).arm for unit in ("a", "b")]
    with pytest.raises(BanditError):
        next(replies)

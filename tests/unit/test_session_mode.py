"""Mode session: one arm within a session, drawn anew in the next; the unit is what rewards are clustered by."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.counting import layout_of
from bandit.decide import compile_table
from bandit.errors import InvalidArgument
from bandit.ids import MAX_UNIT_BYTES
from bandit.rng import hash_unit
from bandit.spec.check import check
from bandit.token import TOKEN_BYTES, verify
from bandit.v1 import decision_service_pb2 as pb
from server.journal import Journal
from server.rpc.columns import decide_many
from server.rpc.decisions import Decisions
from server.snapshot import SnapshotKeeper
from server.store.memory import MemoryStore
from tests.builders import running, spec
from tests.fakes import FakeClock
from tests.serving import put_running

ANY: Any = None
UNIT = {"kind": "user", "mode": "session"}


class Ground:
    """A decision servicer of one experiment in mode session."""

    def __init__(self, root: Path) -> None:
        clock = FakeClock()
        self.store = MemoryStore(clock.now_ms)
        self.store.beat("learner", 3_600_000)
        keeper = SnapshotKeeper(self.store, clock)
        self.journal = Journal(root, 5, segment_bytes=1 << 16)
        self.decisions = Decisions(keeper, clock, self.journal)
        put_running(self.store, unit=UNIT)
        keeper.poll()

    def decide(self, unit: str, session: str) -> pb.DecideResponse:
        request = pb.DecideRequest(experiment="experiments/answers", unit=unit, session=session)
        return self.decisions.Decide(request, ANY)

    def batch(self, units: list[str], sessions: list[str]) -> pb.DecideBatchResponse:
        request = pb.DecideBatchRequest(experiment="experiments/answers", units=units, sessions=sessions)
        return self.decisions.DecideBatch(request, ANY)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    made.journal.close()


def test_a_unit_keeps_its_arm_within_a_session_and_meets_all_arms_over_many(ground: Ground) -> None:
    """Of 3,000 sessions each share is met within 5 sd."""
    for session in ("s1", "s2", "s3"):
        assert len({ground.decide("u1", session).arm for _ in range(5)}) == 1
    arms = Counter(ground.decide("u1", f"s{index}").arm for index in range(3000))
    for arm, share in (("control", 0.4), ("small", 0.3), ("large", 0.3)):
        assert abs(arms[arm] - 3000 * share) < 5 * (3000 * share * (1 - share)) ** 0.5


def test_two_units_of_one_session_are_drawn_apart(ground: Ground) -> None:
    together = sum(ground.decide(f"u{n}", "s").arm == ground.decide(f"v{n}", "s").arm for n in range(500))
    assert together < 250, "0.34 of 500 is 170, 7.6 sd below"


def test_every_session_of_a_unit_is_in_the_unit_s_own_bucket(ground: Ground) -> None:
    keys = ground.store.token_keys()
    many = ground.batch(["u1"] * 20, [f"b{index}" for index in range(20)])
    tokens = [ground.decide("u1", f"s{index}").token for index in range(20)]
    tokens += [many.tokens[at : at + TOKEN_BYTES] for at in range(0, len(many.tokens), TOKEN_BYTES)]
    salt = running(unit=UNIT)[0].salt
    assert {verify(keys, token).unit_hash for token in tokens} == {hash_unit(salt, "u1")}
    assert layout_of(spec(unit=UNIT)).clustered == 2


@given(st.lists(st.tuples(st.text(min_size=1), st.text(min_size=1)), min_size=1, max_size=30))
def test_columns_are_the_decisions_one_by_one(pairs: list[tuple[str, str]]) -> None:
    table = compile_table(*running(unit=UNIT))
    one_by_one = [table.decide(unit, {}, session) for unit, session in pairs]
    columns = decide_many(table, [unit for unit, _ in pairs], [session for _, session in pairs])
    assert columns.arms.tolist() == [each.arm for each in one_by_one]
    assert columns.unit_hashes.tolist() == [each.unit_hash for each in one_by_one]
    assert columns.propensities_ppm.tolist() == [each.propensity_ppm for each in one_by_one]


@pytest.mark.parametrize("session", ["", "s" * (MAX_UNIT_BYTES + 1), "\N{SNOWMAN}" * 100])
def test_a_missing_or_endless_session_is_refused_as_a_unit_is(ground: Ground, session: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        ground.decide("u1", session)
    assert caught.value.violations[0][0] == "session"
    with pytest.raises(InvalidArgument) as caught:
        ground.batch(["u1", "u2"], ["s", session])
    assert caught.value.violations[0][0] == "sessions.1"
    assert ground.journal.recorded == 0, "what was refused is no exposure"


def test_a_batch_has_a_session_for_each_unit(ground: Ground) -> None:
    with pytest.raises(InvalidArgument, match="1 sessions for 2 units"):
        ground.batch(["u1", "u2"], ["s"])


@pytest.mark.parametrize("kind", ["request", "session"])
def test_a_unit_that_has_no_sessions_cannot_be_drawn_by_them(kind: str) -> None:
    found = check(spec(unit={"kind": kind, "mode": "session"}))
    assert [(loc, "has no sessions of its own" in sentence) for loc, sentence in found] == [
        (("unit", "mode"), True)
    ]
    assert not check(spec(unit=UNIT))

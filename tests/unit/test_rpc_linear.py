"""Decisions by features through the service: exact propensities, features in the token, missing ones counted."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.client.connection import split_tokens
from bandit.linear.rule import LinearRule
from bandit.linear.weights import marks_of
from bandit.rollout.transitions import pause, reallocate
from bandit.token import verify
from bandit.v1 import decision_service_pb2 as pb
from server.journal import Journal
from server.rpc.decisions import Decisions
from server.snapshot import SnapshotKeeper
from server.store.memory import MemoryStore
from tests.builders import NOW
from tests.fakes import FakeClock
from tests.serving import commit, load, put_running

ANY: Any = None
LINEAR: dict[str, Any] = {
    "metrics": [{"name": "good", "kind": "bernoulli", "direction": "maximize"}],
    "objective": [{"metric": "good"}],
    "allocator": {"kind": "lin_ts"},
    "baseline": "stationary",
    "features": [
        {"name": "plan", "kind": "categorical", "values": ["free", "pro"]},
        {"name": "tokens", "kind": "numeric", "low": 0, "high": 100},
    ],
}


class Ground:
    """A servicer over a memory store, with a rule that likes the second arm for pro plans."""

    def __init__(self, root: Path) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.now_ms)
        self.store.beat("learner", 3_600_000)
        now = put_running(self.store, **LINEAR)
        theta = np.zeros((3, 5))
        theta[1, 3] = theta[0, 2] = 0.1
        rule = LinearRule.of(
            theta,
            np.broadcast_to(0.0005 * np.eye(5), (3, 5, 5)),
            np.full(3, 50.0),
            np.full(3, 46.0),
            (np.full(3, 20_000), np.full(3, 1_000_000)),
            optimistic=False,
        )
        moved = reallocate(
            now.experiment,
            now.allocation,
            (400_000, 400_000, 200_000),
            (0.5,),
            "evidence",
            NOW + 3000,
            linear=rule,
        )
        commit(self.store, now, moved)
        self.keeper = SnapshotKeeper(self.store, self.clock)
        self.keeper.poll()
        self.journal = Journal(root, 5, segment_bytes=1 << 16)
        self.decisions = Decisions(self.keeper, self.clock, self.journal)

    def decide(self, unit: str, **attributes: str) -> pb.DecideResponse:
        request = pb.DecideRequest(experiment="experiments/answers", unit=unit, attributes=attributes)
        return self.decisions.Decide(request, ANY)

    def batch(self, units: list[str], **attributes: str) -> pb.DecideBatchResponse:
        request = pb.DecideBatchRequest(experiment="experiments/answers", units=units, attributes=attributes)
        return self.decisions.DecideBatch(request, ANY)


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    made = Ground(tmp_path)
    yield made
    made.journal.close()


def test_the_reply_and_the_token_have_the_share_of_this_request(ground: Ground) -> None:
    assert ground.keeper.snapshot is not None
    keys = ground.keeper.snapshot.keys
    weights = np.zeros(3)
    arms = ["control", "small", "large"]
    units = [f"u{n}" for n in range(1500)]
    # The steps of 2 %, 96 % and 2 %: nothing of the token but these can say what the other arms had.
    marks = marks_of((20_000, 960_000, 20_000))
    for unit in units:
        reply = ground.decide(unit, plan="pro", tokens="50")
        claims = verify(keys, reply.token)
        assert reply.counted
        assert len(reply.token) == 70
        assert claims.features == b"\x02\x00" + marks
        assert reply.propensity == claims.propensity_ppm / 1e6
        assert reply.arm == arms[claims.arm]
        weights[claims.arm] += 1.0 / reply.propensity
    # Mean importance weight of each arm: 1 within 3 sqrt((1 - p) / p / n) at p = 0.02; no luck, units hash alike.
    assert weights / 1500 == pytest.approx(np.ones(3), abs=0.54)
    many = ground.batch(units, plan="pro", tokens="50")
    assert many.token_size == 70
    assert [arms[index] for index in many.arm_indexes] == [
        ground.decide(unit, plan="pro", tokens="50").arm for unit in units
    ]
    for token, ppm in zip(split_tokens(many), many.propensities_ppm, strict=True):
        claims = verify(keys, token)
        assert (claims.features, claims.propensity_ppm) == (b"\x02\x00" + marks, ppm)


def test_shares_differ_between_requests_and_not_between_calls(ground: Ground) -> None:
    seen = {
        plan: ground.batch([f"u{n}" for n in range(400)], plan=plan, tokens="50") for plan in ("free", "pro")
    }
    small = {plan: list(reply.arm_indexes).count(1) for plan, reply in seen.items()}
    assert small["pro"] > 300
    assert small["free"] < 60
    again = ground.batch([f"u{n}" for n in range(400)], plan="pro", tokens="50.2")  # the same byte
    assert again.arm_indexes == seen["pro"].arm_indexes
    assert again.propensities_ppm == seen["pro"].propensities_ppm


def test_what_is_missing_is_counted_and_fails_nothing(ground: Ground) -> None:
    assert ground.decide("u", plan="pro", tokens="5").reason == pb.DECISION_REASON_ASSIGNED
    assert ground.decisions.features_missing == 0
    assert ground.decide("u").reason == pb.DECISION_REASON_ASSIGNED
    assert ground.decisions.features_missing == 2
    assert ground.decide("u", plan="?", tokens="many").reason == pb.DECISION_REASON_ASSIGNED
    assert ground.batch(["u", "v"], plan="pro").counted
    assert ground.decisions.features_missing == 4
    assert ground.decisions.fallbacks == 0


def test_without_a_rule_everybody_has_the_shares_of_all_and_features_are_kept_all_the_same(
    ground: Ground,
) -> None:
    now = load(ground.store)
    commit(ground.store, now, pause(now.experiment, now.allocation, NOW + 5000))
    ground.keeper.poll()
    reply = ground.decide("u1", plan="pro", tokens="5")
    assert (reply.arm, reply.propensity, reply.reason) == ("control", 1.0, pb.DECISION_REASON_PAUSED)
    assert ground.keeper.snapshot is not None
    assert verify(ground.keeper.snapshot.keys, reply.token).features[0] == 2

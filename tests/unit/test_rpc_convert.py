"""Domain to wire: nothing left out, nothing made up, limits at their edge."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bandit.client.convert import spec_from_proto
from bandit.decide import Reason
from bandit.errors import InvalidArgument
from bandit.rollout.audit import AuditRecord
from bandit.rollout.state import State
from bandit.rollout.transitions import hold, promote, roll_back
from bandit.v1 import decision_service_pb2, experiment_pb2, reward_service_pb2, spec_pb2
from server import messages
from server.rpc import convert
from server.snapshot import Mode
from tests.builders import NOW, running


def test_every_word_of_the_domain_has_its_number() -> None:
    assert set(convert.REASONS) == set(Reason)
    assert set(convert.MODES) == set(Mode)
    assert set(messages.STATES) == set(State)
    tables: list[tuple[Any, Any]] = [
        (convert.REASONS, decision_service_pb2.DecisionReason),
        (convert.MODES, decision_service_pb2.ServingMode),
        (messages.STATES, experiment_pb2.ExperimentState),
    ]
    for table, enum in tables:
        assert sorted(table.values()) == sorted(set(enum.values()) - {0})
        for word, number in table.items():
            assert enum.Name(number).endswith(word.upper())


@pytest.mark.parametrize("unit", ["x", "x" * 256, "é" * 128, "語" * 85])
def test_units_that_fit(unit: str) -> None:
    convert.check_unit(unit, "unit")


@pytest.mark.parametrize("unit", ["", "x" * 257, "é" * 129, "語" * 86, "x" * 65 + "語" * 64])
def test_units_that_do_not_fit(unit: str) -> None:
    with pytest.raises(InvalidArgument, match="1 to 256 bytes") as caught:
        convert.check_unit(unit, "units.7")
    assert caught.value.violations[0].field == "units.7"


def test_attributes_at_their_edges() -> None:
    convert.check_attributes({f"{i:02d}" + "k" * 62: "v" * 256 for i in range(64)})
    for wrong in ({str(i): "" for i in range(65)}, {"k" * 65: ""}, {"k": "v" * 257}, {"語" * 22: ""}):
        with pytest.raises(InvalidArgument):
            convert.check_attributes(wrong)


def test_times() -> None:
    assert messages.timestamp(1_700_000_000_123).ToMilliseconds() == 1_700_000_000_123
    assert convert.duration(1.2344).ToMilliseconds() == 1234
    assert convert.duration(-3).ToMilliseconds() == 0


def test_a_reward_event_keeps_what_is_unset() -> None:
    plain = convert.reward_event(reward_service_pb2.RewardEvent(metric="m"))
    assert (plain.value, plain.event_ms) == (None, None)
    full = reward_service_pb2.RewardEvent(metric="m", value=0.0, event_id="e", arm="a", unit="u")
    full.event_time.FromMilliseconds(5)
    event = convert.reward_event(full)
    assert (event.value, event.event_ms, event.event_id, event.arm, event.unit) == (0.0, 5, "e", "a", "u")


def test_an_experiment() -> None:
    experiment, allocation = running()
    back = roll_back(
        experiment, allocation, 1, actor="guardrail/g", reason="3 > 2", rollback_id="7", now_ms=NOW
    )
    held = hold(back.experiment, back.allocation, 2, reason="r", now_ms=NOW)
    message = convert.experiment_to_proto(held.experiment)
    assert message.name == "experiments/answers"
    assert (message.uid, message.etag, message.epoch) == (7, held.experiment.etag, 1)
    assert message.state == experiment_pb2.EXPERIMENT_STATE_RUNNING
    assert spec_from_proto(message.spec) == experiment.spec
    assert [arm.name.rpartition("/")[2] for arm in message.arms] == ["control", "small", "large"]
    assert not message.arms[0].HasField("rollback")
    rollback = message.arms[1].rollback
    assert (rollback.id, rollback.actor, rollback.reason) == ("7", "guardrail/g", "3 > 2")
    assert rollback.time.ToMilliseconds() == NOW
    assert not message.arms[1].HasField("hold_ppm")
    assert message.arms[2].hold_ppm == held.allocation.shares_ppm[2]
    assert message.promoted_arm == ""
    promoted = promote(experiment, allocation, 0, NOW)
    assert convert.experiment_to_proto(promoted.experiment).promoted_arm == "control"


def test_a_hold_at_nothing_is_a_hold() -> None:
    experiment, allocation = running((1_000_000, 0, 0))
    held = hold(experiment, allocation, 1, reason="r", now_ms=NOW)
    arm = convert.experiment_to_proto(held.experiment).arms[1]
    assert arm.HasField("hold_ppm")
    assert arm.hold_ppm == 0


def test_an_audit_record_with_its_verdict() -> None:
    values = {
        "guardrail": "errors",
        "arm": "small",
        "outcome": "fail",
        "log_e": 7.5,
        "log_threshold": 3.0,
        "n": 12,
        "n_control": 13,
        "observed": 0.5,
        "reference": 0.1,
        "action": "rollback",
        "message": "0.5 > 0.1",
        "of_a_newer_version": 1,
    }
    record = AuditRecord(
        3, NOW, "guardrail/errors", "rolled_back", "why", "running", "paused", (1,), (2,), 4, 5, values, "h"
    )
    message = convert.audit_to_proto(record)
    assert (message.sequence, message.time.ToMilliseconds(), message.hash) == (3, NOW, "h")
    assert (message.epoch, message.allocation_number) == (4, 5)
    assert message.state_before == experiment_pb2.EXPERIMENT_STATE_RUNNING
    assert message.state_after == experiment_pb2.EXPERIMENT_STATE_PAUSED
    verdict = message.verdict
    assert verdict.outcome == experiment_pb2.OUTCOME_FAIL
    assert verdict.action == spec_pb2.GUARDRAIL_ACTION_ROLLBACK
    assert (verdict.guardrail, verdict.arm, verdict.log_e, verdict.n) == ("errors", "small", 7.5, 12)
    bare = convert.audit_to_proto(replace(record, verdict=None, state_before=""))
    assert not bare.HasField("verdict")
    assert bare.state_before == experiment_pb2.EXPERIMENT_STATE_UNSPECIFIED

"""The border of the ledger: what is taken, what is refused, and with which reason."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.errors import Rejected
from bandit.ledger import ONE
from bandit.reward import RECORD_BYTES, RewardEvent, RewardRecord, accept_with_token, accept_without_token
from bandit.rollout.transitions import update
from bandit.token import Claims
from tests.builders import NOW, created, running, spec

EXPERIMENT, ALLOCATION = running()
CLAIMS = Claims(7, 1, ALLOCATION.number, 5, 99, NOW, 1, 300_000, 0, 1)


def reason(metric: str, value: float | None, **event: object) -> str:
    try:
        accept_with_token(EXPERIMENT, CLAIMS, RewardEvent(metric, value, **event), NOW + 1000)  # type: ignore[arg-type]
    except Rejected as error:
        return error.reason if str(error) else "no sentence"
    return "taken"


@pytest.mark.parametrize(
    ("metric", "value", "expected"),
    [
        ("satisfied", 1.0, "taken"),
        ("satisfied", 0.0, "taken"),
        ("satisfied", -0.0, "taken"),
        ("satisfied", 0.3, "NOT_BINARY"),
        ("satisfied", 1.7, "NOT_BINARY"),
        ("satisfied", -0.2, "NOT_BINARY"),
        ("cost", 2.0, "taken"),
        ("cost", 0.0, "taken"),
        ("cost", 2.0000001, "OUT_OF_RANGE"),
        ("cost", -5e-324, "OUT_OF_RANGE"),
        ("cost", 5e-324, "BELOW_RESOLUTION"),
        ("cost", 2e-18, "BELOW_RESOLUTION"),
        ("cost", math.nan, "NOT_FINITE"),
        ("cost", math.inf, "NOT_FINITE"),
        ("cost", -math.inf, "NOT_FINITE"),
        ("cost", None, "NO_VALUE"),
        ("costs", 1.0, "UNKNOWN_METRIC"),
        ("", 1.0, "UNKNOWN_METRIC"),
    ],
)
def test_values(metric: str, value: float | None, expected: str) -> None:
    assert reason(metric, value) == expected


@given(st.floats(allow_nan=True, allow_infinity=True))
def test_whatever_is_taken_is_a_scaled_value(value: float) -> None:
    try:
        record = accept_with_token(EXPERIMENT, CLAIMS, RewardEvent("cost", value), NOW)
    except Rejected:
        assert not 2e-9 < value <= 2.0
    else:
        assert isinstance(record, RewardRecord)
        assert 0 <= record.q <= ONE
        assert len(record.pack()) == RECORD_BYTES == 40
        assert abs(record.q / ONE * 2.0 - value) <= 2.0 / ONE


def test_age_is_the_tokens_not_the_senders() -> None:
    late = NOW + 600_000
    event = RewardEvent("cost", 1.0, event_ms=0)
    record = accept_with_token(EXPERIMENT, CLAIMS, event, late)
    assert isinstance(record, RewardRecord)
    assert record.q == ONE // 2
    with pytest.raises(Rejected, match=r"600\.0 s old; rewards count for 600 s") as caught:
        accept_with_token(EXPERIMENT, CLAIMS, event, late + 1)
    assert caught.value.reason == "LATE"


@pytest.mark.parametrize(
    ("ahead_s", "expected"), [(1, "taken"), (60, "taken"), (62, "FUTURE"), (365 * 86400, "FUTURE")]
)
def test_the_future(ahead_s: int, expected: str) -> None:
    assert reason("cost", 1.0, event_ms=NOW + ahead_s * 1000) == expected


def test_a_reward_of_an_ended_epoch_goes_to_its_own_cells() -> None:
    changed = spec(arms=[{"name": "control", "control": True}, {"name": "small", "digest": "sha256:new"}])
    moved = update(EXPERIMENT, ALLOCATION, changed, NOW + 5000)
    assert moved is not None
    assert moved.experiment.epoch == 2
    record = accept_with_token(moved.experiment, CLAIMS._replace(arm=2), RewardEvent("cost", 1.0), NOW + 6000)
    assert isinstance(record, RewardRecord)
    assert (record.epoch, record.arm) == (1, 2)
    with pytest.raises(Rejected) as caught:
        accept_with_token(moved.experiment, CLAIMS._replace(epoch=9), RewardEvent("cost", 1.0), NOW)
    assert caught.value.reason == "UNKNOWN_EPOCH"


def test_the_weaker_mode_is_declared() -> None:
    event = RewardEvent("cost", 1.0, event_id="e1", arm="small", unit="u1")
    with pytest.raises(Rejected) as caught:
        accept_without_token(EXPERIMENT, b"k" * 32, event, NOW)
    assert caught.value.reason == "TOKEN_REQUIRED"
    weaker = created(rewards_without_token=True).experiment
    record = accept_without_token(weaker, b"k" * 32, event, NOW)
    assert (record.issuer, record.arm, record.metric, record.issued_ms) == (0, 1, 1, NOW)
    assert accept_without_token(weaker, b"k" * 32, event, NOW + 5).number == record.number
    assert accept_without_token(weaker, b"x" * 32, event, NOW).number != record.number
    for event, expected in [
        (RewardEvent("cost", 1.0, event_id="e1", arm="nobody", unit="u1"), "UNKNOWN_ARM"),
        (RewardEvent("cost", 1.0, arm="small"), "NO_UNIT"),
        (RewardEvent("cost", 1.0, event_ms=NOW - 601_000, arm="small", unit="u"), "LATE"),
    ]:
        with pytest.raises(Rejected) as caught:
            accept_without_token(weaker, b"k" * 32, event, NOW)
        assert caught.value.reason == expected

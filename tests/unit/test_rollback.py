"""From verdicts to rollback, hold or nothing: the table, blind judges, and that nothing is done twice."""

from __future__ import annotations

from itertools import product
from typing import Literal

import pytest

from bandit.guardrails.base import Outcome, Verdict
from bandit.rollout.rollback import TABLE, Kind, decisions
from bandit.rollout.state import ArmState, Rollback

Action = Literal["rollback", "hold", "flag"]
ACTIONS: tuple[Action, ...] = ("rollback", "hold", "flag")
BLIND = (Outcome.INCONCLUSIVE, Outcome.NO_DATA)


def verdict(
    arm: int, outcome: Outcome, action: Action = "rollback", log_e: float = 5.0, name: str = "g"
) -> Verdict:
    return Verdict(
        guardrail=name,
        arm=arm,
        outcome=outcome,
        log_e=log_e,
        log_threshold=3.0,
        log_e_safe=0.0,
        log_threshold_safe=3.0,
        n=100,
        n_control=100,
        observed=0.1,
        reference=0.01,
        action=action,
        message="a sentence",
    )


def kinds(verdicts: list[Verdict], arms: list[ArmState]) -> dict[int, Kind]:
    return {decision.arm: decision.kind for decision in decisions(verdicts, arms)}


FREE = ArmState()
HELD = ArmState(hold_ppm=50_000)
ROLLED_BACK = ArmState(rollback=Rollback("r1", 1, "guardrail/g", "bad"))


def test_the_table_is_complete() -> None:
    assert set(TABLE) == set(product(Outcome, ACTIONS))


def test_only_failing_takes_anything_away() -> None:
    assert {key for key, kind in TABLE.items() if kind is not Kind.KEEP} == {
        (Outcome.FAIL, "rollback"),
        (Outcome.FAIL, "hold"),
    }


@pytest.mark.parametrize("outcome", BLIND)
@pytest.mark.parametrize("state", [FREE, HELD, ROLLED_BACK])
def test_blind_judges_change_nothing(outcome: Outcome, state: ArmState) -> None:
    verdicts = [verdict(1, outcome, action, log_e=99.0) for action in ACTIONS]
    assert decisions(verdicts, [FREE, state]) == ()


@pytest.mark.parametrize("state", [HELD, ROLLED_BACK])
def test_passing_releases_nothing(state: ArmState) -> None:
    assert decisions([verdict(1, Outcome.PASS, action) for action in ACTIONS], [FREE, state]) == ()


def test_failing_does_what_the_guardrail_says() -> None:
    verdicts = [
        verdict(1, Outcome.FAIL, "hold"),
        verdict(2, Outcome.FAIL, "rollback"),
        verdict(3, Outcome.PASS),
        verdict(4, Outcome.FAIL, "flag", log_e=99.0),
    ]
    assert kinds(verdicts, [FREE] * 5) == {1: Kind.HOLD, 2: Kind.ROLL_BACK}


@pytest.mark.parametrize("backwards", [False, True])
def test_rollback_beats_hold_whatever_the_order_and_strength(backwards: bool) -> None:
    verdicts = [
        verdict(1, Outcome.FAIL, "hold", log_e=900.0),
        verdict(1, Outcome.FAIL, "rollback", log_e=4.0),
    ]
    decided = decisions(verdicts[::-1] if backwards else verdicts, [FREE, FREE])
    assert [(each.arm, each.kind, each.verdict.log_e) for each in decided] == [(1, Kind.ROLL_BACK, 4.0)]


def test_the_strongest_of_equals_is_named() -> None:
    verdicts = [verdict(1, Outcome.FAIL, log_e=log_e, name=f"g{log_e:.0f}") for log_e in (4.0, 9.0, 6.0)]
    assert [each.verdict.guardrail for each in decisions(verdicts, [FREE, FREE])] == ["g9"]


def test_what_is_done_is_not_done_again() -> None:
    failing = [verdict(1, Outcome.FAIL, action) for action in ACTIONS]
    assert kinds(failing, [FREE, ROLLED_BACK]) == {}
    assert kinds(failing[1:], [FREE, HELD]) == {}
    assert kinds(failing, [FREE, HELD]) == {1: Kind.ROLL_BACK}


def test_arms_come_in_order_one_decision_each() -> None:
    verdicts = [verdict(arm, Outcome.FAIL, action) for arm in (3, 1, 2) for action in ACTIONS]
    assert [each.arm for each in decisions(verdicts, [FREE] * 4)] == [1, 2, 3]
    assert [each.arm for each in decisions(verdicts)] == [1, 2, 3]

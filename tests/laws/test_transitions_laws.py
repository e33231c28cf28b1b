"""Any order of operators and guardrails: shares stay whole, a rolled back arm stays at 0, the audit chain holds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from bandit.decide import compile_table
from bandit.errors import NotAllowed
from bandit.ranges import PPM
from bandit.rollout.audit import GENESIS, AuditRecord, first_broken
from bandit.rollout.state import State
from bandit.rollout.transitions import (
    Transition,
    audit_record,
    clear_rollback,
    hold,
    pause,
    promote,
    reallocate,
    resume,
    roll_back,
    start,
    update,
)
from bandit.spec.model import ExperimentSpec
from tests.builders import NOW, created, running, spec


def renamed(
    digests: tuple[str, ...], names: tuple[str, ...] = ("control", "small", "large")
) -> ExperimentSpec:
    arms = [
        {"name": name, "control": name == "control", "digest": digest}
        for name, digest in zip(names, digests, strict=True)
    ]
    return spec(arms=arms)


class Operators(RuleBasedStateMachine):
    """Operators, guardrails and the learner take turns; refusals are sentences, never half-done."""

    def __init__(self) -> None:
        super().__init__()
        made = created()
        self.experiment, self.allocation = made.experiment, made.allocation
        self.records: list[AuditRecord] = []
        self.now = NOW
        self.refusals: list[str] = []

    def take(self, act: Transition | None) -> None:
        if act is None:
            return
        self.now += 1000
        assert act.allocation.number == self.allocation.number + 1
        last = self.records[-1] if self.records else None
        self.records.append(
            audit_record(
                (self.experiment, self.allocation), act, actor="x", sequence=last.sequence if last else 0,
                previous_hash=last.hash if last else GENESIS, now_ms=self.now,
            )
        )  # fmt: skip
        self.experiment, self.allocation = act.experiment, act.allocation

    def attempt(self, function: object, *args: object, **kwargs: object) -> None:
        try:
            self.take(function(self.experiment, self.allocation, *args, **kwargs))  # type: ignore[operator]
        except NotAllowed as error:
            self.refusals.append(str(error))

    @rule()
    def starts(self) -> None:
        self.attempt(start, self.now)

    @rule()
    def pauses(self) -> None:
        self.attempt(pause, self.now)

    @rule()
    def resumes(self) -> None:
        self.attempt(resume, self.now)

    @rule(arm=st.integers(0, 2))
    def rolls_back(self, arm: int) -> None:
        self.attempt(roll_back, arm, actor="guardrail/g", reason="bad", rollback_id="r", now_ms=self.now)

    @rule(arm=st.integers(0, 2))
    def holds(self, arm: int) -> None:
        if self.experiment.arms[arm].rollback is None:
            self.attempt(hold, arm, reason="worse", now_ms=self.now)

    @rule(arm=st.integers(0, 2))
    def clears(self, arm: int) -> None:
        self.attempt(clear_rollback, arm, self.now)

    @rule(arm=st.integers(0, 2))
    def promotes(self, arm: int) -> None:
        self.attempt(promote, arm, self.now)

    @rule(weights=st.lists(st.integers(0, 100), min_size=3, max_size=3))
    def learns(self, weights: list[int]) -> None:
        if self.experiment.state is not State.RUNNING:
            return
        live = [weight * arm for weight, arm in zip(weights, self.experiment.live(), strict=True)]
        live[0] += 1
        shares = [weight * PPM // sum(live) for weight in live]
        shares[0] += PPM - sum(shares)
        self.attempt(reallocate, shares, (0.5, 0.5), "evidence", self.now)

    @rule(digest=st.sampled_from(["sha256:1", "sha256:new"]))
    def updates(self, digest: str) -> None:
        self.attempt(update, renamed(("sha256:0", digest, "sha256:2")), self.now)

    @invariant()
    def everything_holds(self) -> None:
        shares = self.allocation.shares_ppm
        assert sum(shares) == PPM
        for share, arm in zip(shares, self.experiment.arms, strict=True):
            assert share >= 0
            assert arm.rollback is None or share == 0
            assert arm.attempt >= 1
        assert self.experiment.arms[0].rollback is None
        if self.experiment.state in (State.DRAFT, State.PAUSED):
            assert shares[0] == PPM
        assert first_broken(self.records) is None
        assert all(len(refusal.split()) >= 4 for refusal in self.refusals)
        compile_table(self.experiment, self.allocation)


Operators.TestCase.settings = settings(max_examples=200, stateful_step_count=30)
TestOperators = Operators.TestCase


def test_the_chain_names_the_first_broken_record() -> None:
    experiment, allocation = running()
    records: list[AuditRecord] = []
    for arm in (1, 2):
        move = roll_back(experiment, allocation, arm, actor="a", reason="r", rollback_id="i", now_ms=NOW)
        records.append(
            audit_record(
                (experiment, allocation), move, actor="a", sequence=len(records),
                previous_hash=records[-1].hash if records else GENESIS, now_ms=NOW,
            )
        )  # fmt: skip
        experiment, allocation = move.experiment, move.allocation
    assert first_broken(records) is None
    assert first_broken([records[0], replace(records[1], reason="other")]) == 2
    assert first_broken([records[1], records[0]]) == 2
    assert first_broken(records[1:]) == 2


def test_applying_the_same_spec_again_undoes_no_rollback() -> None:
    experiment, allocation = running()
    move = roll_back(experiment, allocation, 1, actor="a", reason="r", rollback_id="i", now_ms=NOW)
    for _ in range(10):
        assert update(move.experiment, move.allocation, spec(), NOW) is None
    bounds = update(move.experiment, move.allocation, spec(bounds={"floor": 0.1}), NOW)
    assert bounds is not None
    assert bounds.experiment.arms[1].rollback is not None
    assert bounds.allocation.shares_ppm[1] == 0


def test_a_new_build_is_a_new_arm() -> None:
    experiment, allocation = running()
    move = roll_back(experiment, allocation, 1, actor="a", reason="r", rollback_id="i", now_ms=NOW)
    new = update(move.experiment, move.allocation, renamed(("sha256:0", "sha256:1b", "sha256:2")), NOW)
    assert new is not None
    assert new.experiment.epoch == 2
    assert new.experiment.arms[1].rollback is None
    assert new.allocation.shares_ppm[1] == 0  # unproven: nothing until the learner's next allocation
    same = update(move.experiment, move.allocation, renamed(("sha256:0", "sha256:1", "sha256:2b")), NOW)
    assert same is not None
    assert same.experiment.arms[1].rollback is not None
    assert new.experiment.past[0].spec == experiment.spec


def test_dropping_an_arm_moves_only_its_own_units_and_spreads_them() -> None:
    names, digests = ("control", "b", "c", "d"), ("0", "1", "2", "3")
    four = renamed(digests, names)
    experiment, allocation = running((250_000,) * 4, arms=[arm.model_dump() for arm in four.arms])
    before = compile_table(experiment, allocation)
    three = update(experiment, allocation, renamed(digests[:3], names[:3]), NOW)
    assert three is not None
    after = compile_table(three.experiment, three.allocation)
    heirs = [0, 0, 0]
    for number in range(100_000):
        was, now = before.decide(f"u{number}", {}).arm, after.decide(f"u{number}", {}).arm
        if was < 3:
            assert now == was
        else:
            heirs[now] += 1
    assert all(abs(heir - sum(heirs) / 3) < 6 * (sum(heirs) * 2 / 9) ** 0.5 for heir in heirs)
    again = update(three.experiment, three.allocation, four, NOW)
    assert again is not None
    assert again.allocation.shares_ppm[3] == 0
    assert (
        compile_table(again.experiment, again.allocation).decide("u1", {}).arm == after.decide("u1", {}).arm
    )


def test_guardrail_edits_begin_a_new_attempt() -> None:
    guardrail = {"name": "g", "kind": "harm", "metric": "satisfied"}
    experiment, allocation = running(guardrails=[guardrail])
    moved = update(experiment, allocation, spec(guardrails=[{**guardrail, "margin": 1.2}]), NOW)
    assert moved is not None
    assert [arm.attempt for arm in moved.experiment.arms] == [2, 2, 2]
    assert moved.experiment.epoch == 1
    other = [{"metric": "satisfied", "weight": 0.1}, {"metric": "cost", "weight": 0.9, "scale": [0.0, 1.0]}]
    weights = update(experiment, allocation, spec(guardrails=[guardrail], objective=other), NOW)
    assert weights is not None
    assert [arm.attempt for arm in weights.experiment.arms] == [1, 1, 1]
    assert weights.experiment.epoch == 1
    # Without the other term nothing is multiplied any more: other sums, so another epoch.
    alone = update(experiment, allocation, spec(guardrails=[guardrail], objective=[{"metric": "cost"}]), NOW)
    assert alone is not None
    assert alone.experiment.epoch == 2


def test_a_promoted_arm_can_be_rolled_back() -> None:
    experiment, allocation = running()
    done = promote(experiment, allocation, 1, NOW)
    back = roll_back(done.experiment, done.allocation, 1, actor="a", reason="r", rollback_id="i", now_ms=NOW)
    assert back.experiment.state is State.PAUSED
    assert back.experiment.promoted is None
    assert back.allocation.shares_ppm == (PPM, 0, 0)


def test_concluded_takes_no_new_spec() -> None:
    experiment, allocation = running()
    done = promote(experiment, allocation, 1, NOW)
    with pytest.raises(NotAllowed, match="concluded"):
        update(done.experiment, done.allocation, spec(hypothesis="other"), NOW)

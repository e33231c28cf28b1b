"""Decisions: the logged propensity is the probability really used, and a known experiment never fails."""

from __future__ import annotations

from dataclasses import replace

import pytest

from bandit.decide import Reason, compile_table, fallback_table, fresh_key, unit_salt
from bandit.ranges import contiguous
from bandit.rollout.transitions import pause, promote, roll_back
from tests.builders import NOW, created, running


def test_shares_are_chosen_as_logged() -> None:
    experiment, allocation = running((650_000, 300_000, 50_000))
    table = compile_table(experiment, allocation)
    counts = [0, 0, 0]
    for number in range(200_000):
        decision = table.decide(f"unit-{number}", {})
        assert decision.propensity_ppm == allocation.shares_ppm[decision.arm]
        counts[decision.arm] += 1
    expected = [200_000 * share / 1e6 for share in allocation.shares_ppm]
    chi_square = sum((seen - want) ** 2 / want for seen, want in zip(counts, expected, strict=True))
    assert chi_square < 31.0  # 2 degrees of freedom: p = 2e-7


def test_a_replay_gives_the_same_arm() -> None:
    experiment, allocation = running()
    first, second = compile_table(experiment, allocation), compile_table(experiment, allocation)
    assert [first.decide(f"u{n}", {}) for n in range(1000)] == [
        second.decide(f"u{n}", {}) for n in range(1000)
    ]


def test_reasons() -> None:
    made = created()
    assert compile_table(made.experiment, made.allocation).reason is Reason.NOT_STARTED
    experiment, allocation = running()
    assert compile_table(experiment, allocation).reason is Reason.ASSIGNED
    paused = pause(experiment, allocation, NOW)
    table = compile_table(paused.experiment, paused.allocation)
    assert table.reason is Reason.PAUSED
    assert {table.decide(f"u{n}", {}).arm for n in range(1000)} == {0}
    promoted = promote(experiment, allocation, 2, NOW)
    table = compile_table(promoted.experiment, promoted.allocation)
    assert (table.reason, table.decide("u", {}).arm) == (Reason.PROMOTED, 2)
    for arm in (1, 2):
        back = roll_back(
            experiment, allocation, arm, actor="ada", reason="bad", rollback_id=str(arm), now_ms=NOW
        )
        experiment, allocation = back.experiment, back.allocation
    table = compile_table(experiment, allocation)
    assert (table.reason, table.shares_ppm) == (Reason.ROLLED_BACK, (1_000_000, 0, 0))


def test_what_does_not_fit_falls_back_to_the_control() -> None:
    experiment, allocation = running()
    back = roll_back(experiment, allocation, 1, actor="ada", reason="bad", rollback_id="1", now_ms=NOW)
    for broken in (
        replace(allocation, epoch=9),
        replace(allocation, ranges=contiguous((500_000, 500_000))),
    ):
        with pytest.raises(ValueError, match="allocation"):
            compile_table(experiment, broken)
    with pytest.raises(ValueError, match="rolled back"):
        compile_table(back.experiment, allocation)
    table = fallback_table(back.experiment)
    assert not table.counted
    assert (table.decide("u", {}).arm, table.decide("u", {}).propensity_ppm) == (0, 1_000_000)


def test_cohorts_are_declared() -> None:
    experiment, allocation = running(cohorts={"attribute": "plan", "values": ["free", "pro"]})
    table = compile_table(experiment, allocation)
    asked = [{"plan": "pro"}, {"plan": "free"}, {"plan": "team"}, {}]
    assert [table.decide("u", each).cohort for each in asked] == [2, 1, 0, 0]
    assert len({table.decide("u", each).arm for each in asked}) == 1


def test_epoch_mode_draws_units_anew() -> None:
    experiment, _ = running(unit={"kind": "user", "mode": "epoch"})
    assert unit_salt(experiment) != unit_salt(replace(experiment, epoch=2))
    sticky, _ = running()
    assert unit_salt(sticky) == unit_salt(replace(sticky, epoch=2))


def test_request_mode_says_that_keys_must_be_fresh() -> None:
    assert compile_table(*running(unit={"kind": "user", "mode": "request"})).fresh
    assert not compile_table(*running()).fresh
    keys = {fresh_key(unit, issuer, n) for unit in ("u", "u\x001.1") for issuer in (1, 11) for n in (1, 17)}
    assert len(keys) == 8

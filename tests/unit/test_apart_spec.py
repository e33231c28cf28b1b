"""What a spec may say of cohorts that part, and what not beside it; and how a unit is told its own shares."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from bandit.decide import compile_table
from bandit.rollout.state import ArmState, Parting, Rollback
from bandit.rollout.transitions import reallocate
from bandit.spec.check import check
from server.rpc.columns import decide_many
from server.store.codec import dump_allocation, load_allocation, misfit
from tests.builders import NOW, running, spec

COHORTS: dict[str, Any] = {"attribute": "plan", "values": ["free", "team", "pro"]}


def found(**changes: Any) -> list[tuple[Any, str]]:
    return check(spec(**({"cohorts": COHORTS | {"apart": {}}} | changes)))


def test_cohorts_may_part_by_default_numbers() -> None:
    assert found() == []
    cohorts = spec(cohorts=COHORTS | {"apart": {}}).cohorts
    assert cohorts is not None
    assert cohorts.apart is not None
    assert (cohorts.apart.probability, cohorts.apart.min_decisions) == (0.9, 1000)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"cohorts": COHORTS | {"values": ["free", "team"], "apart": {}}}, "declare 1 more"),
        ({"baseline": "stationary"}, "a cohort's level would pass for an arm's"),
        ({"baseline": "stratified"}, "a cohort's level would pass for an arm's"),
        ({"budget": {"metric": "cost", "per_day": 5.0}}, "one set of shares"),
        (
            {"allocator": {"kind": "fixed", "weights": {"control": 0.5, "small": 0.25, "large": 0.25}}},
            "those written for all",
        ),
    ],
)
def test_what_does_not_go_together_is_said(changes: dict[str, Any], words: str) -> None:
    ((loc, sentence),) = found(**changes)
    assert loc == ("cohorts", "apart")
    assert words in sentence


def parted() -> Any:
    experiment, allocation = running(cohorts=COHORTS)
    own = [Parting(2, (100_000, 0, 900_000), 2, 0.97)]
    return experiment, reallocate(
        experiment, allocation, allocation.shares_ppm, (0.5, 0.5), "evidence", NOW, own
    ).allocation


def test_a_unit_is_decided_by_the_shares_of_its_cohort_and_told_them() -> None:
    experiment, allocation = parted()
    table = compile_table(experiment, allocation)
    units = [f"u{number}" for number in range(3000)]
    for plan, shares in (("free", (400_000, 300_000, 300_000)), ("team", (100_000, 0, 900_000))):
        one_by_one = [table.decide(unit, {"plan": plan}) for unit in units]
        for arm in range(3):
            count = sum(each.arm == arm for each in one_by_one)
            assert abs(count - 3000 * shares[arm] / 1e6) < 5 * (3000 * 0.25) ** 0.5
        assert all(each.propensity_ppm == shares[each.arm] for each in one_by_one)
        columns = decide_many(table, units, cohort=one_by_one[0].cohort)
        assert columns.arms.tolist() == [each.arm for each in one_by_one]
        assert columns.propensities_ppm.tolist() == [each.propensity_ppm for each in one_by_one]
        assert columns.rerouted.tolist() == [each.rerouted for each in one_by_one]
    common = [table.decide(unit, {"plan": "free"}) for unit in units]
    own = [table.decide(unit, {"plan": "team"}) for unit in units]
    for one, other in zip(common, own, strict=True):
        assert other.rerouted == (one.arm != other.arm), "it parted from the common ranges"


def test_an_allocation_with_cohorts_apart_is_read_back_and_held_against_its_spec() -> None:
    experiment, allocation = parted()
    again = load_allocation("key", dump_allocation(allocation))
    assert again == allocation
    assert misfit(experiment, again) is None
    assert "cohort 2 apart" in (misfit(running()[0], again) or "")


def test_shares_for_a_rolled_back_arm_are_refused_in_any_cohort() -> None:
    experiment, allocation = parted()
    dead = ArmState(rollback=Rollback("r", NOW, "me", ""))
    arms = (experiment.arms[0], experiment.arms[1], dead)
    common = replace(
        allocation,
        ranges=reallocate(
            experiment, allocation, (500_000, 500_000, 0), (0.5, 0.5), "evidence", NOW
        ).allocation.ranges,
    )
    with pytest.raises(ValueError, match="cohort 2"):
        compile_table(replace(experiment, arms=arms), common)

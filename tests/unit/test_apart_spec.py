"""What a spec may say of cohorts that part, and what not beside it; and how a unit is told its own shares."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from bandit.decide import compile_table
from bandit.rollout.state import ArmState, Parting, Rollback
from bandit.rollout.transitions import reallocate
from bandit.spec.check import check
from bandit.token import verify
from bandit.v1 import decision_service_pb2 as pb
from server.journal import Journal
from server.rpc.columns import decide_many
from server.rpc.decisions import Decisions
from server.snapshot import SnapshotKeeper
from server.store.base import Commit
from server.store.codec import dump_allocation, load_allocation, misfit
from server.store.memory import MemoryStore
from tests.builders import NOW, running, spec
from tests.fakes import FakeClock
from tests.serving import put_running

ANY: Any = None
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


def test_replies_and_tokens_have_the_propensity_of_the_cohort(tmp_path: Path) -> None:
    clock = FakeClock()
    store = MemoryStore(clock.now_ms)
    store.beat("learner", 3_600_000)
    now = put_running(store, cohorts=COHORTS)
    own = [Parting(2, (100_000, 0, 900_000), 2, 0.97)]
    move = reallocate(
        now.experiment, now.allocation, (400_000, 300_000, 300_000), (0.5, 0.5), "evidence", NOW, own
    )
    store.commit(Commit(now.generation, move.experiment, move.allocation))
    keeper = SnapshotKeeper(store, clock)
    keeper.poll()
    journal = Journal(tmp_path, 5, segment_bytes=1 << 16)
    served = Decisions(keeper, clock, journal)
    name, shares = "experiments/answers", {"free": [0.4, 0.3, 0.3], "team": [0.1, 0.0, 0.9]}
    units = [f"u{number}" for number in range(200)]
    for plan, own_shares in shares.items():
        many = served.DecideBatch(
            pb.DecideBatchRequest(experiment=name, units=units, attributes={"plan": plan}), ANY
        )
        for at, unit in enumerate(units):
            one = served.Decide(pb.DecideRequest(experiment=name, unit=unit, attributes={"plan": plan}), ANY)
            arm = many.arm_indexes[at]
            assert one.arm == many.arms[arm]
            assert one.propensity == own_shares[arm] == many.propensities_ppm[at] / 1e6
            token = many.tokens[at * many.token_size : (at + 1) * many.token_size]
            for claims in (verify(store.token_keys(), one.token), verify(store.token_keys(), token)):
                assert claims.propensity_ppm == many.propensities_ppm[at]
                assert claims.cohort_index == 1 + list(shares).index(plan)
    journal.close()


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

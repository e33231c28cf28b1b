"""Units that come back and cohorts that differ, from the decision to the report: on a memory and on a real store."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Mapping
from contextlib import closing

import pytest

from bandit.client.convert import spec_to_proto
from bandit.rollout.transitions import start
from bandit.spec.model import ExperimentSpec
from bandit.v1 import decision_service_pb2 as dpb
from bandit.v1 import experiment_service_pb2 as epb
from bandit.v1 import reward_service_pb2 as rpb
from bandit.v1.experiment_pb2 import ExperimentStatus
from bandit.v1.report_pb2 import Report
from server.runtime import LearnerLoop, LoopSettings
from server.store.embedded import Embedded
from server.store.memory import MemoryStore
from server.store.redis import RedisStore
from tests.builders import spec
from tests.fakes import FakeClock
from tests.gateway import Gateway
from tests.learning import Silent, learner
from tests.serving import serving, until

PLANS = ["elsewhere", "a", "b", "c", "d"]
BETTER = {"elsewhere": 0.3, "a": 0.3, "b": -0.3, "c": 0.3, "d": -0.3}
UNITS = 600
GOOD = {"name": "good", "kind": "bernoulli", "direction": "maximize", "attribution_window": "4s"}


def release(**changes: object) -> ExperimentSpec:
    values: dict[str, object] = {
        "arms": [{"name": "old", "control": True}, {"name": "new"}],
        "metrics": [GOOD],
        "objective": [{"metric": "good"}],
        "unit": {"kind": "user", "mode": "sticky"},
        "bounds": {"floor": 0.05, "control_floor": 0.05},
        "cohorts": {
            "attribute": "plan",
            "values": PLANS[1:],
            "apart": {"probability": 0.9, "min_decisions": 300},
        },
    }
    return spec(**(values | changes))


class World:
    """Units 0 to 599 decide in turn, for ever; those of plans b and d like the new arm less, the others more."""

    def __init__(self) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.now_ms)
        self.loop = LearnerLoop(self.store, self.clock, LoopSettings("learner", block_s=0.0), Silent())
        self.gateway = Gateway(self.store, "answers")
        self.gateway.create(release(), self.clock.now_ms())
        self.gateway.change(start, now_ms=self.clock.now_ms())
        self.loop.step()
        self.chance = random.Random(3)

    @staticmethod
    def plan(number: int) -> str:
        return PLANS[number % UNITS % 5]

    def draw(self, arm: str, number: int) -> Mapping[str, float]:
        rate = 0.5 + (BETTER[self.plan(number)] if arm == "new" else 0.0)
        return {"good": float(self.chance.random() < rate)}

    def run(self, seconds: float, per_half_second: int = 150) -> None:
        for _ in range(round(seconds * 2)):
            if per_half_second:
                self.gateway.serve(
                    per_half_second,
                    self.clock.now_ms(),
                    self.draw,
                    unit=lambda number: f"u{number % UNITS}",
                    attributes=lambda number: {"plan": self.plan(number)},
                )
            for _ in range(2):
                self.clock.advance(0.25)
                self.loop.step()

    @property
    def status(self) -> ExperimentStatus:
        raw = self.store.status("answers")
        assert raw is not None
        return ExperimentStatus.FromString(raw)

    @property
    def report(self) -> Report:
        raw = self.store.report("answers")
        assert raw is not None
        return Report.FromString(raw)


@pytest.mark.timeout(240)
def test_cohorts_part_and_nothing_that_is_told_of_them_is_wrong() -> None:
    world = World()
    world.run(30)
    told = world.status
    apart = {each.cohort: each for each in told.allocation.apart}
    assert set(apart) == {"b", "d"}
    assert told.allocation.shares_ppm[1] > 600_000
    for each in apart.values():
        assert each.shares_ppm[1] < 400_000
        assert sum(each.shares_ppm) == 1_000_000
        assert (each.arm, each.chance > 0.9) == ("new", True)
    assert {arm.arm: arm.exposures for arm in told.arms} == world.gateway.decided
    world.clock.advance(1300)
    world.run(8, per_half_second=0)
    periods = world.loop.writers["answers"].ledger_read.current()
    assert any(period.is_block and period.units is not None for period in periods)
    report = world.report
    assert [each.cohort for each in report.apart] == ["b", "d"]
    assert not report.sample_ratio.mismatch
    for arm in report.arms:
        assert abs(arm.mean_weight - 1.0) <= 5 * arm.mean_weight_se
    assert report.metrics[0].design_effect >= 1.0
    assert 0.0 < report.censored_units < 1.0
    assert 0.0 < report.censored_decisions < 1.0
    visits = world.loop.writers["answers"].clusters()
    assert visits is not None
    assert visits.visits.sum() == sum(world.gateway.decided.values())
    assert visits.values[..., 0].sum() == world.gateway.rewarded
    assert report.metrics[0].arms[1].HasField("first_exposure")
    assert not report.metrics[0].arms[0].HasField("first_exposure")


NAME = "experiments/answers"


@pytest.mark.slow
def test_sessions_over_the_wire_on_a_real_store(own_server: Embedded) -> None:
    """One user in many sessions meets both arms; every decision and reward is counted in the user's own bucket."""
    made = release(unit={"kind": "user", "mode": "session"}, cohorts=None, bounds={"floor": 0.3})
    with (
        closing(RedisStore(own_server.url)) as store,
        closing(RedisStore(own_server.url)) as other,
        learner(other) as loop,
        serving(store) as served,
    ):
        create = epb.CreateExperimentRequest(spec=spec_to_proto(made), request_id="c", actor="anna")
        served.operate.CreateExperiment(create)
        served.operate.StartExperiment(epb.StartExperimentRequest(name=NAME, request_id="s"))

        def told() -> ExperimentStatus:
            return served.operate.GetStatus(epb.GetStatusRequest(name=NAME)).status

        def decide(session: str) -> dpb.DecideResponse:
            request = dpb.DecideRequest(experiment=NAME, unit="anna", session=session)
            return served.decide.Decide(request, timeout=10)

        until(
            lambda: min((arm.share_ppm for arm in told().arms), default=0) > 0, 60.0, "shares for both arms"
        )
        number = told().allocation.number
        until(lambda: decide("warm").allocation_number >= number, 60.0, "the server has read them")
        before = told().exposures
        replies = [decide(f"s{index}") for index in range(60)]
        assert len({reply.arm for reply in replies}) == 2
        many = served.decide.DecideBatch(
            dpb.DecideBatchRequest(
                experiment=NAME, units=["anna"] * 40, sessions=[f"s{n}" for n in range(40)]
            ),
            timeout=10,
        )
        if many.allocation_number == replies[0].allocation_number == replies[-1].allocation_number:
            assert [many.arms[each] for each in many.arm_indexes] == [reply.arm for reply in replies[:40]]
        events = [rpb.RewardEvent(token=reply.token, metric="good", value=1.0) for reply in replies]
        results = served.reward.ReportRewards(
            rpb.ReportRewardsRequest(events=events, wait=True), timeout=20
        ).results
        assert Counter(each.outcome for each in results) == {rpb.REWARD_OUTCOME_APPLIED: 60}
        until(lambda: told().exposures >= before + 100, 60.0, "all decisions are counted")
        sums = loop.writers["answers"].clusters()
        assert sums is not None
        assert (sums.visits.sum(axis=0) > 0).sum() == 1, "one user, one bucket"
        assert sums.visits.sum() == told().exposures
        assert sums.values[:, 0, :, 0].sum() == 60

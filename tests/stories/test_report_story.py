"""A release up to its report: shares move between a decision and its reward, periods fold, and what is published stays
what the outcomes were."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from bandit.rollout.transitions import start, update
from bandit.spec.model import ExperimentSpec
from bandit.v1.report_pb2 import Effect, Report
from server.runtime import LearnerLoop, LoopSettings
from server.store.memory import MemoryStore
from tests.builders import spec
from tests.fakes import FakeClock
from tests.gateway import Gateway
from tests.learning import Silent

METRICS = [
    {"name": "good", "kind": "bernoulli", "direction": "maximize", "attribution_window": "4s"},
    {"name": "bad", "kind": "bernoulli", "direction": "minimize", "attribution_window": "4s"},
]
HYPOTHESIS = "The small model answers better."


def release(**changes: object) -> ExperimentSpec:
    values: dict[str, object] = {
        "hypothesis": HYPOTHESIS,
        "unit": {"kind": "request"},
        "metrics": METRICS,
        "objective": [{"metric": "good"}],
    }
    return spec(**(values | changes))


class World:
    """A store, a learner, a gateway and the time; outcomes are drawn by seed."""

    def __init__(self, made: ExperimentSpec, good: Mapping[str, float]) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.now_ms)
        self.loop = LearnerLoop(self.store, self.clock, LoopSettings("learner", block_s=0.0), Silent())
        self.gateway = Gateway(self.store, made.experiment)
        self.gateway.create(made, self.clock.now_ms())
        self.gateway.change(start, now_ms=self.clock.now_ms())
        self.chance = random.Random(5)
        self.good = good
        self.ones = dict.fromkeys(good, 0)

    def draw(self, arm: str, number: int) -> Mapping[str, float]:
        good = float(self.chance.random() < self.good[arm])
        self.ones[arm] += int(good)
        return {"good": good, "bad": float(self.chance.random() < 0.01)}

    def run(self, seconds: float, per_half_second: int = 100) -> None:
        for _ in range(round(seconds * 2)):
            if per_half_second:
                self.gateway.serve(per_half_second, self.clock.now_ms(), self.draw)
            for _ in range(2):
                self.clock.advance(0.25)
                self.loop.step()

    @property
    def report(self) -> Report:
        raw = self.store.report(self.gateway.name)
        assert raw is not None
        return Report.FromString(raw)


@pytest.mark.timeout(240)
def test_a_release_is_reported_as_it_was() -> None:
    world = World(release(), {"control": 0.4, "small": 0.6, "large": 0.4})
    world.run(90)
    world.clock.advance(1300)
    world.run(20, per_half_second=0)
    periods = world.loop.writers["answers"].ledger_read.current()
    assert any(period.is_block for period in periods), "this story wants folded periods"
    report = world.report
    assert report.hypothesis == HYPOTHESIS
    assert {arm.arm: arm.decisions for arm in report.arms} == world.gateway.decided
    good = report.metrics[0]
    assert good.matured == 1.0
    for arm in good.arms:
        assert arm.n == world.gateway.decided[arm.arm]
        assert arm.plain_mean_biased == pytest.approx(world.ones[arm.arm] / arm.n)
        # Six standard errors of the mean of the fewest.
        assert arm.mean == pytest.approx(world.good[arm.arm], abs=6 * (0.25 / arm.n_effective) ** 0.5)
    small, large = good.arms[1].effect, good.arms[2].effect
    assert (small.finding, large.finding) == (Effect.FINDING_BETTER, Effect.FINDING_NOT_SHOWN)
    assert small.low < 0.2 < small.high
    assert small.aipw == pytest.approx(0.2, abs=6 * small.aipw_se)
    assert (report.winner.arm, report.winner.leader) == ("small", "small")
    assert report.winner.lift == pytest.approx(0.2, abs=6 * report.winner.lift_se)
    # Each decision has the share of its own version, whatever the shares were when its reward came.
    assert not report.sample_ratio.mismatch
    for each in report.arms:
        assert abs(each.mean_weight - 1.0) <= 5 * each.mean_weight_se
        # The floor of 0.02; of folded periods to the next lower power of 2.
        assert 2.0**-6 <= each.least_propensity <= 1.0
    assert [arm.rolled_back for arm in report.arms] == [False, False, False]


def test_a_new_epoch_is_reported_anew() -> None:
    world = World(release(), {"control": 0.4, "small": 0.6, "large": 0.4})
    world.run(10)
    assert world.report.decisions > 0
    arms = [
        {"name": "control", "control": True, "digest": "sha256:0"},
        {"name": "small", "digest": "sha256:9"},
    ]
    world.gateway.change(update, release(arms=arms), now_ms=world.clock.now_ms())
    world.run(6, per_half_second=0)
    report = world.report
    assert (report.epoch, report.decisions) == (2, 0)
    assert [arm.arm for arm in report.arms] == ["control", "small"]
    assert "no winner" in report.winner.message


def test_equal_arms_are_not_called_different() -> None:
    world = World(release(), {"control": 0.5, "small": 0.5, "large": 0.5})
    for _ in range(6):
        world.run(10)
        report = world.report
        assert report.winner.arm == ""
        for metric in report.metrics:
            assert {arm.effect.finding for arm in metric.arms[1:]} == {Effect.FINDING_NOT_SHOWN}

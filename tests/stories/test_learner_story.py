"""The learner on a memory store with a clock in the test's hand: shares move by evidence, harm is rolled back."""

from __future__ import annotations

import random
from collections.abc import Mapping

import pytest

from bandit.errors import Stale
from bandit.rollout.audit import first_broken
from bandit.rollout.state import State
from bandit.rollout.transitions import clear_rollback, pause, resume, start, update
from bandit.spec.model import ExperimentSpec
from bandit.v1.experiment_pb2 import ExperimentStatus
from server.runtime import LearnerLoop, LoopSettings
from server.store.memory import MemoryStore
from tests.builders import spec
from tests.fakes import FakeClock
from tests.gateway import Gateway


class Quiet:
    """Telemetry that only remembers."""

    def __init__(self) -> None:
        self.actions: list[str] = []

    def folded(self, entries: int, rewards: int, exposures: int, seconds: float) -> None:
        """See Telemetry."""

    def committed(self, action: str) -> None:
        """See Telemetry."""
        self.actions.append(action)

    def evaluated(self, experiment: str, behind: int, outcomes: dict[str, int]) -> None:
        """See Telemetry."""

    def forgotten(self, experiment: str) -> None:
        """See Telemetry."""

    def leases(self, held: int) -> None:
        """See Telemetry."""

    def set_back(self, action: str) -> None:
        """See Telemetry."""


class World:
    """A store, a learner, a gateway and the time."""

    def __init__(self, made: ExperimentSpec, seed: int = 1) -> None:
        self.clock = FakeClock()
        self.store = MemoryStore(self.clock.now_ms)
        self.telemetry = Quiet()
        self.loop = self.learner("first")
        self.gateway = Gateway(self.store, made.experiment)
        self.gateway.create(made, self.clock.now_ms())
        self.chance = random.Random(seed)
        self.rates: dict[str, Mapping[str, float]] = {}

    def learner(self, owner: str) -> LearnerLoop:
        return LearnerLoop(self.store, self.clock, LoopSettings(owner, block_s=0.0), self.telemetry)

    def start(self) -> None:
        self.gateway.change(start, now_ms=self.clock.now_ms())

    def draw(self, arm: str, number: int) -> Mapping[str, float]:
        return {metric: float(self.chance.random() < rate) for metric, rate in self.rates[arm].items()}

    def run(self, seconds: float, per_second: int = 200) -> None:
        for _ in range(round(seconds * 2)):
            if per_second:
                self.gateway.serve(per_second // 2, self.clock.now_ms(), self.draw)
            self.clock.advance(0.25)
            self.loop.step()
            self.clock.advance(0.25)
            self.loop.step()

    @property
    def shares(self) -> tuple[int, ...]:
        stored = self.store.load(self.gateway.name)
        assert stored is not None
        return stored.allocation.shares_ppm

    @property
    def status(self) -> ExperimentStatus:
        raw = self.store.status(self.gateway.name)
        assert raw is not None
        return ExperimentStatus.FromString(raw)

    def experiment(self) -> object:
        stored = self.store.load(self.gateway.name)
        assert stored is not None
        return stored.experiment


METRICS = [
    {"name": "good", "kind": "bernoulli", "direction": "maximize", "attribution_window": "4s"},
    {"name": "bad", "kind": "bernoulli", "direction": "minimize", "attribution_window": "4s"},
]
GUARDRAILS = [
    {"name": "bad-limit", "kind": "rate_limit", "metric": "bad", "limit": 0.02},
    {"name": "bad-harm", "kind": "harm", "metric": "bad", "margin": 1.2},
]


def three(**changes: object) -> ExperimentSpec:
    values: dict[str, object] = {
        "metrics": METRICS,
        "objective": [{"metric": "good"}],
        "guardrails": GUARDRAILS,
    }
    return spec(**(values | changes))


def rates(
    control: float, small: float, large: float, bad: tuple[float, float, float] = (0.01, 0.01, 0.01)
) -> dict[str, Mapping[str, float]]:
    goods = {"control": control, "small": small, "large": large}
    return {arm: {"good": good, "bad": b} for (arm, good), b in zip(goods.items(), bad, strict=True)}


@pytest.mark.parametrize("allocator", ["thompson", "kl_ucb"])
def test_the_better_arm_wins_share_and_every_count_is_exact(allocator: str) -> None:
    world = World(three(allocator={"kind": allocator}))
    world.rates = rates(0.5, 0.75, 0.4)
    world.run(2)
    assert world.shares == (1_000_000, 0, 0)
    world.start()
    world.run(40)
    assert world.shares[1] > 700_000
    assert min(world.shares) >= 20_000
    world.run(8, per_second=0)
    status = world.status
    assert {arm.arm: arm.exposures for arm in status.arms} == world.gateway.decided
    assert status.rewards.applied == world.gateway.rewarded
    assert status.exposures_lost == 0


def test_a_harmful_arm_is_rolled_back_once_and_stays_there() -> None:
    world = World(three())
    world.rates = rates(0.5, 0.6, 0.7)
    world.start()
    world.run(10)
    assert world.shares[2] > 0
    world.rates = rates(0.5, 0.6, 0.95, bad=(0.01, 0.01, 0.2))
    world.run(15)
    assert world.shares[2] == 0
    assert world.telemetry.actions.count("rolled_back") == 1
    decided = world.gateway.decided["large"]
    world.run(20)
    assert world.gateway.decided["large"] == decided
    records = list(reversed(world.store.audit("answers", None, 100)))
    assert first_broken(records) is None
    record = next(each for each in records if each.action == "rolled_back")
    assert record.actor.startswith("guardrail/bad-")
    assert record.verdict is not None
    assert record.verdict["outcome"] == "fail"
    assert "large" in record.reason
    arm = world.status.arms[2]
    assert (arm.state.rollback.reason, arm.share_ppm) == (record.reason, 0)


def test_a_rollback_can_be_cleared_and_spends_less_alpha() -> None:
    world = World(three())
    world.rates = rates(0.5, 0.6, 0.9, bad=(0.01, 0.01, 0.3))
    world.start()
    world.run(12)
    assert world.shares[2] == 0
    before = {v.guardrail: v.log_threshold for v in world.status.verdicts if v.arm == "small"}
    world.rates = rates(0.5, 0.6, 0.9)
    world.gateway.change(clear_rollback, 2, now_ms=world.clock.now_ms())
    world.run(20)
    assert world.shares[2] > 100_000
    after = {v.guardrail: v.log_threshold for v in world.status.verdicts if v.arm == "large"}
    assert all(after[name] > before[name] for name in before)


def test_hold_keeps_the_share_from_rising() -> None:
    world = World(three(guardrails=[{**GUARDRAILS[0], "action": "hold"}], bounds={"ramp_per_minute": 0.5}))
    world.rates = rates(0.3, 0.3, 0.9, bad=(0.01, 0.01, 0.2))
    world.start()
    world.run(10)
    held = world.shares[2]
    assert 0 < held < 300_000
    world.run(60)
    assert world.shares[2] <= held
    assert world.telemetry.actions.count("held") == 1


def test_silence_never_raises_nor_rolls_back() -> None:
    world = World(three())
    world.rates = rates(0.5, 0.5, 0.5)
    world.start()
    world.run(5)
    verdicts = {(v.guardrail, v.arm): v.outcome for v in world.status.verdicts}
    world.run(60, per_second=0)
    assert "rolled_back" not in world.telemetry.actions
    after = {(v.guardrail, v.arm): v.outcome for v in world.status.verdicts}
    assert {key: after[key] for key in after if key[0] == "bad-limit"} == {
        key: verdicts[key] for key in verdicts if key[0] == "bad-limit"
    }


def test_pause_and_resume_keep_what_was_learned() -> None:
    world = World(three())
    world.rates = rates(0.4, 0.7, 0.4)
    world.start()
    world.run(30)
    won = world.shares[1]
    world.gateway.change(pause, now_ms=world.clock.now_ms())
    world.run(5)
    assert world.shares == (1_000_000, 0, 0)
    world.gateway.change(resume, now_ms=world.clock.now_ms())
    world.run(3)
    assert world.shares[1] > won - 100_000


def test_two_learners_never_both_write() -> None:
    world = World(three())
    world.rates = rates(0.5, 0.6, 0.5)
    world.start()
    world.run(5)
    second = world.learner("second")
    second.step()
    assert list(second.writers) == []
    stale = world.loop.writers["answers"]
    world.clock.advance(6)  # the first pauses longer than its lease
    second.step()
    assert list(second.writers) == ["answers"]
    world.gateway.serve(50, world.clock.now_ms(), world.draw)
    second.step()
    world.loop.step()
    assert world.loop.writers.get("answers") is not stale or not world.loop.writers
    assert second.writers["answers"].sequences["answers"] > stale.sequences["answers"]
    world.loop = second
    world.run(5)
    assert {arm.arm: arm.exposures for arm in world.status.arms} == world.gateway.decided
    assert world.status.rewards.duplicate == 0


def test_a_writer_that_slept_changes_nothing_and_says_so() -> None:
    world = World(three())
    world.rates = rates(0.5, 0.6, 0.5)
    world.start()
    world.run(3)
    asleep = world.loop.writers["answers"]
    world.loop = world.learner("second")
    world.clock.advance(6)
    world.run(3)
    before = world.store.load_writer("answers")
    offset = asleep.offsets["answers"]
    entries = world.store.read({"answers": offset}, 100, 0)["answers"]
    with pytest.raises(Stale, match="another writer"):
        asleep.take("answers", entries)
    after = world.store.load_writer("answers")
    assert before is not None
    assert after is not None
    assert after.sequence == before.sequence
    assert after.offset == before.offset
    assert after.counts == before.counts


def test_a_new_learner_goes_on_where_the_last_one_was_killed() -> None:
    world = World(three())
    world.rates = rates(0.5, 0.7, 0.5)
    world.start()
    world.run(10)
    shares = world.shares
    world.loop = world.learner("next")
    world.clock.advance(6)
    world.run(5)
    assert abs(world.shares[1] - shares[1]) < 200_000
    assert {arm.arm: arm.exposures for arm in world.status.arms} == world.gateway.decided
    assert world.status.rewards.applied == world.gateway.rewarded


def test_a_new_build_starts_without_evidence_and_old_rewards_stay_with_the_old() -> None:
    world = World(three())
    world.rates = rates(0.5, 0.6, 0.7)
    world.start()
    world.run(10)
    arms = [
        {"name": "control", "control": True, "digest": "sha256:0"},
        {"name": "small", "digest": "sha256:1"},
        {"name": "large", "digest": "sha256:2b"},
    ]
    changed = three(arms=arms)
    world.gateway.change(update, changed, now_ms=world.clock.now_ms())
    world.loop.step()
    world.clock.advance(0.3)
    world.loop.step()
    status = world.status
    assert status.epoch == 2
    assert sum(arm.exposures for arm in status.arms) == 0
    assert all(verdict.n == 0 for verdict in status.verdicts)
    world.run(10)
    assert world.shares[2] > 0


def test_a_draft_learns_nothing_about_challengers_and_deletion_is_final() -> None:
    world = World(three())
    world.rates = rates(0.5, 0.6, 0.7)
    world.run(3)
    assert set(world.gateway.decided) == {"control"}
    stored = world.store.load("answers")
    assert stored is not None
    assert stored.experiment.state is State.DRAFT
    world.store.delete("answers", stored.generation)
    world.clock.advance(2)
    world.loop.step()
    assert world.loop.writers == {}
    world.gateway.create(three(), world.clock.now_ms())
    world.gateway.number = 0
    world.gateway.decided.clear()
    world.run(3)
    assert {arm.arm: arm.exposures for arm in world.status.arms if arm.exposures} == world.gateway.decided

"""A look at an experiment with features: when a new rule is due, what ramps go on from, and what people are told."""

from __future__ import annotations

import math
import random
from typing import Any

import pytest

from bandit.counting import layout_of
from bandit.guardrails.base import Folded, Outcome
from bandit.learn import fold, open_periods
from bandit.ledger import ONE, Ledger, split_table, table
from bandit.linear.sums import totals
from bandit.linear.weights import marks_of
from bandit.log import EXPOSURE, EXPOSURES, LogEntry, exposure_entry
from bandit.look import EVIDENCE, MOVED_ENOUGH, Look, look
from bandit.ranges import PPM
from bandit.reward import RewardRecord
from bandit.rollout.state import Allocation, Experiment
from bandit.rollout.transitions import roll_back
from bandit.seen import Seen
from bandit.v1 import report_pb2
from server.control.report import report_message
from server.control.status import status_of
from server.store.base import RewardCounts, Stored
from tests.builders import NOW, running

LINEAR: dict[str, Any] = {
    "metrics": [
        {"name": "good", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1h"},
        {"name": "bad", "kind": "bernoulli", "direction": "minimize", "attribution_window": "1h"},
    ],
    "objective": [{"metric": "good"}],
    "allocator": {"kind": "lin_ts"},
    "baseline": "stationary",
    "features": [{"name": "plan", "kind": "categorical", "values": ["free", "pro"]}],
    "guardrails": [{"name": "limit", "kind": "rate_limit", "metric": "bad", "limit": 0.3}],
}


class Desk:
    """An experiment with its ledger, and looks at it."""

    def __init__(self, **changes: Any) -> None:
        self.experiment, self.allocation = running(**(LINEAR | changes))
        self.ledger = Ledger(self.experiment.epoch, layout_of(self.experiment.spec))
        self.seen = Seen()
        open_periods(self.ledger, [self.allocation], self.experiment)
        self.number = 0

    def serve(self, count: int, *, bad: float = 0.0, base: float = 0.0) -> None:
        """Decisions over all arms and plans with rewards at once: the small arm is best for pro plans, for free ones
        the control."""
        chance, exposures, good, others = random.Random(self.number), [], [], []
        first = self.number
        for number in range(first, first + count):
            arm, plan = chance.randrange(3), chance.choice((1, 2))
            rate = 0.8 if (arm, plan) in ((1, 2), (0, 1)) else 0.3
            at, period = NOW + 3000, self.allocation.number
            exposures.append(EXPOSURE.pack(period, 0, arm, 0))
            value = ONE if chance.random() < rate else 0
            # Drawn evenly, whatever the allocation says, and the tokens bring just that.
            marks = marks_of((333_333,) * 3) + (333_333).to_bytes(3, "little")
            good.append(RewardRecord(5, 1, number, at, period, value, 0, arm, 0, 0, bytes([plan]) + marks))
            harm = ONE if chance.random() < (bad if arm == 1 else base) else 0
            others.append(RewardRecord(5, 1, number, at, period, harm, 0, arm, 1, 0, marks))
        self.number += count
        payload = exposure_entry(5, 1, first, b"".join(exposures))
        entries = [LogEntry(f"{NOW + 4000}-{first}", EXPOSURES, payload)]
        entries += [
            LogEntry(f"{NOW + 4000}-{first + k}", rows[0].kind, b"".join(row.pack() for row in rows))
            for k, rows in ((1, good), (2, others))
        ]
        done = fold(entries, self.experiment, self.ledger, self.seen)
        assert done.outcomes[1] == 2 * count

    def look(self, after_s: float = 5.0) -> Look:
        periods, layout = self.ledger.current(), self.ledger.layout
        return look(
            self.experiment,
            self.allocation,
            table(periods, layout),
            split_table(periods, layout),
            Folded.empty_of(self.experiment.spec),
            self.allocation.time_ms + round(after_s * 1000),
            totals=totals((each.linear, 1.0) for each in periods if each.linear is not None),
        )

    def take(self, seen: Look) -> None:
        assert seen.transition is not None
        self.experiment, self.allocation = seen.transition.experiment, seen.transition.allocation
        open_periods(self.ledger, [self.allocation], self.experiment)


def test_a_new_rule_is_due_when_a_tenth_more_is_known_and_not_before() -> None:
    desk = Desk()
    desk.serve(20_000)
    desk.take(desk.look())
    rule = desk.allocation.linear
    assert rule is not None
    assert desk.allocation.cause == EVIDENCE
    desk.serve(1000)
    assert desk.look(10.0).transition is None
    desk.serve(2500)
    assert desk.look(0.5).transition is None  # the least life of a period
    later = desk.look(10.0)
    pairs = zip(later.proposal.shares_ppm, desk.allocation.shares_ppm, strict=True)
    assert (
        sum(abs(after - before) for after, before in pairs) < 2 * MOVED_ENOUGH * PPM
    )  # not for the shares of all
    assert later.transition is not None
    assert later.transition.allocation.linear != rule


def test_a_ramp_goes_on_from_what_a_request_might_have_and_not_from_the_mean() -> None:
    desk = Desk(bounds={"ramp_per_minute": 0.1, "floor": 0.02})
    desk.serve(900)
    rule = None
    for minute in range(1, 6):
        desk.serve(900)
        desk.take(desk.look(60.0))
        rule = desk.allocation.linear
        assert rule is not None
        assert rule.high_ppm[1] == min(300_000 + 100_000 * minute, 1_000_000)
    # Half of the requests are of pro plans, so the mean is far below what such a request has.
    assert desk.allocation.shares_ppm[1] < 0.6 * rule.high_ppm[1] if rule else False


def test_a_limit_still_rolls_back_and_the_next_look_leaves_the_arm_out() -> None:
    desk = Desk()
    desk.serve(300)
    desk.take(desk.look())
    desk.serve(600, bad=0.9)
    fallen = desk.look(10.0)
    assert fallen.actor == "guardrail/limit"
    assert fallen.transition is not None
    assert fallen.transition.allocation.linear is None
    desk.take(fallen)
    assert desk.allocation.shares_ppm[1] == 0
    desk.take(desk.look(1.0))
    rule = desk.allocation.linear
    assert rule is not None
    assert rule.high_ppm[1] == 0
    assert desk.allocation.shares_ppm[1] == 0


def stored(experiment: Experiment, allocation: Allocation) -> Stored:
    return Stored(experiment, allocation, 1, 0, "")


def test_nobody_is_told_a_comparison_of_unlike_requests() -> None:
    desk = Desk()
    desk.serve(600)
    seen = desk.look()
    told = report_message(stored(desk.experiment, desk.allocation), seen)
    assert (told.winner.arm, told.winner.leader, told.winner.rival) == ("", "", "")
    assert "features of a request" in told.winner.message
    assert not told.winner.HasField("lift")
    assert not told.winner.HasField("requests_needed")
    assert not told.sample_ratio.mismatch
    assert "not checked" in told.sample_ratio.message
    assert told.notes[0].startswith("each arm serves other requests")
    for arm in told.arms:
        assert not arm.objective.HasField("estimate")  # no window is closed yet
        assert not arm.HasField("mean_weight")
        assert not arm.HasField("least_propensity")
        assert [each.column for each in arm.coefficients] == [
            "intercept",
            "plan=other",
            "plan=free",
            "plan=pro",
        ]
    for metric in told.metrics:
        assert not metric.cohorts
        for each in metric.arms:
            assert not each.effect.HasField("estimate")
            assert not each.HasField("mean")
            assert each.HasField("plain_mean_biased")


def test_the_status_says_what_an_arm_is_worth_for_which_request() -> None:
    desk = Desk()
    desk.serve(900)
    seen = desk.look()
    status = status_of(stored(desk.experiment, desk.allocation), seen, desk.ledger, RewardCounts(), 0, 0, [])
    assert status.warnings[0].startswith("each arm serves other requests")
    assert not status.HasField("requests_more")
    small = {each.column: each for each in status.arms[1].coefficients}
    assert small["plan=pro"].mean == pytest.approx(0.25, abs=0.06)
    assert small["plan=free"].mean == pytest.approx(-0.25, abs=0.06)
    assert small["intercept"].mean == pytest.approx(0.55, abs=0.06)
    assert 0.0 < small["plan=pro"].sd < 0.05
    assert sum(arm.p_best for arm in status.arms) == pytest.approx(1.0)
    assert all(math.isfinite(arm.expected_loss) for arm in status.arms)


def test_a_rollback_by_hand_ends_the_rule_until_the_next_look() -> None:
    desk = Desk()
    desk.serve(300)
    desk.take(desk.look())
    made = roll_back(
        desk.experiment, desk.allocation, 2, actor="o", reason="r", rollback_id="x", now_ms=NOW + 9000
    )
    desk.experiment, desk.allocation = made.experiment, made.allocation
    assert desk.allocation.linear is None
    assert desk.look(0.1).transition is not None  # at once, though no interval has passed


def test_effects_are_told_of_requests_that_both_may_serve() -> None:
    desk = Desk()
    desk.serve(3000, bad=0.2, base=0.2)
    desk.take(desk.look())
    told = report_message(stored(desk.experiment, desk.allocation), desk.look(2 * 3600.0))
    good, bad = told.metrics
    # Even shares: 0.8 and 0.3 for the small arm in two plans, 0.3 and 0.8 for the control.
    effect = good.arms[1].effect
    assert effect.estimate == pytest.approx(0.0, abs=0.08)
    assert effect.low < 0.0 < effect.high < effect.low + 0.25
    assert effect.n + effect.n_control == pytest.approx(2000, abs=100)
    beside = good.arms[1]
    assert beside.mean - beside.control_mean == pytest.approx(effect.estimate, abs=0.02)
    assert beside.mean == pytest.approx(beside.plain_mean_biased, abs=1e-6)  # even shares: all weigh alike
    assert beside.n_effective == pytest.approx(beside.n, rel=1e-3)
    assert 0.96 <= beside.covered <= 1.0
    assert not good.arms[0].HasField("mean")
    large = good.arms[2].effect
    assert large.estimate == pytest.approx(-0.25, abs=0.08)
    assert large.finding == report_pb2.Effect.FINDING_WORSE
    assert bad.arms[2].effect.estimate == pytest.approx(0.0, abs=0.08)
    assert not good.arms[0].HasField("effect")
    assert told.arms[2].objective.finding == report_pb2.Effect.FINDING_WORSE
    assert not told.arms[2].objective.HasField("aipw")


def test_harm_rolls_back_an_arm_that_is_worse_than_the_control_on_its_own_requests() -> None:
    desk = Desk(guardrails=[{"name": "harm", "kind": "harm", "metric": "bad"}])
    desk.serve(1500, bad=0.25, base=0.25)
    desk.take(desk.look())
    calm = desk.look(2 * 3600.0)
    assert [each.outcome for each in calm.verdicts] == [Outcome.INCONCLUSIVE] * 2
    assert calm.verdicts[0].n_control == pytest.approx(500, abs=80)
    desk.take(calm)
    desk.serve(1500, bad=0.75, base=0.25)
    young = desk.look(10.0)
    assert young.decided is None  # windows are open
    desk.take(young)
    fallen = desk.look(2 * 3600.0)
    assert fallen.actor == "guardrail/harm"
    (failed,) = (each for each in fallen.verdicts if each.outcome is Outcome.FAIL)
    assert failed.arm == 1
    assert failed.observed == pytest.approx(0.5, abs=0.06)
    assert failed.reference == pytest.approx(0.25, abs=0.06)

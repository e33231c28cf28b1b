"""Units that come back, under the guardrails that follow periods one by one or count decisions: pitfall 22."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bandit.clusters import FEW_UNITS, design_effects, repeats_of, visit_effect
from bandit.guardrails.base import ArmStanding, Folded, Outcome
from bandit.guardrails.judge import accumulate, judge
from bandit.ledger import BUCKETS, ONE, Clusters, PeriodTable
from bandit.spec.model import ExperimentSpec
from tests.builders import spec
from tests.evidence import periods

LATE = 10**9
ROWS, SHARE, ALPHA = 30, 0.3, 0.05
STANDING = [ArmStanding(1, 1, live=True)] * 2
KINDS: dict[str, dict[str, Any]] = {
    "breaker": {"kind": "breaker", "metric": "bad", "limit": 0.05, "tail": 1e-4},
    "became_worse": {"kind": "became_worse", "metric": "bad", "run_length": 1000},
    "sample_ratio": {"kind": "sample_ratio", "action": "flag"},
}
UNITS, EVENTS = 100, 20


def of(kind: str) -> ExperimentSpec:
    return spec(
        arms=[{"name": "old", "control": True}, {"name": "new"}],
        metrics=[{"name": "bad", "kind": "bernoulli", "direction": "minimize", "attribution_window": "1s"}],
        objective=[{"metric": "bad"}],
        unit={"kind": "user", "mode": "sticky"},
        guardrails=[{"name": "watched", **KINDS[kind]}],
        alpha=ALPHA,
    )


class Release:
    """Periods of arms with a rate of ``rate``; a unit has EVENTS equal outcomes, in one period or (``back``) one in
    each of so many."""

    def __init__(
        self, seed: int, rate: float, *, back: bool, harmful: float = 1.0, drop: float = 0.0
    ) -> None:
        chance = np.random.default_rng(seed)
        self.n, self.s = np.zeros((ROWS, 2)), np.zeros((ROWS, 2))
        self.clusters = np.zeros((ROWS, 2, BUCKETS, 2), np.int64)
        for start in range(0, ROWS, EVENTS if back else 1):
            rows = range(start, min(start + EVENTS, ROWS)) if back else (start,)
            each = 1 if back else EVENTS
            count = UNITS * EVENTS if back else UNITS
            arm = (chance.random(count) < SHARE).astype(int)
            bad = chance.random(count) < np.where(arm == 1, rate * harmful, rate)
            seen = (chance.random(count) >= drop) | (arm == 0)
            bucket = chance.integers(0, BUCKETS, count)
            for row in rows:
                for k in range(2):
                    on = (arm == k) & seen
                    self.n[row, k], self.s[row, k] = each * on.sum(), each * (on & bad).sum()
                    np.add.at(self.clusters[row, k, :, 0], bucket[on], each)
                    np.add.at(self.clusters[row, k, :, 1], bucket[on & bad], each * ONE)

    def table(self, made: ExperimentSpec, rows: int) -> PeriodTable:
        seen = periods(made, self.n[:rows, :, None], self.s[:rows, :, None], centre=0.1)
        return replace(seen, share=np.tile([1 - SHARE, SHARE], (rows, 1)))

    def sums(self, rows: int) -> Clusters:
        total = self.clusters[:rows].sum(axis=0)
        return Clusters(total[:, None], total[..., 0], np.zeros(2, np.int64))

    def failed(self, kind: str, *, told: bool = True) -> bool:
        """Was the arm failed at any look, one after each period?"""
        made = of(kind)
        for rows in range(1, ROWS + 1):
            table, clusters = self.table(made, rows), self.sums(rows)
            effects = design_effects(made, clusters, table)
            repeats = repeats_of(effects, clusters) if told else None
            (verdict,) = judge(
                made, table, Folded.empty_of(made), STANDING, LATE, None, effects, repeats=repeats, told=False
            )
            if verdict.outcome is Outcome.FAIL:
                return True
        return False


@pytest.mark.slow
@pytest.mark.parametrize("back", [False, True], ids=["at_once", "coming_back"])
@pytest.mark.parametrize(("kind", "rate"), [("breaker", 0.04), ("became_worse", 0.1), ("sample_ratio", 0.1)])
def test_healthy_arms_are_failed_no_more_often_than_promised_and_only_because_units_are_told(
    kind: str, rate: float, back: bool
) -> None:
    """40 releases of 30 looks; a run length of 1,000 periods is 0.03 false alarms in one of them. The breaker looks at
    no more than a period or two, so units that come back later do not mislead it."""
    runs = 40
    releases = [Release(seed, rate, back=back) for seed in range(runs)]
    assert sum(each.failed(kind) for each in releases) <= int(stats.binom.isf(1e-6, runs, ALPHA))
    blind = sum(each.failed(kind, told=False) for each in releases[:12])
    if not (back and kind == "breaker"):
        assert blind > 6, "without it most healthy arms fail"


@pytest.mark.parametrize(("kind", "rate", "harmful"), [("breaker", 0.02, 25.0), ("became_worse", 0.1, 5.0)])
def test_harm_is_found_all_the_same(kind: str, rate: float, harmful: float) -> None:
    assert all(Release(seed, rate, back=False, harmful=harmful).failed(kind) for seed in range(6))


def test_lost_decisions_are_found_all_the_same() -> None:
    """Half of the new arm's units lose their decisions."""
    assert all(Release(seed, 0.1, back=False, drop=0.5).failed("sample_ratio") for seed in range(6))


def test_the_effect_of_decisions_is_how_often_a_unit_decides() -> None:
    told = [
        visit_effect(Release(seed, 0.1, back=back).sums(ROWS)) for back in (False, True) for seed in range(8)
    ]
    assert np.mean(told) == pytest.approx(EVENTS, rel=0.15)
    assert (
        visit_effect(
            Clusters(
                np.zeros((2, 1, BUCKETS, 2), np.int64),
                np.zeros((2, BUCKETS), np.int64),
                np.zeros(2, np.int64),
            )
        )
        == 1.0
    )


def test_the_first_units_are_believed_to_be_as_alike_as_their_buckets_are_full() -> None:
    """One unit with twenty equal outcomes is no catastrophe, and no evidence of twenty; 64 of one outcome are 64."""
    made = of("breaker")
    values = np.zeros((2, 1, BUCKETS, 2), np.int64)
    values[1, 0, 7] = (20, 20 * ONE)
    lone = Clusters(values, values[:, 0, :, 0], np.zeros(2, np.int64))
    table = periods(made, [[[100.0], [20.0]]], [[[0.0], [20.0]]])
    effects = design_effects(made, lone, table)
    repeats = repeats_of(effects, lone)
    assert repeats is not None
    assert repeats.values[1, 0] == 20.0
    assert repeats.visits == 20.0
    single = np.zeros((2, 1, BUCKETS, 2), np.int64)
    single[:, 0, :, 0] = 1
    apart = repeats_of(np.ones(1), Clusters(single, single[:, 0, :, 0], np.zeros(2, np.int64)))
    assert apart is not None
    assert apart.values.tolist() == [[1.0], [1.0]]
    assert FEW_UNITS == 32


@pytest.mark.parametrize("kind", ["breaker", "became_worse", "sample_ratio"])
def test_what_was_folded_counts_as_it_did_when_it_was(kind: str) -> None:
    made, drawn = of(kind), Release(3, 0.1, back=False)
    table, clusters = drawn.table(made, ROWS), drawn.sums(ROWS)
    effects = design_effects(made, clusters, table)
    repeats = repeats_of(effects, clusters)
    early = table.rows(table.number <= 20)
    folded = accumulate(made, Folded.empty_of(made), early, np.ones(2, np.int64), repeats=repeats)
    (whole,) = judge(made, table, Folded.empty_of(made), STANDING, LATE, None, effects, repeats=repeats)
    (after,) = judge(
        made, table.rows(table.number > 20), folded, STANDING, LATE, None, effects, repeats=repeats
    )
    assert after.log_e == pytest.approx(whole.log_e, abs=1e-9)
    assert abs(after.n - whole.n) <= 1


@pytest.mark.parametrize("kind", ["rate_limit", "harm", "breaker"])
def test_one_unit_alone_fails_no_arm(kind: str) -> None:
    """The first unit of the new arm has twenty bad outcomes, five units of the old one have twenty good ones each."""
    limit = {} if kind == "harm" else {"limit": 0.05}
    made = spec(
        arms=[{"name": "old", "control": True}, {"name": "new"}],
        metrics=[{"name": "bad", "kind": "bernoulli", "direction": "minimize", "attribution_window": "1s"}],
        objective=[{"metric": "bad"}],
        unit={"kind": "user", "mode": "sticky"},
        guardrails=[{"name": "watched", "kind": kind, "metric": "bad", **limit}],
    )
    values = np.zeros((2, 1, BUCKETS, 2), np.int64)
    values[0, 0, 10:15, 0] = 20
    values[1, 0, 7] = (20, 20 * ONE)
    few = Clusters(values, values[:, 0, :, 0], np.zeros(2, np.int64))
    table = periods(made, [[[100.0], [20.0]]], [[[0.0], [20.0]]], centre=0.05)
    effects = design_effects(made, few, table)
    blind, told = (
        judge(made, table, Folded.empty_of(made), STANDING, LATE, None, effects, repeats=repeats)[0]
        for repeats in (None, repeats_of(effects, few))
    )
    assert blind.outcome is Outcome.FAIL
    assert told.outcome is not Outcome.FAIL
    assert told.n == blind.n == 20

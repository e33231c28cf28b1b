"""Units that come back: twenty equal values of a unit are the evidence of one, for verdicts too."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from bandit.clusters import design_effects
from bandit.guardrails.base import ArmStanding, Folded, Outcome
from bandit.guardrails.judge import judge
from bandit.ledger import BUCKETS, ONE, Clusters
from tests.builders import spec
from tests.evidence import periods

LATE = 10**9
RUNS, ROWS, UNITS, EVENTS = 200, 40, 200, 20
ALPHA = 0.05


def release(seed: int, *, told: bool, ratio: float = 1.0) -> tuple[bool, float]:
    """(was the arm failed at any look?, last design effect): each period new units, each with EVENTS equal outcomes."""
    chance = np.random.default_rng(seed)
    made = spec(
        arms=[{"name": "old", "control": True}, {"name": "new"}],
        metrics=[{"name": "bad", "kind": "bernoulli", "direction": "minimize", "attribution_window": "1s"}],
        objective=[{"metric": "bad"}],
        guardrails=[{"name": "harm", "kind": "harm", "metric": "bad"}],
        alpha=ALPHA,
    )
    n, s = np.zeros((ROWS, 2, 1)), np.zeros((ROWS, 2, 1))
    clusters = np.zeros((2, 1, BUCKETS, 2), np.int64)
    standing = [ArmStanding(1, 1, live=True)] * 2
    effects = np.ones(1)
    for row in range(ROWS):
        arm = (chance.random(UNITS) < 0.3).astype(int)
        bad = chance.random(UNITS) < np.where(arm == 1, 0.2 * ratio, 0.2)
        bucket = chance.integers(0, BUCKETS, UNITS)
        for each in range(2):
            n[row, each], s[row, each] = EVENTS * (arm == each).sum(), EVENTS * bad[arm == each].sum()
            np.add.at(clusters[each, 0, :, 0], bucket[arm == each], EVENTS)
            np.add.at(clusters[each, 0, :, 1], bucket[(arm == each) & bad], EVENTS * ONE)
        if row % 4 == 3:
            table = periods(made, n[: row + 1], s[: row + 1], centre=0.2)
            sums = Clusters(clusters, clusters[:, 0, :, 0], np.zeros(2, np.int64))
            effects = design_effects(made, sums, table)
            (verdict,) = judge(
                made, table, Folded.empty_of(made), standing, LATE, None, effects if told else None
            )
            if verdict.outcome is Outcome.FAIL:
                return True, float(effects[0])
    return False, float(effects[0])


@pytest.mark.slow
def test_healthy_arms_are_failed_no_more_often_than_alpha_and_only_by_the_design_effect() -> None:
    most = int(stats.binom.isf(1e-6, RUNS, ALPHA))
    told = [release(seed, told=True) for seed in range(RUNS)]
    assert sum(failed for failed, _ in told) <= most
    assert np.mean([effect for _, effect in told]) == pytest.approx(EVENTS, rel=0.15)
    untold = sum(release(seed, told=False)[0] for seed in range(60))
    assert untold > 20, "without the design effect most healthy arms fail"


@pytest.mark.slow
def test_an_arm_that_is_three_times_worse_is_found_all_the_same() -> None:
    assert sum(release(seed, told=True, ratio=3.0)[0] for seed in range(20)) == 20

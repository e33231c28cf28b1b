"""Effects by cohort: the golden shrinkage, agreement, one cohort that is hurt, levels that differ."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.inference.cohorts import CohortEffect, cohort_effects, shrink
from bandit.spec.model import APART
from tests.builders import spec
from tests.evidence import periods

LATE = 10**9
COHORTS = 6
GOLDEN = json.loads((Path(__file__).parents[1] / "golden" / "posteriors.json").read_text())[
    "cohort_shrinkage_DL"
]


def test_the_golden_shrinkage() -> None:
    rows = GOLDEN["rows"]
    made = shrink(
        np.array([float(row["est"]) for row in rows]), np.array([float(row["var"]) for row in rows])
    )
    assert made.tau2 == pytest.approx(float(GOLDEN["tau2"]), abs=1e-15)
    assert made.mu == pytest.approx(float(GOLDEN["mu"]), rel=1e-12)
    assert made.var_mu == pytest.approx(float(GOLDEN["var_mu"]), rel=1e-12)
    assert made.mean == pytest.approx([float(row["post_mean"]) for row in rows], rel=1e-12)
    assert made.var == pytest.approx([float(row["post_var"]) for row in rows], rel=1e-12)
    # Of each estimate so much is kept: here none, since they agree.
    kept = [made.tau2 / (made.tau2 + float(row["var"])) for row in rows]
    assert kept == pytest.approx([float(row["shrink_B"]) for row in rows], abs=1e-12)


def test_estimates_that_disagree_keep_what_is_theirs() -> None:
    """Equal variances 1e-4, so tau2 = sample variance - 1e-4 by hand."""
    d = np.array([0.1, -0.1, 0.2, -0.2])
    made = shrink(d, np.full(4, 1e-4))
    tau2 = float(d.var(ddof=1)) - 1e-4
    assert made.tau2 == pytest.approx(tau2, rel=1e-9)
    b = tau2 / (tau2 + 1e-4)
    assert made.mean == pytest.approx(b * d, rel=1e-9)
    assert made.var == pytest.approx(b * 1e-4 + (1 - b) ** 2 * made.var_mu, rel=1e-9)


def test_three_cohorts_are_too_few_to_disagree() -> None:
    made = shrink(np.array([0.1, -0.1, 0.2]), np.full(3, 1e-4))
    assert made.tau2 == 0.0
    assert np.ptp(made.mean) == 0.0


def effects(lift: Any, level: Any, seed: int = 1) -> tuple[CohortEffect, ...]:
    """Twelve periods of all cohorts, with their own levels and lifts; the arm's share rises."""
    chance = np.random.default_rng(seed)
    made = spec(
        arms=[{"name": "old", "control": True}, {"name": "new"}],
        metrics=[{"name": "m", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1s"}],
        objective=[{"metric": "m"}],
        cohorts={"attribute": "tier", "values": [f"c{each}" for each in range(1, COHORTS)]},
    )
    n, s, cohort = [], [], []
    for period in range(12):
        share = 0.05 + 0.07 * period
        for each in range(COHORTS):
            counts = np.array([round(1000 * (1 - share)), round(1000 * share)])
            n.append(counts)
            s.append(chance.binomial(counts, [level[each], level[each] + lift[each]]))
            cohort.append(each)
    rows = periods(made, np.array(n)[:, :, None], np.array(s)[:, :, None], cohort=cohort, centre=0.3)
    return cohort_effects(made, rows, LATE)


def test_levels_of_cohorts_are_no_effect() -> None:
    found = effects(np.zeros(COHORTS), np.linspace(0.05, 0.8, COHORTS))
    assert len(found) == COHORTS
    for each in found:
        assert abs(each.effect) < 5 * each.sd
        assert each.sd < 0.02


def test_the_cohort_that_is_hurt_is_told_while_the_others_gain() -> None:
    lift = np.array([0.05, 0.05, 0.05, -0.10, 0.05, 0.05])
    found = {each.cohort: each for each in effects(lift, np.full(COHORTS, 0.4))}
    assert found[3].apart > APART
    assert found[3].effect < -0.05
    assert all(each.apart < 0.1 for cohort, each in found.items() if cohort != 3)
    assert abs(found[3].effect) < abs(found[3].raw), "drawn to the others"


def test_without_cohorts_nothing_is_told() -> None:
    made = spec()
    assert cohort_effects(made, periods(made, np.ones((1, 3, 1)), np.zeros((1, 3, 1))), LATE) == ()

"""Looks and periods of a log: which decisions are compared with which, and by which shares."""

from __future__ import annotations

import numpy as np
import pytest

from bandit.errors import InvalidArgument
from bandit.evaluate.logged import Collector, Logged
from bandit.evaluate.periods import FEW_VECTORS, schedule
from tests.evaluations import START_MS, drawn, logged, spec_of

THREE = spec_of(3, cohorts={"attribute": "plan", "values": ["pro"]})


def told(*rows: tuple[int, str, float], plans: str = "") -> Logged:
    """(second, arm, propensity) of each; ``plans``: p for a decision of the cohort."""
    collector = Collector(THREE, "log")
    for at, (second, arm, propensity) in enumerate(rows):
        collector.decision(
            at + 1,
            time_ms=START_MS + 1000 * second,
            arm=arm,
            propensity=propensity,
            attributes={"plan": "pro"} if plans[at : at + 1] == "p" else {},
        )
    return collector.finish()


def test_looks_come_before_decisions_and_only_there() -> None:
    log = told((0, "a", 0.5), (9, "a", 0.5), (10, "a", 0.5), (47, "a", 0.5))
    plan = schedule(log, 10.0)
    assert ((plan.at_ms - START_MS) // 1000).tolist() == [0, 10, 40]
    assert plan.first.tolist() == [0, 2, 3, 4]
    assert plan.interval.tolist() == [0, 1, 2]
    assert plan.period.tolist() == [0, 0, 1, 2]


def test_a_vector_lasts_until_a_propensity_contradicts_it() -> None:
    log = told((0, "a", 0.5), (1, "b", 0.2), (2, "a", 0.5), (3, "a", 0.6), (4, "b", 0.3), (5, "c", 0.3))
    plan = schedule(log, 10.0)
    # b at 0.3 fits beside 0.6, c at 0.3 does not any more.
    assert plan.period.tolist() == [0, 0, 0, 1, 1, 2]
    np.testing.assert_allclose(plan.share, [[0.5, 0.2, 0.3], [0.6, 0.3, 0.1], [0.35, 0.35, 0.3]])
    assert plan.exact.tolist() == [True, True, False]
    np.testing.assert_allclose(plan.chance[:2], [[0.5, 0.2, 0.3], [0.6, 0.3, 0.1]])
    assert plan.chance[2].tolist() == [-1.0, -1.0, 0.3]


def test_arms_for_which_nothing_is_left_had_nothing() -> None:
    plan = schedule(told((0, "a", 0.75), (1, "b", 0.25)), 10.0)
    assert plan.exact.all()
    np.testing.assert_allclose(plan.chance, [[0.75, 0.25, 0.0]])


def test_cohorts_have_vectors_of_their_own() -> None:
    log = told((0, "a", 0.5), (1, "a", 0.9), (2, "b", 0.3), (3, "b", 0.05), plans=".p.p")
    plan = schedule(log, 10.0)
    assert plan.period.tolist() == [0, 1, 0, 1]
    np.testing.assert_allclose(plan.share, [[0.5, 0.3, 0.2], [0.9, 0.05, 0.05]])
    assert plan.exact.all()


def test_propensities_of_all_arms_are_vectors_wherever_they_come_back() -> None:
    spec = spec_of(2)
    chances = np.array([[0.3, 0.7], [0.5, 0.5], [0.3, 0.7], [1.0, 0.0]])
    plan = schedule(logged(spec, [0, 1, 1, 0], chances, [0.0] * 4), 10.0)
    assert plan.period.tolist() == [0, 1, 0, 2]
    np.testing.assert_allclose(plan.share, [[0.3, 0.7], [0.5, 0.5], [1.0, 0.0]])
    assert plan.exact.all()


def test_where_every_decision_has_its_own_they_are_one_period_that_is_not_exact() -> None:
    spec = spec_of(3)
    log = drawn(
        spec, 1, 60, lambda rng, size: 0.7 * rng.dirichlet((1.0, 1.0, 1.0), size) + 0.1, np.full(3, 0.5)
    )
    plan = schedule(log, 20.0)
    assert plan.interval.tolist() == [0, 1, 2]
    assert not plan.exact.any()
    assert log.propensities is not None
    np.testing.assert_allclose(plan.share[0], log.propensities[:20].mean(axis=0), atol=2e-6)
    few = schedule(log, float(FEW_VECTORS))
    assert few.exact.all()
    assert schedule(log, 60.0, alike=True).interval.tolist() == [0]


def test_shares_are_whole_ppm_and_what_was_possible_stays_so() -> None:
    spec = spec_of(3)
    plan = schedule(logged(spec, [2, 0], np.array([0.6, 0.4 - 1e-8, 1e-8]), [0.0, 0.0]), 10.0)
    (share,) = plan.share
    assert share[2] == pytest.approx(1e-6)
    assert np.rint(share * 1e6).sum() == 1_000_000


def test_far_too_many_looks_are_refused() -> None:
    log = drawn(spec_of(2), 1, 20_001, lambda rng, size: np.array([0.5, 0.5]), np.full(2, 0.5))
    with pytest.raises(InvalidArgument, match="makes 20,001 looks; allowed: 20,000"):
        schedule(log, 1.0)

"""What reports say of units that come back and of decisions that never bring a reward."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bandit.inference.report import report_of
from tests.guardrail_periods import LONG_AFTER, period
from tests.reports import EQUAL, METRIC, effect, of, reported, rows_of


def test_rewards_of_units_that_come_back_count_by_their_design_effect() -> None:
    """Four rewards are the evidence of one: estimates stay, standard errors and e-values are those of a quarter."""
    spec = of()
    periods = [
        period(spec, n, {"good": [(8000, 4000), (8000, 4480), (8000, 4400)]}, shares=EQUAL) for n in (1, 2)
    ]
    rows = rows_of(spec, periods)
    plain, thin = (
        report_of(spec, rows, [True] * 3, LONG_AFTER, effects) for effects in (None, np.array([4.0]))
    )
    assert plain.metrics[0].design_effect == 1.0
    assert thin.metrics[0].design_effect == 4.0
    one, four = effect(plain, 1), effect(thin, 1)
    assert four.interval.estimate == one.interval.estimate
    assert four.aipw == pytest.approx(one.aipw, rel=1e-12)
    assert four.aipw_se == pytest.approx(2 * one.aipw_se, rel=1e-12)
    wider = (four.interval.high - four.interval.low) / (one.interval.high - one.interval.low)
    assert 1.6 < wider < 2.1
    assert thin.winner.lift_se == pytest.approx(2 * plain.winner.lift_se, rel=1e-12)


def test_decisions_of_units_that_come_back_count_by_their_own_design_effect() -> None:
    """550 of 2,000 decisions at a share of a third are a mismatch, of 100 units that decide twenty times each they are
    none."""
    spec = of()
    made = period(spec, 1, {"good": [(800, 300), (550, 240), (650, 260)]}, shares=EQUAL)
    rows = rows_of(spec, [made])
    plain, thin = (
        report_of(spec, rows, [True] * 3, LONG_AFTER, None, visits).traffic for visits in (1.0, 20.0)
    )
    assert plain.mismatch
    assert not thin.mismatch
    assert thin.arms[1].mean_weight == plain.arms[1].mean_weight
    assert thin.arms[1].mean_weight_se == pytest.approx(20**0.5 * plain.arms[1].mean_weight_se)


def test_what_never_answered_may_have_been_anything() -> None:
    """Of 100 decisions 80 answered, 60 of them well: between 0.6 and 0.8 of all, whatever the silent ones were."""
    spec = of()
    counts = {"good": [(80, 60), (10, 5), (10, 10)]}
    made = period(spec, 1, counts, assigned=(100, 10, 20))
    one = reported(spec, [made]).metrics[0].arms
    assert (one[0].least, one[0].most) == pytest.approx((0.6, 0.8))
    assert (one[1].least, one[1].most) == pytest.approx((0.5, 0.5))
    assert (one[2].least, one[2].most) == pytest.approx((0.5, 1.0))
    young = reported(spec, [made], now_ms=made.end_ms + 1000).metrics[0].arms[0]
    assert math.isnan(young.least), "a window that is open may still bring the answer"
    silent = of(metrics=[METRIC | {"default_when_silent": 0}])
    assert math.isnan(reported(silent, [period(silent, 1, counts)]).metrics[0].arms[0].most)

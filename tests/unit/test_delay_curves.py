"""Delay curves: a slow twin, what does not matter to them, and laws of delay that their catalogue does not have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bandit import delays
from bandit.delays import catalogue, delay_curves
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.channels import EARLY_PARTS, ChannelKind
from bandit.spec.model import ExperimentSpec
from tests.builders import spec
from tests.evidence import SECOND, periods

WINDOW = 30
PARTS = np.array(EARLY_PARTS)


def conversions() -> ExperimentSpec:
    """Two arms, silence is no conversion; the window is WINDOW periods of a second."""
    metric = {
        "name": "converted",
        "kind": "bernoulli",
        "direction": "maximize",
        "attribution_window": f"{WINDOW}s",
        "default_when_silent": 0,
        "pending": "weigh",
    }
    return spec(
        arms=[{"name": "old", "control": True}, {"name": "new"}],
        metrics=[metric],
        objective=[{"metric": "converted"}],
    )


def quick(u: FloatArray) -> FloatArray:
    """Exponential, mean a thirtieth of the window."""
    return np.asarray(-np.expm1(-30.0 * u) / -np.expm1(-30.0))


def slow(u: FloatArray) -> FloatArray:
    """Exponential, mean a third of the window."""
    return np.asarray(-np.expm1(-3.0 * u) / -np.expm1(-3.0))


def twofold(u: FloatArray) -> FloatArray:
    """Half at once, half evenly between 60 and 90 per cent of the window: like no law of the catalogue."""
    return np.asarray(0.5 * quick(u) + 0.5 * np.clip((u - 0.6) / 0.3, 0.0, 1.0))


def seen(laws: tuple[object, object], rows: int, each: float = 1e4) -> tuple[ExperimentSpec, PeriodTable]:
    """``rows`` periods of ``each`` conversions of every arm, as far as they have come, without any luck."""
    made = conversions()
    early = [at for channel, at in made.columns.items() if channel.kind is ChannelKind.EARLY]
    s1 = np.zeros((rows, 2, len(made.columns)))
    for row in range(rows):
        age = (rows - row - (np.arange(400) + 0.5) / 400) / WINDOW
        for arm, law in enumerate(laws):
            assert callable(law)
            come = each * np.stack([law(np.minimum(age, part)).mean() for part in PARTS])
            s1[row, arm, early], s1[row, arm, 0] = come, come[-1]
    table = periods(made, s1, s1, assigned=np.full((rows, 2), 10.0 * each))
    return made, replace(table, end_ms=np.where(np.arange(rows) == rows - 1, 0, table.end_ms))


def curves(laws: tuple[object, object], rows: int, each: float = 1e4) -> delays.DelayCurve:
    """Of :func:`seen`, at its end."""
    made, table = seen(laws, rows, each)
    return delay_curves(table, made, rows * SECOND)[0]


def test_seen_is_the_mean_over_decision_times() -> None:
    young = delays._Young(
        np.array([0.0, 0.013, 0.3]), np.array([0.013, 0.2, 0.9]), np.ones((3, 1)), np.ones((3, 1, len(PARTS)))
    )
    laws = catalogue()
    found = delays._seen(laws, young)
    for at, (newest, oldest) in enumerate(zip(young.newest, young.oldest, strict=True)):
        ages = newest + (oldest - newest) * (np.arange(4000) + 0.5) / 4000
        for place, part in enumerate(PARTS):
            twin = [np.interp(np.minimum(ages, part), laws.age, law).mean() for law in laws.share]
            assert found[:, at, place] == pytest.approx(np.array(twin), abs=2e-4)


@pytest.mark.parametrize(("rows", "most"), [(12, 0.1), (18, 0.05), (24, 0.03)])
def test_the_tail_is_found_before_any_window_has_closed(rows: int, most: float) -> None:
    made = curves((quick, slow), rows)
    for arm, law in enumerate((quick, slow)):
        assert np.abs(made.part[arm, 1:] - law(PARTS)).max() <= most


def test_a_law_like_no_other_is_right_once_windows_have_closed() -> None:
    made = curves((twofold, slow), 3 * WINDOW)
    assert np.abs(made.part[0, 1:] - twofold(PARTS)).max() <= 0.005
    assert made.error.max() <= 1e-3


def test_what_no_period_shows_yet_is_doubted() -> None:
    """Long before the window closes, what is left of it may be anything."""
    error = [curves((quick, slow), rows).error for rows in (6, 12, 24)]
    assert error[0][1] >= 0.2
    assert error[0][1] > error[1][1] > error[2][1]
    assert error[0][0] <= 0.05


def test_an_arm_has_its_own_delays() -> None:
    alone, beside = curves((slow, slow), 20), curves((slow, quick), 20)
    assert beside.part[0] == pytest.approx(alone.part[0], abs=0.01)


def test_order_and_cohorts_of_the_rows_do_not_matter() -> None:
    made, table = seen((quick, slow), 20)
    once = delay_curves(table, made, 20 * SECOND)[0]
    mixed = np.random.default_rng(1).permutation(20)
    halves = replace(table, assigned=0.5 * table.assigned, s1=0.5 * table.s1, n=0.5 * table.n)
    twice = halves.rows(np.concatenate([mixed, mixed]))
    again = delay_curves(twice, made, 20 * SECOND)[0]
    assert again.part == pytest.approx(once.part, rel=1e-9)
    assert again.error == pytest.approx(once.error, rel=1e-6)


def test_an_arm_without_rewards_or_exposures_has_a_curve() -> None:
    made, table = seen((quick, slow), 10)
    silent = replace(table, s1=table.s1 * [[[1.0], [0.0]]])
    for each in (silent, replace(silent, assigned=silent.assigned * [1.0, 0.0])):
        found = delay_curves(each, made, 10 * SECOND)[0]
        assert np.isfinite(found.part).all()
        assert np.isfinite(found.error).all()
        assert (np.diff(found.part, axis=1) >= 0.0).all()

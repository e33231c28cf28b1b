"""Delay curves: a slow twin, what does not matter to them, and laws of delay that their catalogue does not have."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from bandit import delays
from bandit.delays import catalogue, delay_curves
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.channels import EARLY_PARTS, ChannelKind
from bandit.spec.model import Delay, ExperimentSpec
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


def said(law: object) -> dict[str, str]:
    """What is true of a law, as a spec says it, to the millisecond."""
    assert callable(law)
    ages = np.linspace(0.0, 1.0, 30_001)
    middle, late = np.interp((0.5, 0.9), law(ages), ages)
    return {"median": f"{1000 * WINDOW * middle:.0f}ms", "p90": f"{1000 * WINDOW * late:.0f}ms"}


def declare(made: ExperimentSpec, *laws: object) -> ExperimentSpec:
    """The same experiment, with a delay declared of each arm; None: of that arm nothing."""
    arms = [
        arm.model_copy(update={"delay": {"converted": Delay.model_validate(said(law))}} if law else {})
        for arm, law in zip(made.arms, laws, strict=True)
    ]
    return made.model_copy(update={"arms": tuple(arms)})


def test_what_is_declared_holds_before_any_reward_and_only_where_all_is_declared() -> None:
    made, table = seen((quick, slow), 1, each=0.0)
    assert delay_curves(table, made, SECOND) == {}
    assert delay_curves(table, declare(made, quick, None), SECOND) == {}
    found = delay_curves(table, declare(made, quick, slow), SECOND)[0]
    for arm, law in enumerate((quick, slow)):
        assert np.abs(found.part[arm, 1:] - law(PARTS)).max() <= 0.06  # a tenth of doubt
    assert found.error.max() <= 0.25
    assert found.error.min() > 0.0


@pytest.mark.parametrize("rows", [3, 6, 10])
def test_a_true_declaration_makes_young_decisions_count_for_more(rows: int) -> None:
    """Few rewards, a tail that nobody has seen: what is declared is nearer and surer than what is learned."""
    made, table = seen((quick, slow), rows, each=25.0)
    learned = delay_curves(table, made, rows * SECOND)[0]
    known = delay_curves(table, declare(made, quick, slow), rows * SECOND)[0]
    assert np.abs(known.part[1, 1:] - slow(PARTS)).max() <= 0.03
    assert known.error[1] <= 0.5 * learned.error[1]


@pytest.mark.parametrize(("each", "rows"), [(25.0, 24), (1e4, 6)])
def test_a_wrong_declaration_is_overruled(each: float, rows: int) -> None:
    """The arms' delays declared the wrong way round: after some hundred rewards it is as if nothing had been said."""
    made, table = seen((quick, slow), rows, each=each)
    learned = delay_curves(table, made, rows * SECOND)[0]
    wrong = delay_curves(table, declare(made, slow, quick), rows * SECOND)[0]
    assert np.abs(wrong.part - learned.part).max() <= 0.02
    assert wrong.error == pytest.approx(learned.error, rel=0.1, abs=1e-3)


def test_a_declaration_of_another_form_is_right_once_windows_have_closed() -> None:
    """Half at once and half late; and what is declared is the other arm's."""
    made, table = seen((twofold, slow), 3 * WINDOW)
    found = delay_curves(table, declare(made, slow, twofold), 3 * WINDOW * SECOND)[0]
    assert np.abs(found.part[0, 1:] - twofold(PARTS)).max() <= 0.005
    assert np.abs(found.part[1, 1:] - slow(PARTS)).max() <= 0.005
    assert found.error.max() <= 1e-3


def test_the_others_declaration_is_none_of_an_arms_business() -> None:
    made, table = seen((slow, slow), 12, each=100.0)
    alone = delay_curves(table, made, 12 * SECOND)[0]
    beside = delay_curves(table, declare(made, None, slow), 12 * SECOND)[0]
    assert beside.part[0] == pytest.approx(alone.part[0], abs=1e-9)
    assert beside.error[0] == pytest.approx(alone.error[0], rel=1e-9)

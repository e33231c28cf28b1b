"""Laws of reports: order and names of arms change nothing, turning a metric around turns its effect."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest

from bandit.inference.report import Report, report_of
from bandit.inference.terms import FOREVER_MS, Terms, terms_of, unpack
from bandit.ledger import Layout, Period, split_table
from bandit.spec.model import ExperimentSpec
from tests.guardrail_periods import LONG_AFTER, guarded, period

METRICS = [
    {"name": "good", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1h"},
    {"name": "cost", "kind": "fraction", "direction": "minimize", "attribution_window": "1h"},
]


def of(**changes: Any) -> ExperimentSpec:
    values: dict[str, Any] = {
        "metrics": METRICS,
        "objective": [{"metric": "good"}],
        "unit": {"kind": "request"},
    }
    return guarded(**(values | changes))


def drawn(
    spec: ExperimentSpec, seed: int, order: tuple[int, ...] = (0, 1, 2), turn: bool = False
) -> list[Period]:
    """Periods whose arms are given in ``order``; ``turn``: 1 - x in place of x."""
    rng = np.random.default_rng(seed)
    made = []
    for number in range(1, 13):
        shares = rng.dirichlet((6.0, 3.0, 2.0))
        n = rng.multinomial(300, shares)
        ones = rng.binomial(n, (0.3, 0.35, 0.32))
        costs = [list(rng.beta(2, 5 + arm, each)) for arm, each in enumerate(n)]
        centres = {"good": float(rng.random()), "cost": float(rng.random())}
        if turn:
            ones, costs = n - ones, [[1.0 - x for x in each] for each in costs]
            centres = {name: 1.0 - centre for name, centre in centres.items()}
        counts: dict[str, Any] = {
            "good": [(int(n[arm]), int(ones[arm])) for arm in order],
            "cost": [costs[arm] for arm in order],
        }
        made.append(
            period(spec, number, counts, shares=[float(shares[arm]) for arm in order], centres=centres)
        )
    return made


def report(spec: ExperimentSpec, periods: list[Period]) -> Report:
    rows = split_table(periods, Layout(1, 3, len(spec.columns)))
    return report_of(spec, rows, [True] * 3, LONG_AFTER)


def terms(spec: ExperimentSpec, periods: list[Period]) -> Terms:
    return terms_of(spec, split_table(periods, Layout(1, 3, len(spec.columns))), FOREVER_MS)


@pytest.mark.parametrize("seed", range(5))
def test_terms_add_up_in_any_order(seed: int) -> None:
    spec = of()
    periods = drawn(spec, seed)
    whole = terms(spec, periods).packed()
    parts = terms(spec, periods[:4]) + terms(spec, periods[9:]) + terms(spec, periods[4:9])
    assert parts.packed() == pytest.approx(whole, rel=1e-12, abs=1e-12)
    assert terms(spec, periods[::-1]).packed() == pytest.approx(whole, rel=1e-12, abs=1e-12)
    again = unpack(spec, whole)
    for field in fields(Terms):
        assert getattr(again, field.name).shape == getattr(parts, field.name).shape
    assert again.packed().tobytes() == whole.tobytes()


@pytest.mark.parametrize("seed", range(5))
def test_challengers_in_another_order_have_the_same_report(seed: int) -> None:
    spec = of()
    arms = spec.arms
    other = spec.model_copy(update={"arms": (arms[0], arms[2], arms[1])})
    one, two = report(spec, drawn(spec, seed)), report(other, drawn(other, seed, (0, 2, 1)))
    for mine, theirs in ((1, 2), (2, 1)):
        for metric in (0, 1):
            left, right = one.metrics[metric].arms[mine], two.metrics[metric].arms[theirs]
            assert left.effect is not None
            assert right.effect is not None
            assert left.effect.interval[:3] == pytest.approx(right.effect.interval[:3], rel=1e-12)
            assert left.effect.aipw == pytest.approx(right.effect.aipw, rel=1e-12)
            assert left.mean == pytest.approx(right.mean, rel=1e-12)
    assert one.winner.log_e == pytest.approx(two.winner.log_e, rel=1e-9)
    assert one.winner.lift == pytest.approx(two.winner.lift, rel=1e-9)
    assert one.traffic.log_e == pytest.approx(two.traffic.log_e, rel=1e-12)


@pytest.mark.parametrize("seed", range(5))
def test_a_metric_turned_around_has_its_effect_turned_around_and_the_same_winner(seed: int) -> None:
    spec = of(objective=[{"metric": "good", "weight": 2}, {"metric": "cost"}])
    flipped = [
        replaced | {"direction": "minimize" if replaced["direction"] == "maximize" else "maximize"}
        for replaced in METRICS
    ]
    other = of(metrics=flipped, objective=[{"metric": "good", "weight": 2}, {"metric": "cost"}])
    one, two = report(spec, drawn(spec, seed)), report(other, drawn(other, seed, turn=True))
    for arm in (1, 2):
        for metric in (0, 1):
            left, right = one.metrics[metric].arms[arm].effect, two.metrics[metric].arms[arm].effect
            assert left is not None
            assert right is not None
            turned = (-right.interval.estimate, -right.interval.high, -right.interval.low)
            assert left.interval[:3] == pytest.approx(turned, rel=1e-6, abs=1e-9)
            assert left.aipw == pytest.approx(-right.aipw, rel=1e-6, abs=1e-9)
        mine, theirs = one.objective[arm], two.objective[arm]
        assert mine is not None
        assert theirs is not None
        assert mine.interval.estimate == pytest.approx(theirs.interval.estimate, rel=1e-6)
    assert one.winner.leader == two.winner.leader
    assert one.winner.log_e == pytest.approx(two.winner.log_e, rel=1e-4, abs=1e-6)


def test_reading_a_report_again_gives_the_same_bits() -> None:
    spec = of()
    periods = drawn(spec, 9)
    first = report(spec, periods)
    assert {repr(report(spec, periods)) for _ in range(20)} == {repr(first)}
    again = report(spec, [replace(each, cells=each.cells.copy()) for each in periods])
    assert repr(again) == repr(first)

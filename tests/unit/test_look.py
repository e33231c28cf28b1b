"""The judge's own arithmetic: when a period ends, and what is frozen into the next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandit.counting import layout_of
from bandit.guardrails.base import Folded
from bandit.learn import open_periods
from bandit.ledger import ONE, Ledger, PeriodTable, split_table, table
from bandit.look import (
    EVIDENCE,
    control_centres,
    expected_requests,
    longest_period_s,
    look,
    shortest_period_s,
)
from bandit.rollout.state import Allocation, Experiment
from bandit.rollout.transitions import pause, promote, reallocate
from tests.builders import NOW, running, spec

METRICS: list[dict[str, object]] = [
    {
        "name": "failed",
        "kind": "bernoulli",
        "direction": "minimize",
        "attribution_window": "10s",
        "default_when_silent": 0,
    },
    {
        "name": "cost",
        "kind": "gaussian",
        "direction": "minimize",
        "range": [0.0, 2.0],
        "attribution_window": "10s",
    },
]


def test_centres_fill_silence_in_and_read_only_what_is_mature() -> None:
    """Where only failures are reported, the control's mean is not 1."""
    experiment, first = running(metrics=METRICS, objective=[{"metric": "cost"}])
    second = reallocate(experiment, first, first.shares_ppm, (0.5, 0.5), "e", NOW + 10_000).allocation
    ledger = Ledger(1, layout_of(experiment.spec))
    open_periods(ledger, [first, second], experiment)
    for allocation in (first, second):
        cells = ledger.periods[allocation.number].cells
        cells.exposures[0, 0] = 100
        cells.sums[0, 0, 0] = (5, 5 * ONE, 5 * ONE, 0)
        cells.sums[0, 0, 1] = (50, 25 * ONE, 20 * ONE, 0)
    periods = table(ledger.current(), ledger.layout)
    early = control_centres(periods, experiment.spec, (0.3, 0.4), NOW + 12_000)
    assert early == (0.3, 0.5)
    assert control_centres(periods, experiment.spec, (0.3, 0.4), NOW + 60_000) == (0.05, 0.5)


def test_periods_follow_the_windows() -> None:
    windows = {"1s": (1.0, 2.0), "10m": (1.0, 150.0), "1h": (1.2, 600.0), "7d": (60.0, 600.0)}
    for window, (least, most) in windows.items():
        made = spec(metrics=[{**METRICS[1], "attribution_window": window}], objective=[{"metric": "cost"}])
        assert shortest_period_s(made) == pytest.approx(least)
        assert longest_period_s(made) == pytest.approx(most)


def test_the_next_batch_is_foreseen_from_the_latest_traffic() -> None:
    experiment, first = running()
    ledger = Ledger(1, layout_of(experiment.spec))
    open_periods(ledger, [first], experiment)
    empty = table(ledger.current(), ledger.layout)
    assert expected_requests(empty, experiment.spec, NOW + 2000) == 1.0
    ledger.periods[first.number].cells.exposures[0] = np.array([50, 30, 20])
    busy = table(ledger.current(), ledger.layout)
    assert expected_requests(busy, experiment.spec, NOW + 12_000) == pytest.approx(
        10 * longest_period_s(experiment.spec)
    )


def test_a_rollback_goes_before_an_allocation_that_is_due() -> None:
    guardrail = {"name": "limit", "kind": "rate_limit", "metric": "failed", "limit": 0.01}
    made: dict[str, Any] = {"metrics": METRICS, "objective": [{"metric": "cost"}], "guardrails": [guardrail]}
    experiment, first = running(**made)
    ledger = Ledger(1, layout_of(experiment.spec))
    open_periods(ledger, [first], experiment)
    cells = ledger.periods[first.number].cells
    cells.exposures[0] = 100
    cells.sums[0, 2, 0] = (60, 60 * ONE, 60 * ONE, 0)
    periods = table(ledger.current(), ledger.layout)
    now = NOW + 60_000  # far past the longest life of an allocation
    apart = split_table(ledger.current(), ledger.layout)
    seen = look(experiment, first, periods, apart, Folded.empty(1, 3), now)
    assert seen.transition is not None
    assert seen.transition.action == "rolled_back"
    assert seen.transition.allocation.shares_ppm[2] == 0
    assert seen.actor == "guardrail/limit"
    calm = look(experiment, replace(first, cause="started"), periods, apart, Folded.empty(1, 3), now)
    assert calm.transition is not None
    assert calm.transition.action == "rolled_back"


def failing(experiment: Experiment, first: Allocation) -> tuple[PeriodTable, PeriodTable]:
    """One period in which the third arm fails far beyond the limit."""
    ledger = Ledger(1, layout_of(experiment.spec))
    open_periods(ledger, [first], experiment)
    cells = ledger.periods[first.number].cells
    cells.exposures[0] = 100
    cells.sums[0, 2, 0] = (60, 60 * ONE, 60 * ONE, 0)
    return table(ledger.current(), ledger.layout), split_table(ledger.current(), ledger.layout)


@pytest.mark.parametrize("state", ["running", "paused", "promoted"])
def test_a_failing_arm_is_rolled_back_in_every_state(state: str) -> None:
    guardrail = {"name": "limit", "kind": "rate_limit", "metric": "failed", "limit": 0.01}
    made: dict[str, Any] = {"metrics": METRICS, "objective": [{"metric": "cost"}], "guardrails": [guardrail]}
    experiment, allocation = running(**made)
    tables = failing(experiment, allocation)
    if state == "paused":
        moved = pause(experiment, allocation, NOW + 3000)
        experiment, allocation = moved.experiment, moved.allocation
    elif state == "promoted":
        moved = promote(experiment, allocation, 2, NOW + 3000)
        experiment, allocation = moved.experiment, moved.allocation
    seen = look(experiment, allocation, *tables, Folded.empty(1, 3), NOW + 60_000)
    assert seen.transition is not None
    assert seen.transition.action == "rolled_back"
    assert seen.transition.experiment.arms[2].rollback is not None
    assert seen.transition.allocation.shares_ppm[2] == 0
    # Once: the next look has nothing to take away.
    again = look(
        seen.transition.experiment, seen.transition.allocation, *tables, Folded.empty(1, 3), NOW + 61_000
    )
    assert again.decided is None


def test_shares_move_at_the_first_look_after_a_start_and_not_at_each_later_one() -> None:
    made: dict[str, Any] = {"metrics": METRICS, "objective": [{"metric": "cost"}]}
    experiment, allocation = running(**made)
    tables = failing(experiment, allocation)
    begun = replace(allocation, cause="started")
    first = look(experiment, begun, *tables, Folded.empty(0, 3), begun.time_ms + 1)
    assert first.transition is not None
    assert first.transition.allocation.cause == EVIDENCE
    soon = look(experiment, first.transition.allocation, *tables, Folded.empty(0, 3), begun.time_ms + 200)
    assert soon.transition is None

"""What the learner publishes of constraints, of the budget and of what is still needed; and how people read it."""

from __future__ import annotations

import io
import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bandit.allocators.needed import samples_needed
from bandit.counting import layout_of
from bandit.ctl.render import show, status_view
from bandit.ctl.report_view import report_view
from bandit.guardrails.base import Folded
from bandit.learn import open_periods
from bandit.ledger import ONE, Ledger, split_table, table
from bandit.look import Look, look
from bandit.rollout.transitions import roll_back
from bandit.v1 import experiment_pb2 as pb
from bandit.v1 import report_pb2
from server.control.report import report_message
from server.control.status import status_of
from server.store.base import RewardCounts, Stored
from tests.builders import NOW, running

LATER = NOW + 3_600_000
METRICS = [
    {"name": "liked", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1m"},
    {
        "name": "cost",
        "kind": "gaussian",
        "direction": "minimize",
        "range": [0.0, 2.0],
        "attribution_window": "1m",
    },
]
LIMIT = {"metric": "cost", "limit": 0.5, "probability": 0.9}
LIKED, COSTS = (300, 330, 300), (0.4, 0.42, 1.0)


def seen(**changes: Any) -> tuple[Stored, Ledger, Look]:
    """A thousand decisions of each arm: the second is liked most, the third is far too dear."""
    shares = (333_334, 333_333, 333_333)
    experiment, allocation = running(
        shares, metrics=METRICS, objective=[{"metric": "liked"}], baseline="stationary", **changes
    )
    ledger = Ledger(1, layout_of(experiment.spec))
    open_periods(ledger, [allocation], experiment)
    cells = ledger.periods[allocation.number].cells
    cells.exposures[0] = 1000
    for arm, (liked, cost) in enumerate(zip(LIKED, COSTS, strict=True)):
        cells.sums[0, arm, 0] = (1000, liked * ONE, liked * ONE, 0)
        scaled = cost / 2.0
        cells.sums[0, arm, 1] = (1000, round(1000 * scaled * ONE), round(1000 * (scaled**2 + 0.01) * ONE), 0)
    looked = look(
        experiment,
        allocation,
        table(ledger.current(), ledger.layout),
        split_table(ledger.current(), ledger.layout),
        Folded.empty_of(experiment.spec),
        LATER,
    )
    return Stored(experiment, allocation, 1, 0, ""), ledger, looked


def status(stored: Stored, ledger: Ledger, looked: Look) -> pb.ExperimentStatus:
    return status_of(stored, looked, ledger, RewardCounts(), 0, 0, [])


def shown(view: pb.ExperimentStatus | report_pb2.Report, width: int = 200) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, markup=False, highlight=False)
    now_s = LATER / 1000
    if isinstance(view, report_pb2.Report):
        show(console, report_view(view, now_s, width))
    else:
        show(console, status_view(view, now_s, width))
    return file.getvalue()


def test_without_constraints_and_budget_nothing_is_told_of_them() -> None:
    found = seen()
    told = status(*found)
    report = report_message(found[0], found[2])
    assert not any(arm.HasField("feasible") for arm in (*told.arms, *report.arms))
    assert not told.HasField("budget")
    assert not report.HasField("budget")
    for text in (shown(told), shown(report)):
        assert "KEEPS" not in text
        assert "udget" not in text


def test_how_many_requests_more_is_the_bound_of_the_means_less_what_was_seen() -> None:
    found = seen()
    told = status(*found)
    means = (np.array(LIKED) + 1.0) / 1002.0  # uniform priors
    variance = float(np.mean(np.array(LIKED) / 1000 * (1 - np.array(LIKED) / 1000)))
    expected = samples_needed(means, found[0].experiment.spec.alpha, np.full(3, 1000.0), variance)
    assert told.requests_more == pytest.approx(expected, rel=0.01)
    assert 2_000 < told.requests_more < 20_000
    assert report_message(found[0], found[2]).winner.requests_needed == told.requests_more
    assert f"about {told.requests_more:,.0f} more requests, if the means are what they seem" in shown(told)


def test_arms_that_seem_alike_need_nobody_knows_how_many() -> None:
    stored, ledger, _ = seen()
    for arm in range(3):
        ledger.periods[stored.allocation.number].cells.sums[0, arm, 0] = (1000, 300 * ONE, 300 * ONE, 0)
    tables = table(ledger.current(), ledger.layout), split_table(ledger.current(), ledger.layout)
    alike = look(
        stored.experiment, stored.allocation, *tables, Folded.empty_of(stored.experiment.spec), LATER
    )
    told = status(stored, ledger, alike)
    assert not told.HasField("requests_more")
    assert not report_message(stored, alike).winner.HasField("requests_needed")
    assert "two arms seem equally good so far" in shown(told)


def test_with_one_arm_left_there_is_nothing_to_tell() -> None:
    stored, ledger, _ = seen()
    experiment, allocation = stored.experiment, stored.allocation
    for arm in (1, 2):
        moved = roll_back(
            experiment, allocation, arm, actor="anna", reason="r", rollback_id=f"{arm}", now_ms=LATER
        )
        experiment, allocation = moved.experiment, moved.allocation
    tables = table(ledger.current(), ledger.layout), split_table(ledger.current(), ledger.layout)
    alone = look(experiment, allocation, *tables, Folded.empty_of(experiment.spec), LATER)
    told = status(Stored(experiment, allocation, 3, 0, ""), ledger, alone)
    assert told.requests_more == 0.0
    assert "To tell the best arm" not in shown(told)


def test_the_chance_to_keep_the_constraints_is_beside_each_arm() -> None:
    found = seen(constraints=[LIMIT])
    told, report = status(*found), report_message(found[0], found[2])
    proposal = found[2].proposal
    assert proposal.feasible is not None
    assert [arm.feasible for arm in told.arms] == proposal.feasible.tolist()
    assert [arm.feasible for arm in report.arms] == proposal.feasible.tolist()
    assert told.arms[1].feasible > 0.99
    assert told.arms[2].feasible == 0.0
    lines = shown(told).splitlines()
    assert next(line for line in lines if line.startswith("ARM")).split()[-2:] == ["P(KEEPS)", "STATE"]
    assert next(line for line in lines if line.startswith("large")).split()[-2] == "0.000"
    assert "P(keeps): chance that the arm keeps all constraints." in shown(report, 90)


@pytest.mark.parametrize(
    ("per_day", "says"),
    [
        (1e6, "The shares keep it without a price."),
        (2795.0, " of the objective."),
        (1000.0, "Only floors and the cheapest arm are left."),
    ],
)
def test_the_budget_is_told_with_its_price(per_day: float, says: str) -> None:
    found = seen(budget={"metric": "cost", "per_day": per_day})
    told, report = status(*found), report_message(found[0], found[2])
    spent = 1000 * sum(COSTS)
    assert told.budget == report.budget
    assert (told.budget.metric, told.budget.per_day) == ("cost", per_day)
    assert told.budget.spent == pytest.approx(spent, rel=1e-6)
    assert told.budget.price == found[2].proposal.price
    if per_day > spent:
        left = (per_day - spent) / told.budget.requests_expected
        assert told.budget.allowed == pytest.approx(left, rel=1e-9)
    assert math.isinf(told.budget.price) == (per_day < spent)
    for text in (shown(told), shown(report)):
        line = next(
            line for line in text.splitlines() if line.startswith("Budget of cost since midnight UTC: ")
        )
        assert line.endswith(says), line

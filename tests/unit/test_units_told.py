"""What is counted of units by hash bucket; what is told of cohorts apart, of traffic and of first exposure."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from bandit.counting import layout_of
from bandit.ctl.render import show, status_line, status_view
from bandit.ctl.report_view import report_view
from bandit.guardrails.base import Folded
from bandit.learn import fold, open_periods
from bandit.ledger import BUCKETS, ONE, Cells, Layout, Ledger, Period, cluster_totals, split_table, table
from bandit.log import EXPOSURE, EXPOSURES, REWARDS, LogEntry, exposure_entry
from bandit.look import Look, look
from bandit.realised import Realised
from bandit.reward import RewardRecord
from bandit.rollout.state import Parting
from bandit.rollout.transitions import reallocate
from bandit.seen import Seen
from bandit.v1 import experiment_pb2 as pb
from bandit.v1 import report_pb2
from server.control.report import Units, report_message
from server.control.status import status_of
from server.store.base import RewardCounts, Stored
from tests.builders import NOW, running

STICKY: dict[str, Any] = {"unit": {"kind": "user", "mode": "sticky"}}
COHORTS: dict[str, Any] = {"cohorts": {"attribute": "plan", "values": ["free", "team", "pro"], "apart": {}}}


@pytest.mark.parametrize("mode", ["sticky", "epoch", "request"])
def test_decisions_and_rewards_are_counted_by_bucket_and_apart_once_their_point_moved(mode: str) -> None:
    experiment, allocation = running(unit={"kind": "user", "mode": mode})
    ledger = Ledger(1, layout_of(experiment.spec))
    open_periods(ledger, [allocation], experiment)
    buckets = [0, 1, 1, 64, 65, 65, 128, 129, 255]
    records = b"".join(EXPOSURE.pack(allocation.number, 0, 1, each) for each in buckets)
    rewards = b"".join(
        RewardRecord(1, 1, number, NOW, allocation.number, ONE, 0, 1, 0, each).pack()
        for number, each in enumerate(buckets)
    )
    entries = [
        LogEntry(f"{NOW}-1", EXPOSURES, exposure_entry(1, 1, 0, records)),
        LogEntry(f"{NOW}-2", REWARDS, rewards),
    ]
    fold(entries, experiment, ledger, Seen())
    cells = ledger.periods[allocation.number].cells
    assert cells.exposures[0, 1] == len(buckets)
    if mode == "request":
        assert cells.visits is None
        return
    assert cells.visits is not None
    assert cells.clusters is not None
    want = {"sticky": {0: 2, 63: 1, 64: 2, 127: 1}, "epoch": {0: 4, 63: 2}}[mode]
    assert {int(at): int(cells.visits[1, at]) for at in np.flatnonzero(cells.visits[1])} == want
    seen = cells.clusters[1, 0]
    assert {int(at): int(seen[at, 0]) for at in np.flatnonzero(seen[:, 0])} == want
    assert seen[:, 1].sum() == 6 * ONE
    total = cluster_totals(ledger.current(), ledger.layout)
    assert total is not None
    assert (total.visits[1, 0], total.visits[1, 63]) == (4, 2)
    assert total.values[1, 0, :, 0].sum() == 6
    assert total.rerouted[1] == (3 if mode == "sticky" else 0)


def found() -> tuple[Stored, Ledger, Look]:
    """Cohort team is apart; everybody decided a thousand times under each arm."""
    experiment, allocation = running(**STICKY, **COHORTS)
    own = [Parting(2, (100_000, 50_000, 850_000), 2, 0.973)]
    apart = reallocate(
        experiment, allocation, (300_000, 400_000, 300_000), (0.5, 0.5), "evidence", NOW, own
    ).allocation
    ledger = Ledger(1, layout_of(experiment.spec))
    open_periods(ledger, [apart], experiment)
    cells = ledger.periods[apart.number].cells
    cells.exposures[:] = 1000
    spec, layout = experiment.spec, ledger.layout
    rows = split_table(ledger.current(), layout)
    seen = look(
        experiment, apart, table(ledger.current(), layout), rows, Folded.empty_of(spec), NOW + 60_000,
        cluster_totals(ledger.current(), layout),
    )  # fmt: skip
    return Stored(experiment, apart, 1, 0, ""), ledger, seen


def shown(view: pb.ExperimentStatus | report_pb2.Report, width: int = 200) -> str:
    file = io.StringIO()
    console = Console(file=file, width=width, markup=False, highlight=False)
    if isinstance(view, report_pb2.Report):
        show(console, report_view(view, NOW / 1000, width))
    else:
        show(console, status_view(view, NOW / 1000, width))
    return file.getvalue()


def test_status_says_who_is_apart_and_why() -> None:
    stored, ledger, seen = found()
    status = status_of(stored, seen, ledger, RewardCounts(), 0, 0, [])
    (apart,) = status.allocation.apart
    assert (apart.cohort, apart.arm, apart.chance) == ("team", "large", 0.973)
    assert list(apart.shares_ppm) == [100_000, 50_000, 850_000]
    text = shown(status)
    assert (
        "cohort team is apart: control 10.00 %, small 5.00 %, large 85.00 %; large has another effect there"
        in text
    )
    assert "97.3 % chance" in text
    assert "apart team" in status_line(status)


def test_status_says_what_traffic_is_and_what_is_held_for_it() -> None:
    stored, ledger, seen = found()
    heavy = replace(seen, realised=Realised(8000.0, np.array([0.5, 0.3, 0.2]), (None, 240_000, None)))
    status = status_of(stored, heavy, ledger, RewardCounts(), 0, 0, [])
    assert [arm.realised_ppm for arm in status.arms] == [500_000, 300_000, 200_000]
    assert [arm.HasField("realised_most_ppm") for arm in status.arms] == [False, True, False]
    assert "small: 30.00 % of the newest decisions are its own" in shown(status)
    assert "held at 24.00 %" in shown(status)
    plain = status_of(stored, replace(seen, realised=None), ledger, RewardCounts(), 0, 0, [])
    assert not any(arm.HasField("realised_ppm") for arm in plain.arms)


def test_a_report_has_effects_of_first_exposure_beside_the_others() -> None:
    stored, ledger, seen = found()
    clusters = cluster_totals(ledger.current(), ledger.layout)
    assert clusters is not None
    terms = np.zeros((2, 2, BUCKETS, 2))
    terms[1, 0] = (0.5, 5.0)
    terms[0, 1, :9] = (0.5, 5.0)
    visits = replace(clusters, visits=np.full((3, BUCKETS), 10), rerouted=np.array([0, 96, 96]))
    report = report_message(stored, seen, Units(terms, visits))
    told = report.metrics[0].arms[2].first_exposure
    assert (told.estimate, told.se) == pytest.approx((0.1, 0.0))
    assert not report.metrics[1].arms[1].first_exposure.HasField("se"), "nine buckets have units"
    assert not report.metrics[0].arms[1].HasField("first_exposure")
    assert report.censored_units == pytest.approx(0.1)
    assert report.censored_decisions == pytest.approx(0.1)
    assert [each.cohort for each in report.apart] == ["team"]
    text = shown(report)
    assert "FIRST EXPOSURE" in text
    assert (
        "10.00 % of the units were re-routed since arms are compared, and made 10.00 % of the decisions"
        in text
    )
    assert "too few units yet" in text
    assert "cohort team is apart" in text


def test_without_units_that_keep_their_arm_nothing_is_told_of_them() -> None:
    stored, _, seen = found()
    report = report_message(stored, seen)
    assert not report.HasField("censored_units")
    assert "FIRST EXPOSURE" not in shown(report)


def test_a_block_without_facts_by_bucket_is_read_as_none() -> None:
    cells = Cells.zeros(Layout(1, 2, 1, 1, 2 * BUCKETS))
    period = Period(1, 2, 1, 0, 1000, (500_000, 500_000), (0.5,), cells)
    assert period.units is None
    assert period.shares_of(3) == (500_000, 500_000)
    assert replace(period, apart_ppm={3: (0, 1_000_000)}).shares_of(3) == (0, 1_000_000)

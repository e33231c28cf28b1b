"""Rewards that come late, later for the better arm: what is read of them must not depend on how late an arm's are."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandit.allocate import propose
from bandit.baselines.base import evidence_of
from bandit.delays import delay_curves
from bandit.ledger import PeriodTable
from bandit.reading import read
from bandit.spec.channels import EARLY_PARTS, ChannelKind
from bandit.spec.model import ExperimentSpec
from tests.builders import spec
from tests.evidence import SECOND, periods

WINDOW = 30
"""Attribution window in periods of one second."""


def conversions(pending: str, **changes: Any) -> ExperimentSpec:
    """Two arms; silence is no conversion."""
    values: dict[str, Any] = {
        "arms": [{"name": "old", "control": True}, {"name": "new"}],
        "metrics": [
            {
                "name": "converted",
                "kind": "bernoulli",
                "direction": "maximize",
                "attribution_window": f"{WINDOW}s",
                "default_when_silent": 0,
                "pending": pending,
            }
        ],
        "objective": [{"metric": "converted"}],
        "bounds": {"floor": 0.02, "control_floor": 0.02},
    }
    return spec(**values | changes)


class Traffic:
    """Decisions per period and arm, and when the conversions of each come (in periods after it)."""

    def __init__(self, made: ExperimentSpec, rate: Any, delay: Any, seed: int) -> None:
        self.spec, self.rate, self.delay = made, rate, delay
        self.chance = np.random.default_rng(seed)
        self.assigned: list[Any] = []
        self.delays: list[list[Any]] = []
        self.n: list[Any] = []
        self.s1: list[Any] = []
        self.early = [at for channel, at in made.columns.items() if channel.kind is ChannelKind.EARLY]

    def serve(self, counts: Any) -> None:
        """One more period."""
        self.assigned.append(np.asarray(counts, np.float64))
        converted = self.chance.binomial(counts, self.rate)
        self.delays.append(
            [
                np.minimum(self.chance.exponential(mean, n), WINDOW - 1e-6)
                for mean, n in zip(self.delay, converted, strict=True)
            ]
        )

    def table(self) -> PeriodTable:
        """What the ledger holds at the end of the last period; decisions are spread evenly over theirs."""
        rows = len(self.assigned)
        width = len(self.spec.columns)
        for row in range(max(min(rows - WINDOW - 2, len(self.n)), 0), rows):  # the others are complete
            if row == len(self.n):
                self.n.append(np.zeros((2, width)))
                self.s1.append(np.zeros((2, width)))
            for arm in range(2):
                delay = self.delays[row][arm]
                offset = (np.arange(len(delay)) + 0.5) / max(len(delay), 1)
                came = np.sort(delay[row + offset + delay <= rows])
                self.n[row][arm] = self.s1[row][arm] = len(came)
                if self.early:
                    parts = np.array(EARLY_PARTS) * WINDOW
                    self.s1[row][arm, self.early] = np.searchsorted(came, parts, "right")
        made = periods(
            self.spec, np.array(self.n), np.array(self.s1), assigned=np.array(self.assigned), centre=0.1
        )
        open_ = made.end_ms.copy()
        open_[-1] = 0
        return replace(made, end_ms=open_)

    @property
    def now_ms(self) -> int:
        """The end of the last period."""
        return len(self.assigned) * SECOND


def regret(made: ExperimentSpec, seed: int, rows: int = 200, batch: int = 500) -> tuple[float, float]:
    """(conversions lost, last share of the better arm), one allocation per period."""
    traffic = Traffic(made, (0.10, 0.11), (1.0, 10.0), seed)
    weights, lost = np.array([0.5, 0.5]), 0.0
    for _ in range(rows):
        counts = traffic.chance.multinomial(batch, weights)
        traffic.serve(counts)
        lost += 0.01 * counts[0]
        evidence = evidence_of(made, traffic.table(), traffic.now_ms)
        live = np.ones(2, np.bool_)
        got = propose(made, evidence, live, [None, None], None, 0.0, batch)
        weights = np.array(got.shares_ppm) / 1e6
    return lost, float(weights[1])


def test_pending_decisions_count_by_their_age() -> None:
    """Both arms convert 0.3 of 20,000 a period; one within a second, the other after ten on average."""
    made = conversions("weigh")
    traffic = Traffic(made, (0.3, 0.3), (0.3, 10.0), 1)
    for _ in range(50):
        traffic.serve([20_000, 20_000])
    table = traffic.table()
    curve = delay_curves(table, made, traffic.now_ms)[0].part
    ages = np.array((0.0, *EARLY_PARTS)) * WINDOW
    for arm, mean in enumerate((0.3, 10.0)):
        true = 1 - np.exp(-ages / mean)
        assert curve[arm][:-1] == pytest.approx(true[:-1], abs=0.02)
        assert curve[arm][-1] == 1.0
    reading = read(table, made, traffic.now_ms)
    rate = reading.s1[:, 0] / reading.n[:, 0]
    assert rate == pytest.approx([0.3, 0.3], abs=0.006)
    # All decisions count for the arm that answers at once, and clearly fewer for the one that does not.
    assert reading.n[0, 0] > 0.985 * reading.assigned[0]
    assert 0.75 < reading.n[1, 0] / reading.assigned[1] < 0.9


def test_waiting_reads_mature_periods_only() -> None:
    made = conversions("wait")
    traffic = Traffic(made, (0.3, 0.3), (0.3, 10.0), 1)
    for _ in range(40):
        traffic.serve([1000, 1000])
    reading = read(traffic.table(), made, traffic.now_ms)
    assert reading.n[:, 0].tolist() == [10_000.0, 10_000.0]


def test_without_a_delay_curve_nothing_young_is_counted() -> None:
    """A silence of a young decision says nothing while no delay is known: not a failure, not a success."""
    made = conversions("weigh")
    traffic = Traffic(made, (0.3, 0.3), (0.3, 10.0), 1)
    for _ in range(5):
        traffic.serve([5, 5])
    assert delay_curves(traffic.table(), made, traffic.now_ms) == {}
    assert read(traffic.table(), made, traffic.now_ms).n[:, 0].tolist() == [0.0, 0.0]


@pytest.mark.slow
def test_a_better_arm_that_answers_late_ends_on_top_and_sooner_when_pending_decisions_are_weighed() -> None:
    """While no window has closed the curve must be found from delays cut short, which costs little."""
    lost = {}
    for pending in ("wait", "weigh"):
        made = conversions(pending)
        runs = [regret(made, seed, rows=60) for seed in range(100, 112)]
        lost[pending] = float(np.mean([each[0] for each in runs]))
        assert np.mean([each[1] for each in runs]) > 0.8
    assert lost["weigh"] <= 0.9 * lost["wait"]

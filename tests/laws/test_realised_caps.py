"""Heavy units that keep their arm: traffic comes down to the arm's cap, whatever its share was."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

import bandit.look
from bandit.counting import layout_of
from bandit.guardrails.base import Folded
from bandit.ledger import ONE, Cells, Period, PeriodTable, split_table, table
from bandit.ranges import PPM
from bandit.realised import RECENT, Realised, held, realised
from bandit.rollout.state import State
from bandit.rollout.transitions import create
from bandit.spec.model import ExperimentSpec
from tests.builders import spec

CAP, UNITS, LOOKS, DECISIONS = 0.2, 400, 40, 2500


def of(**changes: Any) -> ExperimentSpec:
    values: dict[str, Any] = {
        "arms": [{"name": "old", "control": True}, {"name": "new"}],
        "metrics": [{"name": "ok", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1s"}],
        "objective": [{"metric": "ok"}],
        "unit": {"kind": "user", "mode": "sticky"},
        "bounds": {"floor": 0.0, "cap": CAP, "control_floor": 0.05},
    }
    return spec(**(values | changes))


def release(seed: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """[LOOKS, 2] (allocated, realised) share of an arm that is far better, where ten units make half of the traffic."""
    made, chance = of(), np.random.default_rng(seed)
    points = chance.integers(0, PPM, UNITS)
    heavy = np.where(np.arange(UNITS) < 10, 0.05, 0.5 / (UNITS - 10))
    draft = create(made, 1, bytes(16), 0)
    experiment, allocation = replace(draft.experiment, state=State.RUNNING), draft.allocation
    periods: list[Period] = []
    told = []
    for row in range(LOOKS):
        whole, rows = table(periods, layout_of(made)), split_table(periods, layout_of(made))
        seen = bandit.look.look(
            experiment, allocation, whole, rows, Folded.empty_of(made), row * 1000, batch=1000.0, renew=True
        )
        assert seen.transition is not None
        allocation = seen.transition.allocation
        arm = np.array([allocation.ranges.arm_at(int(point)) for point in points])
        visits = chance.poisson(DECISIONS * heavy / heavy.sum())
        n = np.array([visits[arm == each].sum() for each in range(2)])
        good = chance.binomial(n, [0.2, 0.6])
        cells = Cells.zeros(layout_of(made))
        cells.exposures[0] = n
        cells.sums[0, :, 0, 0], cells.sums[0, :, 0, 1], cells.sums[0, :, 0, 2] = n, good * ONE, good * ONE
        periods.append(
            Period(
                *(row + 1, row + 1, 1, row * 1000, row * 1000 + 1000),
                shares_ppm=allocation.shares_ppm,
                centres=allocation.centres,
                cells=cells,
            )
        )
        told.append((allocation.shares_ppm[1] / PPM, n[1] / max(n.sum(), 1)))
    return np.array(told)


@pytest.mark.slow
def test_traffic_of_heavy_units_is_brought_under_the_cap_and_stays_there() -> None:
    """12 releases: from the tenth look on nine of ten periods are under the cap and 3 standard errors of chance; some
    were far above it before."""
    noise = 3 * (CAP * (1 - CAP) / DECISIONS) ** 0.5
    told = np.array([release(seed) for seed in range(12)])
    above = told[:, :, 1] > CAP + noise
    assert above[:, :3].any(axis=1).sum() >= 3, "the cap on shares alone would not have done"
    assert above[:, 10:].mean() < 0.1
    assert told[:, 10:, 1].mean() < CAP
    assert (told[:, :, 0] <= CAP).all()
    assert (told[:, 10:, 0] > 0.02).all(), "no arm is starved for it"


def rows_of(decisions: list[tuple[int, int]], share: float = 0.2) -> PeriodTable:
    periods = []
    for number, each in enumerate(decisions, start=1):
        cells = Cells.zeros(layout_of(of()))
        cells.exposures[0] = each
        shares = (round(PPM * (1 - share)), round(PPM * share))
        periods.append(
            Period(*(number, number, 1, number * 1000, number * 1000 + 1000), shares, (0.5,), cells=cells)
        )
    return split_table(periods, layout_of(of()))


def most(decisions: list[tuple[int, int]], made: ExperimentSpec | None = None) -> tuple[int | None, ...]:
    seen = realised(made or of(), rows_of(decisions))
    assert seen is not None
    return seen.most_ppm


def test_a_share_is_held_by_as_much_as_traffic_outgrew_it() -> None:
    assert most([(6000, 4000)]) == (None, 100_000), "twice its share: half of the cap"
    assert most([(8000, 2000)]) == (None, None)
    assert most([(9500, 500)]) == (None, None), "what is below its share is not made up for"


def test_chance_holds_nobody() -> None:
    """Of 2,400 decisions 20 per cent are 480, their standard error 19.6."""
    assert most([(2400 - 530, 530)]) == (None, None)
    assert most([(2400 - 560, 560)])[1] is not None
    assert RECENT == 2000
    assert most([(1000, 500)]) == (None, None), "too few decisions to tell"


def test_the_newest_decisions_count_and_those_before_are_remembered() -> None:
    calm, wild = (8000, 2000), (6000, 4000)
    assert most([calm] * 30 + [wild])[1] == 100_000
    remembered = most([wild, calm, calm])[1]
    assert remembered is not None
    assert 100_000 < remembered < 200_000
    assert most([(80, 20)] * 5 + [wild])[1] == 100_000


def test_only_capped_challengers_of_units_that_keep_their_arm_are_held() -> None:
    wild = rows_of([(6000, 4000)])
    assert realised(of(unit={"kind": "user", "mode": "request"}), wild) is None
    assert realised(of(), rows_of([(0, 0)])) is None
    assert most([(6000, 4000)], of(bounds={"cap": 1.0})) == (None, None)
    kept = realised(of(unit={"kind": "user", "mode": "session"}), wild)
    assert kept is not None
    assert kept.most_ppm == (None, 100_000)
    assert kept.part.tolist() == [0.6, 0.4]


def test_the_lower_of_two_holds_wins() -> None:
    seen = Realised(1e4, np.array([0.5, 0.3, 0.2]), (None, 100_000, 50_000))
    assert held([None, 40_000, None], seen) == [None, 40_000, 50_000]
    assert held([None, 400_000, None], seen) == [None, 100_000, 50_000]
    assert held([None, 7], None) == [None, 7]

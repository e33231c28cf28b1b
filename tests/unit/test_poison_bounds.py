"""How far poisoned rewards move P(best): by about as much of the declared range as they are of the events."""

from __future__ import annotations

import numpy as np
import pytest

from bandit.counting import layout_of
from bandit.guardrails.base import Folded
from bandit.learn import open_periods
from bandit.ledger import ONE, Ledger, table
from bandit.look import look
from tests.builders import NOW, running

PART = 0.05
"""Of the events are the attacker's: one reward of each of its own decisions."""


def p_best(lead: float, decisions: int, part: float) -> float:
    """P(best) of a challenger that is worse than the control by ``lead``, where the attacker praises it and damns the
    control: the most that one reward for each decision, in the declared range, can do."""
    arms = [{"name": "control", "control": True}, {"name": "new"}]
    metrics = [{"name": "good", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1h"}]
    experiment, allocation = running(
        (500_000, 500_000),
        arms=arms,
        metrics=metrics,
        objective=[{"metric": "good"}],
        unit={"kind": "request", "mode": "request"},
    )
    ledger = Ledger(1, layout_of(experiment.spec))
    open_periods(ledger, [allocation], experiment)
    (period,) = ledger.periods.values()
    for arm, (rate, told) in enumerate([(0.4, 0.0), (0.4 - lead, 1.0)]):
        good = round(decisions * ((1 - part) * rate + part * told))
        period.cells.exposures[0, arm] = decisions
        period.cells.sums[0, arm, 0] = decisions, good * ONE, good * ONE, 0
    rows = table(ledger.current(), ledger.layout)
    found = look(experiment, allocation, rows, rows, Folded.empty_of(experiment.spec), NOW + 7_200_000)
    return float(np.asarray(found.proposal.p_best)[1])


@pytest.mark.parametrize("decisions", [1_000, 20_000, 1_000_000])
def test_a_lead_of_more_than_the_attackers_part_of_the_range_stands(decisions: int) -> None:
    """With a part f of the events: a lead of more than f / (1 - f) of the range, here 5.3 %, stands."""
    assert p_best(PART / (1 - PART) + 1e-3, decisions, PART) <= 0.5
    assert p_best(2 * PART, max(decisions, 2_000), PART) <= 0.002


def test_within_that_part_more_events_make_it_worse() -> None:
    """So P(best) has no ceiling of its own, and a poisoned source is to be removed."""
    assert p_best(0.0, 1_000, 0.0) == pytest.approx(0.5)
    told = [p_best(0.0, decisions, PART) for decisions in (200, 2_000, 20_000)]
    assert told[0] < 0.9 < 0.99 < told[1] < told[2]

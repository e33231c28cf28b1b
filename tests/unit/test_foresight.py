"""What guardrails foretell, against what then happens; and powers of means, which tell how skewed values are."""

from __future__ import annotations

import re

import numpy as np
import pytest

from bandit.guardrails.base import Outcome, Verdict
from bandit.guardrails.evidence import outcomes
from tests.guardrail_periods import LONG_AFTER, METRICS, guarded, judged, period, stacked

PAIR = [{"name": "control", "control": True}, {"name": "small"}]
HALVES = (0.5, 0.5)


def more(message: str) -> float:
    """So many more, as the sentence says."""
    found = re.search(r"needs about ([\d,]+) more", message)
    assert found, message
    return float(found[1].replace(",", ""))


def test_a_burn_in_is_about_as_long_as_it_says() -> None:
    spec = guarded({"kind": "harm", "metric": "cost", "method": "asymptotic"}, arms=PAIR)
    unit = [1.9, *([0.05] * 15)]  # one dear request of sixteen

    def said(times: float) -> str:
        values = unit * round(10 * times)
        counted = period(spec, 1, {"cost": [values, values]}, shares=HALVES, centres={"cost": 0.08})
        return judged(spec, [counted])["small", "g0"].message

    assert "burn-in; " in said(1.0)
    wanted = 1.0 + more(said(1.0)) / 160
    assert 3.0 < wanted < 100.0
    assert "burn-in; " in said(0.9 * wanted)
    assert "burn-in; " not in said(1.1 * wanted)


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
@pytest.mark.parametrize("values", [[2.0, 2.0, 3.0], [1.0, 2.0, 2.0]], ids=["many", "few"])
def test_so_many_more_events_are_needed_as_it_says(values: list[float], direction: str) -> None:
    calls = [each | {"direction": direction} if each["name"] == "calls" else each for each in METRICS]
    spec = guarded({"kind": "event_rate", "metric": "calls", "limit": 2.0}, arms=PAIR, metrics=calls)

    def seen(times: float) -> Verdict:
        counted = {"calls": [[], values * round(20 * times)]}
        return judged(spec, [period(spec, 1, counted, shares=HALVES)])["small", "g0"]

    now = seen(1.0)
    assert now.outcome is Outcome.INCONCLUSIVE
    needed = more(now.message) / 60
    assert seen(1.0 + 0.5 * needed).outcome is Outcome.INCONCLUSIVE
    assert seen(1.0 + 1.5 * needed).outcome is (
        Outcome.FAIL if (values[2] == 3.0) == (direction == "minimize") else Outcome.PASS
    )


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_powers_of_a_mean_are_those_of_its_values(direction: str) -> None:
    """Of values of a range that does not begin at 0, as parts of its upper end; of badness where none is asked for."""
    odd = {
        "name": "odd",
        "kind": "gaussian",
        "direction": direction,
        "range": [1, 5],
        "attribution_window": "1h",
    }
    spec = guarded(
        {"kind": "harm", "metric": "odd", "method": "asymptotic"}, arms=PAIR, metrics=[*METRICS, odd]
    )
    values = [1.0, 2.5, 3.0, 4.75, 5.0]
    rows = stacked(spec, [period(spec, 1, {"odd": [[2.0], values]}, shares=HALVES)])
    bad = np.array([(x - 1) / 4 if direction == "minimize" else (5 - x) / 4 for x in values])
    for of_mean, x in ((False, bad), (True, np.array(values) / 5)):
        found = outcomes(spec, "odd", rows, LONG_AFTER, of_mean=of_mean)
        for field, power in (("bad", 1), ("square", 2), ("cube", 3)):
            assert getattr(found, field)[0, 1] == pytest.approx(float((x**power).sum()), rel=1e-6), field
        assert found.count[0, 1] == 5

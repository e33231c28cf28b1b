"""Who leads before there is a winner, and what its lift is."""

from __future__ import annotations

from typing import Any

import pytest

from tests.guardrail_periods import period
from tests.reports import EQUAL, effect, of, reported


def test_the_lift_is_that_of_whoever_led_before_each_period() -> None:
    """The first challenger has more share in one period, the second in the other; chance would flatter the last."""
    spec = of()
    parts = [
        period(
            spec, 1, {"good": [(40, 20), (50, 30), (10, 9)]}, shares=(0.4, 0.5, 0.1), centres={"good": 0.5}
        ),
        period(
            spec, 2, {"good": [(40, 24), (10, 8), (50, 45)]}, shares=(0.4, 0.1, 0.5), centres={"good": 0.5}
        ),
    ]
    alone = [reported(spec, [each]) for each in parts]
    won = reported(spec, parts).winner
    assert won.lift == pytest.approx((effect(alone[0], 1).aipw + effect(alone[1], 2).aipw) / 2)
    assert alone[0].winner.lift == pytest.approx(effect(alone[0], 1).aipw)
    assert alone[1].winner.lift == pytest.approx(effect(alone[1], 2).aipw)
    assert won.lift < effect(reported(spec, parts), 2).aipw


def test_without_evidence_the_arm_that_is_ahead_leads() -> None:
    """A ratio tells nothing before fifty events; the first arm of the list is no better for that."""
    parts: list[dict[str, Any]] = [
        {
            "name": name,
            "kind": "gaussian",
            "direction": "minimize",
            "range": [0, 10],
            "attribution_window": "1h",
        }
        for name in ("paid", "calls")
    ]
    ratio = {"name": "each", "kind": "ratio", "direction": "minimize", "range": [0, 9]}
    spec = of(
        metrics=[*parts, ratio | {"numerator": "paid", "denominator": "calls"}],
        objective=[{"metric": "each"}],
    )
    values = {"paid": [[4.0, 5.0, 3.0], [2.0, 1.0, 3.0], [6.0, 7.0, 8.0]], "calls": [[2.0] * 3] * 3}
    few = period(spec, 1, values, shares=EQUAL, assigned=[3, 3, 3], centres={})
    won = reported(spec, [few]).winner
    assert (won.arm, won.log_e) == (None, 0.0)
    assert won.leader == 1

"""The law of a declared delay: a curve through what was said, and its inverse, wherever the two points are."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.declared import Declared, age_at, declared, share_by
from bandit.spec.model import Delay

GRID = np.linspace(0.0, 1.0, 257)
PARTS = st.floats(1e-6, 1.0 - 1e-6)


@given(PARTS, PARTS)
def test_it_goes_through_what_was_said_and_back(one: float, two: float) -> None:
    middle, late = sorted((one, two))
    if late - middle < 1e-9:
        return
    law = Declared(middle, late, 100.0)
    assert share_by(law, np.array([0.0, middle, late, 1.0])) == pytest.approx([0.0, 0.5, 0.9, 1.0], abs=1e-6)
    share = share_by(law, GRID)
    assert (np.diff(share) >= 0.0).all()
    age = age_at(law, GRID)
    assert ((age >= 0.0) & (age <= 1.0)).all()
    assert share_by(law, age) == pytest.approx(GRID, abs=1e-6)


@pytest.mark.parametrize("mean", [0.01, 1 / 3, 1.0, 50.0])
def test_an_exponential_law_within_the_window_is_one(mean: float) -> None:
    true = np.expm1(-GRID / mean) / math.expm1(-1.0 / mean)
    middle, late = (-mean * math.log1p(part * math.expm1(-1.0 / mean)) for part in (0.5, 0.9))
    assert share_by(Declared(middle, late, 1.0), GRID) == pytest.approx(true, abs=1e-6)
    alone = declared(Delay.model_validate({"median": f"{round(3.6e6 * middle)}ms"}), 3600.0)
    assert alone is not None
    assert alone.late == pytest.approx(late, abs=1e-6)


def test_where_most_come_late_the_curve_is_straight() -> None:
    law = declared(Delay.model_validate({"median": "45m"}), 3600.0)
    assert law == (0.75, 0.95, 100.0)
    assert share_by(law, np.array([0.375, 0.85, 0.975])) == pytest.approx([0.25, 0.7, 0.95])

"""The law of delays that a spec declares by its median and 90 % point: its curve, and delays drawn from it.

Rewards that are still to come do so at one constant rate up to the median and at another from there on, and none comes
after the window: F(u) = (1 - exp(-H(u))) / (1 - exp(-H(1))), H(u) = r1 min(u, m) + r2 max(u - m, 0), where F(m) = 0.5
and F(q) = 0.9 for parts m < q < 1 of the window. An exponential law that the window cuts off is one of these. Where so
many come late that no rates above 0 fit, F is linear from 0 to m, q and 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

import numpy as np

from bandit.ledger import FloatArray
from bandit.spec.delay import Delay

CELLS = (0.5, 0.4, 0.1)
"""Shares of the rewards up to the median, from there to the 90 % point, and after it."""
HALVINGS = 200
LEAST = 1e-9


class Declared(NamedTuple):
    """Median and 90 % point as parts of the window, 0 < ``middle`` < ``late`` < 1, and the rewards they weigh."""

    middle: float
    late: float
    strength: float


class _Rates(NamedTuple):
    """``total`` = H(1), 0 where F is linear; rates ``early`` and ``later`` per window."""

    total: float
    early: float
    later: float


@lru_cache(maxsize=4096)
def declared(delay: Delay | None, window_s: float) -> Declared | None:
    """A delay of a spec, whose checks it passed, on the scale of a window of so many s."""
    if delay is None:
        return None
    middle = delay.median / window_s
    late = _constant(middle) if delay.p90 is None else delay.p90 / window_s
    return Declared(middle, late, delay.strength)


def share_by(law: Declared, age: FloatArray) -> FloatArray:
    """F at ages, as parts of the window in [0, 1]; 1 at its end."""
    rates = _rates(law.middle, law.late)
    if not rates.total:
        return np.asarray(np.interp(age, (0.0, law.middle, law.late, 1.0), np.cumsum((0.0, *CELLS))))
    passed = rates.early * np.minimum(age, law.middle) + rates.later * np.maximum(age - law.middle, 0.0)
    share: FloatArray = np.minimum(np.expm1(-passed) / math.expm1(-rates.total), 1.0)
    return share


def age_at(law: Declared, share: FloatArray) -> FloatArray:
    """The inverse: ages at which these shares, in [0, 1], have come."""
    rates = _rates(law.middle, law.late)
    if not rates.total:
        return np.asarray(np.interp(share, np.cumsum((0.0, *CELLS)), (0.0, law.middle, law.late, 1.0)))
    passed = -np.log1p(np.maximum(share * math.expm1(-rates.total), 2.0**-53 - 1.0))
    half = rates.early * law.middle
    age: FloatArray = np.where(
        passed <= half, passed / rates.early, law.middle + (passed - half) / rates.later
    )
    return np.minimum(age, 1.0)


@lru_cache(maxsize=4096)
def _rates(middle: float, late: float) -> _Rates:
    """By bisection of H(1): what the second rate leaves for the rest of the window."""
    times = (1.0 - late) / (late - middle)

    def spare(total: float) -> float:
        come = -math.expm1(-total)
        tail = math.log1p(-0.9 * come)
        return total + tail - times * (math.log1p(-0.5 * come) - tail)

    if spare(LEAST) >= 0.0:
        return _Rates(0.0, 0.0, 0.0)
    low, high = LEAST, times * math.log(5.0) + math.log(10.0) + 1.0
    total = _root(spare, low, high)
    come = -math.expm1(-total)
    half = -math.log1p(-0.5 * come)
    return _Rates(total, half / middle, (-math.log1p(-0.9 * come) - half) / (late - middle))


@lru_cache(maxsize=4096)
def _constant(middle: float) -> float:
    """The 90 % point of one constant rate with this median; evenly where no rate above 0 fits."""

    def spare(total: float) -> float:
        # With half of 1 - exp(-total) come by the median.
        return -math.expm1(-total * middle) + 0.5 * math.expm1(-total)

    if middle >= 0.5 - LEAST:
        return 1.0 - 0.2 * (1.0 - middle)
    low, high = LEAST, 2.0 * math.log(2.0) / middle
    # Below 0 at low, above at high: the higher the rate, the more come early.
    total = _root(spare, low, high)
    return -math.log1p(0.9 * math.expm1(-total)) / total


def _root(rises: Callable[[float], float], low: float, high: float) -> float:
    """Where it is 0 between ``low``, where it is below, and ``high``, where it is above."""
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if not low < middle < high:
            break
        low, high = (low, middle) if rises(middle) > 0.0 else (middle, high)
    return 0.5 * (low + high)

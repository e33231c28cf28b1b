"""What a request may cost so that a day keeps its budget, and the price of cost that makes allocators keep it.

The price lambda (objective per unit of the metric) is the dual variable of the day's budget: allocators maximise
objective - lambda cost (Balseiro & Gur 2019; Agrawal & Devanur 2014). It is solved anew at each look instead of being
carried on in steps, so it is a function of the ledger, the time and the beliefs alone: any server finds the same one.

Promise: at each look the expected cost of the rest of the day, by the beliefs about costs, the traffic of the last day
and the shares after all bounds, is at most what is left of the budget, unless floors, holds and ramps alone cost more.
So a day's spend differs from the budget by the errors of both forecasts since the last look, and by what is served
between two looks. Once the budget is spent the cheapest arm has everything that floors leave. Nothing is refused.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from bandit.allocators.base import Utility
from bandit.baselines.base import Belief, Evidence, variance
from bandit.kernels.best_arm import NORMAL
from bandit.ledger import FloatArray
from bandit.spec.model import ExperimentSpec

DAY_MS = 86_400_000
MOST_VARIANCE = 0.25
DOUBLINGS, HALVINGS = 60, 30


@dataclass(frozen=True, slots=True)
class Spending:
    """``spent`` since midnight (UTC), requests still to come included; ``expected`` requests until the next midnight;
    ``allowed``: what one of them may cost, 0 once the budget is spent and inf when none is expected."""

    spent: float
    expected: float
    allowed: float


@dataclass(frozen=True, slots=True)
class Cost:
    """Cost of one request by arm [K], metric's unit: ``mean``, ``sd`` of that mean, ``variance`` of one; ``range`` of
    legal values."""

    mean: FloatArray
    sd: FloatArray
    variance: FloatArray
    range: tuple[float, float]


def cost_of(spec: ExperimentSpec, evidence: Evidence, beliefs: Sequence[Belief]) -> Cost:
    """What the arms cost, by the beliefs about the budget's metric."""
    assert spec.budget is not None
    index = spec.metric_index(spec.budget.metric)
    assert index is not None
    low, high = spec.metrics[index].scale
    belief, width = beliefs[index], high - low
    one = variance(evidence.reading.channel(index))
    return Cost(
        np.clip(low + width * belief.mean, low, high), width * belief.sd, width * width * one, (low, high)
    )


def spending(spec: ExperimentSpec, evidence: Evidence, cost: Cost) -> Spending:
    """Spend of today and what it leaves, from the ledger's rows; a period over midnight counts by its part of time.

    A request whose cost can still arrive counts as its arm's mean cost.
    """
    assert spec.budget is not None
    index = spec.metric_index(spec.budget.metric)
    assert index is not None
    metric, rows, now = spec.metrics[index], evidence.rows, evidence.now_ms
    low, high = cost.range
    n, s1 = rows.n[:, :, index], rows.s1[:, :, index]
    silent = np.maximum(rows.assigned - n, 0.0)
    young = ~rows.mature(metric.attribution_window, now)
    paid = low * n + (high - low) * s1 + np.where(young[:, None], silent * cost.mean, 0.0)
    if metric.default_when_silent is not None:
        paid += np.where(young[:, None], 0.0, silent * metric.default_when_silent)
    midnight = now - now % DAY_MS
    spent = float(_part(rows.start_ms, rows.end_ms, midnight, now) @ paid.sum(axis=1))
    since = max(now - DAY_MS, int(rows.start_ms.min(initial=now)))
    lately = float(_part(rows.start_ms, rows.end_ms, since, now) @ rows.assigned.sum(axis=1))
    expected = lately / max(now - since, 1) * (midnight + DAY_MS - now)
    left = spec.budget.per_day - spent
    if left <= 0.0:
        return Spending(spent, expected, 0.0)
    return Spending(spent, expected, left / expected if expected > 0.0 else math.inf)


def _part(start_ms: NDArray[np.int64], end_ms: NDArray[np.int64], since: int, until: int) -> FloatArray:
    """[E] part of each period that lies between two times; an open one ends at ``until``."""
    end = np.where(end_ms > 0, end_ms, until)
    inside = np.minimum(end, until) - np.maximum(start_ms, since)
    length = np.maximum(end - start_ms, 1)
    part: FloatArray = np.clip(inside / length, 0.0, 1.0)
    return np.where((end <= start_ms) & (start_ms >= since), 1.0, part)


def pacing(allowed: float, cost: FloatArray, shares: Callable[[float], FloatArray], scale: float) -> float:
    """The least price (to 1e-9 of it) at which shares [K] cost at most ``allowed`` on average; 0 when they do anyway.

    ``cost`` [K] of one request; ``shares``: of a price, after bounds; ``scale`` > 0: a price that is felt, such as the
    objective's span over the costs'. inf when nothing is allowed, or no price is enough: then the cheapest has all.
    """
    if allowed <= 0.0:
        return math.inf
    if float(shares(0.0) @ cost) <= allowed:
        return 0.0
    low, high = 0.0, scale * 1e-6
    for _ in range(DOUBLINGS):
        if float(shares(high) @ cost) <= allowed:
            break
        low, high = high, 2.0 * high
    else:
        return math.inf
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        if float(shares(middle) @ cost) <= allowed:
            high = middle
        else:
            low = middle
    return high


def priced(utility: Utility, cost: Cost, price: float, live: NDArray[np.bool_]) -> Utility:
    """Utility - ``price`` times cost, matched by a normal; the utility itself at price 0.

    At an infinite price only cost matters: the cheapest live arm is surely the best, and equally cheap ones share.
    """
    if price == 0.0:
        return utility
    low, high = cost.range
    if math.isinf(price):
        cheapest = cost.mean[live].min() if live.any() else low
        best = np.where(cost.mean <= cheapest, 1.0, 0.0)
        params = np.stack([best, np.full(best.size, 1e-6)], axis=1)
        return replace(
            utility,
            family=NORMAL,
            params=params,
            unit=1.0,
            mean=best,
            sd=params[:, 1],
            unit_mean=best,
            span=1.0,
            shown=None,
        )
    span = utility.span + price * (high - low)

    def priced(unit_mean: FloatArray) -> FloatArray:
        return np.clip((unit_mean * utility.span + price * (high - cost.mean)) / span, 0.0, 1.0)

    mean = utility.mean - price * cost.mean
    sd = np.hypot(utility.sd, price * cost.sd)
    one = (utility.variance * utility.span**2 + price**2 * cost.variance) / span**2
    return replace(
        utility,
        family=NORMAL,
        params=np.stack([mean, sd], axis=1),
        unit=1.0,
        mean=mean,
        sd=sd,
        unit_mean=priced(utility.unit_mean),
        shown=None if utility.shown is None else priced(utility.shown),
        variance=np.clip(one, 0.0, MOST_VARIANCE),
        span=span,
    )

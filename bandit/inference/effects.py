"""Differences between two arms from terms: estimates, anytime-valid intervals and evidence; it declares nothing.

An *outcome* is a linear form of metrics: one metric in its unit, a ratio linearised at the control's value, or the
objective. For a pair of arms two estimates of the mean difference:

* overlap, S / A: weighs a period by n v (1 - v), that is by how much the two arms overlap in it. Its interval is
  S / A +- u(V) / A and holds at every look for the mean difference with just these weights, whatever moves: shares,
  baseline, the difference itself (the bound of ``kernels.intervals`` needs no constant means).
* AIPW, PHI / N: weighs a period by its traffic, without bias under shares that learn; wide where shares are small.

Method ``exact``: valid for any outcomes in the range, from the first one on. Method ``asymptotic`` (Waudby-Smith,
Arbour, Sinha, Kennedy & Ramdas 2024): for outcomes whose range is far wider than their spread; only after
LEAST_EVENTS on both sides, and always beside the exact one, each at half of the error.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np

from bandit.inference.terms import PHI, PHI2, A, N, S, Terms, V
from bandit.kernels.confseq import log_mean_exp, log_normal_e, tuned_rho
from bandit.kernels.intervals import log_better_e, normal_bound, overlap_bound, two_sided_rho
from bandit.ledger import FloatArray

LEVEL = 0.95
LEAST_EVENTS = 50.0
RHOS = np.array([tuned_rho(10.0, 0.025), tuned_rho(200.0, 0.025)])
"""Power where V is 10, a few hundred values, and where it is 200, a few thousand; V is in squares of the range."""
TUNED_AT = 1000.0
"""Overlap weight at which the asymptotic interval is narrowest."""
BOUND = 1.0
"""Terms are at least -1 in units of the range: centres and values are within it."""
COMPLETE = 1.0 - 1e-9
CANNOT_TELL = math.inf
FARTHEST = 1e9
HALVINGS = 12

Method = Literal["none", "exact", "asymptotic"]
Trust = Literal["exact", "either", "asymptotic"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """``weights``: by metric index, units of the outcome per scaled unit of the metric; negative turns it around.

    ``trust``: ``exact`` where values fill their range, so that the exact interval is a good one; ``either`` where the
    range may be far wider; ``asymptotic`` where the weights themselves were estimated. ``effect``: design effect of its
    values; n of them are the evidence of n / effect, which is right for many units (asymptotically).
    """

    weights: Mapping[int, float]
    trust: Trust
    effect: float = 1.0

    @property
    def range(self) -> float:
        """Width of what the outcome can be."""
        return sum(abs(weight) for weight in self.weights.values())


class Pair(NamedTuple):
    """Terms of an outcome for two arms, in units of the outcome; see ``terms``. ``complete``: every decision of the
    two arms that has one of the metrics has all of them."""

    a: float
    s: float
    v: float
    n: float
    phi: float
    phi2: float
    complete: bool


class Interval(NamedTuple):
    """Anytime-valid at LEVEL; ``low`` to ``high`` in units of the outcome, infinite without any rewards."""

    estimate: float
    low: float
    high: float
    method: Method


def pair_of(outcome: Outcome, parts: FloatArray, crosses: Mapping[tuple[int, int], FloatArray]) -> Pair:
    """:func:`_pair`, as if every value stood for as few as the design effect says."""
    made, part = _pair(outcome, parts, crosses), 1.0 / outcome.effect
    return Pair(
        part * made.a,
        part * made.s,
        part * made.v,
        part * made.n,
        part * made.phi,
        part * made.phi2,
        made.complete,
    )


def thinned(outcome: Outcome, effects: FloatArray | None) -> Outcome:
    """The outcome with the largest design effect [M] of the metrics that it is made of."""
    if effects is None:
        return outcome
    largest = max((float(effects[index]) for index, weight in outcome.weights.items() if weight), default=1.0)
    return replace(outcome, effect=largest)


def _pair(outcome: Outcome, parts: FloatArray, crosses: Mapping[tuple[int, int], FloatArray]) -> Pair:
    """Terms of an outcome. ``parts`` [M, 6] or [M, 3] (then no AIPW) of the pair; ``crosses``: by metric indexes, the
    lower first, joint A, V, PHI2.

    Where decisions lack some of the metrics, each metric has its own difference, and the variance is the largest that
    any dependence gives: the square of the sum of standard deviations.
    """
    found = {index: weight for index, weight in outcome.weights.items() if weight}
    rows = {index: [*map(float, parts[index]), 0.0, 0.0, 0.0][:6] for index in found}
    if len(found) == 1:
        ((index, weight),) = found.items()
        row = rows[index]
        return Pair(
            row[A],
            weight * row[S],
            weight**2 * row[V],
            row[N],
            weight * row[PHI],
            weight**2 * row[PHI2],
            True,
        )
    least = min((row[A] for row in rows.values()), default=0.0)
    if least <= 0.0:
        return Pair(0.0, 0.0, 0.0, 0.0, 0.0, 0.0, False)
    fewest = min(row[N] for row in rows.values())
    effect = sum(weight * rows[index][S] / rows[index][A] for index, weight in found.items())
    aipw = sum(weight * rows[index][PHI] / max(rows[index][N], 1.0) for index, weight in found.items())
    joined = {key: crosses.get(key) for key in _keys(found)}
    most = max(row[A] for row in rows.values())
    complete = all(cross is not None and cross[0] >= COMPLETE * most for cross in joined.values())
    if complete:
        v, phi2 = (_square(found, rows, joined, column, place) for column, place in ((V, 1), (PHI2, 2)))
    else:
        v = least**2 * _widest(found, rows, V, A)
        phi2 = fewest**2 * _widest(found, rows, PHI2, N)
    return Pair(least, least * effect, max(v, 0.0), fewest, fewest * aipw, max(phi2, 0.0), complete)


def _keys(found: Mapping[int, float]) -> list[tuple[int, int]]:
    order = sorted(found)
    return [(low, high) for place, low in enumerate(order) for high in order[place + 1 :]]


def _square(
    found: Mapping[int, float],
    rows: Mapping[int, list[float]],
    joined: Mapping[tuple[int, int], FloatArray | None],
    column: int,
    place: int,
) -> float:
    """w' C w of the squares and products in one column."""
    total = sum(weight**2 * rows[index][column] for index, weight in found.items())
    for (low, high), cross in joined.items():
        assert cross is not None
        total += 2.0 * found[low] * found[high] * float(cross[place])
    return total


def _widest(found: Mapping[int, float], rows: Mapping[int, list[float]], column: int, over: int) -> float:
    sds = (
        abs(w) * math.sqrt(max(rows[i][column], 0.0)) / max(rows[i][over], 1e-300) for i, w in found.items()
    )
    return float(sum(sds)) ** 2


def near(terms: Terms, place: int, crosses: list[tuple[int, int]], outcome: Outcome) -> Pair:
    """The pair of the challenger at ``place`` with the control; ``crosses``: the metrics of each PAIR channel."""
    return pair_of(
        outcome, terms.direct[:, place], dict(zip(crosses, terms.crosses_direct[:, place], strict=True))
    )


def far(terms: Terms, place: int, crosses: list[tuple[int, int]], outcome: Outcome) -> Pair:
    """The pair of two challengers at ``place`` of ``terms.far_pairs``."""
    return pair_of(
        outcome, terms.others[:, place], dict(zip(crosses, terms.crosses_others[:, place], strict=True))
    )


def interval(outcome: Outcome, pair: Pair, events: float, level: float = LEVEL) -> Interval:
    """Overlap estimate and its interval. ``events``: the fewer of the two arms' (see ``report``)."""
    if pair.a <= 0.0 or outcome.range <= 0.0:
        return Interval(math.nan, -math.inf, math.inf, "none")
    events /= outcome.effect
    alpha, trust = 1.0 - level, trust_in(outcome, pair)
    each = alpha / 2.0 if trust == "either" else alpha
    exact = asymptotic = math.inf
    if trust != "asymptotic":
        exact = outcome.range * overlap_bound(pair.v / outcome.range**2, math.log(2.0 / each), RHOS, BOUND)
    if trust != "exact" and events >= LEAST_EVENTS:
        asymptotic = _normal_half(pair, each)
    half = min(exact, asymptotic)
    method: Method = "exact" if exact <= asymptotic else "asymptotic"
    estimate = pair.s / pair.a
    return Interval(
        estimate, estimate - half / pair.a, estimate + half / pair.a, method if half < math.inf else "none"
    )


def trust_in(outcome: Outcome, pair: Pair) -> Trust:
    """No bound is exact for a sum whose terms are not seen together."""
    return outcome.trust if pair.complete else "asymptotic"


def _normal_half(pair: Pair, alpha: float) -> float:
    if pair.v <= 0.0:
        return math.inf
    rho = pair.v / pair.a / two_sided_rho(alpha, TUNED_AT)
    return normal_bound(pair.v, -math.log(alpha), rho)


def aipw(pair: Pair) -> tuple[float, float]:
    """(estimate, standard error) of the difference over all traffic; NaN without any."""
    if pair.n <= 0.0:
        return math.nan, math.nan
    mean = pair.phi / pair.n
    return mean, math.sqrt(max(pair.phi2 - pair.n * mean * mean, 0.0)) / pair.n


def log_better(outcome: Outcome, pair: Pair, events: float) -> float:
    """ln E of "the first arm's outcome is above the second's": an e-process against "at most equal in every period".

    Exact; where the range is wide and both arms have LEAST_EVENTS, the mean with the normal mixture, which is valid in
    the limit. 0 without rewards.
    """
    if pair.a <= 0.0 or outcome.range <= 0.0:
        return 0.0
    events /= outcome.effect
    trust, found = trust_in(outcome, pair), []
    if trust != "asymptotic":
        found.append(log_better_e(pair.s / outcome.range, pair.v / outcome.range**2, RHOS, BOUND))
    if trust != "exact":
        ripe = events >= LEAST_EVENTS and pair.v > 0.0
        rho = pair.v / pair.a * tuned_rho(TUNED_AT, 1.0 - LEVEL)
        found.append(log_normal_e(pair.s, pair.v, rho) if ripe else 0.0)
    return log_mean_exp(np.array(found))


def times_more(outcome: Outcome, pair: Pair, events: float, level: float) -> float:
    """How many times the rewards so far until ln E reaches ``level`` at the present rate, at least 1; CANNOT_TELL
    where the evidence points nowhere. All sums grow in proportion to the rewards."""
    if pair.s <= 0.0 or pair.v <= 0.0 or outcome.range <= 0.0:
        return CANNOT_TELL

    def reached(times: float) -> bool:
        a, s, v, n = (times * each for each in pair[:4])
        return log_better(outcome, pair._replace(a=a, s=s, v=v, n=n), times * events) >= level

    low, high = 1.0, 2.0
    while not reached(high):
        if high > FARTHEST:
            return CANNOT_TELL
        low, high = high, 2.0 * high
    for _ in range(HALVINGS):
        middle = math.sqrt(low * high)
        low, high = (low, middle) if reached(middle) else (middle, high)
    return high

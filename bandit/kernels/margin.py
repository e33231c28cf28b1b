"""How far an arm may be from the best: P(within a margin of it), the value remaining; and P(below a limit).

    within_k(d)  = P(x_k >= max_j x_j - d) = int f_k(x) prod_{j != k} F_j(x + d) dx,   d >= 0; d = 0 is P(best)
    remaining(l) = the v with within_b(v) = l, b the arm of the highest P(best)         (Scott 2010; 2015, sec. 3)
    below_k(c)   = F_k(c)

By the same panels as ``best_arm``. Nothing is drawn; the margin is in units of x, as is the value remaining.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.best_arm import best_arm, compare, march
from bandit.kernels.families import (
    BETA,
    MOST,
    NODES,
    NORMAL,
    STUDENT_T,
    FloatArray,
    W,
    X,
    cut,
    densities,
    facing,
    in_units,
    peak_of,
    share_nodes,
    table,
    tame,
)
from bandit.kernels.jit import kernel

SMALL = 1e-18


def chance_within(family: int, params: FloatArray, margin: float) -> FloatArray:
    """[K] chance that each arm is at most ``margin`` >= 0 (units of x) below the best of K; ``params`` [K, P].

    Error below 1e-9. Arms that cannot be told apart are surely within any margin above 0.
    """
    params = np.ascontiguousarray(params, np.float64)
    out = np.empty(len(params))
    within(family, params, float(margin), out)
    return out


def chance_below(family: int, params: FloatArray, limit: float) -> FloatArray:
    """[K] chance that each arm is at most ``limit`` (units of x); ``params`` [K, P]. An arm without spread gives 0 or
    1, and 1/2 at the limit itself."""
    params = np.ascontiguousarray(params, np.float64)
    out = np.empty(len(params))
    below(family, params, float(limit), out)
    return out


def value_remaining(family: int, params: FloatArray, level: float = 0.95) -> float:
    """The v (units of x) that the best arm exceeds the likely best by, with probability ``level`` at most.

    0 once P(best) of the likely best is ``level``. ``params`` [K, P], finite.
    """
    params = np.ascontiguousarray(params, np.float64)
    arm = int(np.argmax(best_arm(family, params).p))
    out = np.empty(len(params))

    def short(v: float) -> float:
        within(family, params, v, out)
        return float(out[arm]) - level

    if len(params) == 1 or short(0.0) >= 0.0:
        return 0.0
    low, high = 0.0, max(float(best_arm(family, params).loss[arm]), 1e-300)
    while short(high) < 0.0 and high < 1e300:
        low, high = high, 2.0 * high
    for _ in range(60):
        middle = 0.5 * (low + high)
        low, high = (low, middle) if short(middle) >= 0.0 else (middle, high)
        if high - low <= 1e-10 * high:
            break
    return high


@kernel
def within(family: int, params: FloatArray, margin: float, out: FloatArray) -> None:
    """``chance_within`` for compiled callers, into ``out`` [K]."""
    size = params.shape[0]
    if family in (NORMAL, STUDENT_T):
        shifted, p, loss, sure = table(params), np.empty(size), np.empty(size), np.ones(size)
        for k in range(size):
            shifted[k, 0] += margin
            mass, _ = compare(family, shifted, sure, False, p, loss)
            out[k] = p[k] if mass > 0.0 else 1.0
            shifted[k, 0] = params[k, 0]
        return
    arms = table(params)
    family = facing(family, arms)
    if tame(family, arms) == 0.0:
        for k in range(size):
            out[k] = 1.0
        return
    edges, counts = np.empty((size, 2 * MOST + 1)), np.empty(size, np.int64)
    before = np.zeros((size, 2 * MOST + 1))
    place, density = np.empty(NODES), np.empty(NODES)
    for k in range(size):
        counts[k] = cut(family, arms[k], edges[k])
        for i in range(counts[k] - 1):
            before[k, i + 1] = before[k, i] + _mass(
                family, arms[k], edges[k, i], edges[k, i + 1], place, density
            )
    for k in range(size):
        out[k] = _within(family, arms, edges, counts, before, k, margin)


@kernel
def _within(
    family: int,
    arms: FloatArray,
    edges: FloatArray,
    counts: NDArray[np.int64],
    before: FloatArray,
    arm: int,
    margin: float,
) -> float:
    """The integral of one arm, on panels of its own and of the others moved down by the margin."""
    size = arms.shape[0]
    moved, sizes = edges.copy(), counts.copy()
    for j in range(size):
        if j != arm:
            sizes[j] = _move(family, edges[j], counts[j], margin, moved[j])
    grid = np.empty(4 * int(sizes.sum()) + size + 1)
    kept, n = np.empty((size, edges.shape[1])), 0
    count = np.empty(size, np.int64)
    for j in range(size):
        if sizes[j] > 1:
            kept[n], count[n] = moved[j], sizes[j]
            n += 1
    panels = march(kept[:n], count[:n], 0.5, grid)
    first, last = edges[arm, 0], edges[arm, counts[arm] - 1]
    place, unit, density = np.empty(NODES), np.empty(NODES), np.empty(NODES)
    other, peak, total = np.empty(NODES), peak_of(family, arms[arm]), 0.0
    for panel in range(panels):
        start, end = max(grid[panel], first), min(grid[panel + 1], last)
        if not start < end:
            continue
        half = 0.5 * (end - start)
        middle = start + half
        share_nodes(family, middle, half, place, unit)
        densities(family, arms[arm], peak, middle, half, place, density)
        for i in range(NODES):
            chance = W[i] * density[i]
            z = _moved_up(family, middle + half * X[i], margin)
            for j in range(size):
                if j != arm and chance > SMALL:
                    chance *= _cdf(family, arms[j], edges[j], counts[j], before[j], z, unit, other)
            total += chance
    whole = before[arm, counts[arm] - 1]
    return min(total / whole, 1.0) if whole > 0.0 else 0.0


@kernel
def _move(family: int, edges: FloatArray, count: int, margin: float, moved: FloatArray) -> int:
    """The edges moved down by the margin in x, as coordinates; those that leave the range of x are dropped."""
    n = 0
    for i in range(count):
        z = _coordinate(family, in_units(family, edges[i]) - margin)
        if math.isfinite(z) and (n == 0 or z > moved[n - 1]):
            moved[n] = z
            n += 1
    return n


@kernel
def _moved_up(family: int, z: float, margin: float) -> float:
    """Coordinate of x(z) + margin; inf at and above the top of the range of x."""
    if family == BETA:
        rest = in_units(family, -z) - margin  # 1 - x, which keeps its digits near 1
        return math.log((in_units(family, z) + margin) / rest) if rest > 0.0 else math.inf
    return _coordinate(family, in_units(family, z) + margin)


@kernel
def _coordinate(family: int, x: float) -> float:
    """z of x; -inf and inf at the ends of its range and beyond."""
    if family == BETA:
        if x <= 0.0:
            return -math.inf
        return math.log(x / (1.0 - x)) if x < 1.0 else math.inf
    if in_units(family, 0.0) < 0.0:  # x = -exp(-z)
        return -math.log(-x) if x < 0.0 else math.inf
    return math.log(x) if x > 0.0 else -math.inf


@kernel
def _cdf(
    family: int,
    arm: FloatArray,
    edges: FloatArray,
    count: int,
    before: FloatArray,
    z: float,
    place: FloatArray,
    density: FloatArray,
) -> float:
    """F(z) of one arm, from the mass ``before`` each of its edges."""
    if z <= edges[0]:
        return 0.0
    if z >= edges[count - 1]:
        return 1.0
    low, high = 0, count - 1
    while high - low > 1:
        middle = (low + high) // 2
        if edges[middle] <= z:
            low = middle
        else:
            high = middle
    return float((before[low] + _mass(family, arm, edges[low], z, place, density)) / before[count - 1])


@kernel
def _mass(
    family: int, arm: FloatArray, start: float, end: float, place: FloatArray, density: FloatArray
) -> float:
    """Integral of the density, 1 at its peak, over one panel or a part of it; both arrays are overwritten."""
    half = 0.5 * (end - start)
    middle = start + half
    share_nodes(family, middle, half, place, density)
    densities(family, arm, peak_of(family, arm), middle, half, place, density)
    total = 0.0
    for j in range(NODES):
        total += W[j] * density[j]
    return total


@kernel
def below(family: int, params: FloatArray, limit: float, out: FloatArray) -> None:
    """``chance_below`` for compiled callers, into ``out`` [K]."""
    arms = table(params)
    family = facing(family, arms)
    edges, before = np.empty(2 * MOST + 1), np.zeros(2 * MOST + 1)
    place, density, one = np.empty(NODES), np.empty(NODES), np.empty((1, 3))
    for k in range(arms.shape[0]):
        one[0] = arms[k]
        if family in (NORMAL, STUDENT_T):
            if not arms[k, 1] > 0.0:
                out[k] = 0.5 if arms[k, 0] == limit else (1.0 if arms[k, 0] < limit else 0.0)
                continue
            z = (limit - arms[k, 0]) / arms[k, 1]
            one[0, 0], one[0, 1] = 0.0, 1.0
        else:
            z = _coordinate(family, limit)
            if tame(family, one) == 0.0:
                out[k] = 0.5
                continue
        if not math.isfinite(arms[k, 0] + arms[k, 1]):
            out[k] = 0.5
            continue
        count = cut(family, one[0], edges)
        for i in range(count - 1):
            before[i + 1] = before[i] + _mass(family, one[0], edges[i], edges[i + 1], place, density)
        out[k] = _cdf(family, one[0], edges, count, before, z, place, density)


def warm() -> None:
    """Compile for the types that the learner uses."""
    for columns in (2, 3):
        chance_within(NORMAL, np.ones((2, columns)), 0.1)
        chance_below(NORMAL, np.ones((2, columns)), 0.1)

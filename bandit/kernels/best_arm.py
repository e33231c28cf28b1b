"""P(best), expected loss and P(worst) of independent arms by one deterministic quadrature; it draws nothing.

    P_k    = int f_k(x) prod_{i != k} F_i(x) dx                      (Thompson 1933; Scott 2010, eq. 3)
    loss_k = E[max_i x_i - x_k] = int F_k(x) (1 - prod_{i != k} F_i(x)) dx, never negative, without cancellation

Where arm i is feasible only with probability q_i, independent of its x, F_i is 1 - q_i (1 - F_i) for the others:

    P_k    = q_k int f_k(x) prod_{i != k} [1 - q_i (1 - F_i(x))] dx  (k is feasible, and the best that is)
    none   = prod_i (1 - q_i) = 1 - sum_k P_k                        (no arm is feasible)
    loss_k = E[max(0, best feasible other - x_k)]

The panels are those of the arms (``families``) marched together: the next edge is as far as every arm that has mass
here allows, so arms that lie on each other cost as many panels as one, and an arm 1e6 times narrower than another
gets its own. Each arm is divided by its own mass; P is divided by its sum, which was 1 within 1e-10 before.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.families import (
    BETA,
    GAMMA,
    INSIDE,
    INVERSE_GAMMA,
    LOGNORMAL,
    MOST,
    NODES,
    NORMAL,
    STUDENT_T,
    FloatArray,
    W,
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

__all__ = [
    "BETA",
    "GAMMA",
    "INVERSE_GAMMA",
    "LOGNORMAL",
    "NORMAL",
    "STUDENT_T",
    "Best",
    "best_arm",
    "compare",
    "march",
    "warm",
]

BELOW, INSIDE_ARM, ABOVE = -1, 0, 1

FEW = 16
"""From more arms than this the product of distribution functions is so steep that panels are halved: with 24 equal
gamma arms the mass would be off by 5e-10."""

_SURE = np.ones(64)


class Best(NamedTuple):
    """``p`` [K] sums to 1 - ``none``, which is 0 when all arms are surely feasible; ``loss`` [K] in units of x;
    ``mass``: sum of ``p`` and ``none`` before it was made 1, a check on the quadrature, or 0 when nothing was
    integrated."""

    p: FloatArray
    loss: FloatArray
    mass: float
    none: float = 0.0


def best_arm(family: int, params: FloatArray, q: FloatArray | None = None, *, lowest: bool = False) -> Best:
    """Probability that each arm is the highest of K, and E[max - arm]; with ``lowest`` that it is the lowest, and
    E[arm - min]. P(worst) is P(best) with ``lowest`` turned around.

    ``params`` [K, P], K >= 1, parameters of one ``family`` (see ``families``). ``q`` [K] in [0, 1]: probability that
    the arm may be chosen at all, independent of the others and of its x; None: 1. Any numbers give finite results: sd
    0 is taken as 1e-11 of the span of the arms, and arms that are all the same point, or not finite, share by ``q``.
    The same input gives the same bits; the order of the arms changes the last digits only. Student's t needs df > 1
    for a loss.
    """
    params = np.ascontiguousarray(params, np.float64)
    size = len(params)
    if q is None:
        q = _SURE[:size] if size <= _SURE.size else np.ones(size)
    out = np.empty((2, size))
    mass, none = compare(family, params, q, lowest, out[0], out[1])
    return Best(out[0], out[1], mass, none)


@kernel
def march(edges: FloatArray, counts: NDArray[np.int64], pace: float, grid: FloatArray) -> int:
    """Common panel edges into ``grid``; returns how many panels.

    On each arm's own edges [K, ...] let phi be 0, 1, 2 ... and linear in between. The step from z ends where phi of
    some arm has grown by ``pace``, or where a further arm begins.
    """
    at = np.zeros(counts.size, np.int64)
    z = math.inf
    for k in range(counts.size):
        z = min(z, edges[k, 0])
    grid[0] = z
    panels = 0
    while True:
        after = math.inf
        for k in range(counts.size):
            last = counts[k] - 1
            if z < edges[k, 0]:
                after = min(after, edges[k, 0])
            elif z < edges[k, last]:
                i = at[k]
                while edges[k, i + 1] <= z:
                    i += 1
                at[k] = i
                phi = (z - edges[k, i]) / (edges[k, i + 1] - edges[k, i]) + pace
                reach = edges[k, i + 1]
                if phi < 1.0:
                    reach = edges[k, i] + phi * (edges[k, i + 1] - edges[k, i])
                elif i + 2 <= last:
                    reach += (phi - 1.0) * (edges[k, i + 2] - edges[k, i + 1])
                after = min(after, reach if reach > z else edges[k, i + 1])
        if after == math.inf:
            return panels
        panels += 1
        grid[panels] = after
        z = after


@kernel
def compare(
    family: int, params: FloatArray, q: FloatArray, lowest: bool, p: FloatArray, loss: FloatArray
) -> tuple[float, float]:
    """``best_arm`` for compiled callers: fills ``p`` and ``loss`` [K]; returns the mass, and P(no arm is feasible)."""
    arms = table(params)
    size = arms.shape[0]
    none, chances = 1.0, 0.0
    for k in range(size):
        none *= 1.0 - q[k]
        chances += q[k]
    for k in range(size):
        p[k], loss[k] = q[k] / chances * (1.0 - none) if chances > 0.0 else 0.0, 0.0
    family = facing(family, arms)
    unit_of_x = tame(family, arms)
    if unit_of_x == 0.0:
        return 0.0, none
    edges = np.empty((size, 2 * MOST + 1))
    counts = np.empty(size, np.int64)
    peak = np.empty(size)
    most = 0
    for k in range(size):
        peak[k] = peak_of(family, arms[k])
        counts[k] = cut(family, arms[k], edges[k])
        most += counts[k]
    pace = 1.0 if size <= FEW else 0.5
    grid = np.empty(math.ceil(most / pace) + size + 1)
    panels = march(edges, counts, pace, grid)
    place = np.empty(NODES)
    unit = np.empty((panels, NODES))
    density = np.empty((panels, size, NODES))
    cdf = np.empty((panels, size, NODES))
    side = np.empty((panels, size), np.int64)
    mass = np.zeros(size)
    for panel in range(panels):
        start, end = grid[panel], grid[panel + 1]
        half = 0.5 * (end - start)
        middle = start + half
        share_nodes(family, middle, half, place, unit[panel])
        for k in range(size):
            side[panel, k] = INSIDE_ARM
            if end <= edges[k, 0]:
                side[panel, k] = BELOW
            elif start >= edges[k, counts[k] - 1]:
                side[panel, k] = ABOVE
            else:
                densities(family, arms[k], peak[k], middle, half, place, density[panel, k])
                mass[k] = _accumulate(density[panel, k], mass[k], cdf[panel, k])
    total = _sum_up(family, grid, side, density, cdf, unit, mass, q, lowest, p, loss)
    some = 1.0 - none
    trusted = 0.5 * some < total < 2.0 * some
    for k in range(size):
        loss[k] *= unit_of_x
        if trusted:
            p[k] *= some / total
        else:
            p[k] = q[k] / chances * some if chances > 0.0 else 0.0
    return total + none if trusted else 0.0, none


@kernel
def _accumulate(density: FloatArray, before: float, cdf: FloatArray) -> float:
    """Distribution function (times mass) at the nodes of a panel into ``cdf``; returns it at the panel's end."""
    after = before
    for j in range(NODES):
        cdf[j] = before
    for i in range(NODES):
        after += W[i] * density[i]
        for j in range(NODES):
            cdf[j] += INSIDE[i, j] * density[i]
    return after


@kernel
def _sum_up(
    family: int,
    grid: FloatArray,
    side: NDArray[np.int64],
    density: FloatArray,
    cdf: FloatArray,
    unit: FloatArray,
    mass: FloatArray,
    q: FloatArray,
    lowest: bool,
    p: FloatArray,
    loss: FloatArray,
) -> float:
    """The two integrals, panel by panel, over the arms that have mass there; returns the sum of ``p``.

    H_k is F_k, or 1 - F_k for the lowest, and (1 - q_k) + q_k H_k the chance that the arm is no better choice than x.
    Where that is 0 for an arm nobody else is the best, and who has H > 0 loses.
    """
    panels, size = side.shape
    inside = np.empty(size, np.int64)
    h, ahead, behind = np.empty((size, NODES)), np.empty((size, NODES)), np.empty(NODES)
    one = BELOW if lowest else ABOVE
    for k in range(size):
        p[k] = 0.0
    for panel in range(panels):
        n = _multiply(side[panel], cdf[panel], mass, q, lowest, inside, h, ahead, behind)
        lost = 0.0
        for j in range(NODES):
            lost += W[j] * unit[panel, j] * (1.0 - behind[j])
        if n == 0:  # a gap may be wide, and nothing in it is smooth but x itself
            lost = (1.0 - behind[0]) * (in_units(family, grid[panel + 1]) - in_units(family, grid[panel]))
        for k in range(size):
            if side[panel, k] == one:
                loss[k] += lost
        for j in range(NODES):
            behind[j] = 1.0
        for i in range(n - 1, -1, -1):
            k = inside[i]
            chance, lost = 0.0, 0.0
            for j in range(NODES):
                others = ahead[i, j] * behind[j]
                behind[j] *= (1.0 - q[k]) + q[k] * h[i, j]
                chance += W[j] * density[panel, k, j] * others
                lost += W[j] * unit[panel, j] * h[i, j] * (1.0 - others)
            p[k] += q[k] * chance / mass[k]
            loss[k] += lost
    total = 0.0
    for k in range(size):
        total += p[k]
    return total


@kernel
def _multiply(
    side: NDArray[np.int64],
    cdf: FloatArray,
    mass: FloatArray,
    q: FloatArray,
    lowest: bool,
    inside: NDArray[np.int64],
    h: FloatArray,
    ahead: FloatArray,
    product: FloatArray,
) -> int:
    """The arms with mass in a panel into ``inside``, their H into ``h``, the products of 1 - q (1 - H) over the arms
    without mass and those before each into ``ahead`` and over all into ``product``; returns how many they are."""
    zero = ABOVE if lowest else BELOW
    n, start = 0, 1.0
    for k in range(side.size):
        if side[k] == INSIDE_ARM:
            inside[n] = k
            n += 1
        elif side[k] == zero:
            start *= 1.0 - q[k]
    for j in range(NODES):
        product[j] = start
    for i in range(n):
        k = inside[i]
        for j in range(NODES):
            f = min(max(cdf[k, j] / mass[k], 0.0), 1.0)
            h[i, j] = 1.0 - f if lowest else f
            ahead[i, j] = product[j]
            product[j] *= (1.0 - q[k]) + q[k] * h[i, j]
    return n


def warm() -> None:
    """Compile for the types that the learner uses."""
    best_arm(NORMAL, np.array([[0.0, 1.0], [1.0, 1.0]]))

"""Bayes-UCB as weights: the quantile of each posterior as its index, the next batch poured over the arms.

    index_k = Q(1 - 1 / (t + 1); posterior of arm k)                      (Kaufmann, Cappe & Garivier 2012, c = 0)

It works for every family of ``families``. What a further request would do to a posterior is foreseen with its mean
held, as ``information`` r times the present one: shapes times r, sd and scale over sqrt(r), degrees of freedom times r.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.families import (
    LEAST_SHAPE,
    LOGNORMAL,
    LOGNORMAL_DOWN,
    MOST,
    MOST_SHAPE,
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
)
from bandit.kernels.jit import kernel

SMALL = 1e-10
"""Part of the batch that may be over or missing when pouring ends; shares are divided by their sum after."""
EARLIEST = 3.0
"""Fewer requests so far are taken as these: at t = 0 and 1 the quantile would not be an optimistic one."""
RAREST = 1e-13
"""Least tail that is told from none: the families are cut where 1e-16 of the mass is left."""


@kernel
def upper(family: int, arm: FloatArray, information: float, tail: float, normal: float) -> float:
    """The coordinate z (see ``families``) above which an arm [3] of so much more information is with chance ``tail``.

    ``normal``: that of the standard normal, so that those and lognormals need no quadrature.
    """
    each = np.ones(3)
    step = abs(arm[1]) / math.sqrt(information)
    if family in (NORMAL, LOGNORMAL, LOGNORMAL_DOWN):
        return float(arm[0] + step * normal)
    if family == STUDENT_T:
        each[0], each[1], each[2] = 0.0, 1.0, min(max(arm[2] * information, 1.0), 1e12)
        return float(arm[0] + step * _invert(family, each, tail))
    for i in range(2):
        each[i] = min(max(arm[i] * information, LEAST_SHAPE), MOST_SHAPE)
    return _invert(family, each, tail)


@kernel
def _invert(family: int, arm: FloatArray, tail: float) -> float:
    """Upper quantile by the panels of ``families``: the panel by its mass, the point in it by Newton in a bracket."""
    edges, mass = np.empty(2 * MOST + 1), np.empty(2 * MOST)
    place, density = np.empty(NODES), np.empty(NODES)
    peak = peak_of(family, arm)
    panels = cut(family, arm, edges) - 1
    total = 0.0
    for panel in range(panels):
        mass[panel] = _mass(family, arm, peak, edges[panel], edges[panel + 1], place, density)
        total += mass[panel]
    rest, panel = tail * total, panels - 1
    while panel > 0 and mass[panel] <= rest:
        rest -= mass[panel]
        panel -= 1
    low, high, end = edges[panel], edges[panel + 1], edges[panel + 1]
    z = end - (end - low) * min(rest / mass[panel], 1.0) if mass[panel] > 0.0 else low
    for _ in range(100):
        above = _mass(family, arm, peak, z, end, place, density) - rest
        if above > 0.0:
            low = z
        else:
            high = z
        slope = _density(family, arm, peak, z, place, density)
        after = z + above / slope if slope > 0.0 else math.inf
        if not low < after < high:
            after = 0.5 * (low + high)
        if abs(after - z) <= 1e-14 * (end - edges[panel]) or not low < after < high:
            return float(after)
        z = after
    return float(z)


@kernel
def _mass(
    family: int,
    arm: FloatArray,
    peak: float,
    start: float,
    end: float,
    place: FloatArray,
    density: FloatArray,
) -> float:
    """Integral of the density, 1 at its peak, from ``start`` to ``end`` within one panel."""
    half = 0.5 * (end - start)
    if half <= 0.0:
        return 0.0
    middle = start + half
    share_nodes(family, middle, half, place, density)
    densities(family, arm, peak, middle, half, place, density)
    total = 0.0
    for j in range(NODES):
        total += W[j] * density[j]
    return total


@kernel
def _density(
    family: int, arm: FloatArray, peak: float, z: float, place: FloatArray, density: FloatArray
) -> float:
    """The density, 1 at its peak, at one point: that of a panel too narrow to matter."""
    half = 1e-9 * (1.0 + abs(z))
    share_nodes(family, z, half, place, density)
    densities(family, arm, peak, z, half, place, density)
    return float(density[NODES // 2] / half)


@kernel
def bayes_weights(
    family: int,
    params: FloatArray,
    size: FloatArray,
    pending: FloatArray,
    t: float,
    batch: float,
    w: FloatArray,
) -> float:
    """Shares [K] of the next ``batch`` > 0 rewards into ``w``; returns the common index, a coordinate.

    ``params`` [K, P] of one family; ``size`` [K] > 0: how many requests are worth the present information of an arm;
    ``pending`` [K]: requests whose reward is still to come, which count as if they had brought their mean; ``t``:
    requests so far.
    """
    arms = table(params)
    family = facing(family, arms)
    count = arms.shape[0]
    tail = max(1.0 / (max(t, EARLIEST) + 1.0), RAREST)
    standard = np.array([0.0, 1.0, 1.0])
    normal = _invert(NORMAL, standard, tail)
    now, after = np.empty(count), np.empty(count)
    low, high = -math.inf, -math.inf
    for k in range(count):
        now[k] = upper(family, arms[k], 1.0 + pending[k] / size[k], tail, normal)
        after[k] = upper(family, arms[k], 1.0 + (pending[k] + batch) / size[k], tail, normal)
        if not math.isfinite(now[k] + after[k]):  # nothing can be told
            for i in range(count):
                w[i] = 1.0 / count
            return 0.0
        low, high = max(low, min(now[k], after[k])), max(high, now[k])
    top = high
    total = _poured(family, arms, size, pending, batch, tail, normal, now, after, low, w)
    index, over, under, side = low, total - batch, -batch, 0
    for _ in range(100):
        if over <= SMALL * batch or not low < high:
            break
        index = high + under * (high - low) / (over - under)
        if not low < index < high:
            index = 0.5 * (low + high)
        total = _poured(family, arms, size, pending, batch, tail, normal, now, after, index, w)
        off = total - batch
        if abs(off) <= SMALL * batch or not low < index < high:
            break
        if off > 0.0:
            low, over = index, off
            under *= 0.5 if side > 0 else 1.0
            side = 1
        else:
            high, under = index, off
            over *= 0.5 if side < 0 else 1.0
            side = -1
    if not 0.0 < total < math.inf:
        total = 0.0
        for k in range(count):
            w[k] = 1.0 if now[k] >= top else 0.0
            total += w[k]
    for k in range(count):
        w[k] /= total
    return index


@kernel
def _poured(
    family: int,
    arms: FloatArray,
    size: FloatArray,
    pending: FloatArray,
    batch: float,
    tail: float,
    normal: float,
    now: FloatArray,
    after: FloatArray,
    index: float,
    w: FloatArray,
) -> float:
    """Rewards, at most the batch, that each arm can take until its index is down to ``index``, into ``w``; their sum.

    An index is nearly linear in 1 / sqrt(information), so that regula falsi (Illinois) needs a handful of steps.
    """
    total = 0.0
    for k in range(size.size):
        if now[k] <= index:
            w[k] = 0.0
        elif after[k] >= index:
            w[k] = batch
        else:
            start, end = 1.0 + pending[k] / size[k], 1.0 + (pending[k] + batch) / size[k]
            x, y = 1.0 / math.sqrt(end), 1.0 / math.sqrt(start)
            below, above = after[k] - index, now[k] - index
            s, side = y, 0
            for _ in range(60):
                s = y - above * (y - x) / (above - below)
                if not x < s < y:
                    break
                off = upper(family, arms[k], 1.0 / (s * s), tail, normal) - index
                if abs(off) <= 1e-12 * (now[k] - after[k]):
                    break
                if off > 0.0:
                    y, above = s, off
                    below *= 0.5 if side > 0 else 1.0
                    side = 1
                else:
                    x, below = s, off
                    above *= 0.5 if side < 0 else 1.0
                    side = -1
                if y - x <= 1e-15 * y:
                    break
            w[k] = min(max(size[k] * (1.0 / (s * s) - 1.0) - pending[k], 0.0), batch)
        total += w[k]
    return total


@kernel
def quantile(family: int, arm: FloatArray, tail: float) -> float:
    """x above which an arm [3] is with chance ``tail`` in [1e-13, 1); see ``families`` for x of a sign -1."""
    arms = np.empty((1, 3))
    arms[0] = arm
    family = facing(family, arms)
    normal = _invert(NORMAL, np.array([0.0, 1.0, 1.0]), tail)
    return in_units(family, upper(family, arms[0], 1.0, tail, normal))


def warm() -> None:
    """Compile for the types that the learner uses."""
    ones: NDArray[np.float64] = np.ones(2)
    bayes_weights(NORMAL, np.ones((2, 2)), ones, 0.0 * ones, 10.0, 5.0, np.empty(2))
    bayes_weights(NORMAL, np.ones((2, 3)), ones, 0.0 * ones, 10.0, 5.0, np.empty(2))

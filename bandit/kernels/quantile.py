"""Quantiles of the families of ``families``, by inverting the same quadrature; one arm at a time, no comparison.

Without scipy, so that the learner need not load it: that takes about 40 % of the time of loading numba.
"""

from __future__ import annotations

import numpy as np

from bandit.kernels.families import (
    BETA,
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


def quantiles(family: int, params: FloatArray, levels: tuple[float, ...]) -> FloatArray:
    """[K, Q] the x below which each arm is with probability ``levels`` [Q], each in (0, 1).

    ``params`` [K, P], see ``families``; finite. Error about 1e-12 of the sd (Student's t of 2 degrees of freedom:
    3e-9); a scale of 0 gives the location.
    """
    params = np.array(params, np.float64, order="C")
    out = np.empty((len(params), len(levels)))
    _invert(family, params, np.array(levels), out)
    return out


@kernel
def _mass(
    family: int, arm: FloatArray, start: float, end: float, place: FloatArray, density: FloatArray
) -> float:
    """Integral of the density, 1 at its peak, over one panel or a part of it; ``density`` at its nodes is left."""
    half = 0.5 * (end - start)
    middle = start + half
    share_nodes(family, middle, half, place, density)
    densities(family, arm, peak_of(family, arm), middle, half, place, density)
    total = 0.0
    for j in range(NODES):
        total += W[j] * density[j]
    return total


@kernel
def _within(
    family: int,
    arm: FloatArray,
    start: float,
    end: float,
    rest: float,
    place: FloatArray,
    density: FloatArray,
) -> float:
    """The point of a panel up to which its mass is ``rest``: regula falsi, the staying end halved (Illinois)."""
    low, high, before = start, end, start
    below, above = -rest, _mass(family, arm, start, end, place, density) - rest
    for _ in range(100):
        z = high - above * (high - low) / (above - below)
        if not low < z < high:
            z = 0.5 * (low + high)
        excess = _mass(family, arm, start, z, place, density) - rest
        if excess == 0.0 or abs(z - before) <= 1e-14 * (end - start):
            return z
        before = z
        if excess > 0.0:
            high, above = z, excess
            below *= 0.5
        else:
            low, below = z, excess
            above *= 0.5
    return before


@kernel
def _invert(family: int, params: FloatArray, levels: FloatArray, out: FloatArray) -> None:
    """Find each level's panel, then the point in it."""
    arms = table(params)
    family = facing(family, arms)
    shaped = family not in (NORMAL, STUDENT_T, LOGNORMAL, LOGNORMAL_DOWN)
    edges, place, density = np.empty(2 * MOST + 1), np.empty(NODES), np.empty(NODES)
    standard, mass = np.empty(3), np.empty(2 * MOST)
    for k in range(arms.shape[0]):
        for i in range(3):
            standard[i] = min(max(arms[k, i], LEAST_SHAPE), MOST_SHAPE) if shaped else arms[k, i]
        if not shaped:
            standard[0], standard[1] = 0.0, 1.0
        panels = cut(family, standard, edges) - 1
        total = 0.0
        for panel in range(panels):
            mass[panel] = _mass(family, standard, edges[panel], edges[panel + 1], place, density)
            total += mass[panel]
        for q in range(levels.size):
            rest, panel = levels[q] * total, 0
            while panel < panels - 1 and mass[panel] <= rest:
                rest -= mass[panel]
                panel += 1
            z = _within(family, standard, edges[panel], edges[panel + 1], rest, place, density)
            out[k, q] = in_units(family, z if shaped else arms[k, 0] + abs(arms[k, 1]) * z)


def warm() -> None:
    """Compile for the types that the learner uses."""
    quantiles(BETA, np.ones((1, 2)), (0.5,))

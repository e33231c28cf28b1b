"""P(best) of a few independent Student's t by one quadrature, in numpy: what a server can afford for each request.

P_k = integral of f_k prod_{i != k} F_i. Above the highest of the lower tails, panels are laid so that each is STEP long
in asinh((x - m_i) / s_i) of the arm that is finest there; NODES Gauss-Legendre nodes on each. The F_i come from the
same nodes: F = 1 - (mass above), by the integration matrix of the panel, so no incomplete beta is needed. An arm that
is much narrower than another gets its own panels, where a rule that is centred on one arm sees a step.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

NODES = 10
STEP = 0.4
TAIL = 1e-9
"""Mass of an arm that may lie outside the panels."""
GRID = 49
"""Points of each arm at which the need for panels is looked at."""
MOST_PANELS = 512
_X, _W = np.polynomial.legendre.leggauss(NODES)
_POLES = np.arange(NODES)


def _above() -> FloatArray:
    """[NODES, NODES] from values at the nodes to the integral from each node to the end of the panel [-1, 1]."""
    powers = np.vander(_X, increasing=True)
    ends = (1.0 - _X[:, None] ** (_POLES + 1)) / (_POLES + 1)
    found: FloatArray = ends @ np.linalg.inv(powers)
    return found


_ABOVE = _above()


class Shapes(NamedTuple):
    """What depends on the degrees of freedom alone, [K, 1, 1] each: half of one more than them, their inverse, the log
    of the density's constant; and ``grid`` [K, GRID], standardised points from tail to tail, even in asinh."""

    power: FloatArray
    inverse: FloatArray
    constant: FloatArray
    grid: FloatArray


def shapes_of(freedom: FloatArray) -> Shapes:
    """Shapes of degrees of freedom [K] > 0; a t of very many is a normal."""
    nu = np.minimum(freedom, 1e8)
    gammas = [_gammas(each) for each in nu.tolist()]
    # (1 + z^2 / nu)^(-nu / 2) bounds the tail: exp(-z^2 / 2) for a normal.
    reach = np.sqrt(nu * np.expm1(np.minimum(-2.0 * math.log(TAIL) / nu, 80.0)))
    constant = np.array(gammas) - 0.5 * np.log(math.pi * nu)
    grid = np.sinh(np.arcsinh(reach)[:, None] * np.linspace(-1.0, 1.0, GRID))
    power, inverse, constant = (each[:, None, None] for each in ((nu + 1.0) / 2.0, 1.0 / nu, constant))
    return Shapes(power, inverse, constant, grid)


def _gammas(nu: float) -> float:
    """ln Gamma((nu + 1) / 2) - ln Gamma(nu / 2); beyond a thousand by its series, where the two would cancel."""
    if nu > 1000.0:
        return 0.5 * math.log(nu / 2.0) - 0.25 / nu + 1.0 / (24.0 * nu**3)
    return math.lgamma((nu + 1.0) / 2.0) - math.lgamma(nu / 2.0)


def best_of(mean: FloatArray, scale: FloatArray, shapes: Shapes) -> tuple[FloatArray, float]:
    """([K] P(best), mean of the largest) of K >= 2 arms with locations ``mean`` and scales > 0."""
    cuts = _panels(mean, scale, shapes)
    half = 0.5 * (cuts[1:] - cuts[:-1])
    nodes = (0.5 * (cuts[1:] + cuts[:-1]))[:, None] + half[:, None] * _X
    z = (nodes[None] - mean[:, None, None]) / scale[:, None, None]
    density = np.exp(shapes.constant - shapes.power * np.log1p(z * z * shapes.inverse))
    density *= half[:, None] / scale[:, None, None]
    mass = density @ _W
    beyond = np.zeros_like(mass)
    beyond[:, :-1] = np.cumsum(mass[:, :0:-1], axis=1)[:, ::-1]
    below = np.clip(1.0 - density @ _ABOVE.T - beyond[:, :, None], 0.0, 1.0)
    others = np.ones_like(below)
    np.cumprod(below[:-1], axis=0, out=others[1:])
    others[:-1] *= np.cumprod(below[:0:-1], axis=0)[::-1]
    weighted = density * others * _W
    p = weighted.sum(axis=(1, 2))
    total = float(p.sum())
    return p / total, float((weighted.sum(axis=0) * nodes).sum()) / total


def _panels(mean: FloatArray, scale: FloatArray, shapes: Shapes) -> FloatArray:
    """[P + 1] ends of panels, ascending."""
    points = mean[:, None] + scale[:, None] * shapes.grid
    low, high = float(points[:, 0].max()), float(points[:, -1].max())
    inside = points[(points > low) & (points < high)]
    inside.sort()
    grid = np.concatenate(([low], inside, [high]))
    middle = 0.5 * (grid[1:] + grid[:-1])
    need = (1.0 / np.hypot(scale[:, None], middle - mean[:, None])).max(axis=0) * np.diff(grid)
    so_far = np.concatenate(([0.0], np.cumsum(need)))
    panels = min(max(math.ceil(so_far[-1] / STEP), 2), MOST_PANELS)
    cuts: FloatArray = np.interp(np.linspace(0.0, so_far[-1], panels + 1), so_far, grid)
    cuts[0], cuts[-1] = low, high
    return cuts

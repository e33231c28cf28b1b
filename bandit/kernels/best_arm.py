"""P(best), expected loss and P(worst) of independent arms, all from one deterministic quadrature; it draws nothing.

    P_k = int f_k(x) prod_{i != k} F_i(x) dx                          (Thompson 1933; Scott 2010, eq. 3)

The integral runs over an unconstrained coordinate u (x itself for normal, logit x for Beta, asinh of the shifted and
scaled x for Student's t) on panels cut at every arm's centre plus fixed offsets in standard deviations, six
Gauss-Legendre nodes each. The distribution functions come from the same nodes through their integration matrix, so
that no incomplete beta or t integral is needed: one exponential per arm and node. Each arm is divided by its own mass.

Against 40-digit values the error is at most 3e-11 for all Beta, normal and t cases of ``tests/golden/pbest.json``.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel

FloatArray = NDArray[np.float64]

NORMAL, BETA, STUDENT_T = 0, 1, 2
"""Families and their parameters [K, P]: (mean, sd), (a, b), (location, scale, degrees of freedom)."""

NODES = 6
_X, _W = np.polynomial.legendre.leggauss(NODES)


def _integration_matrix(x: FloatArray, w: FloatArray) -> FloatArray:
    """[j, k]: integral from -1 to x_j of the polynomial that is 1 at x_k and 0 at the other nodes."""
    n = len(x)
    legendre = np.polynomial.legendre
    values = legendre.legvander(x, n - 1)
    out = np.empty((n, n))
    for k in range(n):
        coefficients = [(2 * degree + 1) / 2 * w[k] * values[k, degree] for degree in range(n)]
        out[:, k] = legendre.legval(x, legendre.legint(coefficients, lbnd=-1))
    return out


_A = _integration_matrix(_X, _W)
_OFFSETS = np.array([0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0, 9.0, 14.0, 22.0, 36.0])
_TAILS = np.array([1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8])
_MOST_EDGES = 2 * (len(_OFFSETS) + len(_TAILS))


@kernel
def _cut(family: int, params: FloatArray, shift: float, scale: float, edges: FloatArray) -> int:
    """Write the panel edges of all arms, in u, unsorted; returns how many."""
    n = 0
    for k in range(params.shape[0]):
        if family == BETA:
            a, b = params[k, 0], params[k, 1]
            centre, sd = math.log(a / b), math.sqrt(1.0 / a + 1.0 / b)
            low, high = max(9.0 * sd, 38.0 / a), max(9.0 * sd, 38.0 / b)
            for offset in _OFFSETS:
                edges[n] = centre - min(offset * sd, low)
                edges[n + 1] = centre + min(offset * sd, high)
                n += 2
            edges[n] = centre - low
            edges[n + 1] = centre + high
            n += 2
        else:
            centre, sd = params[k, 0], params[k, 1]
            for offset in _OFFSETS:
                edges[n] = centre - offset * sd
                edges[n + 1] = centre + offset * sd
                n += 2
            if family == STUDENT_T:
                for offset in _TAILS:
                    edges[n] = centre - offset * sd
                    edges[n + 1] = centre + offset * sd
                    n += 2
    if family == STUDENT_T:
        for i in range(n):
            edges[i] = math.asinh((edges[i] - shift) / scale)
    return n


@kernel
def _density(
    family: int, params: FloatArray, peak: FloatArray, u: float, shift: float, scale: float, out: FloatArray
) -> float:
    """Unnormalised density of each arm at u, with the Jacobian, into ``out`` [K]; returns x."""
    if family == BETA:
        if u > 0.0:
            log_x = -math.log1p(math.exp(-u))
            log_y = log_x - u
        else:
            log_y = -math.log1p(math.exp(u))
            log_x = log_y + u
        for k in range(params.shape[0]):
            out[k] = math.exp(params[k, 0] * log_x + params[k, 1] * log_y - peak[k])
        return math.exp(log_x)
    if family == NORMAL:
        for k in range(params.shape[0]):
            z = (u - params[k, 0]) / params[k, 1]
            out[k] = math.exp(-0.5 * z * z) / params[k, 1]
        return u
    x = shift + scale * math.sinh(u)
    jacobian = scale * math.cosh(u)
    for k in range(params.shape[0]):
        z = (x - params[k, 0]) / params[k, 1]
        df = params[k, 2]
        out[k] = math.exp(-0.5 * (df + 1.0) * math.log1p(z * z / df)) * jacobian / params[k, 1]
    return x


@kernel
def _tabulate(family: int, params: FloatArray) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Edges [E + 1], x of each node [E, NODES], densities times half a panel [E, NODES, K], mass [K]."""
    arms = params.shape[0]
    shift, scale = 0.0, 1.0
    if family == STUDENT_T:
        shift, scale = params[:, 0].mean(), params[:, 1].min()
    peak = np.zeros(arms)
    if family == BETA:
        for k in range(arms):
            a, b = params[k, 0], params[k, 1]
            peak[k] = -a * math.log1p(b / a) - b * math.log1p(a / b)
    raw = np.empty(arms * (_MOST_EDGES + 2))
    edges = np.sort(raw[: _cut(family, params, shift, scale, raw)])
    panels = edges.size - 1
    density = np.empty((panels, NODES, arms))
    place = np.empty((panels, NODES))
    mass = np.zeros(arms)
    for panel in range(panels):
        half, middle = 0.5 * (edges[panel + 1] - edges[panel]), 0.5 * (edges[panel + 1] + edges[panel])
        for node in range(NODES):
            at = density[panel, node]
            place[panel, node] = _density(family, params, peak, middle + half * _X[node], shift, scale, at)
            for k in range(arms):
                at[k] *= half
                mass[k] += _W[node] * at[k]
    return edges, place, density, mass


@kernel
def best_arm(
    family: int, params: FloatArray, p_best: FloatArray, expected_loss: FloatArray, p_worst: FloatArray
) -> float:
    """Fill ``p_best``, ``expected_loss`` (E[max] - E[arm], in units of x) and ``p_worst``, each [K]; higher is better.

    ``params`` [K, P] finite, scales and shapes positive (the caller sees to it). Cost O(K^2). Returns the sum of
    ``p_best`` before it is made 1, a check on the quadrature (1 within 1e-10).
    """
    arms = params.shape[0]
    edges, place, density, mass = _tabulate(family, params)
    panels = edges.size - 1
    p_best[:] = 0.0
    p_worst[:] = 0.0
    mean = np.zeros(arms)
    below = np.zeros(arms)
    ahead, behind = np.ones(arms + 1), np.ones(arms + 1)
    best = 0.0
    for panel in range(panels):
        if edges[panel + 1] <= edges[panel]:
            continue
        for node in range(NODES):
            x = place[panel, node]
            for k in range(arms):
                inside = 0.0
                for other in range(NODES):
                    inside += _A[node, other] * density[panel, other, k]
                cdf = min(max(below[k] + inside / mass[k], 0.0), 1.0)
                ahead[k + 1] = ahead[k] * cdf
                behind[k + 1] = behind[k] * (1.0 - cdf)
                mean[k] += _W[node] * density[panel, node, k] / mass[k] * x
                expected_loss[k] = cdf
            after, before = 1.0, 1.0
            for k in range(arms - 1, -1, -1):
                here = _W[node] * density[panel, node, k] / mass[k]
                p_best[k] += here * ahead[k] * after
                best += here * ahead[k] * after * x
                p_worst[k] += here * behind[k] * before
                after *= expected_loss[k]
                before *= 1.0 - expected_loss[k]
        for k in range(arms):
            for node in range(NODES):
                below[k] += _W[node] * density[panel, node, k] / mass[k]
    total = p_best.sum()
    for k in range(arms):
        expected_loss[k] = max(best - mean[k], 0.0)
    p_best /= total
    p_worst /= p_worst.sum()
    return total


def warm() -> None:
    """Compile for the types that the learner uses."""
    out = np.empty((3, 2))
    for family, params in ((NORMAL, [0.0, 1.0]), (BETA, [1.0, 1.0]), (STUDENT_T, [0.0, 1.0, 3.0])):
        best_arm(family, np.array([params, params]), out[0], out[1], out[2])

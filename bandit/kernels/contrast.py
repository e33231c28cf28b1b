"""Differences between arms from the graph of their comparisons, and independent arms that have just these differences.

Every two arms that were compared within periods are joined by a link that weighs as much as the information about their
difference. The variance of a difference is the resistance between the two arms when links are conductances (Klein and
Randic 1993; for treatment comparisons Rucker 2012, Res. Synth. Methods 3, 312). A star of K resistors d_k with
d_i + d_j = R_ij is then K independent arms of variance d_k: two and three arms always have one (Kennelly 1899), and
so have K arms compared in one period, d_k = v / n_k. More arms over several periods have one nearly: least squares on
R_ij / (d_i + d_j) - 1.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel
from bandit.ledger import FloatArray

LEAST = 1e-9
"""Least part of an arm's smallest resistance that its own variance may be."""


@kernel
def differences(
    links: FloatArray, pull: FloatArray, n: FloatArray, control: int, delta: FloatArray, d: FloatArray
) -> float:
    """Fill ``delta`` [K], mean difference from the control, and ``d`` [K], variances of the star.

    ``links`` [K, K] symmetric, >= 0, in 1 / variance, prior included: each arm must be joined to the control; ``pull``
    [K] the right-hand side in the same units. ``n`` [K] >= 0 values of each arm: two arms divide their resistance as
    one period would. Returns the largest |R_ij / (d_i + d_j) - 1|: 0 for a perfect star. Nothing is filled, and
    infinity returned, when the numbers are not finite.
    """
    size = pull.size
    others, laplacian, right = (
        np.empty(size - 1, np.int64),
        np.empty((size - 1, size - 1)),
        np.empty(size - 1),
    )
    if not _reduce(links, pull, control, others, laplacian, right):
        return math.inf
    inverse = np.eye(size - 1)
    if not _divide(laplacian, inverse):
        return math.inf
    resistance = np.zeros((size, size))
    for k in range(size):
        delta[k] = 0.0
    for a in range(size - 1):
        i = others[a]
        total = 0.0
        for b in range(size - 1):
            total += inverse[a, b] * right[b]
            resistance[i, others[b]] = inverse[a, a] + inverse[b, b] - inverse[a, b] - inverse[b, a]
        delta[i] = total
        resistance[i, control] = inverse[a, a]
        resistance[control, i] = inverse[a, a]
    return _star(resistance, n, d)


@kernel
def _reduce(
    links: FloatArray,
    pull: FloatArray,
    control: int,
    others: NDArray[np.int64],
    laplacian: FloatArray,
    right: FloatArray,
) -> bool:
    """Fill the Laplacian without the control, its right-hand side, and the arms of its rows; False for no numbers."""
    at = 0
    for k in range(pull.size):
        if k != control:
            others[at] = k
            at += 1
    for a in range(others.size):
        i, whole = others[a], 0.0
        for j in range(pull.size):
            if j != i:
                whole += links[i, j]
        for b in range(others.size):
            laplacian[a, b] = whole if a == b else -links[i, others[b]]
        right[a] = pull[i]
        if not (math.isfinite(right[a]) and math.isfinite(whole) and whole > 0.0):
            return False
    return True


@kernel
def _star(resistance: FloatArray, n: FloatArray, d: FloatArray) -> float:
    size = d.size
    if size == 2:
        d[0] = resistance[0, 1] * (n[1] + 1.0) / (n[0] + n[1] + 2.0)
        d[1] = resistance[0, 1] - d[0]
        return 0.0
    normal = np.zeros((size, size))
    right = np.zeros(size)
    for i in range(size):
        for j in range(size):
            if i != j:
                weight = 1.0 / (resistance[i, j] * resistance[i, j])
                normal[i, i] += weight
                normal[i, j] = weight
                right[i] += weight * resistance[i, j]
    found = right.reshape((size, 1))
    _divide(normal, found)
    worst = 0.0
    for i in range(size):
        nearest = math.inf
        for j in range(size):
            if i != j:
                nearest = min(nearest, resistance[i, j])
        d[i] = max(found[i, 0], LEAST * nearest)
    for i in range(size):
        for j in range(i):
            worst = max(worst, abs(resistance[i, j] / (d[i] + d[j]) - 1.0))
    return worst


@kernel
def _divide(matrix: FloatArray, right: FloatArray) -> bool:
    """Solve matrix x = right for each column, in place, by Cholesky without roots; False for one that is not positive
    definite. A quarter of a second to compile, where a linear algebra library takes eight."""
    size, columns = right.shape
    for j in range(size):
        pivot = matrix[j, j]
        if not pivot > 0.0:
            return False
        for i in range(j + 1, size):
            factor = matrix[i, j] / pivot
            for k in range(j + 1, size):
                matrix[i, k] -= factor * matrix[j, k]
            for k in range(columns):
                right[i, k] -= factor * right[j, k]
    for j in range(size - 1, -1, -1):
        for k in range(columns):
            total = right[j, k]
            for i in range(j + 1, size):
                total -= matrix[j, i] * right[i, k]
            right[j, k] = total / matrix[j, j]
    return True


def warm() -> None:
    """Compile for the types that the learner uses."""
    links = np.ones((3, 3)) - np.eye(3)
    differences(links, np.zeros(3), np.ones(3), 0, np.empty(3), np.empty(3))

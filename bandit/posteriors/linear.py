"""Linear models, one per arm, from additive sums: the value of an arm for a request with features x.

Ridge regression with unknown noise (normal-inverse-gamma): A = lambda I + sum x x', theta = A^-1 sum x y,
a = a0 + n / 2, b = b0 + (sum y^2 - theta' A theta) / 2; the value at x is Student's t with 2a degrees of freedom around
x' theta, scale sqrt(b / a x' A^-1 x). So the propensity of a Thompson choice (LinTS; Agrawal and Goyal 2013) is the
one-dimensional integral of ``best_arm``, not a draw. lambda I is added here and is never in the sums: sums that decay
would let the prior decay with them. ``allocate_linear`` makes of it what servers decide each request by.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bandit.ledger import FloatArray

RIDGE = 1.0
A0 = 1.0
LEAST_B = 1e-18
"""Least residual sum: a perfect fit is not a certain one."""


class LinearSums(NamedTuple):
    """Sums over the rewards of each of K arms, D features: ``n`` [K], ``xx`` [K, D, D], ``xy`` [K, D], ``yy`` [K].

    They add up in any order. Features within about [-1, 1]; values on the metric's scale.
    """

    n: FloatArray
    xx: FloatArray
    xy: FloatArray
    yy: FloatArray

    @classmethod
    def of(cls, x: FloatArray, y: FloatArray) -> LinearSums:
        """Sums of one arm [1, ...] from features [N, D] and values [N]."""
        size = np.array([float(len(y))])
        return cls(size, (x.T @ x)[None], (x.T @ y)[None], np.array([float(y @ y)]))


class LinearFit(NamedTuple):
    """``theta`` [K, D], ``inverse`` [K, D, D] of A, ``a`` and ``b`` [K] of the noise, ``log_det`` [K] of A / lambda."""

    theta: FloatArray
    inverse: FloatArray
    a: FloatArray
    b: FloatArray
    log_det: FloatArray


def fit(sums: LinearSums, *, ridge: float | FloatArray = RIDGE, a0: float = A0, b0: float = 1.0) -> LinearFit:
    """The posterior of each arm; ``ridge`` = lambda > 0, of each column [D] where they differ, and the noise prior
    a0, b0 > 0. Finite for any sums."""
    features = sums.xy.shape[1]
    prior = np.diag(np.full(features, ridge) if np.ndim(ridge) == 0 else ridge)
    a_matrix = prior + sums.xx
    inverse = np.asarray(np.linalg.inv(a_matrix), np.float64)
    theta = np.asarray(np.linalg.solve(a_matrix, sums.xy[:, :, None])[:, :, 0], np.float64)
    explained = np.einsum("kd,kde,ke->k", theta, a_matrix, theta)
    residual = np.maximum(sums.yy - explained, 0.0)
    log_det = np.linalg.slogdet(a_matrix)[1] - np.log(np.diag(prior)).sum()
    return LinearFit(theta, inverse, a0 + 0.5 * sums.n, np.maximum(b0 + 0.5 * residual, LEAST_B), log_det)


def leverage(model: LinearFit, x: FloatArray) -> FloatArray:
    """[K] x' A^-1 x, never negative."""
    found: FloatArray = np.maximum(np.einsum("d,kde,e->k", x, model.inverse, x), 0.0)
    return found


def value_at(model: LinearFit, x: FloatArray) -> FloatArray:
    """[K, 3] STUDENT_T parameters of each arm's expected value at x [D]: for ``best_arm``, which gives propensities."""
    scale = np.sqrt(model.b / model.a * leverage(model, x))
    return np.stack([model.theta @ x, np.maximum(scale, LEAST_B), 2.0 * model.a], axis=1)


def linucb_index(model: LinearFit, x: FloatArray, alpha: float) -> FloatArray:
    """[K] x' theta + alpha sqrt(x' A^-1 x) (Li, Chu, Langford and Schapire 2010, algorithm 1)."""
    index: FloatArray = model.theta @ x + alpha * np.sqrt(leverage(model, x))
    return index


def oful_radius(
    model: LinearFit, *, delta: float, noise: float, bound: float, ridge: float = RIDGE
) -> FloatArray:
    """[K] beta of :func:`oful_index`."""
    radius: FloatArray = noise * np.sqrt(2.0 * np.log(1.0 / delta) + model.log_det) + np.sqrt(ridge) * bound
    return radius


def oful_index(
    model: LinearFit, x: FloatArray, *, delta: float, noise: float, bound: float, ridge: float = RIDGE
) -> FloatArray:
    """[K] x' theta + beta sqrt(x' A^-1 x), above the truth for all x and times with probability 1 - delta.

    beta = noise sqrt(2 ln(1 / delta) + ln det(A / lambda)) + sqrt(lambda) bound (Abbasi-Yadkori, Pal and Szepesvari
    2011, theorem 2), for noise that is ``noise``-sub-Gaussian and |theta| <= ``bound``. Sums must not decay: that width
    needs sum w^2 x x' too (Russac, Vernade and Cappe 2019).
    """
    radius = oful_radius(model, delta=delta, noise=noise, bound=bound, ridge=ridge)
    index: FloatArray = model.theta @ x + radius * np.sqrt(leverage(model, x))
    return index

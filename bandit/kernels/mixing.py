"""Weights that are a formula of each arm's probability of being the best, or of its mean; none of them searches.

Chances are first mixed with an even part of LEAST, so that what a leader leaves goes to hopeless arms alike and not by
the rounding that is left of their chances.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel

FloatArray = NDArray[np.float64]

LEAST = 1e-9


@kernel
def _mixed(p: FloatArray, mixed: FloatArray, rest: FloatArray) -> None:
    """Chances with the even part into ``mixed``, and 1 minus each, as the sum of the others, into ``rest``."""
    total = 0.0
    for k in range(p.size):
        total += p[k]
    for k in range(p.size):
        each = p[k] / total if total > 0.0 else 1.0 / p.size
        mixed[k] = (1.0 - LEAST) * each + LEAST / p.size
    ahead = 0.0
    for k in range(p.size):
        rest[k] = ahead
        ahead += mixed[k]
    behind = 0.0
    for k in range(p.size - 1, -1, -1):
        rest[k] += behind
        behind += mixed[k]


@kernel
def top_two(p: FloatArray, beta: float, w: FloatArray) -> None:
    """Top-two Thompson sampling (Russo 2016, 2020) in closed form into ``w`` [K].

        w_k = P_k [beta + (1 - beta) sum_{j != k} P_j / (1 - P_j)]

    the chance that arm k is drawn first and kept (``beta``), or drawn as the first that is another than the leader.
    ``p`` [K] >= 0 sums to 1, ``beta`` in [0, 1].
    """
    mixed, rest = np.empty(p.size), np.empty(p.size)
    _mixed(p, mixed, rest)
    if p.size == 1:
        w[0] = 1.0
        return
    odds = 0.0
    for k in range(p.size):
        odds += mixed[k] / rest[k]
    total = 0.0
    for k in range(p.size):
        others = 0.0
        if mixed[k] > 0.5:  # odds minus its own would cancel
            for j in range(p.size):
                others += mixed[j] / rest[j] if j != k else 0.0
        else:
            others = odds - mixed[k] / rest[k]
        w[k] = mixed[k] * (beta + (1.0 - beta) * others)
        total += w[k]
    for k in range(p.size):
        w[k] /= total


@kernel
def exploration(p: FloatArray, w: FloatArray) -> None:
    """Exploration sampling (Kasy & Sautmann 2021, eq. 4): w_k in proportion to P_k (1 - P_k), into ``w`` [K]."""
    mixed, rest = np.empty(p.size), np.empty(p.size)
    _mixed(p, mixed, rest)
    if p.size == 1:
        w[0] = 1.0
        return
    total = 0.0
    for k in range(p.size):
        w[k] = mixed[k] * rest[k]
        total += w[k]
    for k in range(p.size):
        w[k] /= total


@kernel
def epsilon_greedy(mean: FloatArray, epsilon: float, w: FloatArray) -> None:
    """epsilon / K each, and the rest to the highest ``mean`` [K], ties sharing it, into ``w`` [K]."""
    best, ties = -math.inf, 0
    for k in range(mean.size):
        if mean[k] > best:
            best, ties = mean[k], 1
        elif mean[k] == best:
            ties += 1
    for k in range(mean.size):
        w[k] = epsilon / mean.size
        if mean[k] == best:
            w[k] += (1.0 - epsilon) / ties


def warm() -> None:
    """Compile for the types that the learner uses."""
    half, w = np.array([0.5, 0.5]), np.empty(2)
    top_two(half, 0.5, w)
    exploration(half, w)
    epsilon_greedy(half, 0.1, w)

"""A few requests that stand for all: what shares by features come to on the whole, without a log of single requests."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit.features import UNIT, Encoder
from bandit.ledger import FloatArray
from bandit.linear.sums import Totals

SIZE = 64
# Frac(i a_f) with irrational steps covers each feature evenly and pairs of them well (Weyl 1916).
_STEPS = np.sqrt(
    np.array(
        [
            *(2, 3, 5, 7, 11, 13, 17, 19, 23, 29, 31, 37, 41, 43, 47, 53),
            *(59, 61, 67, 71, 73, 79, 83, 89, 97, 101, 103, 107, 109, 113, 127),
        ],
        np.float64,
    )
)


def crowd_of(encoder: Encoder, totals: Totals | None, size: int = SIZE) -> NDArray[np.uint8]:
    """[N, F] encoded requests whose features come as often as in the rewarded decisions of all arms and metrics.

    Each feature follows its own frequencies (a numeric one its mean and sd), independently of the others; before any
    reward all values come alike.
    """
    found = np.zeros((size, len(encoder.features)), np.uint8)
    moments = None if totals is None or totals.n.sum() == 0.0 else totals.xx.sum(axis=(0, 1)) / totals.n.sum()
    at = 1
    for index, feature in enumerate(encoder.features):
        u = np.mod((np.arange(size) + 0.5) * _STEPS[index], 1.0)
        if feature.kind == "numeric":
            mean, square = (0.0, 1.0 / 3.0) if moments is None else (moments[0, at], moments[at, at])
            sd = np.sqrt(max(square - mean * mean, 0.0))
            value = np.rint(UNIT * np.clip(mean + sd * np.sqrt(12.0) * (u - 0.5), -1.0, 1.0))
            found[:, index] = value.astype(np.int8).view(np.uint8)
        else:
            columns = np.arange(at, at + feature.columns)
            share: FloatArray = (
                np.full(feature.columns, 1.0 / feature.columns) if moments is None else moments[0, columns]
            )
            place = np.searchsorted(np.cumsum(share), u * share.sum(), side="right")
            found[:, index] = np.minimum(place, feature.columns - 1)
        at += feature.columns
    return found


def mean_row(encoder: Encoder, totals: Totals | None) -> FloatArray:
    """[D] mean columns of the rewarded decisions, all arms together; of :func:`crowd_of` before any."""
    if totals is None or totals.n.sum() == 0.0:
        rows: FloatArray = encoder.rows(crowd_of(encoder, None)).mean(axis=0) / UNIT
        return rows
    mean: FloatArray = totals.xx.sum(axis=(0, 1))[0] / totals.n.sum()
    return mean


def contrasts(encoder: Encoder, mean: FloatArray) -> FloatArray:
    """[D, D] from coefficients to what can be told from rewards: the value at ``mean`` columns [D], and what each
    column adds to it. A numeric feature adds its coefficient; a value of another feature what it has more than the mean
    of that feature's values, since an intercept and all values of a feature are known only up to a constant.
    """
    found = np.eye(encoder.dimension)
    found[0] = mean
    at = 1
    for feature in encoder.features:
        own = slice(at, at + feature.columns)
        if feature.kind != "numeric":
            found[own, own] -= mean[own]
        at += feature.columns
    return found

"""The sums that linear models learn from: whole numbers, exact, in any order, of each period, arm and metric.

For each reward with row X (whole numbers up to 127, see ``bandit.features``) and scaled value q in [0, 2**30]:

    X X'   the upper triangle row by row, D (D + 1) / 2 numbers; the first is 127**2 times the number of rewards
    X y    2 D numbers, for q >> 15 and for q & 32767: so the value is kept to 1e-9 of the range, with room to spare
    y y    2 numbers, for q**2 >> 30 and for q**2 & (2**30 - 1)

2**32 rewards of any values fit: the largest sum is below 2**62. A correction takes away what was added, to the bit.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.features import UNIT, dimension_of
from bandit.ledger import BITS, CELL_ROOM, ONE, FloatArray, Int64Array, Period
from bandit.spec.model import ExperimentSpec

HALF_BITS = 15
AT_ONCE = 256
"""Rows of a product: more of them wake the threads of BLAS, which on a busy machine cost ten times what they save."""
_HALF = (1 << HALF_BITS) - 1
_MASK = ONE - 1


class Totals(NamedTuple):
    """Sums over the rewards of K arms with M metrics and D columns, in the model's units (columns in [-1, 1], values in
    [0, 1]): ``n`` [K, M], ``xx`` [K, M, D, D], ``xy`` [K, M, D], ``yy`` [K, M]."""

    n: FloatArray
    xx: FloatArray
    xy: FloatArray
    yy: FloatArray


def width_of(dimension: int) -> int:
    """Numbers that are kept of an arm and metric."""
    return dimension * (dimension + 1) // 2 + 2 * dimension + 2


def zeros(spec: ExperimentSpec) -> Int64Array | None:
    """[K, M, W] empty sums of a period, M metrics ``spec.learned``; None where the spec keeps none."""
    if not spec.learned:
        return None
    return np.zeros((len(spec.arms), len(spec.learned), width_of(dimension_of(spec))), np.int64)


def add(sums: Int64Array, rows: Int64Array, q: Int64Array, sign: Int64Array) -> None:
    """Add rewards with ``rows`` [N, D], scaled values ``q`` [N] to ``sums`` [W], or take them away where ``sign`` [N]
    is -1. N < 2**20."""
    d = rows.shape[1]
    # Products of floats of whole numbers are exact below 2**53: here below 2**42, and BLAS is quick at them.
    x = rows.astype(np.float64)
    signed = x * sign[:, None]
    upper, lower = np.triu_indices(d)
    halves = np.stack([q >> HALF_BITS, q & _HALF]).astype(np.float64)
    squares = q * q
    moments, products = np.zeros((d, d)), np.zeros((2, d))
    for at in range(0, len(x), AT_ONCE):
        part = slice(at, at + AT_ONCE)
        moments += x[part].T @ signed[part]
        products += halves[:, part] @ signed[part]
    sums[:-2] += np.concatenate([moments[upper, lower], products.ravel()]).astype(np.int64)
    sums[-2] += int((sign * (squares >> BITS)).sum())
    sums[-1] += int((sign * (squares & _MASK)).sum())


def totals(parts: Iterable[tuple[Int64Array, float]]) -> Totals | None:
    """The sums [K, M, W] of some periods, each with its weight, added up; None without any."""
    whole: NDArray[np.int64] | None = None
    weighed: FloatArray | None = None
    for sums, weight in parts:
        if weight == 1.0:
            whole = sums.copy() if whole is None else whole + sums
        else:
            part = np.asarray(sums * weight, np.float64)
            weighed = part if weighed is None else weighed + part
    if whole is None and weighed is None:
        return None
    if whole is None:
        assert weighed is not None
        return read(weighed)
    return read(whole if weighed is None else whole + weighed)


def read(sums: Int64Array | FloatArray) -> Totals:
    """Sums [K, M, W] in the model's units."""
    triangle, d = _parts(sums.shape[-1])
    values = sums.astype(np.float64)
    xx = np.zeros((*sums.shape[:-1], d, d))
    upper, lower = np.triu_indices(d)
    xx[..., upper, lower] = values[..., :triangle] / UNIT**2
    xx[..., lower, upper] = xx[..., upper, lower]
    high, low = values[..., triangle : triangle + d], values[..., triangle + d : triangle + 2 * d]
    xy = (high * (1 << HALF_BITS) + low) / (ONE * UNIT)
    yy = (values[..., -2] + values[..., -1] / ONE) / ONE
    return Totals(xx[..., 0, 0].copy(), xx, xy, yy)


def fault(period: Period) -> str:
    """Why the linear sums of a period cannot be sums of rewards; empty when they can, or when it has none."""
    sums = period.linear
    if sums is None:
        return ""
    if sums.ndim != 3 or sums.shape[0] != len(period.shares_ppm):
        return f"linear sums of shape {sums.shape}"
    triangle, d = _parts(sums.shape[2])
    if width_of(d) != sums.shape[2]:
        return f"linear sums of {sums.shape[2]} numbers, which no number of columns has"
    count, rest = np.divmod(sums[..., 0], UNIT**2)
    if rest.any() or count.min(initial=0) < 0 or count.max(initial=0) > CELL_ROOM:
        return "linear sums of a number of rewards that is none"
    most = np.where(np.arange(sums.shape[2]) < triangle, UNIT**2, UNIT << HALF_BITS)
    most[-2:] = ONE
    if (np.abs(sums) > count[..., None] * most).any():
        return "linear sums beyond what so many rewards have"
    return ""


def _parts(width: int) -> tuple[int, int]:
    """(numbers of the triangle, D) of a width: D (D + 1) / 2 + 2 D + 2 = W."""
    d = round((-5.0 + (9.0 + 8.0 * width) ** 0.5) / 2.0)
    return d * (d + 1) // 2, d

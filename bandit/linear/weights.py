"""Weights that make an arm and the control comparable where each request has shares of its own; exact integers.

For a challenger k, a request x and shares p(x) that were fixed before it, let h = min(p_k, REACH p_0), both rounded
down to a LADDER. A reward of the arm counts h / p_k, one of the control h / p_0, so that

    E[A_k (h / p_k) f(Y) - A_0 (h / p_0) f(Y)] = h (E[f(Y_k) | x] - E[f(Y_0) | x])

whatever features drive both the choice and the outcome (Horvitz and Thompson 1952). Requests count as often as the arm
serves them, but at most REACH times as often as the control serves their like: harm to those that are served, as far
as the control can vouch for them (REACH = 1 would be the matching weights of Li and Greene 2013). A weight is at most
1 for the arm and REACH for the control, however small a share is. Where a share is below LADDER[1] nothing is
compared.

A decision brings one byte for each arm, the step of its share, and its own share exactly (in the token): *marks*. For
each arm, metric and side (OWN, CONTROLS) a period keeps six sums over rewards of weight w and scaled value q:

    n    w in 2**-24    w q    w**2 in 2**-28, rounded up    w**2 q, rounded down    w**2 q**2, rounded up

so that a variance is never told too small. 2**32 rewards fit; a correction takes away what was added, to the bit.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from bandit.ledger import BITS, CELL_ROOM, ONE, FloatArray, Int64Array, Period
from bandit.spec.model import ExperimentSpec

PPM = 1_000_000
REACH = 2
LEAST_PPM = 100
SHARE_BYTES = 3
"""Bytes of a share in ppm, little endian."""
WEIGHT_BITS, SQUARE_BITS = 24, 28
OWN, CONTROLS = range(2)
COUNT, W, WX, WW, WWX, WWXX = range(6)
SUMS = 6
ROUNDING = 2.0**-26
"""What rounding may take from a sum of squares, for each reward."""

UNITS = np.array([1.0, *[2.0**-WEIGHT_BITS] * 2, *[2.0**-SQUARE_BITS] * 3])
"""[SUMS] what one is worth in each of the sums."""


def _ladder() -> tuple[int, ...]:
    """0 and 255 shares in ppm from LEAST_PPM to PPM, each about 3.7 per cent above the one before."""
    steps = [LEAST_PPM]
    while len(steps) < 255:
        steps.append(min(steps[-1] + -(-steps[-1] * 366 // 10_000), PPM))
    return (0, *steps)


LADDER = _ladder()
_STEPS = np.array(LADDER, np.int64)


def mark_bytes(spec: ExperimentSpec) -> int:
    """Bytes of marks in a decision's token: one for each arm; 0 where the spec weighs nothing."""
    return len(spec.arms) if spec.weighs else 0


def marks_of(shares_ppm: Sequence[int]) -> bytes:
    """[K] bytes: the step of each arm's share, rounded down."""
    return bytes([bisect_right(LADDER, share) - 1 for share in shares_ppm])


def zeros(spec: ExperimentSpec) -> Int64Array | None:
    """[K, M, 2, SUMS] empty sums of a period; None where the spec weighs nothing."""
    if not spec.weighs:
        return None
    return np.zeros((len(spec.arms), len(spec.metrics), 2, SUMS), np.int64)


def weights(
    marks: NDArray[np.uint8], share_ppm: Int64Array, arm: Int64Array, control: int
) -> tuple[Int64Array, Int64Array]:
    """(pairs [N, K], weights [N, K] in 2**-WEIGHT_BITS) of N rewards with ``marks`` [N, K]: which challengers each is
    compared for, and what it counts there; of a challenger's reward that one alone, of the control's all.

    A share that does not fit its mark, which no server signs, counts nowhere.
    """
    steps = _STEPS[marks]
    k = np.arange(steps.shape[1])
    h = np.minimum(steps, REACH * steps[:, [control]])
    chosen = np.take_along_axis(steps, arm[:, None], axis=1)[:, 0]
    fits = (chosen > 0) & (share_ppm >= chosen) & (share_ppm <= PPM)
    compared = (h > 0) & fits[:, None] & (k != control)
    compared &= (arm[:, None] == control) | (arm[:, None] == k)
    share = np.maximum(share_ppm, 1)[:, None]
    w = ((h << WEIGHT_BITS) + share // 2) // share
    return compared.astype(np.int64), np.where(compared, w, 0)


def terms(w: Int64Array, q: Int64Array) -> Int64Array:
    """[..., SUMS] what a reward of weight ``w`` and scaled value ``q`` adds; nothing where w is 0."""
    cut = 2 * WEIGHT_BITS - SQUARE_BITS
    square, low = w * w, (1 << cut) - 1
    over, under = (square + low) >> cut, square >> cut
    return np.stack(
        [
            (w > 0).astype(np.int64),
            w,
            (w * q + ONE // 2) >> BITS,
            over,
            (under * q) >> BITS,
            _up(_up(over * q) * q),
        ],
        axis=-1,
    )


def _up(product: Int64Array) -> Int64Array:
    return (product + (ONE - 1)) >> BITS


def add(
    sums: Int64Array,
    marks: NDArray[np.uint8],
    share_ppm: Int64Array,
    arm: Int64Array,
    metric: Int64Array,
    q: Int64Array,
    sign: Int64Array,
    control: int,
) -> None:
    """Add rewards [N] to ``sums`` [K, M, 2, SUMS], or take them away where ``sign`` is -1."""
    compared, w = weights(marks, share_ppm, arm, control)
    row, k = np.nonzero(compared)
    added = terms(w[row, k], q[row]) * sign[row, None]
    side = np.where(arm[row] == control, CONTROLS, OWN)
    np.add.at(sums, (k, metric[row], side), added)


def mean_sums(n: FloatArray, s1: FloatArray, s2: FloatArray, shares: FloatArray, control: int) -> FloatArray:
    """[E, K, M, 2, SUMS] as :func:`add` makes them, but for its rounding, of rewards [E, G, K, M] (their number, sum
    and sum of squares of values in [0, 1]) that were drawn by ``shares`` [E, G, K] in [0, 1]."""
    places = np.searchsorted(_STEPS, np.rint(shares * PPM).astype(np.int64), side="right") - 1
    steps = _STEPS[np.minimum(places, len(LADDER) - 1)] / PPM
    h = np.minimum(steps, REACH * steps[..., [control]])
    h[..., control] = 0.0
    own = np.divide(h, shares, out=np.zeros_like(h), where=shares > 0.0)
    base = shares[..., [control]]
    other = np.divide(h, base, out=np.zeros_like(h), where=base > 0.0)
    e, _, k, m = n.shape
    found = np.zeros((e, k, m, 2, SUMS))
    for power, columns in enumerate(((COUNT,), (W, WX), (WW, WWX, WWXX))):
        for column, moment in zip(columns, (n, s1, s2), strict=False):
            found[..., OWN, column] = np.einsum("egk,egkm->ekm", _powers(own, power), moment)
            found[..., CONTROLS, column] = np.einsum(
                "egk,egm->ekm", _powers(other, power), moment[:, :, control]
            )
    whole: FloatArray = found / UNITS
    return whole


def _powers(w: FloatArray, power: int) -> FloatArray:
    found: FloatArray = np.where(w > 0.0, w**power, 0.0)
    return found


def read(sums: Int64Array | FloatArray) -> FloatArray:
    """Sums [..., SUMS] as numbers: weights in [0, REACH], values in [0, 1]."""
    found: FloatArray = sums.astype(np.float64) * UNITS
    return found


def fault(period: Period) -> str:
    """Why the weighed sums of a period cannot be sums of rewards; empty when they can, or when it has none."""
    sums = period.weighed
    if sums is None:
        return ""
    if sums.ndim != 4 or sums.shape[0] != len(period.shares_ppm) or sums.shape[2:] != (2, SUMS):
        return f"weighed sums of shape {sums.shape}"
    count = sums[..., COUNT]
    if sums.min(initial=0) < 0 or count.max(initial=0) > CELL_ROOM:
        return "weighed sums of a number of rewards that is none"
    heaviest = REACH << WEIGHT_BITS
    most = np.array([1, heaviest, heaviest, *[REACH**2 << SQUARE_BITS] * 3], np.int64)
    if (sums > count[..., None] * most).any():
        return "weighed sums beyond what so many rewards have"
    return ""

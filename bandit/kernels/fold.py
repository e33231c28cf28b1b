"""Test-and-set of marks and addition of rewards in one pass; integers only, so any order gives the same sums."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel
from bandit.log import OUTCOME_APPLIED, OUTCOME_CONFLICT, OUTCOME_DUPLICATE

LIMB_BITS = 30
LIMB_MASK = (1 << LIMB_BITS) - 1


@kernel
def fold_rewards(
    row: NDArray[np.int64],
    slot: NDArray[np.int64],
    mark: NDArray[np.uint16],
    cell: NDArray[np.int64],
    q: NDArray[np.int64],
    pages: NDArray[np.uint16],
    sums: NDArray[np.int64],
    outcome: NDArray[np.uint8],
) -> None:
    """Fold n rewards, in order.

    Shapes: ``row``, ``slot``, ``mark``, ``cell``, ``q``, ``outcome`` [n]; ``pages`` [P, 256]; ``sums`` [C, 4] with
    columns (n, s1, s2_high, s2_low) of ``bandit.ledger``. ``q`` is 0 .. 2**30, ``mark`` 1 .. 65,535.
    A reward whose ``outcome`` is set already (LATE, REJECTED) is passed over. Otherwise its mark in
    ``pages[row, slot]`` decides: 0 -> APPLIED, mark set and the cell grows; equal -> DUPLICATE; else CONFLICT.
    """
    for i in range(row.size):
        if outcome[i] != 0:
            continue
        seen = pages[row[i], slot[i]]
        if seen != 0:
            outcome[i] = OUTCOME_DUPLICATE if seen == mark[i] else OUTCOME_CONFLICT
            continue
        pages[row[i], slot[i]] = mark[i]
        outcome[i] = OUTCOME_APPLIED
        square = q[i] * q[i]
        c = cell[i]
        sums[c, 0] += 1
        sums[c, 1] += q[i]
        sums[c, 2] += square >> LIMB_BITS
        sums[c, 3] += square & LIMB_MASK


@kernel
def count_exposures(cell: NDArray[np.int64], exposures: NDArray[np.int64]) -> None:
    """Add 1 to ``exposures`` [C] for each of ``cell`` [n]."""
    for i in range(cell.size):
        exposures[cell[i]] += 1


def warm() -> None:
    """Compile for the types that the learner uses."""
    one = np.zeros(1, np.int64)
    fold_rewards(
        one,
        one,
        np.ones(1, np.uint16),
        one,
        one,
        np.zeros((1, 256), np.uint16),
        np.zeros((1, 4), np.int64),
        np.zeros(1, np.uint8),
    )
    count_exposures(one, np.zeros(1, np.int64))

"""Channels of one value, and the fold of rewards whose values are remembered; integers only.

Whatever is added here can be taken away again exactly, so a correction leaves the sums as if the corrected value had
been the first.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel
from bandit.log import (
    OUTCOME_APPLIED,
    OUTCOME_CONFLICT,
    OUTCOME_DUPLICATE,
    OUTCOME_SUPERSEDED,
    REPORT,
    RETRACT,
)

Ints = NDArray[np.int64]

BITS = 30
ONE = 1 << BITS
MASK = ONE - 1
LOG2_BITS = 28
# Kinds of ``spec.channels.ChannelKind`` and of ``counting.AGGREGATES``; a test holds them together.
LOG, LEVEL, CUBE, ABOVE, EARLY = 1, 2, 3, 4, 5
FIRST, LAST, SUM, MAX = 0, 1, 2, 3


@kernel
def log2_fixed(x: int) -> int:
    """floor(log2 x * 2**28) of an integer 1 <= x < 2**62, at most two steps off; monotone. Bit by bit: the mantissa
    is squared, and whether it passes 2 is the next bit (Knuth, TAOCP 1, 1.2.2, exercise 25)."""
    whole = 0
    while x >> (whole + 1) > 0:
        whole += 1
    mantissa = x << (30 - whole) if whole <= 30 else x >> (whole - 30)
    found = whole
    for _ in range(LOG2_BITS):
        mantissa = (mantissa * mantissa) >> 30
        found <<= 1
        if mantissa >= 1 << 31:
            mantissa >>= 1
            found += 1
    return found


@kernel
def log_channel(q: int, low: int, step: int, base: int, span: int) -> int:
    """LOG channel of q: ``low + q * step`` is the value in 2**-60 of the highest; -1 for values <= 0."""
    value = low + q * step
    if value <= 0:
        return -1
    above = log2_fixed(value) - base
    if above <= 0:
        return 0
    return min((above * ONE + span // 2) // span, ONE)


@kernel
def add(sums: Ints, cell: int, q: int, sign: int) -> None:
    """Add a value (``sign`` 1) to a cell of ``sums`` [C, 4] or take it away (-1)."""
    square = q * q
    sums[cell, 0] += sign
    sums[cell, 1] += sign * q
    sums[cell, 2] += sign * (square >> BITS)
    sums[cell, 3] += sign * (square & MASK)


@kernel
def add_derived(
    sums: Ints,
    place: int,
    metric: int,
    q: int,
    part: int,
    sign: int,
    start: Ints,
    column: Ints,
    kind: Ints,
    threshold: Ints,
    logs: Ints,
    silent: Ints,
) -> None:
    """Add the channels derived from one value. ``place``: row of the decision's channel 0 in ``sums``; ``part``: index
    of the first part of the attribution window that the delay fits in, negative where no delay is known. The rest
    as in ``counting.Tables``."""
    for at in range(start[metric], start[metric + 1]):
        cell, what = place + column[at], kind[at]
        if what == LEVEL:
            add(sums, cell, ONE if q == threshold[at] else 0, sign)
        elif what == ABOVE:
            add(sums, cell, ONE if q > threshold[at] else 0, sign)
        elif what == CUBE:
            add(sums, cell, ((q * q >> BITS) * q) >> BITS, sign)
        elif what == LOG:
            value = log_channel(q, logs[metric, 0], logs[metric, 1], logs[metric, 2], logs[metric, 3])
            if value >= 0:
                add(sums, cell, value, sign)
        elif what == EARLY and part >= 0 and q != silent[metric]:
            add(sums, cell, ONE if part <= threshold[at] else 0, sign)


@kernel
def fold_derived(
    counts: NDArray[np.bool_],
    place: Ints,
    metric: Ints,
    q: Ints,
    part: Ints,
    sums: Ints,
    start: Ints,
    column: Ints,
    kind: Ints,
    threshold: Ints,
    logs: Ints,
    silent: Ints,
) -> None:
    """Add the derived channels of those of n values that count, for good; ``counts`` to ``part`` [n]."""
    for i in range(place.size):
        if counts[i]:
            add_derived(
                sums, place[i], metric[i], q[i], part[i], 1, start, column, kind, threshold, logs, silent
            )


@kernel
def fold_clusters(counts: NDArray[np.bool_], cell: Ints, q: Ints, clusters: Ints) -> None:
    """Add those of n values that count to ``clusters`` [B, 2] (n, s1); ``cell`` [n] is negative without a bucket."""
    for i in range(cell.size):
        if counts[i] and cell[i] >= 0:
            clusters[cell[i], 0] += 1
            clusters[cell[i], 1] += q[i]


@kernel
def value_of(base: int, code: int, over: int) -> int:
    """The value that counts of what a slot holds, -1 for none: an amendment before what was reported."""
    if code == RETRACT:
        return -1
    return int(over) if code != 0 else int(base) - 1


@kernel
def fold_values(  # noqa: C901 - one pass in a row; as parts it would pass thirty arrays around
    group: Ints,
    slot: Ints,
    join: Ints,
    place: Ints,
    bucket: Ints,
    q: Ints,
    op: Ints,
    order: NDArray[np.uint64],
    part: Ints,
    remembered: Ints,
    aggregate: Ints,
    base: NDArray[np.uint32],
    code: NDArray[np.uint8],
    over: NDArray[np.uint32],
    orders: NDArray[np.uint64],
    parts: NDArray[np.int8],
    sums: Ints,
    clusters: Ints,
    outcome: NDArray[np.uint8],
    start: Ints,
    column: Ints,
    kind: Ints,
    threshold: Ints,
    logs: Ints,
    silent: Ints,
    pair_start: Ints,
    pair_other: Ints,
    pair_column: Ints,
) -> None:
    """Fold n rewards of remembered metrics, in order.

    Shapes: per reward [n] its page ``group``, ``slot``, remembered index ``join``, row ``place`` of channel 0 in
    ``sums`` [W, 4], row ``bucket`` in ``clusters`` [B, 2] (negative: none), ``q``, ``op``, ``order``, ``part``,
    ``outcome``. State [P, J, 256]: ``base`` 1 + what the reports come to (0: none), ``code``, ``over``, ``orders`` the
    newest amendment, ``parts`` the delay that counts. Tables as in ``bandit.counting``.

    Reports come to the first, the largest, or the sum (``q`` is the sum so far there); for ``last``, and for every
    correction and retraction, the highest (order, op, q) stands, whatever came when. The value that results replaces
    the one before in all channels; a pair counts while both its values are there. The delay of a value is that of the
    reward that made it unlike silence.
    """
    for i in range(group.size):
        if outcome[i] != 0:
            continue
        g, j, s = group[i], join[i], slot[i]
        before = value_of(base[g, j, s], code[g, j, s], over[g, j, s])
        if op[i] == REPORT and aggregate[j] != LAST:
            held = np.int64(base[g, j, s]) - 1
            result = OUTCOME_APPLIED
            if aggregate[j] == SUM or held < 0 or (aggregate[j] == MAX and q[i] > held):
                base[g, j, s] = q[i] + 1
            elif q[i] == held:
                result = OUTCOME_DUPLICATE
            else:
                result = OUTCOME_SUPERSEDED if aggregate[j] == MAX else OUTCOME_CONFLICT
            if result == OUTCOME_APPLIED and code[g, j, s] != 0:
                result = OUTCOME_SUPERSEDED
        else:
            kept, known = np.int64(code[g, j, s]), orders[g, j, s]
            if kept == 0 or order[i] > known or (order[i] == known and op[i] > kept):
                result = OUTCOME_APPLIED
            elif order[i] < known or op[i] < kept:
                result = OUTCOME_SUPERSEDED
            elif q[i] == np.int64(over[g, j, s]):
                result = OUTCOME_DUPLICATE
            else:
                result = OUTCOME_APPLIED if q[i] > np.int64(over[g, j, s]) else OUTCOME_CONFLICT
            if result == OUTCOME_APPLIED:
                code[g, j, s], over[g, j, s], orders[g, j, s] = op[i], q[i], order[i]
        outcome[i] = result
        after = value_of(base[g, j, s], code[g, j, s], over[g, j, s])
        if after == before:
            continue
        metric = remembered[j]
        if before >= 0:
            old = parts[g, j, s]
            add(sums, place[i] + metric, before, -1)
            add_derived(sums, place[i], metric, before, old, -1, start, column, kind, threshold, logs, silent)
        if after < 0 or after == silent[metric]:
            parts[g, j, s] = 0
        elif before < 0 or before == silent[metric]:
            parts[g, j, s] = part[i]
        if after >= 0:
            new = parts[g, j, s]
            add(sums, place[i] + metric, after, 1)
            add_derived(sums, place[i], metric, after, new, 1, start, column, kind, threshold, logs, silent)
        for at in range(pair_start[j], pair_start[j + 1]):
            o = pair_other[at]
            other = after if o == j else value_of(base[g, o, s], code[g, o, s], over[g, o, s])
            if other >= 0:
                if before >= 0:
                    add(sums, place[i] + pair_column[at], before * other >> BITS, -1)
                if after >= 0:
                    add(sums, place[i] + pair_column[at], after * other >> BITS, 1)
        if bucket[i] >= 0:
            if before >= 0:
                clusters[bucket[i], 0] -= 1
                clusters[bucket[i], 1] -= before
            if after >= 0:
                clusters[bucket[i], 0] += 1
                clusters[bucket[i], 1] += after


def warm() -> None:
    """Compile for the types that the learner uses."""
    none = np.zeros(0, np.int64)
    sums, clusters, logs = np.zeros((1, 4), np.int64), np.zeros((1, 2), np.int64), np.zeros((1, 4), np.int64)
    derived = (none, none, none, none, logs, none)
    nobody = np.zeros(0, np.bool_)
    fold_derived(nobody, none, none, none, none, sums, *derived)
    fold_clusters(nobody, none, none, clusters)
    wide = (1, 1, 256)
    fold_values(
        none, none, none, none, none, none, none, np.zeros(0, np.uint64), none, none, none,
        np.zeros(wide, np.uint32), np.zeros(wide, np.uint8), np.zeros(wide, np.uint32),
        np.zeros(wide, np.uint64), np.zeros(wide, np.int8), sums, clusters, np.zeros(0, np.uint8),
        *derived, none, none, none,
    )  # fmt: skip

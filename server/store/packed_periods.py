"""Periods of the ledger as bytes: frames of ``packed``; sums that no values can have are neither written nor read."""

from __future__ import annotations

import math
import struct

import numpy as np

from bandit.ledger import (
    BITS,
    BUCKETS,
    CELL_ROOM,
    COLUMNS,
    ONE,
    S1,
    S2_HIGH,
    S2_LOW,
    Cells,
    N,
    Period,
)
from bandit.linear import sums, weights
from server.store.packed import Body, decimal, frame, layout_from, opened, reading, sizes_of

_PERIOD = b"P"
_PERIOD_HEAD = struct.Struct("<IIIQQHHHHHI")
_PERIOD_TAIL, _COHORT, _LINEAR = struct.Struct("<BH"), struct.Struct("<H"), struct.Struct("<HH")
_WEIGHED = struct.Struct("<H")
_PPM = 1_000_000


def pack_period(period: Period) -> bytes:
    """Bytes of a period. Raises ValueError when its sums cannot be sums of values in [0, 1]."""
    _check_period(period)
    cells, facts = period.cells, period.facts
    head = _PERIOD_HEAD.pack(
        period.number,
        period.last,
        period.epoch,
        period.start_ms,
        period.end_ms,
        len(period.centres),
        *sizes_of(cells.layout),
        0 if facts is None else 1 + facts.shape[1],
    )
    arrays = [
        np.asarray(period.shares_ppm, "<u4"),
        np.asarray(period.centres, "<f8"),
        cells.exposures.astype("<i8", copy=False),
        cells.sums.astype("<i8", copy=False),
    ]
    if cells.clusters is not None and cells.visits is not None:
        arrays += [cells.clusters.astype("<i8", copy=False), cells.visits.astype("<i8", copy=False)]
    if facts is not None:
        arrays.append(facts.astype("<f8", copy=False))
    body = head + b"".join(array.tobytes() for array in arrays)
    body += _PERIOD_TAIL.pack(period.units is not None, len(period.apart_ppm))
    if period.units is not None:
        body += period.units.astype("<f8", copy=False).tobytes()
    for cohort, own in sorted(period.apart_ppm.items()):
        body += _COHORT.pack(cohort) + np.asarray(own, "<u4").tobytes()
    if period.linear is not None:
        body += _LINEAR.pack(*period.linear.shape[1:]) + period.linear.astype("<i8", copy=False).tobytes()
        if period.weighed is not None:
            body += (
                _WEIGHED.pack(period.weighed.shape[1]) + period.weighed.astype("<i8", copy=False).tobytes()
            )
    return frame(_PERIOD, body, decimal(period.number))


def unpack_period(key: str, field: bytes, raw: bytes) -> Period:
    """The period stored in a field. Raises CorruptStored."""
    with reading(f"{key}[{field!r}]"):
        body = Body(opened(_PERIOD, raw, field))
        number, last, epoch, start_ms, end_ms, m, *sizes, width = body.struct(_PERIOD_HEAD)
        g, k, c, clustered, buckets = layout_from(*sizes)
        shares = body.array("<u4", (k,))
        centres = body.array("<f8", (m,))
        exposures = body.array("<i8", (g, k)).astype(np.int64, copy=False)
        cells = Cells(exposures, body.array("<i8", (g, k, c, COLUMNS)).astype(np.int64, copy=False))
        if clustered:
            cells.clusters = body.array("<i8", (k, clustered, buckets, 2)).astype(np.int64, copy=False)
            cells.visits = body.array("<i8", (k, buckets)).astype(np.int64, copy=False)
        facts = body.array("<f8", (g, width - 1)).astype(np.float64, copy=False) if width else None
        by_unit, apart = body.struct(_PERIOD_TAIL)
        units = None
        if by_unit:
            units = body.array("<f8", (k - 1, clustered, BUCKETS, 2)).astype(np.float64, copy=False)
        apart_ppm = {}
        for _ in range(apart):
            (cohort,) = body.struct(_COHORT)
            apart_ppm[cohort] = tuple(body.array("<u4", (k,)).tolist())
        linear = weighed = None
        if body.left():
            linear = body.array("<i8", (k, *body.struct(_LINEAR))).astype(np.int64, copy=False)
        if body.left():
            shape = (k, *body.struct(_WEIGHED), 2, weights.SUMS)
            weighed = body.array("<i8", shape).astype(np.int64, copy=False)
        body.end()
        period = Period(
            number,
            last,
            epoch,
            start_ms,
            end_ms,
            tuple(shares.tolist()),
            tuple(centres.tolist()),
            cells,
            facts,
            units,
            apart_ppm,
            linear,
            weighed,
        )
        _check_period(period)
        if field != decimal(number):
            raise ValueError(f"holds period {number}")
        return period


def _check_period(period: Period) -> None:
    cells = period.cells
    g, k, c, *_ = cells.layout
    if cells.exposures.shape != (g, k) or len(period.shares_ppm) != k or len(period.centres) > c:
        raise ValueError(f"period {period.number}: shares, centres, exposures and sums differ in size")
    _check_units(period)
    if why := sums.fault(period) or weights.fault(period):
        raise ValueError(f"period {period.number}: {why}")
    for cohort, own in period.apart_ppm.items():
        if not 0 <= cohort < g or len(own) != k or sum(own) != _PPM or min(own) < 0:
            raise ValueError(f"period {period.number}: shares of cohort {cohort} that cannot be: {own}")
    if period.facts is not None and (period.facts.ndim != 2 or period.facts.shape[0] != g):
        raise ValueError(f"period {period.number}: facts of {period.facts.shape}, not of {g} cohorts")
    if period.last < period.number:
        raise ValueError(f"period {period.number} ends before it begins, at {period.last}")
    if not all(map(math.isfinite, period.centres)):
        raise ValueError(f"period {period.number}: a centre is not finite")
    n, s1, high, low = (cells.sums[..., column] for column in (N, S1, S2_HIGH, S2_LOW))
    if min(int(cells.exposures.min(initial=0)), int(cells.sums.min(initial=0))) < 0:
        raise ValueError(f"period {period.number}: a sum below 0")
    if int(n.max(initial=0)) > CELL_ROOM:
        raise ValueError(f"period {period.number}: a cell with more than {CELL_ROOM} rewards")
    # Values in [0, ONE]: s1 <= n ONE, and by Cauchy-Schwarz s1^2 <= n s2 <= n ONE s1; floats are good to 1e-15 each.
    squares = high.astype(np.float64) * (1 << BITS) + low
    first, count = s1.astype(np.float64), n.astype(np.float64)
    slack = 1 + 1e-12
    if (
        (s1 > n * ONE).any()
        or (first * first > count * squares * slack).any()
        or (squares > first * ONE * slack).any()
    ):
        raise ValueError(f"period {period.number}: sums that no values in [0, 1] have")


def _check_units(period: Period) -> None:
    cells = period.cells
    _, k, c, clustered, buckets = cells.layout
    if cells.clusters is not None:
        if clustered > c or buckets not in (BUCKETS, 2 * BUCKETS) or (cells.clusters < 0).any():
            raise ValueError(f"period {period.number}: sums of hash buckets that cannot be")
        if cells.clusters.shape != (k, clustered, buckets, 2):
            raise ValueError(f"period {period.number}: sums of hash buckets of another shape")
        if (cells.clusters[..., 1] > cells.clusters[..., 0] * ONE).any():
            raise ValueError(f"period {period.number}: a hash bucket with values above 1")
        if cells.visits is None or cells.visits.shape != (k, buckets) or (cells.visits < 0).any():
            raise ValueError(f"period {period.number}: decisions of hash buckets that cannot be")
    if period.units is not None and (
        period.units.shape != (k - 1, clustered, BUCKETS, 2) or not np.isfinite(period.units).all()
    ):
        raise ValueError(f"period {period.number}: facts by hash bucket that cannot be")

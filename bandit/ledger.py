"""The ledger: additive int64 sums per period; any order, split or replay of the same events gives the same bits.

Cell layout. A *period* is the life of one allocation, so shares are constant inside it. It holds

* ``exposures`` int64[G, K]: decisions counted, per cohort and arm;
* ``sums`` int64[G, K, M, 4]: per cohort, arm and metric ``(n, s1, s2_high, s2_low)`` with n rewards,
  s1 the sum of q and s2 = s2_high * 2**30 + s2_low the sum of q**2.

A value x of a metric with range [low, high] is the integer q = round((x - low) / (high - low) * 2**30), so
0 <= q <= 2**30; the resolution is 1e-9 of the range. A cell has room for 2**32 rewards; see ``has_room``.

Priors, decay, windows and maturity are readings of these sums, never part of them. Nothing here waits,
and nothing here is a float that is added to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.float64]

BITS = 30
ONE = 1 << BITS
N, S1, S2_HIGH, S2_LOW = range(4)
COLUMNS = 4
CELL_ROOM = 1 << 32


class Layout(NamedTuple):
    """Sizes of the cells: cohorts (index 0 is everyone else), arms, metrics."""

    cohorts: int
    arms: int
    metrics: int


def quantise(value: float, low: float, high: float) -> int:
    """The integer q of a value inside [low, high] (not checked): round to nearest, ties to even."""
    return round((value - low) / (high - low) * ONE)


def below_resolution(value: float, low: float, high: float) -> bool:
    """True for a value off ``low`` that would be counted as nothing: closer than half a step to it."""
    return value != low and quantise(value, low, high) == 0


@dataclass(slots=True)
class Cells:
    """The sums of one period; see the module for shapes."""

    exposures: Int64Array
    sums: Int64Array

    @classmethod
    def zeros(cls, layout: Layout) -> Cells:
        """Empty cells."""
        g, k, m = layout
        return cls(np.zeros((g, k), np.int64), np.zeros((g, k, m, COLUMNS), np.int64))

    @property
    def layout(self) -> Layout:
        """Sizes of these cells."""
        g, k, m, _ = self.sums.shape
        return Layout(g, k, m)

    def add(self, other: Cells) -> None:
        """Add other cells of the same layout in place."""
        self.exposures += other.exposures
        self.sums += other.sums

    def copy(self) -> Cells:
        """A copy that shares no memory."""
        return Cells(self.exposures.copy(), self.sums.copy())

    def has_room(self, more: int = 0) -> bool:
        """True while every cell can take ``more`` further rewards without leaving int64."""
        return int(self.sums[..., N].max(initial=0)) + more <= CELL_ROOM


@dataclass(slots=True)
class Period:
    """One period, or a *block*: several mature periods folded into one (``last`` > ``number``).

    ``end_ms`` is 0 while the allocation lives. ``shares_ppm`` [K] are exact inside a period; a block has the
    shares of its last period, which no test may use. ``centres`` [M] are the control's means, scaled to
    [0, 1], frozen when the period began.
    """

    number: int
    last: int
    epoch: int
    start_ms: int
    end_ms: int
    shares_ppm: tuple[int, ...]
    centres: tuple[float, ...]
    cells: Cells

    @property
    def is_block(self) -> bool:
        """True when mature periods were folded into this."""
        return self.last > self.number

    def is_mature(self, window_s: float, now_ms: int) -> bool:
        """True when no reward of a decision of this period can still arrive in its attribution window."""
        return self.end_ms > 0 and now_ms >= self.end_ms + window_s * 1000


@dataclass(slots=True)
class Ledger:
    """All periods of one experiment that are kept, by number; ``layout`` is of the present epoch."""

    epoch: int
    layout: Layout
    periods: dict[int, Period] = field(default_factory=dict)

    def current(self) -> list[Period]:
        """Periods of the present epoch, oldest first."""
        return [self.periods[n] for n in sorted(self.periods) if self.periods[n].epoch == self.epoch]

    def totals(self) -> Cells:
        """Sum over all periods of the present epoch."""
        total = Cells.zeros(self.layout)
        for period in self.current():
            total.add(period.cells)
        return total


@dataclass(frozen=True, slots=True)
class PeriodTable:
    """Periods of one epoch as arrays, oldest first, cohorts added up: what every decider reads.

    E periods, K arms, M metrics. ``n`` [E, K, M] are rewards; ``s1`` and ``s2`` [E, K, M] the sums of the
    value and its square in scaled units (each value in [0, 1], see the module); ``assigned`` [E, K] the
    exposures. ``share`` [E, K] in [0, 1]; ``centre`` [E, M] scaled. ``end_ms`` is 0 for the open period.
    ``block`` [E] marks folded periods, whose shares mean nothing.
    """

    number: Int64Array
    last: Int64Array
    start_ms: Int64Array
    end_ms: Int64Array
    block: NDArray[np.bool_]
    share: FloatArray
    centre: FloatArray
    assigned: FloatArray
    n: FloatArray
    s1: FloatArray
    s2: FloatArray

    def mature(self, window_s: float, now_ms: int) -> NDArray[np.bool_]:
        """[E] True where no reward in the attribution window can still arrive."""
        closed: NDArray[np.bool_] = (self.end_ms > 0) & (now_ms >= self.end_ms + window_s * 1000)
        return closed


def table(periods: Sequence[Period], layout: Layout) -> PeriodTable:
    """Stack periods of one epoch (and of ``layout``) into arrays."""
    k, m = layout.arms, layout.metrics
    e = len(periods)
    sums = np.zeros((e, k, m, COLUMNS))
    assigned = np.zeros((e, k))
    for row, period in enumerate(periods):
        assigned[row] = period.cells.exposures.sum(axis=0)
        sums[row] = period.cells.sums.sum(axis=0)
    return PeriodTable(
        number=np.array([p.number for p in periods], np.int64),
        last=np.array([p.last for p in periods], np.int64),
        start_ms=np.array([p.start_ms for p in periods], np.int64),
        end_ms=np.array([p.end_ms for p in periods], np.int64),
        block=np.array([p.is_block for p in periods], np.bool_),
        share=np.array([p.shares_ppm for p in periods], np.float64).reshape(e, k) / 1e6,
        centre=np.array([p.centres for p in periods], np.float64).reshape(e, m),
        assigned=assigned,
        n=sums[..., N],
        s1=sums[..., S1] / ONE,
        s2=(sums[..., S2_HIGH] + sums[..., S2_LOW] / ONE) / ONE,
    )


def fold_block(periods: Iterable[Period]) -> Period:
    """Fold adjacent mature periods of one epoch into one block. Raises ValueError on anything else."""
    rows = sorted(periods, key=lambda period: period.number)
    if not rows or any(a.epoch != b.epoch or a.last >= b.number for a, b in pairwise(rows)):
        raise ValueError("a block needs periods of one epoch that do not overlap")
    if any(period.end_ms == 0 for period in rows):
        raise ValueError("an open period cannot be folded")
    cells = rows[0].cells.copy()
    for period in rows[1:]:
        cells.add(period.cells)
    newest = rows[-1]
    return Period(
        number=rows[0].number,
        last=newest.last,
        epoch=newest.epoch,
        start_ms=rows[0].start_ms,
        end_ms=newest.end_ms,
        shares_ppm=newest.shares_ppm,
        centres=newest.centres,
        cells=cells,
    )


def decay_weights(periods: PeriodTable, half_life_s: float | None, now_ms: int) -> FloatArray:
    """[E] weight of each period in the posteriors: 1 without decay, else halving per half-life of its age.

    Age counts from a period's middle; an open period is as young as its start allows.
    """
    if half_life_s is None:
        return np.ones(len(periods.number))
    end = np.where(periods.end_ms > 0, periods.end_ms, now_ms)
    age_s = np.maximum(now_ms - (periods.start_ms + end) / 2, 0.0) / 1000
    weights: FloatArray = np.exp(-math.log(2) / half_life_s * age_s)
    return weights

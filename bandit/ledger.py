"""The ledger: additive int64 sums per period; any order, split or replay of the same events gives the same bits.

Cell layout. A *period* is the life of one allocation, so shares are constant inside it. It holds

* ``exposures`` int64[G, K]: decisions counted, per cohort and arm;
* ``sums`` int64[G, K, C, 4]: per cohort, arm and channel ``(n, s1, s2_high, s2_low)`` with n decisions that have a
  value, s1 the sum of q and s2 = s2_high * 2**30 + s2_low the sum of q**2; channel m < M is metric m;
* ``clusters`` int64[K, M, B, 2], where units keep their arm over many decisions: ``(n, s1)`` of each metric by the
  low bits of the unit's hash, cohorts added up. One unit is in one bucket, so the 64 totals of an arm vary as its
  units do, whatever depends on what inside a unit (cf. the streaming bootstrap, Chamandy et al. 2012). Where a unit
  moves only with its point, B is 128: the second 64 are of decisions at points that changed owner before
  (``Ranges.moved``), whose units may have met another arm. ``visits`` int64[K, B]: the decisions in the same way.

A value x of a metric with range [low, high] is the integer q = round((x - low) / (high - low) * 2**30), so
0 <= q <= 2**30; the resolution is 1e-9 of the range. A cell has room for 2**32 rewards; see ``has_room``.

Priors, decay, windows and maturity are readings of these sums, never part of them. Nothing here waits,
and nothing here is a float that is added to.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

Int64Array = NDArray[np.int64]
FloatArray = NDArray[np.float64]

BITS = 30
ONE = 1 << BITS
N, S1, S2_HIGH, S2_LOW = range(4)
COLUMNS = 4
CELL_ROOM = 1 << 32
BUCKETS = 64
EVERY = -1


class Layout(NamedTuple):
    """Sizes of the cells: cohorts (index 0 is everyone else), arms, channels (see ``spec.channels``).

    ``clustered``: number of metrics whose sums are also kept by the units' hash buckets; 0 where units do not repeat.
    ``buckets``: 64, or 128 where units at points that moved are kept apart.
    """

    cohorts: int
    arms: int
    channels: int
    clustered: int = 0
    buckets: int = BUCKETS


def bucket_of(unit_hash: int, *, rerouted: bool = False) -> int:
    """1 to 128: one more than the place of a decision in ``clusters``; see the module. 0 is for a unit not known."""
    return 1 + unit_hash % BUCKETS + (BUCKETS if rerouted else 0)


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
    clusters: Int64Array | None = None
    visits: Int64Array | None = None

    @classmethod
    def zeros(cls, layout: Layout) -> Cells:
        """Empty cells."""
        g, k, c, m, b = layout
        clusters = np.zeros((k, m, b, 2), np.int64) if m else None
        visits = np.zeros((k, b), np.int64) if m else None
        return cls(np.zeros((g, k), np.int64), np.zeros((g, k, c, COLUMNS), np.int64), clusters, visits)

    @property
    def layout(self) -> Layout:
        """Sizes of these cells."""
        g, k, c, _ = self.sums.shape
        return Layout(g, k, c) if self.clusters is None else Layout(g, k, c, *self.clusters.shape[1:3])

    def add(self, other: Cells) -> None:
        """Add other cells of the same layout in place."""
        self.exposures += other.exposures
        self.sums += other.sums
        if self.clusters is not None and other.clusters is not None:
            self.clusters += other.clusters
        if self.visits is not None and other.visits is not None:
            self.visits += other.visits

    def copy(self) -> Cells:
        """A copy that shares no memory."""
        clusters = None if self.clusters is None else self.clusters.copy()
        visits = None if self.visits is None else self.visits.copy()
        return Cells(self.exposures.copy(), self.sums.copy(), clusters, visits)

    def has_room(self, more: int = 0) -> bool:
        """True while every cell can take ``more`` further rewards without leaving int64."""
        return int(self.sums[..., N].max(initial=0)) + more <= CELL_ROOM


@dataclass(slots=True)
class Period:
    """One period, or a *block*: several mature periods folded into one (``last`` > ``number``).

    ``end_ms`` is 0 while the allocation lives. ``shares_ppm`` [K] are exact inside a period; a block has the
    shares of its last period, which no test may use. ``centres`` [M] are the control's means, scaled to
    [0, 1], frozen when the period began. ``facts`` [G, L] of a block: what readers need of its periods that
    their sums do not tell any more (see ``bandit.facts``), per cohort; ``units`` [K - 1, M, 64, 2] likewise, by hash
    bucket (see ``inference.first_exposure``). ``apart_ppm``: shares of cohorts that had their own, by index.
    ``linear`` [K, M, W]: what linear models learn from, see ``bandit.linear.sums``; then ``shares_ppm`` are what was
    expected of all requests together, and no test may use them; ``weighed`` [K, M, 2, 6]: what arms are compared by
    then, see ``bandit.linear.weights``, None where decisions bring no shares.
    """

    number: int
    last: int
    epoch: int
    start_ms: int
    end_ms: int
    shares_ppm: tuple[int, ...]
    centres: tuple[float, ...]
    cells: Cells
    facts: FloatArray | None = None
    units: FloatArray | None = None
    apart_ppm: Mapping[int, tuple[int, ...]] = field(default_factory=dict)
    linear: Int64Array | None = None
    weighed: Int64Array | None = None

    def shares_of(self, cohort: int) -> tuple[int, ...]:
        """[K] in ppm: exact for the units of a cohort."""
        return self.apart_ppm.get(cohort, self.shares_ppm)

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
    """Periods of one epoch as arrays, oldest first: what every decider reads.

    E rows, K arms, C channels. ``n`` [E, K, C] are rewards; ``s1`` and ``s2`` [E, K, C] the sums of the
    value and its square in scaled units (each value in [0, 1], see the module); ``assigned`` [E, K] the
    exposures. ``share`` [E, K] in [0, 1], of the row's cohort; ``centre`` [E, M] scaled. ``end_ms`` is 0 for the open
    period.
    ``block`` [E] marks folded periods, whose shares mean nothing; ``facts`` [E, L] are theirs, zeros for others.
    ``cohort`` [E]: index of the cohort that a row is about, EVERY when all are added up.
    ``weighed`` int64[E, K, M, 2, 6] of the periods, see ``bandit.linear.weights``; None where there are none, and in
    rows of single cohorts.
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
    facts: FloatArray
    cohort: Int64Array
    weighed: Int64Array | FloatArray | None = None

    def rows(self, chosen: NDArray[np.bool_] | NDArray[np.int64]) -> PeriodTable:
        """Only the chosen rows."""
        columns = (getattr(self, name) for name in self.__slots__)
        kept: list[Any] = [None if each is None else each[chosen] for each in columns]
        return PeriodTable(*kept)

    def mature(self, window_s: float, now_ms: int) -> NDArray[np.bool_]:
        """[E] True where no reward in the attribution window can still arrive."""
        closed: NDArray[np.bool_] = (self.end_ms > 0) & (now_ms >= self.end_ms + window_s * 1000)
        return closed


def table(periods: Sequence[Period], layout: Layout) -> PeriodTable:
    """Stack periods of one epoch (and of ``layout``) into arrays, a row each, cohorts added up."""
    rows = [(period, period.cells.exposures.sum(axis=0), period.cells.sums.sum(axis=0)) for period in periods]
    facts = [None if period.facts is None else period.facts.sum(axis=0) for period in periods]
    found = _stack(rows, layout, facts, [EVERY] * len(rows))
    weighed = [period.weighed for period in periods]
    shape = next((each.shape for each in weighed if each is not None), None)
    if shape is None:
        return found
    # Periods of before the sums were kept have none: nothing is compared in them.
    none = np.zeros(shape, np.int64)
    return replace(found, weighed=np.array([none if each is None else each for each in weighed]))


def split_table(periods: Sequence[Period], layout: Layout) -> PeriodTable:
    """As :func:`table`, with a row per period and cohort; those without exposures and rewards are left out."""
    rows, facts, cohorts = [], [], []
    for period in periods:
        for cohort in range(layout.cohorts):
            exposures, sums = period.cells.exposures[cohort], period.cells.sums[cohort]
            if exposures.any() or sums[..., N].any():
                rows.append((period, exposures, sums))
                facts.append(None if period.facts is None else period.facts[cohort])
                cohorts.append(cohort)
    return _stack(rows, layout, facts, cohorts)


def _stack(
    rows: Sequence[tuple[Period, Int64Array, Int64Array]],
    layout: Layout,
    facts: Sequence[FloatArray | None],
    cohorts: Sequence[int],
) -> PeriodTable:
    k, c = layout.arms, layout.channels
    e = len(rows)
    periods = [period for period, _, _ in rows]
    sums = np.array([each for _, _, each in rows], np.float64).reshape(e, k, c, COLUMNS)
    width = next((each.shape[-1] for each in facts if each is not None), 0)
    kept = np.zeros((e, width))
    for row, each in enumerate(facts):
        if each is not None:
            kept[row] = each
    centres = len(periods[0].centres) if periods else layout.channels
    return PeriodTable(
        number=np.array([p.number for p in periods], np.int64),
        last=np.array([p.last for p in periods], np.int64),
        start_ms=np.array([p.start_ms for p in periods], np.int64),
        end_ms=np.array([p.end_ms for p in periods], np.int64),
        block=np.array([p.is_block for p in periods], np.bool_),
        share=np.array([p.shares_of(g) for p, g in zip(periods, cohorts, strict=True)], np.float64).reshape(
            e, k
        )
        / 1e6,
        centre=np.array([p.centres for p in periods], np.float64).reshape(e, centres),
        assigned=np.array([each for _, each, _ in rows], np.float64).reshape(e, k),
        n=sums[..., N],
        s1=sums[..., S1] / ONE,
        s2=(sums[..., S2_HIGH] + sums[..., S2_LOW] / ONE) / ONE,
        facts=kept,
        cohort=np.array(cohorts, np.int64),
    )


def comparable(whole: PeriodTable, rows: PeriodTable | None) -> PeriodTable:
    """``whole``, a row per period, where all cohorts have the same shares; where some have their own, a row for each
    group of cohorts with the same, so that shares are exact in every row. ``rows``: a row per period and cohort."""
    if rows is None or len(rows.number) < 2:
        return whole
    order = np.lexsort((rows.cohort, rows.number))
    number, share = rows.number[order], rows.share[order]
    same = number[1:] == number[:-1]
    if not (same & (share[1:] != share[:-1]).any(axis=1) & ~rows.block[order][1:]).any():
        return whole
    key = np.column_stack([rows.number, np.where(rows.block[:, None], 0.0, rows.share)])
    _, first, group = np.unique(key, axis=0, return_index=True, return_inverse=True)
    chosen = rows.rows(first)
    added = {}
    for name in ("assigned", "n", "s1", "s2", "facts"):
        values = getattr(rows, name)
        total = np.zeros((len(first), *values.shape[1:]))
        np.add.at(total, group.ravel(), values)
        added[name] = total
    return replace(chosen, cohort=np.full(len(first), EVERY), **added)


@dataclass(frozen=True, slots=True)
class Clusters:
    """Sums of one epoch by hash bucket of the unit, where units keep their arm: ``values`` int64[K, M, 64, 2] are
    (n, s1) of each metric, ``visits`` int64[K, 64] decisions; ``rerouted`` [K] those of them at points that moved."""

    values: Int64Array
    visits: Int64Array
    rerouted: Int64Array


def cluster_totals(periods: Iterable[Period], layout: Layout) -> Clusters | None:
    """``clusters`` and ``visits`` added over periods of one epoch; None where the epoch keeps none."""
    zeros = Cells.zeros(layout)
    values, decisions = zeros.clusters, zeros.visits
    if values is None or decisions is None:
        return None
    for period in periods:
        if period.cells.clusters is not None and period.cells.visits is not None:
            values += period.cells.clusters
            decisions += period.cells.visits
    k, m, b, _ = values.shape
    visits = decisions.reshape(k, b // BUCKETS, BUCKETS)
    return Clusters(
        values=values.reshape(k, m, b // BUCKETS, BUCKETS, 2).sum(axis=2),
        visits=visits.sum(axis=1),
        rerouted=visits[:, 1:].sum(axis=(1, 2)),
    )


def fold_block(
    periods: Iterable[Period], facts: FloatArray | None = None, units: FloatArray | None = None
) -> Period:
    """Fold adjacent mature periods of one epoch into one block. Raises ValueError on anything else.

    ``facts`` [G, L] and ``units`` [K - 1, M, 64, 2] of those among them that are no blocks yet; those of blocks are
    added.
    """
    rows = sorted(periods, key=lambda period: period.number)
    if not rows or any(a.epoch != b.epoch or a.last >= b.number for a, b in pairwise(rows)):
        raise ValueError("a block needs periods of one epoch that do not overlap")
    if any(period.end_ms == 0 for period in rows):
        raise ValueError("an open period cannot be folded")
    cells = rows[0].cells.copy()
    for period in rows[1:]:
        cells.add(period.cells)
    kept = [period.facts for period in rows if period.facts is not None]
    if facts is not None:
        kept.append(facts)
    if len({each.shape for each in kept}) > 1:
        raise ValueError("facts of one epoch have one shape")
    by_unit = [period.units for period in rows if period.units is not None]
    if units is not None:
        by_unit.append(units)
    linear = [period.linear for period in rows if period.linear is not None]
    weighed = [period.weighed for period in rows if period.weighed is not None]
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
        facts=np.sum(kept, axis=0) if kept else None,
        units=np.sum(by_unit, axis=0) if by_unit else None,
        linear=np.sum(linear, axis=0) if linear else None,
        weighed=np.sum(weighed, axis=0) if weighed else None,
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

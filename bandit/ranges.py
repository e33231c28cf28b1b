"""Owned ranges: which part of the ppm circle each arm owns, and how little must move when shares move.

A shrinking arm gives away tails of its ranges, a growing arm takes them; so exactly the total-variation
part of the units changes arm, statelessly, and an arm's propensity is the length it owns
(maximal coupling of two allocations; Thorisson 2000, ch. 1).

A partition also knows which points changed owner since it was laid out: units there may have met another arm before.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

PPM = 1_000_000
MAX_RANGES = 256
MOST_MOVED = 64
"""Stretches of moved points that are told apart; beyond, the shortest gaps between them count as moved too."""


class Range(NamedTuple):
    """[low, high) of the ppm circle, owned by the arm of that index."""

    low: int
    high: int
    arm: int


@dataclass(frozen=True, slots=True)
class Ranges:
    """A partition of [0, 1_000_000) into owned ranges, sorted, without gaps or overlaps.

    ``arms`` is the number of arms; ``owned`` the ranges. Build with :func:`contiguous` or :func:`move`. ``moved``:
    edges (low, high, low, high, ...), ascending, of the stretches whose points changed owner since they were laid out.
    """

    arms: int
    owned: tuple[Range, ...]
    starts: tuple[int, ...]
    moved: tuple[int, ...] = ()

    @classmethod
    def of(cls, arms: int, owned: Sequence[tuple[int, int, int]], moved: Sequence[int] = ()) -> Ranges:
        """Checked constructor. Raises ValueError when the ranges are not a partition, or ``moved`` no edges in it."""
        edge = 0
        for low, high, arm in owned:
            if low != edge or high <= low or not 0 <= arm < arms:
                raise ValueError(
                    f"range [{low}, {high}) of arm {arm} does not continue the partition at {edge}"
                )
            edge = high
        if edge != PPM:
            raise ValueError(f"ranges end at {edge}, not at {PPM}")
        if (
            len(moved) % 2
            or list(moved) != sorted(set(moved))
            or (moved and not 0 <= moved[0] < moved[-1] <= PPM)
        ):
            raise ValueError(f"{list(moved)} are no edges of stretches in [0, {PPM}]")
        ranges = tuple(Range(*each) for each in owned)
        return cls(arms, ranges, tuple(each.low for each in ranges), tuple(moved))

    def arm_at(self, point: int) -> int:
        """Index of the arm that owns the point, an integer in [0, 1_000_000)."""
        return self.owned[bisect_right(self.starts, point) - 1].arm

    def settled(self) -> Ranges:
        """The same partition, laid out now: no point of it has moved."""
        return replace(self, moved=())

    def settled_ppm(self) -> tuple[int, ...]:
        """Length owned by each arm whose points never moved."""
        return _lengths(self, self.moved)

    def after(self, *before: Ranges) -> Ranges:
        """This partition, with all points moved that moved in one of those before or have another owner there."""
        edges = self.moved
        for each in before:
            edges = _union(_union(edges, each.moved), _differing(each, self))
        return replace(self, moved=_coarse(edges))

    def shares_ppm(self) -> tuple[int, ...]:
        """Total length owned by each arm, in ppm; they add up to 1_000_000."""
        shares = [0] * self.arms
        for low, high, arm in self.owned:
            shares[arm] += high - low
        return tuple(shares)


def contiguous(shares_ppm: Sequence[int]) -> Ranges:
    """The first allocation: one range per arm with a share, in order of the arms."""
    _check_shares(shares_ppm)
    owned, edge = [], 0
    for arm, share in enumerate(shares_ppm):
        if share:
            owned.append(Range(edge, edge + share, arm))
            edge += share
    return Ranges.of(len(shares_ppm), owned)


def move(ranges: Ranges, shares_ppm: Sequence[int]) -> Ranges:
    """The ranges after shares move: each arm keeps all it may keep, exactly the total variation moves.

    When that would leave more than 256 ranges the partition is laid out anew as far as it must be:
    :func:`contiguous` (which moves more units than the total variation, once in a long while). What changed owner is
    ``moved`` from then on.
    """
    _check_shares(shares_ppm)
    if len(shares_ppm) != ranges.arms:
        raise ValueError(f"{len(shares_ppm)} shares for {ranges.arms} arms")
    surplus = [have - want for have, want in zip(ranges.shares_ppm(), shares_ppm, strict=True)]
    kept: list[Range] = []
    free: list[tuple[int, int]] = []
    for low, high, arm in reversed(ranges.owned):  # tails first: from the right
        give = min(high - low, max(surplus[arm], 0))
        surplus[arm] -= give
        if give < high - low:
            kept.append(Range(low, high - give, arm))
        if give:
            free.append((high - give, high))
    lacks = {arm: -lack for arm, lack in enumerate(surplus) if lack < 0}
    kept.extend(_share_out(sorted(free), lacks, {each.high: each.arm for each in kept}))
    merged: list[Range] = []
    for each in sorted(kept):
        if merged and merged[-1].arm == each.arm and merged[-1].high == each.low:
            merged[-1] = Range(merged[-1].low, each.high, each.arm)
        else:
            merged.append(each)
    if len(merged) > MAX_RANGES:
        return contiguous(shares_ppm).after(ranges)
    return Ranges.of(ranges.arms, merged).after(ranges)


def _share_out(free: list[tuple[int, int]], lacks: dict[int, int], owner_at: dict[int, int]) -> list[Range]:
    """Give the free pieces to the growing arms: first to the arm just left of a piece, so that ranges merge."""
    given: list[Range] = []
    rest: list[tuple[int, int]] = []
    for low, high in free:
        left = owner_at.get(low, -1)
        part = min(lacks.get(left, 0), high - low)
        if part:
            given.append(Range(low, low + part, left))
            lacks[left] -= part
        if low + part < high:
            rest.append((low + part, high))
    pieces = iter(rest)
    low = high = 0
    for arm, lack in lacks.items():
        while lack:
            if low == high:
                low, high = next(pieces)
            part = min(lack, high - low)
            given.append(Range(low, low + part, arm))
            low, lack = low + part, lack - part
    return given


def _differing(one: Ranges, other: Ranges) -> tuple[int, ...]:
    """Edges of the stretches that two partitions give to different arms."""
    edges: list[int] = []
    cuts = sorted({*one.starts, *other.starts})
    for low, high in zip(cuts, (*cuts[1:], PPM), strict=True):
        if one.arm_at(low) != other.arm_at(low):
            if edges and edges[-1] == low:
                edges[-1] = high
            else:
                edges += (low, high)
    return tuple(edges)


def _union(one: Sequence[int], other: Sequence[int]) -> tuple[int, ...]:
    """Edges of all points that are in one of two sets of stretches."""
    edges: list[int] = []
    for low, high in sorted(
        [*zip(one[::2], one[1::2], strict=True), *zip(other[::2], other[1::2], strict=True)]
    ):
        if edges and low <= edges[-1]:
            edges[-1] = max(edges[-1], high)
        else:
            edges += (low, high)
    return tuple(edges)


def _coarse(edges: tuple[int, ...]) -> tuple[int, ...]:
    """At most MOST_MOVED stretches: to count a settled point as moved loses a few units and favours no arm."""
    extra = len(edges) // 2 - MOST_MOVED
    if extra <= 0:
        return edges
    gaps = sorted(range(1, len(edges) - 1, 2), key=lambda at: (edges[at + 1] - edges[at], at))[:extra]
    filled = {place for at in gaps for place in (at, at + 1)}
    return tuple(edge for place, edge in enumerate(edges) if place not in filled)


def _lengths(ranges: Ranges, edges: Sequence[int]) -> tuple[int, ...]:
    """Length owned by each arm outside of the stretches."""
    shares = list(ranges.shares_ppm())
    for low, high in zip(edges[::2], edges[1::2], strict=True):
        for owned in ranges.owned:
            shares[owned.arm] -= max(min(high, owned.high) - max(low, owned.low), 0)
    return tuple(shares)


def _check_shares(shares_ppm: Sequence[int]) -> None:
    if any(share < 0 for share in shares_ppm) or sum(shares_ppm) != PPM:
        raise ValueError(
            f"shares {list(shares_ppm)} must be at least 0 and add up to {PPM}, not {sum(shares_ppm)}"
        )

"""Owned ranges: which part of the ppm circle each arm owns, and how little must move when shares move.

A shrinking arm gives away tails of its ranges, a growing arm takes them; so exactly the total-variation
part of the units changes arm, statelessly, and an arm's propensity is the length it owns
(maximal coupling of two allocations; Thorisson 2000, ch. 1).
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

PPM = 1_000_000
MAX_RANGES = 256


class Range(NamedTuple):
    """[low, high) of the ppm circle, owned by the arm of that index."""

    low: int
    high: int
    arm: int


@dataclass(frozen=True, slots=True)
class Ranges:
    """A partition of [0, 1_000_000) into owned ranges, sorted, without gaps or overlaps.

    ``arms`` is the number of arms; ``owned`` the ranges. Build with :func:`contiguous` or :func:`move`.
    """

    arms: int
    owned: tuple[Range, ...]
    starts: tuple[int, ...]

    @classmethod
    def of(cls, arms: int, owned: Sequence[tuple[int, int, int]]) -> Ranges:
        """Checked constructor. Raises ValueError when the ranges are not a partition."""
        edge = 0
        for low, high, arm in owned:
            if low != edge or high <= low or not 0 <= arm < arms:
                raise ValueError(
                    f"range [{low}, {high}) of arm {arm} does not continue the partition at {edge}"
                )
            edge = high
        if edge != PPM:
            raise ValueError(f"ranges end at {edge}, not at {PPM}")
        ranges = tuple(Range(*each) for each in owned)
        return cls(arms, ranges, tuple(each.low for each in ranges))

    def arm_at(self, point: int) -> int:
        """Index of the arm that owns the point, an integer in [0, 1_000_000)."""
        return self.owned[bisect_right(self.starts, point) - 1].arm

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
    :func:`contiguous` (which moves more units than the total variation, once in a long while).
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
        return contiguous(shares_ppm)
    return Ranges.of(ranges.arms, merged)


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


def _check_shares(shares_ppm: Sequence[int]) -> None:
    if any(share < 0 for share in shares_ppm) or sum(shares_ppm) != PPM:
        raise ValueError(
            f"shares {list(shares_ppm)} must be at least 0 and add up to {PPM}, not {sum(shares_ppm)}"
        )

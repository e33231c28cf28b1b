"""One ledger out of the ledgers of an experiment's partitions; integers add, so the sums are those of one.

The first partition's periods lead: blocks, facts and units are made of all partitions together and kept there. Another
partition has the same periods or finer ones of the same span, with its own sums and nothing else.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import numpy as np

from bandit.learn import SNAPSHOT_LAG_MS
from bandit.ledger import Cells, Ledger, Period

_ADDED = ("linear", "weighed")
"""Integer sums of a period beside its cells, where it has them."""


def covering(numbers: Sequence[int], number: int) -> int:
    """Which of the ascending first numbers of periods begins the one that ``number`` lies in; 0 for none."""
    at = bisect_right(numbers, number) - 1
    return numbers[at] if at >= 0 else 0


def merged(own: Period, others: Iterable[Period]) -> Period:
    """The first partition's period with the sums of the others' periods in its span; ``own`` is left as it is."""
    found = replace(own, cells=own.cells.copy())
    for other in others:
        _add(found, other)
    return found


def _add(to: Period, other: Period) -> None:
    """Add the sums in place of the attributes; no array that another period holds is written to."""
    to.cells.add(other.cells)
    for name in _ADDED:
        more, before = getattr(other, name), getattr(to, name)
        if more is not None:
            setattr(to, name, more.copy() if before is None else before + more)


def straddled(first: Ledger, others: Iterable[Ledger]) -> list[list[int]]:
    """Groups of the first partition's periods of which another has a block already, numbers ascending; [] as a rule.

    The first partition's slot lost a fold of more than ten minutes ago: its periods are to be folded once more.
    """
    numbers = sorted(first.periods)
    spans = {
        (covering(numbers, block.number) or block.number, covering(numbers, block.last))
        for other in others
        for block in other.periods.values()
        if block.is_block
    }
    groups: list[tuple[int, int]] = []
    for low, high in sorted(span for span in spans if span[0] < span[1]):
        if groups and low <= groups[-1][1]:
            groups[-1] = groups[-1][0], max(groups[-1][1], high)
        else:
            groups.append((low, high))
    return [[number for number in numbers if low <= number <= high] for low, high in groups]


class Fitted(NamedTuple):
    """What fitting changed in a partition: numbers of periods that are new or other, and that are gone.

    ``moved``: decisions of allocations that the experiment does not know any more, counted with the newest it knows.
    """

    changed: set[int]
    gone: set[int]
    moved: int


def fit(first: Ledger, other: Ledger) -> Fitted:
    """Give another partition, in place, the span of periods that the first has, which must be as coarse or coarser.

    What is missing (its slot lost writes) is made anew without sums: its log still has what led to them.
    """
    changed: set[int] = set()
    for lead in (first.periods[number] for number in sorted(first.periods)):
        changed |= _fit_one(lead, other)
    newest = first.periods[max(first.periods)]
    ahead = [number for number in sorted(other.periods) if number > newest.last]
    moved = 0
    for number in ahead:
        lost = other.periods.pop(number)
        at = max(other.periods)
        target = other.periods[at]
        if lost.epoch == target.epoch and lost.cells.layout == target.cells.layout:
            other.periods[at] = merged(target, [lost])
            changed.add(at)
            moved += int(lost.cells.exposures.sum())
    other.epoch, other.layout = first.epoch, first.layout
    return Fitted(changed - set(ahead), set(ahead), moved)


def _fit_one(lead: Period, other: Ledger) -> set[int]:
    """Cover one period's span, and close what it closed."""
    changed: set[int] = set()
    mine = [other.periods[number] for number in sorted(other.periods) if lead.number <= number <= lead.last]
    following, start_ms = lead.number, lead.start_ms
    gaps: list[tuple[int, int, int]] = []
    for period in mine:
        if period.number > following:
            gaps.append((following, period.number - 1, min(start_ms, period.start_ms)))
        # One that was open when its slot went back was closed by whatever allocation is known next.
        within = period.last < lead.last and 0 < period.end_ms < lead.end_ms
        end_ms = period.end_ms if within else lead.end_ms
        if period.end_ms != end_ms:
            period.end_ms = end_ms
            changed.add(period.number)
        # Its end is so much later than the next one began.
        following, start_ms = period.last + 1, max(end_ms - SNAPSHOT_LAG_MS, lead.start_ms)
    if following <= lead.last:
        gaps.append((following, lead.last, start_ms))
    for number, last, begun_ms in gaps:
        other.periods[number] = _blank(lead, number, last, begun_ms)
        changed.add(number)
    return changed


def _blank(lead: Period, number: int, last: int, start_ms: int) -> Period:
    """A part of a period's span, without sums."""
    blank = replace(
        lead,
        number=number,
        last=last,
        start_ms=start_ms,
        cells=Cells.zeros(lead.cells.layout),
        facts=None,
        units=None,
    )
    for name in _ADDED:
        found = getattr(lead, name)
        setattr(blank, name, None if found is None else np.zeros_like(found))
    return blank

"""Where to begin in a partition of a Kafka topic: pure, from what brokers and store say to one offset.

Three things know how far a partition was read: the group's commit (everything below it is safe in every experiment),
the positions in the experiments' slots (each may have gone back with its store), and the log itself, whose head goes
with retention and whose tail may be cut by an unclean election. Offsets of a topic that was made again mean something
else, so each is kept with an epoch: the topic's id, and a number that grows with each cut.

Reading again is always right, since what was taken is skipped; so where these disagree, the earliest counts.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import NamedTuple

from server.ingest.base import lowest
from server.store.fed import Position

_CUT = re.compile(r"~(\d{1,9})")


class Committed(NamedTuple):
    """A group's commit: the next offset, None for none; ``epoch`` as we wrote it beside, "" when another tool did."""

    offset: int | None
    epoch: str = ""


class Ends(NamedTuple):
    """First offset that the log still has, and the one after its last."""

    low: int
    high: int


class Start(NamedTuple):
    """Where to begin. ``lost``: records that retention took before they were read.

    ``known``: offsets below it were seen before. ``commit``: say so to the group before anything is read.
    """

    epoch: str
    offset: int
    lost: int
    known: int
    commit: bool


def start(
    identity: str,
    committed: Committed,
    positions: Sequence[Position],
    ends: Ends,
    *,
    latest: bool = False,
) -> Start:
    """Where to begin in the topic with this ``identity``; ``latest``: at its end when it was never read."""
    cuts = [
        cut
        for each in (committed.epoch, *(place.epoch for place in positions))
        if (cut := _cut(identity, each)) >= 0
    ]
    epoch = _epoch(identity, max(cuts, default=0))
    offset = committed.offset if committed.epoch in ("", epoch) else None
    taken = lowest(positions, epoch)
    known = max([offset or 0, *(each.offset + 1 for each in positions if each.epoch == epoch)])
    if known > ends.high:
        # The tail was cut, and new records have the offsets of old ones.
        return Start(_epoch(identity, max(cuts, default=0) + 1), ends.low, 0, 0, commit=True)
    if offset is None:
        # Without a commit an experiment that is not among the positions may have been in the middle of a batch.
        fresh = latest and not positions and committed.offset is None
        return Start(epoch, ends.high if fresh else ends.low, 0, known, commit=True)
    begin = offset if taken is None else min(offset, taken + 1)
    if any(each.epoch != epoch for each in positions):
        begin = ends.low  # that experiment has nothing of this log
    lost = max(0, ends.low - offset)
    return Start(epoch, max(begin, ends.low), lost, known, commit=committed.epoch != epoch)


def again(epoch: str, positions: Sequence[Position]) -> int | None:
    """Where to read again from when the store lost writes; None: from the beginning of the log.

    A position of another epoch went back to before this log began, so that experiment has nothing of it.
    """
    if any(each.epoch != epoch for each in positions):
        return None
    taken = lowest(positions, epoch)
    return None if taken is None else taken + 1


def _epoch(identity: str, cut: int) -> str:
    return f"{identity}~{cut}" if cut else identity


def _cut(identity: str, epoch: str) -> int:
    """How often the log of this identity had been cut in that epoch; -1 when it is of another."""
    if not epoch.startswith(identity):
        return -1
    rest = epoch[len(identity) :]
    found = _CUT.fullmatch(rest)
    return int(found[1]) if found else (-1 if rest else 0)

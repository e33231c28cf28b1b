"""What was counted already: marks or values per (decision, metric), bucketed foreign ids, and exposures per issuer.

Decision numbers are dense per issuer, so a mark has a place: page ``number >> 8``, slot ``number & 255``. A mark
is 2 bytes: 0 for unseen, else a fingerprint of the value, so that a second, different value is told from a plain
repeat (missed once in 65,535). One bit would do for counting alone; the other fifteen buy the conflict count.
A metric that is joined, aggregated or corrected keeps the value itself in such a place, 4 bytes and what it takes to
order and to take back what comes later. Exposures of an issuer come in order, so one number per issuer says which are
counted.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

PAGE_BITS = 8
PAGE_SLOTS = 1 << PAGE_BITS
BUCKET_MS = 3_600_000

AMENDED = np.dtype([("op", "u1"), ("q", "<u4"), ("order", "<u8")])

Marks = NDArray[np.uint16]


class PageKey(NamedTuple):
    """Which page: issuing server process, metric index, epoch of the decision, page number."""

    issuer: int
    epoch: int
    metric: int
    page: int


@dataclass(slots=True)
class Page:
    """256 marks; ``newest_ms`` is the latest issue time among them and says when the page can go."""

    newest_ms: int
    marks: Marks

    @classmethod
    def empty(cls) -> Page:
        """A page without marks."""
        return cls(0, np.zeros(PAGE_SLOTS, np.uint16))


@dataclass(slots=True)
class ValuePage:
    """Values of 256 decisions; ``newest_ms`` as of a page.

    ``base`` u4[256]: 1 + what the reports come to, scaled; 0 for none. ``amended`` [256] of ``AMENDED``, when any
    slot was: ``op`` (0 none, else of ``bandit.log``) with its value and order, which stand before the base.
    ``parts`` i1[256], for metrics whose delay is counted: index of the first part of the attribution window that
    the delay of the value fits in. ``events``: slot -> keyed id hash -> value, of rewards that are summed.
    """

    newest_ms: int
    base: NDArray[np.uint32]
    amended: NDArray[np.void] | None = None
    parts: NDArray[np.int8] | None = None
    events: dict[int, dict[int, int]] = field(default_factory=dict)

    @classmethod
    def empty(cls) -> ValuePage:
        """A page without values."""
        return cls(0, np.zeros(PAGE_SLOTS, np.uint32))


class BucketKey(NamedTuple):
    """Which bucket of foreign ids: hour of the event time, metric index, epoch."""

    hour: int
    epoch: int
    metric: int


@dataclass(slots=True)
class Seen:
    """Everything that was counted and may come again.

    ``pages``: marks, ``values``: values, each metric of an epoch in one of the two. ``foreign``: per bucket, 64-bit
    keyed id hash -> fingerprint. ``exposed``: per issuer, the number of the next exposure that is not counted yet.
    """

    pages: dict[PageKey, Page] = field(default_factory=dict)
    values: dict[PageKey, ValuePage] = field(default_factory=dict)
    foreign: dict[BucketKey, dict[int, int]] = field(default_factory=dict)
    exposed: dict[int, int] = field(default_factory=dict)


_MIX = 0x9E3779B97F4A7C15


def fingerprint(q: int) -> int:
    """1 to 65,535 from a scaled value."""
    return ((q * _MIX & 0xFFFFFFFFFFFFFFFF) >> 48) % 0xFFFF + 1


def fingerprints(q: NDArray[np.uint32]) -> Marks:
    """:func:`fingerprint` of each scaled value."""
    mixed = (q.astype(np.uint64) * np.uint64(_MIX)) >> np.uint64(48)
    return (mixed % np.uint64(0xFFFF) + np.uint64(1)).astype(np.uint16)

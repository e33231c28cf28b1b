"""What the store keeps of sources of rewards: how far each has been taken, what it brought, and its dead letters.

How far a source has been taken stands in the slot of each experiment that it feeds, written by the same script as the
log entries. So both go back together when the store loses its last writes, and an event that is already in the log is
told by its place. Letters that belong to no experiment have a slot of their own with the same rule.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple, Protocol

if TYPE_CHECKING:
    from server.store.base import Durability

RECEIVED, LATE, REJECTED, DEAD, LOST = "received", "late", "rejected", "dead", "lost"
COUNTED = (RECEIVED, LATE, REJECTED, DEAD, LOST)
"""What is counted at the edge, per source: the rest of its outcomes is counted when the log is folded."""
MOST_LETTERS = 100_000
DROPPED = "dropped"
"""Counted in the slot of the letters for source "": letters that had to make room for newer ones."""


class Position(NamedTuple):
    """A place in a source, or the last one that was taken.

    ``partition``: a part of the source that keeps its own order (a topic's partition, a file, a stream); at most 200
    bytes, no spaces. ``epoch``: which incarnation of it (topic id, inode, creation time): offsets of another epoch
    cannot be compared. ``offset`` grows within an epoch, not necessarily by one.
    """

    partition: str
    epoch: str
    offset: int


class Move(NamedTuple):
    """One step of a partition. ``before``: what the slot must say now (None: nothing yet)."""

    before: Position | None
    after: Position


@dataclass(frozen=True, slots=True)
class Feed:
    """What a source brings to one experiment, all or nothing: entries for its log, counts, and how far it was taken.

    ``uid`` is the experiment's, so nothing reaches a new one of the same name. ``entries``: kind and payload, see
    ``bandit.log``. ``counts``: of ``COUNTED``, what to add.
    """

    experiment: str
    uid: int
    source: str
    entries: Sequence[tuple[bytes, bytes]] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    moves: Sequence[Move] = ()


@dataclass(frozen=True, slots=True)
class Letter:
    """An event that nobody could count: why (``reason`` for machines, ``message`` for people), and all of it."""

    source: str
    reason: str
    message: str
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)
    place: str = ""
    time_ms: int = 0
    id: str = ""


@dataclass(frozen=True, slots=True)
class Burial:
    """Letters of one source with their counts and moves, all or nothing.

    ``once``: a letter whose source and place were buried already (the newest ``MOST_LETTERS`` are remembered) is passed
    over, and each count is so much less.
    """

    source: str
    letters: Sequence[Letter] = ()
    counts: Mapping[str, int] = field(default_factory=dict)
    moves: Sequence[Move] = ()
    once: bool = False


class Fed(NamedTuple):
    """What became of a feed or burial: ``taken``, or ``gone`` (no such experiment), else it stands ``at`` elsewhere.

    ``at``: for each move, where the slot stood when it refused. ``safe``: how safe it is, where that was asked.
    """

    taken: bool
    gone: bool = False
    at: tuple[Position | None, ...] = ()
    safe: Durability | None = None


@dataclass(frozen=True, slots=True)
class SlotCounts:
    """What one slot knows of a source: positions by partition, and counts of ``COUNTED``."""

    positions: Mapping[str, Position]
    counts: Mapping[str, int]


class FeedStore(Protocol):
    """Sources' half of a store. Every call may raise StoreUnavailable; then all or nothing of it happened."""

    def feed(self, feed: Feed, wanted: Durability | None = None) -> Fed:
        """Append to an experiment, count and move on; then wait until that is as safe as wanted. Raises CorruptStored.

        Waits as ``LedgerStore.append_kept`` does.
        """

    def bury(self, burial: Burial) -> Fed:
        """Keep dead letters (the newest ``MOST_LETTERS``), count and move on."""

    def fed(self, experiment: str) -> dict[str, SlotCounts]:
        """By source, what this experiment's slot knows; empty for one that does not exist."""

    def buried(self) -> dict[str, SlotCounts]:
        """By source, what the slot of the dead letters knows."""

    def letters(self, after: str, limit: int) -> list[Letter]:
        """Dead letters with their ids, oldest first, after that id ("" from the beginning)."""

    def unbury(self, letter: Letter) -> bool:
        """The letter was delivered after all: it goes, and no longer counts as dead. False when it had gone already."""

    def put_source(self, source: str, status: bytes) -> None:
        """Publish how a source is."""

    def sources(self) -> dict[str, bytes]:
        """What was published last, by source; it says itself how old it is."""


def position_field(source: str, partition: str) -> str:
    """Field of a position in the hash of a slot."""
    return f"p:{source}:{partition}"


def count_field(source: str, what: str) -> str:
    """Field of a count in the hash of a slot."""
    return f"c:{source}:{what}"


def position_text(position: Position | None) -> str:
    """A position as it is stored; "" for none. Raises ValueError for one that cannot be read back."""
    if position is None:
        return ""
    partition, epoch, offset = position
    if not partition or len(partition.encode()) > 200 or not epoch or " " in epoch + partition or offset < 0:
        raise ValueError(f"{position} is no position; see server.store.fed")
    return f"{epoch} {offset}"


def position_of(partition: str, text: str) -> Position | None:
    """Inverse of :func:`position_text`. Raises ValueError."""
    if not text:
        return None
    epoch, _, offset = text.partition(" ")
    if not epoch or not offset.isdecimal():
        raise ValueError(f"{text!r} is no position")
    return Position(partition, epoch, int(offset))


def slots_of(fields: Mapping[str, str]) -> dict[str, SlotCounts]:
    """The hash of a slot, by source. Raises ValueError for a field or value that nobody wrote."""
    positions: dict[str, dict[str, Position]] = {}
    counts: dict[str, dict[str, int]] = {}
    for name, value in fields.items():
        kind, source, rest = name.split(":", 2)
        found = position_of(rest, value) if kind == "p" else None
        if found is not None:
            positions.setdefault(source, {})[rest] = found
        elif kind == "c" and value.isdecimal():
            counts.setdefault(source, {})[rest] = int(value)
        else:
            raise ValueError(f"{name}={value!r} is neither a position nor a count")
    sources = sorted(positions.keys() | counts.keys())
    return {source: SlotCounts(positions.get(source, {}), counts.get(source, {})) for source in sources}

"""What becomes of one event at the edge: a record for the log, late, rejected, or a dead letter; it writes nothing.

A dead letter is an event that could be counted once something is mended on our side or in its bytes: it cannot be read,
or nothing here is what it names. What is read and named rightly but may not count is rejected, and only counted.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from enum import StrEnum
from typing import NamedTuple

from bandit.errors import Rejected, StoreUnavailable
from server.intake.accept import join, judge, ledger_of
from server.intake.codec import MOST_BODY_BYTES, Arrived, Poison, decode
from server.snapshot import Entry, Snapshot, SnapshotKeeper
from server.store.fed import DEAD, LATE, RECEIVED, REJECTED, Letter

MESSAGE_CHARS = 300
_MOST_HEADERS, _HEADER_CHARS = 32, 512
# Rejections that another spec, an experiment to come, or other keys may turn into rewards.
UNJOINED = frozenset(
    {
        "BAD_TOKEN",
        "NO_TOKEN",
        "TOKEN_REQUIRED",
        "TOO_LONG",
        "UNKNOWN_ARM",
        "UNKNOWN_EXPERIMENT",
        "UNKNOWN_METRIC",
    }
)


class Fate(StrEnum):
    """What becomes of an event at the edge."""

    ACCEPTED = "accepted"
    LATE = LATE
    REJECTED = REJECTED
    DEAD = DEAD


class Sorted(NamedTuple):
    """One event. ``entry``: its experiment, unless it is dead; ``kind`` and ``record``: for its log, when accepted.

    ``ledger``: name of the ledger that counts it, the same whenever the event comes and whatever becomes of it.
    """

    fate: Fate
    entry: Entry | None
    kind: bytes = b""
    record: bytes = b""
    reason: str = ""
    message: str = ""
    ledger: str = ""

    @property
    def slot(self) -> tuple[str, int]:
        """Where it is counted: name of the ledger and uid of the experiment, which must be known."""
        assert self.entry is not None
        return self.ledger, self.entry.experiment.uid

    def died(self, error: Rejected) -> Sorted:
        """The same event as a dead letter after all."""
        return _dead(error)


def sort(
    keeper: SnapshotKeeper, snapshot: Snapshot, body: bytes, headers: Mapping[str, str], now_ms: int
) -> Sorted:
    """Raises StoreUnavailable when our snapshot is too old to tell; then try again when it is newer."""
    try:
        arrived = decode(body, headers)
    except Poison as error:
        return _dead(error)
    return sort_arrived(keeper, snapshot, arrived, now_ms)


def sort_arrived(keeper: SnapshotKeeper, snapshot: Snapshot, arrived: Arrived, now_ms: int) -> Sorted:
    """As :func:`sort`, of an event that was read already."""
    try:
        entry, claims = join(keeper, snapshot, *arrived)
    except Rejected as error:
        return _dead(error)
    ledger = ledger_of(entry, claims, arrived.event)
    try:
        record = judge(entry, claims, arrived.event, now_ms)
    except Rejected as error:
        if error.reason in UNJOINED:
            return _dead(error)
        fate = Fate.LATE if error.reason == "LATE" else Fate.REJECTED
        return Sorted(fate, entry, reason=error.reason, message=str(error)[:MESSAGE_CHARS], ledger=ledger)
    return Sorted(Fate.ACCEPTED, entry, record.kind, record.pack(), ledger=ledger)


def fresh_enough(keeper: SnapshotKeeper) -> Snapshot:
    """The snapshot. Raises StoreUnavailable before anything was read."""
    snapshot = keeper.snapshot
    if snapshot is None:
        raise StoreUnavailable("no experiment has been read yet; try again in a second", reason="NOT_READY")
    return snapshot


def entries_of(events: Iterable[Sorted]) -> list[tuple[bytes, bytes]]:
    """Log entries that hold the accepted ones: one of each kind."""
    records: dict[bytes, list[bytes]] = {}
    for event in events:
        if event.fate is Fate.ACCEPTED:
            records.setdefault(event.kind, []).append(event.record)
    return [(kind, b"".join(each)) for kind, each in records.items()]


def counts_of(events: Iterable[Sorted]) -> dict[str, int]:
    """What to count of them at the edge (see ``server.store.fed``)."""
    counts = {RECEIVED: 0}
    for event in events:
        counts[RECEIVED] += 1
        if event.fate is not Fate.ACCEPTED:
            counts[event.fate.value] = counts.get(event.fate.value, 0) + 1
    return counts


def letter_of(
    source: str, event: Sorted, body: bytes, headers: Mapping[str, str], place: str, time_ms: int
) -> Letter:
    """A dead event as a letter; what is longer than any event may be is cut, and then it says so."""
    message = event.message
    if len(body) > MOST_BODY_BYTES:
        message = f"{message}; the letter holds its first {MOST_BODY_BYTES} bytes"
    few = dict(list(headers.items())[:_MOST_HEADERS])
    kept = {name[:_HEADER_CHARS]: value[:_HEADER_CHARS] for name, value in few.items()}
    return Letter(source, event.reason, message, body[:MOST_BODY_BYTES], kept, place, time_ms)


def refused(error: Rejected) -> Sorted:
    """An event that could not even be read, as a dead one."""
    return _dead(error)


def _dead(error: Rejected) -> Sorted:
    return Sorted(Fate.DEAD, None, reason=error.reason, message=str(error)[:MESSAGE_CHARS])

"""What sources of rewards brought, and their dead letters, inside one process."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from bandit.log import LogEntry
from server.store.base import Durability
from server.store.fed import (
    DEAD,
    DROPPED,
    MOST_LETTERS,
    RECEIVED,
    Burial,
    Fed,
    Feed,
    Letter,
    Move,
    SlotCounts,
    count_field,
    position_field,
    position_of,
    position_text,
    slots_of,
)
from server.store.memory_ledger import MemoryLedger


@dataclass(slots=True)
class _Letters:
    """Dead letters in order, and how many there ever were."""

    kept: list[Letter] = field(default_factory=list)
    fields: dict[str, str] = field(default_factory=dict)
    places: dict[tuple[str, str], None] = field(default_factory=dict)
    last: int = 0


class MemoryFed(MemoryLedger):
    """The part of a store in memory that holds what is known of sources."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        super().__init__(clock_ms)
        self._letters = _Letters()
        self._sources: dict[str, bytes] = {}

    def feed(self, feed: Feed, wanted: Durability | None = None) -> Fed:
        """See FeedStore."""
        with self._changed:
            kept = self._kept.get(feed.experiment)
            if kept is None or kept.uid != feed.uid:
                return Fed(False, gone=True)
            told = _step(kept.fed, feed.source, feed.moves, feed.counts)
            if told.taken:
                for kind, payload in feed.entries:
                    place, id_ = self._next_id()
                    entry = LogEntry(id_, bytes(kind), bytes(payload), source=feed.source.encode())
                    kept.log.append((place, entry))
                self._changed.notify_all()
            return told if wanted is None else told._replace(safe=Durability.MEMORY)

    def bury(self, burial: Burial) -> Fed:
        """See FeedStore."""
        with self._changed:
            box = self._letters
            letters = [
                letter
                for letter in burial.letters
                if not burial.once or (letter.source, letter.place) not in box.places
            ]
            passed = len(burial.letters) - len(letters)
            counts = {what: count - passed for what, count in burial.counts.items()}
            told = _step(box.fields, burial.source, burial.moves, counts)
            if told.taken:
                if burial.once:
                    box.places.update(dict.fromkeys((letter.source, letter.place) for letter in letters))
                    for old in list(box.places)[: max(len(box.places) - MOST_LETTERS, 0)]:
                        del box.places[old]
                for letter in letters:
                    box.last += 1
                    box.kept.append(replace(letter, id=f"{self._clock_ms()}-{box.last}"))
                dropped = max(len(box.kept) - MOST_LETTERS, 0)
                if dropped:
                    del box.kept[:dropped]
                    _add(box.fields, count_field("", DROPPED), dropped)
            return told

    def fed(self, experiment: str) -> dict[str, SlotCounts]:
        """See FeedStore."""
        with self._changed:
            kept = self._kept.get(experiment)
            return slots_of(kept.fed) if kept else {}

    def buried(self) -> dict[str, SlotCounts]:
        """See FeedStore."""
        with self._changed:
            return slots_of(self._letters.fields)

    def letters(self, after: str, limit: int) -> list[Letter]:
        """See FeedStore."""
        number = int(after.partition("-")[2]) if after else 0
        with self._changed:
            later = [each for each in self._letters.kept if int(each.id.partition("-")[2]) > number]
            return later[:limit]

    def unbury(self, letter: Letter) -> bool:
        """See FeedStore."""
        with self._changed:
            box = self._letters
            left = [each for each in box.kept if each.id != letter.id]
            if len(left) == len(box.kept):
                return False
            box.kept = left
            for what in (DEAD, RECEIVED):
                name = count_field(letter.source, what)
                if int(box.fields.get(name, "0")):
                    _add(box.fields, name, -1)
            return True

    def put_source(self, source: str, status: bytes) -> None:
        """See FeedStore."""
        with self._changed:
            self._sources[source] = bytes(status)

    def sources(self) -> dict[str, bytes]:
        """See FeedStore."""
        with self._changed:
            return dict(self._sources)


def _step(fields: dict[str, str], source: str, moves: Sequence[Move], counts: Mapping[str, int]) -> Fed:
    """Count and move, or say where the slot stands."""
    names = [position_field(source, move.after.partition) for move in moves]
    texts = [position_text(move.after) for move in moves]
    at = tuple(
        position_of(move.after.partition, fields.get(name, ""))
        for name, move in zip(names, moves, strict=True)
    )
    if any(move.before != stands for move, stands in zip(moves, at, strict=True)):
        return Fed(False, at=at)
    fields.update(zip(names, texts, strict=True))
    for what, count in counts.items():
        if count:
            _add(fields, count_field(source, what), count)
    return Fed(True)


def _add(fields: dict[str, str], name: str, count: int) -> None:
    fields[name] = str(int(fields.get(name, "0")) + count)

"""Delivers sorted events of one source to the slots they belong to, each exactly once as far as the source has order.

A slot is a ledger of an experiment, or that of the dead letters. What this process knows of how far each slot was
taken is only a guess that spares a look: the store compares it, and refuses with what is true.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, Protocol

import structlog

from bandit.errors import CorruptStored, Rejected
from bandit.ids import parse_ledger
from server.ingest.base import Received
from server.intake.sort import Sorted, counts_of, entries_of, letter_of
from server.store.fed import LOST, Burial, Fed, Feed, FeedStore, Letter, Move, Position, SlotCounts

log = structlog.get_logger(__name__)

MOST_TRIES = 100
_NOTHING = SlotCounts({}, {})
LETTERS = ("", 0)
"""The slot of the dead letters, where a ledger has its name and the uid of its experiment."""

Slot = tuple[str, int]


class Item(NamedTuple):
    """One event and what becomes of it."""

    received: Received
    event: Sorted


class LostWrites(Exception):
    """A slot stands before where it is known to have been: the store lost writes. Raised before anything is moved."""


class Names(Protocol):
    """Which ledgers there are, by name and uid of the experiment."""

    def __call__(self) -> Iterable[Slot]:
        """All of them now."""


@dataclass(slots=True)
class _Stand:
    """How far a slot was taken, by partition; ``born``: just before the first event that this process gave it."""

    at: dict[str, Position | None] = field(default_factory=dict)
    born: dict[str, Position] = field(default_factory=dict)


class Slots:
    """The slots of one source. Calls may raise StoreUnavailable; then call again with the same items.

    ``ordered``: see RewardSource. Not safe for several threads.
    """

    def __init__(self, store: FeedStore, source: str, names: Names, *, ordered: bool) -> None:
        self._store = store
        self._source = source
        self._names = names
        self._ordered = ordered
        self._stands: dict[Slot, _Stand] = {}
        self._unreadable: set[Slot] = set()
        self.skipped = 0

    def deliver(self, slot: Slot, items: Sequence[Item]) -> list[Item]:
        """Items of one slot, in the source's order. Returns those whose experiment is gone or unreadable.

        Raises LostWrites: then they are not delivered, and ``set_back`` tells from where all must be brought again.
        """
        try:
            return self._deliver(slot, items)
        except CorruptStored as error:
            if slot == LETTERS:
                raise
            # The others must not wait until somebody repairs it; these can be replayed then.
            return _died(items, Rejected(str(error), reason=error.reason))

    def _deliver(self, slot: Slot, items: Sequence[Item]) -> list[Item]:
        stand = self._stand(slot)
        for _ in range(MOST_TRIES):
            fresh = [item for item in items if not self._is_taken(stand, item.received.position)]
            if not fresh:
                self.skipped += len(items)
                return []
            moves = self._moves(stand, [item.received.position for item in fresh])
            told = self._write(slot, fresh, moves)
            if told.gone:
                self._stands.pop(slot, None)
                gone = Rejected(
                    f"experiments/{parse_ledger(slot[0])[0]} was deleted", reason="UNKNOWN_EXPERIMENT"
                )
                return _died(items, gone)
            if told.taken:
                self.skipped += len(items) - len(fresh)
                self._moved(stand, moves)
                return []
            self._compare(slot, moves, told.at)
            for move, at in zip(moves, told.at, strict=True):
                stand.at[move.after.partition] = at
        raise RuntimeError(
            f"{self._source}: {slot[0] or 'dead letters'} moved on {MOST_TRIES} times in between"
        )

    def advance(self, to: Mapping[str, Position]) -> None:
        """All up to these positions is safe everywhere: say so in the slots that had nothing of late, letters last.

        So where the letters stand, everything before was delivered; and a slot that stands before that lost writes.
        """
        if not self._ordered:
            return
        experiments = [slot for slot in self._stands if slot != LETTERS]
        for slot in [*experiments, LETTERS]:
            stand = self._stand(slot)
            moves = [
                Move(stand.at.get(partition), position)
                for partition, position in to.items()
                if (slot == LETTERS or stand.at.get(partition)) and not self._is_taken(stand, position)
            ]
            told = self._write(slot, [], moves) if moves else Fed(True)
            if told.taken:
                self._moved(stand, moves)
            elif not told.gone:
                return  # another reads the partition now, or writes were lost: that is looked at before long

    def lose(self, count: int) -> None:
        """The source itself dropped so many events before they were read."""
        self._store.bury(Burial(self._source, counts={LOST: count}))

    def recall(self, partition: str) -> list[Position]:
        """See ``base.Recall``; reads every slot anew. Nothing while it is not known that all before was delivered."""
        there = {LETTERS, *self._names()}
        found = self._stored(there)
        self._let_go(there)
        for slot, positions in found.items():
            if slot in self._stands:
                # Of other partitions we go on to know what we knew, or a loss there would pass unseen.
                self._stands[slot].at[partition] = positions.get(partition)
            elif positions:
                self._stands[slot] = _Stand(dict(positions))
        return self._positions(partition)

    def set_back(self) -> dict[str, list[Position]]:
        """Partitions of which a slot lost what it had taken, and from where each slot must be fed again; {} is well."""
        there = {LETTERS, *self._names()}
        now = self._stored(there & self._stands.keys())
        lost: set[str] = set()
        extra: dict[str, list[Position]] = {}
        for slot, stored in now.items():
            born = self._stands[slot].born
            for partition, known in self._stands[slot].at.items():
                at = stored.get(partition)
                if known is None or not self._is_behind(at, known):
                    continue
                lost.add(partition)
                log.warning(
                    "source_set_back",
                    source=self._source,
                    experiment=slot[0],
                    known=str(known),
                    stored=str(at),
                )
                if at is None and partition in born:
                    extra.setdefault(partition, []).append(born[partition])
        self._let_go(there)
        for slot, stored in now.items():
            self._stands[slot].at = dict(stored)
        return {
            partition: [*extra.get(partition, []), *found] if (found := self._positions(partition)) else []
            for partition in lost
        }

    def _positions(self, partition: str) -> list[Position]:
        if self._ordered and self._stand(LETTERS).at.get(partition) is None:
            return []
        stands = (stand.at.get(partition) for stand in self._stands.values())
        return [position for position in stands if position is not None]

    def _compare(self, slot: Slot, moves: Sequence[Move], at: Sequence[Position | None]) -> None:
        """Raises LostWrites when the slot stands before where we know that it was.

        To move on from there would hide the loss for ever: what was lost lies between the two.
        """
        for move, stands in zip(moves, at, strict=True):
            if move.before is not None and self._is_behind(stands, move.before):
                raise LostWrites(
                    f"{slot[0] or 'the dead letters'}: stood at {move.before}, stands at {stands}"
                )

    def _is_taken(self, stand: _Stand, position: Position) -> bool:
        if not self._ordered:
            return False
        at = stand.at.get(position.partition)
        return at is not None and at.epoch == position.epoch and position.offset <= at.offset

    def _is_behind(self, at: Position | None, known: Position) -> bool:
        return at is None or (at.epoch == known.epoch and at.offset < known.offset)

    def _moves(self, stand: _Stand, positions: Sequence[Position]) -> list[Move]:
        """Fenced without an order too: not to tell repeats then, but to notice what the store lost."""
        last: dict[str, Position] = {}
        for position in positions:
            before = None if self._ordered else stand.at.get(position.partition)
            last[position.partition] = further(last.get(position.partition, before), position)
        return [Move(stand.at.get(partition), position) for partition, position in last.items()]

    def _moved(self, stand: _Stand, moves: Sequence[Move]) -> None:
        for move in moves:
            partition = move.after.partition
            stand.at[partition] = further(stand.at.get(partition), move.after)

    def _write(self, slot: Slot, items: Sequence[Item], moves: Sequence[Move]) -> Fed:
        counts = counts_of(item.event for item in items)
        if slot == LETTERS:
            letters = [self._letter(item) for item in items]
            return self._store.bury(Burial(self._source, letters, counts, moves, once=not self._ordered))
        self._born(slot, items)
        entries = entries_of(item.event for item in items)
        return self._store.feed(Feed(*slot, self._source, entries, counts, moves))

    def _born(self, slot: Slot, items: Sequence[Item]) -> None:
        born = self._stands[slot].born
        for item in items:
            partition, epoch, offset = item.received.position
            born.setdefault(partition, Position(partition, epoch, offset - 1))

    def _letter(self, item: Item) -> Letter:
        received = item.received
        place = " ".join(map(str, received.position))
        return letter_of(self._source, item.event, received.body, received.headers, place, received.time_ms)

    def _stand(self, slot: Slot) -> _Stand:
        stand = self._stands.get(slot)
        if stand is None:
            stand = self._stands[slot] = _Stand(dict(self._read(slot)))
        return stand

    def _read(self, slot: Slot) -> dict[str, Position]:
        found = self._store.buried() if slot == LETTERS else self._store.fed(slot[0])
        return dict(found.get(self._source, _NOTHING).positions)

    def _stored(self, slots: Iterable[Slot]) -> dict[Slot, dict[str, Position]]:
        """What they have, read as a whole before anything is made of it; without those that cannot be read."""
        found: dict[Slot, dict[str, Position]] = {}
        for slot in slots:
            try:
                found[slot] = self._read(slot)
            except CorruptStored as error:
                if slot not in self._unreadable:
                    log.warning("slot_unreadable", source=self._source, experiment=slot[0], reason=str(error))
                self._unreadable.add(slot)
                continue
            self._unreadable.discard(slot)
        return found

    def _let_go(self, there: Iterable[Slot]) -> None:
        """Of experiments that were deleted nothing is known any more."""
        for slot in self._stands.keys() - set(there):
            del self._stands[slot]


def _died(items: Iterable[Item], error: Rejected) -> list[Item]:
    return [item._replace(event=item.event.died(error)) for item in items]


def further(one: Position | None, other: Position) -> Position:
    """The one with the higher offset; ``other`` when its epoch is another, for then it is the later incarnation."""
    if one is None or one.epoch != other.epoch:
        return other
    return max(one, other, key=lambda each: each.offset)

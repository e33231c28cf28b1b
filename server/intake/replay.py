"""Sends dead letters through the same sorting again; each that can be counted now is in its experiment's log, once.

A letter goes only after its event was appended. A crash in between sends it again, and its repeat is dropped by the
marks of the ledger.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field

from bandit.errors import CorruptStored
from server.clock import Clock
from server.intake.sort import Fate, Sorted, counts_of, entries_of, fresh_enough, sort
from server.snapshot import SnapshotKeeper
from server.store.fed import Feed, FeedStore, Letter

_AT_ONCE = 100


@dataclass(slots=True)
class Replayed:
    """What became of a page of letters; ``after``: id of the last one that was read, "" at the end of all."""

    accepted: int = 0
    refused: int = 0
    reasons: Counter[str] = field(default_factory=Counter)
    after: str = ""


def matching(store: FeedStore, after: str, limit: int, source: str, reason: str) -> tuple[list[Letter], str]:
    """Of the next ``limit`` letters those that match, and where to go on, "" at the end."""
    found: list[Letter] = []
    read = 0
    while read < limit:
        count = min(_AT_ONCE, limit - read)
        portion = store.letters(after, count)
        read += len(portion)
        found += [each for each in portion if _matches(each, source, reason)]
        if len(portion) < count:
            return found, ""
        after = portion[-1].id
    return found, after


def replay(store: FeedStore, keeper: SnapshotKeeper, clock: Clock, letters: Sequence[Letter]) -> Replayed:
    """Raises StoreUnavailable; then some may have been replayed, and all may be given again."""
    snapshot, now_ms = fresh_enough(keeper), clock.now_ms()
    told = Replayed()
    groups: dict[tuple[str, int, str], list[tuple[Letter, Sorted]]] = {}
    for letter in letters:
        event = sort(keeper, snapshot, letter.body, letter.headers, now_ms)
        if event.entry is None or event.fate is Fate.DEAD:
            told.reasons[event.reason] += 1
            continue
        slot = (*event.slot, letter.source)
        groups.setdefault(slot, []).append((letter, event))
    for (name, uid, source), pairs in groups.items():
        events = [event for _, event in pairs]
        try:
            fed = store.feed(Feed(name, uid, source, entries_of(events), counts_of(events)))
        except CorruptStored as error:
            told.reasons[error.reason] += len(pairs)
            continue
        if not fed.taken:
            told.reasons["UNKNOWN_EXPERIMENT"] += len(pairs)
            continue
        for letter, event in pairs:
            store.unbury(letter)
            told.accepted += event.fate is Fate.ACCEPTED
            told.refused += event.fate is not Fate.ACCEPTED
    return told


def _matches(letter: Letter, source: str, reason: str) -> bool:
    return source in ("", letter.source) and reason in ("", letter.reason)

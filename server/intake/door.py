"""Takes events of callers that wait for the answer: sorted, appended, counted, nothing buried: the caller is told."""

from __future__ import annotations

from collections.abc import Sequence

from bandit.errors import CorruptStored, Rejected
from bandit.ids import parse_ledger
from server.clock import Clock
from server.intake.codec import Arrived, Poison
from server.intake.senders import Senders
from server.intake.sort import Fate, Sorted, counts_of, entries_of, fresh_enough, refused, sort_arrived
from server.snapshot import SnapshotKeeper
from server.store.base import Durability
from server.store.fed import Burial, Feed, FeedStore

Slot = tuple[str, int]


class Taken(list[Sorted]):
    """What became of each event; ``safe``: how safe those in a log are, None when there are none."""

    safe: Durability | None = None


class Door:
    """One way in, counted as a source of this name. Safe for several threads.

    ``wanted``: how safe events are to be before their caller is answered.
    """

    def __init__(
        self,
        store: FeedStore,
        keeper: SnapshotKeeper,
        clock: Clock,
        source: str,
        wanted: Durability = Durability.MEMORY,
    ) -> None:
        self._wanted = wanted
        self._store = store
        self._keeper = keeper
        self._clock = clock
        self._senders = Senders(source)

    def take(self, arrived: Sequence[Arrived | Poison], sender: str = "") -> Taken:
        """What became of each; an accepted one is in the log when this returns. ``sender``: see ``senders``.

        Raises StoreUnavailable: then some may have been taken, and all may be sent again.
        """
        source = self._senders.source_of(sender)
        snapshot, now_ms = fresh_enough(self._keeper), self._clock.now_ms()
        events = [
            refused(each) if isinstance(each, Poison) else sort_arrived(self._keeper, snapshot, each, now_ms)
            for each in arrived
        ]
        slots: dict[Slot, list[int]] = {}
        for place, event in enumerate(events):
            if event.entry is not None and event.fate is not Fate.DEAD:
                slots.setdefault(event.slot, []).append(place)
        safe: list[Durability] = []
        for slot, places in slots.items():
            for place, error in self._feed(source, slot, [events[place] for place in places], places, safe):
                events[place] = events[place].died(error)
        # The caller keeps them, so they are no letters: to the accounts they are rejected.
        told = Taken(
            event._replace(fate=Fate.REJECTED) if event.fate is Fate.DEAD else event for event in events
        )
        told.safe = min(safe, default=None)
        nowhere = [told[place] for place, event in enumerate(events) if event.fate is Fate.DEAD]
        if nowhere:
            self._store.bury(Burial(source, counts=counts_of(nowhere)))
        return told

    def _feed(
        self,
        source: str,
        slot: Slot,
        events: Sequence[Sorted],
        places: Sequence[int],
        safe: list[Durability],
    ) -> list[tuple[int, Rejected]]:
        """Places of those that could not be taken, with why; how safe the others are goes to ``safe``."""
        feed = Feed(*slot, source, entries_of(events), counts_of(events))
        try:
            fed = self._store.feed(feed, self._wanted if feed.entries else None)
            if fed.taken:
                if fed.safe is not None:
                    safe.append(fed.safe)
                return []
            error = Rejected(
                f"experiments/{parse_ledger(slot[0])[0]} was deleted", reason="UNKNOWN_EXPERIMENT"
            )
        except CorruptStored as broken:
            error = Rejected(str(broken), reason=broken.reason)
        return [(place, error) for place in places]

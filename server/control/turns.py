"""How much of each log is folded in one turn of the learner, so that a hot log makes no other wait.

Turns go round: every log that has something is folded once, and of each at most so many bytes. What was read beyond
that stays here and is not read again. Order within a log is kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from bandit.log import LogEntry

PORTION_BYTES = 256 << 10
"""6,500 rewards: for so many another log waits in a turn, at most."""


class Logs(Protocol):
    """As much of a store as is read here."""

    def read(self, offsets: Mapping[str, str], count: int, block_ms: int) -> dict[str, list[LogEntry]]:
        """See LedgerStore."""


class Turns:
    """Entries that were read and not folded yet, by ledger. ``count``: most entries that are read of a log at once."""

    def __init__(self, store: Logs, count: int, portion_bytes: int = PORTION_BYTES) -> None:
        self._store = store
        self._count = count
        self._portion_bytes = portion_bytes
        self._left: dict[str, tuple[str, list[LogEntry]]] = {}
        self.more: set[str] = set()
        """Ledgers that may have more than their portion of the last turn."""

    def next(self, offsets: Mapping[str, str], block_ms: int) -> dict[str, Sequence[LogEntry]]:
        """What to fold now of the logs that were folded up to these offsets. Waits for the first, when there is none.

        What is left of a log counts only while it follows the offset: another writer may have taken it up since.
        """
        left = {
            ledger: entries for ledger, (after, entries) in self._left.items() if offsets.get(ledger) == after
        }
        self._left, self.more = {}, set()
        wanted = {ledger: offset for ledger, offset in offsets.items() if ledger not in left}
        found = self._store.read(wanted, self._count, 0 if left else block_ms) if wanted else {}
        portions: dict[str, Sequence[LogEntry]] = {}
        for ledger, entries in {**left, **found}.items():
            size = self._portion(entries)
            portions[ledger] = entries[:size]
            if size < len(entries):
                self._left[ledger] = entries[size - 1].id, entries[size:]
            if size < len(entries) or len(entries) >= self._count:
                self.more.add(ledger)
        return portions

    def following(self, ledger: str) -> LogEntry | None:
        """The entry after the portion of the last turn, as far as it was read."""
        left = self._left.get(ledger)
        return left[1][0] if left else None

    def _portion(self, entries: Sequence[LogEntry]) -> int:
        """How many of the first entries are a portion: one at least."""
        total = 0
        for index, entry in enumerate(entries):
            total += len(entry.payload)
            if total > self._portion_bytes:
                return max(index, 1)
        return len(entries)

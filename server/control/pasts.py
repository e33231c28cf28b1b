"""Notices that a store was set back, per experiment, and has the past put back; it says so in words and numbers."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import structlog

from bandit.errors import NotAllowed
from server.clock import Clock
from server.control.past import Past
from server.store.base import ControlStore, Fence, Stored

log = structlog.get_logger(__name__)

FOLDED_AGAIN, PUT_BACK, FROZEN = "folded again", "put back", "frozen"
WARNED_MS = 24 * 3600 * 1000


class Pasts:
    """The pasts of a learner's experiments.

    ``counted(action)`` is told of each set-back; ``accepted()`` is when an operator last accepted the store as it is,
    Unix ms: what was known before is forgotten then.
    """

    def __init__(
        self,
        store: ControlStore,
        clock: Clock,
        counted: Callable[[str], None],
        accepted: Callable[[], int] = lambda: 0,
    ) -> None:
        self._store = store
        self._clock = clock
        self._counted = counted
        self._accepted = accepted
        self._accepted_ms = accepted()
        self._pasts: dict[str, Past] = {}
        self._warnings: dict[str, tuple[int, str]] = {}

    def saw(self, name: str, stored: Stored) -> None:
        """A commit was seen, or made."""
        self._pasts.setdefault(name, Past(self._store)).saw(stored)

    def folded(self, name: str, sequences: Mapping[str, int]) -> None:
        """So many folds are written to its ledgers."""
        if (past := self._pasts.get(name)) is not None:
            past.sequences.update(sequences)

    def opened(self, name: str, stored: Stored, sequences: Mapping[str, int]) -> None:
        """A writer begins with so many folds: fewer than this learner wrote are folded again from the logs."""
        self.saw(name, stored)
        past = self._pasts[name]
        known = {ledger: past.sequences.get(ledger, 0) for ledger in sequences}
        lost = sum(max(known[ledger] - each, 0) for ledger, each in sequences.items())
        if lost:
            text = f"the store lost {lost} folds; what its log still has is folded again"
            before, now = sum(known.values()), sum(sequences.values())
            self._told(name, FOLDED_AGAIN, text, folds_before=before, folds_now=now)
        past.sequences = dict(sequences)

    def lost_by(self, name: str, order: tuple[int, int] | None) -> int:
        """How many commits the store lacks that has the experiment in this order."""
        if (accepted_ms := self._accepted()) != self._accepted_ms:
            self._accepted_ms = accepted_ms
            self._pasts.clear()
            self._warnings.clear()
        past = self._pasts.get(name)
        return past.lost_by(order) if past and order else 0

    def put_back(self, name: str, stored: Stored, fence: Fence) -> None:
        """Commit what the store lost. Raises NotAllowed when that cannot be: it is to be left alone then."""
        past = self._pasts[name]
        lost = past.lost_by((stored.experiment.uid, stored.generation))
        if not lost:
            return
        try:
            now = past.put_back(stored, fence)
        except NotAllowed as error:
            self._told(name, FROZEN, str(error), commits_lost=lost)
            raise
        text = f"the store lost {lost} commits, which were made once more"
        self._told(name, PUT_BACK, text, commits_lost=lost, generation=now.generation)

    def warnings(self, name: str) -> list[str]:
        """What to say in the experiment's status, for a day."""
        since_ms, text = self._warnings.get(name, (0, ""))
        return [text] if text and self._clock.now_ms() - since_ms < WARNED_MS else []

    def _told(self, name: str, action: str, text: str, **numbers: int) -> None:
        known = self._warnings.get(name, (0, ""))[1]
        self._warnings[name] = (self._clock.now_ms(), text)
        self._counted(action)
        if known != text:
            log.error("store_set_back", experiment=name, action=action, reason=text, **numbers)

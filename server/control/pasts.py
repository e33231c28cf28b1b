"""Notices that a store was set back, per experiment, and has the past put back; it says so in words and numbers.

What a learner saw is in its memory. One that only began knows by the disk of its machine which audit record each
experiment had when it was last served there: a rollback that the store has lost since is not undone by a restart.
Commits that moved shares by evidence alone have no record, and are made anew from the evidence.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

import structlog

from bandit.errors import NotAllowed
from bandit.log import START
from server.clock import Clock
from server.control.past import Past
from server.store.base import Fence, Store, Stored

log = structlog.get_logger(__name__)

FOLDED_AGAIN, PUT_BACK, FROZEN, TRIMMED = "folded again", "put back", "frozen", "trimmed"
WARNED_MS = 24 * 3600 * 1000


class Pasts:
    """The pasts of a learner's experiments.

    ``counted(action)`` is told of each set-back; ``accepted()`` is when an operator last accepted the store as it is,
    Unix ms: what was known before is forgotten then. ``kept``: experiments as a process of this machine served them
    last; a store that lost an audit record of one of them is another past, also for a learner that only began.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        counted: Callable[[str], None],
        accepted: Callable[[], int] = lambda: 0,
        kept: Iterable[Stored] = (),
    ) -> None:
        self._store = store
        self._clock = clock
        self._counted = counted
        self._accepted = accepted
        self._accepted_ms = accepted()
        self._pasts: dict[str, Past] = {}
        self._kept = {each.experiment.name: each for each in kept}
        self._warnings: dict[str, tuple[int, str]] = {}

    def saw(self, name: str, stored: Stored) -> None:
        """A commit was seen, or made."""
        self._pasts.setdefault(name, Past(self._store)).saw(stored)

    def folded(self, name: str, sequences: Mapping[str, int]) -> None:
        """So many folds are written to its ledgers."""
        if (past := self._pasts.get(name)) is not None:
            past.sequences.update(sequences)

    def opened(self, name: str, stored: Stored, sequences: Mapping[str, int]) -> None:
        """A writer begins with so many folds: fewer than this learner wrote are folded again from the logs.

        Raises NotAllowed when the store lost audit records that this machine served by.
        """
        self._compare(name, stored)
        self.saw(name, stored)
        past = self._pasts[name]
        known = {ledger: past.sequences.get(ledger, 0) for ledger in sequences}
        lost = sum(max(known[ledger] - each, 0) for ledger, each in sequences.items())
        if lost:
            text = f"the store lost {lost} folds; what its log still has is folded again"
            before, now = sum(known.values()), sum(sequences.values())
            self._told(name, FOLDED_AGAIN, text, folds_before=before, folds_now=now)
        past.sequences = dict(sequences)

    def reading_on(self, name: str, ledger: str, offset: str) -> None:
        """A log is about to be folded from behind this entry on, which our own trimming never takes.

        Without it somebody else trimmed the log, and may have taken what nobody had read: that is said and counted.
        """
        if offset == START or self._store.holds(ledger, [offset])[0]:
            return
        self._told(
            name,
            TRIMMED,
            f"somebody trimmed the log of {ledger} beyond {offset}, where it was read: rewards behind that are lost, "
            "and exposures are counted as lost; let nobody but banditd trim it",
        )

    def lost_by(self, name: str, order: tuple[int, int] | None) -> int:
        """How many commits the store lacks that has the experiment in this order."""
        if (accepted_ms := self._accepted()) != self._accepted_ms:
            self._accepted_ms = accepted_ms
            self._pasts.clear()
            self._kept.clear()
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

    def _compare(self, name: str, stored: Stored) -> None:
        before = self._kept.get(name)
        if before is None or before.experiment.uid != stored.experiment.uid or not before.audit_sequence:
            return
        if before.audit_sequence == stored.audit_sequence:
            there = stored.audit_hash
        else:
            found = self._store.audit(name, before.audit_sequence + 1, 1)
            there = found[0].hash if found and found[0].sequence == before.audit_sequence else ""
        if there == before.audit_hash:
            del self._kept[name]
            return
        error = NotAllowed(
            f"{name}: the store lacks audit record {before.audit_sequence}, which this machine served by; nothing is "
            "learnt from it; restore the store, or accept it as it is by `banditctl accept-store`",
            reason="ANOTHER_PAST",
            name=name,
        )
        self._told(
            name, FROZEN, str(error), audit_before=before.audit_sequence, audit_now=stored.audit_sequence
        )
        raise error

    def _told(self, name: str, action: str, text: str, **numbers: int) -> None:
        known = self._warnings.get(name, (0, ""))[1]
        self._warnings[name] = (self._clock.now_ms(), text)
        self._counted(action)
        if known != text:
            log.error("store_set_back", experiment=name, action=action, reason=text, **numbers)

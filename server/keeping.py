"""The writer of an experiment whose events are kept, so that those of one source can be taken back exactly.

What was counted cannot be subtracted: an honest reward may have come second to a poisoned one and been a conflict. So
a second ledger trails behind, folding the same log when entries are older than the retention; the log is trimmed only
behind that. To remove a source, its state is taken, every kept entry is folded onto it without the source, and the
ledger becomes what came out, in one fold. Until then it stands: nothing is folded, shares do not move. A writer that
dies on the way leaves what was; the next one sees by the number of removals that it is to be done.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import structlog

from bandit.errors import CorruptStored, Stale
from bandit.ids import trailing_name
from bandit.learn import Folding
from bandit.ledger import Ledger
from bandit.log import LogEntry
from bandit.seen import Seen
from server.control.turns import Turns
from server.difference import difference
from server.evidence import KeptEvents
from server.learner import Writer
from server.store.base import RewardCounts, Store, Stored, WriterState
from server.store.packed import split_offset

log = structlog.get_logger(__name__)

SLACK_MS = 60_000
"""Entries are kept so much longer than promised: who removes may rely on what was promised a moment ago."""
BATCH_MS = 30_000
"""The trailing ledger folds so much of the log at once, by the log's clock: pages are written once for many rewards."""
BATCH = 2000
"""Entries read at once; of them a turn folds a portion (``control.turns``), for others have their turns between."""
MOST_UNWRITTEN = 64
"""Periods that the trailing ledger opens before it writes them without entries; until then allocations are kept."""
TIDY_MS = 60_000
"""A replay looks for what is old once in so much of the log."""


def keeps(stored: Stored) -> bool:
    """Are events of the experiment kept?"""
    return bool(stored.experiment.spec.event_retention)


def open_keeping(store: Store, stored: Stored) -> Writer:
    """The writer of an experiment of one ledger. Raises CorruptStored as ``Writer.open``."""
    if keeps(stored):
        return Keeping.open(store, stored)
    writer = Writer.open(store, stored)
    trailing = trailing_name(writer.name)
    if store.written(trailing) is not None:
        store.forget(trailing, stored.experiment.uid)
    if writer.state.removals != stored.experiment.removals:
        log.warning("removal_given_up", experiment=writer.name, reason="its events are kept no longer")
        writer.state.removals = stored.experiment.removals
    return writer


class Keeping(Writer):
    """Writes the ledger as any writer does, and the trailing one behind it."""

    trims = False
    _replay: Replay | None = None

    def __init__(self, store: Store, stored: Stored, state: WriterState, ledger: str = "") -> None:
        super().__init__(store, stored, state, ledger)
        self.trailing = Trailing.take_up(store, stored, state)
        self.beside = [self.trailing]

    @property
    def reads(self) -> Mapping[str, str]:
        """See Evidence: nothing is to be read for it while it stands."""
        return {} if self.stands else self.offsets

    @property
    def stands(self) -> bool:
        """See Evidence."""
        return self.state.removals != self.stored.experiment.removals

    def sync(self, stored: Stored) -> None:
        """See Evidence."""
        super().sync(stored)
        for each in self.beside:
            each.sync(stored)

    def take(self, ledger: str, entries: Sequence[LogEntry]) -> Folding:
        """See Evidence."""
        return Folding() if self.stands else super().take(ledger, entries)

    def compact(self, now_ms: int) -> int:
        """See Evidence."""
        return 0 if self.stands else super().compact(now_ms)

    def tend(self) -> bool:
        """See Evidence. Raises CorruptStored when the kept log is not what was counted."""
        if not self.stands:
            self._replay = None
            return self.trailing.follow(self.state.offset)
        if self._replay is None or self._replay.stored.experiment.removals != self.stored.experiment.removals:
            self._replay = Replay.begin(self._store, self.stored)
            log.info("rebuild_begun", experiment=self.name, entries=self._replay.left)
        self._replay.sync(self.stored)
        if self._replay.go_on(self.state.offset):
            self._become(self._replay)
            self._replay = None
        return True

    @property
    def events(self) -> KeptEvents:
        """See Evidence."""
        since_ms = max(split_offset(self.trailing.state.offset)[0], self.stored.experiment.create_time_ms)
        events = KeptEvents(since_ms, self.state.removals)
        if not self.stands:
            return events
        if (replay := self._replay) is None:
            return events._replace(read=0, left=0)
        return events._replace(read=replay.read, left=max(replay.left - replay.read, 0))

    def _become(self, replay: Replay) -> None:
        """Write what came out in the place of what was, all or nothing."""
        before, after = self.state, replay.state
        if _received(before.counts) != _received(after.counts) or before.seen.exposed != after.seen.exposed:
            raise CorruptStored(
                f"{self.name}: {_received(before.counts)} rewards were counted, the events kept have "
                f"{_received(after.counts)}; the removal cannot be exact and is not done: restore the store, or take "
                "event_retention out of the spec to go on without it",
                reason="KEPT_LOG_TORN",
            )
        after.offset, after.removals = before.offset, self.stored.experiment.removals
        write = difference(self.stored.experiment.uid, before, after)
        unwritten = self._dirty & after.ledger.periods.keys()
        write.set_periods = {**write.set_periods, **{each: after.ledger.periods[each] for each in unwritten}}
        if not self._store.fold(self.ledger, write):
            raise Stale(
                f"{self.ledger}: another writer folded after sequence {before.sequence}",
                reason="NOT_THE_WRITER",
            )
        after.sequence = before.sequence + 1
        self.state, self.kept = after, max(each.last for each in after.ledger.periods.values())
        self._dirty.clear()
        self._gone.clear()
        self._accumulated = False
        log.info("rebuild_done", experiment=self.name, entries=replay.read, removals=after.removals)


class Trailing(Writer):
    """Writes the ledger of the time before the events that are kept."""

    leads = False

    def __init__(self, store: Store, stored: Stored, state: WriterState, ledger: str = "") -> None:
        super().__init__(store, stored, state, ledger)
        self._turns = Turns(store, BATCH)
        self._next_ms = 0

    @classmethod
    def take_up(cls, store: Store, stored: Stored, ahead: WriterState) -> Trailing:
        """What the last writer left; where events were not kept before, it begins with all that was counted so far.

        Raises CorruptStored when it is gone while a removal needs it.
        """
        experiment = stored.experiment
        ledger = trailing_name(experiment.name)
        state = store.load_writer(ledger)
        if state is None:
            if ahead.removals != experiment.removals:
                raise CorruptStored(
                    f"{ledger}: a source was removed but the ledger to begin from is gone; restore the store, or take "
                    "event_retention out of the spec to go on without the removal",
                    reason="LEDGER_GONE",
                )
            nothing = WriterState(
                0, ahead.offset, Ledger(experiment.epoch, ahead.ledger.layout), Seen(), RewardCounts()
            )
            store.fold(ledger, difference(experiment.uid, nothing, ahead))
            state = store.load_writer(ledger)
            if state is None:
                raise Stale(f"{ledger}: the experiment was deleted or made again", reason="NOT_THE_WRITER")
        return cls(store, stored, state, ledger)

    def follow(self, offset: str) -> bool:
        """Fold some entries too old to be kept, of those up to ``offset``; True when more of them may be there."""
        if len(self._dirty) >= MOST_UNWRITTEN:
            self.flush()
        retention_ms = int(self.stored.experiment.spec.event_retention * 1000)
        edge_ms = split_offset(offset)[0] - retention_ms - SLACK_MS
        if edge_ms < self._next_ms:
            return False
        entries = self._turns.next(self.offsets, 0).get(self.ledger, ())
        if not entries or entries[0].time_ms > edge_ms - BATCH_MS:
            self._next_ms = (entries[0].time_ms if entries else edge_ms) + BATCH_MS
            return False
        more = self.ledger in self._turns.more
        due = [entry for entry in entries if entry.time_ms <= edge_ms]
        following = self._turns.following(self.ledger)
        if len(due) == len(entries) and (more if following is None else following.time_ms == due[-1].time_ms):
            due = whole_ms(due)
        self.fold([entry._replace(reply=b"") for entry in due])
        self.compact(due[-1].time_ms)
        return more


class Replay(Writer):
    """Folds kept entries in memory, from where the trailing ledger is; writes nothing.

    ``left``: about so many entries there were to read when it began; ``read``: those read since.
    """

    turns: Turns
    left = 0
    read = 0

    @classmethod
    def begin(cls, store: Store, stored: Stored) -> Replay:
        """From what the store has of the trailing ledger."""
        ledger = trailing_name(stored.experiment.name)
        state = store.load_writer(ledger)
        if state is None:
            raise Stale(f"{ledger}: the experiment was deleted or made again", reason="NOT_THE_WRITER")
        replay = cls(store, stored, state, ledger)
        replay.turns = Turns(store, BATCH)
        replay.left = store.behind(ledger, state.offset)
        return replay

    def go_on(self, offset: str) -> bool:
        """Fold some of the entries up to ``offset``; True when they are all folded."""
        end = split_offset(offset)
        entries = self.turns.next(self.offsets, 0).get(self.ledger, ())
        wanted = [entry for entry in entries if split_offset(entry.id) <= end]
        if wanted:
            self.read += len(wanted)
            tidied_ms = self._housekept_ms
            self.fold(wanted)
            if self._housekept_ms != tidied_ms:
                self.compact(wanted[-1].time_ms)
        return not entries or split_offset(entries[-1].id) >= end

    def _write(self, folding: Folding, *, log_ms: int = 0) -> None:
        if log_ms - self._housekept_ms > TIDY_MS:
            self._expired(log_ms)
            self._housekept_ms = log_ms
        self._dirty.clear()
        self._gone.clear()
        self._accumulated = False


def whole_ms(entries: list[LogEntry]) -> list[LogEntry]:
    """Those of whose millisecond none is missing, where more of the last one may follow: all that are kept can then be
    told from all that are not by the time alone. All of them when they are of one millisecond."""
    return [entry for entry in entries if entry.time_ms < entries[-1].time_ms] or entries


def _received(counts: RewardCounts) -> int:
    """Rewards however they ended."""
    ends = (
        counts.applied,
        counts.duplicate,
        counts.conflict,
        counts.late,
        counts.rejected,
        counts.superseded,
    )
    return sum(ends)

"""The writers of an experiment whose log and ledger are split over several slots, read as one.

Each partition is folded by itself, with its own sequence as fence; nothing is written to two slots together, and every
crash between two writes leaves the same sums. The first partition leads: blocks are made of all partitions' sums and
written there with the accumulators, and its periods say what an allocation was. The others fold their own sums of a
block only ``LATER_MS`` afterwards, so that a slot of the first that lost its last writes finds the periods apart.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence

import structlog

from bandit.errors import CorruptStored, Stale
from bandit.ids import ledger_names
from bandit.learn import Folding
from bandit.ledger import FloatArray, Ledger, Period
from bandit.log import LogEntry
from bandit.partitions import covering, fit, merged, straddled
from server.evidence import Evidence
from server.keeping import open_keeping
from server.learner import TRIM_SLACK_MS, Writer
from server.store.base import RewardCounts, Store, Stored, WriterState

log = structlog.get_logger(__name__)

LATER_MS = TRIM_SLACK_MS
"""By the log's clock; a slot that lost more is folded to the blocks of the others, without their evidence."""


def open_writer(store: Store, stored: Stored) -> Evidence:
    """The writer of an experiment, or those of its partitions. Raises CorruptStored as ``Writer.open``, and Stale."""
    if stored.experiment.spec.partitions == 1:
        return open_keeping(store, stored)
    return Partitioned.open(store, stored)


class Partitioned(Evidence):
    """Writers of all partitions, the first one first. Not safe for several threads."""

    def __init__(self, store: Store, parts: Sequence[Writer]) -> None:
        self._store = store
        self.parts = tuple(parts)
        self.stored = parts[0].stored
        self._by_name = {part.ledger: part for part in parts}
        for part in parts:
            part.beside = [each for each in parts if each is not part]
        parts[0].young_ms = LATER_MS
        self._warnings: list[str] = []
        self._made: list[Period] = []
        self._later: deque[tuple[int, int, int]] = deque()
        self._took_up_ms: int | None = None
        self._align()
        first = parts[0].state.ledger
        self._merged = Ledger(first.epoch, first.layout)
        self._stale: set[int] | None = None

    @classmethod
    def open(cls, store: Store, stored: Stored) -> Partitioned:
        """Take up what the last writers left, and make ready what a create or a failover left out.

        A ledger that is missing is one that was never written while all allocations are there, which the first keeps
        for ten minutes; then it is gone. Raises CorruptStored, and Stale when an experiment that came later has a slot.
        """
        experiment = stored.experiment
        ledgers = ledger_names(experiment.name, experiment.spec.partitions)
        ready = [store.begin(ledger, experiment.uid) for ledger in ledgers[1:]]
        now = store.load(experiment.name)
        if not all(ready) or now is None or now.experiment.uid != experiment.uid:
            store.clear_partitions(experiment.name)  # what was just made may be nobody's
            raise Stale(f"{experiment.name}: it was deleted meanwhile", reason="NOT_THE_WRITER")
        parts = [Writer.open(store, stored, ledger) for ledger in ledgers]
        return cls(store, parts)

    @property
    def ledger_read(self) -> Ledger:
        """See Evidence; what changed since the last time is added up anew."""
        first = self.parts[0].state.ledger
        found = self._merged
        if self._stale is None:
            found.periods, self._stale = {}, set(first.periods)
        for number in self._stale:
            found.periods[number] = self._added(first.periods[number])
        self._stale.clear()
        found.epoch, found.layout = first.epoch, first.layout
        return found

    @property
    def folded_state(self) -> WriterState:
        """See Evidence."""
        return self.parts[0].state

    @property
    def counts(self) -> RewardCounts:
        """See Evidence."""
        return added_counts(part.state.counts for part in self.parts)

    @property
    def exposures_lost(self) -> int:
        """See Evidence."""
        return sum(part.state.exposures_lost for part in self.parts)

    @property
    def offsets(self) -> Mapping[str, str]:
        """See Evidence."""
        return {part.ledger: part.state.offset for part in self.parts}

    @property
    def sequences(self) -> Mapping[str, int]:
        """See Evidence."""
        return {part.ledger: part.state.sequence for part in self.parts}

    def sync(self, stored: Stored) -> None:
        """See Evidence."""
        first = self.parts[0].state.ledger
        before = set(first.periods)
        oldest = min(part.newest for part in self.parts)
        if stored.allocation.number > oldest:
            allocations = self._store.allocations(self.name, oldest)
            for part in self.parts:
                part.opened(allocations, stored)
        for part in self.parts:
            part.stored = stored
        self.stored = stored
        if before:
            before.discard(newest := max(before))
            self._touch({newest})  # it was closed
        self._touch(first.periods.keys() - before)

    def knows(self, entries: Sequence[LogEntry]) -> bool:
        """See Evidence; all partitions have the periods of the same allocations."""
        return self.parts[0].knows(entries)

    def take(self, ledger: str, entries: Sequence[LogEntry]) -> Folding:
        """See Evidence."""
        folding = self._by_name[ledger].fold(entries)
        numbers = sorted(self.parts[0].state.ledger.periods)
        self._touch({covering(numbers, number) for number in folding.periods})
        return folding

    def flush(self) -> None:
        """See Evidence."""
        for part in self.parts:
            part.flush()

    def told(self) -> Mapping[str, tuple[int, int]]:
        """See Evidence."""
        return {
            part.ledger: (
                sum(int(period.cells.exposures.sum()) for period in part.state.ledger.current()),
                part.state.counts.applied,
            )
            for part in self.parts
        }

    def warnings(self) -> list[str]:
        """See Evidence."""
        return self._warnings

    def compact(self, now_ms: int) -> int:
        """See Evidence. Then partitions fold their own sums of blocks that are old enough."""
        if self._took_up_ms is None:
            # How old the blocks are that were found is not known: old enough only so long after now.
            self._took_up_ms = now_ms
            blocks = [each for each in self.parts[0].state.ledger.periods.values() if each.is_block]
            self._later.extend((now_ms + LATER_MS, block.number, block.last) for block in blocks)
        folded = super().compact(now_ms)
        self._follow(now_ms)
        return folded

    def _follow(self, now_ms: int) -> None:
        due: dict[int, int] = {}
        while self._later and self._later[0][0] <= now_ms:
            _, number, last = self._later.popleft()
            due[number] = last
        for part in self.parts[1:] if due else ():
            for number, last in sorted(due.items()):
                group = [each.number for each in _within(part.state.ledger, number, last)]
                if len(group) > 1:
                    part.fold_group(group)
            part.flush()

    def _fold_group(self, group: Sequence[int], facts: FloatArray | None, units: FloatArray | None) -> int:
        first = self.parts[0]
        first.fold_group(group, facts, units, accumulated=True)
        self._made.append(first.state.ledger.periods[group[0]])
        for number in group:
            self._merged.periods.pop(number, None)
        self._touch({group[0]})
        return len(group)

    def _write_blocks(self, now_ms: int) -> None:
        self.parts[0].flush()
        self._later.extend((now_ms + LATER_MS, block.number, block.last) for block in self._made)
        self._made.clear()

    def _touch(self, numbers: Iterable[int]) -> None:
        if self._stale is not None:
            self._stale |= set(numbers)

    def _added(self, own: Period) -> Period:
        others = (_within(part.state.ledger, own.number, own.last) for part in self.parts[1:])
        return merged(own, (period for those in others for period in those))

    def _align(self) -> None:
        """Make the partitions' periods fit: slots that lost writes stand elsewhere than the others."""
        first, *others = self.parts
        groups = straddled(first.state.ledger, (part.state.ledger for part in others))
        for group in groups:
            periods = [first.state.ledger.periods[number] for number in group]
            if any(each.end_ms == 0 or each.epoch != periods[0].epoch for each in periods):
                raise CorruptStored(
                    f"{first.ledger}: its partitions are of different pasts, periods {group[0]} to {group[-1]} are one "
                    "in some and open in another; restore the store, or delete and create the experiment again",
                    reason="LEDGERS_APART",
                )
            first.fold_group(group)
        if groups:
            self._warn(
                f"the store lost more than {LATER_MS // 60_000} minutes of partition 0; periods were folded again "
                "without their evidence for guardrails and effects",
                periods=sum(map(len, groups)),
            )
        for part in others:
            fitted = fit(first.state.ledger, part.state.ledger)
            part.changed(fitted.changed, fitted.gone)
            if fitted.moved:
                self._warn(
                    f"{fitted.moved} decisions of {part.ledger} are of allocations that the store lost; they count "
                    "with the newest that it has",
                    decisions=fitted.moved,
                )

    def _warn(self, text: str, **numbers: int) -> None:
        self._warnings.append(text)
        log.error("partitions_apart", experiment=self.name, reason=text, **numbers)


def _within(ledger: Ledger, number: int, last: int) -> list[Period]:
    """Periods of a span, in order."""
    if number == last:
        found = ledger.periods.get(number)
        return [] if found is None else [found]
    return [ledger.periods[each] for each in sorted(ledger.periods) if number <= each <= last]


def added_counts(parts: Iterable[RewardCounts]) -> RewardCounts:
    """Counts of several logs together, by source too."""
    total = RewardCounts()
    for part in parts:
        _add(total, part)
        for source, counts in part.sources.items():
            _add(total.sources.setdefault(source, RewardCounts()), counts)
    return total


def _add(to: RewardCounts, more: RewardCounts) -> None:
    to.applied += more.applied
    to.duplicate += more.duplicate
    to.conflict += more.conflict
    to.late += more.late
    to.rejected += more.rejected
    to.superseded += more.superseded

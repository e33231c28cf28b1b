"""Brings journaled decisions into the log of their experiment, in order, until the store has them; it counts nothing.

A batch that may have been taken is sent again: the log knows up to which number it has an issuer's decisions, takes
none twice and none out of order. One call to the store holds at most one entry of an experiment, so an entry that
failed can never be overtaken by the next. When a failover lost what the log had taken, that number went back too, and
what is missing is sent from the segments put aside.
"""

from __future__ import annotations

import random
import threading
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import structlog

from bandit.errors import StoreUnavailable
from server.clock import Clock
from server.journal.again import ends_of, entries_from
from server.journal.frames import Frame, Payload, payloads, scan
from server.journal.journal import Journal
from server.journal.segments import Folder, Segment, orphans
from server.store.base import LedgerStore, Shipment

log = structlog.get_logger(__name__)

INTERVAL_S = 0.03
ADOPT_EVERY_S = 5.0
CHECK_EVERY_S = 5.0
CHECKED_SEGMENTS = 8  # of a dead process: a quarter of a million decisions, one by one
BACKOFF_S = 0.05
BACKOFF_CAP_S = 2.0
_uniform = random.SystemRandom().random

Places = Callable[[], list[tuple[Segment, int]]]
"""Segments to look for what was shipped before, and how far each is written."""


class Names(Protocol):
    """Which ledger counts an issuer's decisions of an experiment; see ``server.snapshot``."""

    def ledger_of(self, uid: int, issuer: int, since_s: float) -> str | None:
        """The ledger's name; "" when the experiment is gone; None while nothing read after ``since_s`` can tell."""


@dataclass(slots=True)
class ShipCounts:
    """Decisions: in the log; dropped, as their experiment was deleted; sent once more, as the log had lost them.

    Gaps of torn bytes. Folders adopted.
    """

    shipped: int = 0
    dropped: int = 0
    torn: int = 0
    adopted: int = 0
    again: int = 0


class Shipper:
    """One thread that ships the own journal, and those that dead processes left under the same root."""

    def __init__(
        self,
        journal: Journal,
        store: LedgerStore,
        names: Names,
        clock: Clock,
        *,
        interval_s: float = INTERVAL_S,
        uniform: Callable[[], float] = _uniform,
    ) -> None:
        self.counts = ShipCounts()
        self.failing_since_s: float | None = None
        self._journal = journal
        self._root = journal.path.parent
        self._store = store
        self._names = names
        self._clock = clock
        self._interval_s = interval_s
        self._uniform = uniform
        self._asked: dict[int, float] = {}
        self._adopted_s = self._checked_s = float("-inf")
        self._sent: dict[int, tuple[str, int]] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shipper", daemon=True)

    def start(self) -> None:
        """Begin to ship."""
        self._thread.start()

    def stop(self, timeout_s: float) -> bool:
        """Ship what is left, for at most so long. True when all is in the log."""
        self._stop.set()
        deadline = self._clock.monotonic_s() + timeout_s
        self._thread.join(timeout_s)
        while not self._thread.is_alive():
            with suppress(StoreUnavailable):
                self._ship_own()
                if self._journal.unshipped() is None:
                    return True
            left_s = deadline - self._clock.monotonic_s()
            if left_s <= 0:
                break
            self._clock.sleep(min(self._interval_s, left_s))
        return False

    def step(self) -> int:
        """One turn: ship what is there; adopt now and then. Returns decisions shipped. Raises StoreUnavailable."""
        shipped = self._ship_own()
        now = self._clock.monotonic_s()
        if now - self._adopted_s >= ADOPT_EVERY_S:
            self._adopted_s = now
            shipped += self._adopt()
        if now - self._checked_s >= CHECK_EVERY_S:
            self._checked_s = now
            self._check()
        return shipped

    def _run(self) -> None:
        failures = 0
        while not self._stop.is_set():
            try:
                self.step()
                failures, self.failing_since_s = 0, None
                pause = self._interval_s
            except Exception as error:  # a dead thread in a living process would lose decisions unseen
                pause = self._uniform() * min(BACKOFF_CAP_S, BACKOFF_S * 2 ** min(failures, 10))
                failures += 1
                if self.failing_since_s is None:
                    self.failing_since_s = self._clock.monotonic_s()
                    expected = isinstance(error, StoreUnavailable)
                    log.warning("exposures_waiting", reason=str(error), exc_info=not expected)
            self._stop.wait(pause)

    def _ship_own(self) -> int:
        shipped = 0
        while (found := self._journal.unshipped()) is not None:
            segment, written = found
            done = self._ship(segment, written, self._journal.aside)
            if done is None:
                break
            shipped += done
        return shipped

    def _adopt(self) -> int:
        shipped = 0
        for path in orphans(self._root, self._journal.path):
            folder = Folder.adopt(path)
            if folder is None:
                continue
            try:
                done = self._empty(folder)
            except BaseException:
                folder.release()
                raise
            if done is None:
                folder.release()
                continue
            folder.remove()
            self.counts.adopted += 1
            log.info("journal_adopted", issuer=path.name, decisions=done)
            shipped += done
        return shipped

    def _empty(self, folder: Folder) -> int | None:
        """Ship all of a dead process's segments and delete them; None when an experiment is not known yet."""
        segments: list[Segment] = []
        for path in folder.segments():
            segment = Segment.open(path)
            if segment is None:
                path.unlink()
            else:
                segments.append(segment)
        places = [(segment, len(segment.map)) for segment in segments]
        shipped = 0
        try:
            for segment, written in places:
                done = self._ship(segment, written, lambda: places)
                if done is None:
                    return None
                shipped += done
            self._check_left(places)
        finally:
            for segment in segments:
                segment.close()
        for segment in segments:
            segment.path.unlink()
        return shipped

    def _check_left(self, places: list[tuple[Segment, int]]) -> None:
        """Has the log still what a dead process shipped last? Its folder is the only place that has it too."""
        newest = places[-CHECKED_SEGMENTS:]
        for (issuer, uid), end in ends_of(newest).items():
            name = self._names.ledger_of(uid, issuer, float("-inf"))
            at = self._store.shipped([name], issuer)[name] if name else end
            if name and at < end:
                lost = entries_from(newest, issuer, uid, at)
                self._send_again(lost[-1], at, name, lambda: newest)

    def _ship(self, segment: Segment, written: int, places: Places) -> int | None:
        """Ship a segment's frames up to ``written``. None: nothing shipped, an experiment is not known yet."""
        with memoryview(segment.map)[:written] as view:
            frames, torn = scan(view, segment.shipped)
        named = self._named(frames, segment.issuer)
        if named is None:
            return None
        shipped = self._append(list(payloads(frames, segment.issuer)), named, places)
        segment.shipped = written
        self.counts.torn += torn
        return shipped

    def _named(self, frames: Iterable[Frame], issuer: int) -> dict[int, str] | None:
        named: dict[int, str] = {}
        for uid in {frame.uid for frame in frames}:
            since = self._asked.setdefault(uid, self._clock.monotonic_s())
            name = self._names.ledger_of(uid, issuer, since)
            if name is None:
                return None
            del self._asked[uid]
            named[uid] = name
        return named

    def _append(self, entries: Iterable[Payload], named: dict[int, str], places: Places) -> int:
        """Append entries round by round, the n-th of each experiment in the n-th call."""
        queues: dict[int, deque[Payload]] = {}
        dropped = shipped = 0
        for entry in entries:
            if named[entry.uid]:
                queues.setdefault(entry.uid, deque()).append(entry)
            else:
                dropped += entry.decisions
        while queues:
            turn = [queue[0] for queue in queues.values()]
            for entry, at in zip(turn, self._send(turn, named, places), strict=True):
                queues[entry.uid].popleft()
                if at is None:
                    dropped += entry.decisions
                else:
                    shipped += entry.decisions
            queues = {uid: queue for uid, queue in queues.items() if queue}
        self.counts.dropped += dropped
        self.counts.shipped += shipped
        return shipped

    def _send(self, turn: list[Payload], named: dict[int, str], places: Places) -> list[int | None]:
        """Send one entry of each experiment; before one whose predecessors the log has lost, those once more."""
        ends = self._store.ship([_shipment(entry, named[entry.uid]) for entry in turn])
        for place, (entry, at) in enumerate(zip(turn, ends, strict=True)):
            if at is not None and at < entry.first:
                ends[place] = self._send_again(entry, at, named[entry.uid], places)
            if (at := ends[place]) is not None and entry.issuer == self._journal.issuer:
                self._sent[entry.uid] = (named[entry.uid], at)
        return ends

    def _send_again(self, entry: Payload, at: int, name: str, places: Places) -> int | None:
        """The log has an issuer's exposures up to ``at`` only: send from there on to the end of the entry."""
        before = [
            each for each in entries_from(places(), entry.issuer, entry.uid, at) if each.first < entry.first
        ]
        log.warning(
            "exposures_shipped_again",
            experiment=name,
            issuer=entry.issuer,
            log_has=at,
            sent_before=entry.first,
            kept_from=before[0].first if before else entry.first,
        )
        end = at
        for each in (*before, entry):
            if each.following <= end:
                continue
            # A number that nobody has any more is a gap, which the fold counts as lost.
            (taken,) = self._store.ship([_shipment(each, name, gap=True)])
            if taken is None:
                return None
            end = taken
            self.counts.again += each.decisions
        return end

    def _check(self) -> None:
        """Has the log still all that it took of us? It is asked now and then: with no traffic no gap would show."""
        sent = dict(self._sent)
        if not sent:
            return
        found = self._store.shipped([name for name, _ in sent.values()], self._journal.issuer)
        for uid, (name, ours) in sent.items():
            at = found[name]
            if at >= ours:
                continue
            entries = [
                each
                for each in entries_from(self._journal.aside(), self._journal.issuer, uid, at)
                if each.first < ours
            ]
            if not entries or self._send_again(entries[-1], at, name, self._journal.aside) is None:
                del self._sent[uid]  # the experiment is gone, or nothing is kept of it


def _shipment(entry: Payload, name: str, *, gap: bool = False) -> Shipment:
    return Shipment(name, entry.uid, entry.issuer, entry.first, entry.following, entry.payload, gap)

"""The ledger half of the store in memory: logs, folds and replies of each experiment."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

from bandit.log import EXPOSURES, Append, LogEntry
from bandit.rollout.audit import GENESIS
from server.store.base import Durability, Fence, FoldWrite, Outcome, Shipment, WriterState, Written
from server.store.keys import REPLY_TTL_S, Keys
from server.store.packed import split_offset
from server.store.writes import FoldCall, Parts, assemble, fold_call, written_of


@dataclass(slots=True)
class Book:
    """The ledger of an experiment, packed."""

    sequence: int = 0
    writer: bytes = b""
    periods: dict[bytes, bytes] = field(default_factory=dict)
    pages: dict[bytes, bytes] = field(default_factory=dict)
    exposed: dict[bytes, bytes] = field(default_factory=dict)
    foreign: dict[str, list[bytes]] = field(default_factory=dict)
    totals: dict[str, int] = field(default_factory=dict)
    folded: bytes | None = None

    def take(self, call: FoldCall) -> None:
        """Change what a fold changes."""
        self.sequence = call.expected_sequence + 1
        self.writer = call.writer
        for number, period in call.set_periods:
            self.periods[b"%d" % number] = period
        for number in call.drop_periods:
            self.periods.pop(b"%d" % number, None)
        self.pages.update(call.set_pages)
        for key in call.drop_pages:
            self.pages.pop(key, None)
        self.exposed.update((b"%d" % issuer, b"%d" % following) for issuer, following in call.exposed)
        for bucket in call.drop_buckets:
            self.foreign.pop(bucket, None)
            self.totals.pop(bucket, None)
        for bucket, chunk, count in call.chunks:
            self.foreign.setdefault(bucket, []).append(chunk)
            self.totals[bucket] = self.totals.get(bucket, 0) + count
        if call.folded:
            self.folded = call.folded

    def parts(self) -> Parts:
        """All of it."""
        foreign = {
            bucket.encode(): (b"%d" % self.totals[bucket], chunks) for bucket, chunks in self.foreign.items()
        }
        return Parts(self.writer, self.periods, self.pages, self.exposed, foreign, self.folded)


@dataclass(slots=True)
class Kept:
    """One experiment and all it has, or one of its further partitions, which has no documents."""

    uid: int
    generation: int = 0
    experiment: bytes = b""
    allocation: bytes = b""
    allocation_number: int = 0
    allocations: dict[int, bytes] = field(default_factory=dict)
    audit: list[bytes] = field(default_factory=list)
    audit_hash: str = GENESIS
    requests: dict[bytes, tuple[Outcome, int]] = field(default_factory=dict)
    fence: int = 0
    lease: tuple[Fence, int] | None = None
    status: bytes | None = None
    report: bytes | None = None
    log: list[tuple[tuple[int, int], LogEntry]] = field(default_factory=list)
    book: Book = field(default_factory=Book)
    base: Book = field(default_factory=Book)
    replies: dict[bytes, tuple[int, deque[bytes]]] = field(default_factory=dict)
    fed: dict[str, str] = field(default_factory=dict)
    shipped: dict[int, int] = field(default_factory=dict)


class MemoryLedger:
    """The part of a store in memory that holds logs and ledgers."""

    def __init__(self, clock_ms: Callable[[], int]) -> None:
        self._clock_ms = clock_ms
        self._changed = threading.Condition()  # its lock may be taken again by who has it
        self._kept: dict[str, Kept] = {}
        self._last_id = (0, 0)
        self._keys = Keys()

    def append(self, entries: Sequence[Append]) -> list[str]:
        """See LedgerStore."""
        if any(not entry.kind for entry in entries):
            raise ValueError("an entry has no kind")
        with self._changed:
            ids: list[str] = []
            for entry in entries:
                kept = self._kept.get(entry.experiment)
                if kept is None:
                    ids.append("")
                    continue
                place, id_ = self._next_id()
                made = LogEntry(
                    id_, bytes(entry.kind), bytes(entry.payload), entry.reply, entry.source, entry.uid
                )
                kept.log.append((place, made))
                ids.append(id_)
            self._changed.notify_all()
            return ids

    def append_kept(self, entries: Sequence[Append], wanted: Durability) -> tuple[list[str], Durability]:
        """See LedgerStore."""
        return self.append(entries), Durability.MEMORY

    def holds(self, name: str, ids: Sequence[str]) -> list[bool]:
        """See LedgerStore."""
        with self._changed:
            kept = self._kept.get(name)
            there = {entry.id for _, entry in kept.log} if kept else set()
            return [id_ in there for id_ in ids]

    def ship(self, entries: Sequence[Shipment]) -> list[int | None]:
        """See LedgerStore."""
        with self._changed:
            return [self._ship(each) for each in entries]

    def shipped(self, names: Sequence[str], issuer: int) -> dict[str, int]:
        """See LedgerStore."""
        with self._changed:
            return {
                name: kept.shipped.get(issuer, 0) if (kept := self._kept.get(name)) else 0 for name in names
            }

    def read(self, offsets: Mapping[str, str], count: int, block_ms: int) -> dict[str, list[LogEntry]]:
        """See LedgerStore."""
        after = {name: split_offset(offset) for name, offset in offsets.items()}
        deadline = time.monotonic() + block_ms / 1000
        with self._changed:
            while True:
                found: dict[str, list[LogEntry]] = {}
                for name, offset in after.items():
                    kept = self._kept.get(name.removesuffix("~"))
                    entries = [entry for place, entry in kept.log if place > offset] if kept else []
                    if entries:
                        found[name] = entries[:count]
                left_s = deadline - time.monotonic()
                if found or left_s <= 0:
                    return found
                self._changed.wait(left_s)

    def behind(self, name: str, offset: str) -> int:
        """See LedgerStore."""
        after = split_offset(offset)
        with self._changed:
            kept = self._kept.get(name.removesuffix("~"))
            return sum(place > after for place, _ in kept.log) if kept else 0

    def begin(self, ledger: str, uid: int) -> bool:
        """See LedgerStore."""
        with self._changed:
            kept = self._kept.get(ledger)
            if kept is None or kept.uid < uid:
                self._kept[ledger] = Kept(uid)
            return self._kept[ledger].uid == uid

    def load_writer(self, name: str) -> WriterState | None:
        """See LedgerStore."""
        with self._changed:
            _, book = self._book(name)
            return assemble(self._keys.of(name), book.parts()) if book.sequence else None

    def written(self, name: str) -> Written | None:
        """See LedgerStore."""
        with self._changed:
            _, book = self._book(name)
            return written_of(self._keys.of(name), book.writer) if book.sequence else None

    def forget(self, name: str, uid: int) -> None:
        """See LedgerStore."""
        with self._changed:
            kept, _ = self._book(name)
            if kept is not None and kept.uid == uid and name.endswith("~"):
                kept.base = Book()

    def fold(self, name: str, write: FoldWrite) -> bool:
        """See LedgerStore."""
        call = fold_call(write)
        with self._changed:
            kept, book = self._book(name)
            if kept is None or kept.uid != write.uid or book.sequence != write.expected_sequence:
                return False
            book.take(call)
            for number in [each for each in kept.allocations if each <= call.drop_allocations]:
                del kept.allocations[number]
            if call.keep_from:
                first = split_offset(call.keep_from)
                kept.log = [each for each in kept.log if each[0] >= first]
            now_ms = self._clock_ms()
            kept.replies = {name: each for name, each in kept.replies.items() if each[0] > now_ms}
            for reply, outcomes in call.replies:
                queue = kept.replies[reply][1] if reply in kept.replies else deque()
                queue.append(outcomes)
                kept.replies[reply] = (now_ms + REPLY_TTL_S * 1000, queue)
            self._changed.notify_all()
            return True

    def await_reply(self, name: str, reply: bytes, timeout_s: float) -> bytes | None:
        """See LedgerStore."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while True:
                kept = self._kept.get(name)
                until_ms, queue = (kept.replies.get(reply) if kept else None) or (0, None)
                if kept is not None and queue and until_ms > self._clock_ms():
                    outcomes = queue.popleft()
                    if not queue:
                        del kept.replies[reply]
                    return outcomes
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return None
                self._changed.wait(left_s)

    def _book(self, name: str) -> tuple[Kept | None, Book]:
        """Whose ledger it is, and the ledger; an empty one that nobody has where there is none."""
        kept = self._kept.get(name.removesuffix("~"))
        return kept, (Book() if kept is None else kept.base if name.endswith("~") else kept.book)

    def _ship(self, sent: Shipment) -> int | None:
        kept = self._kept.get(sent.experiment)
        if kept is None or kept.uid != sent.uid:
            return None
        at = kept.shipped.get(sent.issuer, 0)
        if at >= sent.following or (at < sent.first and not sent.gap):
            return at
        place, id_ = self._next_id()
        kept.log.append((place, LogEntry(id_, EXPOSURES, bytes(sent.payload))))
        kept.shipped[sent.issuer] = sent.following
        self._changed.notify_all()
        return sent.following

    def _next_id(self) -> tuple[tuple[int, int], str]:
        """The next place in the log, and its id."""
        ms, count = self._last_id
        now_ms = self._clock_ms()
        self._last_id = (now_ms, 0) if now_ms > ms else (ms, count + 1)
        return self._last_id, f"{self._last_id[0]}-{self._last_id[1]}"

    def _held(self, kept: Kept) -> Fence | None:
        if kept.lease is None or kept.lease[1] <= self._clock_ms():
            return None
        return kept.lease[0]

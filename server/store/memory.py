"""The store inside one process, for tests, rehearsals and examples: keeps every promise but durability.

What it holds is packed and checked as on a server, so nothing is shared with the caller and nothing is taken that
a server would refuse.
"""

from __future__ import annotations

import secrets
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence

from bandit.errors import CorruptStored, Overloaded
from bandit.ids import ledger_name, parse_ledger
from bandit.rollout.audit import AuditRecord
from bandit.rollout.state import Allocation
from bandit.spec.model import MAX_PARTITIONS
from bandit.token import KeyRing
from server.store import codec
from server.store.base import Commit, Durability, Fence, Outcome, Request, Stored, Subscription
from server.store.findings import Finding
from server.store.keys import REQUEST_TTL_MS, request_digest
from server.store.memory_fed import MemoryFed
from server.store.memory_ledger import Kept
from server.store.refusals import HIGHEST_NUMBER, KEY_BYTES, check_lease, deletion_refusal, refusal


class MemoryStore(MemoryFed):
    """A Store in memory. Safe for several threads. ``clock_ms``: Unix milliseconds; leases and ages go by it."""

    def __init__(self, clock_ms: Callable[[], int] | None = None) -> None:
        super().__init__(clock_ms or (lambda: time.time_ns() // 1_000_000))
        self._version = 0
        self._numbers = {"experiment": 0, "issuer": 0}
        self._ring: KeyRing | None = None
        self._alive_until_ms = 0
        self._last_fence = 0
        self._listeners: list[_Listener] = []
        self._past: dict[str, list[bytes]] = {}
        self._deletions: dict[str, tuple[str, int]] = {}

    def version(self) -> int:
        """See ControlStore."""
        with self._changed:
            return self._version

    def names(self) -> list[str]:
        """See ControlStore."""
        with self._changed:
            return sorted(self._experiments())

    def orders(self) -> dict[str, tuple[int, int]]:
        """See ControlStore."""
        with self._changed:
            return {name: (kept.uid, kept.generation) for name, kept in self._experiments().items()}

    def load(self, name: str) -> Stored | None:
        """See ControlStore."""
        with self._changed:
            kept = self._kept.get(name)
            if kept is None:
                return None
            return Stored(
                codec.load_experiment(name, kept.experiment),
                codec.load_allocation(name, kept.allocation),
                kept.generation,
                len(kept.audit),
                kept.audit_hash,
            )

    def load_many(self, names: Sequence[str]) -> dict[str, Stored | Exception]:
        """See ControlStore."""
        found: dict[str, Stored | Exception] = {}
        for name in names:
            try:
                stored = self.load(name)
            except CorruptStored as error:
                found[name] = error
            else:
                if stored is not None:
                    found[name] = stored
        return found

    def commit(self, commit: Commit) -> int:
        """See ControlStore."""
        experiment, allocation, audit = commit.experiment, commit.allocation, commit.audit
        documents = codec.dump_experiment(experiment), codec.dump_allocation(allocation)
        if problem := codec.misfit(experiment, allocation):
            raise ValueError(f"{experiment.name}: {problem}")
        audit_row = codec.dump_audit(audit) if audit else b""
        with self._changed:
            kept = self._kept.get(experiment.name)
            if (refused := self._refused(commit, kept)) is not None:
                raise refusal(commit, *refused)
            if kept is None:
                kept = self._kept[experiment.name] = Kept(experiment.uid)
                self.clear_partitions(experiment.name)
                for partition in range(1, experiment.spec.partitions):
                    self.begin(ledger_name(experiment.name, partition), experiment.uid)
            kept.generation += 1
            kept.experiment, kept.allocation = documents
            if kept.allocation_number != allocation.number:
                kept.allocations[allocation.number] = documents[1]
            kept.allocation_number = allocation.number
            if audit:
                kept.audit.append(audit_row)
                kept.audit_hash = audit.hash
            if (request := commit.remembered) is not None:
                kept.requests[request.digest] = request.outcome, self._clock_ms() + REQUEST_TTL_MS
            self._announce(experiment.name)
            return kept.generation

    def allocations(self, name: str, after: int) -> list[Allocation]:
        """See ControlStore."""
        with self._changed:
            kept = self._kept.get(name)
            rows = sorted(kept.allocations.items()) if kept else []
            return [codec.load_allocation(name, raw) for number, raw in rows if number > after]

    def delete(
        self, name: str, expected_generation: int, last: AuditRecord | None = None, request_id: str = ""
    ) -> None:
        """See ControlStore."""
        record = codec.dump_audit(last) if last else b""
        with self._changed:
            kept = self._kept.get(name)
            stored = kept.generation if kept else 0
            if stored != expected_generation:
                raise deletion_refusal(name, expected_generation, stored)
            if record:
                self._past[name] = [*(kept.audit if kept else []), record]
            if request_id:
                self._deletions[name] = request_id, self._clock_ms() + REQUEST_TTL_MS
            self._kept.pop(name, None)
            self.clear_partitions(name)
            self._announce(name)

    def clear_partitions(self, name: str) -> None:
        """See ControlStore."""
        with self._changed:
            owner = self._kept.get(name)
            for partition in range(1, MAX_PARTITIONS):
                kept = self._kept.get(ledger := ledger_name(name, partition))
                if kept is not None and (owner is None or kept.uid != owner.uid):
                    del self._kept[ledger]

    def outcome_of(self, name: str, request_id: str) -> Outcome | None:
        """See ControlStore."""
        with self._changed:
            kept = self._kept.get(name)
            outcome, until_ms = (
                kept.requests.get(request_digest(request_id), (None, 0)) if kept else (None, 0)
            )
            return outcome if until_ms > self._clock_ms() else None

    def requests(self, name: str, limit: int) -> list[Request]:
        """See ControlStore."""
        with self._changed:
            kept = self._kept.get(name)
            newest = sorted(kept.requests.items(), key=lambda each: each[1][1], reverse=True) if kept else []
            return [Request(digest, outcome) for digest, (outcome, _) in newest[:limit]]

    def audit(self, name: str, before: int | None, limit: int) -> list[AuditRecord]:
        """See ControlStore."""
        with self._changed:
            kept = self._kept.get(name)
            return _records(name, kept.audit if kept else [], before, limit)

    def past_audit(self, name: str, before: int | None, limit: int) -> list[AuditRecord]:
        """See ControlStore."""
        with self._changed:
            return _records(name, self._past.get(name, []), before, limit)

    def deleted_by(self, name: str, request_id: str) -> bool:
        """See ControlStore."""
        with self._changed:
            by, until_ms = self._deletions.get(name, ("", 0))
            return by == request_id and until_ms > self._clock_ms()

    def next_uid(self) -> int:
        """See ControlStore."""
        return self._reserve("experiment", 1)

    def reserve_issuers(self, count: int) -> int:
        """See ControlStore."""
        return self._reserve("issuer", count)

    def token_keys(self) -> KeyRing:
        """See ControlStore."""
        with self._changed:
            if self._ring is None:
                self._ring = KeyRing({1: secrets.token_bytes(KEY_BYTES)}, 1)
            return self._ring

    def acquire(self, name: str, owner: str, ttl_ms: int) -> Fence | None:
        """See ControlStore."""
        check_lease(owner, ttl_ms)
        with self._changed:
            kept = self._kept.get(name)
            if kept is None:
                return None
            now_ms = self._clock_ms()
            held = self._held(kept)
            if held is not None and held.owner != owner:
                return None
            if held is None:
                self._last_fence = max(self._last_fence + 1, now_ms)
                held = Fence(owner, self._last_fence)
            kept.lease = (held, now_ms + ttl_ms)
            return held

    def release(self, name: str, fence: Fence) -> None:
        """See ControlStore."""
        with self._changed:
            kept = self._kept.get(name)
            if kept is not None and self._held(kept) == fence:
                kept.lease = None

    def beat(self, owner: str, ttl_ms: int) -> None:
        """See ControlStore."""
        check_lease(owner, ttl_ms)
        with self._changed:
            self._alive_until_ms = max(self._alive_until_ms, self._clock_ms() + ttl_ms)

    def learner_alive(self) -> bool:
        """See ControlStore."""
        with self._changed:
            return self._alive_until_ms > self._clock_ms()

    def put_status(self, name: str, status: bytes, fence: Fence) -> bool:
        """See ControlStore."""
        with self._changed:
            kept = self._kept.get(name)
            if kept is None or self._held(kept) != fence:
                return False
            kept.status = bytes(status)
            return True

    def status(self, name: str) -> bytes | None:
        """See ControlStore."""
        with self._changed:
            kept = self._kept.get(name)
            return kept.status if kept else None

    def put_report(self, name: str, report: bytes, fence: Fence) -> bool:
        """See ControlStore."""
        with self._changed:
            kept = self._kept.get(name)
            if kept is None or self._held(kept) != fence:
                return False
            kept.report = bytes(report)
            return True

    def report(self, name: str) -> bytes | None:
        """See ControlStore."""
        with self._changed:
            kept = self._kept.get(name)
            return kept.report if kept else None

    def subscribe(self) -> Subscription:
        """See ControlStore."""
        with self._changed:
            listener = _Listener(self._changed, self._listeners)
            self._listeners.append(listener)
            return listener

    def secured(self, name: str) -> Durability:
        """See ControlStore."""
        return Durability.MEMORY

    def history(self) -> tuple[str, ...]:
        """See ControlStore."""
        return ("memory",)

    def findings(self) -> list[Finding]:
        """See ControlStore."""
        wanted = "a Redis or Valkey server with an append-only file"
        return [
            Finding("durability", "memory of this process: all is lost when it ends", wanted, False, False)
        ]

    def now_ms(self) -> int:
        """See ControlStore."""
        return self._clock_ms()

    def close(self) -> None:
        """See ControlStore. What is held stays, as it would on a server."""

    def _experiments(self) -> dict[str, Kept]:
        """Without the partitions beyond the first of each."""
        return {name: kept for name, kept in self._kept.items() if not parse_ledger(name)[1]}

    def _refused(self, commit: Commit, kept: Kept | None) -> tuple[str, list[str]] | None:
        """Why a commit changes nothing, in the words of commit.lua; None when it may go on."""
        if commit.expected_generation == 0:
            if kept is not None:
                return "exists", []
            if commit.fence is not None:
                return "lease", []
        elif kept is None:
            return "gone", []
        elif kept.generation != commit.expected_generation:
            return "generation", [str(kept.generation)]
        elif kept.uid != commit.experiment.uid:
            return "uid", [str(kept.uid)]
        elif kept.allocation_number > commit.allocation.number:
            return "allocation", [str(kept.allocation_number)]
        elif commit.fence is not None and self._held(kept) != commit.fence:
            return "lease", []
        newest = len(kept.audit) if kept else 0
        if commit.audit is not None and commit.audit.sequence != newest + 1:
            return "audit", [str(newest)]
        return None

    def _reserve(self, kind: str, count: int) -> int:
        if count < 1:
            raise ValueError(f"{count} numbers were asked for; ask for at least 1")
        with self._changed:
            first = self._numbers[kind] + 1
            if first + count - 1 > HIGHEST_NUMBER:
                raise Overloaded(
                    f"no {kind} numbers are left below {HIGHEST_NUMBER}; begin with an empty store"
                )
            self._numbers[kind] += count
            return first

    def _announce(self, name: str) -> None:
        self._version += 1
        for listener in self._listeners:
            listener.names.append(name)
        self._changed.notify_all()


def _records(name: str, rows: Sequence[bytes], before: int | None, limit: int) -> list[AuditRecord]:
    newest = len(rows) if before is None else min(max(before - 1, 0), len(rows))
    part = rows[max(newest - max(limit, 0), 0) : newest]
    return [codec.load_audit(name, raw) for raw in reversed(part)]


class _Listener:
    """Names that changed since it was made."""

    def __init__(self, changed: threading.Condition, listeners: list[_Listener]) -> None:
        self.names: deque[str] = deque(maxlen=10_000)
        self._changed = changed
        self._listeners = listeners

    def next(self, timeout_s: float) -> str | None:
        """See Subscription."""
        deadline = time.monotonic() + timeout_s
        with self._changed:
            while not self.names:
                left_s = deadline - time.monotonic()
                if left_s <= 0:
                    return None
                self._changed.wait(left_s)
            return self.names.popleft()

    def close(self) -> None:
        """See Subscription."""
        with self._changed:
            if self in self._listeners:
                self._listeners.remove(self)

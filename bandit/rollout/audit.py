"""Audit records: one per change of state or exposure, each chained to the one before by SHA-256."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace

GENESIS = "0" * 64


@dataclass(frozen=True, slots=True)
class AuditRecord:
    """Who changed what, when and why; shares in ppm before and after; ``verdict`` as plain values, if one caused it.

    ``sequence`` counts from 1 within the experiment; ``hash`` is SHA-256 over the record before and this one.
    """

    sequence: int
    time_ms: int
    actor: str
    action: str
    reason: str
    state_before: str
    state_after: str
    shares_before_ppm: tuple[int, ...]
    shares_after_ppm: tuple[int, ...]
    epoch: int
    allocation: int
    verdict: Mapping[str, object] | None = None
    hash: str = ""


def chained(record: AuditRecord, previous_hash: str) -> AuditRecord:
    """The record with its hash."""
    return replace(record, hash=digest(record, previous_hash))


def digest(record: AuditRecord, previous_hash: str) -> str:
    """SHA-256 in hex over the previous hash and the record without its own."""
    body = json.dumps(asdict(replace(record, hash="")), sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(f"{previous_hash}\n{body}".encode()).hexdigest()


def first_broken(records: list[AuditRecord], previous_hash: str = GENESIS) -> int | None:
    """Sequence number of the first record that does not continue the chain, oldest first; None when all do."""
    for record in records:
        if record.hash != digest(record, previous_hash):
            return record.sequence
        previous_hash = record.hash
    return None

"""Entries of an experiment's log: what the edge appends and the fenced writer folds. Bytes only.

Exposure entry: ``<IIQ`` issuer, epoch, first number, then 8 bytes ``<IHBB`` per decision: allocation, cohort, arm,
``ledger.bucket_of`` its unit (0: not known); numbers count on from the first without gaps. Reward entry: records of 40
bytes (``bandit.reward``); an amendment entry has records of 64: the same with an operation, its order and the event's
id. A second byte of the kind says how
many bytes of features follow each record.
"""

from __future__ import annotations

import struct
from functools import lru_cache
from typing import NamedTuple

EXPOSURES = b"x"
REWARDS = b"r"
AMENDMENTS = b"a"
EXPOSURE_HEADER = struct.Struct("<IIQ")
EXPOSURE = struct.Struct("<IHBB")
START = "0-0"
# One byte per reward in a reply; 0 is none yet.
OUTCOME_APPLIED, OUTCOME_DUPLICATE, OUTCOME_CONFLICT, OUTCOME_LATE, OUTCOME_REJECTED = 1, 2, 3, 4, 5
OUTCOME_SUPERSEDED = 6
MOST_SOURCES = 64
ISSUER_BATCH = 1024
"""How many issuer numbers a machine takes at once, the first of all is 1."""
GRPC, OTHERS = b"grpc", b"other"
"""How entries without a source are counted, and those of sources beyond the first so many."""
# What a reward does to its decision's value; 0 in a slot that nobody amended.
REPORT, CORRECT, RETRACT = 1, 2, 3


def partition_of(issuer: int, number: int, partitions: int) -> int:
    """Which of so many logs takes a decision's exposure and its rewards: one for all of an issuer's.

    So marks, joins and sums of a decision meet in one ledger. A reward without a token (``issuer`` 0) goes by its
    ``number``, the hash of what it is.
    """
    return _spread(issuer, partitions) if issuer else number % partitions


@lru_cache(maxsize=4096)
def _spread(issuer: int, partitions: int) -> int:
    """The place in its batch and the digits of the batch's number in base ``partitions``, added up, modulo that.

    Processes of one machine have numbers one after the other, machines take them by batches: both spread. The number
    modulo the partitions would send the first processes of all machines to one.
    """
    batch, total = divmod(issuer - 1, ISSUER_BATCH)
    while batch and partitions > 1:
        batch, digit = divmod(batch, partitions)
        total += digit
    return total % partitions


def kind_of(kind: bytes, features: int) -> bytes:
    """Kind of an entry whose records have so many bytes of features behind them; a byte more than one without."""
    return kind + bytes([features]) if features else kind


class LogEntry(NamedTuple):
    """One entry: ``id`` is its place ("milliseconds-sequence"), ``reply`` names who waits for outcomes (or b"").

    ``source`` names the source of rewards that brought it, b"" for the reward service. ``uid``: the experiment it was
    accepted for; 0 where the store saw to that, or an older version wrote it.
    """

    id: str
    kind: bytes
    payload: bytes
    reply: bytes = b""
    source: bytes = b""
    uid: int = 0

    @property
    def time_ms(self) -> int:
        """When the log took it, by the log's clock."""
        return int(self.id.partition("-")[0])


class Append(NamedTuple):
    """One entry to append to a log, ``experiment`` its ledger's name (``bandit.ids.ledger_name``).

    ``uid`` is the experiment's: no other of its name counts it. ``source``: as of :class:`LogEntry`.
    """

    experiment: str
    uid: int
    kind: bytes
    payload: bytes
    reply: bytes = b""
    source: bytes = b""


def exposure_entry(issuer: int, epoch: int, first: int, records: bytes) -> bytes:
    """Payload of an exposure entry; ``records`` are packed ``EXPOSURE`` structs."""
    return EXPOSURE_HEADER.pack(issuer, epoch, first) + records

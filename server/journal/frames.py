"""The bytes of the exposure journal: frames of one or many decisions; it opens no file and keeps no position.

A frame is one call's decisions of one experiment, little endian, padded with zeros to a multiple of 8 bytes::

    u32 crc32 of all that follows   u32 count   u32 uid   u32 epoch   u32 allocation   u64 first number
    u16 cohort   count x u8 arm   [count x u8 bucket of the unit, where the highest bit of cohort is set]

So one decision takes 32 bytes, and a batch one or two bytes each. A count of 0 marks what was never written. The
check sum tells a frame that was cut short by the end of its process from a whole one (wrong once in 2**32).
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from typing import NamedTuple
from zlib import crc32

from bandit.log import EXPOSURE, EXPOSURE_HEADER, exposure_entry

ALIGN = 8
ENTRY_DECISIONS = 4096
_CRC = struct.Struct("<I")
_BODY = struct.Struct("<IIIIQH")
HEADER_BYTES = _CRC.size + _BODY.size
_ONE_BODY = struct.Struct("<IIIIQHBB")
ONE = struct.Struct(f"<I{_ONE_BODY.size}s")
_ARM_AT, _BUCKET_AT = 6, 7  # places in bandit.log.EXPOSURE
_WITH_BUCKETS = 1 << 15

Buffer = bytes | memoryview


class Frame(NamedTuple):
    """Decisions of one call: numbers count on from ``first``, one byte of ``arms`` each, and one of ``buckets``
    (``bandit.ledger.bucket_of``) or none at all."""

    uid: int
    epoch: int
    allocation: int
    first: int
    cohort: int
    arms: bytes
    buckets: bytes = b""


class Payload(NamedTuple):
    """A log entry to be: exposures of one experiment and epoch without gaps in their numbers, from ``first`` on."""

    uid: int
    issuer: int
    first: int
    decisions: int
    payload: bytes

    @property
    def following(self) -> int:
        """The number after its last one."""
        return self.first + self.decisions


def one_body(
    uid: int, epoch: int, allocation: int, number: int, cohort: int, arm: int, bucket: int = 0
) -> bytes:
    """The body of a frame of one decision, to be packed with its check sum by ``ONE``."""
    return _ONE_BODY.pack(1, uid, epoch, allocation, number, cohort | _WITH_BUCKETS, arm, bucket)


def many(frame: Frame) -> bytes:
    """A frame of any number of decisions, padded."""
    cohort = frame.cohort | _WITH_BUCKETS if frame.buckets else frame.cohort
    body = _BODY.pack(len(frame.arms), *frame[:4], cohort) + frame.arms + frame.buckets
    return _CRC.pack(crc32(body)) + body + bytes(-(_CRC.size + len(body)) % ALIGN)


def frame_at(buffer: Buffer, at: int) -> tuple[Frame, int] | None:
    """The whole frame that begins at ``at`` and the position after it, or None."""
    start = at + _CRC.size
    if at + HEADER_BYTES >= len(buffer):
        return None
    count, uid, epoch, allocation, first, cohort = _BODY.unpack_from(buffer, start)
    last = at + HEADER_BYTES + count
    end = last + count if cohort & _WITH_BUCKETS else last
    if count == 0 or end > len(buffer):
        return None
    body = buffer[start:end]
    if crc32(body) != _CRC.unpack_from(buffer, at)[0]:
        return None
    arms, buckets = bytes(buffer[at + HEADER_BYTES : last]), bytes(buffer[last:end])
    frame = Frame(uid, epoch, allocation, first, cohort & ~_WITH_BUCKETS, arms, buckets)
    return frame, end + -end % ALIGN


def scan(buffer: Buffer, at: int) -> tuple[list[Frame], int]:
    """All whole frames from ``at`` on, and how many stretches of torn bytes were met.

    Torn bytes at the end are what a process was writing when it died: nobody had its answer yet. Torn bytes
    before a whole frame (a machine died, pages were lost) are stepped over in steps of 8.
    """
    found: list[Frame] = []
    torn = 0
    while True:
        while (whole := frame_at(buffer, at)) is not None:
            found.append(whole[0])
            at = whole[1]
        if not bytes(buffer[at:]).strip(b"\0"):
            return found, torn
        torn += 1
        at = next((i for i in range(at + ALIGN, len(buffer), ALIGN) if frame_at(buffer, i)), len(buffer))


def payloads(frames: list[Frame], issuer: int) -> Iterator[Payload]:
    """Log entries of these frames, in order for each experiment: at most 4,096 decisions and one epoch in each."""
    by_uid: dict[int, list[Frame]] = {}
    for frame in frames:
        by_uid.setdefault(frame.uid, []).append(frame)
    for uid, own in by_uid.items():
        start, epoch, expected = own[0].first, own[0].epoch, own[0].first
        records = bytearray()
        for frame in own:
            if frame.epoch != epoch or frame.first != expected:
                yield from _cut(uid, issuer, epoch, start, records)
                start, epoch, records = frame.first, frame.epoch, bytearray()
            records += _records(frame)
            expected = frame.first + len(frame.arms)
        yield from _cut(uid, issuer, epoch, start, records)


def _records(frame: Frame) -> bytes | bytearray:
    if len(frame.arms) == 1:
        bucket = frame.buckets[0] if frame.buckets else 0
        return EXPOSURE.pack(frame.allocation, frame.cohort, frame.arms[0], bucket)
    records = bytearray(EXPOSURE.pack(frame.allocation, frame.cohort, 0, 0) * len(frame.arms))
    records[_ARM_AT :: EXPOSURE.size] = frame.arms
    if frame.buckets:
        records[_BUCKET_AT :: EXPOSURE.size] = frame.buckets
    return records


def _cut(uid: int, issuer: int, epoch: int, first: int, records: bytearray) -> Iterator[Payload]:
    most = ENTRY_DECISIONS * EXPOSURE.size
    for at in range(0, len(records), most):
        part = bytes(records[at : at + most])
        count = len(part) // EXPOSURE.size
        start = first + at // EXPOSURE.size
        yield Payload(uid, issuer, start, count, exposure_entry(issuer, epoch, start, part))


def decisions_in(payload: bytes) -> int:
    """How many decisions an exposure entry holds."""
    return (len(payload) - EXPOSURE_HEADER.size) // EXPOSURE.size

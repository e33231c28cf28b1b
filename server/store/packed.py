"""The numbers of the ledger as bytes: little endian, framed, checked; what cannot be right is neither written nor read.

Frame: kind (1 byte), schema (1 byte), body, CRC-32 (4 bytes) over the place it is stored at, kind, schema and body.
A value that was cut, damaged or moved to another place is CorruptStored, and so is one of another schema.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.errors import BanditError, CorruptStored, StoreUnavailable
from bandit.ledger import (
    BUCKETS,
    Layout,
)
from bandit.seen import PAGE_SLOTS, BucketKey, Page, PageKey
from server.store.base import RewardCounts
from server.store.keys import bucket_key

SCHEMA = 2
"""2: channels, hash buckets, counts by source, shares and sums by cohort. Nothing of schema 1 was ever released."""
_PAGE, _CHUNK, _WRITER, _FOLDED = b"G", b"F", b"W", b"A"
_CRC = struct.Struct("<I")
_PAGE_KEY = struct.Struct("<IIHQ")
_PAGE_HEAD = struct.Struct("<Q")
_WRITER_BODY = struct.Struct("<QIHHHHQQQQQQQQQ")
_SOURCE_COUNTS = struct.Struct("<6Q")
_SIZE = struct.Struct("<B")
_COUNT = struct.Struct("<I")
_FOREIGN_ID = np.dtype([("id", "<u8"), ("mark", "<u2")])
_MOST_DIMENSIONS = 8
TWICE = 1 << 15


class WriterHead(NamedTuple):
    """The small numbers of a writer state."""

    sequence: int
    epoch: int
    layout: Layout
    offset: str
    counts: RewardCounts
    exposures_lost: int
    removals: int = 0


@contextmanager
def reading(key: str) -> Iterator[None]:
    """Turn whatever goes wrong with bytes of the key into CorruptStored that names it."""
    try:
        yield
    except (CorruptStored, StoreUnavailable):
        raise
    except (
        BanditError,
        ValueError,
        TypeError,
        LookupError,
        ArithmeticError,
        AttributeError,
        RecursionError,
        struct.error,
    ) as error:
        raise CorruptStored(
            f"{key}: {str(error) or type(error).__name__}; restore it from a copy, or delete what it belongs to",
            key=key,
        ) from error


def page_field(key: PageKey) -> bytes:
    """Field of a page, 18 bytes."""
    return _PAGE_KEY.pack(*key)


def page_key(field: bytes) -> PageKey:
    """Inverse of :func:`page_field`. Raises struct.error."""
    return PageKey(*_PAGE_KEY.unpack(field))


def pack_page(key: PageKey, page: Page) -> bytes:
    """Bytes of a page."""
    if page.marks.shape != (PAGE_SLOTS,):
        raise ValueError(f"a page has {PAGE_SLOTS} marks, not {page.marks.shape}")
    body = _PAGE_HEAD.pack(page.newest_ms) + page.marks.astype("<u2", copy=False).tobytes()
    return frame(_PAGE, body, page_field(key))


def unpack_page(key: str, field: bytes, raw: bytes) -> tuple[PageKey, Page]:
    """The page stored in a field. Raises CorruptStored."""
    with reading(f"{key}[{field.hex()}]"):
        found = page_key(field)
        body = Body(opened(_PAGE, raw, field))
        (newest_ms,) = body.struct(_PAGE_HEAD)
        marks = body.array("<u2", (PAGE_SLOTS,))
        body.end()
        return found, Page(newest_ms, marks.astype(np.uint16, copy=False))


def pack_chunk(bucket: str, ids: Mapping[int, int]) -> bytes:
    """Bytes of new foreign ids of a bucket: 10 an id."""
    rows = np.empty(len(ids), _FOREIGN_ID)
    rows["id"] = np.fromiter(ids.keys(), np.uint64, len(ids))
    rows["mark"] = np.fromiter(ids.values(), np.uint16, len(ids))
    return frame(_CHUNK, _COUNT.pack(len(ids)) + rows.tobytes(), bucket.encode())


def unpack_bucket(
    key: str, bucket: str, total: bytes, chunks: list[bytes]
) -> tuple[BucketKey, dict[int, int]]:
    """All ids of a bucket from its chunks; ``total`` is what the index says. Raises CorruptStored."""
    with reading(key):
        ids: dict[int, int] = {}
        held = 0
        for raw in chunks:
            body = Body(opened(_CHUNK, raw, bucket.encode()))
            (count,) = body.struct(_COUNT)
            rows = body.array(_FOREIGN_ID, (count,))
            body.end()
            ids.update(zip(rows["id"].tolist(), rows["mark"].tolist(), strict=True))
            held += count
        if held != whole(total):
            raise ValueError(f"holds {held} ids where the index has {whole(total)}")
        return bucket_key(bucket), ids


def sizes_of(layout: Layout) -> tuple[int, int, int, int]:
    """A layout as four numbers; a bit of the last says that buckets are kept twice."""
    g, k, c, clustered, buckets = layout
    return g, k, c, clustered | (TWICE if buckets > BUCKETS else 0)


def layout_from(g: int, k: int, c: int, clustered: int) -> Layout:
    """Inverse of :func:`_sizes`."""
    buckets = 2 * BUCKETS if clustered & TWICE else BUCKETS
    return Layout(g, k, c, clustered & ~TWICE, buckets)


def pack_writer(head: WriterHead) -> bytes:
    """Bytes of the small numbers of a writer state."""
    counts = head.counts
    body = _WRITER_BODY.pack(
        head.sequence,
        head.epoch,
        *sizes_of(head.layout),
        *split_offset(head.offset),
        *_six(counts),
        head.exposures_lost,
    )
    body += _SIZE.pack(len(counts.sources))
    for source, each in counts.sources.items():
        name = source.encode()
        body += bytes([len(name)]) + name + _SOURCE_COUNTS.pack(*_six(each))
    if head.removals:  # versions before it know the rest
        body += _COUNT.pack(head.removals)
    return frame(_WRITER, body)


def unpack_writer(key: str, raw: bytes) -> WriterHead:
    """Inverse of :func:`pack_writer`. Raises CorruptStored."""
    with reading(key):
        body = Body(opened(_WRITER, raw))
        sequence, epoch, g, k, c, clustered, ms, count, *numbers, lost = body.struct(_WRITER_BODY)
        counts = RewardCounts(*numbers)
        for _ in range(body.struct(_SIZE)[0]):
            (size,) = body.struct(_SIZE)
            name = body.array("u1", (size,)).tobytes().decode()
            counts.sources[name] = RewardCounts(*body.struct(_SOURCE_COUNTS))
        removals = body.struct(_COUNT)[0] if body.left() else 0
        body.end()
        layout = layout_from(g, k, c, clustered)
        return WriterHead(sequence, epoch, layout, f"{ms}-{count}", counts, lost, removals)


def _six(counts: RewardCounts) -> tuple[int, ...]:
    return (
        counts.applied,
        counts.duplicate,
        counts.conflict,
        counts.late,
        counts.rejected,
        counts.superseded,
    )


def pack_folded(folded: tuple[NDArray[np.float64], NDArray[np.int64]]) -> bytes:
    """Bytes of the guardrails' accumulators; any shapes."""
    body = b""
    for array, kind in zip(folded, ("<f8", "<i8"), strict=True):
        shape = np.asarray(array.shape, "<u4")
        body += bytes([array.ndim]) + shape.tobytes() + array.astype(kind, copy=False).tobytes()
    return frame(_FOLDED, body)


def unpack_folded(key: str, raw: bytes) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Inverse of :func:`pack_folded`. Raises CorruptStored."""
    with reading(key):
        body = Body(opened(_FOLDED, raw))
        sums = body.array("<f8", body.shape()).astype(np.float64, copy=False)
        since = body.array("<i8", body.shape()).astype(np.int64, copy=False)
        body.end()
        return sums, since


def split_offset(offset: str) -> tuple[int, int]:
    """Milliseconds and sequence of a log id. Raises ValueError for other text."""
    ms, dash, count = offset.partition("-")
    if not dash or not all(part.isascii() and part.isdigit() for part in (ms, count)):
        raise ValueError(f"{offset!r} is not the id of a log entry")
    return int(ms), int(count)


def whole(raw: bytes | str) -> int:
    """A whole number in plain decimal, as the scripts write it. Raises ValueError for anything else."""
    number = int(raw)
    if decimal(number) != (raw.encode() if isinstance(raw, str) else raw):
        raise ValueError(f"{raw!r} is not a plain whole number")
    return number


def decimal(number: int) -> bytes:
    """A whole number in plain decimal."""
    return b"%d" % number


def frame(kind: bytes, body: bytes, place: bytes = b"") -> bytes:
    """The body framed; ``place``: where it will be stored, as far as that is told apart."""
    head = kind + bytes([SCHEMA])
    return head + body + _CRC.pack(zlib.crc32(body, zlib.crc32(place + head)))


def opened(kind: bytes, raw: bytes, place: bytes = b"") -> memoryview:
    """Body of a frame. Raises ValueError."""
    if len(raw) < 2 + _CRC.size:
        raise ValueError(f"cut to {len(raw)} bytes")
    body = memoryview(raw)[2 : -_CRC.size]
    if zlib.crc32(body, zlib.crc32(place + raw[:2])) != _CRC.unpack(raw[-_CRC.size :])[0]:
        raise ValueError("the checksum does not fit: cut, damaged or moved here from elsewhere")
    if raw[:1] != kind:
        raise ValueError(f"holds something of kind {raw[:1]!r} where {kind!r} belongs")
    check_schema(raw[1])
    return body


def check_schema(schema: int) -> None:
    """Raises ValueError for a schema that this version cannot read."""
    if schema > SCHEMA:
        raise ValueError(f"written by a newer version (schema {schema}; this one reads up to {SCHEMA})")
    if schema < 1:
        raise ValueError(f"{schema} is no schema")
    if schema < SCHEMA:
        raise ValueError(
            f"written by an older version (schema {schema}; this one reads {SCHEMA}), which counted in another layout; "
            "go on with that version, or begin with an empty store"
        )


class Body:
    """Reads a body from its start; every read checks that enough is left."""

    def __init__(self, view: memoryview) -> None:
        self._view = view
        self._at = 0

    def struct(self, shape: struct.Struct) -> tuple[int, ...]:
        """The next numbers."""
        return shape.unpack(self._take(shape.size))

    def shape(self) -> tuple[int, ...]:
        """The shape of an array: number of dimensions, then each."""
        (dimensions,) = self._take(1)
        if dimensions > _MOST_DIMENSIONS:
            raise ValueError(f"an array of {dimensions} dimensions")
        return tuple(self.array("<u4", (dimensions,)).tolist())

    def array(self, kind: str | np.dtype[np.void], shape: tuple[int, ...]) -> NDArray[Any]:
        """A copy of the next array, so that it can be changed."""
        dtype = np.dtype(kind)
        values = np.frombuffer(self._take(math.prod(shape) * dtype.itemsize), dtype)
        return values.reshape(shape).copy()

    def left(self) -> bool:
        """Is anything left?"""
        return self._at < len(self._view)

    def end(self) -> None:
        """Nothing may be left."""
        if self._at != len(self._view):
            raise ValueError(f"{len(self._view) - self._at} bytes too many")

    def _take(self, size: int) -> memoryview:
        part = self._view[self._at : self._at + size]
        if len(part) != size:
            raise ValueError(f"ends {size - len(part)} bytes early")
        self._at += size
        return part

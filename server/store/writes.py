"""A fold as packed values and a writer state from packed values: what both stores do alike, and the rules of both."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from bandit.ledger import Ledger
from bandit.seen import Seen, ValuePage
from server.store import packed, packed_periods, packed_values
from server.store.base import FoldWrite, WriterState, Written
from server.store.keys import REPLY_TTL_S, ExperimentKeys, bucket_name
from server.store.packed import WriterHead, whole
from server.store.packed_values import pack_values, unpack_values


@dataclass(frozen=True, slots=True)
class FoldCall:
    """A fold with every value packed; ``writer`` and the rest as fold.lua describes them."""

    uid: int
    expected_sequence: int
    writer: bytes
    folded: bytes
    keep_from: str
    drop_allocations: int
    reply_ttl_s: int
    set_periods: Sequence[tuple[int, bytes]]
    drop_periods: Sequence[int]
    set_pages: Sequence[tuple[bytes, bytes]]
    drop_pages: Sequence[bytes]
    exposed: Sequence[tuple[int, int]]
    chunks: Sequence[tuple[str, bytes, int]]
    drop_buckets: Sequence[str]
    replies: Sequence[tuple[bytes, bytes]]


@dataclass(frozen=True, slots=True)
class Parts:
    """All that is stored of a ledger, packed; ``foreign``: bucket -> (number of ids, chunks)."""

    writer: bytes
    periods: Mapping[bytes, bytes]
    pages: Mapping[bytes, bytes]
    exposed: Mapping[bytes, bytes]
    foreign: Mapping[bytes, tuple[bytes, list[bytes]]]
    folded: bytes | None


def assemble(keys: ExperimentKeys, parts: Parts) -> WriterState:
    """The writer state. Raises CorruptStored or ValueError for parts that are damaged or do not fit together."""
    head = packed.unpack_writer(keys.writer, parts.writer)
    ledger = Ledger(head.epoch, head.layout)
    for field, value in parts.periods.items():
        period = packed_periods.unpack_period(keys.periods, field, value)
        if period.epoch == head.epoch and period.cells.layout != head.layout:
            raise ValueError(f"period {period.number} is of another layout than its epoch")
        ledger.periods[period.number] = period
    buckets = [
        packed.unpack_bucket(keys.bucket(name.decode()), name.decode(), total, chunks)
        for name, (total, chunks) in parts.foreign.items()
    ]
    return WriterState(
        sequence=head.sequence,
        offset=head.offset,
        ledger=ledger,
        seen=Seen(
            pages=dict(
                packed.unpack_page(keys.pages, *each) for each in parts.pages.items() if not _values(each)
            ),
            values=dict(unpack_values(keys.pages, *each) for each in parts.pages.items() if _values(each)),
            foreign=dict(buckets),
            exposed={whole(issuer): whole(following) for issuer, following in parts.exposed.items()},
        ),
        counts=head.counts,
        exposures_lost=head.exposures_lost,
        removals=head.removals,
        folded=None if parts.folded is None else packed.unpack_folded(keys.folded, parts.folded),
    )


def written_of(keys: ExperimentKeys, writer: bytes) -> Written:
    """The small numbers alone. Raises CorruptStored."""
    head = packed.unpack_writer(keys.writer, writer)
    return Written(head.offset, head.counts, head.removals)


def _values(page: tuple[bytes, bytes]) -> bool:
    """Does this field and value hold values, not marks?"""
    return page[1][:1] == packed_values.KIND


def fold_call(write: FoldWrite) -> FoldCall:
    """The write with every value packed. Raises ValueError for one that no store may take."""
    check_write(write)
    head = WriterHead(
        write.expected_sequence + 1,
        write.epoch,
        write.layout,
        write.offset,
        write.counts,
        write.exposures_lost,
        write.removals,
    )
    new_ids = (*write.add_foreign.items(), *write.replace_foreign.items())
    chunks = [(bucket_name(key), ids) for key, ids in new_ids if ids]
    return FoldCall(
        uid=write.uid,
        expected_sequence=write.expected_sequence,
        writer=packed.pack_writer(head),
        folded=b"" if write.folded is None else packed.pack_folded(write.folded),
        keep_from=keep_from(write),
        drop_allocations=write.drop_allocations,
        reply_ttl_s=REPLY_TTL_S,
        set_periods=[
            (number, packed_periods.pack_period(period)) for number, period in write.set_periods.items()
        ],
        drop_periods=[int(number) for number in write.drop_periods],
        set_pages=[
            (
                packed.page_field(key),
                pack_values(key, page) if isinstance(page, ValuePage) else packed.pack_page(key, page),
            )
            for key, page in write.set_pages.items()
        ],
        drop_pages=[packed.page_field(key) for key in write.drop_pages],
        exposed=[(int(issuer), int(following)) for issuer, following in write.exposed.items()],
        chunks=[(name, packed.pack_chunk(name, ids), len(ids)) for name, ids in chunks],
        drop_buckets=[bucket_name(key) for key in (*write.drop_foreign, *write.replace_foreign)],
        replies=list(write.replies.items()),
    )


def check_write(write: FoldWrite) -> None:
    """Raises ValueError for a write that sets and drops the same thing, or whose keys and values differ."""
    both = (
        (write.set_periods.keys() & set(write.drop_periods))
        or (write.set_pages.keys() & set(write.drop_pages))
        or (write.add_foreign.keys() & set(write.drop_foreign))
        or (write.replace_foreign.keys() & {*write.add_foreign, *write.drop_foreign})
    )
    if both:
        raise ValueError(f"a fold cannot set and drop the same: {min(both)}")
    for number, period in write.set_periods.items():
        if period.number != number:
            raise ValueError(f"period {period.number} was given as {number}")
        if period.epoch == write.epoch and period.cells.layout != write.layout:
            raise ValueError(f"period {number} is of another layout than its epoch")


def keep_from(write: FoldWrite) -> str:
    """Id of the first log entry to keep; never beyond the offset, so that nothing unread is trimmed. "" for all."""
    if write.trim_before_ms <= 0:
        return ""
    ms, count = min(packed.split_offset(write.offset), (write.trim_before_ms, 0))
    return f"{ms}-{count}"


def sizes(state: WriterState) -> bytes:
    """How many parts a state has, as fold.lua counts them."""
    seen = state.seen
    pages = len(seen.pages) + len(seen.values)
    parts = (1, len(state.ledger.periods), pages, len(seen.exposed), len(seen.foreign))
    return " ".join(map(str, (*parts, int(state.folded is not None)))).encode()

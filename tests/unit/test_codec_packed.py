"""The packed numbers of the ledger: read back bit for bit, or CorruptStored that says what is wrong."""

from __future__ import annotations

import random
import struct
import zlib
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from bandit.errors import CorruptStored
from bandit.ledger import CELL_ROOM, ONE, Layout
from bandit.seen import BucketKey, PageKey
from server.store.base import RewardCounts
from server.store.keys import Keys, bucket_key, bucket_name
from server.store.packed import (
    SCHEMA,
    WriterHead,
    pack_chunk,
    pack_folded,
    pack_page,
    pack_writer,
    page_field,
    split_offset,
    unpack_bucket,
    unpack_folded,
    unpack_page,
    unpack_writer,
    whole,
)
from server.store.packed_periods import pack_period, unpack_period
from server.store.packed_values import pack_values, unpack_values
from tests.stores import (
    LAYOUT,
    page,
    period,
    same_array,
    same_page,
    same_period,
    same_values,
    value_page,
)

RANDOM = np.random.default_rng(5)
PERIOD = period(12, RANDOM)
VALUES = value_page(np.random.default_rng(10))
KEY, PAGE = PageKey((1 << 32) - 1, 3, 2, 1 << 50), page(RANDOM)
HEAD = WriterHead(
    9, 2, Layout(51, 64, 2000, 64), "1700000000000-12", RewardCounts(1, 2, 3, 4, (1 << 64) - 1, 6), 5
)
FOLDED = (np.array([[[1.5, float("inf")], [float("nan"), -0.0]]]), np.array([1, -2], np.int64))
IDS = {0: 1, (1 << 64) - 1: 65535, 77: 3}

Reader = Callable[[bytes], object]
KINDS: dict[str, tuple[bytes, Reader]] = {
    "period": (pack_period(PERIOD), lambda raw: unpack_period("key", b"12", raw)),
    "page": (pack_page(KEY, PAGE), lambda raw: unpack_page("key", page_field(KEY), raw)),
    "values": (pack_values(KEY, VALUES), lambda raw: unpack_values("key", page_field(KEY), raw)),
    "chunk": (pack_chunk("4.1.0", IDS), lambda raw: unpack_bucket("key", "4.1.0", b"3", [raw])),
    "writer": (pack_writer(HEAD), lambda raw: unpack_writer("key", raw)),
    "folded": (pack_folded(FOLDED), lambda raw: unpack_folded("key", raw)),
}


def reframed(raw: bytes, place: bytes, **changes: int) -> bytes:
    """The frame with bytes changed at an offset, and a right checksum."""
    edited = bytearray(raw[:-4])
    edited[changes["at"]] = changes["to"]
    head = bytes(edited[:2])
    return bytes(edited) + struct.pack("<I", zlib.crc32(bytes(edited[2:]), zlib.crc32(place + head)))


PLACES = {
    "period": b"12",
    "page": page_field(KEY),
    "values": page_field(KEY),
    "chunk": b"4.1.0",
    "writer": b"",
    "folded": b"",
}


def test_everything_is_read_back() -> None:
    assert same_period(unpack_period("key", b"12", pack_period(PERIOD)), PERIOD)
    key, found = unpack_page("key", page_field(KEY), pack_page(KEY, PAGE))
    assert key == KEY
    assert same_page(found, PAGE)
    key, values = unpack_values("key", page_field(KEY), pack_values(KEY, VALUES))
    assert key == KEY
    assert same_values(values, VALUES)
    assert VALUES.events
    assert VALUES.amended is not None
    assert VALUES.parts is not None
    assert unpack_writer("key", pack_writer(HEAD)) == HEAD
    sums, since = unpack_folded("key", pack_folded(FOLDED))
    assert sums.tobytes() == FOLDED[0].tobytes()
    assert sums.shape == FOLDED[0].shape
    assert same_array(since, FOLDED[1])
    chunks = [pack_chunk("4.1.0", IDS), pack_chunk("4.1.0", {5: 5})]
    assert unpack_bucket("key", "4.1.0", b"4", chunks) == (BucketKey(4, 1, 0), {**IDS, 5: 5})


def test_what_is_read_can_be_added_to() -> None:
    found = unpack_period("key", b"12", pack_period(PERIOD))
    found.cells.add(PERIOD.cells)
    unpack_page("key", page_field(KEY), pack_page(KEY, PAGE))[1].marks[3] = 4


def test_a_full_cell_survives() -> None:
    full = replace(PERIOD, cells=PERIOD.cells.copy())
    full.cells.sums[:] = (CELL_ROOM, CELL_ROOM * ONE, CELL_ROOM * ONE, 0)
    assert same_period(unpack_period("key", b"12", pack_period(full)), full)
    full.cells.sums[0, 0, 0, 0] += 1
    with pytest.raises(ValueError, match="rewards"):
        pack_period(full)


@pytest.mark.parametrize("kind", KINDS)
def test_another_schema_is_told(kind: str) -> None:
    raw, read = KINDS[kind]
    with pytest.raises(
        CorruptStored, match=r"key.*: written by a newer version \(schema 3; this one reads up to 2"
    ):
        read(reframed(raw, PLACES[kind], at=1, to=SCHEMA + 1))
    # What an older version counted is not read as something else.
    with pytest.raises(
        CorruptStored, match=r"key.*: written by an older version \(schema 1; this one reads 2\)"
    ):
        read(reframed(raw, PLACES[kind], at=1, to=1))


@pytest.mark.parametrize("kind", KINDS)
def test_another_kind_is_told(kind: str) -> None:
    raw, read = KINDS[kind]
    with pytest.raises(CorruptStored, match="of kind b'Z' where"):
        read(reframed(raw, PLACES[kind], at=0, to=ord("Z")))


@pytest.mark.parametrize("kind", KINDS)
def test_every_cut_and_every_flipped_bit_is_noticed(kind: str) -> None:
    raw, read = KINDS[kind]
    for cut in range(len(raw)):
        with pytest.raises(CorruptStored, match="key"):
            read(raw[:cut])
    draw = random.Random(3)
    for _ in range(2000):
        edited = bytearray(raw)
        edited[draw.randrange(len(raw))] ^= 1 << draw.randrange(8)
        with pytest.raises(CorruptStored, match="key"):
            read(bytes(edited))


@pytest.mark.parametrize("kind", KINDS)
def test_wrong_bodies_under_a_right_checksum_are_corrupt_or_harmless(kind: str) -> None:
    raw, read = KINDS[kind]
    draw, refused = random.Random(4), 0
    for _ in range(2000):
        size = draw.choice([len(raw), draw.randrange(6, len(raw) + 9)])
        edited = (raw[:-4] + bytes(9))[: size - 4]
        for _ in range(draw.randint(0, 3)):
            at = draw.randrange(2, len(edited)) if len(edited) > 2 else 1
            edited = edited[:at] + bytes([draw.randrange(256)]) + edited[at + 1 :]
        framed = edited + struct.pack("<I", zlib.crc32(edited[2:], zlib.crc32(PLACES[kind] + edited[:2])))
        try:
            read(framed)
        except CorruptStored:
            refused += 1
    assert refused > 200


@pytest.mark.parametrize("kind", KINDS)
def test_bytes_after_the_end_are_noticed(kind: str) -> None:
    raw, read = KINDS[kind]
    longer = raw[:-4] + b"\x00\x00\x00\x00\x00"
    with pytest.raises(CorruptStored, match=r"1 bytes too many|bytes early"):
        read(reframed(longer, PLACES[kind], at=1, to=SCHEMA))


def test_a_value_moved_elsewhere_is_noticed() -> None:
    with pytest.raises(CorruptStored, match="moved"):
        unpack_period("key", b"13", KINDS["period"][0])
    with pytest.raises(CorruptStored, match="moved"):
        unpack_page("key", page_field(KEY._replace(page=1)), KINDS["page"][0])
    with pytest.raises(CorruptStored, match="moved"):
        unpack_bucket("key", "4.1.1", b"3", [KINDS["chunk"][0]])


def test_values_that_cannot_be_are_not_taken() -> None:
    high = replace(VALUES, base=np.full(256, ONE + 2, np.uint32))
    with pytest.raises(ValueError, match="above 1"):
        pack_values(KEY, high)
    assert VALUES.amended is not None
    amended = VALUES.amended.copy()
    amended["op"][7] = 4
    with pytest.raises(ValueError, match="amendment"):
        pack_values(KEY, replace(VALUES, amended=amended))
    with pytest.raises(ValueError, match="above 1"):
        pack_values(KEY, replace(VALUES, events={3: {1: ONE + 1}}))


def test_hash_buckets_that_cannot_be_are_not_taken() -> None:
    wrong = replace(PERIOD, cells=PERIOD.cells.copy())
    assert wrong.cells.clusters is not None
    wrong.cells.clusters[0, 0, 0] = (1, ONE + 1)
    with pytest.raises(ValueError, match="hash bucket"):
        pack_period(wrong)


def test_lost_chunks_are_noticed() -> None:
    with pytest.raises(CorruptStored, match="holds 3 ids where the index has 4"):
        unpack_bucket("key", "4.1.0", b"4", [pack_chunk("4.1.0", IDS)])
    with pytest.raises(CorruptStored, match="not a plain whole number"):
        unpack_bucket("key", "4.1.0", b"03", [pack_chunk("4.1.0", IDS)])


@pytest.mark.parametrize("name", ["", "1.2", "1.2.3.4", "01.2.3", "-1.2.3", "a.b.c", " 1.2.3", "1_0.2.3"])
def test_only_names_of_buckets_are_taken(name: str) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each text is wrong in its own words
        bucket_key(name)
    assert bucket_key(bucket_name(BucketKey(489_123, 1, 0))) == BucketKey(489_123, 1, 0)


@pytest.mark.parametrize("text", ["", "1", "1-", "-1", "1-2-3", "1.5-0", "-1-0", "١-0", "1 - 2"])
def test_only_log_ids_are_offsets(text: str) -> None:
    with pytest.raises(ValueError, match="not the id"):
        split_offset(text)


@pytest.mark.parametrize("raw", [b"", b"1.0", b"+1", b"01", b" 1", b"1e3", b"1_0", b"x"])
def test_only_plain_numbers_are_whole(raw: bytes) -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - each text is wrong in its own words
        whole(raw)


def test_keys_of_an_experiment_share_a_slot_and_meet_no_other() -> None:
    keys = Keys()
    one, other = keys.of("a"), keys.of("a-b")
    mine = [*one.all(["1.2.3"]), one.reply(b"\x00{}\n")]
    assert all(key.startswith("banditd:{a}:") and key.count("{") == 1 for key in mine)
    assert len(set(mine)) == len(mine)
    assert not set(mine) & set(other.all(["1.2.3"]))
    registry = [keys.version, keys.names, keys.pending, keys.numbers, keys.tokens, keys.beat]
    assert all(key.startswith("banditd:{_registry}:") for key in registry)
    assert not any(key.startswith(("banditd:{a", "banditd:{registry}")) for key in registry)


@pytest.mark.parametrize("namespace", ["", "a{b", "a}b", "a*", "a b", "a\n"])
def test_a_namespace_cannot_break_the_tags(namespace: str) -> None:
    with pytest.raises(ValueError, match="namespace"):
        Keys(namespace)


def test_layout_of_the_examples_is_the_shared_one() -> None:
    assert PERIOD.cells.layout == LAYOUT

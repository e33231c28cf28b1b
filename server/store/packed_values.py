"""Pages of remembered values as bytes, in the frames of ``packed``; what cannot be right is not taken."""

from __future__ import annotations

import struct

import numpy as np

from bandit.ledger import ONE
from bandit.log import RETRACT
from bandit.seen import AMENDED, PAGE_SLOTS, PageKey, ValuePage
from server.store.packed import Body, frame, opened, page_field, page_key, reading

KIND = b"V"
_HEAD = struct.Struct("<QB")
_COUNT = struct.Struct("<I")
_EVENT = np.dtype([("slot", "u1"), ("id", "<u8"), ("q", "<u4")])
_AMENDED, _PARTS, _EVENTS = 1, 2, 4


def pack_values(key: PageKey, page: ValuePage) -> bytes:
    """Bytes of a page of values. Raises ValueError for one that no rewards lead to."""
    _check(page)
    flags, parts = 0, [page.base.astype("<u4", copy=False).tobytes()]
    if page.amended is not None:
        flags |= _AMENDED
        parts.append(page.amended.tobytes())
    if page.parts is not None:
        flags |= _PARTS
        parts.append(page.parts.tobytes())
    rows = sorted((slot, event, q) for slot, events in page.events.items() for event, q in events.items())
    if rows:
        flags |= _EVENTS
        parts += [_COUNT.pack(len(rows)), np.array(rows, _EVENT).tobytes()]
    return frame(KIND, _HEAD.pack(page.newest_ms, flags) + b"".join(parts), page_field(key))


def unpack_values(key: str, field: bytes, raw: bytes) -> tuple[PageKey, ValuePage]:
    """The page of values stored in a field. Raises CorruptStored."""
    with reading(f"{key}[{field.hex()}]"):
        found = page_key(field)
        body = Body(opened(KIND, raw, field))
        newest_ms, flags = body.struct(_HEAD)
        if flags > _AMENDED | _PARTS | _EVENTS:
            raise ValueError(f"flags {flags}, of which this version knows three")
        page = ValuePage(newest_ms, body.array("<u4", (PAGE_SLOTS,)).astype(np.uint32, copy=False))
        if flags & _AMENDED:
            page.amended = body.array(AMENDED, (PAGE_SLOTS,))
        if flags & _PARTS:
            page.parts = body.array("i1", (PAGE_SLOTS,))
        if flags & _EVENTS:
            (count,) = body.struct(_COUNT)
            rows = body.array(_EVENT, (count,))
            for slot, event, q in rows.tolist():
                page.events.setdefault(slot, {})[event] = q
            if sum(map(len, page.events.values())) != count:
                raise ValueError("an event of a sum is there twice")
        body.end()
        _check(page)
        return found, page


def _check(page: ValuePage) -> None:
    if page.base.shape != (PAGE_SLOTS,):
        raise ValueError(f"a page has {PAGE_SLOTS} values, not {page.base.shape}")
    highest = [int(page.base.max()) - 1, *(q for events in page.events.values() for q in events.values())]
    if page.amended is not None:
        if page.amended.shape != (PAGE_SLOTS,) or int(page.amended["op"].max()) > RETRACT:
            raise ValueError("an amendment that is none")
        highest.append(int(page.amended["q"].max()))
    if max(highest) > ONE:
        raise ValueError("a value above 1")
    if page.parts is not None and page.parts.shape != (PAGE_SLOTS,):
        raise ValueError(f"a page has {PAGE_SLOTS} delays, not {page.parts.shape}")

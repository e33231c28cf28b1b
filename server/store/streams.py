"""A consumer of a group of a Redis or Valkey stream that is not ours: typed calls, and what differs between servers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from bandit.errors import CorruptStored, StoreUnavailable
from server.store.cluster import open_link
from server.store.link import WAIT_S, Argument, Link

NEW, OLDEST = ">", "0"
_LOOKED_AT = 1000


class Entry(NamedTuple):
    """An entry; ``fields`` None when the stream dropped it while it was pending."""

    id: str
    fields: Mapping[bytes, bytes] | None


# The client library cannot read the answers to these forms of the commands.
_PENDING = "return #redis.call('XPENDING', KEYS[1], unpack(ARGV))"
_HOLD = "redis.call('XCLAIM', KEYS[1], unpack(ARGV)) return 1"
UNNAMED = Entry("", None)
"""What 6.2 says of an entry that was dropped: it is claimed, and told by name when pending ones are read."""


class Group:
    """One consumer. Every call may raise StoreUnavailable; then what it did is unknown, and may be done again."""

    def __init__(self, url: str, stream: str, group: str, consumer: str) -> None:
        self._link: Link = open_link(url)
        self._stream = stream
        self._group = group
        self._consumer = consumer
        self.address = self._link.address

    def join(self) -> None:
        """Make the group, at the stream's beginning, when there is none."""
        try:
            self._link.call("XGROUP", "CREATE", self._stream, self._group, "0", "MKSTREAM")
        except StoreUnavailable as error:
            if "BUSYGROUP" not in error.metadata.get("server_says", "") and "already exists" not in str(
                error
            ):
                raise

    def read(self, after: str, count: int, wait_s: float = 0.0) -> list[Entry]:
        """``NEW`` entries, waiting for the first; or this consumer's pending ones after an id."""
        command: list[Argument] = ["XREADGROUP", "GROUP", self._group, self._consumer, "COUNT", count]
        streams: list[Argument] = ["STREAMS", self._stream, after]
        wait_ms = int(min(wait_s, WAIT_S) * 1000)
        if after == NEW and wait_ms > 0:
            found = self._link.wait(*command, "BLOCK", wait_ms, *streams)
        else:
            found = self._link.call(*command, *streams)
        return _entries(found[0][1]) if found else []

    def claim(self, idle_s: float, after: str, count: int) -> tuple[str, list[Entry]]:
        """Take over what is pending elsewhere for so long, from a cursor on; the next cursor ("0-0" at the end).

        What the stream dropped meanwhile comes without fields, whichever way the server tells it.
        """
        answer = self._link.call(
            "XAUTOCLAIM", self._stream, self._group, self._consumer, int(idle_s * 1000), after, "COUNT", count
        )
        dropped = [Entry(each.decode(), None) for each in answer[2]] if len(answer) > 2 else []  # since 7.0
        return answer[0].decode(), _entries(answer[1]) + dropped

    def hold(self, ids: Sequence[str]) -> None:
        """These are still being worked on: nobody else may claim them yet."""
        if ids:
            self._link.call("EVAL", _HOLD, 1, self._stream, self._group, self._consumer, 0, *ids, "JUSTID")

    def acknowledge(self, ids: Sequence[str]) -> None:
        """These are done."""
        if ids:
            self._link.call("XACK", self._stream, self._group, *ids)

    def go_back(self, id_: str) -> None:
        """Let the group read again what comes after this entry."""
        self._link.call("XGROUP", "SETID", self._stream, self._group, id_)

    def let_go_after(self, id_: str) -> bool:
        """Has the group read an entry after this one that is pending with nobody? Of the next ``_LOOKED_AT`` only."""
        row = self._row()
        last = "" if row is None else row[b"last-delivered-id"].decode()
        if not last or last == "0-0":
            return False
        read = self._link.call("XRANGE", self._stream, f"({id_}", last, "COUNT", _LOOKED_AT)
        if not read:
            return False
        newest = read[-1][0]
        pending = self._link.call(
            "EVAL", _PENDING, 1, self._stream, self._group, f"({id_}", newest, _LOOKED_AT
        )
        return int(pending) < len(read)

    def lag(self) -> int | None:
        """Entries that the group has not read, where the server knows (since 7.0), and those that are pending."""
        row = self._row()
        unread = None if row is None else row.get(b"lag")
        return None if row is None or unread is None else int(unread) + int(row[b"pending"])

    def _row(self) -> dict[bytes, Any] | None:
        """What the server says of the group."""
        for row in self._link.call("XINFO", "GROUPS", self._stream):
            said = dict(zip(row[::2], row[1::2], strict=True))
            if said.get(b"name") == self._group.encode():
                return said
        return None

    def close(self) -> None:
        """Close all connections."""
        self._link.close()


def _entries(rows: Iterable[Any]) -> list[Entry]:
    found: list[Entry] = []
    for row in rows or ():
        if row is None:
            found.append(UNNAMED)
            continue
        id_, fields = row
        found.append(Entry(id_.decode(), _fields(fields)))
    return found


def _fields(fields: Any) -> dict[bytes, bytes] | None:
    """The client library makes a mapping of them; nothing for what was dropped."""
    if not fields:
        return None
    if not isinstance(fields, dict):
        raise CorruptStored(f"a stream entry has {type(fields).__name__} where fields belong")
    return fields

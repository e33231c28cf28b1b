"""What sources of rewards brought, and their dead letters, on a Redis or Valkey server."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from server.store import scripts
from server.store.base import Durability
from server.store.fed import (
    DEAD,
    DROPPED,
    MOST_LETTERS,
    RECEIVED,
    Burial,
    Fed,
    Feed,
    Letter,
    Move,
    SlotCounts,
    count_field,
    position_field,
    position_of,
    position_text,
    slots_of,
)
from server.store.keys import Keys
from server.store.link import Argument, Link
from server.store.packed import reading

SOURCE_FIELD = b"s"
"""Field of a log entry that names its source; entries of the reward service have none."""


class RedisFed:
    """The part of a store that holds what is known of sources."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    def feed(self, feed: Feed, wanted: Durability | None = None) -> Fed:
        """See FeedStore."""
        keys = self._keys.of(feed.experiment)
        source = feed.source.encode()
        entries: list[tuple[str, list[Argument]]] = [
            ("", [kind, payload, SOURCE_FIELD, source]) for kind, payload in feed.entries
        ]
        moves, counts = _moves(feed.source, feed.moves), _counts(feed.source, feed.counts)
        call = scripts.FeedCall(feed.uid, moves, counts, entries)
        named = [keys.fed, keys.log, keys.head]
        if wanted is None or wanted is Durability.MEMORY:
            return _told(feed.moves, scripts.feed(self._link, named, call))._replace(safe=wanted)
        answer, safe = scripts.feed_kept(self._link, named, call, wanted)
        return _told(feed.moves, answer)._replace(safe=safe)

    def bury(self, burial: Burial) -> Fed:
        """See FeedStore."""
        call = scripts.FeedCall(
            "once" if burial.once else "",
            _moves(burial.source, burial.moves),
            _counts(burial.source, burial.counts),
            [(f"{letter.source} {letter.place}", _fields(letter)) for letter in burial.letters],
            most=MOST_LETTERS,
            dropped=count_field("", DROPPED),
        )
        keys = [self._keys.buried, self._keys.letters, self._keys.places]
        return _told(burial.moves, scripts.feed(self._link, keys, call))

    def fed(self, experiment: str) -> dict[str, SlotCounts]:
        """See FeedStore."""
        return self._slot(self._keys.of(experiment).fed)

    def buried(self) -> dict[str, SlotCounts]:
        """See FeedStore."""
        return self._slot(self._keys.buried)

    def letters(self, after: str, limit: int) -> list[Letter]:
        """See FeedStore."""
        start = f"({after}" if after else "-"
        found = self._link.call("XRANGE", self._keys.letters, start, "+", "COUNT", limit)
        with reading(self._keys.letters):
            return [_letter(*each) for each in found]

    def unbury(self, letter: Letter) -> bool:
        """See FeedStore."""
        fields = [count_field(letter.source, what) for what in (DEAD, RECEIVED)]
        return scripts.unbury(self._link, [self._keys.buried, self._keys.letters], letter.id, fields)

    def put_source(self, source: str, status: bytes) -> None:
        """See FeedStore."""
        self._link.call("HSET", self._keys.sources, source, status)

    def sources(self) -> dict[str, bytes]:
        """See FeedStore."""
        found: Mapping[bytes, bytes] = self._link.call("HGETALL", self._keys.sources)
        return {name.decode("utf-8", "replace"): status for name, status in found.items()}

    def _slot(self, key: str) -> dict[str, SlotCounts]:
        found: Mapping[bytes, bytes] = self._link.call("HGETALL", key)
        with reading(key):
            return slots_of({name.decode(): value.decode() for name, value in found.items()})


def _moves(source: str, moves: Sequence[Move]) -> list[tuple[str, str, str]]:
    return [
        (
            position_field(source, move.after.partition),
            position_text(move.before),
            position_text(move.after),
        )
        for move in moves
    ]


def _counts(source: str, counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return [(count_field(source, what), count) for what, count in counts.items() if count]


def _told(moves: Sequence[Move], answer: Sequence[bytes]) -> Fed:
    word, *at = (each.decode() for each in answer)
    if word != "moved":
        return Fed(word == "ok", word == "gone")
    pairs = zip(moves, at, strict=True)
    return Fed(False, at=tuple(position_of(move.after.partition, text) for move, text in pairs))


def _fields(letter: Letter) -> list[Argument]:
    headers = json.dumps(dict(letter.headers), separators=(",", ":"))
    return [
        *("source", letter.source, "reason", letter.reason, "message", letter.message, "body", letter.body),
        *("headers", headers, "place", letter.place, "time_ms", letter.time_ms),
    ]


def _letter(id_: bytes, fields: Mapping[bytes, bytes]) -> Letter:
    text = {
        name.decode(): value.decode("utf-8", "replace") for name, value in fields.items() if name != b"body"
    }
    headers = json.loads(text["headers"])
    if not isinstance(headers, dict):
        raise TypeError(f"letter {id_!r}: its headers are no mapping")
    return Letter(
        text["source"],
        text["reason"],
        text["message"],
        fields[b"body"],
        {str(name): str(value) for name, value in headers.items()},
        text["place"],
        int(text["time_ms"]),
        id_.decode(),
    )

"""The log and the ledger of each experiment on a Redis or Valkey server.

The log is a stream read by offset: no groups, no acknowledgements; the fold that writes the sums writes the offset.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from bandit.errors import BanditError, CorruptStored, StoreUnavailable
from bandit.log import Append, LogEntry
from server.store import packed, scripts
from server.store.base import Durability, FoldWrite, Shipment, WriterState, Written
from server.store.keys import ExperimentKeys, Keys
from server.store.link import WAIT_S, Argument, Link
from server.store.packed import reading, whole
from server.store.redis_fed import SOURCE_FIELD
from server.store.redis_partitions import begin, buckets_of
from server.store.writes import Parts, assemble, fold_call, sizes, written_of

# Fields of a log entry behind its kind: who waits for its outcomes, and the experiment's uid. Not checked by a script:
# in a cluster an append then needs one key alone, which can be written while the slot of all keys is half moved.
_REPLY = b""
_UID = b"u"
_PAGES_A_CALL = 1000
_COUNTED_A_CALL = 1000
_MOST_COUNTED = 10_000
_TRIES = 5
# How often logs of several slots are looked at, s: a call cannot wait for more than one slot.
_LOOK_S = 0.005


class RedisLedger:
    """The part of a store that holds logs and ledgers."""

    def __init__(self, link: Link, keys: Keys) -> None:
        self._link = link
        self._keys = keys

    def append(self, entries: Sequence[Append]) -> list[str]:
        """See LedgerStore."""
        return _ids(self._link.batch(self._appends(entries)))

    def append_kept(self, entries: Sequence[Append], wanted: Durability) -> tuple[list[str], Durability]:
        """See LedgerStore."""
        if wanted is Durability.MEMORY or not entries:
            return self.append(entries), Durability.MEMORY
        answers, safe = self._link.batch_kept(self._appends(entries), wanted)
        return _ids(answers), safe

    def holds(self, name: str, ids: Sequence[str]) -> list[bool]:
        """See LedgerStore."""
        key = self._keys.of(name).log
        found: list[bool] = []
        for start in range(0, len(ids), _COUNTED_A_CALL):
            part = ids[start : start + _COUNTED_A_CALL]
            for answer in self._link.batch([("XRANGE", key, id_, id_) for id_ in part]):
                if isinstance(answer, BanditError):
                    raise answer
                found.append(bool(answer))
        return found

    def _appends(self, entries: Sequence[Append]) -> list[list[Argument]]:
        commands: list[list[Argument]] = []
        for entry in entries:
            if not entry.kind:
                raise ValueError(f"an entry for {entry.experiment} has no kind")
            command: list[Argument] = ["XADD", self._keys.of(entry.experiment).log, "NOMKSTREAM", "*"]
            command += [entry.kind, entry.payload, _UID, entry.uid]
            command += [SOURCE_FIELD, entry.source] if entry.source else []
            commands.append([*command, _REPLY, entry.reply] if entry.reply else command)
        return commands

    def ship(self, entries: Sequence[Shipment]) -> list[int | None]:
        """See LedgerStore."""
        answers = scripts.ship(self._link, [(self._keys.of(each.experiment), each) for each in entries])
        for answer in answers:
            if isinstance(answer, StoreUnavailable):
                raise answer
        # A log of another type takes nothing; entries of others in the same call must not suffer.
        return [None if isinstance(answer, BanditError) else answer for answer in answers]

    def shipped(self, names: Sequence[str], issuer: int) -> dict[str, int]:
        """See LedgerStore."""
        answers = self._link.batch([("HGET", self._keys.of(name).shipped, issuer) for name in names])
        found: dict[str, int] = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, BanditError):
                raise answer
            with reading(self._keys.of(name).shipped):
                found[name] = whole(answer or b"0")
        return found

    def read(self, offsets: Mapping[str, str], count: int, block_ms: int) -> dict[str, list[LogEntry]]:
        """See LedgerStore."""
        if not offsets:
            return {}
        by_key = {self._keys.of(name).log.encode(): name for name in offsets}
        streams: list[Argument] = [*by_key, *offsets.values()]
        deadline = time.monotonic() + block_ms / 1000
        while True:
            left_ms = int(min(deadline - time.monotonic(), WAIT_S) * 1000)
            if len(offsets) > 1 and not self._link.spans:
                apart = self._read_apart(offsets, count)
                if apart or left_ms <= 0:
                    return apart
                time.sleep(min(left_ms / 1000, _LOOK_S))
                continue
            try:
                if left_ms > 0:
                    found = self._link.wait("XREAD", "COUNT", count, "BLOCK", left_ms, "STREAMS", *streams)
                else:
                    found = self._link.call("XREAD", "COUNT", count, "STREAMS", *streams)
            except CorruptStored:
                return self._read_apart(offsets, count)
            if found or left_ms <= 0:
                return {by_key[key]: [_entry(*each) for each in entries] for key, entries in found}

    def _read_apart(self, offsets: Mapping[str, str], count: int) -> dict[str, list[LogEntry]]:
        """Each log by itself: for logs of several slots, and to leave out one that is none (``behind`` tells of it)."""
        names = list(offsets)
        answers = self._link.batch(
            [("XREAD", "COUNT", count, "STREAMS", self._keys.of(name).log, offsets[name]) for name in names]
        )
        found: dict[str, list[LogEntry]] = {}
        for name, answer in zip(names, answers, strict=True):
            if isinstance(answer, StoreUnavailable):
                raise answer
            if not isinstance(answer, BanditError):
                for _, entries in answer or ():
                    found[name] = [_entry(*each) for each in entries]
        return found

    def behind(self, name: str, offset: str) -> int:
        """See LedgerStore."""
        packed.split_offset(offset)
        keys, total = self._keys.of(name), 0
        while total < _MOST_COUNTED:
            count, offset = scripts.behind(self._link, keys, offset, _COUNTED_A_CALL)
            total += count
            if count < _COUNTED_A_CALL:
                return total
        return max(total, int(self._link.call("XLEN", keys.log)))

    def begin(self, ledger: str, uid: int) -> bool:
        """See LedgerStore."""
        return begin(self._link, self._keys, ledger, uid)

    def load_writer(self, name: str) -> WriterState | None:
        """See LedgerStore."""
        keys = self._keys.of(name)
        fields = (f"{keys.fence}sequence", f"{keys.fence}sizes", "uid")
        for _ in range(_TRIES):
            before = self._link.call("HMGET", keys.head, *fields)
            state = self._read_writer(keys, before)
            if isinstance(state, WriterState):
                if self._link.call("HMGET", keys.head, *fields) == before:
                    return state
            elif self._link.call("HMGET", keys.head, *fields) == before:
                if state is None:
                    return None
                raise state
        raise StoreUnavailable(
            f"{name}: another writer kept folding while its ledger was read; try again", name=name
        )

    def written(self, name: str) -> Written | None:
        """See LedgerStore."""
        keys = self._keys.of(name)
        raw = self._link.call("GET", keys.writer)
        return None if raw is None else written_of(keys, raw)

    def forget(self, name: str, uid: int) -> None:
        """See LedgerStore."""
        keys = self._keys.of(name)
        for _ in range(_TRIES):
            if scripts.forget(self._link, keys, uid, buckets_of(self._link, keys)) != "buckets":
                return

    def fold(self, name: str, write: FoldWrite) -> bool:
        """See LedgerStore."""
        keys = self._keys.of(name)
        word = scripts.fold(self._link, keys, fold_call(write))
        if word == "torn":
            raise CorruptStored(
                f"{keys.head}: the ledger has fewer or more parts than were folded; restore it from a copy, "
                "or delete the experiment",
                key=keys.head,
            )
        return word == "ok"

    def await_reply(self, name: str, reply: bytes, timeout_s: float) -> bytes | None:
        """See LedgerStore."""
        key = self._keys.of(name).reply(reply)
        deadline = time.monotonic() + timeout_s
        while (left_s := deadline - time.monotonic()) > 0.001:
            found = self._link.wait("BLPOP", key, f"{min(left_s, WAIT_S):.3f}")
            if found:
                outcomes: bytes = found[1]
                return outcomes
        last: bytes | None = self._link.call("LPOP", key)
        return last

    def _read_writer(
        self, keys: ExperimentKeys, head: Sequence[bytes | None]
    ) -> WriterState | CorruptStored | None:
        """One reading, which another writer may have torn: the caller looks whether anything moved meanwhile."""
        try:
            with reading(keys.head):
                sequence, stored, _ = head
                if sequence is None:
                    return None
                if stored is None:
                    raise ValueError("the sizes of the ledger are missing")
                state = self._read_parts(keys, whole(sequence))
                if stored != sizes(state):
                    raise ValueError(
                        f"the ledger has {sizes(state).decode()} parts where {stored.decode('utf-8', 'replace')} "
                        "were folded (writer, periods, pages, issuers, buckets, accumulators)"
                    )
                return state
        except CorruptStored as error:
            return error

    def _read_parts(self, keys: ExperimentKeys, sequence: int) -> WriterState:
        raw = self._link.call("GET", keys.writer)
        if raw is None:
            raise ValueError("the writer's numbers are gone")
        foreign = self._link.call("HGETALL", keys.foreign)
        parts = Parts(
            writer=raw,
            periods=self._link.call("HGETALL", keys.periods),
            pages=self._pages(keys),
            exposed=self._link.call("HGETALL", keys.exposed),
            foreign={
                name: (total, self._link.call("LRANGE", keys.bucket(name.decode()), 0, -1))
                for name, total in foreign.items()
            },
            folded=self._link.call("GET", keys.folded),
        )
        state = assemble(keys, parts)
        if state.sequence != sequence:
            raise ValueError(f"the writer is at fold {state.sequence}, the head at {sequence}")
        return state

    def _pages(self, keys: ExperimentKeys) -> dict[bytes, bytes]:
        """All pages, a thousand a call: one reply with all could be too long to wait for."""
        pages: dict[bytes, bytes] = {}
        cursor = 0
        while True:
            cursor, rows = self._link.call("HSCAN", keys.pages, cursor, "COUNT", _PAGES_A_CALL)
            pages.update(rows)
            if not int(cursor):
                return pages


def _ids(answers: Sequence[object]) -> list[str]:
    ids: list[str] = []
    for answer in answers:
        if isinstance(answer, StoreUnavailable):
            raise answer
        # A log of another type takes nothing; entries of others in the same batch must not suffer.
        ids.append(answer.decode() if isinstance(answer, bytes) else "")
    return ids


def _entry(id_: bytes, fields: Mapping[bytes, bytes] | None) -> LogEntry:
    kind, payload = next(iter(fields.items()), (b"", b"")) if fields else (b"", b"")
    if not fields:
        return LogEntry(id_.decode(), kind, payload)
    uid = fields.get(_UID, b"")
    return LogEntry(
        id_.decode(),
        kind,
        payload,
        fields.get(_REPLY, b""),
        fields.get(SOURCE_FIELD, b""),
        int(uid) if uid.isdigit() else 0,
    )

"""A snapshot as bytes: checked as a whole, each experiment in the store's own documents; it opens no file.

Little endian::

    8 bytes magic   u32 schema   u32 bytes of the index   32 bytes SHA-256 of all that follows
    index: JSON {version, accepted_ms, read_ms, set_back, keys, unreadable, experiments: [[name, generation,
                 audit sequence, audit hash, fault, behind, bytes of the experiment, bytes of the allocation], ...]}
    the documents of the experiments, one after the other

A newer schema is refused; a document that cannot be read (a newer server wrote what this one does not know) makes
that one experiment unreadable.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections.abc import Mapping
from dataclasses import replace
from types import MappingProxyType
from typing import Any, NamedTuple

from bandit.errors import BanditError, CorruptStored
from bandit.ids import experiment_resource
from server.snapshot.view import Entry, Snapshot, entry_of
from server.store import codec
from server.store.base import Stored

MAGIC = b"banditsn"
SCHEMA = 1
HEAD = struct.Struct("<8sII32s")
_KEYS = "snapshot.keys"
_VERY_OLD_S = 1e8


class Order(NamedTuple):
    """Which of two files is the newer one: the store's number, after what an operator accepted."""

    accepted_ms: int
    version: int


class Documents:
    """The documents of experiments as bytes, made once for each state of each: 100 us an experiment otherwise."""

    def __init__(self) -> None:
        self._made: dict[str, tuple[tuple[int, int], bytes, bytes]] = {}

    def of(self, entries: Mapping[str, Entry]) -> dict[str, tuple[bytes, bytes]]:
        """Experiment and allocation of each; those of experiments that are gone are forgotten."""
        made: dict[str, tuple[tuple[int, int], bytes, bytes]] = {}
        for name, entry in entries.items():
            known = self._made.get(name)
            if known is None or known[0] != entry.order:
                known = (
                    entry.order,
                    codec.dump_experiment(entry.experiment),
                    codec.dump_allocation(entry.allocation),
                )
            made[name] = known
        self._made = made
        return {name: (experiment, allocation) for name, (_, experiment, allocation) in made.items()}


def dump(snapshot: Snapshot, documents: Documents) -> bytes:
    """Bytes of a snapshot, signing keys and all: for a private file only."""
    made = documents.of(snapshot.entries)
    rows = [
        [
            name,
            entry.generation,
            entry.audit_sequence,
            entry.audit_hash,
            entry.fault if entry.behind else "",
            entry.behind,
            len(made[name][0]),
            len(made[name][1]),
        ]
        for name, entry in snapshot.entries.items()
    ]
    index = {
        "version": snapshot.version,
        "accepted_ms": snapshot.accepted_ms,
        "read_ms": snapshot.read_ms,
        "set_back": snapshot.set_back,
        "keys": codec.dump_key_ring(snapshot.keys).decode(),
        "unreadable": dict(snapshot.unreadable),
        "experiments": rows,
    }
    text = json.dumps(index, separators=(",", ":")).encode()
    body = b"".join([text, *(part for pair in made.values() for part in pair)])
    return HEAD.pack(MAGIC, SCHEMA, len(text), hashlib.sha256(body).digest()) + body


def mark_of(raw: bytes) -> bytes:
    """8 bytes that tell this file from others."""
    return bytes(HEAD.unpack_from(raw)[3][:8])


def order_of(raw: bytes) -> Order:
    """How new it is. Raises CorruptStored as :func:`load`."""
    index, _ = _checked(raw)
    return Order(int(index["accepted_ms"]), int(index["version"]))


def load(raw: bytes, now_ms: int, now_s: float, confirmed_ms: int | None) -> Snapshot:
    """The snapshot as of the last moment that the store confirmed it: ``confirmed_ms``, if that is known.

    A moment that lies in the future is not believed; then it counts as very old. Raises CorruptStored.
    """
    index, body = _checked(raw)
    try:
        entries, unreadable = _entries(index["experiments"], body)
        read_ms = int(index["read_ms"]) if confirmed_ms is None else confirmed_ms
        age_s = (now_ms - read_ms) / 1000 if read_ms <= now_ms else _VERY_OLD_S
        return Snapshot(
            entries=MappingProxyType(entries),
            by_resource={experiment_resource(name): entry for name, entry in entries.items()},
            by_uid={entry.experiment.uid: entry for entry in entries.values()},
            unreadable=MappingProxyType({**index["unreadable"], **unreadable}),
            keys=codec.load_key_ring(_KEYS, index["keys"].encode()),
            read_s=now_s - age_s,
            read_ms=read_ms,
            frozen=False,
            version=int(index["version"]),
            restored=True,
            set_back=str(index["set_back"]),
            accepted_ms=int(index["accepted_ms"]),
        )
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        raise CorruptStored(f"its index is no index: {error}") from error


def _checked(raw: bytes) -> tuple[Any, memoryview]:
    if len(raw) < HEAD.size:
        raise CorruptStored(f"it has {len(raw)} bytes; the head alone has {HEAD.size}")
    magic, schema, size, digest = HEAD.unpack_from(raw)
    if magic != MAGIC:
        raise CorruptStored("it is no snapshot")
    if schema != SCHEMA:
        raise CorruptStored(f"its schema is {schema}, this server reads {SCHEMA}")
    body = memoryview(raw)[HEAD.size :]
    if hashlib.sha256(body).digest() != digest or size > len(body):
        raise CorruptStored("its check sum is wrong: it was cut or damaged")
    try:
        return json.loads(bytes(body[:size])), body[size:]
    except ValueError as error:
        raise CorruptStored(f"its index is no JSON: {error}") from error


def _entries(rows: Any, body: memoryview) -> tuple[dict[str, Entry], dict[str, str]]:
    entries: dict[str, Entry] = {}
    unreadable: dict[str, str] = {}
    at = 0
    for name, generation, sequence, hash_, fault, behind, *sizes in rows:
        experiment, allocation = (
            bytes(body[at : at + sizes[0]]),
            bytes(body[at + sizes[0] : at + sum(sizes)]),
        )
        at += sum(sizes)
        try:
            stored = Stored(
                codec.load_experiment(name, experiment),
                codec.load_allocation(name, allocation),
                int(generation),
                int(sequence),
                str(hash_),
            )
        except BanditError as error:
            unreadable[name] = f"what this server kept cannot be read: {error}"
            continue
        entry = entry_of(stored)
        if behind:
            entry = replace(entry, fault=str(fault), behind=True, table=replace(entry.table, counted=False))
        entries[name] = entry
    return entries, unreadable

"""Stored documents read back as they were written; any other bytes are CorruptStored, never another error."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import asdict, replace
from typing import Any

import pytest

from bandit.errors import CorruptStored
from bandit.rollout.audit import GENESIS, AuditRecord, chained, first_broken
from bandit.rollout.state import ArmState, PastEpoch, Rollback
from bandit.token import KeyRing
from server.store.base import Stored
from server.store.codec import (
    dump_allocation,
    dump_audit,
    dump_experiment,
    dump_key_ring,
    load_allocation,
    load_audit,
    load_experiment,
    load_key_ring,
    misfit,
)
from server.store.packed import SCHEMA
from tests.builders import NOW, running
from tests.stores import record

EXPERIMENT, ALLOCATION = running(
    hypothesis="größer 'ist' ✓\nbesser",
    cohorts={"attribute": "plan", "values": ["free", "paid"]},
    guardrails=[{"name": "harm", "kind": "harm", "metric": "cost", "margin": 1.1}],
    decay={"half_life": "7d"},
)
EXPERIMENT = replace(
    EXPERIMENT,
    arms=(
        ArmState(),
        ArmState(Rollback("r1", NOW, "guardrail/harm", "it broke"), 0, 2, 9),
        ArmState(hold_ppm=77),
    ),
    promoted=1,
    past=(PastEpoch(0, EXPERIMENT.spec, NOW - 5, (ArmState(attempt=3),) * len(EXPERIMENT.spec.arms)),),
)
RECORD = record(Stored(EXPERIMENT, ALLOCATION, 1, 0, GENESIS))
RING = KeyRing({0: bytes(32), 255: bytes(range(40))}, 255)
DOCUMENTS: list[tuple[object, Callable[[Any], bytes], Callable[[str, bytes], object]]] = [
    (EXPERIMENT, dump_experiment, load_experiment),
    (ALLOCATION, dump_allocation, load_allocation),
    (RECORD, dump_audit, load_audit),
    (RING, dump_key_ring, load_key_ring),
]
KINDS = ["experiment", "allocation", "audit", "tokens"]


@pytest.mark.parametrize(("value", "dump", "load"), DOCUMENTS, ids=KINDS)
def test_a_document_is_read_back(value: object, dump: Any, load: Any) -> None:
    assert load("key", dump(value)) == value
    assert json.loads(dump(value))["schema"] == SCHEMA


def test_an_audit_record_keeps_its_hash() -> None:
    odd = chained(
        replace(RECORD, verdict={"log_e": float("inf"), "n": float("nan"), "pair": (1, 2)}), GENESIS
    )
    found = load_audit("key", dump_audit(odd))
    assert first_broken([found]) is None
    assert first_broken([replace(found, reason="another")]) == 1


def test_floats_keep_every_bit() -> None:
    centres = (0.1 + 0.2, 5e-324, 1e300, -0.0)
    found = load_allocation("key", dump_allocation(replace(ALLOCATION, centres=centres)))
    assert [centre.hex() for centre in found.centres] == [centre.hex() for centre in centres]


@pytest.mark.parametrize(("value", "dump", "load"), DOCUMENTS, ids=KINDS)
def test_another_schema_is_told(value: object, dump: Any, load: Any) -> None:
    fields = json.loads(dump(value)) | {"schema": SCHEMA + 1, "something": "new"}
    with pytest.raises(CorruptStored, match=r"the-key: written by a newer version \(schema 3; .* up to 2\)"):
        load("the-key", json.dumps(fields).encode())
    with pytest.raises(
        CorruptStored, match=r"the-key: written by an older version \(schema 1; this one reads 2\)"
    ):
        load("the-key", json.dumps(fields | {"schema": 1}).encode())


@pytest.mark.parametrize(("value", "dump", "load"), DOCUMENTS, ids=KINDS)
def test_missing_and_unknown_fields_are_named(value: object, dump: Any, load: Any) -> None:
    fields = json.loads(dump(value))
    for field in fields:
        with pytest.raises(CorruptStored, match=field):
            load("key", json.dumps({key: each for key, each in fields.items() if key != field}).encode())
    with pytest.raises(CorruptStored, match="nobody knows: surprise"):
        load("key", json.dumps(fields | {"surprise": 1}).encode())


def changed(document: bytes, **changes: object) -> bytes:
    return json.dumps(json.loads(document) | changes).encode()


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        ("experiment.uid: 0 is not", {"uid": 0}),
        ("experiment.uid: True is not", {"uid": True}),
        ("experiment.revision: 1.0 is not", {"revision": 1.0}),
        ("'flying' is not a valid State", {"state": "flying"}),
        ("not a name", {"name": "../etc"}),
        ("has the spec of answers", {"name": "others"}),
        ("states of 1 arms for a spec of 3", {"arms": [asdict(ArmState())]}),
        ("experiment.arms.0.hold_ppm: 1000001", {"arms": [asdict(ArmState(hold_ppm=1_000_001))] * 3}),
        ("arm 3 is promoted", {"promoted": 3}),
        ("hexadecimal", {"salt": "xyz"}),
        ("spec: None is not a mapping", {"spec": None}),
        ("arms", {"spec": {}}),
        ("experiment.past: 1 is not a list", {"past": 1}),
    ],
)
def test_a_wrong_field_of_an_experiment_is_named(says: str, changes: dict[str, object]) -> None:
    with pytest.raises(CorruptStored, match=says):
        load_experiment("key", changed(dump_experiment(EXPERIMENT), **changes))


@pytest.mark.parametrize(
    ("says", "changes"),
    [
        ("ranges end at 5, not at 1000000", {"ranges": [[0, 5, 0]]}),
        ("partition", {"ranges": [[0, 1_000_000, 9]]}),
        ("not \\[low, high, arm\\]", {"ranges": [[0, 1_000_000]]}),
        ("allocation.number: 0", {"number": 0}),
        ("allocation.centres.0: 'x'", {"centres": ["x"]}),
        ("allocation.arms: 257", {"arms": 257}),
    ],
)
def test_a_wrong_field_of_an_allocation_is_named(says: str, changes: dict[str, object]) -> None:
    with pytest.raises(CorruptStored, match=says):
        load_allocation("key", changed(dump_allocation(ALLOCATION), **changes))


def test_numbers_that_are_none_are_refused() -> None:
    for text in (b"NaN", b"Infinity", b"-Infinity", b"1e999"):
        raw = dump_allocation(replace(ALLOCATION, centres=(0.25, 0.5))).replace(b"0.25", text)
        with pytest.raises(CorruptStored, match="finite"):
            load_allocation("key", raw)
    with pytest.raises(ValueError, match="JSON compliant"):
        dump_allocation(replace(ALLOCATION, centres=(float("nan"),)))


def test_an_error_about_signing_keys_shows_none() -> None:
    secret = bytes(range(100, 132))
    raw = dump_key_ring(KeyRing({1: secret}, 1))
    for cut in range(len(raw)):
        with pytest.raises(CorruptStored) as told:
            load_key_ring("key", raw[:cut])
        assert secret.hex()[:8] not in str(told.value)
    with pytest.raises(CorruptStored) as told:
        load_key_ring("key", changed(raw, keys=[secret.hex()]))
    assert secret.hex()[:8] not in str(told.value)


def test_an_allocation_must_fit_its_experiment() -> None:
    assert misfit(EXPERIMENT, ALLOCATION) is None
    assert "epoch 9" in (misfit(EXPERIMENT, replace(ALLOCATION, epoch=9)) or "")
    assert "1 metrics" in (misfit(EXPERIMENT, replace(ALLOCATION, centres=(0.5,))) or "")


HOSTILE = [
    b"",
    b"null",
    b"[]",
    b"{}",
    b'"x"',
    b"{",
    b"\xff\xfe",
    b"[" * 100_000,
    b"9" * 5000,
    b'{"schema":' + b"9" * 5000,
]


@pytest.mark.parametrize(("value", "dump", "load"), DOCUMENTS, ids=KINDS)
def test_hostile_bytes_are_corrupt(value: object, dump: Any, load: Any) -> None:
    for raw in HOSTILE:
        with pytest.raises(CorruptStored, match=r"^key: "):
            load("key", raw)


def mutated(draw: random.Random, raw: bytes) -> bytes:
    """Bytes with a few edits: flipped, cut, doubled, replaced by other JSON, blanked."""
    edited = bytearray(raw)
    for _ in range(draw.randint(1, 3)):
        at = draw.randrange(len(edited) + 1)
        match draw.randrange(6):
            case 0 if at < len(edited):
                edited[at] ^= 1 << draw.randrange(8)
            case 1:
                edited = edited[:at]
            case 2:
                edited[at:at] = edited[max(at - 20, 0) : at]
            case 3:
                edited[at : at + draw.randint(0, 5)] = draw.choice(
                    [
                        b"null",
                        b"-1",
                        b"1e400",
                        b'""',
                        b"[]",
                        b"{}",
                        b"true",
                        b"99999999999999999999",
                        b"\xff",
                        b"NaN",
                    ]
                )
            case 4:
                edited[at : at + draw.randint(1, 40)] = b""
            case _:
                edited += bytes([draw.randrange(256)])
    return bytes(edited)


def blanked(draw: random.Random, raw: bytes) -> bytes:
    """A document with some values, at any depth, blank or of another type."""
    root = json.loads(raw)
    for _ in range(draw.randint(1, 3)):
        node = root
        while True:
            keys = list(node) if isinstance(node, dict) else list(range(len(node)))
            if not keys:
                break
            key = draw.choice(keys)
            if isinstance(node[key], dict | list) and node[key] and draw.random() < 0.8:
                node = node[key]
                continue
            node[key] = draw.choice([None, "", 0, -1, 1.5, True, [], {}, "x", 1 << 70, [[]], {"a": 1}])
            break
    return json.dumps(root).encode()


@pytest.mark.parametrize(("value", "dump", "load"), DOCUMENTS, ids=KINDS)
def test_mutated_documents_are_right_or_corrupt(value: object, dump: Any, load: Any) -> None:
    """2,500 mutations of each kind, 10,000 in all."""
    draw, raw, refused = random.Random(17), dump(value), 0
    for index in range(2500):
        edited = blanked(draw, raw) if index % 3 == 0 else mutated(draw, raw)
        try:
            found = load("key", edited)
        except CorruptStored as error:
            refused += str(error).startswith("key: ")
        else:
            assert load("key", dump(found)) == found or isinstance(found, AuditRecord)
    assert refused > 1200

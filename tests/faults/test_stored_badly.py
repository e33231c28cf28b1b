"""Whatever stands in the store, servers serve: mutated documents, fields and kinds of a newer version.

Faults 27 and 28, case C512. What cannot be read is left as it was last good, by name, and the rest is followed.
"""

from __future__ import annotations

import json
import random
from typing import Any

from server.snapshot import Mode, SnapshotKeeper
from server.store.memory import MemoryStore
from tests.fakes import FakeClock
from tests.serving import Faulty, load, put_running, reshare

WRONG: list[Any] = [
    None,
    "",
    "x" * 5000,
    -1,
    0,
    1 << 70,
    1.5,
    float("nan"),
    True,
    [],
    {},
    [[]],
    {"schema": 99},
]


def mutated(document: Any, draw: random.Random) -> Any:
    """One place of a JSON document replaced, dropped, added or moved."""
    places: list[tuple[Any, Any]] = []

    def walk(value: Any) -> None:
        items = (
            value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
        )
        for key, each in items:
            places.append((value, key))
            walk(each)

    walk(document)
    inside, key = draw.choice(places)
    turn = draw.random()
    if turn < 0.2:
        del inside[key]
    elif turn < 0.4 and isinstance(inside, dict):
        inside[draw.choice(["quorum", "", "schema", "arms"])] = draw.choice(WRONG)
    elif turn < 0.5 and isinstance(inside, list):
        inside.append(draw.choice(WRONG))
    else:
        inside[key] = draw.choice(WRONG)
    return document


def garbled(raw: bytes, draw: random.Random) -> bytes:
    """A document as no writer of ours would write it."""
    turn = draw.random()
    if turn < 0.1:
        return raw[: draw.randrange(len(raw))]
    if turn < 0.2:
        at = draw.randrange(len(raw))
        return raw[:at] + bytes([raw[at] ^ 1 << draw.randrange(8)]) + raw[at + 1 :]
    if turn < 0.25:
        return draw.choice([b"", b"null", b"[" * 50_000, b"{}", bytes(300), b'{"schema":1}'])
    return json.dumps(mutated(json.loads(raw), draw)).encode()


def test_mutated_documents_crash_nothing_and_move_nothing_else(full: bool) -> None:
    clock = FakeClock()
    memory = MemoryStore(clock.now_ms)
    store = Faulty(memory)
    memory.beat("learner", 1 << 40)
    put_running(store)
    put_running(store, "other")
    keeper = SnapshotKeeper(store, clock)
    keeper.poll()
    draw = random.Random(28)
    refused = 0
    kept = memory._kept["answers"]
    good = kept.experiment, kept.allocation
    for _ in range(10_000 if full else 1000):
        kept.experiment, kept.allocation = good
        which = draw.choice(["experiment", "allocation"])
        setattr(kept, which, garbled(getattr(kept, which), draw))
        kept.generation += 1
        memory._version += 1
        now = reshare(memory, load(memory, "other"), (500_000, 250_000, 250_000))
        keeper.poll()
        assert keeper.snapshot is not None
        entry = keeper.snapshot.entries["answers"]
        refused += bool(entry.fault)
        shares = entry.table.shares_ppm
        assert sum(shares) == 1_000_000
        assert all(share >= 0 for share in shares)
        decision = entry.table.decide("u", {})
        assert 0 < decision.propensity_ppm <= 1_000_000
        assert keeper.snapshot.entries["other"].generation == now.generation
    assert refused > 500
    kept.experiment, kept.allocation = good
    kept.generation += 1
    memory._version += 1
    keeper.poll()
    assert keeper.snapshot is not None
    assert not keeper.snapshot.entries["answers"].fault


def test_what_a_newer_version_writes_freezes_that_experiment_alone() -> None:
    """This server goes on with what it knew, and says so; after its update it follows."""
    clock = FakeClock()
    memory = MemoryStore(clock.now_ms)
    memory.beat("learner", 1 << 40)
    put_running(memory)
    put_running(memory, "other")
    keeper = SnapshotKeeper(memory, clock)
    keeper.poll()
    kept = memory._kept["answers"]
    good = kept.experiment
    newer = json.loads(good)
    unknown_field = {**newer, "quorum": 3}
    unknown_kind = json.loads(good)
    unknown_kind["spec"]["allocator"] = {"kind": "oracle"}
    newer_schema = {**newer, "schema": newer["schema"] + 1}
    for document in (unknown_field, unknown_kind, newer_schema):
        kept.experiment = json.dumps(document).encode()
        kept.generation += 1
        memory._version += 1
        now = reshare(memory, load(memory, "other"), (600_000, 200_000, 200_000))
        keeper.poll()
        snapshot = keeper.snapshot
        assert snapshot is not None
        entry = snapshot.entries["answers"]
        assert "cannot be read" in entry.fault
        assert entry.table.shares_ppm == (400_000, 300_000, 300_000)
        assert snapshot.entries["other"].generation == now.generation
        assert snapshot.mode(snapshot.entries["other"], clock.monotonic_s()) is Mode.FRESH
    fresh = SnapshotKeeper(memory, clock)
    fresh.poll()
    assert fresh.snapshot is not None
    assert set(fresh.snapshot.entries) == {"other"}
    assert "answers" in fresh.snapshot.unreadable
    kept.experiment = good
    kept.generation += 1
    memory._version += 1
    for each in (keeper, fresh):
        each.poll()
        assert each.snapshot is not None
        assert not each.snapshot.entries["answers"].fault
        assert each.snapshot.entries["answers"].generation == kept.generation

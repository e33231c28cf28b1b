"""What the store keeps so that nothing counts twice, in bytes an event: marks, values and ids, in a real Valkey.

    uv run python benchmarks/bench_memory.py [--events 1000000]

A writer folds so many distinct rewards of one kind, then all memory of the server that is in use is compared with what
was before (``used_memory``), and with what it says of the keys that recognise repeats (``MEMORY USAGE``). No log is
written, so nothing else grows; every reward must have been applied, and a sample of them, folded again, must be
recognised. JSON to stdout, a table to stderr. Nothing depends on time.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import redis

from bandit.ledger import ONE
from bandit.log import REWARDS, LogEntry
from bandit.reward import RewardRecord
from bandit.rollout.transitions import create, start
from bandit.spec.parse import parse_mapping
from benchmarks.service import machine
from server.learner import Writer
from server.store.base import Commit, Store, Stored
from server.store.embedded import Embedded
from server.store.redis import RedisStore

NAME = "memory"
NOW_MS = 1_767_225_600_000
FOLD, SAMPLE = 1000, 10_000


class Case(NamedTuple):
    """One kind of rewards. ``of``: one in so many decisions has one; ``fold``: rewards a fold; ``issuers``: servers."""

    name: str
    joined: bool = False
    foreign: bool = False
    of: int = 1
    fold: int = FOLD
    issuers: int = 1


CASES = (
    Case("marks, every decision rewarded"),
    Case("marks, one decision in ten rewarded", of=10),
    Case("marks, eight servers", issuers=8),
    Case("values (joined metrics)", joined=True),
    Case("values, one decision in ten", joined=True, of=10),
    Case("foreign ids, folds of 1000", foreign=True),
    Case("foreign ids, folds of 20", foreign=True, fold=20),
)


def begun(store: Store, case: Case) -> Stored:
    """A running experiment of two arms; joined metrics keep values, others marks."""
    metrics: list[dict[str, Any]] = [
        {"name": "good", "kind": "bernoulli", "direction": "maximize", "attribution_window": "6h"}
    ]
    objective = [{"metric": "good", "weight": 0.5 if case.joined else 1.0}]
    if case.joined:
        metrics.append({"name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0, 1]})
        objective.append({"metric": "cost", "weight": 0.5})
    spec = parse_mapping(
        {
            "experiment": NAME,
            "arms": [{"name": "one", "control": True}, {"name": "two"}],
            "metrics": metrics,
            "objective": objective,
            "rewards_without_token": case.foreign,
        }
    )
    now = create(spec, store.next_uid(), b"salt" * 4, NOW_MS)
    generation = store.commit(Commit(0, now.experiment, now.allocation))
    moved = start(now.experiment, now.allocation, NOW_MS)
    store.commit(Commit(generation, moved.experiment, moved.allocation))
    stored = store.load(NAME)
    if stored is None:
        raise SystemExit("the experiment is gone")
    return stored


def records(case: Case, stored: Stored) -> Iterator[bytes]:
    """Rewards without end, each of another decision or event; an hour of them is a hundred thousand and more."""
    dice = random.Random(case.name)
    for index in count():
        issuer = 0 if case.foreign else 1 + index % case.issuers
        number = dice.getrandbits(63) if case.foreign else index // case.issuers * case.of
        yield RewardRecord(
            issuer,
            1,
            number,
            NOW_MS + index // 100,
            stored.allocation.number,
            ONE * (index % 2),
            0,
            index % 2,
            0,
        ).pack()


def measured(case: Case, events: int) -> dict[str, Any]:
    """Bytes an event of one case, on a server of its own."""
    with tempfile.TemporaryDirectory() as folder, Embedded(Path(folder) / "valkey") as server:
        store, admin = RedisStore(server.url), redis.Redis.from_url(server.url, protocol=2)
        try:
            stored = begun(store, case)
            writer = Writer.open(store, stored)
            writer.flush()
            before = used(admin)
            made, left, first = records(case, stored), events, b""
            for fold in count(1):
                batch = b"".join(next(made) for _ in range(min(case.fold, left)))
                first = first + batch if len(first) < SAMPLE * 40 else first
                writer.fold([LogEntry(f"{NOW_MS + 1 + fold}-0", REWARDS, batch)])
                left -= case.fold
                if left <= 0:
                    break
            grown = used(admin) - before
            keys = [key for key in admin.scan_iter(count=1000) if b":pages" in key or b":foreign" in key]
            said = sum(int(admin.memory_usage(key, samples=0) or 0) for key in keys)
            writer.fold([LogEntry(f"{NOW_MS + 10_000_000}-0", REWARDS, first)])
            counts = writer.counts
            if (counts.applied, counts.duplicate) != (events, len(first) // 40):
                raise SystemExit(
                    f"{case.name}: {counts} of {events} events, of which {len(first) // 40} came twice"
                )
        finally:
            admin.close()
            store.close()
    return {
        "case": case.name,
        "events": events,
        "used_memory": round(grown / events, 2),
        "memory_usage": round(said / events, 2),
        "keys": len(keys),
    }


def used(admin: Any) -> int:
    """Bytes that the server has in use."""
    return int(admin.info("memory")["used_memory"])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--events", type=int, default=1_000_000)
    chosen = parser.parse_args()
    rows = []
    for case in CASES:
        row = measured(case, chosen.events)
        rows.append(row)
        print(f"{row['case']:40} {row['used_memory']:7.2f} {row['memory_usage']:7.2f}", file=sys.stderr)
    print(json.dumps({"machine": machine(), "rows": rows}))


if __name__ == "__main__":
    main()

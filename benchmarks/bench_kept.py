"""What it costs to keep counted events so that those of one source can be removed: memory, folding, and a removal.

    uv run python benchmarks/bench_kept.py [--events 200000] [--rounds 3]

The same rewards of three sources, entries of 1 or 100, are folded into a real Valkey by a writer that keeps no events
and by one that does; then the trailing ledger folds them all, as it does when they grow too old, and one source is
removed. CPU of this process; JSON to stdout, a table to stderr. Counts after the removal are checked.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from pathlib import Path
from unittest.mock import patch

import redis

from bandit.ledger import ONE
from bandit.log import REWARDS
from bandit.reward import RewardRecord
from bandit.rollout.transitions import create, remove_source, start
from bandit.spec.parse import parse_mapping
from benchmarks.service import machine
from server import keeping
from server.keeping import Keeping, open_keeping
from server.learner import Writer
from server.store.base import Commit, Store, Stored
from server.store.embedded import Embedded
from server.store.fed import Feed
from server.store.redis import RedisStore

NAME = "kept"
NOW_MS = 1_767_225_600_000
READ = 2000


def experiment(store: Store, retention: str) -> Stored:
    """A running experiment of two arms."""
    spec = parse_mapping(
        {
            "experiment": NAME,
            "unit": {"kind": "request", "mode": "request"},
            "arms": [{"name": "a", "control": True}, {"name": "b"}],
            "metrics": [{"name": "good", "kind": "bernoulli", "direction": "maximize"}],
            "objective": [{"metric": "good"}],
            "event_retention": retention,
        }
    )
    made = create(spec, store.next_uid(), bytes(16), store.now_ms())
    store.commit(Commit(0, made.experiment, made.allocation))
    begun = start(made.experiment, made.allocation, store.now_ms())
    store.commit(Commit(1, begun.experiment, begun.allocation))
    return load(store)


def load(store: Store) -> Stored:
    """It as stored."""
    found = store.load(NAME)
    assert found is not None
    return found


def fill(store: Store, stored: Stored, events: int, together: int) -> None:
    """Rewards of decisions 0, 1, 2 ... into the log, of three sources in turn."""
    now_ms, uid = store.now_ms(), stored.experiment.uid
    for first in range(0, events, 10_000):
        entries: dict[str, list[tuple[bytes, bytes]]] = {"a": [], "b": [], "c": []}
        for at in range(first, min(first + 10_000, events), together):
            rows = [
                RewardRecord(1, 1, number, now_ms, 2, ONE * (number % 3 == 0), 0, number % 2, 0).pack()
                for number in range(at, at + together)
            ]
            entries["abc"[at // together % 3]].append((REWARDS, b"".join(rows)))
        for source, made in entries.items():
            store.feed(Feed(NAME, uid, source, made, {}))


def fold(store: Store, writer: Writer) -> float:
    """All of the log; CPU seconds."""
    began = time.process_time()
    state = writer.state
    while entries := store.read({NAME: state.offset}, READ, 0).get(NAME):
        writer.fold(entries)
    return time.process_time() - began


def measure(url: str, events: int, together: int) -> dict[str, float]:
    """One round."""
    found: dict[str, float] = {}
    for retention in ("0s", "1d"):
        with redis.Redis.from_url(url, protocol=2) as client:
            client.flushall()
            store = RedisStore(url)
            stored = experiment(store, retention)
            writer = open_keeping(store, stored)
            fill(store, stored, events, together)
            key = store._keys.of(NAME).log
            found["log bytes an event"] = float(client.memory_usage(key, samples=0)) / events
            found[f"fold us an event, {retention}"] = fold(store, writer) / events * 1e6
            if isinstance(writer, Keeping):
                now = load(store)
                done = remove_source(now.experiment, now.allocation, "a", 0, store.now_ms())
                store.commit(Commit(now.generation, done.experiment, done.allocation))
                writer.sync(load(store))
                began, wall = time.process_time(), time.perf_counter()
                while writer.stands:
                    writer.tend()
                found["removal us an event"] = (time.process_time() - began) / events * 1e6
                found["removal s"] = time.perf_counter() - wall
                counts = writer.counts
                if counts.applied + counts.rejected != events or counts.sources["a"].applied:
                    raise SystemExit(f"counted {counts}")
                began = time.process_time()
                with patch.multiple(keeping, SLACK_MS=0, BATCH_MS=0):
                    newest_ms = int(writer.state.offset.partition("-")[0]) + 2 * 86_400_000
                    while writer.trailing.follow(f"{newest_ms}-0"):
                        pass
                found["trailing us an event"] = (time.process_time() - began) / events * 1e6
                if writer.trailing.counts != counts:
                    raise SystemExit(f"the trailing ledger counted {writer.trailing.counts}")
            store.close()
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--events", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    wanted = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory() as folder, Embedded(Path(folder)) as embedded:
        for together in (1, 100):
            measure(embedded.url, min(wanted.events, 5000), together)  # compiles
            rounds = [measure(embedded.url, wanted.events, together) for _ in range(wanted.rounds)]
            results[f"entries of {together}"] = {
                name: round(statistics.median(each[name] for each in rounds), 3) for name in rounds[0]
            }
    print(json.dumps({"machine": machine(), "events": wanted.events, **results}))
    for case, numbers in results.items():
        for name, value in numbers.items():
            print(f"{case:16} {name:32} {value:12.3f}", file=sys.stderr)


if __name__ == "__main__":
    main()

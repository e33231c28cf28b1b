"""What a hot experiment costs the others: their rewards' round trip, until counted, beside one and without.

    uv run python benchmarks/bench_fair.py [--seconds 10] [--rounds 3] [--hot 18000] [--batch 100]

Three experiments have a reward each, one after the other, and wait until it is counted. A fourth takes 18,000 rewards
a second meanwhile, nine tenths of fault 30's load: in every other phase at the same banditd, in the others at a second
one on this machine, with a store of its own. So both kinds of phases meet the same machine, and what differs is what
experiments of one service cost each other. ``idle`` is without that load anywhere. How long the store's one thread is
kept by a fold comes from its slow log. In the end all counts must be exact, else the run ends with an error. JSON to
stdout, a table to stderr.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import redis

from bandit.client import Client
from bandit.client.connection import split_tokens
from bandit.spec.parse import parse_mapping
from bandit.v1 import reward_service_pb2
from benchmarks.service import Banditd, machine
from server.store.embedded import Embedded
from server.store.link import Script

HOT, OTHERS = "hot", ("one", "two", "three")
THREADS, PAUSE_S = 2, 0.02
APPLIED_S = 120.0


def begin(client: Client, name: str) -> None:
    """A running experiment of two arms and one metric."""
    client.create(
        parse_mapping(
            {
                "experiment": name,
                "arms": [{"name": "a", "control": True}, {"name": "b"}],
                "metrics": [{"name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0, 10]}],
                "objective": [{"metric": "cost"}],
            }
        )
    )
    client.start(name)


def rewards(client: Client, name: str, first: int, count: int) -> list[reward_service_pb2.RewardEvent]:
    """A reward of each of so many new decisions."""
    reply = client.decide_batch(name, [f"u{number}" for number in range(first, first + count)])
    return [
        reward_service_pb2.RewardEvent(token=token, metric="cost", value=1.0) for token in split_tokens(reply)
    ]


class Sent:
    """A banditd, and how many rewards went to each of its experiments."""

    def __init__(self, target: str) -> None:
        self.target = target
        self.counts = dict.fromkeys((HOT, *OTHERS), 0)
        self._lock = threading.Lock()

    def add(self, name: str, count: int) -> int:
        """Returns how many there were before."""
        with self._lock:
            before = self.counts[name]
            self.counts[name] += count
            return before


def phase(sent: Sent, heated: Sent, seconds: float, hot: int, batch: int) -> list[float]:
    """Round trips of the others, s, while ``heated`` takes so many hot rewards a second in batches."""
    ended = threading.Event()

    def heat() -> None:
        with Client(heated.target, timeout_s=30) as client:
            due_s = time.perf_counter()
            while not ended.wait(max(due_s - time.perf_counter(), 0.0)):
                client.report_rewards(rewards(client, HOT, heated.add(HOT, batch), batch))
                due_s = max(due_s + batch * THREADS / hot, time.perf_counter() - 0.1)

    threads = [threading.Thread(target=heat) for _ in range(THREADS if hot else 0)]
    for thread in threads:
        thread.start()
    trips: list[float] = []
    with Client(sent.target, timeout_s=30) as client:
        until = time.perf_counter() + seconds
        while time.perf_counter() < until:
            for name in OTHERS:
                (event,) = rewards(client, name, sent.add(name, 1), 1)
                began = time.perf_counter()
                client.report_rewards([event], wait=True)
                trips.append(time.perf_counter() - began)
            time.sleep(PAUSE_S)
    ended.set()
    for thread in threads:
        thread.join()
    return trips


def folds_us(admin: Any) -> list[int]:
    """How long each fold of late kept the store, us."""
    sha = Script("fold").sha.encode()
    return [int(each["duration"]) for each in admin.slowlog_get(100_000) if sha in each["command"]]


def check(sent: Sent) -> None:
    """Wait until all is counted. Raises SystemExit when the counts are not exact."""
    deadline = time.monotonic() + APPLIED_S
    with Client(sent.target, timeout_s=30) as client:
        for name, count in sent.counts.items():
            while (told := client.status(name).rewards).applied < count:
                if time.monotonic() > deadline:
                    raise SystemExit(f"{name}: {told} of {count} after {APPLIED_S:g} s")
                time.sleep(0.1)
            if (told.applied, told.duplicate, told.rejected) != (count, 0, 0):
                raise SystemExit(f"{name}: {told} of {count}")


def part(values: list[float] | list[int], share: float) -> float:
    """A quantile."""
    return float(sorted(values)[min(int(share * len(values)), len(values) - 1)])


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--hot", type=int, default=18_000)
    parser.add_argument("--batch", type=int, default=100)
    chosen = parser.parse_args()
    trips: dict[str, list[float]] = {"idle": [], "elsewhere": [], "beside": []}
    folds: list[int] = []
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        made = []
        for number in range(2):
            server = stack.enter_context(Embedded(folder / f"valkey-{number}"))
            banditd = stack.enter_context(Banditd("--store", server.url, "--workers", "1"))
            sent = Sent(banditd.target)
            with Client(sent.target, timeout_s=30) as client:
                for name in sent.counts:
                    begin(client, name)
            made.append((sent, server))
        (here, server), (there, _) = made
        admin: Any = stack.enter_context(redis.Redis.from_url(server.url, protocol=2))
        admin.config_set("slowlog-max-len", 100_000)
        for heated in (here, there):
            phase(here, heated, 2.0, chosen.hot, chosen.batch)
        hot_before = here.counts[HOT]
        for _ in range(chosen.rounds):
            trips["idle"] += phase(here, there, chosen.seconds, 0, chosen.batch)
            trips["elsewhere"] += phase(here, there, chosen.seconds, chosen.hot, chosen.batch)
            admin.config_set("slowlog-log-slower-than", 0)
            trips["beside"] += phase(here, here, chosen.seconds, chosen.hot, chosen.batch)
            admin.config_set("slowlog-log-slower-than", -1)
            folds += folds_us(admin)
            admin.slowlog_reset()
        hot_s = (here.counts[HOT] - hot_before) / (chosen.rounds * chosen.seconds)
        for sent, _ in made:
            check(sent)
    row = {
        "hot_rewards_s": round(hot_s),
        **{
            f"{name}_ms": {str(share): round(part(found, share) * 1000, 1) for share in (0.5, 0.9, 0.99)}
            for name, found in trips.items()
        },
        "ratio_p99": round(part(trips["beside"], 0.99) / part(trips["elsewhere"], 0.99), 2),
        "trips": {name: len(found) for name, found in trips.items()},
        "fold_ms": {str(share): round(part(folds, share) / 1000, 2) for share in (0.5, 0.99, 1.0)},
        "folds": len(folds),
    }
    for name, value in row.items():
        print(f"{name:16} {value}", file=sys.stderr)
    print(json.dumps({"machine": machine(), "row": row}))


if __name__ == "__main__":
    main()

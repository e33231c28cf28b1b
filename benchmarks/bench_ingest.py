"""Rewards through gRPC until the ledger has them, held against a bare pipelined XADD on the same Valkey, same run.

    uv run python benchmarks/bench_ingest.py [--rewards 100000] [--rounds 3]

``xadd``: redis-py sends one 40-byte entry an XADD, a thousand a pipeline, no transaction: what a program without a
service would do to write the same events down, uncounted. ``ingest``: ReportRewards in batches of a thousand, from
four threads; the clock stops when the ledger's status shows them applied. A tenth of the events is sent twice.
After each round the counts must be exact (==), arm by arm, else the run ends with an error. JSON to stdout, a table
to stderr. Nothing is pinned: the serving process, the learner, Valkey and the load share the machine.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from statistics import median
from typing import Any

import redis

from bandit.client import Client
from bandit.client.connection import split_tokens
from bandit.errors import NotFound
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_mapping
from bandit.v1 import experiment_pb2, reward_service_pb2
from benchmarks.service import Banditd, cpu_s, machine
from server.store.embedded import Embedded

BATCH = 1000
THREADS = 4
TWICE = 10  # one event in so many is sent a second time
DECIDE = 5000
READY_S = 10.0
APPLIED_S = 120.0
LOOK_S = 0.05
WARM = 2000
PROCESSES = ("serve_cpu", "learn_cpu", "valkey_cpu")


def ingest_spec() -> ExperimentSpec:
    """Five arms, one metric."""
    return parse_mapping(
        {
            "experiment": "ingest",
            "arms": [{"name": f"arm-{index}", "control": index == 0} for index in range(5)],
            "metrics": [
                {"name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0, 10]},
            ],
            "objective": [{"metric": "cost"}],
        }
    )


class Book:
    """Own counts over all rounds, by arm."""

    def __init__(self) -> None:
        self.rewards: Counter[str] = Counter()
        self.decisions: Counter[str] = Counter()
        self.repeats = 0

    def exact(self, status: experiment_pb2.ExperimentStatus) -> bool:
        """Does the ledger hold exactly these, and has it seen every repeat?"""
        arms = {arm.arm: arm for arm in status.arms}
        return (
            all(arm.exposures == self.decisions[name] for name, arm in arms.items())
            and all(arm.metrics[0].n == self.rewards[name] for name, arm in arms.items())
            and status.rewards.applied == self.rewards.total()
            and status.rewards.duplicate == self.repeats
        )


def tokens(client: Client, count: int, turn: int, book: Book) -> list[bytes]:
    """Decide ``count`` units that were never seen before; their tokens."""
    found: list[bytes] = []
    while len(found) < count:
        size = min(DECIDE, count - len(found))
        reply = client.decide_batch("ingest", [f"unit-{turn}-{len(found) + each}" for each in range(size)])
        for index, token in zip(reply.arm_indexes, split_tokens(reply), strict=True):
            book.decisions[reply.arms[index]] += 1
            book.rewards[reply.arms[index]] += 1
            found.append(token)
    return found


def batches(made: Sequence[bytes], book: Book) -> list[list[reward_service_pb2.RewardEvent]]:
    """Events in batches of a thousand; the repeats of a batch ride with the next one."""
    events = [
        reward_service_pb2.RewardEvent(token=token, metric="cost", value=(index % 997) / 100)
        for index, token in enumerate(made)
    ]
    repeats = events[::TWICE]
    book.repeats += len(repeats)
    sent = [*events, *repeats]
    return [sent[at : at + BATCH] for at in range(0, len(sent), BATCH)]


def ingest(
    client: Client, work: Sequence[list[reward_service_pb2.RewardEvent]], book: Book
) -> tuple[float, float]:
    """(s until all were accepted, s until all were applied). Raises SystemExit when the counts are not exact."""
    began_s = time.perf_counter()

    def send(batch: list[reward_service_pb2.RewardEvent]) -> None:
        for result in client.report_rewards(batch):
            if result.outcome != reward_service_pb2.REWARD_OUTCOME_ACCEPTED:
                raise SystemExit(f"a reward was not accepted: {result.reason} {result.message}")

    with ThreadPoolExecutor(THREADS) as threads:
        for done in [threads.submit(send, batch) for batch in work]:
            done.result()
    accepted_s = time.perf_counter() - began_s
    while not book.exact(status := client.status("ingest")):
        if time.perf_counter() - began_s > APPLIED_S:
            raise SystemExit(f"the counts are not exact after {APPLIED_S:.0f} s: {status}")
        time.sleep(LOOK_S)
    return accepted_s, time.perf_counter() - began_s


def xadd(store: Any, count: int) -> float:
    """Seconds to append ``count`` entries of 40 bytes, a thousand a pipeline."""
    payload, began_s = bytes(40), time.perf_counter()
    for at in range(0, count, BATCH):
        pipeline = store.pipeline(transaction=False)
        for _ in range(min(BATCH, count - at)):
            pipeline.xadd("bench:bare", {"e": payload})
        pipeline.execute()
    passed_s = time.perf_counter() - began_s
    if store.xlen("bench:bare") != count:
        raise SystemExit("XADD lost entries")
    store.delete("bench:bare")
    return passed_s


def run(rewards: int, rounds: int) -> dict[str, Any]:
    """Rounds of both, in turn; the first one is for warming up."""
    found: dict[str, list[float]] = {name: [] for name in ("xadd", "accepted", "applied", *PROCESSES)}
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory(prefix="banditd-bench-"))
        embedded = stack.enter_context(Embedded(folder))
        store = redis.Redis.from_url(embedded.url)
        banditd = stack.enter_context(Banditd("--workers", "1", "--store", embedded.url))
        pids = [banditd.one("--child serve"), banditd.one("--child learn"), embedded.pid]
        client = stack.enter_context(Client(banditd.target, timeout_s=60.0, actor="bench"))
        client.create(ingest_spec())
        client.start("ingest")
        book = Book()
        for turn in range(-1, rounds):
            count = rewards if turn >= 0 else WARM
            work = batches(_known(client, count, turn, book), book)
            bare = count / xadd(store, count)
            cpu = [cpu_s(pid) for pid in pids]
            accepted_s, applied_s = ingest(client, work, book)
            if turn < 0:
                continue
            sent = sum(map(len, work))
            found["xadd"].append(bare)
            found["accepted"].append(sent / accepted_s)
            found["applied"].append(sent / applied_s)
            for name, pid, before in zip(PROCESSES, pids, cpu, strict=True):
                found[name].append((cpu_s(pid) - before) / sent * 1e6)
            say(f"round {turn + 1} of {rounds}: {sent / applied_s:,.0f} events/s until applied, counts exact")
        version = dict(store.info("server"))
    return found | {"store": f"Valkey {version.get('valkey_version', version['redis_version'])}"}


def _known(client: Client, count: int, turn: int, book: Book) -> list[bytes]:
    """``tokens``, as soon as the server knows the experiment."""
    deadline = time.monotonic() + READY_S
    while True:
        try:
            return tokens(client, count, turn, book)
        except NotFound:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Medians, and the ratio to the bare XADD of the same round."""
    rates = {
        f"{name}_events_per_s": {
            "median": round(median(found[name])),
            "min": round(min(found[name])),
            "max": round(max(found[name])),
        }
        for name in ("xadd", "accepted", "applied")
    }
    costs = {f"{name}_us_per_event": round(median(found[name]), 2) for name in PROCESSES}
    pairs = zip(found["applied"], found["xadd"], strict=True)
    return rates | costs | {"applied_over_xadd": round(median(one / other for one, other in pairs), 3)}


def table(found: dict[str, Any]) -> str:
    """The summary for people."""
    rows = [
        ("bare pipelined XADD", "xadd"),
        ("accepted by gRPC", "accepted"),
        ("applied in the ledger", "applied"),
    ]
    lines = [f"{'':24}{'events/s':>12}{'min-max':>22}"]
    for label, name in rows:
        each = found[f"{name}_events_per_s"]
        spread = f"{each['min']:,}-{each['max']:,}"
        lines.append(f"{label:24}{each['median']:>12,}{spread:>22}")
    costs = ", ".join(f"{name.removesuffix('_cpu')} {found[f'{name}_us_per_event']}" for name in PROCESSES)
    lines.append(f"CPU us an event: {costs}")
    lines.append(f"applied over bare XADD: {found['applied_over_xadd']}; counts exact in every round")
    return "\n".join(lines) + "\n"


def say(line: str) -> None:
    """Progress, on stderr."""
    sys.stderr.write(f"bench_ingest: {line}\n")


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Rewards through gRPC into the ledger, against a bare XADD.")
    parser.add_argument("--rewards", type=int, default=100_000, help="distinct rewards of each round")
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    described = machine("grpcio", "protobuf", "redis", "hiredis", "numba", "numpy")
    measured = run(options.rewards, options.rounds)
    found = {
        "machine": described | {"store": measured.pop("store")},
        "rewards": options.rewards,
        "rounds": options.rounds,
        **summary(measured),
    }
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    sys.stderr.write(table(found))


if __name__ == "__main__":
    main()

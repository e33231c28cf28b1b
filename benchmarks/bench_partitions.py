"""One experiment in one slot of a cluster and split over four, fed as fast as this machine can: what each server does.

    uv run python benchmarks/bench_partitions.py [--rewards 200000] [--rounds 3]

Four primaries on loopback. Rewards are appended from two processes, ten to an entry, sixteen entries a call, as
the reward service does for callers that come together; then one learner's writers fold all of them. ``append`` and
``fold`` are rewards a second, the start of the senders left out; ``busiest`` is the CPU time of the busiest server in
both, us a reward: what one server can take is its inverse, whatever the load and the learner cost beside it here. Every
round ends with exact counts (==), or the run ends with an error. Rounds of both layouts alternate. JSON to stdout, a
table to stderr. Nothing is pinned.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from multiprocessing import get_context
from multiprocessing.synchronize import Barrier
from pathlib import Path
from statistics import median

from bandit.ids import ledger_name, ledger_names
from bandit.log import REWARDS, Append, partition_of
from bandit.reward import RewardRecord
from bandit.rollout.transitions import create, start
from benchmarks.service import machine
from server.partitioned import open_writer
from server.store.base import Commit
from server.store.keys import Keys
from server.store.redis import RedisStore
from tests.builders import SALT, spec
from tests.clusters import Cluster, Node

PARTITIONS, SENDERS = 4, 2
ISSUERS = 8
AN_ENTRY, A_CALL = 10, 16
READ = 500


def name_apart(cluster: Cluster, word: str) -> str:
    """A name whose ledgers are on as many servers."""
    keys = Keys()
    names = (f"{word}-{number}" for number in range(5000))
    return next(
        name
        for name in names
        if len({cluster.owner(keys.of(each).head).port for each in ledger_names(name, PARTITIONS)})
        == PARTITIONS
    )


def made(store: RedisStore, name: str, partitions: int, uid: int) -> None:
    """A running experiment without rewards."""
    first = create(spec(experiment=name, partitions=partitions), uid=uid, salt=SALT, now_ms=store.now_ms())
    store.commit(Commit(0, first.experiment, first.allocation))
    begun = start(first.experiment, first.allocation, store.now_ms())
    store.commit(Commit(1, begun.experiment, begun.allocation))


def send(
    url: str, name: str, uid: int, partitions: int, issuers: Sequence[int], rewards: int, ready: Barrier
) -> None:
    """One sender's part: each issuer's decisions in order."""
    each = rewards // len(issuers) // AN_ENTRY
    with closing(RedisStore(url)) as store:
        issued_ms = store.now_ms()
        entries = [
            Append(
                ledger_name(name, partition_of(issuer, 0, partitions)),
                uid,
                REWARDS,
                b"".join(
                    RewardRecord(issuer, 1, number, issued_ms, 2, 1 << 20, 0, number % 3, 0).pack()
                    for number in range(part * AN_ENTRY, (part + 1) * AN_ENTRY)
                ),
            )
            for part in range(each)
            for issuer in issuers
        ]
        ready.wait()
        for at in range(0, len(entries), A_CALL):
            store.append(entries[at : at + A_CALL])


def cpu_us(node: Node) -> float:
    """CPU time that a server has used."""
    found = node.admin.info("cpu")
    return 1e6 * (float(found["used_cpu_user"]) + float(found["used_cpu_sys"]))


def round_of(cluster: Cluster, partitions: int, rewards: int, number: int) -> dict[str, float]:
    """Append and fold so many rewards; the experiment goes afterwards."""
    uid = 100 + number
    name = name_apart(cluster, f"bench-{number}")
    issuers = range(1, ISSUERS + 1)
    parts = [list(issuers)[at::SENDERS] for at in range(SENDERS)]
    sent = sum(len(part) * (rewards // SENDERS // len(part) // AN_ENTRY) * AN_ENTRY for part in parts)
    with closing(RedisStore(cluster.url)) as store:
        made(store, name, partitions, uid)
        writer = open_writer(store, store.load(name))  # type: ignore[arg-type]
        writer.flush()
        before = [cpu_us(node) for node in cluster.nodes]
        spawn = get_context("spawn")
        ready = spawn.Barrier(SENDERS + 1)
        senders = [
            spawn.Process(
                target=send, args=(cluster.url, name, uid, partitions, part, rewards // SENDERS, ready)
            )
            for part in parts
        ]
        for each in senders:
            each.start()
        ready.wait()
        began = time.perf_counter()
        for each in senders:
            each.join()
        appended = time.perf_counter()
        while found := store.read(writer.offsets, READ, 0):
            for ledger, entries in found.items():
                writer.take(ledger, entries)
        folded = time.perf_counter()
        used = [cpu_us(node) - was for node, was in zip(cluster.nodes, before, strict=True)]
        if writer.counts.applied != sent:
            raise SystemExit(f"{sent} rewards were sent, {writer.counts.applied} were applied")
        store.delete(name, 2)
    return {
        "append": sent / (appended - began),
        "fold": sent / (folded - appended),
        "busiest": max(used) / sent,
        "all": sum(used) / sent,
    }


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rewards", type=int, default=200_000)
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    found: dict[int, list[dict[str, float]]] = {1: [], PARTITIONS: []}
    with tempfile.TemporaryDirectory() as folder, Cluster(Path(folder), primaries=PARTITIONS) as cluster:
        round_of(cluster, 1, 20_000, 0)  # compile
        for number in range(asked.rounds):
            for partitions, rounds in found.items():
                rounds.append(round_of(cluster, partitions, asked.rewards, 1 + 2 * number + (partitions > 1)))
    told = {
        str(partitions): {name: median(each[name] for each in rounds) for name in rounds[0]}
        for partitions, rounds in found.items()
    }
    print(json.dumps({"machine": machine(), "rewards": asked.rewards, "partitions": told}, indent=2))
    for label, row in told.items():
        print(
            f"{label:>2} partitions: append {row['append']:,.0f}/s, fold {row['fold']:,.0f}/s, busiest server "
            f"{row['busiest']:.2f} us, all servers {row['all']:.2f} us a reward",
            file=sys.stderr,
        )


if __name__ == "__main__":
    main()

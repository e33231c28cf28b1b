"""What tests of the exposure journal share: names, the simple fold that the fenced writer's rule is, and children.

Run as a program it forks a child for each line of its standard input, a file name, and prints the child's pid.
A child adopts, records and ships until it is killed, and appends every answered decision to its file, after the
journal has answered and not before.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import structlog

from bandit.log import EXPOSURE, EXPOSURE_HEADER, LogEntry
from server.clock import SystemClock
from server.journal import Journal, Shipper
from server.store.redis import RedisStore

ANSWER = np.dtype(
    [
        ("uid", "<u4"),
        ("issuer", "<u4"),
        ("number", "<u8"),
        ("allocation", "<u4"),
        ("cohort", "<u2"),
        ("arm", "<u2"),
    ]
)


class Known:
    """Names that are known and stay so."""

    def __init__(self, names: Mapping[int, str]) -> None:
        self.names = dict(names)

    def ledger_of(self, uid: int, issuer: int, since_s: float) -> str | None:
        return self.names.get(uid, "")


class Told(NamedTuple):
    """What the log says of one decision."""

    epoch: int
    allocation: int
    cohort: int
    arm: int


class Folded:
    """The writer's rule, plainly: per issuer, numbers below the next one are repeats, above it are a gap."""

    def __init__(self) -> None:
        self.decisions: dict[tuple[int, int], Told] = {}
        self.next: dict[int, int] = {}
        self.repeats = 0
        self.gaps = 0

    def fold(self, entries: Iterable[LogEntry]) -> Folded:
        for entry in entries:
            issuer, epoch, first = EXPOSURE_HEADER.unpack_from(entry.payload)
            expected = self.next.get(issuer, 0)
            self.gaps += max(first - expected, 0)
            records = list(EXPOSURE.iter_unpack(entry.payload[EXPOSURE_HEADER.size :]))
            for number, record in enumerate(records, first):
                if number < expected:
                    self.repeats += 1
                    assert self.decisions[issuer, number] == Told(epoch, *record[:3])
                    continue
                assert (issuer, number) not in self.decisions
                self.decisions[issuer, number] = Told(epoch, *record[:3])
            self.next[issuer] = max(expected, first + len(records))
        return self


def child(
    root: Path, url: str, namespace: str, names: Mapping[int, str], threads: int, answers_to: int
) -> None:
    """Record for ever, in calls of one and of many, from several threads."""
    store = RedisStore(url, namespace=namespace)
    issuer = store.reserve_issuers(1)
    journal = Journal(root, issuer, segment_bytes=1 << 16)
    shipper = Shipper(journal, store, Known(names), SystemClock(), interval_s=0.002)
    shipper.start()
    writing = threading.Lock()

    def work(seed: int) -> None:
        random = np.random.default_rng((issuer, seed))
        uids = sorted(names)
        while True:
            uid, allocation = int(random.choice(uids)), int(random.integers(1, 1000))
            count = 1 if random.random() < 0.9 else int(random.integers(2, 200))
            arms = random.integers(0, 64, count).astype(np.uint8)
            if count == 1:
                first = journal.record(uid, 1, allocation, 3, int(arms[0]))
            else:
                first = journal.record_many(uid, 1, allocation, 3, arms.tobytes())
            assert first is not None
            answers = np.zeros(count, ANSWER)
            answers["uid"], answers["issuer"], answers["allocation"], answers["cohort"] = (
                uid,
                issuer,
                allocation,
                3,
            )
            answers["number"], answers["arm"] = np.arange(first, first + count), arms
            with writing:
                os.write(answers_to, answers.tobytes())

    workers = [threading.Thread(target=work, args=(seed,)) for seed in range(threads)]
    for worker in workers:
        worker.start()


if __name__ == "__main__":
    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    where, at, space, *pairs = sys.argv[1:]
    known = {int(uid): name for uid, _, name in (pair.partition("=") for pair in pairs)}
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            file = os.open(line.strip(), os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            child(Path(where), at, space, known, 3, file)
        else:
            print(pid, flush=True)  # noqa: T201

"""kill -9 in the middle of decisions: every one that was answered reaches the log, and counts once."""

from __future__ import annotations

import os
import resource
import secrets
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

from bandit.log import LogEntry
from server.clock import SystemClock
from server.journal import Journal, Shipper
from server.store.embedded import Embedded
from server.store.memory import MemoryStore
from server.store.redis import RedisStore
from tests.fakes import FakeClock
from tests.journaling import ANSWER, Folded, Known, Told
from tests.serving import put_draft, until

ROOT = Path(__file__).resolve().parents[2]
KILLS = 40
ANSWERED_IN_ALL = 100_000


class Children:
    """Recording processes, one after the other, forked from one that has loaded everything."""

    def __init__(self, root: Path, store: Embedded, namespace: str, names: dict[int, str]) -> None:
        pairs = [f"{uid}={name}" for uid, name in names.items()]
        self._root = root
        self._launcher = subprocess.Popen(
            [sys.executable, "-m", "tests.journaling", str(root / "journal"), store.url, namespace, *pairs],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )

    def killed_after(self, decisions: int) -> np.ndarray[Any, np.dtype[np.void]]:
        """Start one, kill -9 it once it has answered so many; all that it answered."""
        launcher, answers = self._launcher, self._root / secrets.token_hex(4)
        assert launcher.stdin is not None
        assert launcher.stdout is not None
        launcher.stdin.write(f"{answers}\n".encode())
        launcher.stdin.flush()
        pid = int(launcher.stdout.readline())
        enough = decisions * ANSWER.itemsize
        until(lambda: answers.exists() and answers.stat().st_size >= enough, 60.0, "answers of the child")
        os.kill(pid, signal.SIGKILL)
        until(lambda: not Path(f"/proc/{pid}").exists(), what="the end of the child")
        content = answers.read_bytes()
        return np.frombuffer(content[: len(content) // ANSWER.itemsize * ANSWER.itemsize], ANSWER)

    def close(self) -> None:
        """End the launcher."""
        assert self._launcher.stdin is not None
        assert self._launcher.stdout is not None
        self._launcher.stdin.close()
        self._launcher.wait(10)
        self._launcher.stdout.close()


def whole_log(store: RedisStore | MemoryStore, name: str) -> list[LogEntry]:
    entries: list[LogEntry] = []
    while more := store.read({name: entries[-1].id if entries else "0-0"}, 5000, 0).get(name):
        entries += more
    return entries


def adopt_all(root: Path, store: RedisStore, names: dict[int, str]) -> Shipper:
    journal = Journal(root, store.reserve_issuers(1))
    shipper = Shipper(journal, store, Known(names), SystemClock())
    shipper.step()
    journal.close()
    return shipper


@pytest.mark.slow
def test_no_answered_decision_is_lost_and_none_counts_twice(tmp_path: Path, servers: Any) -> None:
    server: Embedded = servers("valkey")
    namespace = f"t{secrets.token_hex(6)}"
    random = Random(20261125)
    answered: dict[str, dict[tuple[int, int], Told]] = {"answers": {}, "other": {}}
    with closing(RedisStore(server.url, namespace=namespace)) as store:
        names = {put_draft(store, name).experiment.uid: name for name in answered}
        total = 0
        with closing(Children(tmp_path, server, namespace, names)) as children:
            for _ in range(KILLS):
                rows = children.killed_after(random.randint(1, 2 * ANSWERED_IN_ALL // KILLS))
                total += len(rows)
                for row in rows:
                    told = Told(1, int(row["allocation"]), int(row["cohort"]), int(row["arm"]))
                    answered[names[int(row["uid"])]][int(row["issuer"]), int(row["number"])] = told
        adopt_all(tmp_path / "journal", store, names)
        assert not list((tmp_path / "journal").iterdir()), "nothing waits any more"
        assert total > ANSWERED_IN_ALL // 2
        shipped = repeats = 0
        for name, mine in answered.items():
            folded = Folded().fold(whole_log(store, name))
            assert folded.gaps == 0
            assert {key: folded.decisions.get(key) for key in mine} == mine
            shipped += len(folded.decisions)
            repeats += folded.repeats
        # Calls that were journaled but not yet answered when the process died: one per thread and kill.
        assert total <= shipped <= total + KILLS * 3 * 200
        print(f"answered {total}, in the log {shipped}, sent twice {repeats}")  # noqa: T201


@contextmanager
def file_limit(size: int) -> Iterator[None]:
    """No file of this process grows beyond so many bytes: writing to it is refused by the kernel."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_disk_that_takes_no_more_costs_counting_not_decisions(tmp_path: Path) -> None:
    clock, store = FakeClock(), MemoryStore()
    uid = put_draft(store, "answers").experiment.uid
    journal = Journal(tmp_path, 1, segment_bytes=1 << 16, monotonic_s=clock.monotonic_s)
    room = ((1 << 16) - 64) // 32
    with file_limit(1 << 12):
        numbers = [journal.record(uid, 1, 1, 0, 1) for _ in range(room + 100)]
    assert numbers == [*range(room), *([None] * 100)]
    clock.advance(1.1)
    assert journal.record(uid, 1, 1, 0, 1) == room
    Shipper(journal, store, Known({uid: "answers"}), clock).step()
    folded = Folded().fold(whole_log(store, "answers"))
    assert (folded.gaps, len(folded.decisions), journal.not_journaled) == (0, room + 1, 100)
    journal.close()


def test_exposures_wait_for_a_store_that_is_away_and_arrive_in_order(
    tmp_path: Path, own_server: Embedded
) -> None:
    with closing(RedisStore(own_server.url)) as store:
        uid = put_draft(store, "answers").experiment.uid
        journal = Journal(tmp_path / "journal", store.reserve_issuers(1))
        shipper = Shipper(journal, store, Known({uid: "answers"}), SystemClock(), interval_s=0.005)
        shipper.start()
        stop = threading.Event()
        numbers: list[int | None] = []

        def decide() -> None:
            while not stop.is_set():
                numbers.append(journal.record(uid, 1, 1, 0, len(numbers) % 64))
                time.sleep(0.0005)

        worker = threading.Thread(target=decide)
        worker.start()
        try:
            until(lambda: shipper.counts.shipped > 50)
            own_server.stop()
            until(lambda: shipper.failing_since_s is not None, what="shipping that fails")
            waiting = journal.recorded
            until(lambda: journal.recorded > waiting + 300, what="decisions while the store is away")
            own_server.start()
            until(lambda: shipper.failing_since_s is None, what="shipping again")
        finally:
            stop.set()
            worker.join()
        assert shipper.stop(10.0)
        folded = Folded().fold(whole_log(store, "answers"))
        assert numbers == list(range(len(numbers)))
        assert folded.gaps == 0
        assert [folded.decisions[journal.issuer, n].arm for n in range(len(numbers))] == [
            n % 64 for n in range(len(numbers))
        ]
        journal.close()

"""Learners that are killed, or frozen just before they write: what is counted is what was decided.

Faults 21 and 25, invariant I1. Learners are real processes on a real Valkey; leases, folds and clocks are theirs.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from bandit.rollout.audit import first_broken
from bandit.rollout.transitions import start
from bandit.v1.experiment_pb2 import ExperimentStatus
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.builders import spec
from tests.conftest import PATIENT_S, new_namespace
from tests.gateway import Gateway
from tests.service import until

SOON_S = 60.0
NAMES = ("one", "two", "three")
NURSERY = Path(__file__).parents[1] / "learner_nursery.py"


class Ground:
    """Experiments on a store, their gateways, and learners as processes; ``pids`` by owner."""

    def __init__(self, url: str, folder: Path, names: tuple[str, ...]) -> None:
        self.folder = folder
        namespace = new_namespace()
        self.store = RedisStore(url, namespace=namespace, timeout_s=PATIENT_S)
        self.pids: dict[str, int] = {}
        self._begun = 0
        self._process = subprocess.Popen(
            [sys.executable, str(NURSERY), url, namespace, str(folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(NURSERY.parents[1])},
        )
        self.gateways = {name: Gateway(self.store, name, issuer) for issuer, name in enumerate(names, 1)}
        for name, gateway in self.gateways.items():
            gateway.create(spec(experiment=name), self.store.now_ms())
            gateway.change(start, now_ms=self.store.now_ms())
        assert self._answer() == "ready"

    def close(self) -> None:
        assert self._process.stdin is not None
        for pid in self.pids.values():
            os.kill(pid, signal.SIGKILL)
        self._process.stdin.close()
        self._process.wait(30)
        assert self._process.stdout is not None
        self._process.stdout.close()
        self.store.close()

    def _answer(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def begin(self, sleeps: int = 0) -> str:
        """Another learner; its name as owner of leases."""
        self._begun += 1
        owner = f"learner-{self._begun}"
        assert self._process.stdin is not None
        self._process.stdin.write(f"{owner} {sleeps}\n")
        self._process.stdin.flush()
        self.pids[owner] = int(self._answer())
        return owner

    def kill(self, owner: str) -> None:
        os.kill(self.pids.pop(owner), signal.SIGKILL)

    def serve(self, count: int = 20) -> None:
        """Decisions of every experiment, and two rewards of each."""
        for gateway in self.gateways.values():
            gateway.serve(
                count,
                self.store.now_ms(),
                lambda arm, number: {"satisfied": float(number % 3 == 0), "cost": 0.5},
            )

    def status(self, name: str) -> ExperimentStatus:
        return ExperimentStatus.FromString(self.store.status(name) or b"")

    def counted(self) -> bool:
        """Is as much counted as there is?"""
        return all(
            self.status(name).rewards.applied >= gateway.rewarded
            and self.status(name).exposures >= sum(gateway.decided.values())
            for name, gateway in self.gateways.items()
        )

    def check(self) -> None:
        """All of it once, by a reading of the ledger as the next learner would have it."""
        until(self.counted, SOON_S, "everything counted")
        for name, gateway in self.gateways.items():
            found = self.status(name)
            assert {arm.arm: arm.exposures for arm in found.arms if arm.exposures} == gateway.decided, name
            rewards = found.rewards
            assert (rewards.applied, rewards.duplicate, rewards.conflict) == (gateway.rewarded, 0, 0), name
            assert (rewards.late, rewards.rejected, found.exposures_lost) == (0, 0, 0), name
            assert first_broken(list(reversed(self.store.audit(name, None, 1000)))) is None
            state = self.store.load_writer(name)
            assert state is not None
            assert int(state.ledger.totals().exposures.sum()) == sum(gateway.decided.values())
            assert state.counts.applied == gateway.rewarded


@pytest.fixture
def server(tmp_path: Path) -> Iterator[Embedded]:
    with Embedded(tmp_path / "valkey") as running:
        yield running


def stopped(pid: int) -> bool:
    """Does it stand still by a signal?"""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "T"


@pytest.mark.timeout(900)
def test_a_learner_frozen_before_its_fold_changes_nothing_when_it_wakes(
    server: Embedded, tmp_path: Path, full: bool
) -> None:
    """Asleep with the entries in hand, until another has counted them and more; each turn alone would show it."""
    with closing(Ground(server.url, tmp_path, NAMES[:1])) as ground:
        for turn in range(20 if full else 2):
            owner = ground.begin(sleeps=1 + turn % 3)
            pid = ground.pids[owner]

            def asleep(pid: int = pid) -> bool:
                ground.serve(5)
                return stopped(pid)

            until(asleep, SOON_S, f"{owner} asleep before a fold")
            other = ground.begin()
            ground.serve(200)
            until(ground.counted, SOON_S, f"all counted by {other}")
            os.kill(pid, signal.SIGCONT)
            until((tmp_path / owner).exists, SOON_S, f"the fold of {owner}")
            ground.serve(20)
            until(ground.counted, SOON_S, "the rest")
            ground.check()
            assert (tmp_path / owner).read_text() == "False"
            ground.kill(owner)
            ground.kill(other)


@pytest.mark.timeout(1800)
def test_three_learners_of_three_experiments_killed_at_random(
    server: Embedded, tmp_path: Path, full: bool
) -> None:
    dice = random.Random(8)
    ended = threading.Event()
    with closing(Ground(server.url, tmp_path, NAMES)) as ground:
        owners = [ground.begin() for _ in NAMES]

        def load() -> None:
            while not ended.wait(0.01):
                ground.serve(5)

        loading = threading.Thread(target=load, daemon=True)
        loading.start()
        try:
            for _ in range(200 if full else 8):
                before = {name: ground.status(name).rewards.applied for name in NAMES}
                until(
                    lambda before=before: all(  # type: ignore[misc]
                        ground.status(name).rewards.applied > before[name] for name in NAMES
                    ),
                    SOON_S,
                    "each experiment is folded by somebody",
                )
                time.sleep(dice.random() * 0.2)
                owner = owners.pop(dice.randrange(len(owners)))
                ground.kill(owner)
                owners.append(ground.begin())
        finally:
            ended.set()
            loading.join(SOON_S)
        ground.check()

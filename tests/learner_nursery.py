"""A process that has loaded what a learner needs, and begets learners by fork: quick to start, real to kill.

    python tests/learner_nursery.py URL NAMESPACE FOLDER

Says ``ready``; then each line ``OWNER SLEEPS`` on stdin begets a learner and answers its process. With ``SLEEPS`` n > 0
it stops itself (SIGSTOP) just before it writes its n-th fold of entries; what became of that fold, once somebody let it
go on, is in ``FOLDER/OWNER``. Learners end with this process.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
from pathlib import Path

from bandit.kernels.jit import warm_often
from server.clock import SystemClock
from server.runtime import LearnerLoop, LoopSettings
from server.store.base import FoldWrite
from server.store.redis import RedisStore
from tests.learning import Silent


class Sleepy(RedisStore):
    """A store whose writer falls asleep before one of its folds; ``told`` is where it leaves word."""

    sleeps = 0
    told = Path()
    _offset = ""

    def fold(self, name: str, write: FoldWrite) -> bool:
        if write.offset == self._offset or not self.sleeps:
            return super().fold(name, write)
        self._offset = write.offset
        self.sleeps -= 1
        if self.sleeps:
            return super().fold(name, write)
        os.kill(os.getpid(), signal.SIGSTOP)
        taken = super().fold(name, write)
        self.told.write_text(str(taken))
        return taken


def learn(url: str, namespace: str, folder: Path, owner: str, sleeps: int) -> None:
    """Until the nursery is gone, or somebody kills this process."""
    nursery, stop = os.getppid(), threading.Event()
    store = Sleepy(url, namespace=namespace, timeout_s=5.0)
    store.sleeps, store.told = sleeps, folder / owner
    settings = LoopSettings(
        owner, lease_ttl_s=1.5, tick_s=0.05, block_s=0.01, housekeeping_s=0.1, retry_s=0.1
    )

    def beat() -> None:
        if os.getppid() != nursery:
            stop.set()

    LearnerLoop(store, SystemClock(), settings, Silent()).run(stop, beat)


def main() -> None:
    """See the module."""
    url, namespace, folder = sys.argv[1:]
    warm_often()
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # what learners log is no answer
    answers.write("ready\n")
    for line in sys.stdin:
        owner, sleeps = line.split()
        pid = os.fork()
        if pid == 0:
            learn(url, namespace, Path(folder), owner, int(sleeps))
            os._exit(0)
        answers.write(f"{pid}\n")


if __name__ == "__main__":
    main()

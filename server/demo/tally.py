"""The world's own book: what was answered to it, counted apart from the service, and compared with the ledger.

It counts answers only. Where a call failed and nobody can know whether the service had counted it, it says so
instead of guessing.
"""

from __future__ import annotations

import threading
from collections import Counter
from dataclasses import dataclass, field

from bandit.v1 import experiment_pb2

Cell = tuple[str, str]
"""(arm, metric)."""


@dataclass(slots=True)
class Tally:
    """Counts of the world. Several threads write: take ``lock`` for more than one read.

    ``decisions``: answered and counted, by arm. ``rewards``: distinct and accepted, by arm and metric.
    ``unsure_decisions``: a failed call may have counted them. ``unsure_rewards``: accepted or not, the answer to the
    first try was lost and the repetition came too late. ``uncounted``: decisions that said they do not count.
    ``repeats``: rewards sent a second time on purpose. ``late``, ``rejected``: answered so. ``failed_calls``: sent
    again, since no answer came.
    """

    decisions: Counter[str] = field(default_factory=Counter)
    rewards: Counter[Cell] = field(default_factory=Counter)
    unsure_decisions: int = 0
    unsure_rewards: Counter[Cell] = field(default_factory=Counter)
    uncounted: int = 0
    repeats: int = 0
    late: int = 0
    rejected: int = 0
    failed_calls: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def decided(self, arm: str, *, counted: bool) -> None:
        """A decision was answered."""
        with self.lock:
            if counted:
                self.decisions[arm] += 1
            else:
                self.uncounted += 1

    def totals(self) -> tuple[int, int]:
        """(decisions, rewards)."""
        with self.lock:
            return self.decisions.total(), self.rewards.total()

    def lost(self, status: experiment_pb2.ExperimentStatus) -> int:
        """|own counts - the ledger's|, summed over arms and metrics; what is unsure excuses an excess of the ledger.

        0: each arm has exactly the decisions and, for each metric, exactly the rewards that it should have.
        """
        exposures = Counter({arm.arm: arm.exposures for arm in status.arms})
        counted = Counter({(arm.arm, each.metric): each.n for arm in status.arms for each in arm.metrics})
        with self.lock:
            missing = (self.decisions - exposures).total() + (self.rewards - counted).total()
            excess = max((exposures - self.decisions).total() - self.unsure_decisions, 0)
            return missing + excess + (counted - self.rewards - self.unsure_rewards).total()

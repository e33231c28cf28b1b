"""What a learner counts, as ``server.runtime`` tells it; every call is cheap beside the fold or look it tells of."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import NamedTuple

from prometheus_client import CollectorRegistry

from server.telemetry import catalogue, shared

ROLLED_BACK = "rolled_back"
OTHERS_EVERY_S = 1.0


class _Look(NamedTuple):
    time_s: float
    behind: int
    outcomes: Mapping[str, int]


class LearnerTelemetry:
    """For the learner's one thread. ``now_ms``: the clock, by which a look was taken."""

    def __init__(self, now_ms: Callable[[], int], registry: CollectorRegistry | None = None) -> None:
        self._now_ms = now_ms
        registry = registry or CollectorRegistry()
        self._folds = shared.counter(catalogue.FOLDS, registry)
        self._entries = shared.counter(catalogue.FOLDED_ENTRIES, registry)
        self._rewards = shared.counter(catalogue.FOLDED_REWARDS, registry)
        self._exposures = shared.counter(catalogue.FOLDED_EXPOSURES, registry)
        self._fold_seconds = shared.histogram(catalogue.FOLD_SECONDS, registry)
        self._allocations = shared.counter(catalogue.ALLOCATIONS, registry)
        self._rollbacks = shared.counter(catalogue.ROLLBACKS, registry)
        self._lag = shared.gauge(catalogue.LAG, registry)
        self._verdicts = shared.gauge(catalogue.VERDICTS, registry)
        self._evaluated = shared.gauge(catalogue.EVALUATED, registry)
        self._leases = shared.gauge(catalogue.LEASES, registry)
        self._set_backs = shared.counter(catalogue.SET_BACKS, registry)
        self._bounded = shared.Bounded()
        self._label = shared.Bounded(catalogue.MOST_EXPERIMENTS)
        self._looks: dict[str, dict[str, _Look]] = {}
        self._outcomes: dict[str, set[str]] = {}
        self._others_s = float("-inf")

    def folded(self, entries: int, rewards: int, exposures: int, seconds: float) -> None:
        """One fold was written."""
        self._folds.inc()
        self._entries.inc(entries)
        self._rewards.inc(rewards)
        self._exposures.inc(exposures)
        self._fold_seconds.observe(seconds)

    def committed(self, action: str) -> None:
        """One transition was committed; each publishes an allocation."""
        self._allocations.labels(self._bounded(action)).inc()
        if action == ROLLED_BACK:
            self._rollbacks.inc()

    def evaluated(self, experiment: str, behind: int, outcomes: dict[str, int]) -> None:
        """One look was taken, with so many log entries not folded, and so many verdicts of each outcome."""
        label = self._label(experiment)
        now_s = self._now_ms() / 1000
        self._looks.setdefault(label, {})[experiment] = _Look(now_s, behind, outcomes)
        if label != catalogue.OTHER:
            if self._looks.get(catalogue.OTHER, {}).pop(experiment, None) is not None:
                self._write(catalogue.OTHER)  # it got a label of its own meanwhile
            self._write(label)
        elif abs(now_s - self._others_s) >= OTHERS_EVERY_S:
            self._others_s = now_s
            self._write(label)

    def forgotten(self, experiment: str) -> None:
        """Somebody else's experiment from now on, or nobody's."""
        for label in (experiment, catalogue.OTHER):
            if self._looks.get(label, {}).pop(experiment, None) is not None:
                self._write(label)
                self._label.release(experiment)

    def leases(self, held: int) -> None:
        """So many leases are held."""
        self._leases.set(held)

    def set_back(self, action: str) -> None:
        """The store lacked commits, folds or unread entries of an experiment; what was done of it."""
        self._set_backs.labels(self._bounded(action)).inc()

    def _write(self, label: str) -> None:
        """Under `other` the oldest look and the sums of the rest; not a number, which is not shown, without a look."""
        looks = list(self._looks.get(label, {}).values())
        gone = not looks
        self._evaluated.labels(label).set(math.nan if gone else min(look.time_s for look in looks))
        self._lag.labels(label).set(math.nan if gone else sum(look.behind for look in looks))
        known = self._outcomes.setdefault(label, set())
        known.update(outcome for look in looks for outcome in look.outcomes)
        for outcome in known:
            count = sum(look.outcomes.get(outcome, 0) for look in looks)
            self._verdicts.labels(label, self._bounded(outcome)).set(math.nan if gone else count)

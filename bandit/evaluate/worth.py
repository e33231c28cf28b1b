"""What each logged decision brought: its value of every metric, and of the objective; it weighs no decision.

A decision's several rewards of a metric come to one value by the metric's ``aggregate``, as in the ledger. A value that
may still change counts as none: while the window is open, where silence has a value or values are aggregated. To take
the answers that came early would favour arms whose successes come early.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.counting import tables_of
from bandit.errors import InvalidArgument
from bandit.evaluate.logged import Logged
from bandit.ledger import ONE, FloatArray, Int64Array
from bandit.objective import scale
from bandit.spec.metric import Direction, Metric, MetricKind
from bandit.spec.model import ExperimentSpec

NONE = -1


class Worth(NamedTuple):
    """``values`` [T, M] in the metric's unit, NaN for none; ``unit`` [T] the objective on [0, 1], NaN where a term has
    no value; the objective itself is ``lowest + span * unit``. ``pending`` [T]: a term's window is open."""

    values: FloatArray
    unit: FloatArray
    lowest: float
    span: float
    pending: NDArray[np.bool_]


def worth(log: Logged, *, complete: bool = False) -> Worth:
    """What decisions brought. ``complete``: nothing will come any more, so that every window counts as closed.

    Raises InvalidArgument for an objective that no single decision has.
    """
    spec = log.spec
    values = np.full((log.size, len(spec.metrics)), np.nan)
    changing = np.zeros(values.shape, np.bool_)
    for index, metric in enumerate(spec.metrics):
        if metric.kind is MetricKind.RATIO:
            continue
        q = _aggregated(log, index, metric)
        if metric.default_when_silent is not None or metric.aggregate != "first":
            opened = log.time_ms + round(metric.attribution_window * 1000) > log.end_ms
            changing[:, index] = opened & (not complete)
        low, high = metric.scale
        values[:, index] = np.where(q == NONE, np.nan, low + (high - low) * (q / ONE))
        if metric.default_when_silent is not None:
            silent = min(metric.default_when_silent, high)
            values[:, index] = np.where(q == NONE, silent, values[:, index])
        values[changing[:, index], index] = np.nan
    unit, lowest, span = objective(spec, values)
    terms = np.isin([metric.name for metric in spec.metrics], [term.metric for term in spec.terms])
    pending: NDArray[np.bool_] = changing[:, np.flatnonzero(terms)].sum(axis=1) > 0
    return Worth(values, unit, lowest, span, pending)


def objective(spec: ExperimentSpec, values: FloatArray) -> tuple[FloatArray, float, float]:
    """(the objective on [0, 1] [T], its lowest value, its span) of metric values [T, M].

    Raises InvalidArgument for a term that is a ratio, which no single decision has.
    """
    total, lowest, span = np.zeros(len(values)), 0.0, 0.0
    for place, term in enumerate(spec.terms):
        index = spec.metric_index(term.metric)
        assert index is not None
        metric = spec.metrics[index]
        if metric.kind is MetricKind.RATIO:
            raise InvalidArgument.at(
                f"objective.{place}.metric",
                f"{metric.name} is a ratio, which no single decision has; name its numerator and its denominator as "
                "terms to value the spec by a log",
            )
        low, high = metric.scale
        x = (worthed(metric, values[:, index]) - low) / (high - low)
        slope, base = scale(metric, term)
        total += slope * (1.0 - x if metric.direction is Direction.MINIMIZE else x)
        lowest, span = lowest + base, span + slope
    return total / span, lowest, span


def worthed(metric: Metric, values: FloatArray) -> FloatArray:
    """Values of a rating as what its levels are worth; others as they are."""
    if not metric.scores:
        return values
    levels = np.array(metric.levels)
    found = np.array(metric.scores)[np.argmin(np.abs(values[:, None] - levels), axis=1)]
    return np.where(np.isnan(values), np.nan, found)


def _aggregated(log: Logged, index: int, metric: Metric) -> Int64Array:
    """[T] scaled value of each decision, NONE for none."""
    rewards = log.rewards
    own = np.flatnonzero(rewards.metric == index)
    decision, q = rewards.decision[own], rewards.q[own]
    found = np.full(log.size, NONE, np.int64)
    if metric.aggregate == "max":
        np.maximum.at(found, decision, q)
        return found
    if metric.aggregate == "sum":
        _, kept = np.unique(
            np.stack([decision.astype(np.uint64), rewards.event[own]]), axis=1, return_index=True
        )
        sums, many = np.zeros(log.size, np.int64), np.bincount(decision[kept], minlength=log.size)
        np.add.at(sums, decision[kept], q[kept])
        offset = int(tables_of(log.spec).offset[np.flatnonzero(tables_of(log.spec).remembered == index)[0]])
        return np.where(many > 0, np.clip(sums + (many - 1) * offset, 0, ONE), NONE)
    # What stands is written last: the first to come, or of the highest order the first.
    back = -np.arange(own.size)
    stands = np.lexsort((back, rewards.order[own])) if metric.aggregate == "last" else back + own.size - 1
    found[decision[stands]] = q[stands]
    return found

"""Means of arms beside the control's over the same traffic; it never sets means of different times side by side."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bandit.facts import Stream, compare, kept, streams
from bandit.ledger import FloatArray, PeriodTable
from bandit.reading import counted
from bandit.spec.channels import ChannelKind, parts_of
from bandit.spec.metric import Metric, MetricKind
from bandit.spec.model import ExperimentSpec

WEIGHT, OWN, CONTROL, SPREAD, SPREAD_CONTROL = range(5)


class StratifiedMean(NamedTuple):
    """Sum of W_e xbar_e over strata e that arm and control share, W_e the part of their traffic; in the metric's unit.

    ``control``: the control's, over the same strata with the same weights. ``n_effective`` 1 / sum W_e^2 / n_e: as many
    values at constant shares would be as precise. ``covered``: the part of all values that lies in these strata; the
    rest is of periods in which one of the two has none. NaN and 0 where nothing is shared yet.
    """

    mean: float
    control: float
    n_effective: float
    covered: float


def strata(spec: ExperimentSpec, rows: PeriodTable, now_ms: int) -> dict[int, FloatArray]:
    """By metric: [5, K] sums over strata of every cohort (see ``facts``), folded periods included, nothing decayed.

    Neighbouring periods are merged into strata that hold enough values; what no stratum holds is told as ``covered``.
    """
    return {
        stream.channel.metric: _added(spec, rows, stream, now_ms)
        for stream in streams(spec)
        if stream.channel.kind is ChannelKind.VALUE
    }


def _added(spec: ExperimentSpec, rows: PeriodTable, stream: Stream, now_ms: int) -> FloatArray:
    total = kept(rows, stream, np.ones(len(rows.number))).strata.copy()
    live = rows.rows(~rows.block)
    for cohort in np.unique(live.cohort):
        part = live.rows(live.cohort == cohort)
        ones = np.ones(len(part.number))
        total += compare(counted(part, spec, stream.channel, now_ms), ones, ones, spec.control_index).strata
    return total


def stratified(
    spec: ExperimentSpec, index: int, arm: int, sums: dict[int, FloatArray], n: FloatArray
) -> StratifiedMean:
    """The mean of a metric of an arm from :func:`strata`; a ratio is the ratio of its two means. ``n`` [M, K]: values
    of each metric and arm so far."""
    metric = spec.metrics[index]
    if metric.kind is not MetricKind.RATIO:
        return _one(metric, sums[index][:, arm], float(n[index].sum()))
    above, below = parts_of(spec, index)
    over, under = (
        _one(spec.metrics[each], sums[each][:, arm], float(n[each].sum())) for each in (above, below)
    )
    means = (_part(over.mean, under.mean), _part(over.control, under.control))
    return StratifiedMean(*means, under.n_effective, under.covered)


def _one(metric: Metric, sums: FloatArray, values: float) -> StratifiedMean:
    weight = float(sums[WEIGHT])
    if weight <= 0.0:
        return StratifiedMean(math.nan, math.nan, 0.0, 0.0)
    low, high = metric.scale
    own, control = (low + (high - low) * float(sums[each]) / weight for each in (OWN, CONTROL))
    return StratifiedMean(
        own, control, weight**2 / float(sums[SPREAD]), min(weight / max(values, weight), 1.0)
    )


def _part(over: float, under: float) -> float:
    return over / under if under > 0.0 else math.nan

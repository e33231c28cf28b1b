"""A reading of the ledger: the sums that posteriors are made of, after decay, maturity and silence.

Nothing here changes the ledger; another spec is another reading of the same sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bandit.ledger import FloatArray, PeriodTable, decay_weights
from bandit.spec.model import ExperimentSpec, Metric


class Sums(NamedTuple):
    """Sums of one channel, each [K]: how many values, their sum and the sum of their squares."""

    n: FloatArray
    s1: FloatArray
    s2: FloatArray


@dataclass(frozen=True, slots=True)
class MetricSums:
    """All that a posterior may be made of, K arms; see ``spec.channels``.

    ``value``: the metric itself, n = 0 for a ratio. ``log`` for lognormal and revenue (its n are the positive values).
    ``levels`` [K, L] counts for a rating. ``numerator``, ``denominator``, ``pair`` for a ratio, in the scaled units of
    the two metrics.
    """

    value: Sums
    log: Sums | None = None
    levels: FloatArray | None = None
    numerator: Sums | None = None
    denominator: Sums | None = None
    pair: Sums | None = None


@dataclass(frozen=True, slots=True)
class Reading:
    """``assigned`` [K] exposures, pending included; ``n``, ``s1``, ``s2`` [K, C] rewards and sums of the value and
    its square per channel, in scaled units (each value in [0, 1]); channel m < M is metric m."""

    assigned: FloatArray
    n: FloatArray
    s1: FloatArray
    s2: FloatArray


def read(table: PeriodTable, spec: ExperimentSpec, now_ms: int) -> Reading:
    """Read the periods of one epoch.

    A metric with ``default_when_silent`` counts mature periods only: there each exposure without a reward counts
    as that value (a success arrives early, a silence only with the end of the window, so anything younger would
    flatter). A metric without it counts each reward at once and leaves silence out.
    """
    weights = decay_weights(table, spec.decay.half_life if spec.decay else None, now_ms)
    arms, metrics = len(spec.arms), len(spec.metrics)
    n, s1, s2 = np.zeros((arms, metrics)), np.zeros((arms, metrics)), np.zeros((arms, metrics))
    for index, metric in enumerate(spec.metrics):
        cell_n, cell_s1, cell_s2, counted = with_silence(table, metric, index, now_ms)
        w = (weights * counted)[:, None]
        n[:, index] = (w * cell_n).sum(axis=0)
        s1[:, index] = (w * cell_s1).sum(axis=0)
        s2[:, index] = (w * cell_s2).sum(axis=0)
    return Reading((weights[:, None] * table.assigned).sum(axis=0), n, s1, s2)


def with_silence(
    table: PeriodTable, metric: Metric, index: int, now_ms: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(n, s1, s2) [E, K] of a metric with silence filled in, and [E] 1.0 where the period may be read."""
    n, s1, s2 = table.n[:, :, index], table.s1[:, :, index], table.s2[:, :, index]
    if metric.default_when_silent is None:
        return n, s1, s2, np.ones(len(table.number))
    low, high = metric.scale
    value = (metric.default_when_silent - low) / (high - low)
    silent = np.maximum(table.assigned - n, 0.0)
    counted = table.mature(metric.attribution_window, now_ms).astype(np.float64)
    return n + silent, s1 + silent * value, s2 + silent * value * value, counted

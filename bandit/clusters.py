"""Design effects: how much more the sums of units vary than those of as many independent values would.

Where a unit keeps its arm over many decisions, its values are no independent evidence. Units are spread over 64 buckets
by their hash, so the totals of the buckets are independent whatever happens inside a unit, and for each metric

    effect = (64 / 63) sum_b (T_b - xbar N_b)^2 / sum (x - xbar)^2,  arms added up,

is 1 for independent values and about u for units with u equal values each (Kish 1965, Survey Sampling, 8.2; buckets as
in Chamandy et al. 2012). A metric where silence has a value knows only the sums of what arrived: there T_b is compared
with T / 64 and sum x^2. With K arms its relative standard error is sqrt(2 / (63 K)).

What follows rewards period by period cannot wait until that is known. While an arm has few units, its values in a
bucket N_b are mostly of one unit, and sum N_b^2 / sum N_b, the effect if all of a bucket were alike, bounds it from
above; it is 1 + (n - 1) / 64 for n values of as many units.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from bandit.ledger import BUCKETS, ONE, Clusters, FloatArray, PeriodTable
from bandit.spec.model import ExperimentSpec

LEAST_VALUES = 2.0 * BUCKETS
"""Fewer values of all arms than this say nothing yet: the effect is 1."""
FEW_UNITS = BUCKETS / 2.0
"""sum N_b / (sum N_b^2 / sum N_b) below which the units are few: 64 of them give as much."""


class Repeats(NamedTuple):
    """How many of an arm's values, or decisions, are the evidence of one, from the first on: ``values`` [K, M],
    ``visits`` of the decisions of all arms; each at least 1."""

    values: FloatArray
    visits: float


def design_effects(spec: ExperimentSpec, clusters: Clusters | None, rows: PeriodTable) -> FloatArray:
    """[M] at least 1; ones where no clusters are kept. ``clusters`` are those of the periods of ``rows``."""
    metrics = len(spec.metrics)
    effects = np.ones(metrics)
    if clusters is None:
        return effects
    squares = rows.s2.sum(axis=0)
    n, total = clusters.values[..., 0].astype(np.float64), clusters.values[..., 1] / ONE
    for index in range(min(metrics, clusters.values.shape[1])):
        counts, sums = n[:, index], total[:, index]
        values = counts.sum(axis=1)
        if values.sum() < LEAST_VALUES:
            continue
        square = squares[:, index]
        first = sums.sum(axis=1)
        if spec.metrics[index].default_when_silent is None:
            mean = np.divide(first, values, out=np.zeros_like(first), where=values > 0.0)
            rest = sums - mean[:, None] * counts
            within = square - first * mean
        else:
            rest = sums - first[:, None] / BUCKETS
            within = square
        spread = float(np.maximum(within, 0.0).sum())
        if spread > 0.0:
            effects[index] = max(BUCKETS / (BUCKETS - 1) * float((rest * rest).sum()) / spread, 1.0)
    return effects


def repeats_of(effects: FloatArray, clusters: Clusters | None) -> Repeats | None:
    """Of units that come back, None where no clusters are kept; ``effects`` [M] are :func:`design_effects`."""
    if clusters is None:
        return None
    counts = clusters.values[..., 0].astype(np.float64)
    values = np.maximum(_crowding(counts), effects[: counts.shape[1]])
    return Repeats(values, visit_effect(clusters))


def visit_effect(clusters: Clusters) -> float:
    """Design effect of being decided: how much more an arm's number of decisions varies than that of as many units.

    (64 / 63) sum_kb (d_kb - p_k D_b)^2 / sum_k p_k (1 - p_k) D with d_kb decisions of the arm in a bucket, D_b and D
    those of all arms, and p_k the arm's part of D: a share that is not kept does not count as one.
    """
    visits = clusters.visits.astype(np.float64)
    every, own = visits.sum(axis=0), visits.sum(axis=1)
    total = float(every.sum())
    if total <= 0.0:
        return 1.0
    part = own / total
    spread = total * float((part * (1.0 - part)).sum())
    rest = visits - part[:, None] * every
    found = BUCKETS / (BUCKETS - 1) * float((rest * rest).sum()) / spread if spread > 0.0 else 1.0
    return max(found, float(_crowding(every)), 1.0)


def _crowding(counts: FloatArray) -> FloatArray:
    """sum N_b^2 / sum N_b of [..., 64] where units are few, else 1."""
    total, square = counts.sum(axis=-1), (counts * counts).sum(axis=-1)
    crowd = np.divide(square, total, out=np.ones_like(total), where=total > 0.0)
    return np.where(total < FEW_UNITS * crowd, np.maximum(crowd, 1.0), 1.0)

"""Design effects: how much more the sums of units vary than those of as many independent values would.

Where a unit keeps its arm over many decisions, its values are no independent evidence. Units are spread over 64 buckets
by their hash, so the totals of the buckets are independent whatever happens inside a unit, and for each metric

    effect = (64 / 63) sum_b (T_b - xbar N_b)^2 / sum (x - xbar)^2,  arms added up,

is 1 for independent values and about u for units with u equal values each (Kish 1965, Survey Sampling, 8.2; buckets as
in Chamandy et al. 2012). A metric where silence has a value knows only the sums of what arrived: there T_b is compared
with T / 64 and sum x^2. With K arms its relative standard error is sqrt(2 / (63 K)).
"""

from __future__ import annotations

import numpy as np

from bandit.ledger import BUCKETS, ONE, Clusters, FloatArray, PeriodTable
from bandit.spec.model import ExperimentSpec

LEAST_VALUES = 2.0 * BUCKETS
"""Fewer values of all arms than this say nothing yet: the effect is 1."""


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

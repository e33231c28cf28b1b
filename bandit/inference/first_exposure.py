"""Effects on units that only ever met one arm, for experiments where a unit keeps its arm: what carry-over cannot bias.

A unit that was re-routed may behave as its old arm taught it. Its decisions are told from others by its point of the
hash circle (``Ranges.moved``), without a memory of units: a point is settled until its owner changes for the first
time, and what a unit did before that still counts. So units are censored when they are re-routed (intention to treat
by first exposure). Per period, metric and pair with n, s of the 64 hash buckets of settled units, N and S their sums,
v = N_k / (N_k + N_0) and c = (S_k + S_0) / (N_k + N_0),

    T_b = (1 - v)(s_kb - n_kb c) - v (s_0b - n_0b c),   A_b = (1 - v)^2 n_kb + v^2 n_0b

are added over periods: sum T / sum A is the difference within periods, whatever the baseline does and however the sets
of settled units shrink. Buckets are independent, so its variance is (64 / 63) sum (T_b - d A_b)^2 / (sum A)^2, with
Student's t on 63 degrees of freedom (linearised ratio over random groups; Wolter 2007, Introduction to Variance
Estimation, ch. 2). It is an interval for one look, not for every look. What units met before arms were compared, the
control for all of them, is no re-routing.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from scipy import special

from bandit.inference.terms import near_pairs
from bandit.ledger import BUCKETS, ONE, FloatArray, Period
from bandit.reading import silent_value
from bandit.spec.channels import Channel, ChannelKind
from bandit.spec.metric import MetricKind
from bandit.spec.model import ExperimentSpec

FOREVER_MS = 1 << 62
LEVEL = 0.95
LEAST_BUCKETS = 32
"""Buckets with units, from which on the spread between buckets is believed."""
AT_ONCE = 256
"""Periods that are stacked together."""
T, A = range(2)


@dataclass(frozen=True, slots=True)
class FirstExposure:
    """Difference of an arm from the control over units that met no other arm, in the metric's unit, its standard error,
    and an interval for one look at LEVEL; NaN where too few buckets have units."""

    metric: int
    arm: int
    estimate: float
    se: float
    low: float
    high: float


def unit_terms(spec: ExperimentSpec, periods: Iterable[Period], now_ms: int) -> FloatArray:
    """[K - 1, M, 64, 2] T and A of each challenger and metric by bucket, added over periods of one epoch.

    Blocks bring what they kept. A metric counts periods whose attribution window is closed. Periods in which a cohort
    was apart are left out: buckets add up all cohorts, which then had arms in other proportions.
    """
    total = np.zeros((len(spec.arms) - 1, len(spec.metrics), BUCKETS, 2))
    told: list[Period] = []
    for period in periods:
        if period.units is not None:
            total += period.units
        clusters = period.cells.clusters
        if period.is_block or period.apart_ppm or clusters is None or clusters.shape[2] != 2 * BUCKETS:
            continue
        told.append(period)
    for start in range(0, len(told), AT_ONCE):
        _add(spec, told[start : start + AT_ONCE], now_ms, total)
    return total


def settle_units(spec: ExperimentSpec, periods: Iterable[Period]) -> FloatArray | None:
    """What a block must keep of periods that can never change again; None where units do not keep their arm."""
    if spec.unit.mode != "sticky" or spec.unit.kind == "request":
        return None
    return unit_terms(spec, (period for period in periods if not period.is_block), FOREVER_MS)


def _add(spec: ExperimentSpec, periods: list[Period], now_ms: int, total: FloatArray) -> None:
    clusters = [period.cells.clusters for period in periods if period.cells.clusters is not None]
    visits = [period.cells.visits for period in periods if period.cells.visits is not None]
    for index, metric in enumerate(spec.metrics):
        if metric.kind is MetricKind.RATIO:
            continue
        ripe = [
            at for at, period in enumerate(periods) if period.is_mature(metric.attribution_window, now_ms)
        ]
        if not ripe:
            continue
        settled = np.stack([clusters[at][:, index, :BUCKETS] for at in ripe])
        n, s = settled[..., 0].astype(np.float64), settled[..., 1] / ONE
        if metric.default_when_silent is not None:
            silent = np.maximum(np.stack([visits[at][:, :BUCKETS] for at in ripe]) - n, 0.0)
            value = silent_value(metric, Channel(ChannelKind.VALUE, index)) or 0.0
            n, s = n + silent, s + value * silent
        for place, (arm, control) in enumerate(near_pairs(spec)):
            total[place, index] += _pair(n[:, arm], s[:, arm], n[:, control], s[:, control])


def _pair(n: FloatArray, s: FloatArray, n0: FloatArray, s0: FloatArray) -> FloatArray:
    """[64, 2] T and A, added over periods; arguments [E, 64]."""
    one, zero = n.sum(axis=1, keepdims=True), n0.sum(axis=1, keepdims=True)
    every, both = np.maximum(one + zero, 1.0), (one > 0.0) & (zero > 0.0)
    v, c = one / every, (s.sum(axis=1, keepdims=True) + s0.sum(axis=1, keepdims=True)) / every
    scores = (1.0 - v) * (s - n * c) - v * (s0 - n0 * c)
    weights = (1.0 - v) ** 2 * n + v**2 * n0
    return np.stack([np.where(both, each, 0.0).sum(axis=0) for each in (scores, weights)], axis=1)


def first_exposures(spec: ExperimentSpec, terms: FloatArray) -> tuple[FirstExposure, ...]:
    """Effects of every challenger on every metric with rewards of settled units; ``terms`` of :func:`unit_terms`."""
    found = []
    for place, (arm, _) in enumerate(near_pairs(spec)):
        for index, metric in enumerate(spec.metrics):
            scores, weights = terms[place, index, :, T], terms[place, index, :, A]
            total = float(weights.sum())
            if total <= 0.0:
                continue
            low, high = metric.scale
            width, effect = high - low, float(scores.sum()) / total
            se = math.nan
            if int((weights > 0.0).sum()) >= LEAST_BUCKETS:
                rest = scores - effect * weights
                se = math.sqrt(BUCKETS / (BUCKETS - 1) * float(rest @ rest)) / total
            half = float(special.stdtrit(BUCKETS - 1, 0.5 + 0.5 * LEVEL)) * se
            found.append(
                FirstExposure(
                    metric=index,
                    arm=arm,
                    estimate=width * effect,
                    se=width * se,
                    low=width * (effect - half),
                    high=width * (effect + half),
                )
            )
    return tuple(found)

"""A reading of the ledger: the sums that posteriors are made of, after decay, maturity and silence.

Nothing here changes the ledger; another spec is another reading of the same sums.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bandit.delays import DelayCurve, delay_curves
from bandit.ledger import FloatArray, PeriodTable, decay_weights
from bandit.spec.channels import EARLY_PARTS, Channel, ChannelKind
from bandit.spec.metric import Metric, MetricKind
from bandit.spec.model import ExperimentSpec

BENT = 0.05
STEPS = 8
"""Points at which the ages of a period's decisions are taken."""


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
    the two metrics, whose (low, high) are ``scales``.
    """

    value: Sums
    log: Sums | None = None
    levels: FloatArray | None = None
    numerator: Sums | None = None
    denominator: Sums | None = None
    pair: Sums | None = None
    scales: tuple[tuple[float, float], tuple[float, float]] = ((0.0, 1.0), (0.0, 1.0))


@dataclass(frozen=True, slots=True)
class Reading:
    """``assigned`` [K] exposures, pending included; ``n``, ``s1``, ``s2`` [K, C] rewards and sums of the value and
    its square per channel, in scaled units (each value in [0, 1]); channel m < M is metric m."""

    assigned: FloatArray
    n: FloatArray
    s1: FloatArray
    s2: FloatArray

    def channel(self, index: int) -> Sums:
        """Sums of one channel."""
        return Sums(self.n[:, index], self.s1[:, index], self.s2[:, index])


class Cells(NamedTuple):
    """A channel as it counts: (n, s1, s2) [E, K] with silence filled in, and ``weight`` [E]: 0.0 for rows that may
    not be read yet, else 1.0."""

    n: FloatArray
    s1: FloatArray
    s2: FloatArray
    weight: FloatArray


def read(
    table: PeriodTable,
    spec: ExperimentSpec,
    now_ms: int,
    curves: dict[int, DelayCurve] | None = None,
) -> Reading:
    """Read the periods of one epoch, added up with the weights of ``decay``; ``curves``: their delay curves, if known.

    A metric with ``default_when_silent`` counts each exposure without a reward as that value: in mature periods, and in
    younger ones as :func:`counted` says. A metric without it counts each reward at once and leaves silence out.
    """
    weights = decay_weights(table, spec.decay.half_life if spec.decay else None, now_ms)
    channels = tuple(spec.columns)
    arms = len(spec.arms)
    n, s1, s2 = (np.zeros((arms, len(channels))) for _ in range(3))
    curves = delay_curves(table, spec, now_ms) if curves is None else curves
    for index, channel in enumerate(channels):
        if channel.kind is not ChannelKind.EARLY:
            cells = counted(table, spec, channel, now_ms, curves)
            w = weights * cells.weight
            n[:, index], s1[:, index], s2[:, index] = w @ cells.n, w @ cells.s1, w @ cells.s2
    return Reading(weights @ table.assigned, n, s1, s2)


def metric_sums(spec: ExperimentSpec, reading: Reading, index: int) -> MetricSums:
    """What the posterior of a metric is made of."""
    metric, at = spec.metrics[index], spec.columns
    value = reading.channel(index)
    if metric.kind in (MetricKind.LOGNORMAL, MetricKind.REVENUE):
        return MetricSums(value, log=reading.channel(at[Channel(ChannelKind.LOG, index)]))
    if metric.kind is MetricKind.RATING:
        columns = [at[Channel(ChannelKind.LEVEL, index, place=each)] for each in range(len(metric.levels))]
        return MetricSums(value, levels=reading.s1[:, columns])
    if metric.kind is MetricKind.RATIO:
        above, below = (spec.metric_index(name or "") for name in (metric.numerator, metric.denominator))
        assert above is not None
        assert below is not None
        pair = at[Channel(ChannelKind.PAIR, min(above, below), other=max(above, below))]
        return MetricSums(
            value,
            numerator=reading.channel(above),
            denominator=reading.channel(below),
            pair=reading.channel(pair),
            scales=(spec.metrics[above].scale, spec.metrics[below].scale),
        )
    return MetricSums(value)


def counted(
    table: PeriodTable,
    spec: ExperimentSpec,
    channel: Channel,
    now_ms: int,
    curves: dict[int, DelayCurve] | None = None,
) -> Cells:
    """A channel as learners count it.

    Where silence has a value c and a period is mature, each exposure without a reward is a reward of c. In younger
    periods a success comes early and a silence only with the end of the window. Those periods are left out; or, where
    the metric weighs pending decisions and its delay curve F is known (``curves``), an exposure of age a counts as
    F(a) exposures: n = sum F(age), s1 = c n + sum over rewards (x - c). The rate s1 / n is then right in the mean
    whatever the delays of an arm are (Chapelle 2014; Vernade, Cappe and Perchet 2017). While F is extrapolated, those
    rows count as little as its error allows.
    """
    index = channel.metric
    metric = spec.metrics[index]
    at = spec.columns[channel]
    n, s1, s2 = table.n[:, :, at], table.s1[:, :, at], table.s2[:, :, at]
    ones = np.ones(len(table.number))
    if channel.kind is ChannelKind.PAIR:
        return _pair(table, spec, channel, Cells(n, s1, s2, ones), now_ms, curves)
    if metric.default_when_silent is None:
        return Cells(n, s1, s2, ones)
    silent = silent_value(metric, channel)
    if silent is None:
        return Cells(n, s1, s2, table.mature(metric.attribution_window, now_ms).astype(np.float64))
    arrived = table.n[:, :, index]
    mature = table.mature(metric.attribution_window, now_ms)
    curve = (curves or {}).get(index)
    if curve is None:
        missing = np.maximum(table.assigned - arrived, 0.0)
        weight = mature.astype(np.float64)
        return Cells(n + missing, s1 + missing * silent, s2 + missing * silent**2, weight)
    early = spec.columns[Channel(ChannelKind.EARLY, index, place=len(EARLY_PARTS) - 1)]
    part = np.where(mature[:, None], 1.0, _arrived_part(table, metric, curve, now_ms))
    unlike = table.n[:, :, early]
    total = np.maximum(table.assigned * part, unlike)
    # s successes over an uncertain F are worth 1 / (1 / s + error^2) successes over a known one.
    young = np.where(mature[:, None], 0.0, unlike).sum(axis=0)
    worth = np.where(mature[:, None], 1.0, 1.0 / (1.0 + young * curve.error**2))
    return Cells(
        worth * total,
        worth * np.clip(silent * total + s1 - silent * n, 0.0, total),
        worth * np.clip(silent**2 * total + s2 - silent**2 * n, 0.0, total),
        ones,
    )


def with_silence(
    table: PeriodTable, metric: Metric, index: int, now_ms: int
) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """(n, s1, s2) [E, K] of a metric with silence filled in, and [E] 1.0 where the period may be read.

    For those who may count mature periods only: nothing is weighed by a delay curve.
    """
    n, s1, s2 = table.n[:, :, index], table.s1[:, :, index], table.s2[:, :, index]
    if metric.default_when_silent is None:
        return n, s1, s2, np.ones(len(table.number))
    value = silent_value(metric, Channel(ChannelKind.VALUE, index))
    assert value is not None
    silent = np.maximum(table.assigned - n, 0.0)
    mature = table.mature(metric.attribution_window, now_ms).astype(np.float64)
    return n + silent, s1 + silent * value, s2 + silent * value * value, mature


def silent_value(metric: Metric, channel: Channel) -> float | None:
    """What a silent decision adds to a channel of the metric; None where it adds nothing."""
    assert metric.default_when_silent is not None
    low, high = metric.scale
    value = (min(metric.default_when_silent, high) - low) / (high - low)
    if channel.kind is ChannelKind.CUBE:
        return value**3
    if channel.kind is ChannelKind.LEVEL:
        return float(metric.levels[channel.place] == metric.default_when_silent)
    if channel.kind is ChannelKind.ABOVE:
        return float(metric.default_when_silent > channel.threshold)
    return value if channel.kind is ChannelKind.VALUE else None


def _pair(
    table: PeriodTable,
    spec: ExperimentSpec,
    channel: Channel,
    joint: Cells,
    now_ms: int,
    curves: dict[int, DelayCurve] | None,
) -> Cells:
    """Cross-moments with silence: where the first is silent, its value c counts with the second's, and the other way
    round, and c d where both are; which of the answers were alone is known by their number, their values by the mean
    of all. Rows that one of the metrics may not read are left out."""
    one = counted(table, spec, Channel(ChannelKind.VALUE, channel.metric), now_ms, curves)
    two = counted(table, spec, Channel(ChannelKind.VALUE, channel.other), now_ms, curves)
    first, second = spec.metrics[channel.metric], spec.metrics[channel.other]
    weight = one.weight * two.weight
    if first.default_when_silent is None or second.default_when_silent is None:
        return Cells(joint.n, joint.s1, joint.s2, weight)
    c = silent_value(first, Channel(ChannelKind.VALUE, channel.metric)) or 0.0
    d = silent_value(second, Channel(ChannelKind.VALUE, channel.other)) or 0.0
    n = np.minimum(one.n, two.n)
    answers, others = (
        Cells(table.n[:, :, at], table.s1[:, :, at], table.s2[:, :, at], weight)
        for at in (channel.metric, channel.other)
    )
    alone, other = (np.maximum(each.n - joint.n, 0.0) for each in (answers, others))
    neither = np.maximum(n - joint.n - alone - other, 0.0)
    filled = joint.s1 + d * alone * _mean(answers) + c * other * _mean(others) + c * d * neither
    return Cells(n, np.clip(filled, 0.0, n), joint.s2, weight)


def _mean(cells: Cells) -> FloatArray:
    mean: FloatArray = np.divide(cells.s1, cells.n, out=np.zeros_like(cells.s1), where=cells.n > 0.0)
    return mean


def _arrived_part(table: PeriodTable, metric: Metric, curve: DelayCurve, now_ms: int) -> FloatArray:
    """[E, K] mean of F(age) over the decisions of a period, spread evenly over it.

    Between the parts, 1 - F + BENT falls as an exponential does.
    """
    end = np.where(table.end_ms > 0, np.minimum(table.end_ms, now_ms), now_ms)
    middles = (np.arange(STEPS) + 0.5) / STEPS
    decided = table.start_ms[:, None] + (end - table.start_ms)[:, None] * middles
    age = np.maximum(now_ms - decided, 0.0) / (1000.0 * metric.attribution_window)
    knots = np.array((0.0, *EARLY_PARTS))
    logs = np.log(1.0 - curve.part + BENT)
    return np.stack([(1.0 + BENT - np.exp(np.interp(age, knots, own))).mean(axis=1) for own in logs], axis=1)

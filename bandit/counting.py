"""How the rewards of each metric of a spec are counted, as tables of integers for the kernels; it counts nothing.

All that is derived from a value is derived from its integer q by integer arithmetic, so that what was added can be
taken away again to the last bit, on any machine. Products of two q are cut to 30 bits; a logarithm is good to 1e-8.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.values import LOG2_BITS, log2_fixed
from bandit.ledger import BUCKETS, ONE, FloatArray, Int64Array, Layout, quantise
from bandit.spec.channels import EARLY_PARTS, Channel, ChannelKind, channels_of, remembers
from bandit.spec.model import ExperimentSpec, Metric, MetricKind

AGGREGATES = {"first": 0, "last": 1, "sum": 2, "max": 3}
NO_VALUE = -1
"""q of a default where there is none."""
_SPECS_KEPT = 256


@dataclass(frozen=True, slots=True, eq=False)
class Tables:
    """M metrics, J of them remembered per decision, D derived channels of one metric.

    ``counted`` [M]: has rewards of its own (a ratio has none). ``join`` [M]: index among the remembered, else -1;
    ``remembered`` [J] the metric of each, ``aggregate`` [J] by ``AGGREGATES``, ``offset`` [J] the lowest value over the
    width of the scale. Derived channels of metric m are at ``start[m]:start[m + 1]`` of ``column``, ``kind``,
    ``threshold`` [D]; ``logs`` [M, 4] are the arguments of ``kernels.values.log_channel``. ``silent`` [M]: q of the
    value of silence, or -1. ``early_ms`` [M, parts]: ages at which the delay curve is known, where it is counted
    (``early`` [M]). ``window_ms`` [M]: attribution windows. Pairs of remembered metric j are at
    ``pair_start[j]:pair_start[j + 1]`` of ``pair_other`` (remembered index) and ``pair_column``.
    """

    layout: Layout
    counted: Int64Array
    join: Int64Array
    remembered: Int64Array
    aggregate: Int64Array
    offset: Int64Array
    start: Int64Array
    column: Int64Array
    kind: Int64Array
    threshold: Int64Array
    logs: Int64Array
    silent: Int64Array
    early_ms: Int64Array
    pair_start: Int64Array
    pair_other: Int64Array
    pair_column: Int64Array
    window_ms: FloatArray
    early: NDArray[np.bool_]


def is_clustered(spec: ExperimentSpec) -> bool:
    """Do units keep their arm over many decisions, so that their rewards are not independent?"""
    return spec.unit.mode != "request" and spec.unit.kind != "request"


def layout_of(spec: ExperimentSpec) -> Layout:
    """Sizes of the cells under a spec."""
    return tables_of(spec).layout


def tables_of(spec: ExperimentSpec) -> Tables:
    """The tables of a spec; kept, since a spec object never changes."""
    return _tables(_Same(spec))


class _Same:
    """A spec as a key: the same object, without a look at its fields."""

    __slots__ = ("spec",)

    def __init__(self, spec: ExperimentSpec) -> None:
        self.spec = spec

    def __hash__(self) -> int:
        return id(self.spec)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same) and self.spec is other.spec


@lru_cache(_SPECS_KEPT)
def _tables(key: _Same) -> Tables:
    spec = key.spec
    channels = channels_of(spec)
    metrics = spec.metrics
    remembered = sorted(remembers(spec))
    join = np.full(len(metrics), -1, np.int64)
    join[remembered] = np.arange(len(remembered))
    derived = sorted(
        (channel.metric, column)
        for column, channel in enumerate(channels)
        if channel.kind not in (ChannelKind.VALUE, ChannelKind.PAIR)
    )
    pairs = sorted(
        (int(join[one]), int(join[other]), column)
        for column, channel in enumerate(channels)
        if channel.kind is ChannelKind.PAIR
        for one, other in {(channel.metric, channel.other), (channel.other, channel.metric)}
    )
    windows = np.array([metric.attribution_window for metric in metrics]) * 1000
    return Tables(
        layout=Layout(
            1 + (len(spec.cohorts.values) if spec.cohorts else 0),
            len(spec.arms),
            len(channels),
            len(metrics) if is_clustered(spec) else 0,
            2 * BUCKETS if is_clustered(spec) and spec.unit.mode == "sticky" else BUCKETS,
        ),
        counted=np.array([metric.kind is not MetricKind.RATIO for metric in metrics], np.int64),
        join=join,
        remembered=np.array(remembered, np.int64),
        aggregate=np.array([AGGREGATES[metrics[index].aggregate] for index in remembered], np.int64),
        offset=np.array([_offset(metrics[index]) for index in remembered], np.int64),
        start=_starts([metric for metric, _ in derived], len(metrics)),
        column=np.array([column for _, column in derived], np.int64),
        kind=np.array([channels[column].kind for _, column in derived], np.int64),
        threshold=np.array(
            [_threshold(metrics[metric], channels[column]) for metric, column in derived],
            np.int64,
        ),
        logs=np.array([_log_arguments(metric) for metric in metrics], np.int64),
        silent=np.array([_silent(metric) for metric in metrics], np.int64),
        early_ms=np.floor(windows[:, None] * np.array(EARLY_PARTS)).astype(np.int64),
        pair_start=_starts([one for one, _, _ in pairs], len(remembered)),
        pair_other=np.array([other for _, other, _ in pairs], np.int64),
        pair_column=np.array([column for _, _, column in pairs], np.int64),
        window_ms=windows,
        early=np.array([metric.weighs_pending for metric in metrics], np.bool_),
    )


def _starts(rows: list[int], groups: int) -> Int64Array:
    """Where each group begins in sorted rows, and the end."""
    return np.searchsorted(np.array(rows, np.int64), np.arange(groups + 1)).astype(np.int64)


def _threshold(metric: Metric, channel: Channel) -> int:
    low, high = metric.scale
    if channel.kind is ChannelKind.LEVEL:
        return quantise(metric.levels[channel.place], low, high)
    if channel.kind is ChannelKind.ABOVE:
        return quantise(min(channel.threshold, high), low, high) if channel.threshold >= low else -1
    return channel.place


def _silent(metric: Metric) -> int:
    if metric.default_when_silent is None:
        return NO_VALUE
    low, high = metric.scale
    return quantise(min(max(metric.default_when_silent, low), high), low, high)


def _offset(metric: Metric) -> int:
    low, high = metric.scale
    return min(max(round(low / (high - low) * ONE), -(1 << 50)), 1 << 50)


def _log_arguments(metric: Metric) -> tuple[int, int, int, int]:
    """``low``, ``step``, ``base``, ``span`` of ``log_channel``: 2**60 is the highest value, 2**30 the least."""
    low, high = metric.scale
    whole = 1 << 60
    if high <= 0 or low >= high or low < -high:
        return -1, 0, 0, 1  # nothing has a logarithm
    start = int(Fraction(low) / Fraction(high) * whole)
    base = int(log2_fixed(max(start, ONE)))
    return start, -((start - whole) >> 30), base, max((60 << LOG2_BITS) - base, 1)

"""Channels: what of a decision's rewards the ledger adds up, as a pure function of the spec; it adds nothing itself.

A channel takes one number in [0, 1] from the rewards of one decision, or nothing. Channel m < M is metric m itself;
derived ones follow. Each has the ledger's four columns, so any order, repeat or correction of the same rewards gives
the same bits in all of them, and every reader finds (n, sum, sum of squares) of whatever it needs.

    kind    value of a decision                                                      needed by
    VALUE   the metric's value x, scaled (winsorised at the edge)                    every metric; nothing for a ratio
    LOG     ln of the value on the scale of ``log_scale``; nothing for values <= 0   lognormal, revenue
    LEVEL   1 when the value is level ``place``, else 0                              rating
    CUBE    x ** 3                                                                   asymptotic guardrails (skewness)
    ABOVE   1 when the value is above ``threshold`` (metric's unit), else 0          quantile guardrails
    EARLY   1 when the reward came within part ``place`` of ``EARLY_PARTS`` of the   metrics that weigh pending
            attribution window, else 0; only values unlike ``default_when_silent``   decisions
    PAIR    product of the values of ``metric`` and ``other``; nothing while one     composite objectives, ratios
            of them is missing: its sum is the cross-moment                          (cross-moments)
"""

from __future__ import annotations

import math
from enum import IntEnum
from itertools import combinations
from typing import TYPE_CHECKING, NamedTuple

from bandit.spec.metric import Direction, Metric, MetricKind

if TYPE_CHECKING:
    from bandit.spec.guardrail import Guardrail
    from bandit.spec.model import ExperimentSpec

RESOLUTION = 2.0**-30
"""Least value that a LOG channel tells from 0, as a part of the highest: what the ledger resolves."""
EARLY_PARTS = tuple(2.0**-exponent for exponent in range(12, -1, -1))
"""Parts of the attribution window at which the delay curve is known; between them it is linear."""


class ChannelKind(IntEnum):
    """See the module."""

    VALUE = 0
    LOG = 1
    LEVEL = 2
    CUBE = 3
    ABOVE = 4
    EARLY = 5
    PAIR = 6


class Channel(NamedTuple):
    """One channel; ``other``, ``place`` and ``threshold`` are 0 where the kind does not use them."""

    kind: ChannelKind
    metric: int
    other: int = 0
    place: int = 0
    threshold: float = 0.0


def channels_of(spec: ExperimentSpec) -> tuple[Channel, ...]:
    """The channels of an epoch of this spec, in the order of the ledger's columns."""
    found = [Channel(ChannelKind.VALUE, index) for index in range(len(spec.metrics))]
    for index, metric in enumerate(spec.metrics):
        if metric.kind in (MetricKind.LOGNORMAL, MetricKind.REVENUE):
            found.append(Channel(ChannelKind.LOG, index))
        if metric.kind is MetricKind.RATING:
            found += [Channel(ChannelKind.LEVEL, index, place=level) for level in range(len(metric.levels))]
        if metric.weighs_pending:
            found += [Channel(ChannelKind.EARLY, index, place=part) for part in range(len(EARLY_PARTS))]
    found += [Channel(ChannelKind.PAIR, low, other=high) for low, high in _pairs(spec)]
    for guardrail in spec.guardrails:
        watched = None if guardrail.metric is None else spec.metric_index(guardrail.metric)
        if watched is not None:
            found += watched_channels(guardrail, watched, spec.metrics[watched])
    return tuple(dict.fromkeys(found))


def watched_channels(guardrail: Guardrail, index: int, metric: Metric) -> list[Channel]:
    """Channels that a guardrail needs beside its metric ``index``: of an asymptotic one the cube (a 0 or 1 is its own),
    of a quantile one the outcomes above its edges."""
    if guardrail.kind == "quantile_limit" and guardrail.limit is not None:
        # Where more is better, the limit itself is kept: above the number before it.
        upward = metric.direction is Direction.MAXIMIZE
        edge = math.nextafter(guardrail.limit, -math.inf) if upward else guardrail.limit
        return [Channel(ChannelKind.ABOVE, index, threshold=edge)]
    if guardrail.kind == "quantile_harm" and guardrail.between is not None:
        return [Channel(ChannelKind.ABOVE, index, threshold=edge) for edge in guardrail.edges()[0]]
    if guardrail.method == "asymptotic" and metric.kind is not MetricKind.BERNOULLI:
        return [Channel(ChannelKind.CUBE, index)]
    return []


def _pairs(spec: ExperimentSpec) -> list[tuple[int, int]]:
    """Metrics whose cross-moments are needed, lower index first: of ratios, and of several terms of the objective."""
    joined = {
        tuple(sorted((_index(spec, metric.numerator), _index(spec, metric.denominator))))
        for metric in spec.metrics
        if metric.kind is MetricKind.RATIO
    }
    terms = {part for term in spec.objective for part in parts_of(spec, _index(spec, term.metric))}
    joined |= set(combinations(sorted(terms), 2))
    return sorted((low, high) for low, high in joined)


def parts_of(spec: ExperimentSpec, metric: int) -> tuple[int, ...]:
    """Indexes of the metrics with rewards of their own that a metric is made of: two for a ratio, else itself."""
    found = spec.metrics[metric]
    if found.kind is MetricKind.RATIO:
        return _index(spec, found.numerator), _index(spec, found.denominator)
    return (metric,)


def log_scale(metric: Metric) -> tuple[float, float]:
    """(low, high) of ln value that are 0 and 1 in a LOG channel: down to 1e-9 of the highest value."""
    _, high = metric.scale
    least = max(metric.range[0], high * RESOLUTION)
    return math.log(least), math.log(high)


def joins(spec: ExperimentSpec) -> frozenset[int]:
    """Indexes of metrics whose values must be remembered per decision: of a PAIR, or not ``aggregate: first``."""
    paired = {index for pair in _pairs(spec) for index in pair}
    several = {index for index, metric in enumerate(spec.metrics) if metric.aggregate != "first"}
    return frozenset(paired | several)


def remembers(spec: ExperimentSpec) -> frozenset[int]:
    """Indexes of the metrics whose values are kept per decision: joined, aggregated or corrected ones."""
    return joins(spec) | {index for index, metric in enumerate(spec.metrics) if metric.corrections}


def _index(spec: ExperimentSpec, name: str | None) -> int:
    found = spec.metric_index(name) if name else None
    if found is None:
        raise ValueError(f"metric {name!r} is not in the spec")
    return found

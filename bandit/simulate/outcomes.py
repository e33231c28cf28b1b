"""One period of a world as the ledger would hold it: sums per cohort, arm and channel, by how late they arrive.

Every decision is drawn, so rare events, joint missingness and cross-moments are what they would be. Values of
different metrics are independent given cohort and arm, and so are delays and values.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.ledger import FloatArray
from bandit.simulate.laws import Law, draw, draw_delays
from bandit.simulate.plan import Plan
from bandit.spec.channels import EARLY_PARTS, Channel, ChannelKind, channels_of, log_scale
from bandit.spec.model import Metric, MetricKind

if TYPE_CHECKING:
    from numpy.random import Generator


class Drawn(NamedTuple):
    """``assigned`` [G, K]; ``n``, ``s1``, ``s2`` [J, G, K, C]: what has arrived j looks after the period's own look."""

    assigned: FloatArray
    n: FloatArray
    s1: FloatArray
    s2: FloatArray


class _Values(NamedTuple):
    """Of each decision: value on the ledger's scale, delay as a part of the window, looks until it comes or -1."""

    x: FloatArray
    delay: FloatArray
    lag: NDArray[np.int64]


class _Run(NamedTuple):
    """Cells ``start`` to ``stop`` whose laws differ in their means alone."""

    start: int
    stop: int
    law: Law


class Outcomes:
    """Draws periods of a plan."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self.channels = channels_of(plan.spec)
        self._rate = plan.requests_per_period * plan.parts
        self._runs = [_runs(m, plan) for m in range(len(plan.spec.metrics))]
        self.lags = self._lags()

    def _lags(self) -> int:
        late = [
            metric.attribution_window
            for metric, runs in zip(self._plan.spec.metrics, self._runs, strict=True)
            if any(run.law.comes_late for run in runs)
        ]
        return min(self._plan.periods, math.floor(max(late) / self._plan.period_s) + 2) if late else 1

    def period(self, number: int, shares: FloatArray, rng: Generator) -> Drawn:
        """The decisions of a period under shares [K] or [G, K] (sum 1 each), and their rewards."""
        cohorts, arms = len(self._rate), shares.shape[-1]
        total = rng.poisson(self._rate)
        assigned = rng.multinomial(total, shares)
        cell = np.repeat(np.arange(cohorts * arms), assigned.ravel())
        values = [self._values(m, number, cell, rng) for m in range(len(self._plan.spec.metrics))]
        shape = (self.lags, cohorts * arms, len(self.channels))
        n, s1, s2 = np.zeros(shape), np.zeros(shape), np.zeros(shape)
        for c, channel in enumerate(self.channels):
            found = self._channel(channel, values)
            if found is None:
                continue
            v, lag = found
            kept = lag >= 0
            if not kept.all():
                v, lag, here = v[kept], lag[kept], cell[kept]
            else:
                here = cell
            place = lag * shape[1] + here
            size = shape[0] * shape[1]
            n[:, :, c] = np.bincount(place, minlength=size).reshape(shape[:2])
            s1[:, :, c] = np.bincount(place, v, minlength=size).reshape(shape[:2])
            s2[:, :, c] = np.bincount(place, v * v, minlength=size).reshape(shape[:2])
        deep = (self.lags, cohorts, arms, len(self.channels))
        sums = [np.cumsum(each, axis=0).reshape(deep) for each in (n, s1, s2)]
        return Drawn(assigned.astype(np.float64), *sums)

    def _values(self, m: int, number: int, cell: NDArray[np.int64], rng: Generator) -> _Values | None:
        plan = self._plan
        metric = plan.spec.metrics[m]
        if metric.kind is MetricKind.RATIO:
            return None
        means = plan.means[number, :, :, m].ravel()
        x = np.empty(cell.size)
        delay = np.zeros(cell.size)
        lag = np.zeros(cell.size, np.int64)
        for start, stop, law in self._runs[m]:
            first, end = np.searchsorted(cell, (start, stop))
            rows = slice(int(first), int(end))
            x[rows] = draw(metric, law, means[cell[rows]], rng)
            if law.comes_late:
                self._delay(metric, law, delay[rows], lag[rows], rng)
            if law.answered < 1.0:
                lag[rows] = np.where(rng.random(rows.stop - rows.start) < law.answered, lag[rows], -1)
        return _Values(x, delay, lag)

    def _delay(
        self, metric: Metric, law: Law, delay: FloatArray, lag: NDArray[np.int64], rng: Generator
    ) -> None:
        seconds = draw_delays(law, metric.attribution_window, delay.size, rng)
        decided = rng.random(delay.size) * self._plan.period_s
        delay[:] = seconds / metric.attribution_window
        late = np.minimum((decided + seconds) // self._plan.period_s, self.lags).astype(np.int64)
        lag[:] = np.where((delay > 1.0) | (late >= self.lags), -1, late)

    def _channel(
        self, channel: Channel, values: list[_Values | None]
    ) -> tuple[FloatArray, NDArray[np.int64]] | None:
        """(value, lag) of each decision; None where a metric has no rewards of its own."""
        metric = self._plan.spec.metrics[channel.metric]
        own = values[channel.metric]
        if own is None:
            return None
        x, delay, lag = own
        low, high = metric.scale
        if channel.kind is ChannelKind.VALUE:
            return x, lag
        if channel.kind is ChannelKind.PAIR:
            other = values[channel.other]
            assert other is not None
            both = np.where((lag >= 0) & (other.lag >= 0), np.maximum(lag, other.lag), -1)
            return x * other.x, both
        if channel.kind is ChannelKind.CUBE:
            return x**3, lag
        unit = low + (high - low) * x
        if channel.kind is ChannelKind.LOG:
            least, most = log_scale(metric)
            log = (np.log(np.maximum(unit, math.exp(least))) - least) / (most - least)
            return np.clip(log, 0.0, 1.0), np.where(unit > 0.0, lag, -1)
        if channel.kind is ChannelKind.LEVEL:
            return (np.abs(unit - metric.levels[channel.place]) < 1e-9 * (high - low)).astype(np.float64), lag
        if channel.kind is ChannelKind.ABOVE:
            return (unit > channel.threshold).astype(np.float64), lag
        silent = metric.default_when_silent
        assert silent is not None
        told = np.where(np.abs(unit - silent) > 1e-12 * (high - low), lag, -1)
        return (delay <= EARLY_PARTS[channel.place]).astype(np.float64), told


def _runs(metric: int, plan: Plan) -> list[_Run]:
    """Cells, cohort by cohort, cut where more than the mean of a metric's law changes."""
    laws = [law for arms in plan.laws for each in arms if (law := each[metric])]
    kind = plan.spec.metrics[metric].kind
    found: list[_Run] = []
    last: tuple[object, ...] | None = None
    for cell, law in enumerate(laws):
        spread = law.sd
        if kind in (MetricKind.LOGNORMAL, MetricKind.REVENUE):
            spread = round(law.sd / law.mean, 12)
        key = (spread, law.buyers, law.levels, law.delay_s, law.late, law.answered)
        if key == last:
            found[-1] = found[-1]._replace(stop=cell + 1)
        else:
            found.append(_Run(cell, cell + 1, law))
        last = key
    return found

"""Laws of one value: how it is drawn, what it truly is after range and winsorize, and which laws fit a metric.

It draws only from the generator it is given.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, NamedTuple, Protocol

import numpy as np
from scipy import stats

from bandit.declared import Declared, age_at, declared
from bandit.ledger import FloatArray
from bandit.spec.model import Delay, Metric, MetricKind
from bandit.spec.quantity import format_duration

if TYPE_CHECKING:
    from numpy.random import Generator

DAY_S = 86400.0
QUANTILES = (np.arange(2000) + 0.5) / 2000
_NEEDS_SD = (MetricKind.FRACTION, MetricKind.GAUSSIAN, MetricKind.LOGNORMAL, MetricKind.REVENUE)


class Moves(Protocol):
    """See ``world.Drift``."""

    @property
    def shape(self) -> str: ...
    @property
    def by(self) -> float: ...
    @property
    def at(self) -> float | None: ...


class Given(Protocol):
    """What a file may say of a law; see ``world.MetricLaw``."""

    @property
    def mean(self) -> float | None: ...
    @property
    def times(self) -> float | None: ...
    @property
    def sd(self) -> float | None: ...
    @property
    def buyers(self) -> float | None: ...
    @property
    def levels(self) -> tuple[float, ...]: ...
    @property
    def drift(self) -> Moves | None: ...
    @property
    def delay(self) -> float | None: ...
    @property
    def answered(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class Law:
    """One value: ``mean``, ``sd`` in the metric's unit before the range is applied; ``buyers`` of revenue; ``levels``
    shares of a rating. The mean moves as ``shape``, ``by``, ``at_s`` say. ``delay_s``: mean of an exponential; else
    ``late``: as the spec declares, then all rewards come within the window; else they come at once. ``answered``: share
    of decisions that get a reward."""

    mean: float
    sd: float = 0.0
    buyers: float = 1.0
    levels: tuple[float, ...] = ()
    shape: str = "flat"
    by: float = 0.0
    at_s: float = 0.0
    delay_s: float = 0.0
    late: Declared | None = None
    answered: float = 1.0

    @property
    def comes_late(self) -> bool:
        """Do rewards take time?"""
        return self.delay_s > 0.0 or self.late is not None

    def factor(self, at_s: float, horizon_s: float) -> float:
        """By how much the mean is multiplied at a time."""
        if self.shape == "rising":
            return 1.0 + self.by * at_s / horizon_s
        if self.shape == "falling":
            return 1.0 - self.by * at_s / horizon_s
        if self.shape == "daily":
            return 1.0 + self.by * math.sin(2.0 * math.pi * at_s / DAY_S)
        return 1.0 + self.by if self.shape == "step" and at_s >= self.at_s else 1.0

    def extremes(self) -> tuple[float, float]:
        """Lowest and highest mean over the horizon."""
        ends = {"rising": (1.0, 1.0 + self.by), "step": (1.0, 1.0 + self.by), "falling": (1.0 - self.by, 1.0)}
        low, high = ends.get(
            self.shape, (1.0 - self.by, 1.0 + self.by) if self.shape == "daily" else (1.0, 1.0)
        )
        return tuple(sorted((self.mean * low, self.mean * high)))  # type: ignore[return-value]


def law_of(metric: Metric, given: Given | None, before: Law | None) -> Law:
    """``before`` (the control's, or the arm's for everybody) with what is given; without ``before``, a guess."""
    law = assumed(metric) if before is None else before
    if given is None:
        return law
    mean = law.mean * given.times if given.times is not None else law.mean
    sd = law.sd * (
        given.times
        if given.times is not None and metric.kind in (MetricKind.LOGNORMAL, MetricKind.REVENUE)
        else 1.0
    )
    if given.mean is not None:
        mean = given.mean
    law = replace(
        law,
        mean=mean,
        sd=given.sd if given.sd is not None else sd,
        buyers=given.buyers if given.buyers is not None else law.buyers,
        levels=given.levels or law.levels,
        delay_s=given.delay if given.delay is not None else law.delay_s,
        late=None if given.delay is not None else law.late,
        answered=given.answered if given.answered is not None else law.answered,
    )
    if given.drift is not None:
        law = replace(law, shape=given.drift.shape, by=given.drift.by, at_s=given.drift.at or 0.0)
    return law


def declared_of(metric: Metric, law: Law, delay: Delay | None) -> Law:
    """The law with the delay that the spec declares of one arm; as it is where that declares none."""
    late = declared(delay, metric.attribution_window)
    return law if late is None else replace(law, delay_s=0.0, late=late)


def draw_delays(law: Law, window_s: float, count: int, rng: Generator) -> FloatArray:
    """[count] s from decision to reward of a law that comes late."""
    if law.late is None:
        return rng.exponential(law.delay_s, count)
    return window_s * age_at(law.late, rng.random(count))


def assumed(metric: Metric) -> Law:
    """As :func:`_assumed`, with the delay that the metric declares."""
    return declared_of(metric, _assumed(metric), metric.delay)


def _assumed(metric: Metric) -> Law:
    """What is taken of the control where nothing is said: the mean of the metric's prior, else a tenth of a
    bernoulli or fraction, a quarter of the scale of anything else; the sd is an eighth of the scale (of a lognormal
    and of revenue: the mean itself; a tenth buys); ratings are even."""
    low, high = metric.scale
    width = high - low
    part = 0.1 if metric.kind in (MetricKind.BERNOULLI, MetricKind.FRACTION) else 0.25
    mean = metric.prior.mean if metric.prior else low + part * width
    if metric.kind is MetricKind.RATING:
        count = len(metric.levels)
        return Law(sum(metric.levels) / count, levels=(1.0 / count,) * count)
    if metric.kind is MetricKind.REVENUE:
        return Law(min(mean, 0.02 * width), sd=min(mean, 0.02 * width) * 10.0, buyers=0.1)
    if metric.kind is MetricKind.LOGNORMAL:
        return Law(mean, sd=mean)
    sd = min(width / 8.0, 0.9 * math.sqrt(max((mean - low) * (high - mean), 0.0)))
    return Law(mean, sd=sd if metric.kind in _NEEDS_SD else 0.0)


def fault(metric: Metric, law: Law) -> str:
    """Why the law does not fit the metric, with what to do; "" when it fits."""
    low, high = metric.range
    least, most = law.extremes()
    if metric.kind is MetricKind.RATING:
        if len(law.levels) != len(metric.levels) or abs(sum(law.levels) - 1.0) > 1e-6:
            return (
                f"{len(law.levels)} shares that add up to {sum(law.levels):g} for {len(metric.levels)} levels; "
                "write one for each, together 1"
            )
        return "" if law.by == 0.0 else "a rating does not drift; write other levels instead"
    if law.levels:
        return "levels are of ratings; leave them out"
    floor = low if metric.kind in (MetricKind.GAUSSIAN, MetricKind.FRACTION) else max(low, 0.0)
    if not floor <= least or not most <= high:
        return (
            f"its mean goes from {least:g} to {most:g}, outside [{floor:g}, {high:g}]; choose mean, times and drift "
            "that stay inside"
        )
    if metric.kind in _NEEDS_SD and not law.sd > 0.0:
        return "it needs an sd above 0; write one"
    if metric.kind not in _NEEDS_SD and law.sd > 0.0:
        return f"a {metric.kind} has no sd of its own; leave it out"
    positive = metric.kind in (MetricKind.EXPONENTIAL, MetricKind.LOGNORMAL, MetricKind.REVENUE)
    if positive and not least > 0.0:
        return f"its mean reaches {least:g}; a {metric.kind} needs one above 0"
    if metric.kind is MetricKind.FRACTION:
        edge = min((least - low) * (high - least), (most - low) * (high - most))
        if not law.sd**2 < edge:
            most_sd = math.sqrt(max(edge, 0.0))
            return f"sd {law.sd:g} is more than a fraction of such a mean can have ({most_sd:.3g}); lower it"
    if law.delay_s and law.delay_s > 10 * metric.attribution_window:
        return (
            f"a mean delay of {format_duration(law.delay_s)} with a window of "
            f"{format_duration(metric.attribution_window)}: almost no reward would count; widen the window"
        )
    return ""


def counted_mean(metric: Metric, law: Law, mean: float) -> float:
    """What the mean of a decision is on the ledger's scale, given that of a value: where silence has a value, the
    decisions that never answer, or not within the attribution window, count as that."""
    if metric.default_when_silent is None:
        return mean
    low, high = metric.scale
    silent = (min(metric.default_when_silent, high) - low) / (high - low)
    arrived = law.answered
    if law.delay_s:
        arrived *= -math.expm1(-metric.attribution_window / law.delay_s)
    return silent + (mean - silent) * arrived


def draw(metric: Metric, law: Law, means: FloatArray, rng: Generator) -> FloatArray:
    """Values in [0, 1] of the ledger's scale, one for each of ``means`` (the law's mean at the moment, by decision)."""
    n = means.size
    low, high = metric.range
    if metric.kind is MetricKind.BERNOULLI:
        return (rng.random(n) < means).astype(np.float64)
    if metric.kind is MetricKind.RATING:
        levels = np.asarray(metric.levels, np.float64)
        place = np.searchsorted(np.cumsum(law.levels)[:-1], rng.random(n), side="right")
        return scaled(metric, levels[place])
    if metric.kind is MetricKind.FRACTION:
        m = (means - low) / (high - low)
        strength = m * (1.0 - m) * ((high - low) / law.sd) ** 2 - 1.0
        return scaled(metric, low + (high - low) * rng.beta(m * strength, (1.0 - m) * strength))
    if metric.kind is MetricKind.GAUSSIAN:
        return scaled(metric, means + law.sd * rng.standard_normal(n))
    if metric.kind is MetricKind.POISSON:
        return scaled(metric, rng.poisson(means).astype(np.float64))
    if metric.kind is MetricKind.EXPONENTIAL:
        return scaled(metric, means * rng.standard_exponential(n))
    mu, sigma = _log_moments(means / law.buyers, law)
    values = np.exp(mu + sigma * rng.standard_normal(n))
    if metric.kind is MetricKind.REVENUE:
        values = np.where(rng.random(n) < law.buyers, values, 0.0)
    return scaled(metric, values)


def _log_moments(mean: FloatArray, law: Law) -> tuple[FloatArray, float]:
    """(mu, sigma) of ln value; the relative sd stays as the mean moves."""
    sigma2 = math.log1p((law.sd * law.buyers / law.mean) ** 2) if law.mean else 0.0
    return np.log(mean) - sigma2 / 2.0, math.sqrt(sigma2)


def scaled(metric: Metric, values: FloatArray) -> FloatArray:
    """Values as the ledger takes them: inside the range, winsorised, on its scale [0, 1]."""
    low, high = metric.scale
    out: FloatArray = (np.clip(values, low, high) - low) / (high - low)
    return out


class Atoms(NamedTuple):
    """A law as weighted points: ``x`` on the ledger's scale, ``weight`` sums to 1; a grid of quantiles where the law
    is continuous."""

    x: FloatArray
    weight: FloatArray

    @property
    def mean(self) -> float:
        """E of one value."""
        return float(self.x @ self.weight)


def atoms(metric: Metric, law: Law, mean: float) -> Atoms:
    """The law at a moment when its mean is ``mean``."""
    low, high = metric.range
    even = np.full(QUANTILES.size, 1.0 / QUANTILES.size)
    if metric.kind is MetricKind.BERNOULLI:
        return Atoms(np.array([0.0, 1.0]), np.array([1.0 - mean, mean]))
    if metric.kind is MetricKind.RATING:
        return Atoms(scaled(metric, np.asarray(metric.levels, np.float64)), np.asarray(law.levels))
    if metric.kind is MetricKind.POISSON:
        counts = np.arange(math.ceil(mean + 12.0 * math.sqrt(mean) + 30.0), dtype=np.float64)
        return Atoms(scaled(metric, counts), stats.poisson.pmf(counts, mean))
    if metric.kind is MetricKind.FRACTION:
        m = (mean - low) / (high - low)
        strength = m * (1.0 - m) * ((high - low) / law.sd) ** 2 - 1.0
        part = stats.beta.ppf(QUANTILES, m * strength, (1.0 - m) * strength)
        return Atoms(scaled(metric, low + (high - low) * part), even)
    if metric.kind is MetricKind.GAUSSIAN:
        return Atoms(scaled(metric, stats.norm.ppf(QUANTILES, mean, law.sd)), even)
    if metric.kind is MetricKind.EXPONENTIAL:
        return Atoms(scaled(metric, -mean * np.log1p(-QUANTILES)), even)
    mu, sigma = _log_moments(np.array([mean / law.buyers]), law)
    values = scaled(metric, np.exp(mu[0] + sigma * stats.norm.ppf(QUANTILES)))
    if metric.kind is MetricKind.LOGNORMAL:
        return Atoms(values, even)
    return Atoms(
        np.concatenate([scaled(metric, np.zeros(1)), values]),
        np.concatenate([[1.0 - law.buyers], law.buyers * even]),
    )

"""Worlds: what the users of each variant would do, as pure functions; they serve nobody and learn nothing.

Every outcome is a hash of (seed, unit, metric) pushed through the law of the arm at that moment. So a world gives the
same outcome in any process and any order, and a unit has one fate under each arm, whichever of them it is given.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bandit.errors import InvalidArgument
from bandit.rng import hash_unit
from bandit.spec.model import Metric, MetricKind

# A gaussian law keeps this many standard deviations to both ends of the metric's range: values are cut there, and
# what is cut moves the mean by less than 1e-5 of a standard deviation.
MARGIN_SD = 4.0
SEED_BYTES = 14

_VALUE, _SECOND, _DELAY, _ANSWERS = range(4)


@dataclass(frozen=True, slots=True)
class Law:
    """Distribution of one metric under one arm: ``mean`` and ``sd`` in the metric's unit (bernoulli: no ``sd``)."""

    mean: float
    sd: float = 0.0


@dataclass(frozen=True, slots=True)
class Phase:
    """The laws of one arm, by metric, from ``begins_s`` (since the world began) until the next phase."""

    begins_s: float
    laws: Mapping[str, Law]


@dataclass(frozen=True, slots=True)
class Timing:
    """When a reward comes, s after its decision: ``least`` and an exponential part of mean ``more``, ``most`` at most.

    ``answered``: share of the decisions that ever get one. Neither depends on the arm or on the value.
    """

    least: float = 0.0
    more: float = 0.0
    most: float = math.inf
    answered: float = 1.0


class Outcome(NamedTuple):
    """One reward that a decision will bring: ``metric``, ``value`` in its unit, ``delay_s`` after the decision."""

    metric: str
    value: float
    delay_s: float


@dataclass(frozen=True, slots=True)
class World:
    """Arms as they truly are. ``phases``: by arm name, the first of each from 0 s on, in order of time.

    ``timing``: by metric; those left out are answered at once and always. ``seed``: any whole number.

    Raises InvalidArgument when an arm lacks a phase at 0 s or a law, a mean does not fit its metric, or a gaussian law
    comes nearer than MARGIN_SD to an end of the range.
    """

    metrics: tuple[Metric, ...]
    phases: Mapping[str, Sequence[Phase]]
    timing: Mapping[str, Timing] = field(default_factory=dict)
    seed: int = 1

    def __post_init__(self) -> None:
        for arm, phases in self.phases.items():
            begins = [phase.begins_s for phase in phases]
            if not begins or begins[0] != 0.0 or begins != sorted(begins):
                raise InvalidArgument.at(
                    f"phases.{arm}", f"phases begin at {begins} s; begin at 0 and go on in order"
                )
            for phase in phases:
                for metric in self.metrics:
                    _check(arm, metric, phase.laws.get(metric.name))

    def law(self, arm: str, metric: str, at_s: float) -> Law:
        """The law of a metric under an arm, ``at_s`` after the world began. Raises KeyError for an unknown name."""
        now = self.phases[arm][0]
        for phase in self.phases[arm]:
            if phase.begins_s <= at_s:
                now = phase
        return now.laws[metric]

    def outcomes(self, arm: str, unit: str, at_s: float) -> Iterator[Outcome]:
        """What a decision of ``arm`` for ``unit`` at ``at_s`` will bring, metric by metric; silence is left out."""
        for index, metric in enumerate(self.metrics):
            timing = self.timing.get(metric.name, Timing())
            if timing.answered < 1.0 and self._uniform(index, _ANSWERS, unit) >= timing.answered:
                continue
            delay_s = timing.least
            if timing.more:
                delay_s -= timing.more * math.log(1.0 - self._uniform(index, _DELAY, unit))
            value = self._value(index, metric, unit, self.law(arm, metric.name, at_s))
            yield Outcome(metric.name, value, min(delay_s, timing.most))

    def _value(self, index: int, metric: Metric, unit: str, law: Law) -> float:
        u = self._uniform(index, _VALUE, unit)
        if metric.kind is MetricKind.BERNOULLI:
            return 1.0 if u < law.mean else 0.0
        # Box and Muller 1958, one of the pair.
        angle = 2.0 * math.pi * self._uniform(index, _SECOND, unit)
        value = law.mean + law.sd * math.sqrt(-2.0 * math.log(1.0 - u)) * math.cos(angle)
        low, high = metric.range
        return min(max(value, low), high)

    def _uniform(self, metric: int, use: int, unit: str) -> float:
        """A number in [0, 1), the same for the same unit; others for each metric and use."""
        salt = (self.seed % (1 << (8 * SEED_BYTES))).to_bytes(SEED_BYTES, "little") + bytes((metric, use))
        return (hash_unit(salt, unit) >> 11) * 2.0**-53


def _check(arm: str, metric: Metric, law: Law | None) -> None:
    place = f"phases.{arm}.{metric.name}"
    if law is None:
        raise InvalidArgument.at(
            place, f"arm {arm} has no law of metric {metric.name}; give one in every phase"
        )
    low, high = metric.range
    if metric.kind is MetricKind.BERNOULLI:
        if not 0.0 <= law.mean <= 1.0 or law.sd:
            raise InvalidArgument.at(place, f"mean {law.mean:g}, sd {law.sd:g}; a share in [0, 1] and no sd")
    elif law.sd < 0 or not low + MARGIN_SD * law.sd <= law.mean <= high - MARGIN_SD * law.sd:
        raise InvalidArgument.at(
            place,
            f"mean {law.mean:g}, sd {law.sd:g} in [{low:g}, {high:g}]; keep {MARGIN_SD:g} sd to both ends, "
            "or widen the range",
        )

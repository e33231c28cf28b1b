"""Metrics of a spec: a named stream of rewards or costs, which posterior it has and how its values are counted."""

from __future__ import annotations

import math
from collections.abc import Sequence
from enum import StrEnum
from itertools import pairwise
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, ValidationInfo, field_validator

from bandit.spec.delay import Delay, delay_fault
from bandit.spec.frozen import Frozen, MetricKey
from bandit.spec.quantity import Duration, Number, Value, format_duration, increasing, number

MAX_LEVELS = 16
LEAST_GAP = 1e-6
"""Least step between two levels, as a part of the way from the lowest to the highest."""


class MetricKind(StrEnum):
    """Which posterior family a metric has."""

    BERNOULLI = "bernoulli"
    FRACTION = "fraction"
    GAUSSIAN = "gaussian"
    POISSON = "poisson"
    EXPONENTIAL = "exponential"
    LOGNORMAL = "lognormal"
    REVENUE = "revenue"
    RATING = "rating"
    RATIO = "ratio"


RANGED = frozenset(MetricKind) - {MetricKind.BERNOULLI, MetricKind.FRACTION, MetricKind.RATING}
"""Kinds that need a range, since nothing else says how large a value may be."""
FROM_ZERO = frozenset({MetricKind.POISSON, MetricKind.EXPONENTIAL, MetricKind.REVENUE})
"""Kinds whose range begins at 0."""
WINSORIZED = RANGED - {MetricKind.RATIO}
"""Kinds whose values may be cut."""


class Direction(StrEnum):
    """Which way is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


DAY = 86400.0
_OF_A_RATIO = "on a ratio, which has no rewards of its own; write it on its two metrics"


class Prior(Frozen):
    """Belief before any reward: ``mean`` in the metric's unit, ``strength`` in pseudo-observations."""

    mean: Number = Field(description="expected value, in the metric's unit")
    strength: Annotated[float, Field(gt=0, le=1e6), BeforeValidator(number)] = Field(
        2.0, description="how many observations the belief weighs"
    )


class Metric(Frozen):
    """A named stream of rewards or costs."""

    name: MetricKey = Field(description="name of the metric")
    kind: MetricKind = Field(
        description="bernoulli: 0 or 1; fraction: a part in the range; gaussian: any number; poisson: a count; "
        "exponential: a waiting time; lognormal: a positive number; revenue: 0 or a positive number; "
        "rating: one of the levels; ratio: numerator over denominator, two other metrics of the same decisions"
    )
    direction: Direction = Field(description="which way is better: maximize or minimize")
    range: tuple[Value, Value] = Field(
        (0.0, 1.0), description="lowest and highest legal value, in the metric's unit; outside is rejected"
    )
    winsorize: Value | None = Field(
        None, description="values above count as this; fix it from history before the start"
    )
    levels: Annotated[tuple[Value, ...], Field(max_length=MAX_LEVELS)] = Field(
        (), description="rating: the legal values, for example [1, 2, 3, 4, 5]"
    )
    scores: Annotated[tuple[Value, ...], Field(max_length=MAX_LEVELS)] = Field(
        (), description="rating: what each level is worth; may be changed later; left out: the levels"
    )
    numerator: MetricKey | None = Field(None, description="ratio: name of the metric above the line")
    denominator: MetricKey | None = Field(None, description="ratio: name of the metric below the line")
    aggregate: Literal["first", "last", "sum", "max"] = Field(
        "first",
        description="which of several rewards of one decision counts; the others may come in any order",
    )
    corrections: StrictBool = Field(
        False,
        description="true: values are remembered until their window closes, so that a reward can be corrected or "
        "retracted; always so where values are remembered anyway (aggregates, several terms, ratios)",
    )
    attribution_window: Duration = Field(
        DAY, description="how long after its decision a reward still counts, for example 30m"
    )
    default_when_silent: Number | None = Field(
        None,
        description="value a decision gets when its window closed without a reward; left out: it is missing",
    )
    pending: Literal["wait", "weigh"] | None = Field(
        None,
        description="decisions whose window is open, where silence has a value: wait until it closes, or weigh each "
        "by the share of rewards that would have come by its age; left out: weigh for bernoulli, else wait",
    )
    delay: Delay | None = Field(
        None,
        description="how late the rewards come that come within the window, as far as that is known: what pending "
        "decisions are weighed by until data tell it better, and what is rehearsed; left out: not known",
    )
    prior: Prior | None = Field(None, description="belief before any reward; left out: weak")
    plausible_lift: Annotated[float, Field(gt=0, le=1e12), BeforeValidator(number)] | None = Field(
        None,
        description="sd of the differences between arms that are believed before any reward, in the metric's unit",
    )

    @property
    def scale(self) -> tuple[float, float]:
        """Metric values that are 0 and 1 in the ledger: the range, cut where values are winsorised, or the levels."""
        if self.levels:
            return min(self.levels), max(self.levels)
        low, high = self.range
        return low, high if self.winsorize is None else self.winsorize

    @property
    def worth(self) -> tuple[float, ...]:
        """Rating: what each level is worth, in the unit of the levels."""
        return self.scores or self.levels

    @property
    def weighs_pending(self) -> bool:
        """Are decisions with an open window counted by the part of rewards that would have come by their age?"""
        if self.default_when_silent is None or self.pending == "wait":
            return False
        return self.pending == "weigh" or self.kind is MetricKind.BERNOULLI

    @field_validator("range")
    @classmethod
    def _check_range(cls, value: tuple[float, float], seen: ValidationInfo) -> tuple[float, float]:
        low, high = value
        kind = seen.data.get("kind")
        shown = f"[{low:g}, {high:g}]"
        if kind is MetricKind.BERNOULLI and value != (0.0, 1.0):
            raise ValueError(f"{shown} on a bernoulli metric, whose values are 0 and 1; leave range out")
        if kind is MetricKind.RATING and value != (0.0, 1.0):
            raise ValueError(f"{shown} on a rating, whose values are its levels; leave range out")
        increasing(value)
        if kind in FROM_ZERO and low != 0.0:
            raise ValueError(
                f"{shown} on {named(kind)}, whose values begin at 0; write 0 as the first number"
            )
        if kind is MetricKind.LOGNORMAL and low < 0.0:
            raise ValueError(
                f"{shown} on a lognormal metric, whose values are above 0; write 0 or more first"
            )
        if kind is MetricKind.POISSON and high < 1.0:
            raise ValueError(f"{shown} holds no count but 0; write 1 or more as the second number")
        return value

    @field_validator("winsorize")
    @classmethod
    def _check_cap(cls, value: float | None, seen: ValidationInfo) -> float | None:
        kind, span = seen.data.get("kind"), seen.data.get("range")
        if value is None or kind is None:
            return value
        if kind not in WINSORIZED:
            why = (
                "whose two metrics may be cut instead" if kind is MetricKind.RATIO else "whose values are few"
            )
            why = "whose range cuts already" if kind is MetricKind.FRACTION else why
            raise ValueError(f"{value:g} on {named(kind)}, {why}; leave winsorize out")
        if span is not None and not span[0] < value <= span[1]:
            raise ValueError(
                f"{value:g} is not inside the metric's range [{span[0]:g}, {span[1]:g}]; "
                f"write a number above {span[0]:g} and at most {span[1]:g}"
            )
        if kind is MetricKind.POISSON and not value.is_integer():
            raise ValueError(f"{value:g} on a poisson metric, whose values are counts; write a whole number")
        return value

    @field_validator("levels")
    @classmethod
    def _check_levels(cls, value: tuple[float, ...], seen: ValidationInfo) -> tuple[float, ...]:
        kind = seen.data.get("kind")
        if not value or kind is None:
            return value
        if kind is not MetricKind.RATING:
            raise ValueError(f"levels on {named(kind)}; leave them out, or write kind: rating")
        if len(value) < 2:
            raise ValueError("1 level tells nothing apart; write at least 2")
        steps = [after - before for before, after in pairwise(value)]
        if min(steps) <= 0.0:
            raise ValueError(f"{spelled(value)} does not rise; write each level once, the lowest first")
        if min(steps) < LEAST_GAP * (value[-1] - value[0]):
            raise ValueError(
                f"{spelled(value)} has two levels closer than a millionth of their span; move them apart"
            )
        return value

    @field_validator("scores")
    @classmethod
    def _check_scores(cls, value: tuple[float, ...], seen: ValidationInfo) -> tuple[float, ...]:
        kind, levels = seen.data.get("kind"), seen.data.get("levels")
        if not value or kind is None or levels is None:
            return value
        if kind is not MetricKind.RATING:
            raise ValueError(f"scores on {named(kind)}; leave them out, or write kind: rating")
        if len(value) != len(levels):
            raise ValueError(
                f"{len(value)} scores for {len(levels)} levels; write one for each, in their order"
            )
        if min(value) < levels[0] or max(value) > levels[-1]:
            raise ValueError(
                f"{spelled(value)} is not within the levels' span [{levels[0]:g}, {levels[-1]:g}]; "
                "bring the scores to that scale"
            )
        if min(value) == max(value):
            raise ValueError(f"{spelled(value)} makes all levels worth the same; write at least two scores")
        return value

    @field_validator("numerator", "denominator")
    @classmethod
    def _check_part(cls, value: str | None, seen: ValidationInfo) -> str | None:
        kind = seen.data.get("kind")
        if value is not None and kind not in (MetricKind.RATIO, None):
            raise ValueError(
                f"{seen.field_name} on {named(kind)}; leave {seen.field_name} out, or write kind: ratio"
            )
        return value

    @field_validator("aggregate")
    @classmethod
    def _check_aggregate(cls, value: str, seen: ValidationInfo) -> str:
        kind = seen.data.get("kind")
        if kind is MetricKind.RATIO and value != "first":
            raise ValueError(f"{value} {_OF_A_RATIO}")
        if value == "sum" and kind is MetricKind.BERNOULLI:
            raise ValueError(
                "sum on a bernoulli metric, whose values are 0 and 1; write max, or kind: poisson for a count"
            )
        if value == "sum" and kind is MetricKind.RATING:
            raise ValueError("sum on a rating, whose values are its levels; write first, last or max")
        return value

    @field_validator("attribution_window")
    @classmethod
    def _check_window(cls, value: float, seen: ValidationInfo) -> float:
        if not 0.1 <= value <= 90 * 86400:
            raise ValueError(f"{format_duration(value)} is not within 100ms to 90d; write one that is")
        if seen.data.get("kind") is MetricKind.RATIO and value != DAY:
            raise ValueError(f"{format_duration(value)} {_OF_A_RATIO}")
        return value

    @field_validator("default_when_silent")
    @classmethod
    def _check_silent(cls, value: float | None, seen: ValidationInfo) -> float | None:
        kind = seen.data.get("kind")
        if value is None or kind is None:
            return value
        if kind is MetricKind.RATIO:
            raise ValueError(f"{value:g} {_OF_A_RATIO}")
        if kind is MetricKind.LOGNORMAL:
            raise ValueError(
                f"{value:g} on a lognormal metric, where silence has no size; leave it out, or write kind: revenue"
            )
        if kind is MetricKind.BERNOULLI and value not in (0.0, 1.0):
            raise ValueError(f"{value:g} on a bernoulli metric, whose values are 0 and 1; write 0 or 1")
        if kind is MetricKind.RATING:
            levels = seen.data.get("levels") or (value,)
            if value not in levels:
                raise ValueError(f"{value:g} is not a level of the metric; write one of {spelled(levels)}")
            return value
        if kind is MetricKind.POISSON and not value.is_integer():
            raise ValueError(f"{value:g} on a poisson metric, whose values are counts; write a whole number")
        low, high = seen.data.get("range", (value, value))
        if not low <= value <= high:
            raise ValueError(f"{value:g} is outside the metric's range [{low:g}, {high:g}]")
        cap = seen.data.get("winsorize")
        if cap is not None and value > cap:
            raise ValueError(f"{value:g} is above winsorize {cap:g}, as which it would count; write {cap:g}")
        return value

    @field_validator("pending")
    @classmethod
    def _check_pending(cls, value: str | None, seen: ValidationInfo) -> str | None:
        if value is not None and seen.data.get("default_when_silent", 0.0) is None:
            raise ValueError(
                f"{value} where a silent decision is missing, so that nothing is pending; "
                "leave pending out, or write default_when_silent"
            )
        return value

    @field_validator("delay")
    @classmethod
    def _check_delay(cls, value: Delay | None, seen: ValidationInfo) -> Delay | None:
        if value is not None and seen.data.get("kind") is MetricKind.RATIO:
            raise ValueError(f"a delay {_OF_A_RATIO}")
        window = seen.data.get("attribution_window")
        if value is not None and window is not None:
            field, fault = delay_fault(value, window)
            if fault:
                raise ValueError(f"{field} {fault}")
        return value

    @field_validator("prior")
    @classmethod
    def _check_prior(cls, value: Prior | None, seen: ValidationInfo) -> Prior | None:
        if value is None or "kind" not in seen.data:
            return value
        span = seen.data.get("scores") or seen.data.get("levels") or seen.data.get("range")
        if span is None or "winsorize" not in seen.data:
            return value
        cap = seen.data["winsorize"]
        fault = prior_fault(seen.data["kind"], min(span), max(span) if cap is None else cap, value.mean)
        if fault:
            raise ValueError(fault)
        return value

    @field_validator("plausible_lift")
    @classmethod
    def _check_lift(cls, value: float | None, seen: ValidationInfo) -> float | None:
        low, high = seen.data.get("range", (0.0, math.inf))
        levels = seen.data.get("levels")
        width = levels[-1] - levels[0] if levels else high - low
        if value is not None and value > width:
            raise ValueError(f"{value:g} is more than the whole range of the metric, {width:g}; write less")
        return value


def prior_fault(kind: MetricKind, low: float, high: float, mean: float) -> str:
    """The sentence for a prior mean that a metric of this kind and scale cannot have; empty when it can."""
    inside = kind in (MetricKind.BERNOULLI, MetricKind.FRACTION)
    if inside and not low < mean < high:
        return f"mean {mean:g} of {named(kind)} is not between {low:g} and {high:g}"
    if not low <= mean <= high:
        return f"mean {mean:g} is outside the metric's range [{low:g}, {high:g}]"
    if kind in FROM_ZERO | {MetricKind.LOGNORMAL} and mean <= 0.0:
        return f"mean {mean:g} of {named(kind)} is not above 0"
    return ""


def named(kind: MetricKind) -> str:
    """A metric of this kind, with its article."""
    if kind in (MetricKind.RATING, MetricKind.RATIO):
        return f"a {kind}"
    return f"{'an' if kind is MetricKind.EXPONENTIAL else 'a'} {kind} metric"


def spelled(values: Sequence[float]) -> str:
    """Numbers as a list of the file."""
    return f"[{', '.join(f'{value:g}' for value in values)}]"

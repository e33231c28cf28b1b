"""Metrics of a spec: a named stream of rewards or costs, which posterior it has and how its values are counted."""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from bandit.spec.frozen import Frozen, MetricKey
from bandit.spec.quantity import Duration, Number, Value, format_duration, increasing, number

MAX_LEVELS = 16


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


class Direction(StrEnum):
    """Which way is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


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
        "first", description="which of several rewards of one decision counts; the others may come in any order"
    )
    attribution_window: Duration = Field(
        86400.0, description="how long after its decision a reward still counts, for example 30m"
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
    prior: Prior | None = Field(None, description="belief before any reward; left out: weak")
    plausible_lift: Annotated[float, Field(gt=0, le=1e12), BeforeValidator(number)] | None = Field(
        None,
        description="sd of the differences between arms that are believed before any reward, in the metric's unit",
    )

    @property
    def scale(self) -> tuple[float, float]:
        """Metric values that are 0 and 1 in the ledger: the range, cut where values are winsorised."""
        if self.levels:
            return min(self.levels), max(self.levels)
        low, high = self.range
        return low, high if self.winsorize is None else self.winsorize

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
        if seen.data.get("kind") is MetricKind.BERNOULLI and value != (0.0, 1.0):
            raise ValueError(
                f"[{low:g}, {high:g}] on a bernoulli metric, whose values are 0 and 1; leave range out"
            )
        return increasing(value)

    @field_validator("attribution_window")
    @classmethod
    def _check_window(cls, value: float) -> float:
        if not 0.1 <= value <= 90 * 86400:
            raise ValueError(f"{format_duration(value)} is not within 100ms to 90d; write one that is")
        return value

    @field_validator("default_when_silent")
    @classmethod
    def _check_silent(cls, value: float | None, seen: ValidationInfo) -> float | None:
        if value is None:
            return None
        if seen.data.get("kind") is MetricKind.BERNOULLI and value not in (0.0, 1.0):
            raise ValueError(f"{value:g} on a bernoulli metric, whose values are 0 and 1; write 0 or 1")
        low, high = seen.data.get("range", (value, value))
        if not low <= value <= high:
            raise ValueError(f"{value:g} is outside the metric's range [{low:g}, {high:g}]")
        return value

    @field_validator("prior")
    @classmethod
    def _check_prior(cls, value: Prior | None, seen: ValidationInfo) -> Prior | None:
        if value is None:
            return None
        if seen.data.get("kind") is MetricKind.BERNOULLI and not 0 < value.mean < 1:
            raise ValueError(f"mean {value.mean:g} of a bernoulli metric is not between 0 and 1")
        low, high = seen.data.get("range", (value.mean, value.mean))
        if not low <= value.mean <= high:
            raise ValueError(f"mean {value.mean:g} is outside the metric's range [{low:g}, {high:g}]")
        return value

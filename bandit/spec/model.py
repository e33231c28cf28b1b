"""The spec of one experiment as frozen types; once built, an instance is right and is trusted after.

Field names are the keys of the YAML file. Shares are numbers in [0, 1] in the file and integers in ppm
(``*_ppm``) everywhere else; durations are text like ``30m`` in the file and seconds (``*_s``) here.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Annotated, Literal

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    ValidationInfo,
    field_validator,
)

from bandit.ids import METRIC_PATTERN, NAME_PATTERN
from bandit.spec.quantity import (
    PPM,
    Duration,
    Number,
    Share,
    Value,
    format_duration,
    increasing,
    number,
    parse_duration,
    share_ppm,
)

__all__ = [
    "MAX_ARMS",
    "MAX_COHORTS",
    "MAX_GUARDRAILS",
    "MAX_METRICS",
    "PPM",
    "Allocator",
    "Arm",
    "ArmBounds",
    "Bounds",
    "Cohorts",
    "Decay",
    "Direction",
    "ExperimentSpec",
    "Guardrail",
    "Metric",
    "MetricKind",
    "Prior",
    "Term",
    "Unit",
    "format_duration",
    "parse_duration",
    "share_ppm",
]

MAX_ARMS = 64
MAX_METRICS = 64
MAX_COHORTS = 50
MAX_GUARDRAILS = 64

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
MetricKey = Annotated[str, Field(pattern=METRIC_PATTERN)]
MetadataKey = Annotated[str, Field(min_length=1, max_length=128)]
MetadataText = Annotated[str, Field(max_length=2048)]
CohortValue = Annotated[str, Field(min_length=1, max_length=128)]


class MetricKind(StrEnum):
    """Which posterior family a metric has."""

    BERNOULLI = "bernoulli"
    GAUSSIAN = "gaussian"


class Direction(StrEnum):
    """Which way is better."""

    MAXIMIZE = "maximize"
    MINIMIZE = "minimize"


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class ArmBounds(_Frozen):
    """Bounds of one arm's share; a field left out is taken from the experiment's ``bounds``."""

    floor: Share | None = Field(None, description="least share of traffic, 0 to 1")
    cap: Share | None = Field(None, description="most share of traffic, 0 to 1")
    ramp_per_minute: Share | None = Field(None, description="most rise of the share in one minute, 0 to 1")


class Bounds(_Frozen):
    """Bounds of every challenger unless its arm says otherwise, and of the control."""

    floor: Share = Field(0.02, description="least share of each challenger")
    cap: Share = Field(1.0, description="most share of each challenger")
    ramp_per_minute: Share = Field(
        1.0, description="most rise of a challenger's share in one minute; 1: no limit"
    )
    control_floor: Share = Field(
        0.05, description="least share of the control, so that a comparison stays possible"
    )


class Arm(_Frozen):
    """One slot that serves: bound to one build by its content digest."""

    name: Name = Field(description="name of the arm")
    control: StrictBool = Field(False, description="true for the one arm that everything falls back to")
    digest: str = Field(
        "",
        max_length=200,
        pattern=r"^\S*$",
        description="content digest of the build; another digest is another arm",
    )
    metadata: Annotated[dict[MetadataKey, MetadataText], Field(max_length=64)] = Field(
        default_factory=dict, description="free text for people and gateways"
    )
    bounds: ArmBounds = ArmBounds()


class Prior(_Frozen):
    """Belief before any reward: ``mean`` in the metric's unit, ``strength`` in pseudo-observations."""

    mean: Number = Field(description="expected value, in the metric's unit")
    strength: Annotated[float, Field(gt=0, le=1e6), BeforeValidator(number)] = Field(
        2.0, description="how many observations the belief weighs"
    )


class Metric(_Frozen):
    """A named stream of rewards or costs."""

    name: MetricKey = Field(description="name of the metric")
    kind: MetricKind = Field(description="bernoulli: values are 0 and 1; gaussian: any number in the range")
    direction: Direction = Field(description="which way is better: maximize or minimize")
    range: tuple[Value, Value] = Field(
        (0.0, 1.0), description="lowest and highest legal value, in the metric's unit; outside is rejected"
    )
    attribution_window: Duration = Field(
        86400.0, description="how long after its decision a reward still counts, for example 30m"
    )
    default_when_silent: Number | None = Field(
        None,
        description="value a decision gets when its window closed without a reward; left out: it is missing",
    )
    prior: Prior | None = Field(None, description="belief before any reward; left out: weak")

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


class Term(_Frozen):
    """One term of the objective: ``weight`` times the metric on its fixed scale, better always up."""

    metric: MetricKey = Field(description="name of the metric")
    weight: Annotated[float, Field(gt=0, le=1e6), BeforeValidator(number)] = Field(
        1.0, description="importance relative to the other terms"
    )
    scale: tuple[Value, Value] | None = Field(
        None, description="metric values that map to 0 and 1 in the objective; left out: the metric's range"
    )

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if value is None else increasing(value)


class Allocator(_Frozen):
    """The rule from posteriors to weights."""

    kind: Literal["thompson", "ucb", "fixed"] = Field(
        "thompson", description="thompson or ucb: learn from rewards; fixed: the weights given here"
    )
    weights: dict[Name, Share] = Field(
        default_factory=dict, description="fixed only: share of each arm; they add up to 1"
    )


class Unit(_Frozen):
    """What is assigned, and for how long it keeps its arm."""

    kind: Literal["request", "session", "user", "tenant"] = Field(
        "session", description="whose key decides the arm"
    )
    mode: Literal["sticky", "epoch"] = Field(
        "sticky",
        description="sticky: a unit moves only when shares move; epoch: units are drawn anew in each epoch",
    )


class Cohorts(_Frozen):
    """Declared segments of units, by one attribute of the decide request; everything else is ``other``."""

    attribute: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        description="name of the attribute of the decide request"
    )
    values: Annotated[tuple[CohortValue, ...], Field(min_length=1, max_length=MAX_COHORTS)] = Field(
        description="values with statistics of their own"
    )


class Guardrail(_Frozen):
    """One safety check of every challenger."""

    name: Name = Field(description="name of the guardrail")
    kind: Literal["rate_limit", "harm", "breaker"] = Field(
        description="rate_limit: bad share against a fixed limit; harm: against the concurrent control; "
        "breaker: catastrophe in the latest rewards against a fixed limit"
    )
    metric: MetricKey = Field(description="name of the metric that is watched")
    limit: Annotated[float, Field(gt=0, lt=1), BeforeValidator(number)] | None = Field(
        None, description="rate_limit and breaker: highest tolerated share of bad outcomes"
    )
    margin: Annotated[float, Field(ge=1, le=10), BeforeValidator(number)] = Field(
        1.0,
        description="harm: tolerated ratio of the arm's badness to the control's; 1.1 tolerates ten per cent",
    )
    tail: Annotated[float, Field(gt=0, le=0.001), BeforeValidator(number)] = Field(
        1e-6, description="breaker: chance per look of as many bad outcomes in a healthy arm"
    )
    action: Literal["rollback", "hold"] = Field(
        "rollback", description="on FAIL: rollback, or hold the share where it is"
    )
    priority: Annotated[float, Field(gt=0, le=1000), BeforeValidator(number)] = Field(
        1.0, description="share of alpha relative to the other guardrails"
    )


class Decay(_Frozen):
    """Forgetting: a period's weight in the posteriors halves each ``half_life``."""

    half_life: Duration = Field(description="from 1s to 10 years (3650d), for example 7d")

    @field_validator("half_life")
    @classmethod
    def _check_half_life(cls, value: float) -> float:
        if not 1 <= value <= 3650 * 86400:
            raise ValueError(
                f"{format_duration(value)} is not within 1s to 10 years (3650d); write one that is"
            )
        return value


class ExperimentSpec(_Frozen):
    """One experiment as its operator wrote it. Built only by ``bandit.spec.parse``, or from the store."""

    experiment: Name = Field(description="name of the experiment")
    hypothesis: str = Field("", max_length=4000, description="what the release should show, in words")
    unit: Unit = Unit()
    arms: Annotated[tuple[Arm, ...], Field(min_length=2, max_length=MAX_ARMS)] = Field(
        description="the variants that are compared, one of them the control"
    )
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=MAX_METRICS)] = Field(
        description="the streams of rewards and costs"
    )
    objective: Annotated[tuple[Term, ...], Field(min_length=1, max_length=MAX_METRICS)] = Field(
        description="what is maximised: a weighted sum of metrics"
    )
    allocator: Allocator = Allocator()
    bounds: Bounds = Bounds()
    cohorts: Cohorts | None = Field(None, description="declared segments; left out: one cohort")
    alpha: Annotated[float, Field(gt=0, le=0.5), BeforeValidator(number)] = Field(
        0.05, description="chance of any false rollback over the whole life of the experiment"
    )
    guardrails: Annotated[tuple[Guardrail, ...], Field(max_length=MAX_GUARDRAILS)] = ()
    decay: Decay | None = Field(None, description="forgetting; left out: nothing is forgotten")
    rewards_without_token: StrictBool = Field(
        False,
        description="true: rewards that name experiment, arm and unit without a decision token are taken too",
    )

    @property
    def control_index(self) -> int:
        """Index of the control in ``arms``."""
        return next(index for index, arm in enumerate(self.arms) if arm.control)

    def arm_index(self, name: str) -> int | None:
        """Index of the arm of that name, or None."""
        return next((index for index, arm in enumerate(self.arms) if arm.name == name), None)

    def metric_index(self, name: str) -> int | None:
        """Index of the metric of that name, or None."""
        return next((index for index, metric in enumerate(self.metrics) if metric.name == name), None)

    def bounds_ppm(self, index: int) -> tuple[int, int, int]:
        """(floor, cap, ramp per minute) of an arm in ppm, its own fields before the experiment's."""
        arm = self.arms[index]
        if arm.control:
            own_floor, own_cap = arm.bounds.floor, arm.bounds.cap
            return (
                share_ppm(self.bounds.control_floor if own_floor is None else own_floor),
                PPM if own_cap is None else share_ppm(own_cap),
                PPM,
            )
        pick = [getattr(arm.bounds, key) for key in ("floor", "cap", "ramp_per_minute")]
        base = (self.bounds.floor, self.bounds.cap, self.bounds.ramp_per_minute)
        floor, cap, ramp = (share_ppm(b if p is None else p) for p, b in zip(pick, base, strict=True))
        return floor, cap, ramp

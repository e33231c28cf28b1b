"""The spec of one experiment as frozen types; once built, an instance is right and is trusted after.

Field names are the keys of the YAML file. Shares are numbers in [0, 1] in the file and integers in ppm
(``*_ppm``) everywhere else; durations are text like ``30m`` in the file and seconds (``*_s``) here.
"""

from __future__ import annotations

import math
import re
from enum import StrEnum
from typing import Annotated, Literal, Self

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, PlainSerializer, model_validator

from bandit.ids import METRIC_PATTERN, NAME_PATTERN

PPM = 1_000_000
MAX_ARMS = 64
MAX_METRICS = 64
MAX_COHORTS = 50
MAX_GUARDRAILS = 64

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0, "w": 604800.0}
_DURATION = re.compile(r"^(\d+(?:\.\d+)?)(ms|s|m|h|d|w)$")


def parse_duration(value: object) -> float:
    """Seconds from ``500ms``, ``10s``, ``30m``, ``6h``, ``7d``, ``2w``. Raises ValueError with the rule."""
    if isinstance(value, str) and (match := _DURATION.match(value.strip())):
        return float(match.group(1)) * _UNITS[match.group(2)]
    raise ValueError(f"{value!r} is not a duration; write a number and ms, s, m, h, d or w, for example 30m")


def format_duration(seconds: float) -> str:
    """The shortest text that ``parse_duration`` reads back to the same seconds."""
    for unit in ("w", "d", "h", "m", "s"):
        count = seconds / _UNITS[unit]
        if seconds and count == int(count) and int(count) * _UNITS[unit] == seconds:
            return f"{int(count)}{unit}"
    millis = round(seconds * 1000)
    return f"{millis}ms" if millis / 1000 == seconds else f"{seconds!r}s"


def _finite(value: float) -> float:
    if not math.isfinite(value):
        raise ValueError(f"{value!r} is not a finite number")
    return value


def _number(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"{value!r} is not a number; write it without quotes")
    return _finite(float(value))


Name = Annotated[str, Field(pattern=NAME_PATTERN)]
MetricKey = Annotated[str, Field(pattern=METRIC_PATTERN)]
Number = Annotated[float, BeforeValidator(_number)]
Share = Annotated[float, BeforeValidator(_number), Field(ge=0, le=1)]
Duration = Annotated[
    float,
    BeforeValidator(parse_duration, json_schema_input_type=str),
    PlainSerializer(format_duration, return_type=str),
]


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
    ramp_per_minute: Share = Field(1.0, description="most rise of a challenger's share in one minute; 1: no limit")
    control_floor: Share = Field(0.05, description="least share of the control, so that a comparison stays possible")


class Arm(_Frozen):
    """One slot that serves: bound to one build by its content digest."""

    name: Name
    control: bool = Field(False, description="true for the one arm that everything falls back to")
    digest: str = Field("", max_length=200, description="content digest of the build; another digest is another arm")
    metadata: dict[str, str] = Field(default_factory=dict, description="free text for people and gateways")
    bounds: ArmBounds = ArmBounds()


class Prior(_Frozen):
    """Belief before any reward: ``mean`` in the metric's unit, ``strength`` in pseudo-observations."""

    mean: Number
    strength: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1e6)] = 2.0


class Metric(_Frozen):
    """A named stream of rewards or costs."""

    name: MetricKey
    kind: MetricKind
    direction: Direction = Field(description="maximize or minimize")
    range: tuple[Number, Number] = Field(
        (0.0, 1.0), description="lowest and highest legal value, in the metric's unit; outside is rejected"
    )
    attribution_window: Duration = Field(
        86400.0, description="how long after its decision a reward still counts, for example 30m"
    )
    default_when_silent: Number | None = Field(
        None, description="value a decision gets when its window closed without a reward; left out: it is missing"
    )
    prior: Prior | None = Field(None, description="belief before any reward; left out: weak")

    @model_validator(mode="after")
    def _check(self) -> Self:
        low, high = self.range
        if not low < high:
            raise ValueError(f"range [{low:g}, {high:g}] is empty; the first number must be below the second")
        if self.kind is MetricKind.BERNOULLI and self.range != (0.0, 1.0):
            raise ValueError(f"range [{low:g}, {high:g}] on a bernoulli metric, whose values are 0 and 1; leave it out")
        silent = self.default_when_silent
        if silent is not None and not low <= silent <= high:
            raise ValueError(f"default_when_silent {silent:g} is outside the range [{low:g}, {high:g}]")
        if self.kind is MetricKind.BERNOULLI and silent not in (None, 0.0, 1.0):
            raise ValueError(f"default_when_silent {silent:g} on a bernoulli metric; use 0 or 1")
        if self.prior is not None and not low <= self.prior.mean <= high:
            raise ValueError(f"prior mean {self.prior.mean:g} is outside the range [{low:g}, {high:g}]")
        if self.kind is MetricKind.BERNOULLI and self.prior is not None and not low < self.prior.mean < high:
            raise ValueError(f"prior mean {self.prior.mean:g} of a bernoulli metric must be strictly between 0 and 1")
        if not 0.1 <= self.attribution_window <= 90 * 86400:
            raise ValueError(f"attribution_window {self.attribution_window:g} s; allowed are 100ms to 90d")
        return self


class Term(_Frozen):
    """One term of the objective: ``weight`` times the metric on its fixed scale, better always up."""

    metric: MetricKey
    weight: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1e6)] = 1.0
    scale: tuple[Number, Number] | None = Field(
        None, description="metric values that map to 0 and 1 in the objective; left out: the metric's range"
    )

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.scale is not None and not self.scale[0] < self.scale[1]:
            raise ValueError(f"scale [{self.scale[0]:g}, {self.scale[1]:g}] is empty; the first must be below the second")
        return self


class Allocator(_Frozen):
    """The rule from posteriors to weights."""

    kind: Literal["thompson", "ucb", "fixed"] = "thompson"
    weights: dict[Name, Share] = Field(
        default_factory=dict, description="fixed only: share of each arm; they add up to 1"
    )


class Unit(_Frozen):
    """What is assigned, and for how long it keeps its arm."""

    kind: Literal["request", "session", "user", "tenant"] = "session"
    mode: Literal["sticky", "epoch"] = Field(
        "sticky", description="sticky: a unit moves only when shares move; epoch: units are drawn anew in each epoch"
    )


class Cohorts(_Frozen):
    """Declared segments of units, by one attribute of the decide request; everything else is ``other``."""

    attribute: Annotated[str, Field(min_length=1, max_length=64)]
    values: Annotated[tuple[Annotated[str, Field(min_length=1, max_length=128)], ...], Field(min_length=1, max_length=MAX_COHORTS)]


class Guardrail(_Frozen):
    """One safety check of every challenger."""

    name: Name
    kind: Literal["rate_limit", "harm", "breaker"] = Field(
        description="rate_limit: bad share against a fixed limit; harm: against the concurrent control; "
        "breaker: catastrophe in the latest rewards against a fixed limit"
    )
    metric: MetricKey
    limit: Annotated[float, BeforeValidator(_number), Field(gt=0, lt=1)] | None = Field(
        None, description="rate_limit and breaker: highest tolerated share of bad outcomes"
    )
    margin: Annotated[float, BeforeValidator(_number), Field(ge=1, le=10)] = Field(
        1.0, description="harm: tolerated ratio of the arm's badness to the control's; 1.1 tolerates ten per cent"
    )
    tail: Annotated[float, BeforeValidator(_number), Field(gt=0, le=0.001)] = Field(
        1e-6, description="breaker: chance per look of as many bad outcomes in a healthy arm"
    )
    action: Literal["rollback", "hold"] = Field("rollback", description="on FAIL: rollback, or hold the share where it is")
    priority: Annotated[float, BeforeValidator(_number), Field(gt=0, le=1000)] = Field(
        1.0, description="share of alpha relative to the other guardrails"
    )


class Decay(_Frozen):
    """Forgetting: a period's weight in the posteriors halves each ``half_life``."""

    half_life: Duration


class ExperimentSpec(_Frozen):
    """One experiment as its operator wrote it. Built only by ``bandit.spec.parse``, or from the store."""

    experiment: Name = Field(description="name of the experiment")
    hypothesis: str = Field("", max_length=4000, description="what the release should show, in words")
    unit: Unit = Unit()
    arms: Annotated[tuple[Arm, ...], Field(min_length=2, max_length=MAX_ARMS)]
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=MAX_METRICS)]
    objective: Annotated[tuple[Term, ...], Field(min_length=1, max_length=MAX_METRICS)]
    allocator: Allocator = Allocator()
    bounds: Bounds = Bounds()
    cohorts: Cohorts | None = None
    alpha: Annotated[float, BeforeValidator(_number), Field(gt=0, le=0.5)] = Field(
        0.05, description="chance of any false rollback over the whole life of the experiment"
    )
    guardrails: Annotated[tuple[Guardrail, ...], Field(max_length=MAX_GUARDRAILS)] = ()
    decay: Decay | None = None
    rewards_without_token: bool = Field(
        False, description="true: rewards that name experiment, arm and unit without a decision token are taken too"
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


def share_ppm(share: float) -> int:
    """A share in [0, 1] as integer parts per million."""
    return round(share * PPM)

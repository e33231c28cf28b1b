"""The spec of one experiment as frozen types; once built, an instance is right and is trusted after.

Field names are the keys of the YAML file. Shares are numbers in [0, 1] in the file and integers in ppm
(``*_ppm``) everywhere else; durations are text like ``30m`` in the file and seconds (``*_s``) here.
"""

from __future__ import annotations

from functools import cached_property
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, StrictBool, StrictInt, field_validator

from bandit.spec.channels import Channel, channels_of, remembers
from bandit.spec.choice import Allocator, Budget, Constraint, Term
from bandit.spec.delay import Delay
from bandit.spec.features import LINEAR, MAX_FEATURES, Feature
from bandit.spec.frozen import Frozen, MetricKey, Name
from bandit.spec.guardrail import Guardrail
from bandit.spec.metric import Direction, Metric, MetricKind, Prior
from bandit.spec.quantity import (
    PPM,
    Duration,
    Share,
    format_duration,
    number,
    parse_duration,
    share_ppm,
)

__all__ = [
    "MAX_ARMS",
    "MAX_COHORTS",
    "MAX_GUARDRAILS",
    "MAX_METRICS",
    "MAX_PARTITIONS",
    "PPM",
    "Allocator",
    "Apart",
    "Arm",
    "ArmBounds",
    "Bounds",
    "Budget",
    "Cohorts",
    "Constraint",
    "Decay",
    "Delay",
    "Direction",
    "ExperimentSpec",
    "Feature",
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

OTHER_COHORT = "other"
APART = 0.9
"""Chance of another sign than that of all cohorts from which on an effect is called apart, unless the spec says."""
MAX_ARMS = 64
MAX_METRICS = 64
MAX_COHORTS = 50
MAX_GUARDRAILS = 64
MAX_PARTITIONS = 16
LEAST_RETENTION_S, MOST_RETENTION_S = 60.0, 90 * 86400.0

MetadataKey = Annotated[str, Field(min_length=1, max_length=128)]
MetadataText = Annotated[str, Field(max_length=2048)]
CohortValue = Annotated[str, Field(min_length=1, max_length=128)]


class ArmBounds(Frozen):
    """Bounds of one arm's share; a field left out is taken from the experiment's ``bounds``."""

    floor: Share | None = Field(None, description="least share of traffic, 0 to 1")
    cap: Share | None = Field(None, description="most share of traffic, 0 to 1")
    ramp_per_minute: Share | None = Field(None, description="most rise of the share in one minute, 0 to 1")


class Bounds(Frozen):
    """Bounds of every challenger unless its arm says otherwise, and of the control."""

    floor: Share = Field(0.02, description="least share of each challenger")
    cap: Share = Field(1.0, description="most share of each challenger")
    ramp_per_minute: Share = Field(
        1.0, description="most rise of a challenger's share in one minute; 1: no limit"
    )
    control_floor: Share = Field(
        0.05, description="least share of the control, so that a comparison stays possible"
    )


class Arm(Frozen):
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
    bounds: ArmBounds = Field(
        ArmBounds(), description="bounds on this arm's share; what is left out is taken from the experiment's"
    )
    prior: Annotated[dict[MetricKey, Prior], Field(max_length=MAX_METRICS)] = Field(
        default_factory=dict,
        description="belief about this arm before any reward, by metric; left out: the metric's own prior",
    )
    delay: Annotated[dict[MetricKey, Delay], Field(max_length=MAX_METRICS)] = Field(
        default_factory=dict,
        description="how late this arm's rewards come, by metric; left out: the metric's own delay",
    )


class Unit(Frozen):
    """What is assigned, and for how long it keeps its arm."""

    kind: Literal["request", "session", "user", "tenant"] = Field(
        "session", description="whose key decides the arm"
    )
    mode: Literal["sticky", "epoch", "session", "request"] = Field(
        "sticky",
        description="sticky: a unit moves only when shares move; epoch: units are drawn anew in each epoch; session: a "
        "unit is drawn anew in each session, which the decide request names; request: every decision is drawn anew, "
        "also for the same unit, which is the cleanest evidence",
    )


class Apart(Frozen):
    """When a cohort gets shares of its own: when the effect of an arm has another sign in it than in the others."""

    probability: Annotated[float, Field(gt=0.5, lt=1), BeforeValidator(number)] = Field(
        APART,
        description="how sure of another sign of an arm's effect on the objective a cohort's rewards must make",
    )
    min_decisions: Annotated[int, Field(ge=1, le=10**9)] = Field(
        1000, description="decisions of a cohort before which it has the shares of all"
    )


class Cohorts(Frozen):
    """Declared segments of units, by one attribute of the decide request; everything else is ``other``."""

    attribute: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        description="name of the attribute of the decide request"
    )
    values: Annotated[tuple[CohortValue, ...], Field(min_length=1, max_length=MAX_COHORTS)] = Field(
        description="values with statistics of their own"
    )
    apart: Apart | None = Field(
        None, description="when a cohort gets shares of its own, within the same bounds; left out: never"
    )


class Decay(Frozen):
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


class ExperimentSpec(Frozen):
    """One experiment as its operator wrote it. Built only by ``bandit.spec.parse``, or from the store."""

    experiment: Name = Field(description="name of the experiment")
    hypothesis: str = Field("", max_length=4000, description="what the release should show, in words")
    unit: Unit = Field(Unit(), description="what is assigned to an arm, and for how long")
    arms: Annotated[tuple[Arm, ...], Field(min_length=2, max_length=MAX_ARMS)] = Field(
        description="the variants that are compared, one of them the control"
    )
    metrics: Annotated[tuple[Metric, ...], Field(min_length=1, max_length=MAX_METRICS)] = Field(
        description="the streams of rewards and costs"
    )
    objective: Annotated[tuple[Term, ...], Field(min_length=1, max_length=MAX_METRICS)] = Field(
        description="what is maximised: a weighted sum of metrics"
    )
    allocator: Allocator = Field(Allocator(), description="the rule from what was learned to shares")
    features: Annotated[tuple[Feature, ...], Field(max_length=MAX_FEATURES)] = Field(
        (), description="lin_ts and lin_ucb only: what of a decide request the choice depends on"
    )
    constraints: Annotated[tuple[Constraint, ...], Field(max_length=MAX_METRICS)] = Field(
        (), description="what an arm must keep to be preferred; none: the objective alone decides"
    )
    budget: Budget | None = Field(None, description="what a day may cost; left out: no matter")
    baseline: Literal["contrast", "stratified", "stationary"] = Field(
        "contrast",
        description="what the level of all arms may do: contrast: anything, arms are compared within periods; "
        "stratified: as contrast, and the differences may change; stationary: nothing, all periods are pooled",
    )
    bounds: Bounds = Field(Bounds(), description="bounds on the shares of all arms")
    cohorts: Cohorts | None = Field(None, description="declared segments; left out: one cohort")
    alpha: Annotated[float, Field(gt=0, le=0.5), BeforeValidator(number)] = Field(
        0.05, description="chance of any false rollback over the whole life of the experiment"
    )
    guardrails: Annotated[tuple[Guardrail, ...], Field(max_length=MAX_GUARDRAILS)] = Field(
        (), description="checks of every challenger, valid at any look; what fails rolls back, holds or flags"
    )
    decay: Decay | None = Field(None, description="forgetting; left out: nothing is forgotten")
    rewards_without_token: StrictBool = Field(
        False,
        description="true: rewards that name experiment, arm and unit without a decision token are taken too",
    )
    partitions: Annotated[StrictInt, Field(ge=1, le=MAX_PARTITIONS)] = Field(
        1,
        description="how many logs and ledgers, each in a slot of its own, share the counting; fixed for its life. "
        "More than one pays on a cluster, for an experiment that is more than one of its servers can take; at most one "
        "for each serving process",
    )
    event_retention: Duration = Field(
        0.0,
        description="how long events are kept after they were counted, from 1m to 90d, so that those of one source can "
        "be taken back exactly (banditctl ingest remove); 0s: not beyond ten minutes",
    )

    @field_validator("event_retention")
    @classmethod
    def _check_event_retention(cls, value: float) -> float:
        if value and not LEAST_RETENTION_S <= value <= MOST_RETENTION_S:
            raise ValueError(
                f"{format_duration(value)} is not within 1m to 90d; write one that is, for example 1d, or leave it out"
            )
        return value

    @cached_property
    def columns(self) -> dict[Channel, int]:
        """Column of each channel in the ledger, in order; see ``spec.channels``."""
        return {channel: index for index, channel in enumerate(channels_of(self))}

    @cached_property
    def remembered(self) -> frozenset[int]:
        """Indexes of the metrics whose values are kept per decision; see ``spec.channels``."""
        return remembers(self)

    @cached_property
    def learned(self) -> tuple[int, ...]:
        """Indexes of the metrics whose rewards linear models learn from, ascending: the objective's, where there are
        features."""
        found = (self.metric_index(term.metric) for term in self.objective if self.features)
        return tuple(sorted({index for index in found if index is not None}))

    @property
    def is_linear(self) -> bool:
        """Does each decision have its own weights, by the features of its request?"""
        return self.allocator.kind in LINEAR

    @property
    def weighs(self) -> bool:
        """Do tokens bring the shares of all arms, so that arms can be compared request by request? As far as they have
        room beside the features."""
        return self.is_linear and len(self.features) + len(self.arms) <= MAX_FEATURES

    @cached_property
    def control_index(self) -> int:
        """Index of the control in ``arms``."""
        return next(index for index, arm in enumerate(self.arms) if arm.control)

    def arm_index(self, name: str) -> int | None:
        """Index of the arm of that name, or None."""
        return next((index for index, arm in enumerate(self.arms) if arm.name == name), None)

    def metric_index(self, name: str) -> int | None:
        """Index of the metric of that name, or None."""
        return self._metric_places.get(name)

    @cached_property
    def _metric_places(self) -> dict[str, int]:
        return {metric.name: index for index, metric in reversed(tuple(enumerate(self.metrics)))}

    @property
    def terms(self) -> tuple[Term, ...]:
        """Terms of the objective that are maximised: those with a weight."""
        return tuple(term for term in self.objective if term.weight)

    def cohort_name(self, index: int) -> str:
        """Value of a cohort by its index; index 0 is everybody else."""
        return self.cohorts.values[index - 1] if index and self.cohorts else OTHER_COHORT

    def priors(self, metric: int) -> tuple[Prior | None, ...]:
        """Belief about each arm before any reward of one metric: the arm's own, else the metric's, else None."""
        found = self.metrics[metric]
        return tuple(arm.prior.get(found.name, found.prior) for arm in self.arms)

    def delays(self, metric: int) -> tuple[Delay | None, ...]:
        """What is declared of each arm's delays in one metric: the arm's own, else the metric's, else None."""
        found = self.metrics[metric]
        return tuple(arm.delay.get(found.name, found.delay) for arm in self.arms)

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

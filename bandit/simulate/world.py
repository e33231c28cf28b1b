"""A world file: what users would truly do, as frozen types; it says nothing of the experiment that watches them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from bandit.simulate.laws import Law, declared_of, fault, law_of
from bandit.spec.finding import Loc, unknown
from bandit.spec.frozen import Frozen, MetricKey, Name
from bandit.spec.model import MAX_ARMS, MAX_COHORTS, MAX_METRICS, ExperimentSpec, MetricKind
from bandit.spec.parse import parse_model
from bandit.spec.quantity import Duration, Share, Value, format_duration, number

MAX_TRAFFIC = 1e9
OTHER = "other"

Times = Annotated[float, Field(ge=0, le=1000), BeforeValidator(number)]
Spread = Annotated[float, Field(gt=0, le=1e12), BeforeValidator(number)]
Part = Annotated[float, Field(gt=0, le=1), BeforeValidator(number)]
AttributeName = Annotated[str, Field(min_length=1, max_length=64)]
AttributeText = Annotated[str, Field(max_length=256)]


class Drift(Frozen):
    """How a mean moves; the law's ``mean`` is where it starts."""

    shape: Literal["flat", "rising", "falling", "daily", "step"] = Field(
        description="flat: stays; rising, falling: evenly by the part over the whole horizon; daily: a sine of "
        "one day; step: from `at` on"
    )
    by: Annotated[float, Field(ge=0, le=100), BeforeValidator(number)] = Field(
        0.5, description="part of the mean by which it moves"
    )
    at: Duration | None = Field(None, description="step: when, after the start")


class MetricLaw(Frozen):
    """One metric under one arm; what is left out is the control's, and the control's own is a guess from the spec."""

    name: MetricKey = Field(description="name of the metric")
    mean: Value | None = Field(
        None, description="mean of one value, in the metric's unit, before range and winsorize"
    )
    times: Times | None = Field(None, description="instead of a mean: so many times the control's")
    sd: Spread | None = Field(None, description="fraction, gaussian, lognormal, revenue: sd of one value")
    buyers: Part | None = Field(None, description="revenue: share of values above 0")
    levels: Annotated[tuple[Share, ...], Field(max_length=16)] = Field(
        (), description="rating: share of each level; they add up to 1"
    )
    drift: Drift | None = Field(
        None, description="how the mean moves; left out: as the control's, which stays"
    )
    delay: Duration | None = Field(
        None,
        description="mean time from decision to reward, exponential; left out: as the spec declares, else at once",
    )
    answered: Share | None = Field(
        None, description="share of the decisions that ever get a reward; left out: all"
    )


class ArmLaws(Frozen):
    """The metrics of one arm."""

    name: Name = Field(description="name of the arm")
    metrics: Annotated[tuple[MetricLaw, ...], Field(max_length=MAX_METRICS)] = ()


class CohortLaws(Frozen):
    """One cohort: its part of the traffic, and where it differs from everybody."""

    name: Annotated[str, Field(min_length=1, max_length=128)] = Field(
        description="value of the cohort, or other"
    )
    part: Part = Field(description="part of the traffic; the parts of all cohorts add up to 1")
    metrics: Annotated[tuple[MetricLaw, ...], Field(max_length=MAX_METRICS)] = Field(
        (), description="where all arms differ in this cohort: only name and times"
    )
    arms: Annotated[tuple[ArmLaws, ...], Field(max_length=MAX_ARMS)] = Field(
        (),
        description="where single arms differ in this cohort; times are of the arm's own mean for everybody",
    )


class SegmentLaws(CohortLaws):
    """Requests of one kind: their attributes, as the decide request has them, and where they differ from everybody."""

    name: Annotated[str, Field(min_length=1, max_length=128)] = Field(description="name of the segment")
    attributes: Annotated[dict[AttributeName, AttributeText], Field(max_length=64)] = Field(
        default_factory=dict, description="attributes of its decide requests, by name"
    )


class WorldFile(Frozen):
    """A world as its file says."""

    world: Name = Field("world", description="name of the world")
    traffic_per_hour: Annotated[float, Field(gt=0, le=MAX_TRAFFIC), BeforeValidator(number)] = Field(
        description="decisions per hour, all arms together"
    )
    horizon: Duration = Field(description="how long the release is rehearsed, for example 7d")
    arms: Annotated[tuple[ArmLaws, ...], Field(max_length=MAX_ARMS)] = Field(
        (), description="laws of the arms; an arm or metric left out is as the control's"
    )
    cohorts: Annotated[tuple[CohortLaws, ...], Field(max_length=MAX_COHORTS + 1)] = Field(
        (), description="cohorts of the spec, by name, and their parts of the traffic; left out: equal parts"
    )
    segments: Annotated[tuple[SegmentLaws, ...], Field(max_length=MAX_COHORTS)] = Field(
        (), description="instead of cohorts: kinds of requests that differ in their attributes, for features"
    )

    @property
    def groups(self) -> tuple[CohortLaws, ...]:
        """Cohorts or segments, whichever it has."""
        return self.segments or self.cohorts

    @field_validator("horizon")
    @classmethod
    def _check_horizon(cls, value: float) -> float:
        if not 1 <= value <= 366 * 86400:
            raise ValueError(f"{format_duration(value)} is not within 1s to 366d; write one that is")
        return value


def parse_world(text: str, path: str, spec: ExperimentSpec) -> WorldFile:
    """The world in one YAML document, for a spec. Raises InvalidArgument with every mistake, as a spec's parser."""
    return parse_model(text, path, WorldFile, "traffic_per_hour: 300", lambda world: findings(world, spec))


def findings(world: WorldFile, spec: ExperimentSpec) -> Iterator[tuple[Loc, str]]:
    """(path, sentence) of every rule between fields that is broken."""
    yield from _names(("arms",), world.arms, spec)
    section = "segments" if world.segments else "cohorts"
    for index, cohort in enumerate(world.groups):
        yield from _names((section, index, "arms"), cohort.arms, spec)
        yield from _metric_names((section, index, "metrics"), cohort.metrics, spec)
        for at, law in enumerate(cohort.metrics):
            if law.model_fields_set - {"name", "times"}:
                yield (
                    (section, index, "metrics", at),
                    "more than name and times, which is all that a whole cohort may say; write it for single arms",
                )
    broken = False
    for loc, sentence in _cohorts(world, spec):
        broken = True
        yield loc, sentence
    if not broken and not any(True for _ in _names(("arms",), world.arms, spec)):
        yield from _values(world, spec)


def _names(loc: Loc, arms: tuple[ArmLaws, ...], spec: ExperimentSpec) -> Iterator[tuple[Loc, str]]:
    names = [arm.name for arm in spec.arms]
    for index, arm in enumerate(arms):
        if arm.name not in names:
            yield (*loc, index, "name"), unknown(arm.name, names, "an arm")
        elif any(arm.name == other.name for other in arms[:index]):
            yield (*loc, index, "name"), "a second arm of this name; keep one of the two"
        yield from _metric_names((*loc, index, "metrics"), arm.metrics, spec)


def _metric_names(loc: Loc, laws: tuple[MetricLaw, ...], spec: ExperimentSpec) -> Iterator[tuple[Loc, str]]:
    own = [metric.name for metric in spec.metrics if metric.kind is not MetricKind.RATIO]
    for index, law in enumerate(laws):
        here: Loc = (*loc, index)
        if law.name not in own:
            ratio = law.name in [metric.name for metric in spec.metrics]
            why = "a ratio, which has no rewards of its own; give its two parts" if ratio else ""
            yield (*here, "name"), why or unknown(law.name, own, "a metric")
        elif any(law.name == other.name for other in laws[:index]):
            yield (*here, "name"), "a second metric of this name; keep one of the two"
        if law.mean is not None and law.times is not None:
            yield (*here, "times"), "times beside a mean; keep one of the two"
        if law.drift is not None and (law.drift.at is None) is (law.drift.shape == "step"):
            what = (
                "step without `at`; write when"
                if law.drift.shape == "step"
                else "`at` is of a step; leave it out"
            )
            yield (*here, "drift"), what


def _cohorts(world: WorldFile, spec: ExperimentSpec) -> Iterator[tuple[Loc, str]]:
    if not world.groups:
        return
    section, one = ("segments", "segment") if world.segments else ("cohorts", "cohort")
    if world.segments and (world.cohorts or spec.cohorts):
        where = "of this world" if world.cohorts else "of the spec"
        yield ("segments",), f"segments beside the cohorts {where}; keep one of the two"
    known = [*spec.cohorts.values, OTHER] if spec.cohorts else []
    for index, group in enumerate(world.groups):
        if not world.segments and group.name not in known:
            yield (section, index, "name"), unknown(group.name, known, "a cohort")
        elif any(group.name == other.name for other in world.groups[:index]):
            yield (section, index, "name"), f"a second {one} of this name; keep one of the two"
    total = sum(group.part for group in world.groups)
    if abs(total - 1.0) > 1e-6:
        yield (section,), f"the parts add up to {total:g}; they must add up to 1"


def _values(world: WorldFile, spec: ExperimentSpec) -> Iterator[tuple[Loc, str]]:
    """Laws that do not fit their metric, at the place of the arm in the file (or at ``arms``)."""
    for cohort in range(groups_of(world, spec)):
        for arm in spec.arms:
            for metric in spec.metrics:
                if metric.kind is MetricKind.RATIO:
                    continue
                why = fault(metric, resolved(world, spec, cohort, arm.name, metric.name))
                if why:
                    yield _place(world, arm.name, metric.name), f"{metric.name} of {arm.name}: {why}"
        if cohort == 0 and not world.groups:
            return


def _place(world: WorldFile, arm: str, metric: str) -> Loc:
    for index, each in enumerate(world.arms):
        for at, law in enumerate(each.metrics):
            if each.name == arm and law.name == metric:
                return ("arms", index, "metrics", at)
    return ("arms",)


def cohorts_of(spec: ExperimentSpec) -> int:
    """How many cohorts the ledger keeps; index 0 is everyone else."""
    return 1 + (len(spec.cohorts.values) if spec.cohorts else 0)


def groups_of(world: WorldFile, spec: ExperimentSpec) -> int:
    """How many kinds of requests there are: segments of the world, else cohorts of the ledger."""
    return len(world.segments) or cohorts_of(spec)


def group_names(world: WorldFile, spec: ExperimentSpec) -> list[str]:
    """Names of the segments, or of the cohorts with everyone else first."""
    if world.segments:
        return [each.name for each in world.segments]
    return [OTHER, *(spec.cohorts.values if spec.cohorts else ())]


def parts_of_traffic(world: WorldFile, spec: ExperimentSpec) -> list[float]:
    """[G] part of the traffic of each cohort, index 0 everyone else, or of each segment."""
    count = groups_of(world, spec)
    if not world.groups:
        return [1.0 / count] * count
    parts = {group.name: group.part for group in world.groups}
    return [parts.get(name, 0.0) for name in group_names(world, spec)]


def resolved(world: WorldFile, spec: ExperimentSpec, cohort: int, arm: str, metric: str) -> Law:
    """The law of a metric under an arm for a cohort or segment, after everything that was left out."""
    control = spec.arms[spec.control_index].name
    found = spec.metrics[spec.metric_index(metric) or 0]
    base = _given(world.arms, control, metric)
    law = law_of(found, base, None)
    own = base
    if arm != control:
        own = _given(world.arms, arm, metric)
        law = law_of(found, own, law)
    if own is None or own.delay is None:
        law = declared_of(found, law, spec.arms[spec.arm_index(arm) or 0].delay.get(metric))
    names = group_names(world, spec)
    for each in world.groups:
        if each.name == names[cohort]:
            law = law_of(found, next((own for own in each.metrics if own.name == metric), None), law)
            law = law_of(found, _given(each.arms, arm, metric), law)
    return law


def _given(arms: tuple[ArmLaws, ...], arm: str, metric: str) -> MetricLaw | None:
    for each in arms:
        if each.name == arm:
            return next((law for law in each.metrics if law.name == metric), None)
    return None

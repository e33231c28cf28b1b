"""Snapshot + unit -> decision: a hash, a look-up, an exact propensity; no draw, no store, no failure.

A :class:`Table` is the immutable view of one experiment that a server decides from.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from enum import StrEnum
from typing import NamedTuple

from bandit.features import Encoder, encoder_of
from bandit.linear.rule import Chooser
from bandit.linear.weights import marks_of
from bandit.ranges import PPM, Ranges
from bandit.rng import hash_unit, point_ppm
from bandit.rollout.state import Allocation, Experiment, State
from bandit.rollout.transitions import roll_back


class Reason(StrEnum):
    """Why the arm was chosen."""

    ASSIGNED = "assigned"
    NOT_STARTED = "not_started"
    PAUSED = "paused"
    PROMOTED = "promoted"
    ROLLED_BACK = "rolled_back"
    FALLBACK = "fallback"
    LEASE_EXPIRED = "lease_expired"
    STOPPED = "stopped"


class Decision(NamedTuple):
    """``arm`` index, the unit's ``cohort`` index, salted ``unit_hash``, exact ``propensity_ppm``, and what of the
    request was looked at: a byte for each feature of the spec, then the marks of all arms' shares (``linear.weights``)
    where arms are compared by them. ``rerouted``: the unit may have met another arm."""

    arm: int
    cohort: int
    unit_hash: int
    propensity_ppm: int
    features: bytes = b""
    rerouted: bool = False


class Route(NamedTuple):
    """Which arm owns which part of the circle: ``starts`` of the ranges and their ``owners``, the share of each arm,
    and edges of the stretches that moved (``ranges.Ranges``), empty where that means nothing."""

    starts: tuple[int, ...]
    owners: tuple[int, ...]
    shares_ppm: tuple[int, ...]
    moved: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """All that a decision of one experiment needs. ``counted``: decisions enter the ledger. ``fresh``: every decision
    is drawn anew, so the key that is hashed must be another one each time (:func:`fresh_key`). ``by_session``: a unit
    is drawn anew in each of its sessions; its hash stays the unit's own, which is what its rewards are clustered by.
    ``encoder``: reads the features of a request; ``chooser``: gives each request shares of its own by them; ``marks``:
    of the shares without it, empty where decisions bring none. ``apart``: the routes of cohorts that have their own, by
    index."""

    name: str
    uid: int
    epoch: int
    allocation: int
    arms: tuple[str, ...]
    starts: tuple[int, ...]
    owners: tuple[int, ...]
    shares_ppm: tuple[int, ...]
    salt: bytes
    cohort_attribute: str
    cohorts: Mapping[str, int]
    reason: Reason
    counted: bool
    fresh: bool = False
    by_session: bool = False
    encoder: Encoder | None = None
    chooser: Chooser | None = None
    marks: bytes = b""
    moved: tuple[int, ...] = ()
    apart: Mapping[int, Route] = field(default_factory=dict)

    def route(self, cohort: int) -> Route:
        """The route of the units of a cohort."""
        return self.apart.get(cohort) or Route(self.starts, self.owners, self.shares_ppm, self.moved)

    def decide(self, unit: str, attributes: Mapping[str, str], session: str = "") -> Decision:
        """The arm of a unit, or of a fresh key. The same text gives the same arm while the allocation lives."""
        unit_hash = hash_unit(self.salt, unit)
        drawn = hash_unit(self.salt, session_key(unit, session)) if self.by_session else unit_hash
        cohort = self.cohorts.get(attributes.get(self.cohort_attribute, ""), 0) if self.cohorts else 0
        if self.encoder is not None:
            features = self.encoder.encode(attributes)
            if self.chooser is not None:
                shares = self.chooser.shares_ppm(features)
                arm = arm_of(shares, point_ppm(drawn))
                if self.marks:
                    features += self.chooser.marks(features)
                return Decision(arm, cohort, unit_hash, shares[arm], features, rerouted=True)
            features += self.marks
        else:
            features = b""
        point = point_ppm(drawn)
        if self.apart and (own := self.apart.get(cohort)) is not None:
            arm = own.owners[bisect_right(own.starts, point) - 1]
            return Decision(
                arm, cohort, unit_hash, own.shares_ppm[arm], features, is_inside(own.moved, point)
            )
        arm = self.owners[bisect_right(self.starts, point) - 1]
        return Decision(arm, cohort, unit_hash, self.shares_ppm[arm], features, is_inside(self.moved, point))


def is_inside(edges: Sequence[int], point: int) -> bool:
    """Whether a point is in one of the stretches with these edges (low, high, low, high, ...)."""
    return bool(edges) and bisect_right(edges, point) % 2 == 1


def arm_of(shares_ppm: Sequence[int], point: int) -> int:
    """The arm that owns a point of [0, 1,000,000) when arms own ranges in their order."""
    for arm, share in enumerate(shares_ppm):
        point -= share
        if point < 0:
            return arm
    raise ValueError(f"shares {list(shares_ppm)} do not add up to 1,000,000")


_REASONS = {
    State.DRAFT: Reason.NOT_STARTED,
    State.PAUSED: Reason.PAUSED,
    State.CONCLUDED: Reason.PROMOTED,
    State.RUNNING: Reason.ASSIGNED,
}


def compile_table(experiment: Experiment, allocation: Allocation) -> Table:
    """The table of an experiment under an allocation.

    Raises ValueError when the two do not fit each other (another epoch or number of arms, traffic for a
    rolled back arm); the caller falls back to :func:`fallback_table`.
    """
    arms = experiment.spec.arms
    shares = allocation.shares_ppm
    if allocation.epoch != experiment.epoch or len(shares) != len(arms):
        raise ValueError(
            f"allocation {allocation.number} of epoch {allocation.epoch} with {len(shares)} arms does not fit "
            f"epoch {experiment.epoch} with {len(arms)} arms"
        )
    if any(share and state.rollback for share, state in zip(shares, experiment.arms, strict=True)):
        raise ValueError(f"allocation {allocation.number} gives traffic to an arm that is rolled back")
    for each in allocation.apart:
        own = each.ranges.shares_ppm()
        if len(own) != len(arms) or any(
            share and state.rollback for share, state in zip(own, experiment.arms, strict=False)
        ):
            raise ValueError(
                f"allocation {allocation.number} has shares of cohort {each.cohort} that do not fit"
            )
    encoder, rule = encoder_of(experiment.spec), allocation.linear
    if rule is not None:
        if rule.arms != len(arms) or encoder is None:
            raise ValueError(f"allocation {allocation.number} has shares by features that the spec has not")
        if any(most and state.rollback for most, state in zip(rule.high_ppm, experiment.arms, strict=True)):
            raise ValueError(f"allocation {allocation.number} gives traffic to an arm that is rolled back")
    reason = _REASONS[experiment.state]
    if reason is Reason.ASSIGNED and experiment.every_challenger_rolled_back():
        reason = Reason.ROLLED_BACK
    cohorts = experiment.spec.cohorts
    sticky = experiment.spec.unit.mode == "sticky"
    route = _route(allocation.ranges, sticky=sticky)
    return Table(
        name=experiment.name,
        uid=experiment.uid,
        epoch=experiment.epoch,
        allocation=allocation.number,
        arms=tuple(arm.name for arm in arms),
        starts=route.starts,
        owners=route.owners,
        shares_ppm=route.shares_ppm,
        salt=unit_salt(experiment),
        cohort_attribute=cohorts.attribute if cohorts else "",
        cohorts={value: index for index, value in enumerate(cohorts.values, start=1)} if cohorts else {},
        reason=reason,
        counted=True,
        fresh=experiment.spec.unit.mode == "request",
        by_session=experiment.spec.unit.mode == "session",
        encoder=encoder,
        chooser=None if rule is None or encoder is None else Chooser(rule, encoder),
        marks=marks_of(shares) if experiment.spec.weighs else b"",
        moved=route.moved,
        apart={each.cohort: _route(each.ranges, sticky=sticky) for each in allocation.apart},
    )


def _route(ranges: Ranges, *, sticky: bool) -> Route:
    owners = tuple(each.arm for each in ranges.owned)
    return Route(ranges.starts, owners, ranges.shares_ppm(), ranges.moved if sticky else ())


def fresh_key(unit: str, issuer: int, number: int) -> str:
    """A text that no other decision hashes: the unit with the server process and a number that it never uses twice."""
    return f"{unit}\x00{issuer:x}.{number:x}"


def session_key(unit: str, session: str) -> str:
    """What is hashed where a unit is drawn anew in each of its sessions."""
    return f"{unit}\x00{session}"


def fallback_table(experiment: Experiment, reason: Reason = Reason.FALLBACK) -> Table:
    """The table when no allocation can or may be used: everything to the control, nothing counted.

    Not counted, because no period of the ledger has these shares: what is summed there is weighed by its own.
    """
    control = experiment.spec.control_index
    return Table(
        name=experiment.name,
        uid=experiment.uid,
        epoch=experiment.epoch,
        allocation=0,
        arms=tuple(arm.name for arm in experiment.spec.arms),
        starts=(0,),
        owners=(control,),
        shares_ppm=tuple(PPM if index == control else 0 for index in range(len(experiment.spec.arms))),
        salt=unit_salt(experiment),
        cohort_attribute="",
        cohorts={},
        reason=reason,
        counted=False,
    )


def stopped_table(experiment: Experiment, allocation: Allocation, arms: Sequence[int]) -> Table:
    """The table while some challengers are stopped here: each gives what it owns to the control, as a rollback does.

    Every other unit keeps its arm. Nothing is counted, as in :func:`fallback_table`. Raises as :func:`compile_table`.
    """
    after, moved = experiment, allocation
    for arm in arms:
        made = roll_back(
            after, moved, arm, actor="", reason="", rollback_id="stopped", now_ms=allocation.time_ms
        )
        after, moved = made.experiment, made.allocation
    table = compile_table(after, moved)
    return replace(table, allocation=allocation.number, reason=Reason.STOPPED, counted=False)


def unit_salt(experiment: Experiment) -> bytes:
    """16 bytes: the experiment's own salt; in mode ``epoch`` with the epoch mixed in, so that units are drawn anew."""
    if experiment.spec.unit.mode == "epoch":
        epoch = experiment.epoch.to_bytes(8, "little")
        return experiment.salt[:8] + bytes(a ^ b for a, b in zip(experiment.salt[8:], epoch, strict=True))
    return experiment.salt

"""What an experiment is at one moment: its spec, where it stands, what was decided about each arm, and its shares.

Values only; the moves from one state to the next are in ``transitions``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import NamedTuple

from bandit.linear.rule import LinearRule
from bandit.ranges import PPM, Ranges
from bandit.rollout.quarantine import Quarantine, changes
from bandit.spec.model import Arm, ExperimentSpec


class State(StrEnum):
    """Where an experiment stands."""

    DRAFT = "draft"
    RUNNING = "running"
    PAUSED = "paused"
    CONCLUDED = "concluded"


@dataclass(frozen=True, slots=True)
class Rollback:
    """Why an arm gets no traffic: a unique id, when, who (``guardrail/NAME`` or an operator), a sentence."""

    id: str
    time_ms: int
    actor: str
    reason: str


@dataclass(frozen=True, slots=True)
class ArmState:
    """What was decided about one arm.

    ``hold_ppm``: its share may not rise above this. ``attempt``: which try of the experiment it is in, from 1; each
    spends less of alpha. ``since``: first allocation number whose evidence counts for the guardrails.
    """

    rollback: Rollback | None = None
    hold_ppm: int | None = None
    attempt: int = 1
    since: int = 1


@dataclass(frozen=True, slots=True)
class PastEpoch:
    """An epoch that ended at ``end_ms``; rewards of its decisions still go to its own cells. ``arms``: what had been
    decided about each, which stands when the same build comes back; empty where it is not known."""

    epoch: int
    spec: ExperimentSpec
    end_ms: int
    arms: tuple[ArmState, ...] = ()

    def state_of(self, arm: Arm) -> ArmState | None:
        """What had been decided about this very build under this name; None when it was not there."""
        for state, each in zip(self.arms, self.spec.arms, strict=False):
            if (each.name, each.digest, each.control) == (arm.name, arm.digest, False):
                return state
        return None


@dataclass(frozen=True, slots=True)
class Experiment:
    """A spec with its present state. ``revision`` grows with each change of either (it is the etag).

    ``past`` holds the latest ended epochs, whose attribution windows may still be open, and older ones in which a build
    was last rolled back or held. ``quarantines``: sources whose events do not count, oldest first.
    """

    name: str
    uid: int
    epoch: int
    revision: int
    state: State
    spec: ExperimentSpec
    salt: bytes
    arms: tuple[ArmState, ...]
    promoted: int | None
    create_time_ms: int
    update_time_ms: int
    past: tuple[PastEpoch, ...] = ()
    quarantines: tuple[Quarantine, ...] = ()

    def spec_of(self, epoch: int) -> ExperimentSpec | None:
        """The spec that gives the arms and metrics of an epoch their meaning; None when it is forgotten."""
        if epoch == self.epoch:
            return self.spec
        return next((each.spec for each in self.past if each.epoch == epoch), None)

    @property
    def etag(self) -> str:
        """Text that changes with every change of spec or state."""
        return f"{self.uid:x}-{self.revision:x}"

    @property
    def removals(self) -> int:
        """How often sources were put into quarantine or released."""
        return changes(self.quarantines)

    def live(self) -> tuple[bool, ...]:
        """Per arm: may it have traffic?"""
        return tuple(arm.rollback is None for arm in self.arms)

    def every_challenger_rolled_back(self) -> bool:
        """True when only the control is left."""
        return all(
            state.rollback is not None
            for state, arm in zip(self.arms, self.spec.arms, strict=True)
            if not arm.control
        )


@dataclass(frozen=True, slots=True)
class Apart:
    """A cohort with shares of its own, and why: with ``chance`` the effect of ``arm`` has another sign in it than in
    the cohorts that share the common shares."""

    cohort: int
    ranges: Ranges
    arm: int
    chance: float


class Parting(NamedTuple):
    """Shares that a cohort shall have for itself; ``arm`` and ``chance`` as in :class:`Apart`."""

    cohort: int
    shares_ppm: tuple[int, ...]
    arm: int
    chance: float


@dataclass(frozen=True, slots=True)
class Allocation:
    """One numbered vector of shares with its owned ranges; its life is a period of the ledger.

    ``centres`` [M]: the control's mean of each metric, scaled to [0, 1], frozen for the period.
    ``cause``: what led to it, in a few words. ``apart``: cohorts with shares of their own, by index; ``ranges`` are of
    all others. ``linear``: each request has shares of its own, by its features; ``ranges`` are then what is expected of
    all together, and decide nothing.
    """

    number: int
    epoch: int
    time_ms: int
    ranges: Ranges
    centres: tuple[float, ...]
    cause: str
    apart: tuple[Apart, ...] = ()
    linear: LinearRule | None = None

    @property
    def shares_ppm(self) -> tuple[int, ...]:
        """Share of each arm in ppm, in all cohorts that are not apart."""
        return self.ranges.shares_ppm()

    @property
    def most_ppm(self) -> tuple[int, ...]:
        """Most share of each arm that a single request may have: what a ramp goes on from."""
        return self.shares_ppm if self.linear is None else self.linear.high_ppm

    @property
    def apart_ppm(self) -> dict[int, tuple[int, ...]]:
        """Share of each arm in each cohort that is apart, by its index."""
        return {each.cohort: each.ranges.shares_ppm() for each in self.apart}


def all_to(arm: int, arms: int) -> tuple[int, ...]:
    """Shares that give everything to one arm."""
    return tuple(PPM if index == arm else 0 for index in range(arms))

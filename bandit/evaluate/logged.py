"""A log of decisions as columns, checked against the spec that is evaluated; it reads no file and values nothing.

Rewards pass the border that the service has (``bandit.reward``): what it would refuse is a fault of the log, what it
would not count for being late is not counted here either. Decisions are in the order in which they were made.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.errors import InvalidArgument, Rejected, Violation
from bandit.features import encoder_of
from bandit.ledger import FloatArray, Int64Array, bucket_of
from bandit.reward import Amendment, RewardEvent, accept_with_token
from bandit.rng import hash_unit
from bandit.rollout.transitions import create
from bandit.spec.model import PPM, ExperimentSpec
from bandit.token import Claims

MOST_FAULTS = 20
"""Faults that are told together."""
MOST_NUMBERS = 100_000_000
"""Decisions times arms: one probability each, 8 bytes."""
CLOSE = 1e-6
UID, EPOCH, ISSUER = 1, 1, 1
SALT = bytes(16)
NO_UNIT = -1


class Rewards(NamedTuple):
    """N rewards that came in time, by arrival: index of the ``decision``, of the ``metric``, scaled value ``q`` (see
    ``bandit.ledger``); ``order`` and ``event`` of those that are ``amended`` (see ``bandit.reward``)."""

    decision: Int64Array
    metric: Int64Array
    arrival_ms: Int64Array
    q: Int64Array
    order: NDArray[np.uint64]
    event: NDArray[np.uint64]
    amended: NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Logged:
    """T decisions, K arms of ``spec``, F features.

    ``time_ms`` [T] does not fall; ``propensity`` [T] in (0, 1] of the ``arm`` [T] that was given; ``propensities``
    [T, K] of all arms, None where the log does not tell them. ``cohort`` [T]; ``unit`` [T] numbers units, NO_UNIT where
    none is told; ``bucket`` [T] as ``ledger.bucket_of``; ``features`` [T, F] encoded. ``late``: rewards after their
    window; ``uncounted``: decisions that the log itself says are not counted. ``end_ms``: the newest time told.
    """

    spec: ExperimentSpec
    time_ms: Int64Array
    arm: Int64Array
    propensity: FloatArray
    propensities: FloatArray | None
    cohort: Int64Array
    unit: Int64Array
    bucket: Int64Array
    features: NDArray[np.uint8]
    rewards: Rewards
    late: int
    uncounted: int
    end_ms: int

    @property
    def size(self) -> int:
        """T."""
        return len(self.time_ms)


class Collector:
    """Takes decisions and rewards one by one and makes a Logged of them, or tells every fault with its line."""

    def __init__(self, spec: ExperimentSpec, place: str) -> None:
        self.spec, self.place = spec, place
        self.uncounted = 0
        self._late = 0
        self._experiment = create(spec, UID, SALT, 0).experiment
        self._arms = {arm.name: index for index, arm in enumerate(spec.arms)}
        self._cohorts = (
            {name: index for index, name in enumerate(spec.cohorts.values, 1)} if spec.cohorts else {}
        )
        self._encoder = encoder_of(spec)
        self._faults: list[Violation] = []
        self._claims: list[Claims] = []
        self._propensity: list[float] = []
        self._all: list[FloatArray] = []
        self._units: dict[str, int] = {}
        self._unit: list[int] = []
        self._keys: dict[str, tuple[int, int]] = {}
        self._rewards: list[tuple[int, int, int, int, int, int, bool]] = []
        self._end_ms = 0

    @property
    def size(self) -> int:
        """Decisions so far."""
        return len(self._claims)

    def fault(self, line: int, field: str, sentence: str, column: int = 1) -> None:
        """Note what is wrong. Raises InvalidArgument when there are too many to go on."""
        place = f"{self.place}:{line}:{column}"
        self._faults.append(Violation(place, f"{field}: {sentence}" if field else sentence))
        if len(self._faults) >= MOST_FAULTS:
            self._refuse()

    def decision(
        self,
        line: int,
        *,
        time_ms: int,
        arm: str,
        propensity: float | None,
        propensities: Mapping[str, float] | None = None,
        unit: str = "",
        attributes: Mapping[str, str],
        keys: Sequence[str] = (),
    ) -> int | None:
        """Take a decision; its index, or None where something is wrong. ``keys``: what its rewards may name it by."""
        index = self._arms.get(arm)
        if index is None:
            names = ", ".join(self._arms)
            self.fault(
                line, "arm", f"{arm!r} is not in the spec; its arms are {names}: name the arms of the log so"
            )
            return None
        if time_ms < 0:
            self.fault(line, "time", "before 1970; mend the log")
            return None
        if self._claims and time_ms < self._claims[-1].issued_ms:
            back = (self._claims[-1].issued_ms - time_ms) / 1000
            self.fault(line, "time", f"{back:g} s before the decision above it; sort the log by time")
            return None
        for key in keys:
            if key in self._keys:
                self.fault(
                    line,
                    "decision_id",
                    f"{key[:80]!r} is that of line {self._keys[key][1]} too; tell each once",
                )
                return None
        features = b"" if self._encoder is None else self._encoder.encode(attributes)
        cohort = (
            self._cohorts.get(attributes.get(self.spec.cohorts.attribute, ""), 0) if self.spec.cohorts else 0
        )
        hashed = hash_unit(SALT, unit) if unit else 0
        own = self._chances(line, index, propensity, propensities)
        if own is None:
            return None
        number = len(self._claims)
        self._claims.append(
            Claims(UID, EPOCH, 1, ISSUER, number, time_ms, hashed, round(own * PPM), cohort, index, features)
        )
        self._propensity.append(own)
        self._unit.append(self._units.setdefault(unit, len(self._units)) if unit else NO_UNIT)
        self._keys.update(dict.fromkeys(keys, (number, line)))
        self._end_ms = max(self._end_ms, time_ms)
        return number

    def found(self, key: str) -> int | None:
        """Index of the decision with this id or token."""
        held = self._keys.get(key)
        return None if held is None else held[0]

    def reward(
        self,
        line: int,
        decision: int,
        metric: str,
        value: float | None,
        *,
        delay_ms: int | None = None,
        event_ms: int | None = None,
        event_id: str = "",
        sequence: int | None = None,
    ) -> None:
        """Take a reward of a decision, ``delay_ms`` after it or at ``event_ms``; neither: at once."""
        claims = self._claims[decision]
        arrival = claims.issued_ms + (delay_ms or 0) if event_ms is None else event_ms
        if arrival < claims.issued_ms:
            before = (claims.issued_ms - arrival) / 1000
            self.fault(
                line, f"rewards.{metric}", f"{before:g} s before its decision; a reward comes after it"
            )
            return
        event_id = event_id or f"{decision}.{len(self._rewards)}"
        try:
            made = accept_with_token(
                self._experiment,
                claims,
                RewardEvent(metric, value, event_ms=arrival, event_id=event_id, sequence=sequence),
                arrival,
            )
        except Rejected as error:
            self._end_ms = max(self._end_ms, arrival)
            if error.reason == "LATE":
                self._late += 1
            else:
                self.fault(line, f"rewards.{metric}", str(error).removeprefix(f"{metric}: "))
            return
        amended = isinstance(made, Amendment)
        record = made.reward if isinstance(made, Amendment) else made
        order, event = (made.order, made.event) if isinstance(made, Amendment) else (0, 0)
        self._rewards.append((decision, record.metric, arrival, record.q, order, event, amended))
        self._end_ms = max(self._end_ms, arrival)

    def finish(self) -> Logged:
        """The log. Raises InvalidArgument with every fault, a line each, or for a log that holds nothing."""
        if self._faults:
            self._refuse()
        size, arms = len(self._claims), len(self.spec.arms)
        if not size:
            left = f" but {self.uncounted:,} that were not counted" if self.uncounted else ""
            self.fault(1, "", f"no decision{left}; give a log with at least one")
            self._refuse()
        if size * arms > MOST_NUMBERS:
            sentence = f"{size:,} decisions of {arms} arms; allowed: {MOST_NUMBERS // arms:,}: give a part of the log"
            raise InvalidArgument.at("log", sentence)
        raw = np.frombuffer(b"".join(claims.features for claims in self._claims), np.uint8)
        columns = np.array(self._rewards, np.object_).reshape(-1, 7)
        order = np.lexsort((columns[:, 0].astype(np.int64), columns[:, 2].astype(np.int64)))
        columns = columns[order]
        known = [unit != NO_UNIT for unit in self._unit]
        return Logged(
            spec=self.spec,
            time_ms=np.array([claims.issued_ms for claims in self._claims], np.int64),
            arm=np.array([claims.arm for claims in self._claims], np.int64),
            propensity=np.array(self._propensity, np.float64),
            propensities=np.stack(self._all) if self._all else None,
            cohort=np.array([claims.cohort for claims in self._claims], np.int64),
            unit=np.array(self._unit, np.int64),
            bucket=np.array(
                [bucket_of(c.unit_hash) if told else 0 for c, told in zip(self._claims, known, strict=True)],
                np.int64,
            ),
            features=raw.reshape(size, -1),
            rewards=Rewards(
                decision=columns[:, 0].astype(np.int64),
                metric=columns[:, 1].astype(np.int64),
                arrival_ms=columns[:, 2].astype(np.int64),
                q=columns[:, 3].astype(np.int64),
                order=columns[:, 4].astype(np.uint64),
                event=columns[:, 5].astype(np.uint64),
                amended=columns[:, 6].astype(np.bool_),
            ),
            late=self._late,
            uncounted=self.uncounted,
            end_ms=self._end_ms,
        )

    def _chances(
        self, line: int, arm: int, propensity: float | None, propensities: Mapping[str, float] | None
    ) -> float | None:
        """The propensity of the arm given, checked; None where something is wrong."""
        if propensities is None:
            if propensity is None:
                self.fault(line, "propensity", "missing; the chance that the arm had is needed: log it")
            elif not (math.isfinite(propensity) and 0.0 < propensity <= 1.0):
                self.fault(
                    line, "propensity", f"{propensity!r} is not in (0, 1]; leave decisions without one out"
                )
            elif self._all:
                self.fault(
                    line, "propensities", "missing here and told above; tell them of all decisions or of none"
                )
            else:
                return float(propensity)
            return None
        unknown = [name for name in propensities if name not in self._arms]
        if unknown:
            self.fault(
                line,
                "propensities",
                f"{unknown[0]!r} is not in the spec; its arms are {', '.join(self._arms)}",
            )
            return None
        row = np.zeros(len(self._arms))
        for name, chance in propensities.items():
            row[self._arms[name]] = chance
        if not (np.isfinite(row).all() and (row >= 0.0).all() and abs(row.sum() - 1.0) <= CLOSE):
            self.fault(
                line, "propensities", f"add up to {row.sum():g}; each must be at least 0, all together 1"
            )
        elif row[arm] <= 0.0:
            name = self.spec.arms[arm].name
            self.fault(
                line, "propensities", f"{name} was given at a propensity of 0, which cannot be; mend the log"
            )
        elif propensity is not None and not math.isclose(propensity, row[arm], abs_tol=CLOSE):
            sentence = f"{propensity!r}, but propensities say {row[arm]:g} of the same arm; leave one out"
            self.fault(line, "propensity", sentence)
        elif len(self._all) != len(self._claims):
            self.fault(
                line, "propensities", "told here and missing above; tell them of all decisions or of none"
            )
        else:
            self._all.append(row)
            return float(row[arm])
        return None

    def _refuse(self) -> None:
        told = "\n".join(f"{violation.field}: {violation.description}" for violation in self._faults)
        raise InvalidArgument(told, violations=self._faults)

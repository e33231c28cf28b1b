"""What a guardrail is: outcomes in, sums and evidence out; it holds no threshold and changes no traffic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

import numpy as np

from bandit.guardrails.evidence import Outcomes
from bandit.ledger import FloatArray, Int64Array
from bandit.spec.model import Guardrail

COLUMNS = 96
"""Sums that one guardrail may keep of the folded periods of one arm; each guardrail says what its columns mean."""

CANNOT_TELL = float("inf")
"""Rewards until a decision when the evidence points nowhere."""


class Outcome(StrEnum):
    """What a guardrail says of an arm."""

    PASS = "pass"  # noqa: S105 - a verdict, not a password
    FAIL = "fail"
    INCONCLUSIVE = "inconclusive"
    NO_DATA = "no_data"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one guardrail says of one challenger, with all its numbers.

    ``log_e`` is the evidence of harm, FAIL at ``log_threshold``; ``log_e_safe`` that of safety, PASS at
    ``log_threshold_safe`` (natural logarithms of e-values; of 1/tail for the breaker). ``n`` outcomes of the arm,
    ``n_control`` of the control where it is compared. ``observed`` and ``reference``: a share of bad outcomes and
    its limit, or the arm's mean and the control's with the margin applied, in the metric's unit.
    """

    guardrail: str
    arm: int
    outcome: Outcome
    log_e: float
    log_threshold: float
    log_e_safe: float
    log_threshold_safe: float
    n: int
    n_control: int
    observed: float
    reference: float
    action: Literal["rollback", "hold"]
    message: str


class ArmStanding(NamedTuple):
    """What a judge must know of an arm: try number from 1, first allocation that counts, may it have traffic?"""

    attempt: int
    since: int
    live: bool


class Pair(NamedTuple):
    """Indexes of the arm that is judged and of the control."""

    arm: int
    control: int


class Levels(NamedTuple):
    """Evidence (natural logarithm) at which a guardrail fails, and at which it passes."""

    fail: float
    safe: float


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a guardrail has seen. ``seen``: was there anything to judge? ``observed`` and ``reference`` are in
    badness, 0 best and 1 worst. ``more``: about so many further rewards until a decision at the present rate, or
    CANNOT_TELL. The rest as in :class:`Verdict`."""

    seen: bool
    log_e: float
    log_threshold: float
    log_e_safe: float
    n: float
    n_control: float
    observed: float
    reference: float
    more: float


@dataclass(frozen=True, slots=True)
class Folded:
    """Sums of the periods that were folded into blocks: ``sums`` [GD, K, COLUMNS] per guardrail and arm.

    ``since`` [K]: the first allocation number that the sums of an arm count; when the arm's own ``since`` moves on,
    its sums are void.
    """

    sums: FloatArray
    since: Int64Array

    @classmethod
    def empty(cls, guardrails: int, arms: int) -> Folded:
        """Nothing folded yet."""
        return cls(np.zeros((guardrails, arms, COLUMNS)), np.zeros(arms, np.int64))

    def of(self, guardrail: int, arm: int, since: int) -> FloatArray:
        """[COLUMNS] sums of one guardrail and arm, zeros when they were counted from another allocation."""
        if guardrail >= self.sums.shape[0] or arm >= self.sums.shape[1] or self.since[arm] != since:
            return np.zeros(COLUMNS)
        sums: FloatArray = self.sums[guardrail, arm]
        return sums


class GuardrailTest(Protocol):
    """One kind of guardrail.

    Both methods are pure. Evidence depends only on sums and the frozen spec: neither the order of the outcomes nor
    the number of looks changes it.
    """

    def accumulate(
        self, guardrail: Guardrail, before: FloatArray, mature: Outcomes, pair: Pair
    ) -> FloatArray:
        """``before`` [COLUMNS] with mature periods added; a new array."""
        ...

    def weigh(
        self, guardrail: Guardrail, sums: FloatArray, young: Outcomes, pair: Pair, levels: Levels
    ) -> Evidence:
        """Evidence in the ``sums`` of all mature periods and in the ``young`` ones, as far as they may count."""
        ...

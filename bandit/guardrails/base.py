"""What a guardrail is: periods in, sums and evidence out; it holds no threshold and changes no traffic."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Literal, NamedTuple, Protocol

import numpy as np

from bandit.guardrails.evidence import Material
from bandit.kernels.watch import COLUMNS, PARAMS
from bandit.ledger import EVERY, FloatArray, Int64Array, PeriodTable
from bandit.spec.model import ExperimentSpec, Guardrail

__all__ = ["COLUMNS", "PARAMS"]

CANNOT_TELL = float("inf")
"""Rewards until a decision when the evidence points nowhere."""
ANY_COHORT = "any"


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
    ``log_threshold_safe`` (natural logarithms of e-values; of 1/tail for the breaker, of an average run length for
    became_worse, of 1/chance for silence and drift). ``n`` outcomes of the arm, ``n_control`` of what it is compared
    with. ``observed`` and ``reference``: a share of bad outcomes or events and its limit, or what the arm has and what
    the control has with the margin applied, in the metric's unit. ``cohort``: the one that was judged, ``any`` for the
    mean of the evidence over all of them, empty when they are added up.
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
    action: Literal["rollback", "hold", "flag"]
    message: str
    cohort: str = ""


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
    """What a guardrail has seen. ``seen``: was there anything to judge? ``observed`` and ``reference`` as in
    :class:`Verdict`. ``more``: about so many further rewards until a decision at the present rate, or CANNOT_TELL.
    ``pending``: outcomes that count for harm but not yet for safety. ``ready``: False during a burn-in."""

    seen: bool
    log_e: float
    log_e_safe: float
    n: float
    n_control: float
    observed: float
    reference: float
    more: float = CANNOT_TELL
    pending: float = 0.0
    ready: bool = True


class Slot(NamedTuple):
    """Whose sums a row of ``Folded`` is: index of a guardrail, and a cohort or EVERY."""

    guardrail: int
    cohort: int


def slots(spec: ExperimentSpec) -> tuple[Slot, ...]:
    """All that is summed up per arm: each guardrail over all cohorts, and per cohort where it looks at each."""
    cohorts = 0 if spec.cohorts is None else 1 + len(spec.cohorts.values)
    return tuple(
        Slot(index, cohort)
        for index, guardrail in enumerate(spec.guardrails)
        for cohort in (EVERY, *(range(cohorts) if guardrail.cohorts == "each" else ()))
    )


@dataclass(frozen=True, slots=True)
class Folded:
    """Sums of the periods that were folded into blocks: ``sums`` [S, K, COLUMNS] per slot (see :func:`slots`) and arm.

    ``since`` [K]: the first allocation number that the sums of an arm count; when the arm's own ``since`` moves on,
    its sums are void.
    """

    sums: FloatArray
    since: Int64Array

    @classmethod
    def empty(cls, guardrails: int, arms: int) -> Folded:
        """Nothing folded yet; ``guardrails`` is the number of slots."""
        return cls(np.zeros((guardrails, arms, COLUMNS)), np.zeros(arms, np.int64))

    @classmethod
    def empty_of(cls, spec: ExperimentSpec) -> Folded:
        """Nothing folded yet for this spec."""
        return cls.empty(len(slots(spec)), len(spec.arms))

    def of(self, slot: int, arm: int, since: int) -> FloatArray:
        """[COLUMNS] sums of one slot and arm, zeros when they were counted from another allocation."""
        if slot >= self.sums.shape[0] or arm >= self.sums.shape[1] or self.since[arm] != since:
            return np.zeros(COLUMNS)
        sums: FloatArray = self.sums[slot, arm]
        return sums


class GuardrailTest(Protocol):
    """One kind of guardrail: which kernel of ``kernels.watch`` it is, and what it makes of periods and answers.

    Evidence depends only on the sums of periods and the frozen spec: neither the order of the outcomes nor the number
    of looks changes it. ``averages``: is the mean of its evidence over cohorts evidence too (e-values, detectors)?
    """

    averages: bool

    def code(self, spec: ExperimentSpec, guardrail: Guardrail) -> int:
        """The code of ``kernels.watch``."""
        ...

    def params(self, spec: ExperimentSpec, guardrail: Guardrail) -> FloatArray:
        """[PARAMS] the frozen numbers that the kernel takes."""
        ...

    def material(
        self, spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable, now_ms: int
    ) -> Material:
        """The periods of ``table`` that are no blocks, as rows for the kernel."""
        ...

    def shown(
        self, spec: ExperimentSpec, guardrail: Guardrail, observed: float, reference: float
    ) -> tuple[float, float]:
        """(observed, reference) as a person reads them, the margin applied."""
        ...

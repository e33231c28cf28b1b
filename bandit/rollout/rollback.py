"""From verdicts to what happens to an arm, by a table; it only ever takes away, an operator gives back.

PASS releases nothing: a hold, like a rollback, lasts until an operator clears it, so that a guardrail near its
threshold cannot make an arm swing. INCONCLUSIVE and NO_DATA change nothing either: unknown is neither failure nor
success, and an arm's share may not rise beyond its bounds because nobody looked. A flag is shown and moves nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from enum import IntEnum
from typing import NamedTuple

from bandit.guardrails.base import Outcome, Verdict
from bandit.rollout.state import ArmState


class Kind(IntEnum):
    """What to do with an arm; the greater one wins."""

    KEEP = 0
    HOLD = 1
    ROLL_BACK = 2


TABLE: dict[tuple[Outcome, str], Kind] = {
    (Outcome.FAIL, "rollback"): Kind.ROLL_BACK,
    (Outcome.FAIL, "hold"): Kind.HOLD,
    (Outcome.FAIL, "flag"): Kind.KEEP,
    (Outcome.INCONCLUSIVE, "rollback"): Kind.KEEP,
    (Outcome.INCONCLUSIVE, "hold"): Kind.KEEP,
    (Outcome.INCONCLUSIVE, "flag"): Kind.KEEP,
    (Outcome.NO_DATA, "rollback"): Kind.KEEP,
    (Outcome.NO_DATA, "hold"): Kind.KEEP,
    (Outcome.NO_DATA, "flag"): Kind.KEEP,
    (Outcome.PASS, "rollback"): Kind.KEEP,
    (Outcome.PASS, "hold"): Kind.KEEP,
    (Outcome.PASS, "flag"): Kind.KEEP,
}


class ArmDecision(NamedTuple):
    """What happens to an arm, and the verdict that led to it."""

    arm: int
    kind: Kind
    verdict: Verdict


def decisions(verdicts: Iterable[Verdict], arms: Sequence[ArmState] = ()) -> tuple[ArmDecision, ...]:
    """What to do now: at most one decision per arm, by arm, never KEEP.

    Rollback beats hold; of equals the verdict that is farthest past its threshold is named. What is done already is
    not decided again: an arm that is rolled back is left alone, one that is held can only be rolled back; arms beyond
    ``arms`` count as neither. A hold is at the share of the moment.
    """
    strongest: dict[int, ArmDecision] = {}
    for verdict in verdicts:
        decided = ArmDecision(verdict.arm, TABLE[verdict.outcome, verdict.action], verdict)
        if decided.kind <= _done(verdict.arm, arms):
            continue
        present = strongest.get(verdict.arm)
        if present is None or _rank(decided) > _rank(present):
            strongest[verdict.arm] = decided
    return tuple(strongest[arm] for arm in sorted(strongest))


def _done(arm: int, arms: Sequence[ArmState]) -> Kind:
    if arm >= len(arms):
        return Kind.KEEP
    if arms[arm].rollback is not None:
        return Kind.ROLL_BACK
    return Kind.KEEP if arms[arm].hold_ppm is None else Kind.HOLD


def _rank(decided: ArmDecision) -> tuple[int, float]:
    return decided.kind, decided.verdict.log_e - decided.verdict.log_threshold

"""What evaluations by weights and replays tell alike: what is valued, by unit, of how much; it weighs nothing."""

from __future__ import annotations

import numpy as np

from bandit.errors import InvalidArgument
from bandit.evaluate.logged import NO_UNIT, Logged
from bandit.evaluate.outcome import ArmPart, Counts, Span
from bandit.evaluate.periods import Schedule
from bandit.evaluate.support import repeats
from bandit.evaluate.worth import Worth
from bandit.inference.offpolicy import standard_error
from bandit.ledger import FloatArray, Int64Array

FEW_EVENTS = 10


def valued_of(log: Logged, found: Worth) -> Int64Array:
    """Indexes of the decisions that have a value. Raises InvalidArgument without any."""
    valued = np.flatnonzero(~np.isnan(found.unit))
    if not valued.size:
        names, opened = ", ".join(term.metric for term in log.spec.terms), int(found.pending.sum())
        raise InvalidArgument.at(
            "log",
            f"none of {log.size:,} decisions has a value of {names}, {opened:,} of them because their window is open "
            "at the end of the log; log rewards, or say that the log is complete",
        )
    return valued


def unit_of(log: Logged, chosen: Int64Array) -> Int64Array | None:
    """Units of decisions for standard errors, those without one each on its own; None where no unit comes back."""
    if not repeats(log):
        return None
    own = log.unit[chosen]
    return np.where(own == NO_UNIT, -1 - np.arange(chosen.size), own)


def counts_of(log: Logged, plan: Schedule, found: Worth) -> Counts:
    """How much of a log there is."""
    silent = np.isnan(found.unit)
    return Counts(
        decisions=log.size,
        valued=int((~silent).sum()),
        pending=int(found.pending.sum()),
        unanswered=int((silent & ~found.pending).sum()),
        late=log.late,
        uncounted=log.uncounted,
        looks=len(plan.at_ms),
        every_s=plan.every_ms / 1000,
    )


def logged_of(found: Worth, valued: Int64Array, unit: Int64Array | None) -> Span:
    """What the log itself was worth."""
    own = found.unit[valued]
    span = clipped(Span.of(float(own.mean()), standard_error(own, unit)))
    return span.scaled(found.lowest, found.span)


def arms_of(log: Logged, target: FloatArray) -> tuple[ArmPart, ...]:
    """Arms in the log, and under probabilities [T, K] of the spec."""
    counts = np.bincount(log.arm, minlength=target.shape[1])
    return tuple(
        ArmPart(arm.name, count, count / log.size, share, last)
        for arm, count, share, last in zip(
            log.spec.arms, counts.tolist(), target.mean(axis=0).tolist(), target[-1].tolist(), strict=True
        )
    )


def by_look(plan: Schedule, target: FloatArray) -> FloatArray:
    """[J, K] mean probabilities between looks."""
    found: FloatArray = np.add.reduceat(target, plan.first[:-1], axis=0) / np.diff(plan.first)[:, None]
    return found


def few(rewards: FloatArray) -> list[str]:
    """A sentence where hardly any value differs from the others, so that their spread says little."""
    _, counts = np.unique(rewards, return_counts=True)
    rest = int(rewards.size - counts.max(initial=0))
    if rest >= FEW_EVENTS:
        return []
    told = (
        f"{rest:,} of {rewards.size:,} decisions brought another value than the rest: standard errors are guesses; go "
        "by the interval that holds at every look"
    )
    return [told]


def honest(span: Span, rewards: FloatArray, interval: tuple[float, float]) -> Span:
    """Where all values are the same their spread, nothing, is no error: as wide as the ``interval`` that holds at every
    look."""
    if rewards.size and np.ptp(rewards) > 0.0:
        return span
    low, high = interval
    return span._replace(low=min(span.low, low), high=max(span.high, high))


def in_units(ends: tuple[float, float], lowest: float, span: float) -> tuple[float, float]:
    """Ends on [0, 1] in units of what is ``lowest`` at 0 and ``lowest + span`` at 1."""
    return lowest + span * ends[0], lowest + span * ends[1]


def clipped(span: Span, least: float = 0.0) -> Span:
    """Ends inside [``least``, 1]; an estimate stays as it is."""
    return span._replace(low=min(max(span.low, least), 1.0), high=max(min(span.high, 1.0), least))

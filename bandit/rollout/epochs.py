"""Which ended epochs an experiment remembers: the latest, those that have a last word, those whose events are kept."""

from __future__ import annotations

from collections.abc import Sequence

from bandit.errors import NotAllowed
from bandit.rollout.state import ArmState, PastEpoch
from bandit.spec.model import Arm, format_duration

PAST_EPOCHS, MOST_PAST_EPOCHS = 8, 32
SLACK_S = 3600.0
"""Events of an epoch are folded anew so much later than their retention and their window say, at most."""


def remembered(past: Sequence[PastEpoch], retention_s: float, now_ms: int) -> tuple[PastEpoch, ...]:
    """The latest epochs, of the older ones those that have the last word on a build that may have no traffic, and those
    of which events may be folded anew.

    Raises NotAllowed when these are too many: a removal could then not be exact.
    """
    kept = list(past[:PAST_EPOCHS])
    for place, each in enumerate(past[PAST_EPOCHS:], PAST_EPOCHS):
        barred = (
            arm
            for arm, state in zip(each.spec.arms, each.arms, strict=False)
            if (state.rollback is not None or state.hold_ppm is not None)
            and last_state(past[:place], arm) is None
        )
        needed = bool(retention_s) and _folded_anew(each, retention_s, now_ms)
        if needed and len(kept) >= MOST_PAST_EPOCHS:
            raise NotAllowed(
                f"{MOST_PAST_EPOCHS} epochs ended while events are kept ({format_duration(retention_s)}), the most "
                "that can be folded anew; wait, or take event_retention out of the spec first",
                reason="TOO_MANY_EPOCHS",
            )
        if len(kept) < MOST_PAST_EPOCHS and (needed or any(barred)):
            kept.append(each)
    return tuple(kept)


def last_state(past: Sequence[PastEpoch], arm: Arm) -> ArmState | None:
    """What was last decided about this very build; an arm that was left out for an epoch is no new one."""
    return next((state for each in past if (state := each.state_of(arm)) is not None), None)


def _folded_anew(past: PastEpoch, retention_s: float, now_ms: int) -> bool:
    window_s = max(metric.attribution_window for metric in past.spec.metrics)
    return now_ms < past.end_ms + (retention_s + window_s + SLACK_S) * 1000

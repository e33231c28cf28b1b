"""Sources of rewards whose events do not count, and from when until when: what a removal leaves in an experiment.

An event of such a source is rejected wherever the log is folded, so a ledger that is folded anew from a point before it
is what it would be had the event never been counted.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from bandit.errors import NotAllowed
from bandit.log import GRPC, LogEntry

MOST_QUARANTINES = 64


@dataclass(frozen=True, slots=True)
class Quarantine:
    """Events of ``source`` that the log took in [``since_ms``, ``until_ms``) are rejected; ``until_ms`` 0: no end yet.

    Times are the log's, Unix ms; ``since_ms`` 0: all that there ever were.
    """

    source: str
    since_ms: int
    until_ms: int = 0

    @property
    def is_open(self) -> bool:
        """Are events that come now rejected?"""
        return self.until_ms == 0

    def covers(self, source: str, time_ms: int) -> bool:
        """Is an event of that source and log time rejected?"""
        return (
            source == self.source
            and self.since_ms <= time_ms
            and (self.until_ms == 0 or time_ms < self.until_ms)
        )


def rejects(quarantines: Iterable[Quarantine], entry: LogEntry) -> bool:
    """Is a reward entry of a source in quarantine? Entries without a source are the reward service's."""
    source = (entry.source or GRPC).decode("utf-8", "replace")
    return any(each.covers(source, entry.time_ms) for each in quarantines)


def changes(quarantines: Iterable[Quarantine]) -> int:
    """How often the quarantines were changed, which only grows: a ledger says up to which change it is right."""
    return sum(1 if each.is_open else 2 for each in quarantines)


def begun(quarantines: tuple[Quarantine, ...], source: str, since_ms: int) -> tuple[Quarantine, ...]:
    """With a new one. Raises NotAllowed for a source that is in quarantine, or when there were too many."""
    if any(each.is_open and each.source == source for each in quarantines):
        raise NotAllowed(
            f"{source} is in quarantine already; release it first, then remove it again",
            reason="ALREADY_REMOVED",
            source=source,
        )
    if len(quarantines) >= MOST_QUARANTINES:
        raise NotAllowed(
            f"sources were removed {len(quarantines)} times, the most that an experiment keeps; create another one",
            reason="TOO_MANY_REMOVALS",
        )
    return (*quarantines, Quarantine(source, since_ms))


def ended(quarantines: tuple[Quarantine, ...], source: str, now_ms: int) -> tuple[Quarantine, ...]:
    """With the open one of this source ended. Raises NotAllowed when there is none."""
    if not any(each.is_open and each.source == source for each in quarantines):
        held = sorted(each.source for each in quarantines if each.is_open)
        raise NotAllowed(
            f"{source} is not in quarantine; {', '.join(held) or 'no source'} is",
            reason="NOT_REMOVED",
            source=source,
        )
    return tuple(
        replace(each, until_ms=max(now_ms, each.since_ms + 1))
        if each.is_open and each.source == source
        else each
        for each in quarantines
    )

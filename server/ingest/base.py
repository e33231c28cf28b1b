"""What a source of rewards promises, and what the pipeline that reads it may rely on. No source is in this file.

A source only brings events and is told when they are safe; what they mean, whether they count, and where that is kept
is the pipeline's. At least once: an event is brought again, after a crash too, until ``done`` was called with it. The
pipeline makes it exactly once: the place of what was taken stands beside the log entries, and folding drops repeats.

One thread calls a source, never two at once. An asyncio client lives inside its source.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from bandit.errors import BanditError
from server.intake.codec import MOST_BODY_BYTES
from server.store.fed import Position

__all__ = [
    "MOST_BODY_BYTES",
    "Alarms",
    "Chosen",
    "Kind",
    "Make",
    "Position",
    "Recall",
    "Received",
    "RewardSource",
    "SourceState",
]


class SourceUnavailable(BanditError):
    """A source did not answer, or refused. Raised by sources; the pipeline backs off and calls again."""

    default_reason = "SOURCE_UNAVAILABLE"


Recall = Callable[[str], Sequence[Position]]
"""For a partition: how far each experiment that it feeds has taken it, in any order, of whatever epochs.

Nothing: it was never read to the end of a portion, begin at its beginning. Raises StoreUnavailable.
"""


@dataclass(frozen=True, slots=True)
class Received:
    """One event as its source has it. ``headers``: lower-case names; ``content-type`` and ``ce_*`` or ``ce-*`` matter.

    A body longer than ``MOST_BODY_BYTES`` is brought all the same: the pipeline buries it. ``time_ms``: when the source
    took it, Unix ms, 0 when it does not say. ``handle``: whatever the source needs to acknowledge it; nobody else looks
    at it.
    """

    body: bytes
    position: Position
    headers: Mapping[str, str] = field(default_factory=dict)
    time_ms: int = 0
    handle: object = None


@dataclass(frozen=True, slots=True)
class SourceState:
    """How a source is. ``lag``: events that wait, by partition, as far as it is known; ``detail``: one sentence.

    ``lost``: events that the source itself dropped before they were read (trimmed, expired), since it was made.
    ``redelivered``, ``refused_acks``: what is normal after rebalances and crashes, counted since it was made.
    """

    connected: bool
    detail: str = ""
    lag: Mapping[str, int] = field(default_factory=dict)
    lost: int = 0
    redelivered: int = 0
    refused_acks: int = 0


class RewardSource(Protocol):
    """One configured source. Calls may raise SourceUnavailable: the pipeline backs off and calls again.

    ``ordered``: within a partition and epoch every event comes after those with lower offsets, also after a restart,
    a rebalance or a rewind. Then an event at or below the stored position is known to be in the log, and skipped. A
    source that may bring old events after newer ones (pending entries, single acknowledgements) says False: its
    repeats are left to the marks of the ledger.
    """

    ordered: bool

    def open(self, recall: Recall) -> None:
        """Connect, and begin after the lowest position that ``recall`` gives for each partition.

        ``recall`` may also be called later, for partitions that are assigned later.
        """

    def poll(self, limit: int, timeout_s: float) -> Sequence[Received]:
        """At most ``limit`` events, waiting up to ``timeout_s`` for the first."""

    def done(self, batch: Sequence[Received]) -> None:
        """These are safe: never bring them again if it can be helped. Always whole results of ``poll``, in order.

        An acknowledgement that the source refuses (a rebalance) is counted, not raised.
        """

    def rest(self) -> None:
        """Nothing can be taken now (the store is away): stay a member, extend what would time out, bring nothing.

        Called every second or sooner meanwhile.
        """

    def rewind(self, to: Mapping[str, Sequence[Position]]) -> None:
        """The store lost writes: bring again all that comes after the lowest of these positions, by partition.

        What ``poll`` gave last and was not ``done`` is to come again as well. No positions: from the beginning. A
        partition that is not ours any more is left alone. An unordered source goes further back by as much as it may
        have had open at once.
        """

    def state(self) -> SourceState:
        """How it is now; must answer at once."""

    def close(self) -> None:
        """Let go. What was not ``done`` is brought again to whoever comes next."""


def lowest(positions: Sequence[Position], epoch: str) -> int | None:
    """The lowest offset of an epoch among positions; None when there is none."""
    return min((each.offset for each in positions if each.epoch == epoch), default=None)


@dataclass(frozen=True, slots=True)
class Alarms:
    """When a source of any kind is to be looked at; 0 for never.

    ``silence_s``: nothing came for so long. ``join_share``: less of its newest events could be read and found what they
    name.
    """

    silence_s: float = 600.0
    join_share: float = 0.9


@dataclass(frozen=True, slots=True)
class Chosen:
    """One configured source: its name, its kind, and the settings of that kind, checked (see ``settings``)."""

    name: str
    kind: str
    settings: object
    alarms: Alarms = Alarms()


class Make(Protocol):
    """How a source of a kind is made; it connects to nothing yet.

    Heavy clients are imported here or later, never when the module is read: settings are checked without them. Raises
    NotAllowed with how to install what is missing.
    """

    def __call__(self, chosen: Chosen, now_ms: Callable[[], int]) -> RewardSource:
        """The source."""


@dataclass(frozen=True, slots=True)
class Kind:
    """A line of the registry. ``settings``: a frozen dataclass whose fields are made by ``settings.setting``."""

    settings: type
    make: Make

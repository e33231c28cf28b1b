"""How a source does, told to people and to metrics: counts, lag, silence, how many of its events find a decision."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Protocol

from server.ingest.base import Alarms, SourceState
from server.intake.sort import Fate, Sorted

SCHEMA = 1
SILENT, UNJOINED, LOSES, FAILS = "silent", "unjoined", "loses", "fails"
ALARMS = (SILENT, UNJOINED, LOSES, FAILS)
WINDOW = 1000
"""Newest events that the share of those that find their decision is of."""
LEAST_EVENTS = 50
MOST_REASONS = 32


class SourceTelemetry(Protocol):
    """What is counted of sources; see ``server.telemetry`` for the names."""

    def arrived(self, source: str, fate: str, reason: str, count: int) -> None:
        """So many events were sorted this way."""

    def stands(self, source: str, *, up: bool, lag: int, skipped: int, lost: int, newest_ms: int) -> None:
        """How the source is; ``skipped`` and ``lost`` since this process began."""

    def alarmed(self, source: str, alarm: str, *, on: bool) -> None:
        """One of ``ALARMS`` is on or off."""


class Unwatched:
    """Counts nothing."""

    def arrived(self, source: str, fate: str, reason: str, count: int) -> None:
        """See SourceTelemetry."""

    def stands(self, source: str, *, up: bool, lag: int, skipped: int, lost: int, newest_ms: int) -> None:
        """See SourceTelemetry."""

    def alarmed(self, source: str, alarm: str, *, on: bool) -> None:
        """See SourceTelemetry."""


@dataclass(slots=True)
class Watch:
    """Of one source; used by its pipeline's thread only. ``silence`` counts from the first event ever seen."""

    name: str
    kind: str
    owner: str
    began_ms: int
    limits: Alarms = field(default_factory=Alarms)
    telemetry: SourceTelemetry = field(default_factory=Unwatched)
    _fates: Counter[str] = field(default_factory=Counter)
    _reasons: Counter[str] = field(default_factory=Counter)
    _recent: list[bool] = field(default_factory=list)
    _newest_ms: int = 0
    _rewinds: int = 0
    _skipped: int = 0
    _failure: str = ""
    _state: SourceState = field(default_factory=lambda: SourceState(False, "it was not opened yet"))

    def sorted(self, events: Iterable[Sorted], now_ms: int) -> None:
        """A portion was sorted."""
        portion = Counter((event.fate, event.reason) for event in events)
        for (fate, reason), count in portion.items():
            self._fates[fate.value] += count
            if reason:
                known = reason if reason in self._reasons or len(self._reasons) < MOST_REASONS else "OTHER"
                self._reasons[known] += count
            self.telemetry.arrived(self.name, fate.value, reason, count)
            self._recent += [fate is not Fate.DEAD] * min(count, WINDOW)
        del self._recent[:-WINDOW]
        self._newest_ms = now_ms

    def failing(self, why: str) -> None:
        """The store or the source does not answer."""
        self._failure = why

    def rewound(self) -> None:
        """The store had lost writes, and the source brings them again."""
        self._rewinds += 1

    def seen(self, state: SourceState, skipped: int) -> None:
        """It works again, or still; ``skipped``: events that were in the log already."""
        self._state, self._skipped, self._failure = state, skipped, ""

    def warnings(self, now_ms: int) -> dict[str, str]:
        """By alarm, a sentence."""
        found: dict[str, str] = {}
        silent_s = (now_ms - self._newest_ms) / 1000
        if self._newest_ms and 0 < self.limits.silence_s < silent_s:
            found[SILENT] = (
                f"nothing came for {silent_s:.0f} s; it is to bring something every {self.limits.silence_s:g} s"
            )
        joined = sum(self._recent) / max(len(self._recent), 1)
        if len(self._recent) >= LEAST_EVENTS and joined < self.limits.join_share:
            found[UNJOINED] = (
                f"{joined:.0%} of its last {len(self._recent)} events could be read and found their experiment; "
                f"at least {self.limits.join_share:.0%} are wanted; see the dead letters"
            )
        if self._state.lost:
            found[LOSES] = (
                f"{self._state.lost} events were gone from it before they were read; keep more of them there"
            )
        if self._failure:
            found[FAILS] = self._failure
        return found

    def status(self, now_ms: int) -> bytes:
        """All of it, as JSON for the store; metrics are told as well."""
        warnings = self.warnings(now_ms)
        for alarm in ALARMS:
            self.telemetry.alarmed(self.name, alarm, on=alarm in warnings)
        state, lag = self._state, sum(self._state.lag.values())
        up = state.connected and not self._failure
        self.telemetry.stands(
            self.name, up=up, lag=lag, skipped=self._skipped, lost=state.lost, newest_ms=self._newest_ms
        )
        return json.dumps(
            {
                "schema": SCHEMA,
                "kind": self.kind,
                "owner": self.owner,
                "began_ms": self.began_ms,
                "time_ms": now_ms,
                "newest_ms": self._newest_ms,
                "connected": up,
                "detail": self._failure or state.detail,
                "lag": dict(state.lag),
                "skipped": self._skipped,
                "redelivered": state.redelivered,
                "refused_acks": state.refused_acks,
                "lost": state.lost,
                "rewinds": self._rewinds,
                "reasons": dict(self._reasons),
                "warnings": list(warnings.values()),
            },
            separators=(",", ":"),
        ).encode()

"""What happened between one status and the next, as sentences with their moment; it keeps the last status only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from bandit.v1 import experiment_pb2 as pb

# Shares are told when some arm's moved by this much since they were last told, and not more often than this.
TOLD_PPM = 50_000
TOLD_S = 2.0


class Event(NamedTuple):
    """``at_s`` since the world began; ``kind``: shares, verdict, rollback, hold, warning or world."""

    at_s: float
    kind: str
    text: str


@dataclass(slots=True)
class Happenings:
    """Turns statuses into events. ``verdicts``: the latest of each guardrail and arm; of an arm that was rolled back
    the last ones, since the service judges live arms only."""

    verdicts: dict[tuple[str, str], pb.Verdict] = field(default_factory=dict)
    rolled_back: dict[str, float] = field(default_factory=dict)
    _told: set[tuple[str, str, int]] = field(default_factory=set)
    _shares: dict[str, int] = field(default_factory=dict)
    _shares_s: float = float("-inf")
    _held: set[str] = field(default_factory=set)
    _warnings: set[str] = field(default_factory=set)

    def see(self, status: pb.ExperimentStatus, at_s: float) -> Iterator[Event]:
        """The events that led to this status, which is of ``at_s``."""
        yield from self._judged(status, at_s)
        yield from self._stopped(status, at_s)
        yield from self._moved(status, at_s)
        for warning in status.warnings:
            if warning not in self._warnings:
                yield Event(at_s, "warning", warning)
        self._warnings = set(status.warnings)

    def fail(self, verdict: pb.Verdict) -> None:
        """A verdict known from elsewhere: the audit keeps the one that rolled an arm back. It stands for all of that
        arm: the others are judged no more."""
        self.verdicts = {key: each for key, each in self.verdicts.items() if each.arm != verdict.arm}
        self.verdicts[verdict.guardrail, verdict.arm] = verdict

    def _judged(self, status: pb.ExperimentStatus, at_s: float) -> Iterator[Event]:
        for verdict in status.verdicts:
            if verdict.arm in self.rolled_back:
                continue
            self.verdicts[verdict.guardrail, verdict.arm] = verdict
            word = {pb.OUTCOME_FAIL: "FAIL", pb.OUTCOME_PASS: "PASS"}.get(verdict.outcome)
            told = (verdict.guardrail, verdict.arm, int(verdict.outcome))
            if word and told not in self._told:
                self._told.add(told)
                yield Event(at_s, "verdict", f"{word} {verdict.message}")

    def _stopped(self, status: pb.ExperimentStatus, at_s: float) -> Iterator[Event]:
        for arm in status.arms:
            if arm.state.HasField("rollback") and arm.arm not in self.rolled_back:
                self.rolled_back[arm.arm] = at_s
                rollback = arm.state.rollback
                failed = [key for key in self._told if key[1:] == (arm.arm, int(pb.OUTCOME_FAIL))]
                if not failed and rollback.actor.startswith("guardrail/"):
                    yield Event(at_s, "verdict", f"FAIL {rollback.reason}")
                yield Event(at_s, "rollback", f"{arm.arm} gets no more traffic, by {rollback.actor}")
            held = arm.state.HasField("hold_ppm")
            if held and arm.arm not in self._held:
                yield Event(at_s, "hold", f"{arm.arm} held at {percent(arm.state.hold_ppm)}")
            (self._held.add if held else self._held.discard)(arm.arm)

    def _moved(self, status: pb.ExperimentStatus, at_s: float) -> Iterator[Event]:
        shares = {arm.arm: arm.share_ppm for arm in status.arms}
        moved = max((abs(share - self._shares.get(arm, 0)) for arm, share in shares.items()), default=0)
        stopped = any(not share and self._shares.get(arm) for arm, share in shares.items())
        if stopped or (moved >= TOLD_PPM and at_s - self._shares_s >= TOLD_S):
            self._shares, self._shares_s = shares, at_s
            parts = [f"{arm} {percent(share)}" for arm, share in shares.items()]
            yield Event(at_s, "shares", f"{', '.join(parts)} (allocation {status.allocation.number})")


def percent(ppm: int) -> str:
    """A share with one decimal: ``12.5 %``."""
    return f"{ppm / 10_000:.1f} %"

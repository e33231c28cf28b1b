"""From a reward event to a packed record, or a typed rejection: the border of the ledger, free of numba.

A record is 40 bytes, little endian (``RECORD``). ``issuer`` 0 marks a reward without a token: its ``number``
is a keyed hash of the event's id and ``issued_ms`` its event time; the learner finds the allocation.
"""

from __future__ import annotations

import hmac
import math
import struct
from dataclasses import dataclass
from typing import NamedTuple

from bandit.errors import Rejected
from bandit.ledger import below_resolution, quantise
from bandit.rollout.state import Experiment
from bandit.spec.model import ExperimentSpec, Metric, MetricKind
from bandit.token import Claims

RECORD = struct.Struct("<IIQQIIHBBI")
RECORD_BYTES = RECORD.size
FUTURE_S = 60.0
CLOCK_SLACK_S = 600.0


class RewardRecord(NamedTuple):
    """One accepted reward, ready for the log. ``q`` is the scaled value of ``bandit.ledger``."""

    issuer: int
    epoch: int
    number: int
    issued_ms: int
    allocation: int
    q: int
    cohort: int
    arm: int
    metric: int
    reserved: int = 0

    def pack(self) -> bytes:
        """40 bytes."""
        return RECORD.pack(*self)


@dataclass(frozen=True, slots=True)
class RewardEvent:
    """One observed number as its sender gave it; ``value`` and ``event_ms`` may be missing."""

    metric: str
    value: float | None
    event_ms: int | None = None
    event_id: str = ""
    arm: str = ""
    unit: str = ""


def accept_with_token(
    experiment: Experiment, claims: Claims, event: RewardEvent, now_ms: int
) -> RewardRecord:
    """The record of a reward whose token was verified.

    Age is taken from the token's issue time, never from the sender's clock. Raises Rejected with reason
    UNKNOWN_METRIC, NO_VALUE, NOT_FINITE, NOT_BINARY, OUT_OF_RANGE, BELOW_RESOLUTION, FUTURE, LATE,
    UNKNOWN_EPOCH or BAD_TOKEN.
    """
    spec = experiment.spec_of(claims.epoch)
    if spec is None:
        raise Rejected(
            f"the decision is of epoch {claims.epoch}, which ended long ago; the experiment is in epoch "
            f"{experiment.epoch}",
            reason="UNKNOWN_EPOCH",
        )
    metric = _metric(spec, event.metric)
    _not_in_future(event.event_ms, now_ms)
    if claims.arm >= len(spec.arms):
        raise Rejected(f"the token names arm {claims.arm}, which this experiment has not", reason="BAD_TOKEN")
    _in_window(spec.metrics[metric], claims.issued_ms, now_ms)
    return RewardRecord(
        claims.issuer,
        claims.epoch,
        claims.number,
        claims.issued_ms,
        claims.allocation,
        _scaled(spec.metrics[metric], event.value),
        claims.cohort,
        claims.arm,
        metric,
    )


def accept_without_token(experiment: Experiment, key: bytes, event: RewardEvent, now_ms: int) -> RewardRecord:
    """The record of a reward that names its arm itself (the weaker mode of the spec).

    Its age is the sender's word. Two events are the same when unit, arm, metric and event id are; ``key``
    makes that hash unguessable. Raises as :func:`accept_with_token`, and TOKEN_REQUIRED, UNKNOWN_ARM, NO_UNIT.
    """
    spec = experiment.spec
    if not spec.rewards_without_token:
        raise Rejected(
            "this experiment takes rewards with a decision token only; send the token, "
            "or set rewards_without_token in its spec",
            reason="TOKEN_REQUIRED",
        )
    metric = _metric(spec, event.metric)
    arm = spec.arm_index(event.arm)
    if arm is None:
        names = ", ".join(each.name for each in spec.arms)
        raise Rejected(
            f"arm {event.arm!r} is not in this experiment; its arms are {names}", reason="UNKNOWN_ARM"
        )
    if not event.unit and not event.event_id:
        raise Rejected("without a token a reward needs its unit or an event_id", reason="NO_UNIT")
    _not_in_future(event.event_ms, now_ms)
    event_ms = now_ms if event.event_ms is None else min(event.event_ms, now_ms)
    _in_window(spec.metrics[metric], event_ms, now_ms)
    q = _scaled(spec.metrics[metric], event.value)
    identity = "\x00".join((experiment.name, event.unit, event.arm, event.metric, event.event_id)).encode()
    number = int.from_bytes(hmac.digest(key, identity, "sha256")[:8], "little")
    return RewardRecord(0, experiment.epoch, number, event_ms, 0, q, 0, arm, metric)


def _metric(spec: ExperimentSpec, name: str) -> int:
    index = spec.metric_index(name)
    if index is None:
        names = ", ".join(each.name for each in spec.metrics)
        raise Rejected(
            f"metric {name!r} is not in this experiment; its metrics are {names}",
            reason="UNKNOWN_METRIC",
            metric=name,
        )
    return index


def _scaled(metric: Metric, value: float | None) -> int:
    low, high = metric.range
    allowed = f"the declared range [{low:g}, {high:g}]"
    if value is None:
        raise Rejected(f"{metric.name}: no value; send a number in {allowed}", reason="NO_VALUE")
    if not math.isfinite(value):
        raise Rejected(f"{metric.name}: {value!r} is not a finite number", reason="NOT_FINITE")
    if metric.kind is MetricKind.BERNOULLI and value not in (0.0, 1.0):
        raise Rejected(f"{metric.name}: {value!r} on a bernoulli metric; send 0 or 1", reason="NOT_BINARY")
    if not low <= value <= high:
        raise Rejected(f"{metric.name}: {value!r} is outside {allowed}", reason="OUT_OF_RANGE")
    if below_resolution(value, low, high):
        raise Rejected(
            f"{metric.name}: {value!r} is less than a billionth of {allowed}; declare a narrower range",
            reason="BELOW_RESOLUTION",
        )
    return quantise(value, low, high)


def _not_in_future(event_ms: int | None, now_ms: int) -> None:
    if event_ms is not None and event_ms > now_ms + FUTURE_S * 1000:
        raise Rejected(
            f"event_time is {(event_ms - now_ms) / 1000:.0f} s in the future; at most {FUTURE_S:.0f} s are allowed",
            reason="FUTURE",
        )


def _in_window(metric: Metric, issued_ms: int, now_ms: int) -> None:
    age_s = (now_ms - issued_ms) / 1000
    if age_s > metric.attribution_window:
        raise Rejected(
            f"{metric.name}: the decision is {age_s:.1f} s old; rewards count for {metric.attribution_window:g} s",
            reason="LATE",
        )
    if age_s < -CLOCK_SLACK_S:
        raise Rejected(f"the decision was made {-age_s:.0f} s ahead of this server's clock", reason="FUTURE")

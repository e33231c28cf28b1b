"""From a reward event to a packed record, or a typed rejection: the border of the ledger, free of numba.

A record is 40 bytes, little endian (``RECORD``). ``issuer`` 0 marks a reward without a token: its ``number``
is a keyed hash of the event's id and ``issued_ms`` its event time; the learner finds the allocation. An amendment is
64 bytes (``AMENDMENT``): a record with what it does to its decision's value, in which order. Where a linear model
learns from the metric, the features of the decision follow, a byte each (``bandit.features``).
"""

from __future__ import annotations

import hmac
import math
import struct
from dataclasses import dataclass
from typing import NamedTuple

from bandit.errors import Rejected
from bandit.ledger import below_resolution, bucket_of, quantise
from bandit.linear.weights import SHARE_BYTES, mark_bytes
from bandit.log import AMENDMENTS, REPORT, RETRACT, REWARDS, kind_of
from bandit.rng import hash_unit
from bandit.rollout.state import Experiment
from bandit.spec.metric import Metric, MetricKind, spelled
from bandit.spec.model import ExperimentSpec
from bandit.token import Claims

RECORD = struct.Struct("<IIQQIIHBBI")
RECORD_BYTES = RECORD.size
AMENDMENT = struct.Struct("<QQB7x")
AMENDMENT_BYTES = RECORD_BYTES + AMENDMENT.size
FUTURE_S = 60.0
CLOCK_SLACK_S = 600.0


class RewardRecord(NamedTuple):
    """One accepted reward, ready for the log. ``q`` is the scaled value of ``bandit.ledger``.

    ``bucket``: ``ledger.bucket_of`` the unit; 0 when it is not known.
    """

    issuer: int
    epoch: int
    number: int
    issued_ms: int
    allocation: int
    q: int
    cohort: int
    arm: int
    metric: int
    bucket: int = 0
    features: bytes = b""

    def pack(self) -> bytes:
        """40 bytes and the features."""
        return RECORD.pack(*self[:-1]) + self.features

    @property
    def kind(self) -> bytes:
        """Kind of the log entry that takes it."""
        return kind_of(REWARDS, len(self.features))


class Amendment(NamedTuple):
    """One accepted reward of which more must be known, ready for the log.

    ``op`` of ``bandit.log``; among amendments of a decision and metric the highest ``order`` stands. ``event``: keyed
    hash of the event's id where rewards are summed, else 0.
    """

    reward: RewardRecord
    order: int
    event: int
    op: int

    def pack(self) -> bytes:
        """64 bytes and the features."""
        amended = AMENDMENT.pack(self.order, self.event, self.op)
        return RECORD.pack(*self.reward[:-1]) + amended + self.reward.features

    @property
    def kind(self) -> bytes:
        """Kind of the log entry that takes it."""
        return kind_of(AMENDMENTS, len(self.reward.features))


@dataclass(frozen=True, slots=True)
class RewardEvent:
    """One observed number as its sender gave it; ``value``, ``event_ms`` and ``sequence`` may be missing.

    ``operation``: REPORT, CORRECT or RETRACT of ``bandit.log``.
    """

    metric: str
    value: float | None
    event_ms: int | None = None
    event_id: str = ""
    arm: str = ""
    unit: str = ""
    operation: int = REPORT
    sequence: int | None = None


def accept_with_token(
    experiment: Experiment, claims: Claims, event: RewardEvent, now_ms: int
) -> RewardRecord | Amendment:
    """The record of a reward whose token was verified.

    Age is taken from the token's issue time, never from the sender's clock. Raises Rejected with reason
    UNKNOWN_METRIC, DERIVED_METRIC, NO_VALUE, NOT_A_NUMBER, NOT_FINITE, NOT_BINARY, NOT_A_LEVEL, NOT_A_COUNT,
    NOT_POSITIVE, OUT_OF_RANGE, BELOW_RESOLUTION, FUTURE, LATE, UNKNOWN_EPOCH, BAD_TOKEN, NOT_CORRECTABLE,
    NO_FEATURES, NO_ORDER or NO_EVENT_ID.
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
    record = RewardRecord(
        claims.issuer,
        claims.epoch,
        claims.number,
        claims.issued_ms,
        claims.allocation,
        0 if event.operation == RETRACT else _scaled(spec.metrics[metric], event.value),
        claims.cohort_index,
        claims.arm,
        metric,
        bucket_of(claims.unit_hash, rerouted=claims.rerouted),
        _brought(spec, metric, claims),
    )
    if metric in spec.remembered:
        return _amended(experiment, spec.metrics[metric], event, record)
    if event.operation != REPORT:
        raise Rejected(
            f"{event.metric}: its values are not remembered, so none can be corrected or taken back; "
            "write corrections: true on the metric in the spec",
            reason="NOT_CORRECTABLE",
        )
    return record


def _brought(spec: ExperimentSpec, metric: int, claims: Claims) -> bytes:
    """What the log keeps of a decision's features beside a reward, and of the shares that it was drawn by."""
    own, most = len(spec.features), len(claims.features)
    marked = spec.weighs and most == own + mark_bytes(spec)
    if metric in spec.learned and most != own and not marked:
        raise Rejected(
            f"the token brings {most} features of its request, {own} are learned from; "
            "its decision was made by a server of another version",
            reason="NO_FEATURES",
        )
    features = claims.features[:own] if metric in spec.learned else b""
    if not marked:
        return features
    return features + claims.features[own:] + claims.propensity_ppm.to_bytes(SHARE_BYTES, "little")


def _amended(
    experiment: Experiment, metric: Metric, event: RewardEvent, record: RewardRecord
) -> RewardRecord | Amendment:
    """The record with its order and event, where its metric and operation need them."""
    order = 0
    if event.operation != REPORT or metric.aggregate == "last":
        if event.sequence is None and event.event_ms is None:
            what = "a report of a metric with aggregate last" if event.operation == REPORT else "an amendment"
            raise Rejected(
                f"{metric.name}: {what} needs event_time or sequence; without one a repeat would pass for the newest",
                reason="NO_ORDER",
            )
        order = max(event.event_ms or 0, 0) if event.sequence is None else event.sequence
    elif metric.aggregate != "sum":
        return record
    hashed = 0
    if event.operation == REPORT and metric.aggregate == "sum":
        if not event.event_id:
            raise Rejected(
                f"{metric.name}: rewards that are summed need an event_id each; without one a repeat would be added",
                reason="NO_EVENT_ID",
            )
        digest = hmac.digest(experiment.salt, b"event of a sum\x00" + event.event_id.encode(), "sha256")
        hashed = int.from_bytes(digest[:8], "little")
    return Amendment(record, order, hashed, event.operation)


def accept_without_token(experiment: Experiment, key: bytes, event: RewardEvent, now_ms: int) -> RewardRecord:
    """The record of a reward that names its arm itself (the weaker mode of the spec).

    Its age is the sender's word. Two events are the same when unit, arm, metric and event id are; ``key``
    makes that hash unguessable. It names no decision, so it counts for itself: nothing can be joined to it, summed
    with it or take it back. Raises as :func:`accept_with_token`, and TOKEN_REQUIRED, UNKNOWN_ARM, NO_UNIT.
    """
    spec = experiment.spec
    if not spec.rewards_without_token:
        raise Rejected(
            "this experiment takes rewards with a decision token only; send the token, "
            "or set rewards_without_token in its spec",
            reason="TOKEN_REQUIRED",
        )
    metric = _metric(spec, event.metric)
    if event.operation != REPORT or spec.metrics[metric].aggregate != "first":
        what = "an amendment" if event.operation != REPORT else f"aggregate {spec.metrics[metric].aggregate}"
        raise Rejected(
            f"{event.metric}: {what} needs to know the decision; send its token", reason="TOKEN_REQUIRED"
        )
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
    number = identity_of(experiment, key, event)
    # Nothing says under which allocation the unit got its arm, so it cannot count as one that was never re-routed.
    bucket = bucket_of(hash_unit(experiment.salt, event.unit), rerouted=True) if event.unit else 0
    return RewardRecord(0, experiment.epoch, number, event_ms, 0, q, 0, arm, metric, bucket)


def identity_of(experiment: Experiment, key: bytes, event: RewardEvent) -> int:
    """64-bit hash of what makes a reward without a token this one; ``key`` as for :func:`accept_without_token`."""
    identity = "\x00".join((experiment.name, event.unit, event.arm, event.metric, event.event_id)).encode()
    return int.from_bytes(hmac.digest(key, identity, "sha256")[:8], "little")


def _metric(spec: ExperimentSpec, name: str) -> int:
    index = spec.metric_index(name)
    if index is None:
        names = ", ".join(each.name for each in spec.metrics)
        raise Rejected(
            f"metric {name!r} is not in this experiment; its metrics are {names}",
            reason="UNKNOWN_METRIC",
            metric=name,
        )
    ratio = spec.metrics[index]
    if ratio.kind is MetricKind.RATIO:
        raise Rejected(
            f"{name} is the ratio of {ratio.numerator} to {ratio.denominator} and has no rewards of its own; "
            "send theirs",
            reason="DERIVED_METRIC",
            metric=name,
        )
    return index


def _scaled(metric: Metric, value: float | None) -> int:
    """The integer of a legal value; what is above ``winsorize`` counts as it."""
    low, high = (metric.levels[0], metric.levels[-1]) if metric.levels else metric.range
    allowed = f"the declared range [{low:g}, {high:g}]"
    if value is None:
        raise Rejected(f"{metric.name}: no value; send a number in {allowed}", reason="NO_VALUE")
    if isinstance(value, bool) or not isinstance(value, float | int):
        # Nothing is converted: true is no 1, and "1" may have been meant for another field.
        raise Rejected(
            f"{metric.name}: {str(value)[:40]!r} is of type {type(value).__name__}, which is no number; send a "
            f"number in {allowed}",
            reason="NOT_A_NUMBER",
        )
    if not math.isfinite(value):
        raise Rejected(
            f"{metric.name}: {value!r} is not a finite number; send one in {allowed}", reason="NOT_FINITE"
        )
    _of_its_kind(metric, value)
    if not low <= value <= high:
        raise Rejected(f"{metric.name}: {value!r} is outside {allowed}", reason="OUT_OF_RANGE")
    least, most = metric.scale
    counted = min(value, most)
    if below_resolution(counted, least, most):
        raise Rejected(
            f"{metric.name}: {value!r} is less than a billionth of {allowed}; declare a narrower range",
            reason="BELOW_RESOLUTION",
        )
    return quantise(counted, least, most)


def _of_its_kind(metric: Metric, value: float) -> None:
    """Refuse a finite value that no metric of this kind can have, whatever its range."""
    if metric.kind is MetricKind.BERNOULLI and value not in (0.0, 1.0):
        raise Rejected(f"{metric.name}: {value!r} on a bernoulli metric; send 0 or 1", reason="NOT_BINARY")
    if metric.kind is MetricKind.RATING and value not in metric.levels:
        raise Rejected(
            f"{metric.name}: {value!r} is not one of its levels; send one of {spelled(metric.levels)}",
            reason="NOT_A_LEVEL",
        )
    if metric.kind is MetricKind.POISSON and not value.is_integer():
        raise Rejected(f"{metric.name}: {value!r} is not a count; send a whole number", reason="NOT_A_COUNT")
    if metric.kind is MetricKind.LOGNORMAL and value <= 0.0:
        raise Rejected(
            f"{metric.name}: {value!r} is not above 0; send a positive number", reason="NOT_POSITIVE"
        )


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

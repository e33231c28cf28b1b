"""Domain values to the wire and back; it checks what only the wire can get wrong and decides nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from google.protobuf.duration_pb2 import Duration

from bandit.client.convert import spec_to_proto
from bandit.decide import Reason
from bandit.errors import InvalidArgument, Rejected
from bandit.ids import MAX_UNIT_BYTES, experiment_resource
from bandit.log import REPORT, RETRACT
from bandit.reward import RewardEvent
from bandit.rollout.audit import AuditRecord
from bandit.rollout.state import Experiment, State
from bandit.spec.diff import Change
from bandit.v1 import decision_service_pb2, experiment_pb2, experiment_service_pb2, reward_service_pb2
from server.messages import STATES, arm_state_to_proto, timestamp
from server.snapshot import Mode

MAX_ATTRIBUTES = 64
MAX_ATTRIBUTE_KEY_BYTES = 64
MAX_ATTRIBUTE_VALUE_BYTES = 256

REASONS: Mapping[Reason, decision_service_pb2.DecisionReason.ValueType] = {
    Reason.ASSIGNED: decision_service_pb2.DECISION_REASON_ASSIGNED,
    Reason.NOT_STARTED: decision_service_pb2.DECISION_REASON_NOT_STARTED,
    Reason.PAUSED: decision_service_pb2.DECISION_REASON_PAUSED,
    Reason.PROMOTED: decision_service_pb2.DECISION_REASON_PROMOTED,
    Reason.ROLLED_BACK: decision_service_pb2.DECISION_REASON_ROLLED_BACK,
    Reason.FALLBACK: decision_service_pb2.DECISION_REASON_FALLBACK,
    Reason.LEASE_EXPIRED: decision_service_pb2.DECISION_REASON_LEASE_EXPIRED,
    Reason.STOPPED: decision_service_pb2.DECISION_REASON_STOPPED,
}
MODES: Mapping[Mode, decision_service_pb2.ServingMode.ValueType] = {
    Mode.FRESH: decision_service_pb2.SERVING_MODE_FRESH,
    Mode.STALE: decision_service_pb2.SERVING_MODE_STALE,
    Mode.FROZEN: decision_service_pb2.SERVING_MODE_FROZEN,
    Mode.FALLBACK: decision_service_pb2.SERVING_MODE_FALLBACK,
}


def check_unit(unit: str, field: str) -> None:
    """1 to 256 bytes of UTF-8. Raises InvalidArgument."""
    if not unit or (len(unit) > MAX_UNIT_BYTES // 4 and len(unit.encode()) > MAX_UNIT_BYTES):
        raise InvalidArgument.at(
            field,
            f"a unit has 1 to {MAX_UNIT_BYTES} bytes, this one {len(unit.encode())}; send the id of what is assigned, "
            "hashed if it is longer",
        )


def check_session(session: str, field: str) -> None:
    """1 to 256 bytes of UTF-8. Raises InvalidArgument."""
    if not session or (len(session) > MAX_UNIT_BYTES // 4 and len(session.encode()) > MAX_UNIT_BYTES):
        raise InvalidArgument.at(
            field,
            f"a session has 1 to {MAX_UNIT_BYTES} bytes, this one {len(session.encode())}; this experiment draws a "
            "unit anew in each of its sessions: send the id of the session beside the unit",
        )


def check_attributes(attributes: Mapping[str, str]) -> None:
    """At most 64, keys of at most 64 bytes, values of at most 256. Raises InvalidArgument."""
    if len(attributes) > MAX_ATTRIBUTES:
        raise InvalidArgument.at(
            "attributes", f"{len(attributes)} attributes; send at most {MAX_ATTRIBUTES}, those of the cohorts"
        )
    for key in attributes:  # not items(): for a map of a message that is a slow walk in Python
        value = attributes[key]
        if len(key) <= MAX_ATTRIBUTE_KEY_BYTES // 4 and len(value) <= MAX_ATTRIBUTE_VALUE_BYTES // 4:
            continue  # short in any script
        if len(key.encode()) > MAX_ATTRIBUTE_KEY_BYTES or len(value.encode()) > MAX_ATTRIBUTE_VALUE_BYTES:
            raise InvalidArgument.at(
                "attributes",
                f"{key[:64]!r} has a key of {len(key.encode())} and a value of {len(value.encode())} bytes; "
                f"at most {MAX_ATTRIBUTE_KEY_BYTES} and {MAX_ATTRIBUTE_VALUE_BYTES} are allowed",
            )


def duration(seconds: float) -> Duration:
    """A span, never negative, to the millisecond."""
    made = Duration()
    set_duration(made, seconds)
    return made


def set_duration(into: Duration, seconds: float) -> None:
    """Write a span into a field."""
    into.seconds, part = divmod(max(int(seconds * 1000 + 0.5), 0), 1000)
    into.nanos = part * 1_000_000


def reward_event(event: reward_service_pb2.RewardEvent) -> RewardEvent:
    """One event as its sender gave it; what is unset is None."""
    event_ms = None
    if event.HasField("event_time"):
        event_ms = event.event_time.seconds * 1000 + event.event_time.nanos // 1_000_000
    return RewardEvent(
        metric=event.metric,
        value=event.value if event.HasField("value") else None,
        event_ms=event_ms,
        event_id=event.event_id,
        arm=event.arm,
        unit=event.unit,
        operation=_operation(event.operation),
        sequence=event.sequence if event.HasField("sequence") else None,
    )


def _operation(number: int) -> int:
    """The operation of ``bandit.log``. Raises Rejected for one that this version does not know."""
    if number > RETRACT:
        raise Rejected(
            f"operation {number} is not known here; this version knows report, correct and retract",
            reason="UNKNOWN_OPERATION",
        )
    return number or REPORT


def experiment_to_proto(experiment: Experiment) -> experiment_pb2.Experiment:
    """An experiment with its spec and state."""
    promoted = experiment.promoted
    return experiment_pb2.Experiment(
        name=experiment_resource(experiment.name),
        uid=experiment.uid,
        etag=experiment.etag,
        spec=spec_to_proto(experiment.spec),
        state=STATES[experiment.state],
        epoch=experiment.epoch,
        arms=[arm_state_to_proto(experiment, index) for index in range(len(experiment.arms))],
        promoted_arm="" if promoted is None else experiment.spec.arms[promoted].name,
        create_time=timestamp(experiment.create_time_ms),
        update_time=timestamp(experiment.update_time_ms),
        quarantines=[
            experiment_pb2.Quarantine(
                source=each.source,
                since_time=timestamp(each.since_ms) if each.since_ms else None,
                until_time=timestamp(each.until_ms) if each.until_ms else None,
            )
            for each in experiment.quarantines
        ],
    )


def changes_to_proto(changes: Sequence[Change]) -> list[experiment_service_pb2.Change]:
    """Differences of two specs, their values as text."""
    return [
        experiment_service_pb2.Change(
            path=change.path, before=_text(change.before), after=_text(change.after), effect=change.effect
        )
        for change in changes
    ]


def audit_to_proto(record: AuditRecord) -> experiment_pb2.AuditRecord:
    """One audit record."""
    return experiment_pb2.AuditRecord(
        sequence=record.sequence,
        time=timestamp(record.time_ms),
        actor=record.actor,
        action=record.action,
        reason=record.reason,
        shares_before_ppm=record.shares_before_ppm,
        shares_after_ppm=record.shares_after_ppm,
        state_before=_state(record.state_before),
        state_after=_state(record.state_after),
        verdict=None if record.verdict is None else verdict_to_proto(record.verdict),
        hash=record.hash,
        epoch=record.epoch,
        allocation_number=record.allocation,
    )


def verdict_to_proto(values: Mapping[str, object]) -> experiment_pb2.Verdict:
    """A verdict from the plain values that the audit keeps. What this version does not know is left out."""
    message = experiment_pb2.Verdict()
    for field in message.DESCRIPTOR.fields:
        value = values.get(field.name)
        if value is None:
            continue
        if field.enum_type is not None:
            prefix = field.enum_type.values[0].name.removesuffix("UNSPECIFIED")
            known = field.enum_type.values_by_name.get(f"{prefix}{str(value).upper()}")
            setattr(message, field.name, known.number if known else 0)
        else:
            setattr(message, field.name, value)
    return message


def _state(state: str) -> experiment_pb2.ExperimentState.ValueType:
    return STATES[State(state)] if state in set(State) else experiment_pb2.EXPERIMENT_STATE_UNSPECIFIED


def _text(value: object) -> str:
    return "" if value is None else str(value)

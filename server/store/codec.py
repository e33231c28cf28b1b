"""Documents of the store: experiments, allocations, audit records and signing keys as JSON with a schema number.

Reading trusts nothing: whatever was stored, the answer is a right value or CorruptStored that says where and why.
The numbers of the ledger are in ``packed``.
"""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Mapping
from dataclasses import asdict
from functools import lru_cache

from bandit.features import dimension_of
from bandit.ids import parse_name
from bandit.linear.rule import LinearRule
from bandit.ranges import Ranges
from bandit.rollout.audit import AuditRecord
from bandit.rollout.quarantine import Quarantine
from bandit.rollout.state import Allocation, Apart, ArmState, Experiment, PastEpoch, Rollback, State
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_mapping
from bandit.spec.render import to_mapping
from bandit.token import KeyRing
from server.store.fields import Fields, show, whole
from server.store.packed import SCHEMA, reading

_U16 = (1 << 16) - 1
_U32 = (1 << 32) - 1
_U63 = (1 << 63) - 1
_PPM = 1_000_000
# An allocation is committed every few seconds, its spec hardly ever changes: reading an experiment of 3 arms takes
# 290 us, and 80 us when its spec is found here. Specs are frozen, so they can be shared.
_SPECS_KEPT = 1024


def dump_experiment(experiment: Experiment) -> bytes:
    """JSON of an experiment."""
    return _dump(
        {
            "name": experiment.name,
            "uid": experiment.uid,
            "epoch": experiment.epoch,
            "revision": experiment.revision,
            "state": experiment.state.value,
            "spec": to_mapping(experiment.spec),
            "salt": experiment.salt.hex(),
            "arms": [asdict(arm) for arm in experiment.arms],
            "promoted": experiment.promoted,
            "create_time_ms": experiment.create_time_ms,
            "update_time_ms": experiment.update_time_ms,
            "past": [
                {
                    "epoch": past.epoch,
                    "spec": to_mapping(past.spec),
                    "end_ms": past.end_ms,
                    "arms": [asdict(arm) for arm in past.arms],
                }
                for past in experiment.past
            ],
            **_held(experiment),
        }
    )


def _held(experiment: Experiment) -> dict[str, object]:
    held = [asdict(each) for each in experiment.quarantines]
    return {"quarantines": held} if held else {}


def load_experiment(key: str, raw: bytes) -> Experiment:
    """Inverse of :func:`dump_experiment`. Raises CorruptStored."""
    with reading(key):
        fields = Fields("experiment", _parse(raw))
        fields.schema()
        experiment = Experiment(
            name=parse_name(fields.text("name"), "name"),
            uid=fields.whole("uid", 1, _U32),
            epoch=fields.whole("epoch", 1, _U32),
            revision=fields.whole("revision", 1, _U63),
            state=State(fields.text("state")),
            spec=_spec(fields.take("spec")),
            salt=bytes.fromhex(fields.text("salt")),
            arms=tuple(fields.each("arms", _arm)),
            promoted=fields.maybe("promoted", lambda key: fields.whole(key, 0, _U32)),
            create_time_ms=fields.whole("create_time_ms", 0, _U63),
            update_time_ms=fields.whole("update_time_ms", 0, _U63),
            past=tuple(fields.each("past", _past)),
            quarantines=tuple(fields.perhaps("quarantines", _quarantine)),
        )
        fields.end()
        arms = len(experiment.spec.arms)
        if experiment.spec.experiment != experiment.name:
            raise ValueError(f"{experiment.name} has the spec of {experiment.spec.experiment}")
        if len(experiment.arms) != arms:
            raise ValueError(f"states of {len(experiment.arms)} arms for a spec of {arms}")
        if experiment.promoted is not None and experiment.promoted >= arms:
            raise ValueError(f"arm {experiment.promoted} is promoted; the last one is {arms - 1}")
        return experiment


def dump_allocation(allocation: Allocation) -> bytes:
    """JSON of an allocation."""
    return _dump(
        {
            "number": allocation.number,
            "epoch": allocation.epoch,
            "time_ms": allocation.time_ms,
            "arms": allocation.ranges.arms,
            "ranges": allocation.ranges.owned,
            "centres": [float(centre) for centre in allocation.centres],
            "cause": allocation.cause,
            **_moves(allocation.ranges),
            **({"apart": [_apart_fields(each) for each in allocation.apart]} if allocation.apart else {}),
        }
        | ({"linear": b64encode(allocation.linear.pack()).decode()} if allocation.linear else {})
    )


def _moves(ranges: Ranges) -> dict[str, object]:
    return {"moved": ranges.moved} if ranges.moved else {}


def _apart_fields(apart: Apart) -> dict[str, object]:
    return {
        "cohort": apart.cohort,
        "ranges": apart.ranges.owned,
        **_moves(apart.ranges),
        "arm": apart.arm,
        "chance": apart.chance,
    }


def load_allocation(key: str, raw: bytes) -> Allocation:
    """Inverse of :func:`dump_allocation`. Raises CorruptStored."""
    with reading(key):
        fields = Fields("allocation", _parse(raw))
        fields.schema()
        arms = fields.whole("arms", 1, 256)
        allocation = Allocation(
            number=fields.whole("number", 1, _U32),
            epoch=fields.whole("epoch", 1, _U32),
            time_ms=fields.whole("time_ms", 0, _U63),
            ranges=_ranges(fields, arms),
            centres=tuple(fields.each("centres", _finite)),
            cause=fields.text("cause"),
            apart=tuple(fields.perhaps("apart", lambda path, value: _apart(path, value, arms))),
            linear=LinearRule.unpack(b64decode(fields.text("linear"), validate=True))
            if fields.has("linear")
            else None,
        )
        fields.end()
        cohorts = [each.cohort for each in allocation.apart]
        if cohorts != sorted(set(cohorts)):
            raise ValueError(f"cohorts {cohorts} are apart, not each once and in order")
        return allocation


def misfit(experiment: Experiment, allocation: Allocation) -> str | None:
    """Why an allocation cannot be of this experiment; None when it can."""
    spec = experiment.spec_of(allocation.epoch)
    if spec is None:
        return f"an allocation of epoch {allocation.epoch}, which the experiment has not"
    if allocation.ranges.arms != len(spec.arms) or len(allocation.centres) != len(spec.metrics):
        return (
            f"an allocation of {allocation.ranges.arms} arms and {len(allocation.centres)} metrics for a spec of "
            f"{len(spec.arms)} and {len(spec.metrics)}"
        )
    if allocation.linear is not None and (
        not spec.is_linear
        or allocation.linear.arms != len(spec.arms)
        or allocation.linear.dimension != dimension_of(spec)
    ):
        return (
            f"an allocation with a linear model of {allocation.linear.arms} arms and {allocation.linear.dimension} "
            f"columns for a spec of {len(spec.arms)} and {dimension_of(spec)}"
        )
    cohorts = len(spec.cohorts.values) if spec.cohorts else 0
    if any(each.cohort > cohorts for each in allocation.apart):
        return f"an allocation with cohort {allocation.apart[-1].cohort} apart for a spec of {cohorts}"
    return None


def dump_audit(record: AuditRecord) -> bytes:
    """JSON of an audit record. Its hash covers the same text, so numbers that are no JSON stay as Python has them."""
    return json.dumps({"schema": SCHEMA, **asdict(record)}, separators=(",", ":")).encode()


def load_audit(key: str, raw: bytes) -> AuditRecord:
    """Inverse of :func:`dump_audit`; the hash is not verified here. Raises CorruptStored."""
    with reading(key):
        fields = Fields("audit", json.loads(raw))
        fields.schema()
        verdict = fields.take("verdict")
        if verdict is not None and not isinstance(verdict, dict):
            raise TypeError(f"audit.verdict: {verdict!r} is not a mapping")
        record = AuditRecord(
            sequence=fields.whole("sequence", 1, _U63),
            time_ms=fields.whole("time_ms", 0, _U63),
            actor=fields.text("actor"),
            action=fields.text("action"),
            reason=fields.text("reason"),
            state_before=fields.text("state_before"),
            state_after=fields.text("state_after"),
            shares_before_ppm=tuple(fields.each("shares_before_ppm", _share)),
            shares_after_ppm=tuple(fields.each("shares_after_ppm", _share)),
            epoch=fields.whole("epoch", 0, _U32),
            allocation=fields.whole("allocation", 0, _U32),
            verdict=verdict,
            hash=fields.text("hash"),
        )
        fields.end()
        return record


def dump_key_ring(ring: KeyRing) -> bytes:
    """JSON of the signing keys."""
    keys = {str(number): key.hex() for number, key in ring.keys.items()}
    return _dump({"keys": keys, "newest": ring.newest})


def load_key_ring(key: str, raw: bytes) -> KeyRing:
    """Inverse of :func:`dump_key_ring`; the error never shows a key. Raises CorruptStored."""
    with reading(key):
        fields = Fields("tokens", _parse(raw))
        fields.schema()
        keys = fields.take("keys")
        newest = fields.whole("newest", 0, 255)
        fields.end()
        if not isinstance(keys, dict) or not all(isinstance(each, str) for each in keys.values()):
            raise TypeError("tokens.keys is not a mapping of texts")
        return KeyRing({int(number): bytes.fromhex(each) for number, each in keys.items()}, newest)


def _dump(fields: Mapping[str, object]) -> bytes:
    return json.dumps({"schema": SCHEMA, **fields}, separators=(",", ":"), allow_nan=False).encode()


def _parse(raw: bytes) -> object:
    return json.loads(raw, parse_constant=_no_constant)


def _no_constant(text: str) -> object:
    raise ValueError(f"{text} is not a finite number")


def _share(path: str, value: object) -> int:
    return whole(path, value, 0, _PPM)


def _finite(path: str, value: object) -> float:
    if not isinstance(value, int | float) or isinstance(value, bool) or abs(value) > 1e300:
        raise ValueError(f"{path}: {show(value)} is not a finite number")
    return float(value)


def _range(path: str, value: object) -> tuple[int, int, int]:
    if not isinstance(value, list) or len(value) != 3:
        raise TypeError(f"{path}: {show(value)} is not [low, high, arm]")
    low, high, arm = (whole(path, part, 0, _PPM) for part in value)
    return low, high, arm


def _ranges(fields: Fields, arms: int) -> Ranges:
    return Ranges.of(arms, fields.each("ranges", _range), fields.perhaps("moved", _share))


def _apart(path: str, value: object, arms: int) -> Apart:
    fields = Fields(path, value)
    apart = Apart(
        cohort=fields.whole("cohort", 0, _U16),
        ranges=_ranges(fields, arms),
        arm=fields.whole("arm", 0, arms - 1),
        chance=_finite(f"{path}.chance", fields.take("chance")),
    )
    fields.end()
    return apart


def _arm(path: str, value: object) -> ArmState:
    fields = Fields(path, value)
    arm = ArmState(
        rollback=fields.maybe("rollback", lambda key: _rollback(f"{path}.{key}", fields.take(key))),
        hold_ppm=fields.maybe("hold_ppm", lambda key: fields.whole(key, 0, _PPM)),
        attempt=fields.whole("attempt", 1, _U32),
        since=fields.whole("since", 0, _U32),
    )
    fields.end()
    return arm


def _quarantine(path: str, value: object) -> Quarantine:
    fields = Fields(path, value)
    times = (fields.whole(key, 0, _U63) for key in ("since_ms", "until_ms"))
    quarantine = Quarantine(fields.text("source"), *times)
    fields.end()
    return quarantine


def _rollback(path: str, value: object) -> Rollback:
    fields = Fields(path, value)
    rollback = Rollback(
        id=fields.text("id"),
        time_ms=fields.whole("time_ms", 0, _U63),
        actor=fields.text("actor"),
        reason=fields.text("reason"),
    )
    fields.end()
    return rollback


def _past(path: str, value: object) -> PastEpoch:
    fields = Fields(path, value)
    past = PastEpoch(
        epoch=fields.whole("epoch", 0, _U32),
        spec=_spec(fields.take("spec")),
        end_ms=fields.whole("end_ms", 0, _U63),
        arms=tuple(fields.perhaps("arms", _arm)),
    )
    if past.arms and len(past.arms) != len(past.spec.arms):
        raise ValueError(f"{path}.arms: {len(past.arms)} states for {len(past.spec.arms)} arms")
    fields.end()
    return past


def _spec(value: object) -> ExperimentSpec:
    return _spec_of_text(json.dumps(value, separators=(",", ":")))


@lru_cache(_SPECS_KEPT)
def _spec_of_text(text: str) -> ExperimentSpec:
    value = json.loads(text)
    if not isinstance(value, dict):
        raise TypeError(f"spec: {show(value)} is not a mapping")
    return parse_mapping(value)

"""The spec of an experiment to its proto and back, both exact; it checks only what a file cannot say.

Both have the same structure with the same words, so the proto's own description leads the walk:

===================  ==========================  =========================================
field of the proto   key of the file             value
===================  ==========================  =========================================
``floor_ppm``        ``floor``                   ppm / 10^6: the nearest double, so exact
``Duration``         the same                    text, whole milliseconds
``Interval``         the same                    ``[low, high]``
enum ``UNIT_MODE_``  the same                    the last words in lower case: ``sticky``
unset                left out                    the default of the file
===================  ==========================  =========================================
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

from google.protobuf.descriptor import Descriptor, EnumDescriptor, FieldDescriptor
from google.protobuf.duration_pb2 import Duration
from google.protobuf.message import Message
from pydantic import BaseModel

from bandit.client.words import enum_prefix, enum_text
from bandit.errors import InvalidArgument, Violation
from bandit.spec.model import PPM, ExperimentSpec, share_ppm
from bandit.spec.parse import parse_mapping
from bandit.v1 import spec_pb2 as pb

# Zero of these enums is no default but a field that was forgotten.
_MUST_BE_SAID = frozenset({"MetricKind", "Direction", "GuardrailKind", "FeatureKind"})
_SUFFIX = "_ppm"
_MS_NANOS = 1_000_000
_LONGEST_S = 10**9


def spec_to_proto(spec: ExperimentSpec) -> pb.ExperimentSpec:
    """The proto of a spec, with every default written out: ``spec_from_proto`` gives the same spec again."""
    message = pb.ExperimentSpec()
    _fill(message, spec)
    return message


def spec_from_proto(message: pb.ExperimentSpec, field: str = "spec") -> ExperimentSpec:
    """The spec of a proto.

    Raises InvalidArgument with every violation; each names the field of the proto, after ``field``.
    """
    wrong: list[Violation] = []
    mapping = _read(message, field, wrong)
    try:
        spec = parse_mapping(mapping, field)
    except InvalidArgument as error:
        told = {violation.field for violation in wrong}
        for path, description in error.violations:
            path = _proto_path(path, field)
            if path not in told:
                wrong.append(Violation(path, description))
    if wrong:
        raise InvalidArgument(
            "\n".join(f"{path}: {description}" for path, description in wrong), violations=wrong
        )
    return spec


def _fill(message: Message, part: BaseModel) -> None:
    for field in _fields(message):
        value = getattr(part, field.name.removesuffix(_SUFFIX))
        if value is None:
            continue
        if _is_map(field) and _value_of(field).message_type is not None:
            for key, each in value.items():
                _fill_message(getattr(message, field.name)[key], each)
        elif _is_map(field):
            shares = field.name.endswith(_SUFFIX)
            getattr(message, field.name).update(
                {key: share_ppm(each) if shares else each for key, each in value.items()}
            )
        elif field.message_type is not None and field.is_repeated:
            for each in value:
                _fill_message(getattr(message, field.name).add(), each)
        elif field.message_type is not None:
            _fill_message(getattr(message, field.name), value)
        elif field.is_repeated:
            getattr(message, field.name).extend(value)
        else:
            setattr(message, field.name, _scalar(field, value))


def _fill_message(message: Message, value: Any) -> None:
    if isinstance(message, Duration):
        message.FromMilliseconds(round(value * 1000))
    elif isinstance(message, pb.Interval):
        message.low, message.high = value
    else:
        _fill(message, value)


def _scalar(field: FieldDescriptor, value: Any) -> Any:
    if field.name.endswith(_SUFFIX):
        return share_ppm(value)
    if field.enum_type is not None:
        return field.enum_type.values_by_name[enum_prefix(field.enum_type) + str(value).upper()].number
    return value


def _read(message: Message, path: str, wrong: list[Violation]) -> dict[str, object]:
    found = {}
    for field in _fields(message):
        here = f"{path}.{field.name}" if path else field.name
        if field.has_presence and not message.HasField(field.name):
            continue
        value = getattr(message, field.name)
        if _is_map(field):
            read: object = _read_map(field, value, here, wrong)
        elif field.is_repeated:
            each = enumerate(value)
            read = [_read_one(field, item, f"{here}.{index}", wrong) for index, item in each]
        else:
            read = _read_one(field, value, here, wrong)
        if read is not None:
            found[field.name.removesuffix(_SUFFIX)] = read
    return found


def _read_map(
    field: FieldDescriptor, value: Mapping[str, Any], path: str, wrong: list[Violation]
) -> dict[str, object] | None:
    if _value_of(field).message_type is not None:
        each = sorted(value.items())
        return {key: _read(part, f"{path}.{key}", wrong) for key, part in each} or None
    if not field.name.endswith(_SUFFIX):
        return dict(sorted(value.items())) or None
    shares = {key: _share(ppm, f"{path}.{key}", wrong) for key, ppm in sorted(value.items())}
    return {key: share for key, share in shares.items() if share is not None} or None


def _read_one(field: FieldDescriptor, value: Any, path: str, wrong: list[Violation]) -> object:
    """The file's value, or None where it is a default or wrong."""
    if isinstance(value, Duration):
        return _duration(value, path, wrong)
    if isinstance(value, pb.Interval):
        return [value.low, value.high]
    if isinstance(value, Message):
        return _read(value, path, wrong)
    if field.enum_type is not None:
        return _enum(field.enum_type, value, path, wrong)
    if field.name.endswith(_SUFFIX):
        return _share(value, path, wrong)
    return cast("object", value)


def _enum(enum: EnumDescriptor, number: int, path: str, wrong: list[Violation]) -> str | None:
    if number == 0 and enum.name not in _MUST_BE_SAID:
        return None
    if number == 0 or number not in enum.values_by_number:
        seen = enum.values_by_number[0].name if number == 0 else f"the unknown number {number}"
        allowed = ", ".join(value.name for value in enum.values if value.number)
        wrong.append(Violation(path, f"{seen} says nothing; set one of {allowed}"))
        return None
    return enum_text(enum, number)


def _share(ppm: int, path: str, wrong: list[Violation]) -> float | None:
    if 0 <= ppm <= PPM:
        return ppm / PPM
    wrong.append(Violation(path, f"{ppm} ppm is not a share; send 0 to {PPM}"))
    return None


def _duration(value: Duration, path: str, wrong: list[Violation]) -> str | None:
    seconds, nanos = value.seconds, value.nanos
    if 0 <= seconds < _LONGEST_S and 0 <= nanos < 10**9 and nanos % _MS_NANOS == 0:
        return f"{seconds}.{nanos // _MS_NANOS:03d}s" if nanos else f"{seconds}s"
    wrong.append(
        Violation(
            path,
            f"{seconds} s and {nanos} ns is not a span that a spec can hold; send whole milliseconds, "
            f"from 0 to below {_LONGEST_S} s",
        )
    )
    return None


def _proto_path(path: str, prefix: str) -> str:
    """The proto's field for one of the parser: shares end in ``_ppm``, the ends of an interval have names."""
    start = len(prefix) + 1 if prefix else 0
    message: Descriptor | None = pb.ExperimentSpec.DESCRIPTOR
    names = []
    for step in path[start:].split("."):
        name, message = _step(message, step)
        names.append(name)
    return path[:start] + ".".join(names)


def _step(message: Descriptor | None, step: str) -> tuple[str, Descriptor | None]:
    if message is None:
        return step, None
    if step.isdigit():
        ends = {"0": "low", "1": "high"} if message is pb.Interval.DESCRIPTOR else {}
        return ends.get(step, step), message
    field = message.fields_by_name.get(step) or message.fields_by_name.get(step + _SUFFIX)
    if field is None:
        return step, None
    return field.name, None if _is_map(field) else field.message_type


def _fields(message: Message) -> list[FieldDescriptor]:
    return cast("list[FieldDescriptor]", list(message.DESCRIPTOR.fields))


def _is_map(field: FieldDescriptor) -> bool:
    return field.message_type is not None and field.message_type.GetOptions().map_entry


def _value_of(field: FieldDescriptor) -> FieldDescriptor:
    """The value's field of a map."""
    entry = field.message_type
    assert entry is not None
    return entry.fields_by_name["value"]

"""The spec on the wire means what the spec in the file means: both ways, to the last bit, field by field."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_args

import pytest
from google.protobuf.descriptor import Descriptor, FieldDescriptor
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from bandit.client.convert import spec_from_proto, spec_to_proto
from bandit.client.words import enum_text
from bandit.errors import InvalidArgument
from bandit.spec.model import PPM, ExperimentSpec, share_ppm
from bandit.spec.parse import parse_mapping, parse_yaml
from bandit.spec.render import render_yaml
from bandit.v1 import spec_pb2 as pb
from tests.double.specs import specs

SMALL = """
experiment: answers
arms: [{name: old, control: true}, {name: new}]
metrics: [{name: helpful, kind: bernoulli, direction: maximize}]
objective: [{metric: helpful}]
"""


def small() -> pb.ExperimentSpec:
    return spec_to_proto(parse_yaml(SMALL))


def violations(message: pb.ExperimentSpec, field: str = "spec") -> dict[str, str]:
    with pytest.raises(InvalidArgument) as caught:
        spec_from_proto(message, field)
    assert len({each.field for each in caught.value.violations}) == len(caught.value.violations)
    return dict(caught.value.violations)


@settings(max_examples=120)
@given(specs())
def test_there_and_back_is_the_same_spec(spec: ExperimentSpec) -> None:
    message = spec_to_proto(spec)
    again = spec_from_proto(pb.ExperimentSpec.FromString(message.SerializeToString()))
    assert again == spec
    assert spec_to_proto(again) == message


@settings(max_examples=40)
@given(specs())
def test_the_printed_file_is_the_applied_one(spec: ExperimentSpec) -> None:
    assert parse_yaml(render_yaml(spec_from_proto(spec_to_proto(spec)))) == spec


def test_every_ppm_survives_as_a_share() -> None:
    assert all(share_ppm(ppm / PPM) == ppm for ppm in range(PPM + 1))


@given(st.integers(0, PPM))
def test_a_share_of_the_file_is_the_share_of_the_wire(ppm: int) -> None:
    text = SMALL + f"bounds: {{floor: 0, cap: {ppm / PPM:.6f}}}\n"
    message = spec_to_proto(parse_yaml(text))
    assert message.bounds.cap_ppm == ppm
    assert spec_from_proto(message) == parse_yaml(text)


def test_a_spec_that_says_nothing_more_has_the_defaults_of_the_file() -> None:
    message = pb.ExperimentSpec(experiment="answers")
    message.arms.add(name="old", control=True)
    message.arms.add(name="new")
    message.metrics.add(
        name="helpful", kind=pb.METRIC_KIND_BERNOULLI, direction=pb.DIRECTION_MAXIMIZE
    ).prior.mean = 0.25
    message.objective.add(metric="helpful")
    message.guardrails.add(name="less", kind=pb.GUARDRAIL_KIND_HARM, metric="helpful")
    expected = SMALL.replace("maximize}", "maximize, prior: {mean: 0.25}}")
    assert spec_from_proto(message) == parse_yaml(
        expected + "guardrails: [{name: less, kind: harm, metric: helpful}]"
    )


def keys(model: type[BaseModel], path: str = "") -> Iterator[str]:
    """Dotted keys of the file."""
    for name, field in model.model_fields.items():
        yield path + name
        for inner in _models(field.annotation):
            yield from keys(inner, f"{path}{name}.")


def _models(annotation: Any) -> set[type[BaseModel]]:
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return {annotation}
    return set().union(*(_models(part) for part in get_args(annotation)))


def wire_keys(message: Descriptor, path: str = "") -> Iterator[str]:
    """The same of the proto."""
    fields: Sequence[FieldDescriptor] = message.fields
    for field in fields:
        name = path + field.name.removesuffix("_ppm")
        yield name
        inner = field.message_type
        if inner is not None and inner.GetOptions().map_entry:
            inner = inner.fields_by_name["value"].message_type
        if inner is not None and inner.name not in ("Duration", "Interval"):
            yield from wire_keys(inner, f"{name}.")


def test_wire_and_file_have_the_same_words() -> None:
    assert sorted(wire_keys(pb.ExperimentSpec.DESCRIPTOR)) == sorted(keys(ExperimentSpec))


@pytest.mark.parametrize(
    ("field", "number", "path"),
    [("kind", 0, "metrics.0.kind"), ("direction", 0, "metrics.0.direction"), ("kind", 77, "metrics.0.kind")],
)
def test_a_kind_that_was_forgotten_or_is_unknown_is_refused(field: str, number: int, path: str) -> None:
    message = small()
    setattr(message.metrics[0], field, number)
    found = violations(message)
    assert list(found) == [f"spec.{path}"]
    assert "METRIC_KIND_BERNOULLI" in found[f"spec.{path}"] or "DIRECTION_MAXIMIZE" in found[f"spec.{path}"]


def test_a_guardrail_without_a_kind_is_refused_and_an_unknown_action_too() -> None:
    message = small()
    message.guardrails.add(name="x", metric="helpful", limit=0.1, action=9)
    assert set(violations(message)) == {"spec.guardrails.0.kind", "spec.guardrails.0.action"}


@pytest.mark.parametrize(
    ("enum", "default"),
    [
        (lambda spec: (spec.unit, "kind"), "UNIT_KIND_SESSION"),
        (lambda spec: (spec.unit, "mode"), "UNIT_MODE_STICKY"),
        (lambda spec: (spec.allocator, "kind"), "ALLOCATOR_KIND_THOMPSON"),
    ],
)
def test_other_unset_enums_are_read_as_the_proto_says(enum: Any, default: str) -> None:
    message = small()
    holder, name = enum(message)
    setattr(holder, name, 0)
    holder, name = enum(spec_to_proto(spec_from_proto(message)))
    assert getattr(pb, default) == getattr(holder, name)


def test_wrong_shares_and_spans_are_named_by_their_proto_fields() -> None:
    message = small()
    message.bounds.floor_ppm = -1
    message.bounds.control_floor_ppm = PPM + 1
    message.arms[1].bounds.cap_ppm = 2 * PPM
    message.metrics[0].attribution_window.nanos = 1
    message.decay.half_life.FromMilliseconds(-5)
    found = violations(message)
    assert set(found) == {
        "spec.bounds.floor_ppm",
        "spec.bounds.control_floor_ppm",
        "spec.arms.1.bounds.cap_ppm",
        "spec.metrics.0.attribution_window",
        "spec.decay.half_life",
    }
    assert "-1 ppm" in found["spec.bounds.floor_ppm"]


def test_the_parsers_violations_are_named_by_their_proto_fields() -> None:
    message = small()
    message.arms[1].bounds.floor_ppm, message.arms[1].bounds.cap_ppm = 500_000, 100_000
    message.metrics.add(name="cost", kind=pb.METRIC_KIND_GAUSSIAN, direction=pb.DIRECTION_MINIMIZE)
    message.metrics[1].range.low, message.metrics[1].range.high = 2e12, 3.0
    message.allocator.weights_ppm["odd name"] = 5
    found = violations(message, "")
    assert {"arms.1.bounds.floor_ppm", "metrics.1.range.low"} <= set(found)
    assert any(field.startswith("allocator.weights_ppm") for field in found)
    assert not any(field.startswith("allocator.weights.") for field in found)


def test_infinite_numbers_are_refused() -> None:
    for number in (float("nan"), float("inf"), -float("inf")):
        message = small()
        message.alpha = number
        assert list(violations(message)) == ["spec.alpha"]


def test_all_violations_come_at_once_and_one_field_has_one() -> None:
    message = small()
    message.metrics[0].kind = pb.METRIC_KIND_UNSPECIFIED
    message.alpha = 7
    message.arms[0].name = ""
    assert set(violations(message)) == {"spec.metrics.0.kind", "spec.alpha", "spec.arms.0.name"}


def test_words_of_enums() -> None:
    assert enum_text(pb.GuardrailKind.DESCRIPTOR, pb.GUARDRAIL_KIND_RATE_LIMIT) == "rate_limit"
    assert enum_text(pb.UnitMode.DESCRIPTOR, pb.UNIT_MODE_EPOCH) == "epoch"
    assert enum_text(pb.UnitMode.DESCRIPTOR, 99) == "99"


def test_parse_mapping_takes_what_the_wire_leaves_out() -> None:
    assert spec_from_proto(small()) == parse_mapping(
        {
            "experiment": "answers",
            "arms": [{"name": "old", "control": True}, {"name": "new"}],
            "metrics": [{"name": "helpful", "kind": "bernoulli", "direction": "maximize"}],
            "objective": [{"metric": "helpful"}],
        }
    )

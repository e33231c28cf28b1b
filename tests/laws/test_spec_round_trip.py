"""Laws of whole specs: text, mapping and type agree, and a diff is empty exactly between equals."""

from __future__ import annotations

import json

import pytest
import yaml

from bandit.spec.check import check
from bandit.spec.diff import diff, new_epoch, restarts_guardrails
from bandit.spec.metric import Metric, MetricKind
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_mapping, parse_yaml
from bandit.spec.render import render_yaml, to_mapping
from tests.dice import Dice, mapping_of, may_part, shuffled


@pytest.mark.parametrize("block", range(10))
def test_a_thousand_specs_read_back_from_their_yaml_and_from_their_mappings(block: int) -> None:
    for seed in range(block * 100, block * 100 + 100):
        spec = parse_mapping(mapping_of(seed))
        text, mapping = render_yaml(spec), to_mapping(spec)
        assert parse_yaml(text) == spec, seed
        assert render_yaml(parse_mapping(mapping)) == text, seed
        assert parse_mapping(json.loads(json.dumps(mapping))) == spec, seed
        assert parse_mapping(shuffled(mapping, Dice(seed))) == spec, seed
        # A reader of YAML 1.1 finds the same values in it.
        assert parse_mapping(yaml.load(text, yaml.CSafeLoader)) == spec, seed
        assert check(spec) == [], seed


def test_the_thousand_specs_hold_every_field_and_choice() -> None:
    texts = [render_yaml(parse_mapping(mapping_of(seed))) for seed in range(300)]
    words = {line.strip(" -") for text in texts for line in text.splitlines()}
    keys = {word.partition(":")[0] for word in words}
    assert set(ExperimentSpec.model_fields) <= keys
    assert keys >= {
        "floor",
        "cap",
        "ramp_per_minute",
        "control_floor",
        "prior",
        "strength",
        "weights",
        "half_life",
    }
    assert keys >= {
        "limit",
        "margin",
        "tail",
        "action",
        "priority",
        "metadata",
        "digest",
        "default_when_silent",
    }
    assert keys >= set(Metric.model_fields)
    assert words >= {
        "kind: fixed",
        "kind: kl_ucb",
        "kind: breaker",
        "kind: harm",
        "kind: rate_limit",
        *(f"kind: {kind}" for kind in MetricKind),
        "mode: epoch",
    }


def test_a_diff_is_empty_exactly_between_equals_and_tells_what_ends() -> None:
    dice = Dice(7)
    for seed in range(300):
        old = parse_mapping(mapping_of(seed))
        # Another spec, and the same with one section of it.
        other = mapping_of(dice.randrange(1000))
        near = to_mapping(old) | {
            (key := dice.choice(("hypothesis", "unit", "alpha", "decay", "cohorts"))): other.get(key)
        }
        near = {key: value for key, value in near.items() if value is not None}
        if "cohorts" in near and not may_part(near):
            near["cohorts"] = near["cohorts"] | {"apart": None}
        if near["allocator"]["confidence"] is not None:
            near.pop("decay", None)
        for new in (parse_mapping(other), parse_mapping(near)):
            changes = diff(old, new)
            assert bool(changes) == (old != new), seed
            assert all(change.before != change.after and change.effect for change in changes), seed
            effects = " ".join(change.effect for change in changes)
            assert ("new epoch" in effects) == new_epoch(old, new), seed
            assert ("guardrails begin" in effects) == restarts_guardrails(old, new), seed
            assert len({change.path for change in changes}) == len(changes), seed
        assert diff(old, old) == ()
        assert not new_epoch(old, old)
        assert not restarts_guardrails(old, old)

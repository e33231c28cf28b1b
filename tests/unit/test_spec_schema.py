"""The schema for editors: it takes the good example and refuses what it can see to be wrong."""

from __future__ import annotations

import json
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from bandit.spec.parse import parse_mapping, parse_yaml
from bandit.spec.render import render_yaml, to_mapping
from bandit.spec.schema import DIALECT, json_schema
from tests.dice import mapping_of

SPECS = Path(__file__).resolve().parents[1] / "fixtures" / "specs"
GOOD: dict[str, Any] = yaml.safe_load((SPECS / "support-answers.yaml").read_text())
SCHEMA = json_schema()
VALIDATOR = Draft202012Validator(SCHEMA)


def test_it_is_a_schema_of_its_dialect() -> None:
    assert SCHEMA["$schema"] == DIALECT
    Draft202012Validator.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA


def test_it_takes_the_good_example_in_all_its_forms() -> None:
    spec = parse_yaml((SPECS / "support-answers.yaml").read_text())
    for form in (GOOD, yaml.safe_load(render_yaml(spec)), to_mapping(spec)):
        VALIDATOR.validate(form)


def test_it_refuses_the_bad_example() -> None:
    bad = yaml.safe_load((SPECS / "ten-mistakes.yaml").read_text())
    places = {tuple(error.absolute_path) for error in VALIDATOR.iter_errors(bad)}
    # All but the unknown metric and the kind of a guardrail's metric, which no schema can see; `yes` is true here.
    assert places == {
        ("experiment",),
        ("arms", 1, "bounds"),
        ("arms", 1, "bounds", "cap"),
        ("metrics", 0, "kind"),
        ("metrics", 1),
        ("metrics", 1, "attribution_window"),
        ("objective", 1),
    }


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("arms", 1, "control"), True),
        (("arms", 0, "control"), False),
        (("arms", 0, "control"), "yes"),
        (("arms", 0, "digest"), "a b"),
        (("arms", 0, "metadata"), {"n": 1}),
        (("arms",), [{"name": "a", "control": True}]),
        (("bounds", "floor"), -0.1),
        (("bounds", "floor"), "0.1"),
        (("metrics", 0, "range"), [0]),
        (("metrics", 0, "range"), [0, 1, 2]),
        (("metrics", 1, "range"), [0, 1e13]),
        (("decay",), {"half_life": "1h30m"}),
        (("decay",), {"half_life": 60}),
        (("guardrails", 0, "limit"), 1),
        (("guardrails", 1, "limit"), 0.1),
        (("guardrails", 0), {"name": "g", "kind": "breaker", "metric": "unsafe"}),
        (("allocator",), {"kind": "fixed"}),
        (("allocator",), {"kind": "kl_ucb", "weights": {"large": 1}}),
        (("allocator",), {"kind": "fixed", "weights": {"Large": 1}}),
        (("allocator",), {"kind": "top_two", "beta": 1}),
        (("allocator",), {"kind": "epsilon_greedy", "epsilon": 1.1}),
        (("constraints",), [{"metric": "satisfied"}]),
        (("constraints",), [{"metric": "satisfied", "limit": 0.5, "within": 0.1}]),
        (("constraints",), [{"metric": "satisfied", "limit": 0.5, "probability": 0.4}]),
        (("constraints",), [{"metric": "satisfied", "within": 0}]),
        (("budget",), {"metric": "cost_usd", "per_day": 0}),
        (("cohorts",), {"attribute": "plan"}),
        (("guardrial",), []),
        (("metrics", 0), {"name": "satisfied", "kind": "poisson", "direction": "maximize"}),
        (("metrics", 0), {"name": "satisfied", "kind": "rating", "direction": "maximize"}),
        (("metrics", 0), {"name": "satisfied", "kind": "rating", "direction": "maximize", "levels": [1]}),
        (("metrics", 0), {"name": "satisfied", "kind": "ratio", "direction": "maximize", "range": [0, 1]}),
        (("metrics", 0, "levels"), [1, 2]),
        (("metrics", 0, "scores"), [1, 2]),
        (("metrics", 0, "numerator"), "cost_usd"),
        (("metrics", 0, "aggregate"), "mean"),
        (("metrics", 0, "pending"), True),
        (("metrics", 0, "plausible_lift"), 0),
        (("metrics", 0, "delay"), "2h"),
        (("metrics", 0, "delay"), {"p90": "20h"}),
        (("metrics", 0, "delay"), {"median": 7200}),
        (("metrics", 0, "delay"), {"median": "2h", "strength": 0}),
        (("arms", 1, "delay"), {"satisfied": "2h"}),
        (("arms", 1, "prior"), {"satisfied": {"strength": 3}}),
        (("arms", 1, "prior"), {"satisfied": 0.5}),
    ],
)
def test_it_refuses_one_mistake(path: tuple[str | int, ...], value: object) -> None:
    mapping = deepcopy(GOOD)
    holder: Any = mapping
    for key in path[:-1]:
        holder = holder[key]
    holder[path[-1]] = value
    assert not VALIDATOR.is_valid(mapping)


@pytest.mark.parametrize("block", range(4))
def test_it_takes_whatever_the_parser_takes(block: int) -> None:
    for seed in range(block * 50, block * 50 + 50):
        mapping = mapping_of(seed)
        for form in (
            mapping,
            to_mapping(parse_mapping(mapping)),
            yaml.safe_load(render_yaml(parse_mapping(mapping))),
        ):
            assert [error.message for error in VALIDATOR.iter_errors(form)] == [], seed


def test_every_field_is_described() -> None:
    parts = [SCHEMA, *SCHEMA["$defs"].values()]
    missing = [
        name
        for part in parts
        for name, field in part.get("properties", {}).items()
        if "description" not in field
    ]
    assert missing == []
    # Beside a reference too: editors show what is next to the field.
    assert SCHEMA["$defs"]["Arm"]["properties"]["bounds"]["description"].startswith(
        "bounds on this arm's share"
    )


def test_durations_are_text_with_text_defaults() -> None:
    window = SCHEMA["$defs"]["Metric"]["properties"]["attribution_window"]
    assert (window["type"], window["default"]) == ("string", "1d")
    assert Draft202012Validator(window).is_valid("1.5h")
    assert not Draft202012Validator(window).is_valid("h")

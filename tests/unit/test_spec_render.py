"""Canonical YAML to the letter: quotes, numbers, blocks, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from bandit.spec.parse import parse_mapping, parse_yaml
from bandit.spec.render import render_yaml, to_mapping

GOOD = (Path(__file__).resolve().parents[1] / "fixtures" / "specs" / "support-answers.yaml").read_text()
SMALL = """experiment: small
arms:
  - name: a
    control: true
  - name: b
metrics:
  - name: ok
    kind: bernoulli
    direction: maximize
objective:
  - metric: ok
"""


def rendered(**changes: Any) -> str:
    """The YAML of a small spec with some sections replaced, after it was read back."""
    spec = parse_mapping(yaml.safe_load(SMALL) | changes)
    text = render_yaml(spec)
    assert parse_yaml(text) == spec
    assert parse_mapping(yaml.safe_load(text)) == spec
    return text


def test_what_is_required_is_enough() -> None:
    assert rendered() == SMALL


def test_what_is_at_its_default_is_left_out() -> None:
    text = rendered(
        unit={"kind": "session"},
        bounds={"floor": 0.02},
        alpha=0.05,
        allocator={"kind": "thompson", "weights": {}},
        guardrails=[{"name": "g", "kind": "harm", "metric": "ok", "margin": 1, "action": "rollback"}],
        decay=None,
    )
    assert text == SMALL + "guardrails:\n  - name: g\n    kind: harm\n    metric: ok\n"


def test_a_part_that_is_all_defaults_stays_a_part() -> None:
    mapping = {
        "experiment": "release",
        "arms": [{"name": "a", "control": True}, {"name": "b"}],
        "metrics": [
            {"name": "good", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1d"}
        ],
        "objective": [{"metric": "good"}],
        "cohorts": {"attribute": "plan", "values": ["a", "b", "c"], "apart": {}},
    }
    spec = parse_mapping(mapping)
    assert spec.cohorts is not None
    assert spec.cohorts.apart is not None
    assert "  apart: {}\n" in render_yaml(spec)
    assert parse_yaml(render_yaml(spec)) == spec


def test_the_mapping_leaves_out_nothing() -> None:
    mapping = to_mapping(parse_yaml(SMALL))
    assert mapping["bounds"] == {"floor": 0.02, "cap": 1.0, "ramp_per_minute": 1.0, "control_floor": 0.05}
    assert mapping["metrics"][0] == {
        "name": "ok",
        "kind": "bernoulli",
        "direction": "maximize",
        "range": [0.0, 1.0],
        "winsorize": None,
        "levels": [],
        "scores": [],
        "numerator": None,
        "denominator": None,
        "aggregate": "first",
        "corrections": False,
        "attribution_window": "1d",
        "default_when_silent": None,
        "pending": None,
        "delay": None,
        "prior": None,
        "plausible_lift": None,
    }
    assert (mapping["cohorts"], mapping["decay"], mapping["guardrails"]) == (None, None, [])


def test_a_gaussian_metric_keeps_its_range_even_at_the_default() -> None:
    metric = {"name": "ok", "kind": "gaussian", "direction": "maximize", "range": [0, 1]}
    assert "    range: [0, 1]\n" in rendered(metrics=[metric])


@pytest.mark.parametrize(
    ("text", "written"),
    [
        ("plain words, and (more).", "plain words, and (more)."),
        ("sha256:51aa", "sha256:51aa"),
        ("https://example.org/a?b", "https://example.org/a?b"),
        ("30m", "30m"),
        ("", '""'),
        ("y", '"y"'),
        ("N", '"N"'),
        ("on", '"on"'),
        ("true", '"true"'),
        ("null", '"null"'),
        ("1e-6", '"1e-6"'),
        ("2026-11-25", '"2026-11-25"'),
        ("a: b", '"a: b"'),
        ("a:", '"a:"'),
        ("a ", '"a "'),
        (" a", '" a"'),
        ("a #b", '"a #b"'),
        ("- a", '"- a"'),
        ("[a]", '"[a]"'),
        ('a"b\\c', '"a\\"b\\\\c"'),
        ("a\tb\r", '"a\\tb\\r"'),
        ("caf\u00e9", '"caf\u00e9"'),
        ("\U0001f600", '"\U0001f600"'),
        ("\u2028\x00\ufeff", '"\\u2028\\u0000\\uFEFF"'),
        ("\U000e0001", '"\\U000E0001"'),
        ("one\ntwo", "|-\n  one\n  two"),
        ("one\n\n- two: 'x'\n", "|\n  one\n\n  - two: 'x'"),
        ("\none", '"\\none"'),
        ("one\n\n", '"one\\n\\n"'),
        ("one\n two", '"one\\n two"'),
        ("one \ntwo", '"one \\ntwo"'),
        ("one\n\ttwo", '"one\\n\\ttwo"'),
    ],
)
def test_text(text: str, written: str) -> None:
    line = f"hypothesis: {written}\n" if text else ""
    assert rendered(hypothesis=text) == SMALL.replace("arms:", f"{line}arms:", 1)
    key = written if "|" not in written else None
    if text and key:
        arms = [{"name": "a", "control": True, "metadata": {text: text}}, {"name": "b"}]
        assert f"\n      {key}: {written}\n" in rendered(arms=arms)


@pytest.mark.parametrize(
    ("number", "written"),
    [(0.1, "0.1"), (1, "1"), (250000.0, "250000"), (1e-6, "1.0e-06"), (1.5e-7, "1.5e-07"), (0.25, "0.25")],
)
def test_numbers(number: float, written: str) -> None:
    term = {"metric": "ok", "weight": number}
    line = "" if number == 1 else f"    weight: {written}\n"
    assert rendered(objective=[term]) == SMALL + line


def test_the_good_example_in_canonical_form_is_stable() -> None:
    text = render_yaml(parse_yaml(GOOD))
    assert render_yaml(parse_yaml(text)) == text
    assert parse_yaml(text) == parse_yaml(GOOD)
    sections = [line.partition(":")[0] for line in text.splitlines() if line[0].isalpha()]
    assert sections == ["experiment", "hypothesis", "arms", "metrics", "objective", "bounds", "guardrails"]

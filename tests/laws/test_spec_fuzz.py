"""No text and no tree makes the reader of specs fail in any way but InvalidArgument, each error at a real line."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import yaml
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from bandit.errors import InvalidArgument
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_mapping, parse_yaml
from bandit.spec.tree import read

GOOD = (Path(__file__).resolve().parents[1] / "fixtures" / "specs" / "support-answers.yaml").read_text()
LINE = re.compile(r"f:(\d+):(\d+): (.+?): (.+)")
KEYS = sorted(
    {*re.findall(r"([a-z_]+):", GOOD), *ExperimentSpec.model_fields, "half_life", "weights", "tail"}
)

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=20)
    | st.integers(-9, 9).map(lambda digit: digit * 10**400)
    | st.sampled_from(["a", "b", "ok", "bernoulli", "maximize", "fixed", "30m", "harm", 0.5, 1])
)
TREES: st.SearchStrategy[Any] = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=8), inner, max_size=6)
    ),
    max_leaves=40,
)
SYNTAX = st.text(
    st.sampled_from("ab01 \n\t-:?,[]{}&*!|>'\"%@`#~<=.+_é\u00a0\u2028\U0001f600\x00"), max_size=200
)


def refusal_of(text: str) -> InvalidArgument | None:
    try:
        assert isinstance(parse_yaml(text, "f"), ExperimentSpec)
    except InvalidArgument as error:
        return error
    return None


def check_lines(text: str) -> None:
    """``text`` is a spec, or is refused with sentences that each name a line and column of it."""
    error = refusal_of(text)
    if error is None:
        return
    lines = re.split(r"\r\n|\r|\n", text)
    told = str(error).split("\n")
    assert len(told) == len(error.violations) > 0
    for sentence, violation in zip(told, error.violations, strict=True):
        found = LINE.fullmatch(sentence)
        assert found, sentence
        assert 1 <= int(found[1]) <= len(lines)
        assert 1 <= int(found[2]) <= len(lines[int(found[1]) - 1]) + 2
        assert sentence.endswith(f": {violation.field}: {violation.description}")
        assert len(sentence) < 600
        assert "the schema allows" not in sentence


@settings(max_examples=500)
@given(st.text() | SYNTAX)
@example("a: &a [*a, *a]")
@example("? {[: 1}: ]")
@example("%YAML 9.9\n---\na")
@example("--- !!binary x")
@example("a: \ud800")
@example("experiment: " + "9" * 5000)
def test_any_text(text: str) -> None:
    check_lines(text)


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_any_tree(tree: Any) -> None:
    refusal = None
    try:
        assert isinstance(parse_mapping(tree), ExperimentSpec)
    except InvalidArgument as error:
        refusal = error
    if refusal is not None:
        assert len(str(refusal).split("\n")) == len(refusal.violations) > 0
        for field, sentence in refusal.violations:
            assert field.startswith("spec")
            assert "the schema allows" not in sentence


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(TREES)
def test_any_tree_as_yaml(tree: Any) -> None:
    try:
        text = yaml.safe_dump(tree, allow_unicode=True, sort_keys=False)
    except ValueError:
        return  # An integer of more digits than Python prints.
    check_lines(text)


@st.composite
def edits(draw: st.DrawFn) -> str:
    """The good example with a few places overwritten."""
    text = GOOD
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        piece = draw(
            SYNTAX.map(lambda syntax: syntax[:6])
            | st.sampled_from([f" {key}: " for key in KEYS])
            | st.just("\n")
        )
        text = text[:start] + piece + text[start + draw(st.integers(0, 12)) :]
    return text


@settings(max_examples=500, suppress_health_check=[HealthCheck.too_slow])
@given(edits())
def test_any_edit_of_a_good_spec(text: str) -> None:
    check_lines(text)


@settings(max_examples=300, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(st.sampled_from(GOOD.splitlines()), max_size=40).map("\n".join))
def test_any_heap_of_good_lines(text: str) -> None:
    check_lines(text)


@settings(max_examples=300)
@given(st.text() | SYNTAX)
def test_reading_a_tree_raises_nothing(text: str) -> None:
    assert read(text).root is not None

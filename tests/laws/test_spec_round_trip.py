"""Laws of whole specs: text, mapping and type agree, and a diff is empty exactly between equals."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bandit.spec.check import check
from bandit.spec.diff import diff, new_epoch, restarts_guardrails
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_mapping, parse_yaml
from bandit.spec.render import render_yaml, to_mapping

LETTERS = "abcxyz"
# Words that some reader of YAML takes for a boolean, nothing or a number when they have no quotes.
TRAPS = ("on", "no", "y", "null", "true", "e1", "n", "off", "yes")
NAMES = st.builds(str.__add__, st.sampled_from(LETTERS), st.text("abz019-", max_size=6)) | st.sampled_from(
    TRAPS
)
METRICS = st.builds(str.__add__, st.sampled_from(LETTERS), st.text("abz019_", max_size=6)) | st.sampled_from(
    TRAPS
)
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30) | st.sampled_from(
    [
        "1e-6",
        "0o7",
        "yes",
        "2026-11-25",
        "a: b",
        "a #b",
        "- a",
        "? a",
        "line\nline",
        "line\n\n  line\n",
        "one\ntwo\n",
        "\n",
        " a",
        "a ",
        "'",
        '"',
        "\\",
        "{a}",
        "<<",
        "=",
        "~",
        "\u2028",
        "\ufeff",
        "\x85",
        "1_0",
        "1:30",
        "7d",
        "a:",
    ]
)
SHARES = st.integers(0, 1_000_000).map(lambda ppm: ppm / 1_000_000)
WINDOWS = st.integers(100, 90 * 86_400_000).map(lambda millis: f"{millis}ms") | st.sampled_from(
    ["1.5h", "30m", "90d"]
)
NUMBERS = st.floats(-1e12, 1e12) | st.integers(-1000, 1000)


@st.composite
def arms(draw: st.DrawFn) -> list[dict[str, Any]]:
    names = draw(st.lists(NAMES, min_size=2, max_size=6, unique=True))
    control = draw(st.integers(0, len(names) - 1))
    found = []
    for index, name in enumerate(names):
        arm: dict[str, Any] = {"name": name, "control": index == control}
        if draw(st.booleans()):
            arm["digest"] = f"sha256:{index}{draw(st.from_regex(r'[0-9a-f:é]{0,6}', fullmatch=True))}"
        if draw(st.booleans()):
            arm["metadata"] = draw(st.dictionaries(TEXT.filter(len), TEXT, max_size=3))
        if draw(st.booleans()) and index != control:
            floor, cap = sorted([draw(SHARES), draw(SHARES)])
            arm["bounds"] = {"floor": round(floor / 10, 6), "cap": cap, "ramp_per_minute": draw(SHARES) or 1}
        found.append(arm)
    return found


@st.composite
def metrics(draw: st.DrawFn) -> list[dict[str, Any]]:
    found = []
    for name in draw(st.lists(METRICS, min_size=1, max_size=4, unique=True)):
        metric: dict[str, Any] = {"name": name, "direction": draw(st.sampled_from(["maximize", "minimize"]))}
        if draw(st.booleans()):
            metric |= {"kind": "bernoulli", "default_when_silent": draw(st.none() | st.integers(0, 1))}
            if draw(st.booleans()):
                metric["prior"] = {"mean": draw(st.floats(0, 1, exclude_min=True, exclude_max=True))}
        else:
            low, high = sorted(draw(st.lists(NUMBERS, min_size=2, max_size=2, unique=True)))
            metric |= {
                "kind": "gaussian",
                "range": [low, high],
                "default_when_silent": draw(st.sampled_from([None, low])),
            }
            if draw(st.booleans()):
                metric["prior"] = {"mean": high, "strength": draw(st.floats(1e-9, 1e6))}
        if draw(st.booleans()):
            metric["attribution_window"] = draw(WINDOWS)
        found.append(metric)
    return found


@st.composite
def guardrails(draw: st.DrawFn, watched: list[dict[str, Any]]) -> list[dict[str, Any]]:
    found = []
    bernoulli = [metric["name"] for metric in watched if metric["kind"] == "bernoulli"]
    for index, name in enumerate(draw(st.lists(NAMES, max_size=4, unique=True))):
        # Different margins and limits, so that no two check the same.
        odd = (index + draw(st.floats(0.1, 0.9))) / 5
        guardrail: dict[str, Any] = {"name": name, "priority": draw(st.floats(1e-3, 1000))}
        kind = draw(st.sampled_from(["rate_limit", "breaker", "harm"])) if bernoulli else "harm"
        if kind != "harm":
            guardrail |= {"kind": kind, "limit": odd}
            guardrail["metric"] = draw(st.sampled_from(bernoulli))
            if guardrail["kind"] == "breaker":
                guardrail["tail"] = draw(st.floats(1e-300, 1e-3))
        else:
            guardrail |= {"kind": "harm", "margin": 1 + odd, "metric": draw(st.sampled_from(watched))["name"]}
        if draw(st.booleans()):
            guardrail["action"] = "hold"
        found.append(guardrail)
    return found


@st.composite
def mappings(draw: st.DrawFn) -> dict[str, Any]:
    """Right specs as plain mappings."""
    slots, watched = draw(arms()), draw(metrics())
    terms = draw(st.lists(st.sampled_from([metric["name"] for metric in watched]), min_size=1, unique=True))
    spec: dict[str, Any] = {
        "experiment": draw(NAMES),
        "arms": slots,
        "metrics": watched,
        "objective": [{"metric": term, "weight": draw(st.floats(1e-6, 1e6))} for term in terms],
        "guardrails": draw(guardrails(watched)),
        "bounds": {
            "floor": 0,
            "control_floor": round(draw(SHARES) / 10, 6),
            "ramp_per_minute": draw(SHARES) or 0.5,
        },
    }
    optional: dict[str, st.SearchStrategy[Any]] = {
        "hypothesis": TEXT,
        "unit": st.fixed_dictionaries(
            {},
            optional={
                "kind": st.sampled_from(["request", "session", "user", "tenant"]),
                "mode": st.sampled_from(["sticky", "epoch"]),
            },
        ),
        "alpha": st.floats(1e-300, 0.5),
        "decay": st.integers(1000, 10**11).map(lambda millis: {"half_life": f"{millis}ms"}),
        "cohorts": st.fixed_dictionaries(
            {
                "attribute": TEXT.filter(len),
                "values": st.lists(
                    TEXT.filter(lambda text: text not in ("", "other")), min_size=1, max_size=5, unique=True
                ),
            }
        ),
        "rewards_without_token": st.booleans(),
        "allocator": st.sampled_from([{"kind": "ucb"}, {"kind": "thompson"}, None]),
    }
    for key in draw(st.sets(st.sampled_from(sorted(optional)))):
        spec[key] = draw(optional[key])
    if spec.get("allocator", {}) is None:
        for arm in slots:
            arm.pop("bounds", None)
        spec["bounds"]["control_floor"] = 0
        cuts = sorted(draw(st.integers(0, 1_000_000)) for _ in slots[1:])
        weights = [high - low for low, high in zip([0, *cuts], [*cuts, 1_000_000], strict=True)]
        spec["allocator"] = {
            "kind": "fixed",
            "weights": {arm["name"]: weight / 1e6 for arm, weight in zip(slots, weights, strict=True)},
        }
    return spec


SPECS = mappings().map(parse_mapping)


@settings(max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
@given(SPECS, st.randoms(use_true_random=False))
def test_a_spec_reads_back_from_its_yaml_and_from_its_mapping(
    spec: ExperimentSpec, order: random.Random
) -> None:
    text, mapping = render_yaml(spec), to_mapping(spec)
    assert parse_yaml(text) == spec
    assert render_yaml(parse_mapping(mapping)) == text
    assert parse_mapping(json.loads(json.dumps(mapping))) == spec
    assert parse_mapping(shuffled(mapping, order)) == spec
    # A reader of YAML 1.1 finds the same values in it.
    assert parse_mapping(yaml.load(text, yaml.CSafeLoader)) == spec
    assert check(spec) == []


@settings(max_examples=150, suppress_health_check=[HealthCheck.too_slow])
@given(SPECS, SPECS)
def test_a_diff_is_empty_exactly_between_equals_and_tells_what_ends(
    old: ExperimentSpec, new: ExperimentSpec
) -> None:
    assert diff(old, old) == ()
    assert not new_epoch(old, old)
    assert not restarts_guardrails(old, old)
    changes = diff(old, new)
    assert bool(changes) == (old != new)
    assert all(change.before != change.after and change.effect for change in changes)
    effects = " ".join(change.effect for change in changes)
    assert ("new epoch" in effects) == new_epoch(old, new)
    assert ("guardrails begin" in effects) == restarts_guardrails(old, new)
    assert len({change.path for change in changes}) == len(changes)


def shuffled(value: Any, order: random.Random) -> Any:
    if isinstance(value, dict):
        keys = list(value)
        order.shuffle(keys)
        return {key: shuffled(value[key], order) for key in keys}
    return [shuffled(item, order) for item in value] if isinstance(value, list) else value


@pytest.mark.parametrize(
    "text", ["on", "no", "1e-6", "0o7", "a: b", "x\ny", "", "\u2028", "2026-11-25", " a", "a:"]
)
def test_text_that_yaml_takes_for_something_else_is_quoted(text: str) -> None:
    spec = parse_mapping(
        {
            "experiment": "a",
            "arms": [{"name": "a", "control": True, "metadata": {"k": text}}, {"name": "b"}],
            "metrics": [{"name": "m", "kind": "bernoulli", "direction": "maximize"}],
            "objective": [{"metric": "m"}],
        }
    )
    assert parse_yaml(render_yaml(spec)) == spec
    assert yaml.safe_load(render_yaml(spec))["arms"][0]["metadata"] == {"k": text}

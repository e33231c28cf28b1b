"""Features and linear allocators in a spec: each broken rule has one sentence at its place; edits say what they do."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import jsonschema
import pytest

from bandit.errors import InvalidArgument
from bandit.spec.check_features import KEPT_GUARDRAILS
from bandit.spec.diff import diff, new_epoch
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_mapping, parse_yaml
from bandit.spec.render import render_yaml, to_mapping
from bandit.spec.schema import json_schema

BASE: dict[str, Any] = {
    "experiment": "route",
    "arms": [{"name": "big", "control": True}, {"name": "small"}],
    "metrics": [
        {"name": "good", "kind": "bernoulli", "direction": "maximize"},
        {"name": "ms", "kind": "gaussian", "direction": "minimize", "range": [0, 1000]},
        {"name": "stars", "kind": "rating", "direction": "maximize", "levels": [1, 2, 3], "scores": [1, 1.5, 3]},
        {"name": "per", "kind": "ratio", "direction": "minimize", "range": [0, 9], "numerator": "ms",
         "denominator": "good"},
    ],
    "objective": [{"metric": "good"}],
    "allocator": {"kind": "lin_ts"},
    "baseline": "stationary",
    "features": [
        {"name": "tokens", "kind": "numeric", "low": 0, "high": 4000},
        {"name": "plan", "kind": "categorical", "values": ["free", "pro"]},
        {"name": "city", "kind": "hashed", "buckets": 8},
    ],
}  # fmt: skip
Path = tuple[str | int, ...]


def changed(changes: dict[Path, Any]) -> dict[str, Any]:
    """BASE with values at some paths replaced; None takes a key away."""
    mapping = deepcopy(BASE)
    for path, value in changes.items():
        holder: Any = mapping
        for key in path[:-1]:
            holder = holder[key]
        if value is None:
            del holder[path[-1]]
        else:
            holder[path[-1]] = value
    return mapping


def broken(changes: dict[Path, Any]) -> list[str]:
    try:
        parse_mapping(changed(changes), "")
    except InvalidArgument as error:
        return str(error).splitlines()
    return []


def limit(kind: str, **more: Any) -> list[dict[str, Any]]:
    return [{"name": "g", "kind": kind, "metric": "good", **more}]


CASES: list[tuple[dict[Path, Any], str]] = [
    ({("features", 0, "high"): None}, "features.0.high: missing; a numeric feature needs high: add it"),
    ({("features", 1, "values"): None}, "features.1.values: missing; a categorical feature needs values: add it"),
    ({("features", 2, "buckets"): None}, "features.2.buckets: missing; a hashed feature needs buckets: add it"),
    ({("features", 0, "high"): 0}, "features.0.high: 0 is not above low 0"),
    ({("features", 0, "buckets"): 4}, "features.0.buckets: buckets on a numeric feature, which does not use it"),
    ({("features", 1, "values"): ["a", "a"]}, "features.1.values.1: 'a' is listed twice, first as values.0"),
    ({("features", 2, "name"): "plan"}, "features.2.name: 'plan' is read twice, first as features.1"),
    ({("features", 2, "buckets"): 1}, "features.2.buckets: 1 is not allowed; allowed: 2 to 31"),
    ({("features", 2, "buckets"): True}, "features.2.buckets: true"),
    ({("features", 2, "buckets"): 31}, "features: 36 columns with the intercept"),
    ({("features",): []}, "features: missing; lin_ts decides by features"),
    ({("allocator",): {"kind": "thompson"}}, "features: features with kind thompson, which does not read them"),
    ({("baseline",): None}, "baseline: contrast with kind lin_ts"),
    ({("baseline",): "stratified"}, "baseline: stratified with kind lin_ts"),
    ({("allocator", "confidence"): 0.05}, "allocator.confidence: confidence 0.05 with kind lin_ts"),
    (
        {("allocator",): {"kind": "lin_ucb", "confidence": 0.05, "exploration": 1.0}},
        "allocator.confidence: confidence 0.05 beside exploration 1",
    ),
    (
        {("allocator",): {"kind": "lin_ucb", "confidence": 0.05}, ("decay",): {"half_life": "7d"}},
        "allocator.confidence: confidence with decay",
    ),
    (
        {
            ("objective",): [{"metric": "good"}, {"metric": "ms"}],
            ("allocator",): {"kind": "lin_ucb", "confidence": 0.1},
        },
        "allocator.confidence: confidence 0.1 with 2 terms of the objective",
    ),
    ({("objective",): [{"metric": "per"}]}, "objective.0.metric: per is a ratio"),
    ({("objective",): [{"metric": "stars"}]}, "objective.0.metric: stars has scores"),
    ({("metrics", 0, "default_when_silent"): 0}, "objective.0.metric: good has default_when_silent"),
    ({("constraints",): [{"metric": "ms", "limit": 500}]}, "constraints: constraints with kind lin_ts"),
    ({("budget",): {"metric": "ms", "per_day": 5}}, "budget: budget with kind lin_ts"),
    ({("rewards_without_token",): True}, "rewards_without_token: rewards_without_token with kind lin_ts"),
    ({("arms", 1, "prior"): {"good": {"mean": 0.5}}}, "arms.1.prior.good: a prior of one arm with kind lin_ts"),
    ({("guardrails",): limit("harm", method="asymptotic")}, "guardrails.0.method: harm with kind lin_ts"),
    ({("guardrails",): limit("harm", metric="per")}, "guardrails.0.metric: harm with kind lin_ts"),
    (
        {("guardrails",): limit("harm", metric="ms"), ("metrics", 1, "default_when_silent"): 0},
        "guardrails.0.metric: harm with kind lin_ts, which weighs arms request by request: a decision without a reward",
    ),
    (
        {
            ("guardrails",): limit("harm"),
            ("arms",): [{"name": f"a{n}", "control": n == 0} for n in range(29)],
            ("allocator", "kind"): "lin_ucb",
        },
        "guardrails.0.kind: harm with 3 features and 29 arms, of each of which a token brings a byte back",
    ),
    (
        {
            ("guardrails",): limit("harm", cohorts="each"),
            ("cohorts",): {"attribute": "lang", "values": ["en"]},
        },
        "guardrails.0.cohorts: harm with kind lin_ts",
    ),
    ({("guardrails",): limit("became_worse")}, "guardrails.0.kind: became_worse with kind lin_ts"),
    ({("guardrails",): limit("drift", action="flag")}, "guardrails.0.kind: drift with kind lin_ts"),
]  # fmt: skip


def test_the_base_is_right() -> None:
    assert broken({}) == []


@pytest.mark.parametrize(("changes", "line"), CASES, ids=[line[:40] for _, line in CASES])
def test_each_broken_rule_has_one_sentence_at_its_place(changes: dict[Path, Any], line: str) -> None:
    lines = broken(changes)
    assert len(lines) == 1, lines
    assert lines[0].startswith(line)


@pytest.mark.parametrize("kind", sorted(KEPT_GUARDRAILS))
def test_guardrails_against_a_limit_are_kept(kind: str) -> None:
    more: dict[str, dict[str, Any]] = {
        "rate_limit": {"limit": 0.9},
        "breaker": {"limit": 0.9},
        "quantile_limit": {"metric": "ms", "limit": 500, "quantile": 0.9},
        "silence": {"action": "flag"},
    }
    if kind == "event_rate":
        made = changed({("guardrails",): limit(kind, metric="ms", limit=1.0)})
        made["metrics"][1] = {"name": "ms", "kind": "poisson", "direction": "minimize", "range": [0, 9]}
        parse_mapping(made)
    else:
        assert broken({("guardrails",): limit(kind, **more[kind])}) == []


def test_responses_are_weighed_as_values_are() -> None:
    assert broken({("guardrails",): limit("response_rate", action="flag", margin=1.1)}) == []
    (line,) = broken(
        {
            ("guardrails",): limit("response_rate", action="flag"),
            ("arms",): [{"name": f"a{n}", "control": n == 0} for n in range(29)],
        }
    )
    assert line.startswith("guardrails.0.kind: response_rate with 3 features and 29 arms")


@pytest.mark.parametrize("more", [{}, {"metric": "ms", "margin": 1.2}, {"margin_of": "mean", "margin": 1.1}])
def test_harm_against_the_control_is_weighed_request_by_request(more: dict[str, Any]) -> None:
    assert broken({("guardrails",): limit("harm", **more)}) == []


def test_tokens_bring_shares_as_far_as_they_have_room() -> None:
    arms = [{"name": f"a{n}", "control": n == 0} for n in range(28)]
    assert parse_mapping(changed({("arms",): arms, ("bounds",): {"floor": 0}})).weighs
    arms.append({"name": "one-more", "control": False})
    assert not parse_mapping(changed({("arms",): arms, ("bounds",): {"floor": 0}})).weighs
    assert not parse_mapping(changed({("features",): [], ("allocator", "kind"): "thompson"})).weighs


def test_sums_of_a_period_have_a_limit() -> None:
    many = changed({("features", 2, "buckets"): 27})
    many["arms"] += [{"name": f"a{n}", "bounds": {"floor": 0}} for n in range(62)]
    many["metrics"] += [{"name": f"m{n}", "kind": "fraction", "direction": "maximize"} for n in range(7)]
    many["objective"] += [{"metric": f"m{n}"} for n in range(7)]
    with pytest.raises(
        InvalidArgument, match="64 arms x 8 terms x 32 columns ask for 304,128 sums in each period"
    ):
        parse_mapping(many)


def test_the_place_is_that_of_the_file() -> None:
    text = render_yaml(parse_mapping(BASE)).replace("high: 4000", "high: -1")
    with pytest.raises(InvalidArgument) as caught:
        parse_yaml(text, "s.yaml")
    number = next(n for n, line in enumerate(text.splitlines(), 1) if "high: -1" in line)
    assert str(caught.value).startswith(f"s.yaml:{number}:11: features.0.high: -1 is not above low 0")


def test_edits_say_what_they_do() -> None:
    old = parse_mapping(BASE)
    cases: list[tuple[dict[Path, Any], str, bool]] = [
        ({("features", 0, "high"): 8000}, "arms are chosen by its value; starts a new epoch", True),
        ({("features", 2): None}, "arms are chosen whatever its value; starts a new epoch", True),
        ({("allocator", "exploration"): 0.5}, "explored with 0.5 times the posterior sd", False),
        ({("allocator", "ridge"): 4.0}, "as if 4 rewards had said so", False),
        ({("objective",): [{"metric": "ms"}]}, "part of what is maximised; starts a new epoch", True),
        ({("allocator", "kind"): "lin_ucb"}, "shares follow rewards by lin_ucb", False),
    ]
    for changes, words, anew in cases:
        new = parse_mapping(changed(changes))
        assert words in " ".join(each.effect for each in diff(old, new)), words
        assert new_epoch(old, new) is anew
    blind: dict[Path, Any] = {("features",): [], ("allocator",): {"kind": "thompson"}}
    assert new_epoch(old, parse_mapping(changed(blind)))


def test_it_reads_back_and_editors_know_it() -> None:
    made = parse_mapping(BASE)
    assert parse_mapping(to_mapping(made)) == made
    assert parse_yaml(render_yaml(made)) == made
    jsonschema.validate(BASE, json_schema())
    wrong: list[dict[Path, Any]] = [
        {("features", 2, "buckets"): "8"},
        {("features", 2, "buckets"): None},
        {("features", 0, "values"): ["a"]},
    ]
    for changes in wrong:
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(changed(changes), json_schema())
    assert isinstance(made, ExperimentSpec)
    assert made.learned == (0,)

"""Guardrails of a spec: which fields each kind needs and takes, which metrics, and what it says that it does."""

from __future__ import annotations

from typing import Any

import pytest
from jsonschema import Draft202012Validator

from bandit.spec.channels import ChannelKind
from bandit.spec.check import check
from bandit.spec.effects_guardrails import guardrail_effect
from bandit.spec.guardrail import MOST_EDGES
from bandit.spec.model import ExperimentSpec
from bandit.spec.render import to_mapping
from bandit.spec.schema import json_schema
from tests.guardrail_periods import METRICS, guarded

GOOD: dict[str, dict[str, Any]] = {
    "quantile_limit": {"metric": "latency", "limit": 800, "quantile": 0.99},
    "quantile_harm": {"metric": "latency", "quantile": 0.99, "between": [200, 5000], "margin": 1.1},
    "event_rate": {"metric": "calls", "limit": 2.5},
    "became_worse": {"metric": "unsafe"},
    "sample_ratio": {"action": "flag"},
    "silence": {"metric": "unsafe", "after": "15m", "action": "hold"},
    "response_rate": {"metric": "unsafe", "margin": 1.05, "action": "flag"},
    "drift": {"metric": "cost", "action": "flag"},
    "harm": {"metric": "cost_per_call", "margin": 1.1},
    "rate_limit": {"metric": "unsafe", "limit": 0.02},
    "breaker": {"metric": "unsafe", "limit": 0.02},
}
VALIDATOR = Draft202012Validator(json_schema())


def of(kind: str, **changes: Any) -> ExperimentSpec:
    fields = {"kind": kind, **GOOD[kind], **changes}
    return guarded({key: value for key, value in fields.items() if value is not None})


@pytest.mark.parametrize("kind", sorted(GOOD))
def test_each_kind_has_a_right_form_that_the_schema_takes(kind: str) -> None:
    spec = of(kind)
    assert check(spec) == []
    VALIDATOR.validate(to_mapping(spec))


@pytest.mark.parametrize(
    ("kind", "changes", "place", "words"),
    [
        ("quantile_limit", {"limit": None}, "limit", "missing; the quantile is compared with it"),
        ("quantile_limit", {"quantile": None}, "quantile", "missing; it says which quantile"),
        ("quantile_limit", {"limit": 20_000}, "limit", "20000 can never be passed by latency in [0, 10000]"),
        ("quantile_limit", {"metric": "unsafe"}, "metric", "quantile_limit on unsafe, which is bernoulli"),
        (
            "quantile_harm",
            {"between": None},
            "between",
            "missing; it says where the control's quantile will lie",
        ),
        ("quantile_harm", {"between": [200, 9900]}, "between", "[200, 9900] times margin 1.1 is not inside"),
        ("quantile_harm", {"margin": 1.0000001}, "between", "takes more than 48 steps"),
        ("quantile_harm", {"between": [1, 9000]}, "between", f"takes more than {MOST_EDGES} steps"),
        ("quantile_harm", {"metric": "gain"}, "metric", "of which more is better"),
        ("quantile_harm", {"limit": 5}, "limit", "which compares with the control; leave limit out"),
        ("event_rate", {"metric": "unsafe"}, "metric", "it counts events of a poisson metric"),
        ("event_rate", {"limit": 0}, "limit", "0 is not allowed; events per decision are above 0"),
        ("became_worse", {"metric": "cost_per_call"}, "metric", "it has no rewards of its own"),
        ("became_worse", {"metric": None}, "metric", "missing; add the name of one: unsafe"),
        ("became_worse", {"tail": 1e-5}, "tail", "tail 1e-05 with kind became_worse, which does not use it"),
        ("sample_ratio", {"action": None}, "action", "rollback with kind sample_ratio"),
        ("sample_ratio", {"metric": "unsafe"}, "metric", "which counts decisions; leave metric out"),
        ("silence", {"action": "rollback"}, "action", "write action: flag, or action: hold"),
        ("silence", {"after": "2h"}, "after", "longer than the attribution window of unsafe (3600 s)"),
        ("silence", {"limit": 0.1}, "limit", "which does not use it"),
        ("response_rate", {"action": "rollback"}, "action", "not that the arm is"),
        ("drift", {"action": "rollback"}, "action", "not that the arm is"),
        ("harm", {"method": "asymptotic"}, "method", "asymptotic on cost_per_call, which is a ratio"),
        ("harm", {"metric": "gain", "margin_of": "mean"}, "margin_of", "goes down to -1"),
        ("harm", {"cohorts": "each"}, "cohorts", "declares no cohorts"),
        ("rate_limit", {"margin_of": "mean"}, "margin_of", "margin_of mean with kind rate_limit"),
        (
            "rate_limit",
            {"limit": 2},
            "limit",
            "2 is not allowed; allowed: above 0 and below 1; for 2 % write 0.02",
        ),
        ("breaker", {"run_length": 200}, "run_length", "write kind: became_worse"),
    ],
)
def test_each_mistake_is_one_sentence(kind: str, changes: dict[str, Any], place: str, words: str) -> None:
    found = check(of(kind, **changes))
    assert [loc for loc, _ in found] == [("guardrails", 0, place)]
    assert words in found[0][1]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        ("quantile_limit", {"quantile": None}),
        ("quantile_harm", {"between": None}),
        ("event_rate", {"limit": None}),
        ("sample_ratio", {"action": None}),
        ("silence", {"action": "rollback"}),
        ("rate_limit", {"limit": 2}),
        ("became_worse", {"metric": None}),
        ("harm", {"limit": 0.5}),
    ],
)
def test_the_schema_sees_what_it_can(kind: str, changes: dict[str, Any]) -> None:
    wrong = to_mapping(of(kind))
    for key, value in changes.items():
        wrong["guardrails"][0].pop(key)
        if value is not None:
            wrong["guardrails"][0][key] = value
    assert not VALIDATOR.is_valid(wrong)


def test_a_span_of_ratios_begins_above_zero() -> None:
    with pytest.raises(ValueError, match="begin above 0"):
        of("quantile_harm", between=[0, 5000])


def test_ratios_need_parts_that_count_from_zero() -> None:
    parts = [{**each, "range": [1.0, 2.0]} if each["name"] == "cost" else each for each in METRICS]
    found = check(guarded({"kind": "harm", "metric": "cost_per_call"}, metrics=parts))
    assert [loc for loc, _ in found] == [("guardrails", 0, "metric")]
    assert "whose part cost does not count from 0" in found[0][1]


def test_guardrails_that_differ_in_one_number_are_no_repeats() -> None:
    one = {"kind": "quantile_limit", "metric": "latency", "limit": 800, "quantile": 0.99}
    assert check(guarded(one, {**one, "quantile": 0.95})) == []
    assert "checks the same as g0" in check(guarded(one, one))[0][1]


def test_too_many_comparisons_are_refused() -> None:
    cohorts = {"attribute": "plan", "values": [f"p{index}" for index in range(50)]}
    arms = [{"name": "control", "control": True}, *({"name": f"a{index}"} for index in range(19))]
    each = [
        {"kind": "harm", "metric": "unsafe", "margin": 1 + index / 100, "cohorts": "each"}
        for index in range(40)
    ]
    assert (
        "40,800 comparisons"
        in check(guarded(*each, cohorts=cohorts, arms=arms, bounds={"floor": 0.01}))[0][1]
    )


def test_channels_are_what_guardrails_need() -> None:
    spec = of("quantile_limit")
    assert [each.threshold for each in spec.columns if each.kind is ChannelKind.ABOVE] == [800]
    upward = guarded({"kind": "quantile_limit", "metric": "gain", "limit": 0.0, "quantile": 0.05})
    (edge,) = [each.threshold for each in upward.columns if each.kind is ChannelKind.ABOVE]
    assert -1e-300 < edge < 0.0
    cubes = guarded({"kind": "harm", "metric": "cost", "method": "asymptotic"})
    assert [each.kind for each in cubes.columns].count(ChannelKind.CUBE) == 1
    own_cube = guarded({"kind": "harm", "metric": "unsafe", "method": "asymptotic"})
    assert ChannelKind.CUBE not in [each.kind for each in own_cube.columns]


@pytest.mark.parametrize("margin", [1.0, 1.05, 1.1, 1.5, 3.0])
def test_tau_and_margin_times_tau_are_both_edges(margin: float) -> None:
    edges, steps = of("quantile_harm", margin=margin, between=[400, 3000]).guardrails[0].edges()
    assert len(edges) <= MOST_EDGES
    assert edges[0] == 400
    assert edges[len(edges) - 1 - steps] >= 3000 * (1 - 1e-9)
    for low, high in zip(edges, edges[steps:], strict=False):
        assert high / low == pytest.approx(margin, rel=1e-9)


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        ("quantile_limit", "rolls an arm back when the 99 % quantile of its latency is above 800"),
        (
            "quantile_harm",
            "rolls an arm back when the 99 % quantile of its latency is above the control's by more than 10 %",
        ),
        ("event_rate", "rolls an arm back when it has more than 2.5 calls per decision"),
        ("became_worse", "rolls an arm back when its unsafe becomes worse than the control's"),
        ("sample_ratio", "flags an arm when its traffic does not follow its share"),
        ("silence", "holds an arm's share when its decisions have no unsafe after 15m any more"),
        (
            "response_rate",
            "flags an arm when unsafe comes for another part of its decisions than of the control's by more than 5 %",
        ),
        ("drift", "flags an arm when its cost moves"),
    ],
)
def test_each_kind_says_what_it_does(kind: str, words: str) -> None:
    spec = of(kind)
    guardrail = spec.guardrails[0]
    metric = next((each for each in spec.metrics if each.name == guardrail.metric), None)
    assert guardrail_effect(guardrail, metric) == words
    each = guardrail.model_copy(update={"cohorts": "each"})
    assert guardrail_effect(each, metric) == f"{words}, in any cohort"

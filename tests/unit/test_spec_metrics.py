"""Rules of metrics: each broken alone has one finding, with its place and its numbers."""

from __future__ import annotations

from typing import Any

import pytest

from bandit.errors import InvalidArgument
from bandit.spec.diff import diff, new_epoch
from bandit.spec.metric import Metric, MetricKind
from bandit.spec.model import Prior
from bandit.spec.parse import parse_mapping
from bandit.spec.render import render_yaml

KINDS: dict[str, dict[str, Any]] = {
    "bernoulli": {},
    "fraction": {},
    "gaussian": {"range": [-5, 10]},
    "poisson": {"range": [0, 40]},
    "exponential": {"range": [0, 60]},
    "lognormal": {"range": [0, 1000]},
    "revenue": {"range": [0, 500]},
    "rating": {"levels": [1, 2, 3, 4, 5]},
    "ratio": {"range": [0, 3], "numerator": "above", "denominator": "below"},
}


def mapping(kind: str, **changes: Any) -> dict[str, Any]:
    """A spec whose third metric ``m`` has this kind; a change to None takes a field away."""
    found = {"name": "m", "kind": kind, "direction": "maximize"} | KINDS.get(kind, {}) | changes
    return {
        "experiment": "kinds",
        "arms": [{"name": "a", "control": True}, {"name": "b"}],
        "metrics": [
            {"name": "above", "kind": "poisson", "direction": "maximize", "range": [0, 9]},
            {"name": "below", "kind": "poisson", "direction": "maximize", "range": [0, 9]},
            {key: value for key, value in found.items() if value is not None},
            {"name": "wide", "kind": "gaussian", "direction": "maximize", "range": [-5, 10]},
        ],
        "objective": [{"metric": "m"}],
    }


def broken(value: dict[str, Any]) -> list[str]:
    try:
        parse_mapping(value, "")
    except InvalidArgument as error:
        return str(error).splitlines()
    return []


def article(kind: str) -> str:
    return "an" if kind == "exponential" else "a"


OF_A_RATIO = "on a ratio, which has no rewards of its own; write it on its two metrics"
CASES: list[tuple[str, dict[str, Any], str]] = [
    ("rating", {"range": [1, 5]}, "range: [1, 5] on a rating, whose values are its levels; leave range out"),
    *(
        (
            kind,
            {"range": [1, 5]},
            f"range: [1, 5] on {article(kind)} {kind} metric, whose values begin at 0; write 0 as the first number",
        )
        for kind in ("poisson", "exponential", "revenue")
    ),
    (
        "lognormal",
        {"range": [-1, 5]},
        "range: [-1, 5] on a lognormal metric, whose values are above 0; write 0 or more first",
    ),
    (
        "poisson",
        {"range": [0, 0.5]},
        "range: [0, 0.5] holds no count but 0; write 1 or more as the second number",
    ),
    *(
        (
            kind,
            {"range": None},
            (
                f"range: missing; {article(kind)} {kind} metric such as m needs the lowest and highest legal value, "
                "outside of which a reward is rejected: add range: [low, high]"
            ),
        )
        for kind in ("gaussian", "poisson", "exponential", "lognormal", "revenue")
    ),
    (
        "ratio",
        {"range": None},
        (
            "range: missing; a ratio such as m needs the lowest and highest plausible ratio, which scale it: "
            "add range: [low, high]"
        ),
    ),
    (
        "bernoulli",
        {"winsorize": 1},
        "winsorize: 1 on a bernoulli metric, whose values are few; leave winsorize out",
    ),
    (
        "fraction",
        {"winsorize": 0.5},
        "winsorize: 0.5 on a fraction metric, whose range cuts already; leave winsorize out",
    ),
    (
        "ratio",
        {"winsorize": 2},
        "winsorize: 2 on a ratio, whose two metrics may be cut instead; leave winsorize out",
    ),
    *(
        (
            "revenue",
            {"winsorize": cap},
            f"winsorize: {cap} is not inside the metric's range [0, 500]; write a number above 0 and at most 500",
        )
        for cap in (0, 501)
    ),
    (
        "poisson",
        {"winsorize": 2.5},
        "winsorize: 2.5 on a poisson metric, whose values are counts; write a whole number",
    ),
    (
        "gaussian",
        {"levels": [1, 2]},
        "levels: levels on a gaussian metric; leave them out, or write kind: rating",
    ),
    (
        "rating",
        {"levels": None},
        "levels: missing; a rating such as m needs its legal values: add levels, for example [1, 2, 3, 4, 5]",
    ),
    ("rating", {"levels": [1]}, "levels: 1 level tells nothing apart; write at least 2"),
    (
        "rating",
        {"levels": [1, 3, 2]},
        "levels: [1, 3, 2] does not rise; write each level once, the lowest first",
    ),
    ("rating", {"levels": [1, 1]}, "levels: [1, 1] does not rise; write each level once, the lowest first"),
    (
        "rating",
        {"levels": [0, 1e-7, 1]},
        "levels: [0, 1e-07, 1] has two levels closer than a millionth of their span; move them apart",
    ),
    (
        "poisson",
        {"scores": [1, 2]},
        "scores: scores on a poisson metric; leave them out, or write kind: rating",
    ),
    ("rating", {"scores": [1, 2, 3]}, "scores: 3 scores for 5 levels; write one for each, in their order"),
    (
        "rating",
        {"scores": [1, 2, 3, 4, 10]},
        "scores: [1, 2, 3, 4, 10] is not within the levels' span [1, 5]; bring the scores to that scale",
    ),
    (
        "rating",
        {"scores": [3] * 5},
        "scores: [3, 3, 3, 3, 3] makes all levels worth the same; write at least two scores",
    ),
    (
        "gaussian",
        {"numerator": "above"},
        "numerator: numerator on a gaussian metric; leave numerator out, or write kind: ratio",
    ),
    (
        "ratio",
        {"numerator": None},
        "numerator: missing; m is a ratio of two metrics of the same decisions: add the name of the first",
    ),
    (
        "ratio",
        {"denominator": None},
        "denominator: missing; m is a ratio of two metrics of the same decisions: add the name of the second",
    ),
    (
        "ratio",
        {"denominator": "belo"},
        (
            "denominator: 'belo' is not a metric of this experiment; did you mean below? "
            "declared: above, below, m, wide"
        ),
    ),
    ("ratio", {"numerator": "m"}, "numerator: m is a ratio too; name a metric that has rewards of its own"),
    (
        "ratio",
        {"denominator": "wide"},
        (
            "denominator: wide may be below 0, its range is [-5, 10], and a ratio to it means nothing; "
            "name a metric whose values are 0 or more"
        ),
    ),
    (
        "ratio",
        {"denominator": "above"},
        "denominator: above is the numerator too, so the ratio is always 1; name another metric",
    ),
    ("ratio", {"aggregate": "sum"}, f"aggregate: sum {OF_A_RATIO}"),
    (
        "bernoulli",
        {"aggregate": "sum"},
        "aggregate: sum on a bernoulli metric, whose values are 0 and 1; write max, or kind: poisson for a count",
    ),
    (
        "rating",
        {"aggregate": "sum"},
        "aggregate: sum on a rating, whose values are its levels; write first, last or max",
    ),
    ("ratio", {"attribution_window": "1h"}, f"attribution_window: 1h {OF_A_RATIO}"),
    ("ratio", {"default_when_silent": 0}, f"default_when_silent: 0 {OF_A_RATIO}"),
    (
        "lognormal",
        {"default_when_silent": 1},
        (
            "default_when_silent: 1 on a lognormal metric, where silence has no size; "
            "leave it out, or write kind: revenue"
        ),
    ),
    (
        "rating",
        {"default_when_silent": 2.5},
        "default_when_silent: 2.5 is not a level of the metric; write one of [1, 2, 3, 4, 5]",
    ),
    (
        "poisson",
        {"default_when_silent": 0.5},
        "default_when_silent: 0.5 on a poisson metric, whose values are counts; write a whole number",
    ),
    (
        "revenue",
        {"default_when_silent": 300, "winsorize": 200},
        "default_when_silent: 300 is above winsorize 200, as which it would count; write 200",
    ),
    (
        "revenue",
        {"pending": "weigh"},
        (
            "pending: weigh where a silent decision is missing, so that nothing is pending; "
            "leave pending out, or write default_when_silent"
        ),
    ),
    ("fraction", {"prior": {"mean": 1}}, "prior: mean 1 of a fraction metric is not between 0 and 1"),
    ("exponential", {"prior": {"mean": 0}}, "prior: mean 0 of an exponential metric is not above 0"),
    (
        "revenue",
        {"prior": {"mean": 300}, "winsorize": 200},
        "prior: mean 300 is outside the metric's range [0, 200]",
    ),
    ("rating", {"prior": {"mean": 0.5}}, "prior: mean 0.5 is outside the metric's range [1, 5]"),
    (
        "rating",
        {"prior": {"mean": 4.5}, "scores": [1, 1, 2, 3, 4]},
        "prior: mean 4.5 is outside the metric's range [1, 4]",
    ),
    (
        "revenue",
        {"plausible_lift": 600},
        "plausible_lift: 600 is more than the whole range of the metric, 500; write less",
    ),
    (
        "rating",
        {"plausible_lift": 5},
        "plausible_lift: 5 is more than the whole range of the metric, 4; write less",
    ),
]


@pytest.mark.parametrize(("kind", "changes", "line"), CASES, ids=[line[:50] for _, _, line in CASES])
def test_one_broken_rule_has_one_finding(kind: str, changes: dict[str, Any], line: str) -> None:
    assert broken(mapping(kind, **changes)) == [f"metrics.2.{line}"]


@pytest.mark.parametrize(
    ("kind", "changes"),
    [
        *((kind, {}) for kind in KINDS),
        ("fraction", {"range": [0, 100], "prior": {"mean": 50}}),
        ("gaussian", {"winsorize": 10, "aggregate": "sum", "prior": {"mean": 10}}),
        ("poisson", {"winsorize": 12, "default_when_silent": 0, "pending": "weigh"}),
        ("lognormal", {"range": [1, 10], "winsorize": 5, "aggregate": "last"}),
        ("rating", {"levels": [-1, 1], "scores": [1, -1], "default_when_silent": -1, "prior": {"mean": 0}}),
        ("rating", {"range": [0, 1], "levels": list(range(16))}),
        ("ratio", {"direction": "minimize", "prior": {"mean": 0}, "plausible_lift": 3}),
        ("bernoulli", {"aggregate": "max", "default_when_silent": 0, "pending": "wait"}),
    ],
)
def test_what_is_right_is_taken(kind: str, changes: dict[str, Any]) -> None:
    assert broken(mapping(kind, **changes)) == []


def test_a_wrong_kind_has_no_findings_that_only_follow() -> None:
    (line,) = broken(mapping("rate", levels=[1, 2], numerator="x", winsorize=-1, prior={"mean": 9}))
    assert line.startswith("metrics.2.kind: 'rate' is not allowed")


@pytest.mark.parametrize(
    ("prior", "line"),
    [
        ({"m": {"mean": 3}}, None),
        (
            {"n": {"mean": 3}},
            "arms.1.prior.n: 'n' is not a metric of this experiment; declared: above, below, m, wide",
        ),
        ({"m": {"mean": 501}}, "arms.1.prior.m.mean: mean 501 is outside the metric's range [0, 500]"),
        ({"m": {"mean": 0}}, "arms.1.prior.m.mean: mean 0 of a revenue metric is not above 0"),
        ({"m": {}}, "arms.1.prior.m.mean: missing; add mean (expected value, in the metric's unit)"),
    ],
)
def test_a_belief_about_one_arm_is_checked_as_that_of_all(prior: dict[str, Any], line: str | None) -> None:
    value = mapping("revenue")
    value["arms"][1]["prior"] = prior
    assert broken(value) == ([line] if line else [])


def test_an_arms_own_belief_comes_first() -> None:
    value = mapping("revenue", prior={"mean": 5})
    value["arms"][1]["prior"] = {"m": {"mean": 7, "strength": 3}}
    spec = parse_mapping(value)
    assert spec.priors(2) == (Prior(mean=5), Prior(mean=7, strength=3))
    assert spec.priors(0) == (None, None)
    assert parse_mapping(value).priors(2) == spec.priors(2)


def test_the_scale_is_what_the_ledger_counts() -> None:
    def scale(kind: str, **changes: Any) -> tuple[float, float]:
        return parse_mapping(mapping(kind, **changes)).metrics[2].scale

    assert scale("bernoulli") == (0, 1)
    assert scale("revenue") == (0, 500)
    assert scale("revenue", winsorize=99) == (0, 99)
    assert scale("rating", scores=[2, 2, 3, 4, 4]) == (1, 5)
    assert scale("ratio") == (0, 3)


@pytest.mark.parametrize(
    ("kind", "changes", "anew"),
    [
        ("revenue", {"winsorize": 100}, True),
        ("revenue", {"aggregate": "sum"}, True),
        ("rating", {"levels": [1, 2, 3]}, True),
        ("ratio", {"numerator": "below", "denominator": "above"}, True),
        ("rating", {"scores": [1, 1, 1, 1, 5]}, False),
        ("revenue", {"prior": {"mean": 4}}, False),
        ("revenue", {"plausible_lift": 4}, False),
    ],
)
def test_what_is_counted_otherwise_begins_an_epoch_and_another_reading_does_not(
    kind: str, changes: dict[str, Any], anew: bool
) -> None:
    old, new = parse_mapping(mapping(kind)), parse_mapping(mapping(kind, **changes))
    assert new_epoch(old, new) == anew
    found = diff(old, new)
    assert len(found) == len(changes)
    assert any("new epoch" in change.effect for change in found) == anew


def test_an_arms_belief_begins_no_epoch() -> None:
    value = mapping("revenue")
    old = parse_mapping(value)
    value["arms"][1]["prior"] = {"m": {"mean": 7}}
    new = parse_mapping(value)
    assert not new_epoch(old, new)
    (change,) = diff(old, new)
    assert (change.path, change.before) == ("arms.b.prior.m", None)
    assert change.effect == "another belief about it before any reward, weights may shift at once"


@pytest.mark.parametrize("kind", KINDS)
def test_a_range_that_is_needed_is_written_even_at_the_default(kind: str) -> None:
    """It is the default of the field, but a file without it would be refused."""
    changes = {"range": [0, 1]} if "range" in KINDS[kind] else {}
    spec = parse_mapping(mapping(kind, **changes))
    assert ("range: [0, 1]" in render_yaml(spec)) == bool(changes)


def test_every_kind_is_tried() -> None:
    assert list(KINDS) == [kind.value for kind in MetricKind]
    assert Metric.model_fields["kind"].annotation is MetricKind

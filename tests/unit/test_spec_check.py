"""Rules between fields: each broken alone has one finding, with its place and its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from copy import deepcopy
from typing import Any

import pytest

from bandit.errors import InvalidArgument
from bandit.spec.check import check
from bandit.spec.model import Arm, Direction, ExperimentSpec, Metric, MetricKind, Term
from bandit.spec.parse import parse_mapping

BASE: dict[str, Any] = {
    "experiment": "answers",
    "arms": [
        {"name": "large", "control": True, "digest": "sha256:1"},
        {"name": "small", "digest": "sha256:2"},
        {"name": "tuned", "digest": ""},
    ],
    "metrics": [
        {"name": "ok", "kind": "bernoulli", "direction": "maximize"},
        {"name": "ms", "kind": "gaussian", "direction": "minimize", "range": [0, 1000]},
    ],
    "objective": [{"metric": "ok"}],
    "guardrails": [
        {"name": "low-ok", "kind": "rate_limit", "metric": "ok", "limit": 0.2},
        {"name": "slow", "kind": "harm", "metric": "ms", "margin": 1.1},
        {"name": "burst", "kind": "breaker", "metric": "ok", "limit": 0.5, "tail": 1e-7},
    ],
}


def broken(changes: Mapping[tuple[str | int, ...], object]) -> list[str]:
    """The lines of the refusal of BASE with the values at some paths replaced (appended at the end of a list)."""
    mapping = deepcopy(BASE)
    for path, value in changes.items():
        holder: Any = mapping
        for key in path[:-1]:
            holder = holder.setdefault(key, {}) if isinstance(holder, dict) else holder[key]
        if isinstance(holder, list) and path[-1] == len(holder):
            holder.append(value)
        else:
            holder[path[-1]] = value
    try:
        parse_mapping(mapping, "")
    except InvalidArgument as error:
        return str(error).splitlines()
    return []


FIXED = {"kind": "fixed"}
THIRD = {"large": 1 / 3, "small": 1 / 3, "tuned": 1 / 3}
CASES: list[tuple[dict[tuple[str | int, ...], object], str]] = [
    (
        {("arms", 0, "control"): False},
        "arms: no arm is the control, to which everything falls back; add control: true to one of large, small, tuned",
    ),
    (
        {("arms", 2, "control"): True},
        (
            "arms.2.control: tuned is a second control, next to large; exactly one arm is the control: "
            "take control off one of them"
        ),
    ),
    (
        {("arms", 2, "name"): "small"},
        "arms.2.name: 'small' is a second arm of this name, the first is arms.1; give each its own",
    ),
    (
        {("metrics", 2): {"name": "ok", "kind": "bernoulli", "direction": "minimize"}},
        "metrics.2.name: 'ok' is a second metric of this name, the first is metrics.0; give each its own",
    ),
    (
        {("guardrails", 1, "name"): "low-ok"},
        "guardrails.1.name: 'low-ok' is a second guardrail of this name, the first is guardrails.0; give each its own",
    ),
    (
        {("arms", 2, "digest"): "sha256:1"},
        (
            "arms.2.digest: tuned has the same digest as large, so both serve one build; "
            "give each arm the digest of its own build, or leave it out"
        ),
    ),
    (
        {("metrics", 1): {"name": "ms", "kind": "gaussian", "direction": "minimize"}},
        (
            "metrics.1.range: missing; a gaussian metric such as ms needs the lowest and highest legal value, "
            "outside of which a reward is rejected: add range: [low, high]"
        ),
    ),
    (
        {("objective", 0, "metric"): "okay"},
        "objective.0.metric: 'okay' is not a metric of this experiment; did you mean ok? declared: ok, ms",
    ),
    (
        {("objective", 1): {"metric": "ok", "weight": 2}},
        "objective.1.metric: 'ok' is a second term of this metric, the first is objective.0; give each its own",
    ),
    (
        {("objective", 0): {"metric": "ok", "weight": 0}, ("objective", 1): {"metric": "ms", "weight": 0}},
        "objective.0.weight: 0, like that of every term, so nothing is maximised; write a weight above 0",
    ),
    (
        {("objective", 1): {"metric": "ms", "scale": [1000, 2000]}},
        (
            "objective.1.scale: [1000, 2000] does not overlap the range [0, 1000] of ms, so all rewards would count "
            "the same; write a scale inside the range"
        ),
    ),
    (
        {("allocator", "beta"): 0.7},
        (
            "allocator.beta: beta 0.7 with kind thompson, which does not use it; leave beta out, "
            "or write kind: top_two"
        ),
    ),
    (
        {("allocator",): {"kind": "top_two", "epsilon": 0.2}},
        (
            "allocator.epsilon: epsilon 0.2 with kind top_two, which does not use it; leave epsilon out, "
            "or write kind: epsilon_greedy"
        ),
    ),
    (
        {("constraints",): [{"metric": "ms"}]},
        (
            "constraints.0: neither limit nor within; a constraint has one of them: limit bounds the mean itself, "
            "within its distance from the best arm's"
        ),
    ),
    (
        {("constraints",): [{"metric": "ms", "limit": 500, "within": 5}]},
        (
            "constraints.0: both limit and within; a constraint has one of them: limit bounds the mean itself, "
            "within its distance from the best arm's"
        ),
    ),
    (
        {("constraints",): [{"metric": "msec", "limit": 500}]},
        "constraints.0.metric: 'msec' is not a metric of this experiment; did you mean ms? declared: ok, ms",
    ),
    (
        {("constraints",): [{"metric": "ms", "limit": 1500}]},
        (
            "constraints.0.limit: limit 1500 of ms, whose values are 0 to 1000: every arm keeps it; "
            "write one in between"
        ),
    ),
    (
        {("constraints",): [{"metric": "ok", "limit": 1.5}]},
        "constraints.0.limit: limit 1.5 of ok, whose values are 0 to 1: no arm keeps it; write one in between",
    ),
    (
        {("constraints",): [{"metric": "ok", "within": 1}]},
        (
            "constraints.0.within: within 1 of the best ok, whose values are 0 to 1: every arm keeps it; "
            "write less than 1"
        ),
    ),
    (
        {("constraints",): [{"metric": "ms", "limit": 500}, {"metric": "ms", "within": 5}]},
        (
            "constraints.1.metric: 'ms' has a second constraint, the first is constraints.0; "
            "keep the one that matters"
        ),
    ),
    (
        {("budget",): {"metric": "mss", "per_day": 5}},
        "budget.metric: 'mss' is not a metric of this experiment; did you mean ms? declared: ok, ms",
    ),
    (
        {("budget",): {"metric": "ok", "per_day": 5}},
        (
            "budget.metric: ok is maximised, so it is nothing that is spent; name a metric with "
            "direction: minimize"
        ),
    ),
    (
        {("budget",): {"metric": "ms", "per_day": 5}, ("metrics", 1, "range"): [-1, 1000]},
        (
            "budget.metric: ms may be as low as -1; what is spent is never below 0: give it a range from 0 on, "
            "or name another metric"
        ),
    ),
    (
        {
            ("budget",): {"metric": "ms", "per_day": 5},
            ("allocator",): {"kind": "fixed", "weights": THIRD},
            ("bounds",): {"floor": 0},
        },
        (
            "budget.metric: a budget with kind fixed, whose shares do not move; leave the budget out, "
            "or let another allocator learn"
        ),
    ),
    (
        {("guardrails", 0, "metric"): "unsafe"},
        "guardrails.0.metric: 'unsafe' is not a metric of this experiment; declared: ok, ms",
    ),
    (
        {("guardrails", 0, "limit"): None},
        "guardrails.0.limit: missing; rate_limit compares the share of bad outcomes with it: add one, for example 0.02",
    ),
    (
        {("guardrails", 1, "limit"): 0.1},
        (
            "guardrails.1.limit: limit 0.1 with kind harm, which compares with the control; leave limit out and write "
            "margin (1.1 tolerates 10 % more harm), or write kind: rate_limit"
        ),
    ),
    (
        {("guardrails", 2, "metric"): "ms"},
        (
            "guardrails.2.metric: breaker on ms, which is gaussian; it counts bad outcomes of a bernoulli metric: "
            "name one, or write kind: harm"
        ),
    ),
    (
        {("guardrails", 0, "margin"): 1.2},
        (
            "guardrails.0.margin: margin 1.2 with kind rate_limit, which does not use it; leave margin out, "
            "or write kind: harm"
        ),
    ),
    (
        {("guardrails", 1, "tail"): 1e-4},
        "guardrails.1.tail: tail 0.0001 with kind harm, which does not use it; leave tail out, or write kind: breaker",
    ),
    (
        {("guardrails", 3): {"name": "slow-too", "kind": "harm", "metric": "ms", "margin": 1.1}},
        "guardrails.3: slow-too checks the same as slow, which makes both slower; remove one",
    ),
    (
        {("bounds", "floor"): 0.5},
        (
            "bounds.floor: the floors of all arms add up to 1.05 (large 0.05, small 0.5, tuned 0.5); together they may "
            "have at most 1: lower them, an even share of 3 arms is 0.333333"
        ),
    ),
    (
        {("arms", 1, "bounds"): {"floor": 0.950001}, ("bounds", "floor"): 0},
        (
            "arms.1.bounds.floor: the floors of all arms add up to 1.000001 (large 0.05, small 0.950001, tuned 0); "
            "together they may have at most 1: lower them, an even share of 3 arms is 0.333333"
        ),
    ),
    (
        {("bounds", "floor"): 0.2, ("bounds", "cap"): 0.1},
        "bounds.floor: floor 0.2 is above cap 0.1; raise the cap or lower the floor",
    ),
    (
        {("bounds", "cap"): 0.01},
        "bounds.cap: floor 0.02 is above cap 0.01; raise the cap or lower the floor",
    ),
    (
        {("arms", 1, "bounds"): {"cap": 0.01}},
        (
            "arms.1.bounds.cap: floor 0.02 is above cap 0.01 of small (its floor is that of the experiment's bounds); "
            "raise the cap or lower the floor"
        ),
    ),
    (
        {("arms", 1, "bounds"): {"floor": 0.3, "cap": 0.2}},
        "arms.1.bounds.floor: floor 0.3 is above cap 0.2 of small; raise the cap or lower the floor",
    ),
    (
        {("arms", 0, "bounds"): {"cap": 0.9}},
        "arms.0.bounds.cap: cap 0.9 on the control, which must be able to take all traffic; leave cap out",
    ),
    (
        {("arms", 0, "bounds"): {"ramp_per_minute": 0.1}},
        "arms.0.bounds.ramp_per_minute: 0.1 on the control, which takes what challengers give up at once; leave it out",
    ),
    (
        {("bounds", "ramp_per_minute"): 0},
        (
            "bounds.ramp_per_minute: 0 lets a share never rise; write the most rise in one minute, or leave it out for "
            "no limit"
        ),
    ),
    (
        {("arms", 2, "bounds"): {"ramp_per_minute": 0}},
        (
            "arms.2.bounds.ramp_per_minute: 0 lets a share never rise; write the most rise in one minute, or leave it "
            "out for no limit"
        ),
    ),
    (
        {("allocator", "weights"): THIRD},
        "allocator.weights: weights with kind thompson, which finds its own; leave them out, or write kind: fixed",
    ),
    (
        {("allocator",): FIXED},
        "allocator: no weight for large, small, tuned; a fixed allocator has one for each arm: add them",
    ),
    (
        {("allocator",): FIXED | {"weights": {"large": 0.5, "small": 0.5}}},
        "allocator.weights: no weight for tuned; a fixed allocator has one for each arm: add them",
    ),
    (
        {("allocator",): FIXED | {"weights": THIRD | {"tunet": 0}}},
        (
            "allocator.weights.tunet: 'tunet' is not an arm of this experiment; did you mean tuned? "
            "declared: large, small, tuned"
        ),
    ),
    (
        {("allocator",): FIXED | {"weights": dict.fromkeys(THIRD, 0.3)}},
        "allocator.weights: the weights add up to 0.9; they must add up to 1: raise them by 0.1 together",
    ),
    (
        {("allocator",): FIXED | {"weights": {"large": 0.333, "small": 0.333, "tuned": 0.334002}}},
        "allocator.weights: the weights add up to 1.000002; they must add up to 1: lower them by 0.000002 together",
    ),
    (
        {("allocator",): FIXED | {"weights": {"large": 0.5, "small": 0.49, "tuned": 0.01}}},
        (
            "allocator.weights.tuned: weight 0.01 is below the floor 0.02 of tuned; raise the weight, or lower "
            "its floor in the bounds"
        ),
    ),
    (
        {
            ("allocator",): FIXED | {"weights": {"large": 0.2, "small": 0.4, "tuned": 0.4}},
            ("bounds", "cap"): 0.4,
        }
        | {("arms", 1, "bounds"): {"cap": 0.3}},
        (
            "allocator.weights.small: weight 0.4 is above the cap 0.3 of small; lower the weight, or raise its cap in "
            "the bounds"
        ),
    ),
    (
        {("cohorts",): {"attribute": "plan", "values": ["free", "other"]}},
        "cohorts.values.1: 'other' is the cohort of all values that are not listed; leave it out",
    ),
    (
        {("cohorts",): {"attribute": "plan", "values": ["free", "paid", "free"]}},
        "cohorts.values.2: 'free' is listed twice, first as cohorts.values.0; leave one out",
    ),
    (
        {("decay",): {"half_life": "500ms"}},
        "decay.half_life: 500ms is not within 1s to 10 years (3650d); write one that is",
    ),
    (
        {("decay",): {"half_life": "3651d"}},
        "decay.half_life: 3651d is not within 1s to 10 years (3650d); write one that is",
    ),
    (
        {("event_retention",): "30s"},
        "event_retention: 30s is not within 1m to 90d; write one that is, for example 1d, or leave it out",
    ),
    (
        {("event_retention",): "1d", ("partitions",): 2},
        (
            "event_retention: kept events with partitions: 2; they can be removed where one ledger counts them all, "
            "write partitions: 1, or leave event_retention out"
        ),
    ),
    (
        {("metrics", 0, "attribution_window"): "91d"},
        "metrics.0.attribution_window: 13w is not within 100ms to 90d; write one that is",
    ),
    (
        {("metrics", 1, "range"): [5, 1]},
        "metrics.1.range: [5, 1] is empty; the first number must be below the second",
    ),
    (
        {("metrics", 1, "range"): [0, 1, 2]},
        "metrics.1.range: a list of 3; write two numbers: [low, high]",
    ),
    (
        {("metrics", 1, "range"): [0, 1e13]},
        "metrics.1.range.1: 10000000000000.0 is not allowed; allowed: -1000000000000 to 1000000000000",
    ),
    (
        {("metrics", 0, "range"): [0, 2]},
        "metrics.0.range: [0, 2] on a bernoulli metric, whose values are 0 and 1; leave range out",
    ),
    (
        {("metrics", 0, "default_when_silent"): 0.5},
        "metrics.0.default_when_silent: 0.5 on a bernoulli metric, whose values are 0 and 1; write 0 or 1",
    ),
    (
        {("metrics", 1, "default_when_silent"): 1001},
        "metrics.1.default_when_silent: 1001 is outside the metric's range [0, 1000]",
    ),
    (
        {("metrics", 1, "prior"): {"mean": -1}},
        "metrics.1.prior: mean -1 is outside the metric's range [0, 1000]",
    ),
    (
        {("metrics", 0, "prior"): {"mean": 0}},
        "metrics.0.prior: mean 0 of a bernoulli metric is not between 0 and 1",
    ),
]


@pytest.mark.parametrize(("changes", "line"), CASES, ids=[line.partition(";")[0][:60] for _, line in CASES])
def test_one_broken_rule_has_one_finding(changes: dict[tuple[str | int, ...], object], line: str) -> None:
    assert broken(changes) == [line]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {("allocator",): FIXED | {"weights": THIRD}},
        {("allocator",): FIXED | {"weights": dict.fromkeys(THIRD, 0.333333)}},
        {("allocator",): FIXED | {"weights": {"large": 0.05, "small": 0.93, "tuned": 0.02}}},
        {("allocator",): FIXED | {"weights": {"large": 1, "small": 0, "tuned": 0}}, ("bounds", "floor"): 0},
        {("arms", 1, "digest"): ""},
        {("arms", 0, "bounds"): {"floor": 0.5, "cap": 1}},
        {("arms", 1, "bounds"): {"floor": 0, "cap": 0}},
        {("bounds",): {"floor": 1 / 3, "control_floor": 1 / 3}},
        {("metrics", 0, "default_when_silent"): 1},
        {("decay",): {"half_life": "3650d"}},
        {("event_retention",): "90d"},
        {("cohorts",): {"attribute": "plan", "values": ["free", "Other"]}},
        {("guardrails", 3): {"name": "ok-harm", "kind": "harm", "metric": "ok"}},
        {("metrics", 0, "range"): [0, 1]},
    ],
)
def test_what_is_right_is_taken(changes: dict[tuple[str | int, ...], object]) -> None:
    assert broken(changes) == []


def test_per_cent_weights_are_told_as_shares() -> None:
    weights = {"large": 33.3, "small": 33.3, "tuned": 33.4}
    lines = broken({("allocator",): FIXED | {"weights": weights}})
    assert [line.rpartition("; ")[2] for line in lines] == [
        "for 33.3 % write 0.333",
        "for 33.3 % write 0.333",
        "for 33.4 % write 0.334",
    ]


def test_all_broken_rules_are_reported_together() -> None:
    changes = {
        path: value
        for changes, _ in (CASES[5], CASES[7], CASES[11], CASES[26], CASES[35])
        for path, value in changes.items()
    }
    assert len(broken(changes)) == 5


def test_check_judges_a_spec_that_was_not_parsed() -> None:
    spec = ExperimentSpec(
        experiment="direct",
        arms=(Arm(name="a"), Arm(name="b")),
        metrics=(Metric(name="ok", kind=MetricKind.BERNOULLI, direction=Direction.MAXIMIZE),),
        objective=(Term(metric="ok"),),
    )
    ((loc, sentence),) = check(spec)
    assert loc == ("arms",)
    assert sentence.startswith("no arm is the control")


def test_many_arms_are_listed_in_short() -> None:
    arms = [{"name": f"a{index}", "control": index == 0} for index in range(64)]
    (line,) = broken({("arms",): arms})
    assert "add up to 1.31 (a0 0.05, a1 0.02, " in line
    assert "a7 0.02 and 56 more)" in line
    assert broken({("arms",): arms, ("bounds", "floor"): 0.015}) == []

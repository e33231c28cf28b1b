"""Declared delays in a spec: what is refused, what a change does, and that each arm's own comes first."""

from __future__ import annotations

from typing import Any

import pytest

from bandit.client.convert import spec_from_proto, spec_to_proto
from bandit.errors import InvalidArgument
from bandit.spec.diff import diff, new_epoch, restarts_guardrails
from bandit.spec.model import Delay, ExperimentSpec
from bandit.spec.parse import parse_mapping, parse_yaml
from bandit.spec.render import render_yaml

SOLD: dict[str, Any] = {
    "name": "sold",
    "kind": "bernoulli",
    "direction": "maximize",
    "attribution_window": "1d",
    "default_when_silent": 0,
}
SPENT = {**SOLD, "name": "spent", "kind": "gaussian", "range": [0, 9]}
RATIO = {
    "name": "per",
    "kind": "ratio",
    "direction": "maximize",
    "range": [0, 9],
    "numerator": "spent",
    "denominator": "sold",
}
SAID = {"median": "2h", "p90": "20h"}
BEYOND = "is not before the end of the attribution window"
LESS = "and later rewards do not count; write less, or widen the window"
WEIGHED = "pending decisions are weighed by half of the rewards within"
UNTIL = "until data tell it better; weights may shift at once"


def mapping(delay: Any = None, of_arm: Any = None, **changes: Any) -> dict[str, Any]:
    """Three metrics; ``delay`` of the first, ``of_arm`` of the second arm."""
    sold = SOLD | changes | ({} if delay is None else {"delay": delay})
    return {
        "experiment": "late",
        "arms": [{"name": "old", "control": True}, {"name": "new"} | ({"delay": of_arm} if of_arm else {})],
        "metrics": [sold, SPENT, RATIO],
        "objective": [{"metric": "sold"}],
    }


def broken(value: dict[str, Any]) -> list[str]:
    try:
        parse_mapping(value, "")
    except InvalidArgument as error:
        return str(error).splitlines()
    return []


def of(**values: Any) -> ExperimentSpec:
    return parse_mapping(mapping(**values))


@pytest.mark.parametrize(
    ("values", "line"),
    [
        ({"delay": SAID}, None),
        ({"delay": {"median": "30m"}}, None),
        ({"delay": SAID, "pending": "wait"}, None),
        ({"delay": SAID, "default_when_silent": None}, None),
        (
            {"delay": {"median": "0s"}},
            "metrics.0.delay.median: 0ms is no delay; write 1ms or more, or leave the delay out",
        ),
        (
            {"delay": {"median": "2h", "p90": "2h"}},
            "metrics.0.delay.p90: 2h is not after the median, 2h; write a longer one",
        ),
        (
            {"delay": {"median": "2h", "p90": "24h"}},
            f"metrics.0.delay: p90 1d {BEYOND}, 1d, {LESS}",
        ),
        (
            {"delay": SAID, "attribution_window": "1h"},
            f"metrics.0.delay: p90 20h {BEYOND}, 1h, {LESS}",
        ),
        (
            {"delay": {"median": 3}},
            "metrics.0.delay.median: 3 is not a duration; write a number and ms, s, m, h, d or w, for example 30m",
        ),
        (
            {"delay": {"median": "2h", "strength": 0}},
            "metrics.0.delay.strength: 0.0 is not allowed; allowed: above 0 and at most 1000000",
        ),
        ({"of_arm": {"sold": SAID, "spent": {"median": "5m"}}}, None),
        (
            {"of_arm": {"bought": SAID}},
            "arms.1.delay.bought: 'bought' is not a metric of this experiment; declared: sold, spent, per",
        ),
        (
            {"of_arm": {"per": SAID}},
            "arms.1.delay.per: per is a ratio, which has no rewards of its own; write the delays of its two metrics",
        ),
        (
            {"of_arm": {"sold": {"median": "1d"}}},
            f"arms.1.delay.sold.median: 1d {BEYOND}, 1d, {LESS}",
        ),
    ],
)
def test_what_no_reward_can_do_is_refused(values: dict[str, Any], line: str | None) -> None:
    assert broken(mapping(**values)) == ([line] if line else [])


def test_a_ratio_has_none() -> None:
    value = mapping()
    value["metrics"][2] = RATIO | {"delay": SAID}
    assert broken(value) == [
        "metrics.2.delay: a delay on a ratio, which has no rewards of its own; write it on its two metrics"
    ]


def test_an_arms_own_delay_comes_first() -> None:
    spec = of(delay=SAID, of_arm={"sold": {"median": "1h", "strength": 9}})
    assert spec.delays(0) == (Delay(median="2h", p90="20h"), Delay(median="1h", strength=9))
    assert spec.delays(1) == (None, None)


def test_file_and_wire_keep_it() -> None:
    spec = of(delay=SAID, of_arm={"sold": {"median": "1h", "strength": 9}, "spent": {"median": "90s"}})
    assert "    delay:\n      median: 2h\n      p90: 20h\n" in render_yaml(spec)
    assert parse_yaml(render_yaml(spec)) == spec
    assert spec_from_proto(spec_to_proto(spec)) == spec


@pytest.mark.parametrize(
    ("before", "after", "path", "effect"),
    [
        (
            {},
            {"delay": SAID},
            "metrics.sold.delay",
            f"{WEIGHED} 2h and nine tenths within 20h, {UNTIL}",
        ),
        (
            {"delay": SAID},
            {"delay": {"median": "3h", "p90": "20h"}},
            "metrics.sold.delay.median",
            f"{WEIGHED} 3h and nine tenths within 20h, {UNTIL}",
        ),
        (
            {"delay": SAID},
            {},
            "metrics.sold.delay",
            "how late rewards come is learned from them alone, weights may shift at once",
        ),
        (
            {"pending": "wait"},
            {"pending": "wait", "delay": SAID},
            "metrics.sold.delay",
            "is rehearsed; nothing else changes, no decision of the metric is weighed by its age",
        ),
        (
            {"delay": SAID},
            {"delay": SAID, "of_arm": {"sold": {"median": "1h"}}},
            "arms.new.delay.sold",
            f"{WEIGHED} 1h, {UNTIL}",
        ),
        (
            {"delay": SAID, "of_arm": {"sold": {"median": "1h"}}},
            {"delay": SAID},
            "arms.new.delay.sold",
            f"{WEIGHED} 2h and nine tenths within 20h, {UNTIL}",
        ),
    ],
)
def test_a_change_is_another_reading_of_the_same_sums(
    before: dict[str, Any], after: dict[str, Any], path: str, effect: str
) -> None:
    old, new = of(**before), of(**after)
    (change,) = diff(old, new)
    assert (change.path, change.effect) == (path, effect)
    assert not new_epoch(old, new)
    assert not restarts_guardrails(old, new)

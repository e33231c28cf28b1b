"""What a change is, what it does, and what it ends."""

from __future__ import annotations

from pathlib import Path

import pytest

from bandit.spec.diff import Change, diff, new_epoch, restarts_guardrails
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_yaml

GOOD = (Path(__file__).resolve().parents[1] / "fixtures" / "specs" / "support-answers.yaml").read_text()
EPOCH = "; starts a new epoch, statistics begin anew"
RESTART = "; guardrails begin their evidence anew"


def changed(old: str, new: str) -> ExperimentSpec:
    assert old in GOOD
    return parse_yaml(GOOD.replace(old, new, 1))


CASES: list[tuple[str, str, tuple[str, object, object, str]]] = [
    ("cap: 0.3", "cap: 0.5", ("arms.small-tuned.bounds.cap", 0.3, 0.5, "its share stays at 50 % or below")),
    (
        "cap: 0.3",
        "cap: 0.8",
        ("arms.small-tuned.bounds.cap", 0.3, 0.8, "its share stays at 80 % or below"),
    ),
    (
        "    bounds:\n      cap: 0.3\n",
        "",
        ("arms.small-tuned.bounds.cap", 0.3, None, "its share stays at 80 % or below"),
    ),
    (
        "cap: 0.3",
        "cap: 0.3\n      floor: 0.02",
        (
            "arms.small-tuned.bounds.floor",
            None,
            0.02,
            "nothing changes now, its share stays at 2 % or above already",
        ),
    ),
    (
        "sha256:51aa03be99c8",
        "sha256:0",
        (
            "arms.small-retrieval.digest",
            "sha256:51aa03be99c8",
            "sha256:0",
            f"another build, so another arm{EPOCH}",
        ),
    ),
    (
        'prompt: "15"',
        'prompt: "16"',
        ("arms.small-retrieval.metadata.prompt", "15", "16", "callers are told so, shares do not change"),
    ),
    (
        "attribution_window: 24h",
        "attribution_window: 2h",
        (
            "metrics.satisfied.attribution_window",
            "1d",
            "2h",
            f"a reward counts up to 2h after its decision{EPOCH}",
        ),
    ),
    (
        "default_when_silent: 0",
        "default_when_silent: 1",
        ("metrics.satisfied.default_when_silent", 0, 1, f"a decision without a reward counts as 1{EPOCH}"),
    ),
    (
        "    default_when_silent: 0\n",
        "",
        (
            "metrics.satisfied.default_when_silent",
            0,
            None,
            f"a decision without a reward counts as missing{EPOCH}",
        ),
    ),
    (
        "strength: 10",
        "strength: 20",
        (
            "metrics.satisfied.prior.strength",
            10,
            20,
            "another belief before any reward, weights may shift at once",
        ),
    ),
    (
        "range: [0, 0.5]",
        "range: [0, 1]",
        ("metrics.cost_usd.range", [0, 0.5], [0, 1], f"other rewards are legal{EPOCH}"),
    ),
    (
        "weight: 0.6",
        "weight: 1.2",
        (
            "objective.satisfied.weight",
            0.6,
            1.2,
            "75 % of what is maximised; weights may shift at once, statistics are kept",
        ),
    ),
    (
        "kind: thompson",
        "kind: kl_ucb",
        ("allocator.kind", "thompson", "kl_ucb", "shares follow rewards by kl_ucb"),
    ),
    (
        "floor: 0.02",
        "floor: 0.03",
        (
            "bounds.floor",
            0.02,
            0.03,
            "the share of each of small-retrieval, small-tuned stays at 3 % or above",
        ),
    ),
    (
        "control_floor: 0.1",
        "control_floor: 0.2",
        ("bounds.control_floor", 0.1, 0.2, "the share of large stays at 20 % or above"),
    ),
    (
        "ramp_per_minute: 0.05",
        "ramp_per_minute: 1",
        (
            "bounds.ramp_per_minute",
            0.05,
            1,
            "the share of each of small-retrieval, small-tuned may rise at any speed",
        ),
    ),
    (
        "mode: sticky",
        "mode: epoch",
        ("unit.mode", "sticky", "epoch", f"units are drawn anew in each epoch{EPOCH}"),
    ),
    ("alpha: 0.05", "alpha: 0.1", ("alpha", 0.05, 0.1, f"10 % chance of any false rollback{RESTART}")),
    (
        "limit: 0.01",
        "limit: 0.02",
        (
            "guardrails.unsafe-answers.limit",
            0.01,
            0.02,
            f"rolls an arm back when more than 2 % of its decisions have unsafe = 1{RESTART}",
        ),
    ),
    (
        "action: hold",
        "action: rollback",
        (
            "guardrails.slower-answers.action",
            "hold",
            "rollback",
            f"rolls an arm back when its latency_ms is worse than the control's by more than 10 %{RESTART}",
        ),
    ),
    (
        "alpha: 0.05",
        "constraints: [{metric: latency_ms, limit: 900, probability: 0.9}]",
        (
            "constraints.latency_ms",
            None,
            {"metric": "latency_ms", "limit": 900, "probability": 0.9},
            (
                "an arm is preferred as far as its mean latency_ms is at most 900, left out when that has less than "
                "10 % chance; weights may shift at once"
            ),
        ),
    ),
    (
        "alpha: 0.05",
        "constraints: [{metric: satisfied, within: 0.02}]",
        (
            "constraints.satisfied",
            None,
            {"metric": "satisfied", "within": 0.02},
            (
                "an arm is preferred as far as its mean satisfied is within 0.02 of the best, left out when that has "
                "less than 5 % chance; weights may shift at once"
            ),
        ),
    ),
    (
        "alpha: 0.05",
        "budget: {metric: cost_usd, per_day: 50}",
        (
            "budget",
            None,
            {"metric": "cost_usd", "per_day": 50},
            "dear arms give way so that a day costs at most 50 cost_usd",
        ),
    ),
    (
        "alpha: 0.05",
        "decay: {half_life: 7d}",
        ("decay", None, {"half_life": "1w"}, "what was learnt weighs half after 1w"),
    ),
    (
        "alpha: 0.05",
        "cohorts: {attribute: plan, values: [free]}",
        (
            "cohorts",
            None,
            {"attribute": "plan", "values": ["free"], "apart": None},
            f"other segments of units{EPOCH}",
        ),
    ),
    (
        "alpha: 0.05",
        "rewards_without_token: true",
        ("rewards_without_token", False, True, "rewards without a decision token are taken"),
    ),
    (
        "alpha: 0.05",
        "event_retention: 36h",
        (
            "event_retention",
            "0s",
            "36h",
            "counted events are kept for 36h, from now on those of a source can be removed",
        ),
    ),
]


@pytest.mark.parametrize(("old", "new", "expected"), CASES, ids=[case[2][0] for case in CASES])
def test_one_edit_is_one_change(old: str, new: str, expected: tuple[str, object, object, str]) -> None:
    before, after = parse_yaml(GOOD), changed(old, new)
    assert diff(before, after) == (Change(*expected),)
    assert new_epoch(before, after) == expected[3].endswith(EPOCH)
    assert restarts_guardrails(before, after) == expected[3].endswith(RESTART)


def test_when_cohorts_part_can_change_within_an_epoch() -> None:
    cohorts = "cohorts: {attribute: plan, values: [free, team, pro]%s}"
    never, often, seldom = (
        changed("alpha: 0.05", cohorts % each)
        for each in ("", ", apart: {}", ", apart: {probability: 0.99, min_decisions: 5000}")
    )
    (begun,) = diff(never, often)
    assert begun.path == "cohorts.apart"
    assert begun.effect == (
        "a cohort has shares of its own once an arm's effect has another sign in it with 90 % chance, after 1,000 "
        "decisions"
    )
    assert [each.path for each in diff(often, seldom)] == [
        "cohorts.apart.probability",
        "cohorts.apart.min_decisions",
    ]
    assert diff(seldom, never)[0].effect == "all cohorts have the same shares"
    assert not new_epoch(never, often)
    assert not new_epoch(often, seldom)
    assert not restarts_guardrails(never, seldom)


def test_what_is_written_out_at_its_default_is_no_change() -> None:
    assert diff(parse_yaml(GOOD), changed("attribution_window: 24h", "attribution_window: 1440m")) == ()
    assert diff(parse_yaml(GOOD), changed("alpha: 0.05\n", "")) == ()


def test_arms_are_matched_by_name() -> None:
    tuned = GOOD[GOOD.index("  - name: small-tuned") : GOOD.index("metrics:")]
    shorter = parse_yaml(GOOD.replace(tuned, ""))
    (change,) = diff(parse_yaml(GOOD), shorter)
    assert (change.path, change.after) == ("arms.small-tuned", None)
    assert change.effect == f"its traffic goes to the other arms{EPOCH}"
    (change,) = diff(shorter, parse_yaml(GOOD))
    assert (change.path, change.before) == ("arms.small-tuned", None)
    assert change.after == {
        "name": "small-tuned",
        "digest": "sha256:c0ffee2b7d1e",
        "metadata": {"model": "support-llm-8b-tuned", "prompt": "14"},
        "bounds": {"cap": 0.3},
    }
    assert change.effect == f"a challenger; takes 2 % to 30 % of the traffic{EPOCH}"

    swapped = parse_yaml(
        GOOD.replace(tuned, "").replace("  - name: small-retrieval", tuned + "  - name: small-retrieval")
    )
    (change,) = diff(parse_yaml(GOOD), swapped)
    assert change == Change(
        "arms",
        ["large", "small-retrieval", "small-tuned"],
        ["large", "small-tuned", "small-retrieval"],
        f"the arms have other positions{EPOCH}",
    )
    assert new_epoch(parse_yaml(GOOD), swapped)


def test_another_control_is_two_changes_and_a_new_epoch() -> None:
    moved = parse_yaml(
        GOOD.replace("    control: true\n", "").replace(
            "  - name: small-retrieval", "  - name: small-retrieval\n    control: true"
        )
    )
    changes = diff(parse_yaml(GOOD), moved)
    assert [(change.path, change.after) for change in changes] == [
        ("arms.large.control", False),
        ("arms.small-retrieval.control", True),
    ]
    assert new_epoch(parse_yaml(GOOD), moved)
    assert not restarts_guardrails(parse_yaml(GOOD), moved)


def test_a_guardrail_that_goes() -> None:
    last = GOOD[GOOD.index("  - name: unsafe-burst") :]
    after = parse_yaml(GOOD.replace(last, ""))
    (change,) = diff(parse_yaml(GOOD), after)
    assert (change.path, change.after, change.effect) == (
        "guardrails.unsafe-burst",
        None,
        f"unsafe-burst is no longer checked{RESTART}",
    )
    assert restarts_guardrails(parse_yaml(GOOD), after)
    assert not new_epoch(parse_yaml(GOOD), after)


def test_bad_outcomes_of_a_metric_that_is_maximised_are_zeros() -> None:
    spec = parse_yaml(GOOD.replace("metric: unsafe\n    limit: 0.01", "metric: satisfied\n    limit: 0.5"))
    effects = {change.path: change.effect for change in diff(None, spec)}
    assert effects["guardrails.unsafe-answers"] == (
        "rolls an arm back when more than 50 % of its decisions have satisfied = 0"
    )
    assert effects["guardrails.unsafe-burst"] == (
        "rolls an arm back on a burst of unsafe = 1 that 5 % cannot explain"
    )


def test_a_new_experiment_is_told_whole() -> None:
    changes = diff(None, parse_yaml(GOOD))
    assert changes[0] == Change("experiment", None, "support-answers", "a new experiment")
    assert {change.path for change in changes} == {
        "experiment",
        "hypothesis",
        *(f"arms.{name}" for name in ("large", "small-retrieval", "small-tuned")),
        *(f"metrics.{name}" for name in ("satisfied", "cost_usd", "unsafe", "latency_ms")),
        *(f"objective.{name}" for name in ("satisfied", "cost_usd")),
        *(f"bounds.{name}" for name in ("cap", "ramp_per_minute", "control_floor")),
        *(f"guardrails.{name}" for name in ("unsafe-answers", "slower-answers", "unsafe-burst")),
    }
    assert all(change.before is None for change in changes)
    assert not any("anew" in change.effect for change in changes)


def test_where_events_are_kept_another_window_begins_a_new_epoch() -> None:
    """They are judged anew when those of a source are removed, and must then be as late as they were."""
    kept = GOOD.replace("alpha: 0.05", "event_retention: 1d")
    longer = kept.replace("attribution_window: 10m", "attribution_window: 11m", 1)
    before, after = parse_yaml(kept), parse_yaml(longer)
    assert new_epoch(before, after)
    assert [change.effect.endswith(EPOCH) for change in diff(before, after)] == [True]
    assert not new_epoch(parse_yaml(GOOD), parse_yaml(longer.replace("event_retention: 1d", "alpha: 0.05")))

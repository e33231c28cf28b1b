"""Edits of a running experiment: what each ends, and that none gives back alpha that was spent (peeking operators)."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from bandit.counting import layout_of
from bandit.errors import NotAllowed
from bandit.guardrails.base import Folded, Outcome
from bandit.guardrails.levels import thresholds
from bandit.ledger import Period, split_table, table
from bandit.look import look
from bandit.rollout.epochs import MOST_PAST_EPOCHS, PAST_EPOCHS
from bandit.rollout.state import Allocation, Experiment
from bandit.rollout.transitions import (
    Transition,
    clear_rollback,
    reallocate,
    roll_back,
    update,
)
from bandit.spec.check import check
from bandit.spec.model import ExperimentSpec
from tests.builders import NOW, created, running, spec
from tests.guardrail_periods import period

ARMS: list[dict[str, Any]] = [
    {"name": "control", "control": True, "digest": "sha256:0"},
    {"name": "small", "digest": "sha256:1"},
    {"name": "large", "digest": "sha256:2"},
]
METRICS: list[dict[str, Any]] = [
    {"name": "liked", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1h"},
    {
        "name": "latency",
        "kind": "gaussian",
        "direction": "minimize",
        "range": [0.0, 1000.0],
        "attribution_window": "1h",
    },
    {
        "name": "stars",
        "kind": "rating",
        "direction": "maximize",
        "levels": [1, 2, 3],
        "attribution_window": "1h",
    },
    {"name": "wrong", "kind": "bernoulli", "direction": "minimize", "attribution_window": "1h"},
]
GUARDRAILS: list[dict[str, Any]] = [
    {"name": "worse", "kind": "harm", "metric": "wrong", "margin": 1.1},
    {"name": "slow", "kind": "quantile_limit", "metric": "latency", "limit": 800, "quantile": 0.99},
]
BASE: dict[str, Any] = {
    "arms": ARMS,
    "metrics": METRICS,
    "objective": [{"metric": "liked", "weight": 0.6}, {"metric": "stars", "weight": 0.4}],
    "guardrails": GUARDRAILS,
    "alpha": 0.05,
}


def with_metric(name: str, **changes: Any) -> dict[str, Any]:
    return {"metrics": [each | changes if each["name"] == name else each for each in METRICS]}


def with_guardrail(place: int, **changes: Any) -> dict[str, Any]:
    return {"guardrails": [each | changes if at == place else each for at, each in enumerate(GUARDRAILS)]}


READ_ANEW = {
    "weights of terms": {
        "objective": [{"metric": "liked", "weight": 0.1}, {"metric": "stars", "weight": 0.9}]
    },
    "no weight for now": {
        "objective": [{"metric": "liked", "weight": 0.6}, {"metric": "stars", "weight": 0}]
    },
    "scale of a term": {
        "objective": [{"metric": "liked", "weight": 0.6}, {"metric": "stars", "weight": 0.4, "scale": [0, 9]}]
    },
    "prior": with_metric("liked", prior={"mean": 0.3, "strength": 50}),
    "delay": with_metric("liked", delay={"median": "5m", "p90": "30m"}),
    "delay of an arm": {"arms": [*ARMS[:2], ARMS[2] | {"delay": {"latency": {"median": "1s"}}}]},
    "plausible lift": with_metric("latency", plausible_lift=30.0),
    "worth of levels": with_metric("stars", scores=[1, 1, 3]),
    "allocator": {"allocator": {"kind": "top_two"}},
    "baseline": {"baseline": "stratified"},
    "decay": {"decay": {"half_life": "2h"}},
    "bounds": {"bounds": {"floor": 0.1, "cap": 0.5, "ramp_per_minute": 0.2}},
    "constraint": {"constraints": [{"metric": "latency", "limit": 500.0}]},
    "budget": {"budget": {"metric": "latency", "per_day": 1e6}},
    "hypothesis": {"hypothesis": "more are liked"},
}
JUDGED_ANEW = {
    "alpha": {"alpha": 0.1},
    "margin": with_guardrail(0, margin=1.2),
    "quantile": with_guardrail(1, quantile=0.95),
    "action": with_guardrail(0, action="hold"),
    "priority": with_guardrail(0, priority=3.0),
    "one more guardrail": {
        "guardrails": [*GUARDRAILS, {"name": "limit", "kind": "rate_limit", "metric": "wrong", "limit": 0.02}]
    },
}
COUNTED_ANEW = {
    "limit of a quantile": with_guardrail(1, limit=900),
    "no quantile any more": {"guardrails": GUARDRAILS[:1]},
    "one more arm": {"arms": [*ARMS, {"name": "huge", "digest": "sha256:3"}]},
    "one arm less": {"arms": ARMS[:2]},
    "another build": {"arms": [*ARMS[:2], ARMS[2] | {"digest": "sha256:9"}]},
    "one more metric": {
        "metrics": [
            *METRICS,
            {"name": "cost", "kind": "exponential", "direction": "minimize", "range": [0, 9]},
        ]
    },
    "other range": with_metric("latency", range=[0.0, 2000.0]),
    "another direction": with_metric("wrong", direction="maximize"),
    "what silence means": with_metric("latency", default_when_silent=900),
    "corrections": with_metric("wrong", corrections=True),
    "cohorts": {"cohorts": {"attribute": "plan", "values": ["free"]}},
    "units": {"unit": {"mode": "epoch"}},
}


def of(changes: dict[str, Any]) -> ExperimentSpec:
    made = spec(**BASE | changes)
    assert check(made) == []
    return made


def edited(changes: dict[str, Any]) -> tuple[Experiment, Experiment, Allocation]:
    """A running experiment, what it becomes, and the allocation with it."""
    before, allocation = running((400_000, 350_000, 250_000), **BASE)
    moved = update(before, allocation, of(changes), NOW + 5000)
    assert moved is not None
    return before, moved.experiment, moved.allocation


def outcomes(experiment: Experiment, allocation: Allocation, only: Period) -> set[Outcome]:
    """Of all verdicts on one closed period."""
    layout = layout_of(experiment.spec)
    whole, apart = table([only], layout), split_table([only], layout)
    seen = look(experiment, allocation, whole, apart, Folded.empty_of(experiment.spec), NOW + 10**9)
    return {verdict.outcome for verdict in seen.verdicts}


def level(experiment: Experiment, arm: int) -> float:
    """ln E at which the first guardrail fails an arm."""
    return thresholds(experiment.spec, experiment.spec.guardrails[0], experiment.arms[arm].attempt).fail


@pytest.mark.parametrize("name", READ_ANEW)
def test_what_is_only_read_otherwise_keeps_statistics_and_evidence(name: str) -> None:
    before, after, allocation = edited(READ_ANEW[name])
    assert after.epoch == before.epoch
    assert after.arms == before.arms
    assert allocation.shares_ppm == (400_000, 350_000, 250_000)


@pytest.mark.parametrize("name", JUDGED_ANEW)
def test_what_is_judged_otherwise_is_judged_by_new_evidence_with_less_alpha(name: str) -> None:
    before, after, allocation = edited(JUDGED_ANEW[name])
    assert after.epoch == before.epoch
    assert [arm.attempt for arm in after.arms] == [2, 2, 2]
    assert [arm.since for arm in after.arms] == [allocation.number] * 3
    fresh = thresholds(after.spec, after.spec.guardrails[0], 1).fail
    assert level(after, 1) == pytest.approx(fresh + math.log(4.0))
    # Outcomes of periods before the edit are no evidence any more.
    counts: dict[str, Any] = {"wrong": [(500, 10), (500, 200), (500, 10)]}
    old = period(after.spec, allocation.number - 1, counts)
    assert outcomes(after, allocation, old) == {Outcome.NO_DATA}
    assert Outcome.FAIL in outcomes(before, running((400_000, 350_000, 250_000), **BASE)[1], old)


@pytest.mark.parametrize("name", COUNTED_ANEW)
def test_what_is_counted_otherwise_begins_an_epoch_and_keeps_the_alpha_that_was_spent(name: str) -> None:
    before, after, allocation = edited(COUNTED_ANEW[name])
    assert after.epoch == before.epoch + 1 == allocation.epoch
    assert sum(allocation.shares_ppm) == 1_000_000
    if name == "another build":  # unproven: it begins with nothing, and by its ramp
        assert allocation.shares_ppm == (650_000, 350_000, 0)
    assert [state.attempt for state in after.arms] == [2] * len(after.spec.arms)
    assert [state.since for state in after.arms] == [allocation.number] * len(after.spec.arms)
    assert after.past[0].arms == before.arms


def test_edits_there_and_back_never_give_alpha_back() -> None:
    """A hundred edits by someone who looks at the numbers: all attempts together spend alpha, and no more."""
    experiment, allocation = running((400_000, 350_000, 250_000), **BASE)
    chance, spent = np.random.default_rng(4), 0.0
    edits = [*JUDGED_ANEW.values(), {}, COUNTED_ANEW["limit of a quantile"], COUNTED_ANEW["corrections"]]
    levels = []
    for step in range(100):
        levels.append(
            level(experiment, 1) - thresholds(experiment.spec, experiment.spec.guardrails[0], 1).fail
        )
        attempt = experiment.arms[1].attempt
        spent += 6.0 / (math.pi * attempt) ** 2
        while (
            moved := update(experiment, allocation, of(edits[chance.integers(len(edits))]), NOW + step)
        ) is None:
            pass
        experiment, allocation = moved.experiment, moved.allocation
        assert experiment.arms[1].attempt == attempt + 1
    assert levels == sorted(levels)
    assert spent < 1.0


def test_many_builds_under_many_names_spend_alpha_once() -> None:
    """New builds, arms renamed, added, left out, cleared: over the experiment's life no more than alpha."""
    experiment, allocation = running((400_000, 350_000, 250_000), **BASE)
    chance, spent = np.random.default_rng(5), 0.0

    def tries(experiment: Experiment) -> dict[tuple[int, int], float]:
        """Part of alpha by arm and attempt."""
        arms = len(experiment.spec.arms)
        return {
            (arm, state.attempt): 6.0 / (math.pi * state.attempt) ** 2 / (arms - 1)
            for arm, state in enumerate(experiment.arms)
            if not experiment.spec.arms[arm].control
        }

    seen = tries(experiment)
    for step in range(60):
        arm = int(chance.integers(1, len(experiment.arms)))
        if chance.random() < 0.6:
            moved = roll_back(
                experiment, allocation, arm, actor="a", reason="r", rollback_id=f"{step}", now_ms=NOW
            )
            moved = clear_rollback(moved.experiment, moved.allocation, arm, NOW)
        else:
            spent += sum(seen.values())
            seen = {}
            names = [f"arm-{step}-{place}" for place in range(int(chance.integers(1, 6)))]
            names[0] = "small" if chance.random() < 0.5 else names[0]
            added = [{"name": name, "digest": f"sha256:{step}{name}"} for name in names]
            found = update(experiment, allocation, of({"arms": [ARMS[0], *added]}), NOW + step)
            assert found is not None
            moved = found
        experiment, allocation = moved.experiment, moved.allocation
        seen |= tries(experiment)
    assert spent + sum(seen.values()) <= 1.0


def test_a_draft_spends_no_alpha() -> None:
    """No challenger had a decision, so nobody can have looked at any evidence."""
    made = created(**BASE)
    experiment, allocation = made.experiment, made.allocation
    for changes in (JUDGED_ANEW["alpha"], COUNTED_ANEW["another build"], {}):
        moved = update(experiment, allocation, of(changes), NOW + 1)
        assert moved is not None
        experiment, allocation = moved.experiment, moved.allocation
    assert [arm.attempt for arm in experiment.arms] == [1, 1, 1]


@pytest.mark.parametrize("cleared", [False, True])
def test_a_rolled_back_build_is_known_however_many_came_after_it(cleared: bool) -> None:
    experiment, allocation = running((400_000, 350_000, 250_000), **BASE)
    moved = roll_back(experiment, allocation, 2, actor="a", reason="bad", rollback_id="r", now_ms=NOW)

    def build(moved: Transition, number: int) -> Transition:
        arms = [*ARMS[:2], ARMS[2] | {"digest": f"sha256:{number}"}]
        found = update(moved.experiment, moved.allocation, of({"arms": arms}), NOW + 1)
        assert found is not None
        return found

    if cleared:
        for number in [*range(50, 60), 2]:  # the last word on it is in a later epoch than the rollback
            moved = build(moved, number)
        moved = clear_rollback(moved.experiment, moved.allocation, 2, NOW)
    for number in range(100, 120):
        moved = build(moved, number)
    assert len(moved.experiment.past) == (PAST_EPOCHS if cleared else PAST_EPOCHS + 1)
    assert (build(moved, 2).experiment.arms[2].rollback is None) == cleared


def test_no_more_epochs_are_kept_than_a_document_can_hold() -> None:
    experiment, allocation = running((400_000, 350_000, 250_000), **BASE)
    for number in range(100, 160):
        arms = [*ARMS[:2], ARMS[2] | {"digest": f"sha256:{number}"}]
        moved = update(experiment, allocation, of({"arms": arms}), NOW + 1)
        assert moved is not None
        moved = roll_back(
            moved.experiment, moved.allocation, 2, actor="a", reason="bad", rollback_id="r", now_ms=NOW
        )
        experiment, allocation = moved.experiment, moved.allocation
    assert len(experiment.past) == MOST_PAST_EPOCHS
    assert experiment.past[0].epoch == experiment.epoch - 1


def test_epochs_whose_events_are_kept_are_remembered() -> None:
    """Folding them anew needs their specs; beyond as many as a document can hold another one is refused."""
    base = BASE | {"event_retention": "1d"}
    experiment, allocation = running((400_000, 350_000, 250_000), **base)

    def build(number: int, after_s: int) -> Transition:
        arms = [*ARMS[:2], ARMS[2] | {"digest": f"sha256:{number}"}]
        spec_then = of({"arms": arms, "event_retention": "1d"})
        moved = update(experiment, allocation, spec_then, NOW + after_s * 1000)
        assert moved is not None
        return moved

    for number in range(MOST_PAST_EPOCHS):
        moved = build(100 + number, number)
        experiment, allocation = moved.experiment, moved.allocation
    assert len(experiment.past) == MOST_PAST_EPOCHS
    with pytest.raises(NotAllowed, match="epochs ended while events are kept"):
        build(200, MOST_PAST_EPOCHS)
    assert len(build(200, 40 * 86_400).experiment.past) == PAST_EPOCHS


def test_a_build_that_was_away_comes_back_as_it_left() -> None:
    """Left out for an epoch, or replaced by another build and put back: its rollback stands, its attempts go on."""
    experiment, allocation = running((400_000, 350_000, 250_000), **BASE)
    rolled = roll_back(
        experiment, allocation, 2, actor="anna", reason="bad", rollback_id="r", now_ms=NOW + 3000
    )
    for away in ("one arm less", "another build"):
        gone = update(rolled.experiment, rolled.allocation, of(COUNTED_ANEW[away]), NOW + 5000)
        assert gone is not None
        assert all(arm.rollback is None for arm in gone.experiment.arms)
        back = update(gone.experiment, gone.allocation, of({}), NOW + 6000)
        assert back is not None
        assert back.experiment.arms[2].rollback == rolled.experiment.arms[2].rollback
        assert [arm.attempt for arm in back.experiment.arms] == [3, 3, 3]
        assert back.allocation.shares_ppm[2] == 0
        shares = (700_000, 300_000, 0)
        moved = reallocate(
            back.experiment, back.allocation, shares, back.allocation.centres, "evidence", NOW + 7000
        )
        assert moved.allocation.shares_ppm == shares

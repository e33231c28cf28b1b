"""Laws of judging: folding changes nothing, evidence is a function of sums, thresholds share out alpha."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.guardrails.base import Folded, Outcome, Verdict
from bandit.guardrails.judge import accumulate
from bandit.guardrails.levels import thresholds
from bandit.kernels.signals import REACH
from bandit.ledger import ONE, Period, fold_block
from bandit.spec.model import ExperimentSpec
from tests.builders import NOW
from tests.guardrail_periods import (
    HOUR,
    LIFE_MS,
    METRICS,
    guarded,
    judged,
    period,
    random_periods,
    stacked,
    standings,
)

ALL = guarded(
    *(
        {"kind": "rate_limit", "metric": metric, "limit": 0.1}
        for metric in ("unsafe", "complaint", "answered")
    ),
    *({"kind": "breaker", "metric": metric, "limit": 0.1} for metric in ("unsafe", "complaint", "answered")),
    *({"kind": "harm", "metric": str(metric["name"]), "margin": 1.1} for metric in METRICS),
)


def fold(spec: ExperimentSpec, periods: list[Period], before: Folded, since: int) -> tuple[Period, Folded]:
    """A block and the sums of the guardrails, as the learner makes them."""
    fresh = [each for each in periods if not each.is_block]
    since_all = np.full(len(spec.arms), since, np.int64)
    return fold_block(periods), accumulate(spec, before, stacked(spec, fresh), since_all)


def assert_same(left: Mapping[tuple[str, str], Verdict], right: Mapping[tuple[str, str], Verdict]) -> None:
    assert left.keys() == right.keys()
    for key, verdict in left.items():
        other = right[key]
        assert (other.outcome, other.n, other.n_control) == (verdict.outcome, verdict.n, verdict.n_control), (
            key
        )
        for name in ("log_e", "log_e_safe", "observed", "reference"):
            assert getattr(other, name) == pytest.approx(getattr(verdict, name), abs=1e-9, rel=1e-9), (
                key,
                name,
            )


@pytest.mark.parametrize("seed", range(4))
def test_judging_folded_periods_equals_judging_all_of_them(seed: int) -> None:
    now = NOW + HOUR + 25 * LIFE_MS
    periods = random_periods(ALL, seed, 60, open_last=True)
    since = 3
    arms = standings(ALL, since=since)
    straight = judged(ALL, periods, arms=arms, now_ms=now)
    assert {verdict.outcome for verdict in straight.values()} >= {Outcome.FAIL, Outcome.INCONCLUSIVE}

    first, folded = fold(ALL, periods[:9], Folded.empty_of(ALL), since)
    assert_same(judged(ALL, [first, *periods[9:]], arms=arms, folded=folded, now_ms=now), straight)
    # A period in between is left as it is, then a second fold takes the block and more.
    second, folded = fold(ALL, periods[10:14], folded, since)
    assert_same(
        judged(ALL, [first, periods[9], second, *periods[14:]], arms=arms, folded=folded, now_ms=now),
        straight,
    )
    third, folded = fold(ALL, [first, periods[9], second, *periods[14:20]], folded, since)
    assert_same(judged(ALL, [third, *periods[20:]], arms=arms, folded=folded, now_ms=now), straight)


def test_a_breaker_sees_no_further_back_than_its_reach_folded_or_not() -> None:
    spec = guarded({"kind": "breaker", "metric": "unsafe", "limit": 0.01})
    old = [period(spec, number, {"unsafe": [(9, 0), (1, 1), (0, 0)]}) for number in range(1, 11)]
    new = [period(spec, 10 + number, {"unsafe": [(9, 0), (1, 0), (0, 0)]}) for number in range(1, REACH + 1)]
    assert judged(spec, [*old, *new[:5]])["small", "g0"].outcome is Outcome.FAIL
    verdict = judged(spec, [*old, *new])["small", "g0"]
    assert (verdict.outcome, verdict.n) == (Outcome.INCONCLUSIVE, REACH)
    block, folded = fold(spec, [*old, *new[:20]], Folded.empty_of(spec), 0)
    assert judged(spec, [block, *new[20:]], folded=folded)["small", "g0"] == verdict


def test_a_later_start_of_the_arm_voids_what_was_folded() -> None:
    periods = random_periods(ALL, 8, 30)
    block, folded = fold(ALL, periods[:20], Folded.empty_of(ALL), 1)
    arms = standings(ALL, since=25)
    afresh = judged(ALL, periods, arms=arms)
    assert_same(judged(ALL, [block, *periods[20:]], arms=arms, folded=folded), afresh)
    _, refolded = fold(ALL, periods[20:28], folded, 25)
    assert_same(judged(ALL, [block, *periods[28:]], arms=arms, folded=refolded), afresh)


def test_an_open_period_is_not_folded() -> None:
    periods = random_periods(ALL, 9, 3, open_last=True)
    with pytest.raises(ValueError, match="open period"):
        accumulate(ALL, Folded.empty_of(ALL), stacked(ALL, periods), np.zeros(3, np.int64))


def test_a_block_in_the_fold_is_not_counted_twice() -> None:
    periods = random_periods(ALL, 10, 12)
    empty = Folded.empty_of(ALL)
    block, folded = fold(ALL, periods[:6], empty, 0)
    since = np.zeros(3, np.int64)
    with_block = accumulate(ALL, folded, stacked(ALL, [block, *periods[6:]]), since)
    assert np.array_equal(with_block.sums, accumulate(ALL, folded, stacked(ALL, periods[6:]), since).sums)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.permutations(list(range(12))))
def test_evidence_depends_on_sums_alone(seed: int, order: list[int]) -> None:
    periods = random_periods(ALL, seed, 12)
    renumbered = [replace(periods[old], number=new, last=new) for new, old in enumerate(order)]
    # All but the breakers, for which the latest is what counts.
    straight, turned = (
        {key: verdict for key, verdict in judged(ALL, each).items() if key[1] not in ("g3", "g4", "g5")}
        for each in (periods, renumbered)
    )
    assert_same(turned, straight)


@settings(max_examples=25)
@given(st.integers(0, 10_000), st.sampled_from(["unsafe", "complaint"]), st.integers(0, 2))
def test_one_more_bad_outcome_is_never_less_evidence_of_harm(seed: int, name: str, which: int) -> None:
    periods = random_periods(ALL, seed, 3)
    index = ALL.metric_index(name)
    assert index is not None
    worse = replace(periods[which], cells=periods[which].cells.copy())
    n, ones = worse.cells.sums[0, 1, index, :2]
    if ones >= n * ONE:
        return
    worse.cells.sums[0, 1, index, 1:3] += ONE
    after = judged(ALL, [worse if number == which else each for number, each in enumerate(periods)])
    for key, verdict in judged(ALL, periods).items():
        assert after[key].log_e >= verdict.log_e - 1e-9
        assert after[key].log_e_safe <= verdict.log_e_safe + 1e-9


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_no_number_is_ever_nan_and_no_verdict_is_missing(seed: int) -> None:
    verdicts = judged(ALL, random_periods(ALL, seed, 1 + seed % 4))
    assert len(verdicts) == 2 * len(ALL.guardrails)
    for verdict in verdicts.values():
        for name in ("log_e", "log_threshold", "log_e_safe", "log_threshold_safe", "observed", "reference"):
            assert math.isfinite(getattr(verdict, name)), (verdict, name)


def test_the_parts_of_alpha_add_up_to_alpha() -> None:
    spec = guarded(
        {"kind": "rate_limit", "metric": "unsafe", "limit": 0.1, "priority": 3.0},
        {"kind": "harm", "metric": "cost"},
        {"kind": "harm", "metric": "satisfied", "priority": 0.5},
    )
    per_challenger = [
        sum(math.exp(-thresholds(spec, guardrail, attempt).fail) for guardrail in spec.guardrails)
        for attempt in range(1, 5000)
    ]
    assert 2 * sum(per_challenger) == pytest.approx(spec.alpha, rel=2e-4)
    assert 2 * sum(per_challenger) < spec.alpha
    parts = [math.exp(-thresholds(spec, guardrail, 1).fail) for guardrail in spec.guardrails]
    assert parts[0] / parts[1] == pytest.approx(3.0)
    assert parts[2] / parts[1] == pytest.approx(0.5)


def test_a_metric_watched_ten_times_costs_ln_ten_and_nothing_else() -> None:
    once = guarded({"kind": "harm", "metric": "unsafe"})
    often = guarded(*[{"kind": "harm", "metric": "unsafe"}] * 10)
    one, *rest = judged(once, random_periods(once, 2, 20)).values()
    ten = judged(often, random_periods(often, 2, 20))
    assert rest
    for index in range(10):
        assert ten["small", f"g{index}"].log_e == pytest.approx(one.log_e, abs=1e-12)
        assert ten["small", f"g{index}"].log_threshold == pytest.approx(one.log_threshold + math.log(10))

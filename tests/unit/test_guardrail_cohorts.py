"""Verdicts per cohort, pools of alpha, flags, and what verdicts say of the wait."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandit.guardrails import GUARDRAILS
from bandit.guardrails.base import Folded, Outcome, Verdict
from bandit.guardrails.judge import accumulate, judge
from bandit.guardrails.levels import thresholds
from bandit.guardrails.wording import number
from bandit.ledger import fold_block
from bandit.rollout.rollback import Kind, decisions
from bandit.spec.model import ExperimentSpec
from tests.builders import NOW
from tests.guardrail_periods import (
    HOUR,
    LIFE_MS,
    guarded,
    judged,
    merged,
    period,
    split,
    stacked,
    standings,
)

PAIR = [{"name": "control", "control": True}, {"name": "small"}]
HALVES = (0.5, 0.5)


def pair(*guardrails: dict[str, Any], **changes: Any) -> ExperimentSpec:
    return guarded(*guardrails, arms=PAIR, **changes)


COHORTS = {"attribute": "plan", "values": ["free", "paid", "trial"]}


def test_harm_in_one_cohort_rolls_the_arm_back_and_the_others_do_not_hide_it() -> None:
    spec = pair(
        {"kind": "harm", "metric": "unsafe", "cohorts": "each"},
        {"kind": "harm", "metric": "unsafe"},
        cohorts=COHORTS,
    )
    parts = [
        period(
            spec,
            1,
            {"unsafe": [(2000, 200), (2000, bad)]},
            shares=HALVES,
            centres={"unsafe": 0.1},
            cohort=cohort,
        )
        for cohort, bad in enumerate((120, 130, 320, 130))
    ]
    verdicts = judged(spec, [merged(*parts)])
    assert {key: each.outcome for key, each in verdicts.items()} == {
        ("small", "g0/free"): Outcome.PASS,
        ("small", "g0/paid"): Outcome.FAIL,
        ("small", "g0/trial"): Outcome.PASS,
        ("small", "g0/any"): Outcome.FAIL,
        ("small", "g1"): Outcome.INCONCLUSIVE,
    }
    paid = verdicts["small", "g0/paid"]
    assert paid.cohort == "paid"
    assert paid.message.startswith("g0: small in cohort paid unsafe 0.160 of 2,000 is above the control's")
    assert "small in some cohort unsafe" in verdicts["small", "g0/any"].message
    decided = decisions(verdicts.values())
    assert [(each.arm, each.kind) for each in decided] == [(1, Kind.ROLL_BACK)]
    alone = pair({"kind": "harm", "metric": "unsafe"}, cohorts=COHORTS)
    one = judged(alone, [replace(parts[2])])["small", "g0"]
    assert paid.log_e == pytest.approx(one.log_e, rel=1e-12)


def test_evidence_spread_over_cohorts_adds_up_in_their_mean() -> None:
    spec = pair({"kind": "harm", "metric": "unsafe", "cohorts": "each"}, cohorts=COHORTS)
    whole = merged(
        *(
            period(spec, 1, {"unsafe": [(500, 25), (500, 30 + 9 * cohort)]}, shares=HALVES, cohort=cohort)
            for cohort in range(4)
        )
    )
    verdicts = judged(spec, [whole])
    table = split(spec, [whole])
    each: list[Verdict] = []
    for cohort in range(4):
        alone = pair({"kind": "harm", "metric": "unsafe"})
        rows = table.rows(table.cohort == cohort)
        each += judge(alone, rows, Folded.empty_of(alone), standings(alone), NOW + 99 * HOUR)
    mean = math.log(sum(math.exp(verdict.log_e) for verdict in each) / 4)
    assert verdicts["small", "g0/any"].log_e == pytest.approx(mean, rel=1e-12)
    assert verdicts["small", "g0/any"].n == 2000
    # Equal cohorts: what is shown is the plain mean of what each shows.
    for field in ("observed", "reference"):
        of_each = [getattr(verdict, field) for verdict in each]
        assert getattr(verdicts["small", "g0/any"], field) == pytest.approx(sum(of_each) / 4)


def test_cohorts_cost_their_part_of_alpha() -> None:
    one = {"kind": "harm", "metric": "unsafe"}
    both = guarded({**one, "cohorts": "each"}, {**one, "margin": 1.1}, cohorts=COHORTS)
    # Four comparisons of the first, one of the second.
    level = [thresholds(both, guardrail, 1).fail for guardrail in both.guardrails]
    alone = thresholds(guarded(one), guarded(one).guardrails[0], 1).fail
    assert level == pytest.approx([alone + math.log(5)] * 2)
    # A breaker has no mean over cohorts.
    breaker = guarded(
        {"kind": "breaker", "metric": "unsafe", "limit": 0.1, "cohorts": "each"}, cohorts=COHORTS
    )
    assert thresholds(breaker, breaker.guardrails[0], 1).fail == pytest.approx(alone + math.log(3))


def test_folding_keeps_the_cohorts_apart() -> None:
    spec = pair({"kind": "harm", "metric": "unsafe", "cohorts": "each"}, cohorts=COHORTS)
    periods = [
        merged(
            *(
                period(spec, e, {"unsafe": [(90, 9), (60, 3 + 2 * cohort)]}, shares=HALVES, cohort=cohort)
                for cohort in range(4)
            )
        )
        for e in range(1, 9)
    ]
    straight = judged(spec, periods)
    folded = accumulate(
        spec,
        Folded.empty_of(spec),
        stacked(spec, periods[:5]),
        np.zeros(2, np.int64),
        split(spec, periods[:5]),
    )
    assert folded.sums.shape[0] == 5
    again = judged(spec, [fold_block(periods[:5]), *periods[5:]], folded=folded)
    for key, verdict in straight.items():
        assert again[key].log_e == pytest.approx(verdict.log_e, rel=1e-12)
        assert again[key].n == verdict.n


def test_flags_and_warnings_share_an_alpha_of_their_own() -> None:
    harm, flagged = {"kind": "harm", "metric": "unsafe"}, {"kind": "harm", "metric": "cost", "action": "flag"}
    warning = {"kind": "drift", "metric": "cost", "action": "hold"}
    detector = {"kind": "became_worse", "metric": "unsafe", "run_length": 5000}
    spec = guarded(harm, flagged, warning, detector, {**detector, "margin": 1.1})
    level = [thresholds(spec, guardrail, 1).fail for guardrail in spec.guardrails]
    alone = thresholds(guarded(harm), spec.guardrails[0], 1).fail
    assert level[:3] == pytest.approx([alone, alone + math.log(2), alone + math.log(2)])
    # Two detectors of two challengers: one false alarm in 5,000 periods over all four.
    assert level[3:] == pytest.approx([math.log(4 * 5000)] * 2)
    retry = thresholds(spec, spec.guardrails[3], 7).fail
    assert retry == level[3]


def test_a_flag_moves_nothing() -> None:
    spec = pair({"kind": "rate_limit", "metric": "unsafe", "limit": 0.01, "action": "flag"})
    verdicts = judged(spec, [period(spec, 1, {"unsafe": [(0, 0), (500, 400)]}, shares=HALVES)])
    assert verdicts["small", "g0"].outcome is Outcome.FAIL
    assert decisions(verdicts.values()) == ()


def test_what_waits_for_its_windows_is_said_to() -> None:
    # 40 of 1,000 complain and silence is good: within the limit, but no window has closed yet.
    spec = pair({"kind": "rate_limit", "metric": "complaint", "limit": 0.1})
    counted = {"complaint": [(0, 0), (40, 40)]}
    each = period(spec, 1, counted, shares=HALVES, assigned=(1000, 1000))
    verdict = judged(spec, [each], now_ms=NOW + 3 * LIFE_MS)["small", "g0"]
    assert verdict.message.endswith("of safety 0.0 < 3.0); waits until the windows of 1,000 have closed")


@pytest.mark.parametrize("bad", [0, 1, 2, 4, 6])
@pytest.mark.parametrize("n", [30, 100, 250])
def test_needing_more_is_never_about_one_when_one_would_not_do(bad: int, n: int) -> None:
    spec = pair({"kind": "rate_limit", "metric": "unsafe", "limit": 0.05})
    verdict = judged(spec, [period(spec, 1, {"unsafe": [(0, 0), (n, bad)]}, shares=HALVES)])["small", "g0"]
    if verdict.outcome is not Outcome.INCONCLUSIVE or "cannot tell" in verdict.message:
        return
    more = int(verdict.message.split("needs about ")[1].removesuffix(" more").replace(",", ""))
    times = 1 + 1.5 * more / n
    counts = {"unsafe": [(0, 0), (round(n * times), round(bad * times))]}
    assert (
        judged(spec, [period(spec, 1, counts, shares=HALVES)])["small", "g0"].outcome
        is not Outcome.INCONCLUSIVE
    )


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0.000"),
        (0.0123, "0.012"),
        (1e-5, "1e-05"),
        (999.5, "999.500"),
        (1020.4, "1,020"),
        (1e6, "1,000,000"),
    ],
)
def test_numbers_are_written_for_people(value: float, text: str) -> None:
    assert number(value) == text


def test_each_cohort_without_a_split_table_is_judged_added_up() -> None:
    spec = pair({"kind": "harm", "metric": "unsafe", "cohorts": "each"}, cohorts=COHORTS)
    each = period(spec, 1, {"unsafe": [(2000, 200), (2000, 500)]}, shares=HALVES, cohort=2)
    (verdict,) = judge(spec, stacked(spec, [each]), Folded.empty_of(spec), standings(spec), NOW + 99 * HOUR)
    assert (verdict.outcome, verdict.cohort) == (Outcome.FAIL, "")


def test_only_e_values_and_detectors_are_averaged_over_cohorts() -> None:
    """A mean of tails or of chances is none; each verdict over a mean costs its part of alpha."""
    apart = {kind for kind, test in GUARDRAILS.items() if not test.averages}
    assert apart == {"breaker", "silence", "drift"}

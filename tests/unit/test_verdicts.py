"""Verdicts in the cases people met: silence, delay, a control without failures, stopped traffic; and how they read."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from bandit.guardrails.base import ArmStanding, Folded, Outcome, Verdict
from bandit.guardrails.judge import judge
from bandit.spec.model import ExperimentSpec
from tests.builders import NOW
from tests.guardrail_periods import HOUR, LIFE_MS, LONG_AFTER, guarded, judged, period, stacked, standings

PAIR = [
    {"name": "control", "control": True, "digest": "sha256:0"},
    {"name": "small", "digest": "sha256:1"},
]


def pair(**guardrail: object) -> ExperimentSpec:
    """One challenger, one guardrail."""
    return guarded(guardrail, arms=PAIR)


HARM = pair(kind="harm", metric="unsafe")
LIMIT = pair(kind="rate_limit", metric="unsafe", limit=0.01)


def test_a_control_without_failures_is_no_excuse() -> None:
    # C216: no bad outcome in 10,000 of the control, six in 2,000 of the canary.
    counts = {"unsafe": [(10_000, 0), (2_000, 6)]}
    verdict = judged(HARM, [period(HARM, 1, counts, shares=(5 / 6, 1 / 6))])["small", "g0"]
    assert verdict.outcome is Outcome.FAIL
    assert verdict.log_e == pytest.approx(6.1, abs=0.2)
    assert (verdict.observed, verdict.reference, verdict.n, verdict.n_control) == (0.003, 0.0, 2000, 10_000)


def test_no_failures_on_either_side_decide_nothing() -> None:
    counts = {"unsafe": [(10_000, 0), (2_000, 0)]}
    verdict = judged(HARM, [period(HARM, 1, counts, shares=(5 / 6, 1 / 6))])["small", "g0"]
    assert verdict.outcome is Outcome.INCONCLUSIVE
    assert (verdict.log_e, verdict.log_e_safe) == pytest.approx((0.0, 0.0), abs=1e-12)
    assert "cannot tell" in verdict.message


def test_harm_needs_the_control_in_the_same_periods() -> None:
    alone = period(HARM, 1, {"unsafe": [(0, 0), (500, 400)]}, shares=(0.0, 1.0))
    apart = period(HARM, 2, {"unsafe": [(500, 0), (0, 0)]}, shares=(1.0, 0.0))
    verdict = judged(HARM, [alone, apart])["small", "g0"]
    assert verdict.outcome is Outcome.NO_DATA
    assert (verdict.n, verdict.n_control) == (0, 0)


def test_harm_needs_an_outcome_of_the_control() -> None:
    each = period(HARM, 1, {"unsafe": [(0, 0), (500, 400)]}, shares=(0.5, 0.5), assigned=(500, 500))
    verdict = judged(HARM, [each])["small", "g0"]
    assert (verdict.outcome, verdict.n, verdict.n_control) == (Outcome.NO_DATA, 500, 0)
    assert "small has 500 outcomes of unsafe and the control 0" in verdict.message


@pytest.mark.parametrize("kind", ["harm", "rate_limit", "breaker"])
@pytest.mark.parametrize("bad", [0, 2, 90])
def test_time_alone_never_changes_a_verdict(kind: str, bad: int) -> None:
    # C211, C212: outcomes in one period, then none, however long.
    limit = {} if kind == "harm" else {"limit": 0.01}
    spec = pair(kind=kind, metric="unsafe", **limit)
    first = period(spec, 1, {"unsafe": [(900, 9), (100, bad)]}, shares=(0.9, 0.1))
    quiet = [period(spec, number, {}, shares=(0.9, 0.1)) for number in range(2, 12)]
    early = judged(spec, [first, *quiet[:1]], now_ms=NOW + 2 * HOUR)
    assert judged(spec, [first, *quiet], now_ms=LONG_AFTER) == early


def test_a_guardrail_whose_metric_has_not_begun_stays_without_data() -> None:
    # C207: one metric passes at once, the other begins later.
    spec = guarded(
        {"kind": "rate_limit", "metric": "unsafe", "limit": 0.1},
        {"kind": "rate_limit", "metric": "satisfied", "limit": 0.1},
        arms=PAIR,
    )
    verdicts = judged(spec, [period(spec, 1, {"unsafe": [(900, 0), (900, 0)]}, shares=(0.5, 0.5))])
    assert verdicts["small", "g0"].outcome is Outcome.PASS
    assert verdicts["small", "g1"].outcome is Outcome.NO_DATA


def test_an_arm_that_was_stopped_is_not_judged() -> None:
    # C208: neither passed nor failed.
    arms = [ArmStanding(1, 0, True), ArmStanding(1, 0, False)]
    assert not judged(
        LIMIT, [period(LIMIT, 1, {"unsafe": [(900, 0), (900, 900)]}, shares=(0.5, 0.5))], arms=arms
    )


def silent(
    metric: str, *, now_ms: int, rewards: tuple[int, int], kind: str = "rate_limit", limit: float = 0.05
) -> Verdict:
    spec = pair(kind=kind, metric=metric, limit=limit)
    counts = {metric: [(0, 0), rewards]}
    return judged(spec, [period(spec, 1, counts, shares=(0.5, 0.5), assigned=(1000, 1000))], now_ms=now_ms)[
        "small", "g0"
    ]


CLOSING = NOW + 2 * LIFE_MS
YOUNG, MATURE = CLOSING + HOUR - 1, CLOSING + HOUR


@pytest.mark.parametrize("kind", ["rate_limit", "breaker"])
def test_where_silence_is_good_pending_exposures_count_as_good_for_harm_only(kind: str) -> None:
    # 40 complaints came, all alone: not 40 of 40 but 40 of 1,000 exposures, at once.
    young = silent("complaint", now_ms=YOUNG, rewards=(40, 40), kind=kind)
    assert (young.n, young.observed) == (1000, 0.04)
    assert young.outcome is Outcome.INCONCLUSIVE
    assert young.log_e_safe == pytest.approx(0.0, abs=1e-12)
    assert silent("complaint", now_ms=YOUNG, rewards=(200, 200), kind=kind).outcome is Outcome.FAIL
    # Safety waits until the windows closed.
    assert silent("complaint", now_ms=YOUNG, rewards=(2, 2), kind=kind).outcome is Outcome.INCONCLUSIVE
    assert silent("complaint", now_ms=MATURE, rewards=(2, 2), kind=kind).outcome is Outcome.PASS


@pytest.mark.parametrize("kind", ["rate_limit", "breaker"])
def test_where_silence_is_good_nothing_has_come_yet_while_no_reward_has(kind: str) -> None:
    assert silent("complaint", now_ms=YOUNG, rewards=(0, 0), kind=kind).outcome is Outcome.NO_DATA
    assert silent("complaint", now_ms=MATURE, rewards=(0, 0), kind=kind).outcome is Outcome.PASS


@pytest.mark.parametrize("kind", ["rate_limit", "breaker"])
def test_where_silence_is_bad_only_closed_windows_count(kind: str) -> None:
    young = silent("answered", now_ms=YOUNG, rewards=(600, 600), kind=kind, limit=0.2)
    assert (young.outcome, young.n) == (Outcome.NO_DATA, 0)
    mature = silent("answered", now_ms=MATURE, rewards=(600, 600), kind=kind, limit=0.2)
    assert (mature.outcome, mature.n, mature.observed) == (Outcome.FAIL, 1000, 0.4)


def test_where_silence_is_missing_rewards_count_as_they_come() -> None:
    spec = pair(kind="rate_limit", metric="unsafe", limit=0.05)
    counts = {"unsafe": [(0, 0), (60, 12)]}
    young = period(spec, 1, counts, shares=(0.5, 0.5), assigned=(1000, 1000))
    verdict = judged(spec, [young], now_ms=YOUNG)["small", "g0"]
    assert (verdict.outcome, verdict.n, verdict.observed) == (Outcome.FAIL, 60, 0.2)


def test_harm_waits_for_closed_windows_and_fills_silence_on_both_sides() -> None:
    spec = pair(kind="harm", metric="complaint")
    counts = {"complaint": [(20, 20), (120, 120)]}
    each = period(spec, 1, counts, shares=(0.5, 0.5), assigned=(1000, 1000))
    assert judged(spec, [each], now_ms=YOUNG)["small", "g0"].outcome is Outcome.NO_DATA
    verdict = judged(spec, [each], now_ms=MATURE)["small", "g0"]
    assert (verdict.outcome, verdict.observed, verdict.reference) == (Outcome.FAIL, 0.12, 0.02)
    assert (verdict.n, verdict.n_control) == (1000, 1000)


def test_the_margin_is_tolerated() -> None:
    counts = {"unsafe": [(5000, 500), (5000, 620)]}
    outcomes = {}
    for margin in (1.0, 1.2, 1.6):
        spec = pair(kind="harm", metric="unsafe", margin=margin)
        outcomes[margin] = judged(
            spec, [period(spec, 1, counts, shares=(0.5, 0.5), centres={"unsafe": 0.1})]
        )["small", "g0"].outcome
    assert outcomes == {1.0: Outcome.FAIL, 1.2: Outcome.INCONCLUSIVE, 1.6: Outcome.PASS}


def test_means_are_told_in_the_unit_of_the_metric() -> None:
    cost = pair(kind="harm", metric="cost", margin=1.1)
    dear = {"cost": [[0.4] * 400, [1.2] * 400]}
    verdict = judged(cost, [period(cost, 1, dear, shares=(0.5, 0.5), centres={"cost": 0.2})])["small", "g0"]
    assert verdict.outcome is Outcome.FAIL
    assert (verdict.observed, verdict.reference) == pytest.approx((1.2, 0.44))
    assert "small cost 1.200 of 400 is above the control's with margin 1.1 (of 400) 0.440" in verdict.message

    gain = pair(kind="harm", metric="gain")
    poor = {"gain": [[0.8] * 400, [0.2] * 400]}
    verdict = judged(gain, [period(gain, 1, poor, shares=(0.5, 0.5), centres={"gain": 0.9})])["small", "g0"]
    assert (verdict.observed, verdict.reference) == pytest.approx((0.2, 0.8))
    assert "is below the control's (of 400) 0.800" in verdict.message


def test_the_control_stands_beside_the_arm_at_the_traffic_of_the_arm() -> None:
    # The arm came when badness was high everywhere; the control's pooled 0.11 would make it look bad.
    low = period(HARM, 1, {"unsafe": [(900, 18), (100, 2)]}, shares=(0.9, 0.1), centres={"unsafe": 0.02})
    high = period(HARM, 2, {"unsafe": [(900, 180), (900, 180)]}, shares=(0.5, 0.5), centres={"unsafe": 0.2})
    verdict = judged(HARM, [low, high])["small", "g0"]
    assert verdict.observed == pytest.approx(0.182)
    assert verdict.reference == pytest.approx(0.182)
    assert verdict.outcome is Outcome.INCONCLUSIVE


def limited(arm: tuple[int, int], control: tuple[int, int] = (0, 0)) -> str:
    return judged(LIMIT, [period(LIMIT, 1, {"unsafe": [control, arm]}, shares=(0.5, 0.5))])[
        "small", "g0"
    ].message


def test_sentences() -> None:
    assert (
        limited((0, 0))
        == "g0: small has no outcome of unsafe yet; limit 0.010 (ln E 0.0 < 3.5); nothing to judge"
    )
    assert limited((1204, 98)) == "g0: small unsafe 0.081 of 1,204 exceeds 0.010 (ln E 118.9 >= 3.5)"
    assert limited((2000, 2)) == "g0: small unsafe 0.001 of 2,000 keeps 0.010 (ln E of safety 11.5 >= 3.0)"
    undecided = limited((500, 8))
    assert undecided.startswith("g0: small unsafe 0.016 of 500 against 0.010 is undecided (ln E ")
    assert undecided.endswith(" more")


def test_a_control_that_is_worse_is_named() -> None:
    # A rollback would send its traffic to the control, which fails the limit more clearly.
    assert limited((1000, 40), (4000, 400)).endswith(
        "; control is worse with 0.100 of 4,000 (ln E 573.2): no safe arm"
    )
    assert "; the control exceeds it too with 0.030 of 4,000 (ln E" in limited((1000, 80), (4000, 120))
    assert "control" not in limited((1000, 80), (4000, 40))


def more_of(verdict: Verdict) -> int:
    return int(verdict.message.split("needs about ")[1].removesuffix(" more").replace(",", ""))


@pytest.mark.parametrize("spec", [LIMIT, HARM])
def test_how_many_more_is_about_right(spec: ExperimentSpec) -> None:
    def seen(times: float) -> Verdict:
        counts = {
            "unsafe": [(round(4500 * times), round(45 * times)), (round(500 * times), round(8 * times))]
        }
        each = period(spec, 1, counts, shares=(0.9, 0.1), centres={"unsafe": 0.01})
        return judged(spec, [each])["small", "g0"]

    now = seen(1.0)
    assert now.outcome is Outcome.INCONCLUSIVE
    more = more_of(now)
    assert seen(1 + 0.5 * more / 500).outcome is Outcome.INCONCLUSIVE
    assert seen(1 + 1.5 * more / 500).outcome is Outcome.FAIL


def test_a_later_attempt_needs_more() -> None:
    each = period(LIMIT, 1, {"unsafe": [(500, 5), (100, 8)]}, shares=(0.5, 0.5))
    first = judged(LIMIT, [each])["small", "g0"]
    tenth = judged(LIMIT, [each], arms=standings(LIMIT, attempt=60))["small", "g0"]
    assert (first.outcome, tenth.outcome) == (Outcome.FAIL, Outcome.INCONCLUSIVE)
    assert first.log_e == tenth.log_e


def test_a_breaker_trips_on_the_newest_rewards_long_before_the_whole_life_looks_bad() -> None:
    spec = pair(kind="breaker", metric="unsafe", limit=0.01)
    good = [
        period(spec, number, {"unsafe": [(0, 0), (1000, 2)]}, shares=(0.5, 0.5)) for number in range(1, 9)
    ]
    six = period(spec, 9, {"unsafe": [(0, 0), (50, 6)]}, shares=(0.5, 0.5), open_=True)
    seven = period(spec, 9, {"unsafe": [(0, 0), (50, 7)]}, shares=(0.5, 0.5), open_=True)
    assert judged(spec, [*good, six])["small", "g0"].outcome is not Outcome.FAIL
    verdict = judged(spec, [*good, seven])["small", "g0"]
    assert verdict.outcome is Outcome.FAIL
    assert (verdict.n, verdict.observed) == (50, 0.14)
    assert "ln 1/tail 14.2 >= 13.8" in verdict.message


def test_a_breaker_passes_by_what_a_catastrophe_would_have_shown() -> None:
    """13 bad ones of 200 trip it; of a share of 13/200, no bad one in 200 has a chance of (1 - 13/200)^200."""
    spec = pair(kind="breaker", metric="unsafe", limit=0.01)
    quiet = period(spec, 1, {"unsafe": [(0, 0), (200, 0)]}, shares=(0.5, 0.5))
    verdict = judged(spec, [quiet])["small", "g0"]
    assert verdict.log_e_safe == pytest.approx(-200 * math.log1p(-13 / 200), rel=1e-9)
    assert verdict.outcome is Outcome.PASS


def test_a_breaker_does_not_forget_because_nothing_happens() -> None:
    spec = pair(kind="breaker", metric="unsafe", limit=0.01)
    bad = period(spec, 1, {"unsafe": [(0, 0), (50, 7)]}, shares=(0.5, 0.5))
    quiet = [period(spec, number, {}, shares=(0.5, 0.5)) for number in range(2, 100)]
    assert judged(spec, [bad, *quiet])["small", "g0"].outcome is Outcome.FAIL


@pytest.mark.parametrize("kind", ["rate_limit", "breaker"])
@pytest.mark.parametrize("limit", [1e-9, 0.5, 1 - 1e-9])
@pytest.mark.parametrize("n", [1, 2**31])
@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
def test_extremes_give_a_verdict(kind: str, limit: float, n: int, part: float) -> None:
    spec = pair(kind=kind, metric="unsafe", limit=limit)
    verdict = judged(spec, [period(spec, 1, {"unsafe": [(0, 0), (n, int(n * part))]}, shares=(0.5, 0.5))])[
        "small", "g0"
    ]
    for number in (verdict.log_e, verdict.log_e_safe, verdict.observed):
        assert math.isfinite(number)
    if int(n * part) / n <= limit:
        assert verdict.outcome is not Outcome.FAIL
    elif n > 1 and limit <= 0.5:
        assert verdict.outcome is Outcome.FAIL


@pytest.mark.parametrize("margin", [1.0, 10.0])
@pytest.mark.parametrize("part", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("share", [1e-6, 0.5, 1 - 1e-6])
def test_equal_arms_never_fail_however_shares_and_counts_lie(
    margin: float, part: float, share: float
) -> None:
    spec = pair(kind="harm", metric="unsafe", margin=margin)
    # The counts do not follow the shares: few heavy units, or responses that are missing.
    counts = {"unsafe": [(2**31, int(2**31 * part)), (2**20, int(2**20 * part))]}
    each = period(spec, 1, counts, shares=(1 - share, share), centres={"unsafe": part})
    verdict = judged(spec, [each])["small", "g0"]
    assert verdict.outcome in (
        {Outcome.INCONCLUSIVE} if margin == 1.0 else {Outcome.PASS, Outcome.INCONCLUSIVE}
    )
    assert math.isfinite(verdict.log_e)
    assert math.isfinite(verdict.log_e_safe)


@pytest.mark.parametrize("bad", [0, 60])
def test_a_judge_whom_nobody_reads_says_the_same(bad: int) -> None:
    """All but the message, in both outcomes."""
    each = stacked(HARM, [period(HARM, 1, {"unsafe": [(10_000, 10), (2_000, bad)]}, shares=(5 / 6, 1 / 6))])
    loud, silent = (
        judge(HARM, each, Folded.empty_of(HARM), standings(HARM), LONG_AFTER, told=told)
        for told in (True, False)
    )
    assert all(verdict.message for verdict in loud)
    assert tuple(replace(verdict, message="") for verdict in loud) == silent

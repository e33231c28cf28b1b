"""What every guardrail of the registry promises; a new member joins by a line in FIELDS."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from bandit.guardrails import GUARDRAILS
from bandit.guardrails.base import ArmStanding, Folded, Outcome
from bandit.guardrails.judge import accumulate
from bandit.guardrails.levels import thresholds
from bandit.guardrails.wording import number
from bandit.ledger import Period, fold_block
from bandit.spec.model import ExperimentSpec, Guardrail
from tests.builders import NOW
from tests.guardrail_periods import (
    HOUR,
    LIFE_MS,
    LONG_AFTER,
    guarded,
    judged,
    period,
    random_periods,
    split,
    stacked,
    standings,
)

FIELDS: dict[str, dict[str, Any]] = {
    "rate_limit": {"metric": "unsafe", "limit": 0.05},
    "harm": {"metric": "unsafe"},
    "breaker": {"metric": "unsafe", "limit": 0.05},
    "quantile_limit": {"metric": "latency", "limit": 800, "quantile": 0.95},
    "quantile_harm": {"metric": "latency", "quantile": 0.95, "between": [200, 4000], "margin": 1.2},
    "event_rate": {"metric": "calls", "limit": 0.05},
    "became_worse": {"metric": "unsafe", "run_length": 1000},
    "sample_ratio": {"action": "flag"},
    "silence": {"metric": "unsafe", "after": "10m", "action": "hold"},
    "response_rate": {"metric": "unsafe", "margin": 1.1, "action": "flag"},
    "drift": {"metric": "unsafe", "action": "flag"},
}
KINDS = sorted(FIELDS)
ON_TRAFFIC = ("sample_ratio", "silence", "response_rate")


def one(kind: str, metric: str | None = None, **changes: Any) -> ExperimentSpec:
    named = {} if metric is None else {"metric": metric}
    return guarded({"kind": kind, **FIELDS[kind], **named, **changes})


def counts(
    small: int, *, n: int = 400, control: int = 20, metric: str = "unsafe"
) -> dict[str, list[tuple[int, int]]]:
    """Bad outcomes of arm small out of n, beside a control at 1 in 50; the metric's ones are bad or good."""
    bad = [(1000, control), (n, small), (0, 0)]
    return {metric: bad if metric == "unsafe" else [(total, total - of) for total, of in bad]}


def scene(spec: ExperimentSpec, small: int, *, control: int = 20) -> list[Period]:
    """What a healthy control and an arm with ``small`` bad of 400 look like to a kind of guardrail."""
    kind = spec.guardrails[0].kind

    def slow(control_n: int, n: int, late: int) -> dict[str, list[list[float]]]:
        usual = [300.0] * (control_n * 19 // 20) + [900.0] * (control_n // 20)
        return {"latency": [usual, [3000.0] * late + [250.0] * (n - late), []]}

    if kind == "quantile_limit":
        return [period(spec, 1, slow(1000, 400, small))]
    if kind == "quantile_harm":
        return [period(spec, 1, slow(1000, 100, 0)), period(spec, 2, slow(1000, 400, small))]
    if kind == "event_rate":
        return [period(spec, 1, {"calls": [[0.0] * 1000, [1.0] * small + [0.0] * (400 - small), []]})]
    if kind == "sample_ratio":
        return [period(spec, 1, {}, assigned=(80_000, 10_000 + 4 * small, 10_000))]
    if kind == "silence":
        before = period(spec, 1, {"unsafe": [(400, 8), (50, 1), (0, 0)]}, assigned=(800, 100, 0))
        return [before, period(spec, 2, {"unsafe": [(400, 8), (0, 0), (0, 0)]}, assigned=(800, small, 0))]
    if kind == "response_rate":
        answered = {"unsafe": [(6400, 64), (3200 - 8 * small, 0), (0, 0)]}
        return [period(spec, 1, answered, assigned=(8000, 4000, 0))]
    if kind == "drift":
        counted = [2] * 20 + [2 + small // 8] * 20
        return [
            period(spec, e, {"unsafe": [(0, 0), (100, bad), (0, 0)]}, assigned=(100, 100, 0))
            for e, bad in enumerate(counted)
        ]
    return [period(spec, 1, counts(small, control=control), centres={"unsafe": 0.02})]


def moved(each: Period, by: int) -> Period:
    """The same period, so many numbers and minutes later."""
    return replace(
        each,
        number=each.number + by,
        last=each.last + by,
        start_ms=each.start_ms + by * LIFE_MS,
        end_ms=each.end_ms + by * LIFE_MS,
    )


def test_every_kind_of_the_spec_has_a_guardrail_and_a_line_here() -> None:
    kinds = set(get_args(Guardrail.model_fields["kind"].annotation))
    assert kinds == set(GUARDRAILS) == set(FIELDS)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_seen_is_no_data(kind: str) -> None:
    spec = one(kind)
    without_rewards = period(spec, 1, {}, assigned=(800, 100, 100))
    without_arm = period(spec, 1, {"unsafe": [(800, 8), (0, 0), (0, 0)]}, shares=(1.0, 0.0, 0.0))
    silent = [] if kind in ON_TRAFFIC else [[without_rewards]]
    for periods in ([], [without_arm], *silent):
        for verdict in judged(spec, periods).values():
            assert verdict.outcome is Outcome.NO_DATA
            assert verdict.n == 0
            assert (verdict.log_e, verdict.log_e_safe) == pytest.approx((0.0, 0.0), abs=1e-12)
            assert f"{verdict.log_threshold:.1f}" in verdict.message


@pytest.mark.parametrize("kind", KINDS)
def test_a_disaster_fails_and_a_safe_arm_passes(kind: str) -> None:
    spec = one(kind)
    bad = judged(spec, scene(spec, 200))["small", "g0"]
    good = judged(spec, scene(spec, 0, control=150))["small", "g0"]
    # Nothing shows that a mean will not move.
    assert (bad.outcome, good.outcome) == (
        Outcome.FAIL,
        Outcome.INCONCLUSIVE if kind == "drift" else Outcome.PASS,
    )
    assert bad.log_e >= bad.log_threshold
    assert (good.log_e_safe >= good.log_threshold_safe) is (kind != "drift")


@pytest.mark.parametrize("kind", KINDS)
def test_one_more_bad_outcome_is_never_less_evidence_of_harm_or_more_of_safety(kind: str) -> None:
    spec = one(kind)
    before = None
    for small in range(0, 401, 7):
        verdict = judged(spec, scene(spec, small))["small", "g0"]
        if before is not None:
            assert verdict.log_e >= before.log_e - 1e-9
            assert verdict.log_e_safe <= before.log_e_safe + 1e-9
        before = verdict
    assert before is not None
    assert before.outcome is Outcome.FAIL


@pytest.mark.parametrize("kind", ["breaker", "harm", "rate_limit"])
@pytest.mark.parametrize("small", [0, 8, 80])
def test_a_bad_share_counts_the_same_in_both_directions(kind: str, small: int) -> None:
    up = one(kind, "unsafe")
    down = one(kind, "satisfied")
    minimised = judged(up, [period(up, 1, counts(small), centres={"unsafe": 0.02})])["small", "g0"]
    maximised = judged(
        down, [period(down, 1, counts(small, metric="satisfied"), centres={"satisfied": 0.98})]
    )["small", "g0"]
    assert maximised.outcome is minimised.outcome
    assert maximised.log_e == pytest.approx(minimised.log_e, abs=1e-9)
    assert maximised.log_e_safe == pytest.approx(minimised.log_e_safe, abs=1e-9)


def test_means_count_the_same_in_both_directions() -> None:
    rng = np.random.default_rng(2)
    badness = [rng.beta(2, 8, 400), rng.beta(2, 6, 200), rng.beta(2, 8, 0)]
    cost, gain = one("harm", "cost"), one("harm", "gain")
    dear: dict[str, Any] = {"cost": [list(2.0 * each) for each in badness]}
    poor: dict[str, Any] = {"gain": [list(1.0 - 2.0 * each) for each in badness]}
    minimised = judged(cost, [period(cost, 1, dear, centres={"cost": 0.2})])["small", "g0"]
    maximised = judged(gain, [period(gain, 1, poor, centres={"gain": 0.8})])["small", "g0"]
    assert maximised.log_e == pytest.approx(minimised.log_e, abs=1e-5)
    assert maximised.log_e_safe == pytest.approx(minimised.log_e_safe, abs=1e-5)
    assert 1.0 - maximised.observed == pytest.approx(minimised.observed, abs=1e-6)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("small", [0, 8, 200])
def test_the_message_says_who_what_and_all_numbers(kind: str, small: int) -> None:
    spec = one(kind)
    verdict = judged(spec, scene(spec, small))["small", "g0"]
    assert verdict.message.startswith("g0: small ")
    assert (spec.guardrails[0].metric or "traffic") in verdict.message
    assert number(verdict.observed) in verdict.message
    assert f"of {verdict.n:,}" in verdict.message
    assert number(verdict.reference) in verdict.message
    wanted = {
        Outcome.FAIL: f"{verdict.log_e:.1f} >= {verdict.log_threshold:.1f}",
        Outcome.PASS: f"{verdict.log_e_safe:.1f} >= {verdict.log_threshold_safe:.1f}",
        Outcome.INCONCLUSIVE: f"{verdict.log_e:.1f} < {verdict.log_threshold:.1f}",
    }
    assert wanted[verdict.outcome] in verdict.message


@pytest.mark.parametrize("kind", KINDS)
def test_neither_the_control_nor_a_stopped_arm_is_judged(kind: str) -> None:
    spec = one(kind)
    arms = [ArmStanding(1, 0, True), ArmStanding(1, 0, False), ArmStanding(1, 0, True)]
    assert set(judged(spec, scene(spec, 300), arms=arms)) == {("large", "g0")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("now_ms", [NOW, LONG_AFTER])
def test_periods_before_the_arm_began_do_not_count(kind: str, now_ms: int) -> None:
    spec = one(kind)
    old = scene(spec, 300)
    new = [moved(each, 100) for each in scene(spec, 2)]
    both = judged(spec, [*old, *new], arms=standings(spec, since=100), now_ms=now_ms)
    assert both == judged(spec, new, now_ms=now_ms)
    assert both["small", "g0"].outcome is not Outcome.FAIL


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "sample_ratio"])
@pytest.mark.parametrize("small", [0, 200])
def test_an_open_window_counts_for_harm_under_a_limit_and_else_not_at_all(kind: str, small: int) -> None:
    spec = one(kind)
    old = scene(spec, 2)
    new = [moved(each, 100) for each in scene(spec, small)]
    window_ms = HOUR // 6 if kind == "silence" else HOUR
    for now_ms in (max(each.end_ms for each in new), min(each.end_ms for each in new) + window_ms - 1):
        before, after = (judged(spec, each, now_ms=now_ms)["small", "g0"] for each in (old, [*old, *new]))
        assert after.log_e_safe == before.log_e_safe
        if kind in ("rate_limit", "breaker", "quantile_limit", "event_rate"):
            assert (after.outcome is Outcome.FAIL) == (small == 200)
        else:
            assert after == before
    # What counts then is not nothing.
    closed = judged(spec, [*old, *new], now_ms=LONG_AFTER)["small", "g0"]
    assert (closed.log_e, closed.log_e_safe, closed.n) != (before.log_e, before.log_e_safe, before.n)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("seed", range(3))
def test_the_number_of_looks_and_folds_in_between_change_nothing(kind: str, seed: int) -> None:
    spec = one(kind)
    periods = random_periods(spec, seed, 30)
    once = judged(spec, periods)
    for _ in range(3):
        judged(spec, periods[:20])
    folded = Folded.empty_of(spec)
    since = np.zeros(len(spec.arms), np.int64)
    for first, last in ((0, 7), (7, 8), (8, 21)):
        part = periods[first:last]
        folded = accumulate(spec, folded, stacked(spec, part), since, split(spec, part))
    blocks = [fold_block(periods[:8]), fold_block(periods[8:21])]
    often = judged(spec, [*blocks, *periods[21:]], folded=folded)
    for key, verdict in once.items():
        assert often[key].outcome is verdict.outcome
        assert often[key].log_e == pytest.approx(verdict.log_e, rel=1e-12, abs=1e-9)
        assert often[key].log_e_safe == pytest.approx(verdict.log_e_safe, rel=1e-12, abs=1e-9)
        assert often[key].observed == pytest.approx(verdict.observed, rel=1e-12)


@pytest.mark.parametrize("kind", KINDS)
def test_the_order_of_rows_does_not_matter(kind: str) -> None:
    spec = one(kind)
    periods = random_periods(spec, 3, 40)
    straight = judged(spec, periods)
    shuffled = judged(spec, [periods[i] for i in np.random.default_rng(4).permutation(40)])
    for key, verdict in straight.items():
        assert shuffled[key].log_e == pytest.approx(verdict.log_e, abs=1e-9)
        assert shuffled[key].log_e_safe == pytest.approx(verdict.log_e_safe, abs=1e-9)


@pytest.mark.parametrize("kind", KINDS)
def test_arms_that_change_places_keep_their_verdicts(kind: str) -> None:
    spec = one(kind)
    order = [2, 0, 1]
    turned = spec.model_copy(update={"arms": tuple(spec.arms[i] for i in order)})

    def turn(each: Period) -> Period:
        cells = each.cells.copy()
        cells.exposures, cells.sums = cells.exposures[:, order], cells.sums[:, order]
        return replace(each, cells=cells, shares_ppm=tuple(each.shares_ppm[i] for i in order))

    periods = random_periods(spec, 5, 30)
    before, after = judged(spec, periods), judged(turned, [turn(each) for each in periods])
    assert before.keys() == after.keys()
    for key, verdict in before.items():
        assert replace(after[key], arm=verdict.arm) == verdict


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind != "became_worse"])
def test_each_attempt_spends_less(kind: str) -> None:
    spec = one(kind)
    alpha = [math.exp(-thresholds(spec, spec.guardrails[0], attempt).fail) * 2 for attempt in range(1, 2000)]
    assert alpha == sorted(alpha, reverse=True)
    assert 0.999 * spec.alpha < sum(alpha) < spec.alpha

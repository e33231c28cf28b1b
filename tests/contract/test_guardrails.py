"""What every guardrail of the registry promises; a new member joins by a line in FIELDS."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from bandit.guardrails import GUARDRAILS
from bandit.guardrails.base import ArmStanding, Outcome
from bandit.guardrails.judge import thresholds
from bandit.ledger import Period
from bandit.spec.model import ExperimentSpec, Guardrail
from tests.builders import NOW
from tests.guardrail_periods import LONG_AFTER, guarded, judged, period, random_periods, standings

FIELDS: dict[str, dict[str, Any]] = {
    "rate_limit": {"kind": "rate_limit", "limit": 0.05},
    "harm": {"kind": "harm"},
    "breaker": {"kind": "breaker", "limit": 0.05},
}
KINDS = sorted(FIELDS)


def one(kind: str, metric: str = "unsafe", **changes: Any) -> ExperimentSpec:
    return guarded({**FIELDS[kind], "metric": metric, **changes})


def counts(
    small: int, *, n: int = 400, control: int = 20, metric: str = "unsafe"
) -> dict[str, list[tuple[int, int]]]:
    """Bad outcomes of arm small out of n, beside a control at 1 in 50; the metric's ones are bad or good."""
    bad = [(1000, control), (n, small), (0, 0)]
    return {metric: bad if metric == "unsafe" else [(total, total - of) for total, of in bad]}


def test_every_kind_of_the_spec_has_a_guardrail_and_a_line_here() -> None:
    kinds = set(get_args(Guardrail.model_fields["kind"].annotation))
    assert kinds == set(GUARDRAILS) == set(FIELDS)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_seen_is_no_data(kind: str) -> None:
    spec = one(kind)
    without_rewards = period(spec, 1, {}, assigned=(800, 100, 100))
    without_arm = period(spec, 1, {"unsafe": [(800, 8), (0, 0), (0, 0)]}, shares=(1.0, 0.0, 0.0))
    for periods in ([], [without_rewards], [without_arm]):
        for verdict in judged(spec, periods).values():
            assert verdict.outcome is Outcome.NO_DATA
            assert verdict.n == 0
            assert (verdict.log_e, verdict.log_e_safe) == pytest.approx((0.0, 0.0), abs=1e-12)
            assert f"{verdict.log_threshold:.1f}" in verdict.message


@pytest.mark.parametrize("kind", KINDS)
def test_a_disaster_fails_and_a_safe_arm_passes(kind: str) -> None:
    spec = one(kind)
    bad = judged(spec, [period(spec, 1, counts(200))])["small", "g0"]
    good = judged(spec, [period(spec, 1, counts(0, control=150))])["small", "g0"]
    assert (bad.outcome, good.outcome) == (Outcome.FAIL, Outcome.PASS)
    assert bad.log_e >= bad.log_threshold
    assert good.log_e_safe >= good.log_threshold_safe


@pytest.mark.parametrize("kind", KINDS)
def test_one_more_bad_outcome_is_never_less_evidence_of_harm_or_more_of_safety(kind: str) -> None:
    spec = one(kind)
    before = None
    for small in range(0, 401, 7):
        verdict = judged(spec, [period(spec, 1, counts(small), centres={"unsafe": 0.02})])["small", "g0"]
        if before is not None:
            assert verdict.log_e >= before.log_e - 1e-9
            assert verdict.log_e_safe <= before.log_e_safe + 1e-9
        before = verdict


@pytest.mark.parametrize("kind", KINDS)
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
    verdict = judged(spec, [period(spec, 1, counts(small))])["small", "g0"]
    assert verdict.message.startswith("g0: small unsafe ")
    assert f"{verdict.observed:.3f}" in verdict.message
    assert f"of {verdict.n:,}" in verdict.message
    assert f"{verdict.reference:.3f}" in verdict.message
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
    assert set(judged(spec, [period(spec, 1, counts(300))], arms=arms)) == {("large", "g0")}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("now_ms", [NOW, LONG_AFTER])
def test_periods_before_the_arm_began_do_not_count(kind: str, now_ms: int) -> None:
    spec = one(kind)
    old, new = period(spec, 4, counts(300)), period(spec, 5, counts(4))
    both = judged(spec, [old, new], arms=standings(spec, since=5), now_ms=now_ms)
    assert both == judged(spec, [new], now_ms=now_ms)
    assert both["small", "g0"].outcome is not Outcome.FAIL


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


@pytest.mark.parametrize("kind", KINDS)
def test_each_attempt_spends_less(kind: str) -> None:
    spec = one(kind)
    alpha = [math.exp(-thresholds(spec, spec.guardrails[0], attempt).fail) * 2 for attempt in range(1, 2000)]
    assert alpha == sorted(alpha, reverse=True)
    assert 0.999 * spec.alpha < sum(alpha) < spec.alpha

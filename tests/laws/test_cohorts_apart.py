"""Cohorts with shares of their own: who parts and who stays, what it is worth, and that no comparison is fooled."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from scipy import stats

from bandit.allocate import propose
from bandit.apart import STAYS, parted, propose_each, segments
from bandit.baselines.base import evidence_of
from bandit.guardrails.base import ArmStanding, Folded, Outcome, Verdict
from bandit.guardrails.judge import accumulate, judge
from bandit.inference.report import report_of
from bandit.ledger import Cells, Layout, Period, PeriodTable, comparable, split_table, table
from bandit.simulate.look import Book, Standing, look
from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import Plan, plan
from bandit.simulate.run import rehearse
from bandit.simulate.standard import standard_worlds
from bandit.simulate.world import WorldFile
from bandit.spec.model import ExperimentSpec
from tests.builders import running, spec
from tests.evidence import periods

LATE = 10**10
NAMES = ["other", "a", "b", "c", "d"]
OK = {"name": "ok", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1m"}
APART = {"probability": 0.9, "min_decisions": 1000}


def of(apart: bool = True, **changes: Any) -> ExperimentSpec:
    cohorts: dict[str, Any] = {"attribute": "plan", "values": NAMES[1:]}
    values: dict[str, Any] = {
        "arms": [{"name": "old", "control": True}, {"name": "new"}],
        "metrics": [OK],
        "objective": [{"metric": "ok"}],
        "cohorts": cohorts | {"apart": APART} if apart else cohorts,
        "bounds": {"floor": 0.05, "control_floor": 0.05},
        "unit": {"kind": "request"},
    }
    return spec(**(values | changes))


def world_of(times: list[float], levels: list[float] | None = None, hours: int = 10) -> WorldFile:
    cohorts = []
    for at, name in enumerate(NAMES):
        cohort: dict[str, Any] = {"name": name, "part": 0.2}
        cohort["arms"] = [{"name": "new", "metrics": [{"name": "ok", "times": times[at]}]}]
        if levels is not None:
            cohort["metrics"] = [{"name": "ok", "times": levels[at]}]
        cohorts.append(cohort)
    return WorldFile.model_validate(
        {
            "traffic_per_hour": 20_000,
            "horizon": f"{hours}h",
            "arms": [{"name": "old", "metrics": [{"name": "ok", "mean": 0.2}]}],
            "cohorts": cohorts,
        }
    )


def together(made: Plan) -> Plan:
    """The same world and the same measure of regret, without shares of their own."""
    return replace(made, spec=of(apart=False))


# --- what it is worth ---


@pytest.mark.slow
def test_where_an_arm_is_better_here_and_worse_there_own_shares_lose_less() -> None:
    """Regret against each cohort's best arm, 4 runs of 60 looks: below 0.7 of that of common shares."""
    made = plan(of(), world_of([1.2, 1.2, 0.8, 1.2, 0.8]), 60)
    outcomes = Outcomes(made)
    own, common = (
        np.mean([rehearse(each, outcomes, np.random.default_rng(seed)).regret for seed in range(4)])
        for each in (made, together(made))
    )
    assert own < 0.7 * common


def test_the_cohorts_that_differ_part_within_their_bounds_and_the_others_stay() -> None:
    made = plan(of(), world_of([1.3, 1.3, 0.7, 1.3, 0.7]), 40)
    outcomes, rng = Outcomes(made), np.random.default_rng(2)
    book = Book.empty(made.spec, 40, outcomes.lags, 5, made.period_s)
    standing = Standing.begin(made.spec)
    look(standing, book, made.requests_per_period)
    for period in range(40):
        shares = standing.shares(5)
        assert (shares >= 0.05 - 1e-9).all()
        drawn = outcomes.period(period, shares, rng)
        book.add(drawn, shares, standing.centres, np.array(standing.shares_ppm) / 1e6)
        look(standing, book, made.requests_per_period)
    assert {each.cohort for each in standing.allocation.apart} == {2, 4}
    assert standing.shares_ppm[1] > 900_000
    for each in standing.allocation.apart:
        assert each.ranges.shares_ppm()[0] > 900_000
        assert each.arm == 1
        assert each.chance > 0.9


# --- who parts ---


def told(effects: list[float], n: int = 4000) -> PeriodTable:
    """One period of each cohort: n decisions of each arm, with a rate of 0.3, and 0.3 and the cohort's effect."""
    made = of()
    every, good = (np.zeros((5, 2, len(made.columns))) for _ in range(2))
    every[:, :, 0] = n
    good[:, 0, 0], good[:, 1, 0] = n * 0.3, n * (0.3 + np.array(effects))
    one_each = replace(periods(made, every, good, centre=0.3), cohort=np.arange(5))
    return replace(one_each, number=np.ones(5, np.int64), last=np.ones(5, np.int64))


def apart_of(rows: PeriodTable, before: dict[int, int] | None = None, **rule: Any) -> dict[int, int]:
    cohorts = {"attribute": "plan", "values": NAMES[1:], "apart": APART | rule}
    made = of(cohorts=cohorts)
    before = before or {}
    found = segments(made, evidence_of(made, rows, LATE), frozenset(before))
    return parted(made, found, np.ones(2, np.bool_), before)


def test_a_cohort_parts_when_the_sign_differs_and_never_before_it_has_its_decisions() -> None:
    rows = told([0.05, 0.05, -0.05, 0.05, 0.05])
    assert apart_of(rows) == {2: 1}
    assert apart_of(rows, min_decisions=8001) == {}
    assert apart_of(told([0.05] * 5)) == {}
    assert apart_of(told([0.05, 0.1, 0.02, 0.08, 0.05])) == {}, "other sizes are no other signs"


def test_between_parting_and_joining_nothing_flaps() -> None:
    """The same evidence keeps apart who is apart and together who is together, as long as neither sign is sure."""
    rows = told([0.05, 0.05, -0.012, 0.05, 0.05])
    made = of()
    chance = segments(made, evidence_of(made, rows, LATE), frozenset()).chance[2, 1]
    assert STAYS < chance < 0.9
    assert apart_of(rows) == {}
    assert apart_of(rows, {2: 1}) == {2: 1}
    assert apart_of(told([0.05, 0.05, 0.04, 0.05, 0.05]), {2: 1}) == {}


def test_two_sides_of_one_size_do_not_change_places() -> None:
    """With two against two and one undecided the sign of all is luck; who is apart is compared with who shares."""
    first = apart_of(told([0.005, 0.06, -0.06, 0.06, -0.06]))
    assert first == {2: 1, 4: 1}
    # The sign of all together has changed, that of the cohorts that share has not.
    assert apart_of(told([-0.005, 0.058, -0.06, 0.058, -0.06]), first) == first


def test_a_dead_arm_parts_nobody() -> None:
    rows, made = told([0.05, 0.05, -0.05, 0.05, 0.05]), of()
    found = segments(made, evidence_of(made, rows, LATE), frozenset({2}))
    assert parted(made, found, np.array([True, False]), {2: 1}) == {}


def test_shares_begin_anew_after_a_pause_and_go_on_from_where_they_were_else() -> None:
    """Where no cohort parts, cohorts that may are no reason for another ramp."""
    made = of(bounds={"floor": 0.05, "control_floor": 0.05, "ramp_per_minute": 0.1})
    evidence, live = evidence_of(made, told([0.05] * 5), LATE), np.ones(2, np.bool_)
    _, allocation = running((600_000, 400_000), **made.model_dump(exclude={"experiment"}, exclude_unset=True))
    found = []
    for fresh, before in ((True, None), (False, (600_000, 400_000))):
        got, parting = propose_each(made, evidence, live, [None] * 2, allocation, 30.0, 500.0, fresh=fresh)
        assert parting == ()
        assert got.shares_ppm == propose(made, evidence, live, [None] * 2, before, 30.0, 500.0).shares_ppm
        found.append(got.shares_ppm)
    assert found[0] != found[1]


def test_of_a_batch_the_cohorts_that_share_get_their_part(monkeypatch: pytest.MonkeyPatch) -> None:
    """What an index pours over the requests to come are those that come to them."""
    made = of()
    evidence, live = evidence_of(made, told([0.05, 0.05, -0.05, 0.05, 0.05]), LATE), np.ones(2, np.bool_)
    _, allocation = running((600_000, 400_000), **made.model_dump(exclude={"experiment"}, exclude_unset=True))
    batches = []

    def spy(*args: Any) -> Any:
        batches.append(args[-1])
        return propose(*args)

    monkeypatch.setattr("bandit.apart.propose", spy)
    _, parting = propose_each(made, evidence, live, [None] * 2, allocation, 30.0, 1000.0, fresh=False)
    assert [each.cohort for each in parting] == [2]
    assert batches == [pytest.approx(800.0)]


# --- no comparison is fooled: pitfall 31 ---

LEVELS = np.array([0.1, 0.2, 0.6, 0.3, 0.5])
TOWARDS = np.array([0.1, 0.1, 0.8, 0.1, 0.7])
"""Shares of the new arm by cohort: it is routed to those with a high level."""


def mixed(seed: int, effect: float = 0.0, rows: int = 40) -> list[Period]:
    """Periods of an A/A in which cohorts 2 and 4 are apart, 200 decisions a cohort and period."""
    chance, made = np.random.default_rng(seed), of()
    found = []
    for number in range(1, rows + 1):
        cells = Cells.zeros(Layout(5, 2, len(made.columns)))
        new = chance.binomial(200, TOWARDS)
        n = np.stack([200 - new, new], axis=1)
        good = chance.binomial(n, np.stack([LEVELS, LEVELS + effect], axis=1))
        cells.exposures[:] = n
        cells.sums[:, :, 0, 0] = n
        cells.sums[:, :, 0, 1] = good << 30
        cells.sums[:, :, 0, 2] = good << 30
        apart = {g: tuple(round(1e6 * each) for each in (1 - TOWARDS[g], TOWARDS[g])) for g in (2, 4)}
        found.append(
            Period(
                *(number, number, 1, number * 1000, number * 1000 + 1000),
                shares_ppm=(900_000, 100_000),
                centres=(0.3,),
                cells=cells,
                apart_ppm=apart,
            )
        )
    return found


GUARDED = of(
    guardrails=[
        {"name": "harm", "kind": "harm", "metric": "ok"},
        {"name": "split", "kind": "sample_ratio", "action": "flag"},
        {"name": "worse", "kind": "became_worse", "metric": "ok", "run_length": 1000},
    ],
)
STANDING = [ArmStanding(1, 1, live=True)] * 2


def judged(made: list[Period], folded: Folded | None = None) -> dict[str, Verdict]:
    layout = Layout(5, 2, len(GUARDED.columns))
    whole, rows = table(made, layout), split_table(made, layout)
    found = judge(GUARDED, whole, folded or Folded.empty_of(GUARDED), STANDING, LATE, rows)
    return {each.guardrail: each for each in found}


def test_an_arm_routed_to_better_cohorts_shows_no_effect_in_the_report() -> None:
    """100 mixed A/A runs: the mean effect within 4 standard errors of 0; pooled means would tell of 0.16."""
    made, found, weights = of(), [], []
    for seed in range(100):
        rows = split_table(mixed(seed, rows=10), Layout(5, 2, len(made.columns)))
        report = report_of(made, rows, [True, True], LATE)
        effect = report.metrics[0].arms[1].effect
        assert effect is not None
        found.append((effect.interval.estimate, effect.aipw))
        weights.append([arm.mean_weight - 1.0 for arm in report.traffic.arms])
        assert not report.traffic.mismatch
    for values in (*np.array(found).T, *np.array(weights).T):
        assert abs(values.mean()) < 4 * values.std() / 10, "importance weights have mean 1 too"
    pooled = rows.s1[:, :, 0].sum(axis=0) / rows.n[:, :, 0].sum(axis=0)
    assert pooled[1] - pooled[0] > 0.1


def test_a_harmful_arm_routed_to_better_cohorts_is_seen_through_and_a_healthy_one_is_not_failed() -> None:
    assert all(judged(mixed(seed))["harm"].outcome is not Outcome.FAIL for seed in range(30))
    assert judged(mixed(5, effect=-0.05))["harm"].outcome is Outcome.FAIL


def test_decisions_are_held_against_the_shares_of_their_cohort() -> None:
    for seed in range(20):
        assert judged(mixed(seed))["split"].outcome is not Outcome.FAIL


def test_folding_periods_changes_no_verdict() -> None:
    every = mixed(1)
    layout = Layout(5, 2, len(GUARDED.columns))
    folded = accumulate(
        GUARDED,
        Folded.empty_of(GUARDED),
        table(every[:30], layout),
        np.ones(2, np.int64),
        split_table(every[:30], layout),
    )
    straight, after = judged(every), judged(every[30:], folded)
    for name, verdict in straight.items():
        assert after[name].log_e == pytest.approx(verdict.log_e, abs=1e-9)
        assert after[name].n == verdict.n


def test_groups_with_the_same_shares_are_added_up_and_no_others() -> None:
    every, layout = mixed(1), Layout(5, 2, len(GUARDED.columns))
    whole, rows = table(every, layout), split_table(every, layout)
    alike = comparable(whole, rows)
    assert len(alike.number) == 3 * len(every)
    for name in ("assigned", "n", "s1", "s2"):
        assert getattr(alike, name).sum(axis=0) == pytest.approx(getattr(whole, name).sum(axis=0))
    for period in every:
        period.apart_ppm = {}
    assert comparable(whole, split_table(every, layout)) is whole


def test_a_detector_that_steps_with_every_group_asks_for_as_much_more() -> None:
    apart, alike = judged(mixed(1))["worse"], mixed(1)
    for period in alike:
        period.apart_ppm = {}
    assert apart.log_threshold == pytest.approx(judged(alike)["worse"].log_threshold + np.log(3))


@pytest.mark.slow
def test_releases_of_equal_arms_in_unequal_cohorts_are_rolled_back_no_more_often_than_alpha() -> None:
    """40 runs of 25 looks with cohorts that may part; alpha 0.05, chance of so many below 1e-6."""
    guardrails = [{"name": "harm", "kind": "harm", "metric": "ok"}]
    made = plan(of(guardrails=guardrails), world_of([1.0] * 5, [0.5, 1.0, 2.5, 1.5, 2.0]), 25)
    outcomes = Outcomes(made)
    runs = [rehearse(made, outcomes, np.random.default_rng(seed)) for seed in range(40)]
    failed = sum(bool((each.rolled_back >= 0).any()) for each in runs)
    assert failed <= int(stats.binom.isf(1e-6, 40, 0.05))


def test_who_writes_no_world_is_shown_one_that_cohorts_are_divided_in() -> None:
    (divided,) = (each for each in standard_worlds(of()) if each.world == "divided")
    made = plan(of(), divided, 2)
    effects = made.utility[0, :, 1] - made.utility[0, :, 0]
    assert (np.sign(effects) == [1, -1, 1, -1, 1]).all()
    assert made.best_in.tolist() == [1, 0, 1, 0, 1]
    assert all(each.world != "divided" for each in standard_worlds(of(apart=False)))

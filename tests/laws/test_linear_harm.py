"""Arms whose requests differ by features: what is compared holds at every look, pooled means beside it fail; seeded.
Sums, scores and evidence are the shipped ones.
"""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import PCG64, Generator, SeedSequence

from bandit.guardrails.base import ArmStanding, Folded, Outcome
from bandit.guardrails.by_features import WeighedHarm
from bandit.guardrails.evidence import outcomes
from bandit.guardrails.harm import Harm
from bandit.guardrails.judge import accumulate, judge
from bandit.inference.by_features import by_features, weighed_mean, weighed_terms
from bandit.inference.effects import Interval
from bandit.inference.report import report_of
from bandit.kernels import watch
from bandit.kernels.overlap import LEAST, ODDS, SCORES, TOTAL, TOTAL_SAFE
from bandit.ledger import FloatArray
from bandit.linear.project import bounded_ppm
from bandit.linear.weights import LADDER, mean_sums
from bandit.ranges import PPM
from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import plan
from bandit.simulate.run import rehearse
from bandit.simulate.world import parse_world
from bandit.spec.model import ExperimentSpec
from tests.evidence import periods
from tests.routed import LATE, PERIODS, Releases, made, releases, watched


def ended(found: Releases, spec_: ExperimentSpec, *, weighed: bool) -> list[Outcome]:
    """Verdicts of the whole judge at the end of every release."""
    arms = [ArmStanding(1, 1, live=True)] * 2
    verdicts = [
        judge(spec_, found.table(spec_, run, weighed=weighed), Folded.empty_of(spec_), arms, LATE, told=False)
        for run in range(found.n.shape[1])
    ]
    return [each.outcome for (each,) in verdicts]


@cache
def alike(runs: int) -> Releases:
    """Arms with equal bad outcomes for every request, and routed."""
    return releases(runs, np.ones(2), 11)


def test_equal_arms_are_rolled_back_in_fewer_releases_than_alpha() -> None:
    """Measured: 4 of 1,000 at alpha 5 %; the challenger serves the kind that fails four times as often."""
    spec_, found = made(), alike(600)
    served = found.n.sum(axis=(0, 1))
    assert served[1, 1] > 0.8 * served[1].sum()
    assert served[0, 1] < 0.2 * served[0].sum()
    assert (watched(found, spec_).failed < PERIODS).mean() <= spec_.alpha


def test_pooled_counts_of_the_same_releases_roll_equal_arms_back() -> None:
    """Why counts will not do: measured, all 60 of 60 releases."""
    pooled = ended(alike(600).first(60), made("thompson"), weighed=False)
    assert pooled.count(Outcome.FAIL) >= 54
    assert ended(alike(600).first(60), made(), weighed=True).count(Outcome.FAIL) == 0


@pytest.mark.parametrize(("worse", "least", "within"), [(2.0, 0.98, 12), (1.5, 0.9, 30)])
def test_harm_is_found_on_the_requests_that_the_arm_serves(worse: float, least: float, within: int) -> None:
    """Measured medians of 730 requests of the arm for twice, 2,600 for half as many bad outcomes more."""
    found = watched(releases(200, np.full(2, worse), 13), made())
    assert (found.failed < PERIODS).mean() >= least
    assert np.median(found.failed) <= within


def test_an_arm_that_is_kept_from_those_it_would_harm_stays() -> None:
    """Twice the bad outcomes for the kind that it hardly serves, 0.8 times them for its own: no harm is done."""
    found = watched(releases(200, np.array([2.0, 0.8]), 17), made())
    assert (found.failed < PERIODS).mean() <= 0.05


def test_safety_is_shown_where_the_arm_is_far_within_its_margin() -> None:
    safe = made(guardrails=[{"name": "harm", "kind": "harm", "metric": "bad", "margin": 2.0}])
    found = watched(releases(100, np.full(2, 0.7), 19), safe)
    assert found.passed.mean() >= 0.9
    wrong = watched(releases(150, np.full(2, 2.0), 23), safe)
    assert wrong.passed.mean() <= 0.05


def effects(found: Releases, spec_: ExperimentSpec, run: int, ends: list[int]) -> list[Interval]:
    """The report's interval of the metric ``bad`` at some looks."""
    table, intervals = found.table(spec_, run), []
    for end in ends:
        rows = table.rows(np.arange(end))
        report = by_features(report_of(spec_, rows, [True] * 2, LATE), spec_, rows, LATE)
        effect = report.metrics[0].arms[1].effect
        assert effect is not None
        intervals.append(effect.interval)
    return intervals


def test_intervals_of_the_report_cover_at_every_look_and_plain_means_do_not() -> None:
    """An effect of 0.04 on all requests alike. Measured: misses at some look in 0 of 150, plain means in all."""
    spec_, found, ends = made(), releases(100, np.ones(2), 29, add=0.04), [2, 4, 8, 16, 28, PERIODS]
    missed = plain = 0
    last = []
    for run in range(100):
        shown = effects(found, spec_, run, ends)
        missed += any(not each.low <= 0.04 <= each.high for each in shown)
        last.append(shown[-1])
        n, bad = (each[:, run].sum(axis=(0, 1)) for each in (found.n, found.bad))
        rate = bad / n
        half = 1.96 * np.sqrt((rate * (1.0 - rate) / n).sum())
        plain += abs(rate[1] - rate[0] - 0.04) > half
    assert missed <= 0.05 * 100
    assert plain >= 0.95 * 100
    error = np.array([each.estimate - 0.04 for each in last])
    assert abs(error.mean()) <= 4.0 * error.std() / np.sqrt(100)
    assert np.median([each.high - each.low for each in last]) <= 0.18


def test_one_pair_of_a_judge_is_what_was_watched() -> None:
    """The judge adds the same periods at once that are added one by one above."""
    spec_, found = made(), releases(5, np.full(2, 2.0), 31)
    for run, outcome in enumerate(ended(found, spec_, weighed=True)):
        assert (outcome is Outcome.FAIL) == (watched(found, spec_).failed[run] < PERIODS)


def one_request(
    spec_: ExperimentSpec, shares: tuple[int, ...], m: float, *, of_mean: bool
) -> dict[tuple[int, int], FloatArray]:
    """Scores [SCORES] of the small arm, by (arm, value) of a single request."""
    found = {}
    for arm, value in np.ndindex(len(shares), 2):
        n = np.zeros((1, 1, len(shares), 2))
        n[0, 0, arm] = 1.0
        table = periods(spec_, n[:, 0], value * n[:, 0], centre=m)
        table = replace(
            table, weighed=mean_sums(n, value * n, value * n, np.array(shares)[None, None] / PPM, 0)
        )
        every = outcomes(spec_, "bad", table, LATE, of_mean=of_mean)
        sums = np.zeros(watch.COLUMNS)
        guardrail = spec_.guardrails[0]
        weighed = WeighedHarm(spec_, guardrail, table, every, of_mean=of_mean)
        weighed.add(float(Harm().params(spec_, guardrail)[0]), sums, 1, np.ones(1, np.bool_))
        found[arm, value] = sums[watch.BLOCK : watch.BLOCK + SCORES]
    return found


@given(
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3),
    st.floats(0.0, 1.0),
    st.floats(0.0, 1.0),
    st.sampled_from([1.0, 1.25, 3.0]),
    st.sampled_from(["minimize", "maximize", "mean"]),
)
@settings(max_examples=120, deadline=None)
def test_one_request_adds_nothing_in_the_mean_where_the_null_holds(
    p: list[float], m: float, rate: float, margin: float, way: str
) -> None:
    """Of every draw and value, exactly: e-values have a mean of at most 1, whatever the shares, the centre, the margin;
    and the sum of scores grows by h times the difference."""
    shares = bounded_ppm([each + 1e-3 for each in p], [0] * 3, [PPM] * 3)
    direction = "minimize" if way == "minimize" else "maximize"
    of_mean = way == "mean"
    guardrail = {"name": "harm", "kind": "harm", "metric": "bad", "margin": margin}
    spec_ = made(
        arms=[{"name": "control", "control": True}, {"name": "small"}, {"name": "large"}],
        metrics=[
            {"name": "bad", "kind": "bernoulli", "direction": direction, "attribution_window": "1s"},
            {"name": "good", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1s"},
        ],
        guardrails=[guardrail | ({"margin_of": "mean"} if of_mean else {})],
    )
    r = float(Harm().params(spec_, spec_.guardrails[0])[0])
    scores = one_request(spec_, shares, m, of_mean=of_mean)
    # Means of what the sums count: badness, or the value itself; arm and control at the edge of the null.
    control = min(rate, 1.0 / r)
    arm = min(r * control, 1.0)
    if direction == "maximize" and not of_mean:
        control, arm = 1.0 - control, 1.0 - arm
    chance = np.array(shares) / PPM
    means = [control, arm, 0.5]
    total: FloatArray = np.zeros(SCORES)
    mean_e: FloatArray = np.zeros(SCORES)
    for (k, value), block in scores.items():
        probability = chance[k] * (means[k] if value else 1.0 - means[k])
        total += probability * block
        mean_e += probability * np.exp(block)
    assert (mean_e[ODDS:] <= 1.0 + 1e-6).all()
    assert abs(total[TOTAL]) <= 1e-6
    assert abs(total[TOTAL_SAFE]) <= 1e-6
    assert min(block[TOTAL] for block in scores.values()) >= -LEAST - 1e-9
    assert min(block[TOTAL_SAFE] for block in scores.values()) >= -LEAST - 1e-9


def test_means_beside_the_controls_are_of_like_requests() -> None:
    """Equal arms: plain means of the two are far apart, those of like requests are not."""
    spec_, found = made(), alike(600)
    gaps, plain = [], []
    for run in range(40):
        mean = weighed_mean(spec_, found.table(spec_, run), 0, 1, LATE)
        gaps.append(mean.mean - mean.control)
        n, bad = (each[:, run].sum(axis=(0, 1)) for each in (found.n, found.bad))
        plain.append(bad[1] / n[1] - bad[0] / n[0])
        assert 0.0 < mean.covered < 0.5
    assert abs(np.mean(gaps)) < 0.02 < 0.1 < np.mean(plain)


def test_folded_periods_are_in_the_evidence_once() -> None:
    spec_, found = made(), releases(1, np.full(2, 1.2), 37)
    arms = [ArmStanding(1, 1, live=True)] * 2
    table = found.table(spec_, 0)
    (whole,) = judge(spec_, table, Folded.empty_of(spec_), arms, LATE)
    old = np.arange(PERIODS) < 25
    folded = accumulate(spec_, Folded.empty_of(spec_), table.rows(old), np.ones(2, np.int64))
    rest = replace(table, block=old)
    (apart,) = judge(spec_, rest, folded, arms, LATE)
    assert apart.log_e == pytest.approx(whole.log_e, rel=1e-9)
    assert apart.log_e != 0.0
    assert (apart.n, apart.n_control) == (whole.n, whole.n_control)
    assert apart.observed == pytest.approx(whole.observed)
    assert apart.reference == pytest.approx(whole.reference)


def test_the_sums_of_an_effect_are_those_of_the_formula() -> None:
    """900 rewards of the control and 1,000 of the arm at even shares, 0.3 each: checked by hand for any centre."""
    spec_, n = made(), np.array([900.0, 1000.0])[None, None, :, None] * np.ones((1, 1, 2, 2))
    table = periods(spec_, n[:, 0], 0.3 * n[:, 0])
    weighed = mean_sums(n, 0.3 * n, 0.3 * n, np.full((1, 1, 2), 0.5), 0)
    # Shares of a half: every reward counts the step below a half, over a half.
    w = max(each for each in LADDER if each <= 500_000) / 500_000
    for m in (0.0, 0.3, 0.9):
        rows = replace(table, weighed=weighed, centre=np.full((1, 2), m))
        (a, s, v), rewards, of_control = weighed_terms(spec_, rows, 0, 1, LATE)
        assert (rewards, of_control) == (1000.0, 900.0)
        assert a == pytest.approx(950.0 * w)
        assert s == pytest.approx(100.0 * w * (0.3 - m), abs=1e-4)
        half = 0.5 * s / a
        around = [
            1000.0 * (0.21 + (0.3 - m - each) ** 2) + 900.0 * (0.21 + (0.3 - m + each) ** 2)
            for each in (0.0, half)
        ]
        assert v == pytest.approx(w * w * max(around), rel=1e-4)


WORLD = """
world: routed
traffic_per_hour: 1000
horizon: 1d
arms:
  - {{name: control, metrics: [{{name: good, mean: 0.3}}]}}
segments:
  - {{name: free, part: 0.5, attributes: {{plan: free}},
     arms: [{{name: control, metrics: [{{name: bad, mean: 0.05}}]}},
            {{name: small, metrics: [{{name: good, mean: 0.2}}, {{name: bad, mean: {0}}}]}}]}}
  - {{name: pro, part: 0.5, attributes: {{plan: pro}},
     arms: [{{name: control, metrics: [{{name: bad, mean: 0.15}}]}},
            {{name: small, metrics: [{{name: good, mean: 0.4}}, {{name: bad, mean: {1}}}]}}]}}
"""


@pytest.mark.parametrize("rule", ["lin_ts", "lin_ucb"])
def test_rehearsals_run_the_guardrail_and_the_allocator_that_serve(rule: str) -> None:
    """Measured with lin_ts: 2 of 200 releases of equal arms rolled back, all of 40 with twice the bad outcomes."""
    spec_ = made(allocator={"kind": rule}, bounds={"floor": 0.02, "control_floor": 0.05})
    fell = {}
    for name, levels in (("equal", (0.05, 0.15)), ("thrice", (0.15, 0.45))):
        planned = plan(spec_, parse_world(WORLD.format(*levels), "world", spec_), 24)
        drawn = Outcomes(planned)
        runs = [rehearse(planned, drawn, Generator(PCG64(SeedSequence([7, run])))) for run in range(3)]
        fell[name] = [int(run.fell[0, 1]) for run in runs]
    assert fell["equal"] == [-1] * 3
    assert all(0 <= each <= 6 for each in fell["thrice"])

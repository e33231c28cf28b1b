"""What reports promise while Thompson sampling moves the shares: cover at every look, no false winner, no curse.

Seeded; every bound is at least five standard errors of the simulation away from what was measured, which is written
beside it. Where a usual method goes wrong it runs beside ours, to show that the world is hard.
"""

from __future__ import annotations

import math

import numpy as np
import pytest

from bandit.inference.effects import BOUND, LEVEL, RHOS, Outcome, interval, pair_of
from bandit.inference.outcomes import events
from bandit.inference.terms import PHI, PHI2, A, N, S, V, pair_terms
from bandit.kernels.intervals import log_better_e
from bandit.kernels.jit import kernel
from bandit.kernels.signals import log_sample_ratio
from bandit.ledger import FloatArray
from tests.adaptive import Runs, bandit_runs, leaves_out, terms_so_far
from tests.guardrail_periods import guarded

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

TWO_SIDED = math.log(2.0 / (1.0 - LEVEL))
RISING = np.linspace(0.05, 0.20, 50)


def missing(found: FloatArray, truth: FloatArray) -> float:
    """Part of the runs whose exact interval leaves the truth [.., E] out at some look."""
    wide = np.broadcast_to(truth, found.shape[:2]) * found[:, :, A]
    out = leaves_out(found[:, :, S], found[:, :, V], np.ascontiguousarray(wide), TWO_SIDED, RHOS, BOUND)
    return float(out.any(axis=1).mean())


def naive_missing(runs: Runs, truth: float, k: int = 1) -> float:
    """The same of the difference of plain means, with its 95 % interval of one look, from 5 ones in each arm on."""
    n, s1 = np.cumsum(runs.n, axis=1), np.cumsum(runs.s1, axis=1)
    rate = s1 / np.maximum(n, 1.0)
    se = np.sqrt((rate * (1.0 - rate) / np.maximum(n, 1.0))[:, :, [0, k]].sum(axis=2))
    enough = s1[:, :, [0, k]].min(axis=2) >= 5
    return float((enough & (np.abs(rate[:, :, k] - rate[:, :, 0] - truth) > 1.96 * se)).any(axis=1).mean())


@pytest.mark.parametrize(
    ("means", "floor", "naive_least"),
    [([0.1, 0.1], 0.01, 0.28), ([0.5, 0.5], 0.01, 0.25), ([0.1, 0.11, 0.1], 0.02, 0.25)],
)
def test_intervals_cover_at_every_look_where_naive_ones_do_not(
    means: list[float], floor: float, naive_least: float
) -> None:
    runs = bandit_runs(11, 1000, means, floor=floor)
    truth = means[1] - means[0]
    # Measured 0.000 to 0.002; with the bound of one look on the same sums 0.20 to 0.29.
    assert missing(terms_so_far(runs), np.array(truth)) <= 0.02
    # Measured 0.35.
    assert naive_missing(runs, truth) >= naive_least


def test_intervals_cover_while_the_baseline_rises_and_the_effect_turns() -> None:
    effect = np.linspace(0.08, -0.04, 50)
    runs = bandit_runs(12, 1000, np.stack([RISING, np.clip(RISING + effect, 0.0, 1.0)], axis=1))
    found = terms_so_far(runs)
    weight = np.diff(found[:, :, A], axis=1, prepend=0.0)
    target = np.cumsum(weight * effect, axis=1) / np.maximum(np.cumsum(weight, axis=1), 1e-12)
    assert missing(found, target) <= 0.02
    assert naive_missing(runs, float(effect.mean())) >= 0.9


def test_the_shipped_interval_is_what_was_simulated() -> None:
    runs = bandit_runs(13, 40, [0.1, 0.12])
    found, outcome = terms_so_far(runs), Outcome({0: 1.0}, "exact")
    for run in range(40):
        row = found[run, -1]
        shown = interval(outcome, pair_of(outcome, row[None], {}), events=0.0)
        assert shown.method == "exact"
        for truth in (shown.low - 1e-6, shown.low + 1e-6, shown.high - 1e-6, shown.high + 1e-6):
            out = leaves_out(
                row[None, [S]], row[None, [V]], np.array([[truth * row[A]]]), TWO_SIDED, RHOS, BOUND
            )
            assert bool(out[0, 0]) == (not shown.low < truth < shown.high)


@kernel
def best_evidence(s: FloatArray, v: FloatArray, rhos: FloatArray, c: float) -> FloatArray:
    """[R] highest ln E over the looks that the first arm is better, or that the second is."""
    out = np.zeros(s.shape[0])
    for run in range(s.shape[0]):
        for look in range(s.shape[1]):
            if s[run, look] ** 2 > 2.0 * out[run] * v[run, look]:
                out[run] = max(out[run], log_better_e(abs(s[run, look]), v[run, look], rhos, c))
    return out


def test_two_equal_arms_have_no_winner_though_p_best_finds_one() -> None:
    runs = bandit_runs(14, 1000, [0.5, 0.5], periods=200, batch=100, floor=0.01)
    found = terms_so_far(runs)
    threshold = math.log(2 * 1 / 0.05)
    won = best_evidence(found[:, :, S], found[:, :, V], RHOS, BOUND) >= threshold
    # Measured 0.000.
    assert won.mean() <= 0.05 / 2
    # The share of an arm is P(best) up to the floor: measured 0.66.
    crossed = (runs.share > 0.95).any(axis=(1, 2))
    assert crossed.mean() >= 0.5


def test_a_better_arm_wins() -> None:
    runs = bandit_runs(15, 300, [0.5, 0.6], periods=100, batch=200, floor=0.05)
    found = terms_so_far(runs)
    assert (best_evidence(found[:, :, S], found[:, :, V], RHOS, BOUND) >= math.log(40)).mean() >= 0.95


@pytest.mark.parametrize(
    "means", [[0.10, 0.12, 0.12, 0.12], [0.10, 0.10, 0.10, 0.10], [0.10, 0.10, 0.11, 0.14]]
)
def test_the_reported_lift_of_the_chosen_arm_is_free_of_the_winners_curse(means: list[float]) -> None:
    runs = bandit_runs(16, 1000, means, floor=0.02)
    every, total = np.arange(1000), runs.n.sum(axis=(1, 2))
    found = np.stack([terms_so_far(runs, arm) for arm in (1, 2, 3)], axis=2)
    phi = np.diff(found[..., PHI], axis=1, prepend=0.0)
    leading = np.argmax(runs.share[:, :, 1:], axis=2)[..., None]
    lift = np.take_along_axis(phi, leading, axis=2)[..., 0].sum(axis=1) / total
    chosen = np.argmax(runs.share[:, -1, 1:], axis=1)
    true = np.array(means)[1 + chosen] - means[0]

    def bias(reported: FloatArray) -> float:
        return float((reported - true).mean() / reported.std())

    of_chosen = bias(found[every, -1, chosen, PHI] / found[every, -1, chosen, N])
    pooled = runs.s1.sum(axis=1) / np.maximum(runs.n.sum(axis=1), 1.0)
    # One standard error of the simulation is 0.03. Measured for plain means: 0.64, 0.63 and 0.29.
    assert bias(pooled[every, 1 + chosen] - pooled[:, 0]) >= 0.12
    if means.count(max(means)) > 1:
        # Chance chooses among equals: the lift of the leader has 0.00 and -0.02, AIPW of the chosen arm 0.31 and 0.50.
        assert abs(bias(lift)) <= 0.2
        assert of_chosen >= 0.12
    else:
        # One is best: AIPW has -0.01; the leader's lift -0.14, since at first another one led. It never flatters.
        assert abs(of_chosen) <= 0.2
        assert -0.35 <= bias(lift) <= 0.05


def test_aipw_has_no_bias_and_its_standard_error_is_right() -> None:
    runs = bandit_runs(17, 2000, [0.1, 0.13], floor=0.05)
    row = terms_so_far(runs)[:, -1]
    mean = row[:, PHI] / row[:, N]
    se = np.sqrt(row[:, PHI2] - row[:, N] * mean**2) / row[:, N]
    assert abs(mean.mean() - 0.03) <= 5.0 * mean.std() / math.sqrt(2000)
    assert se.mean() == pytest.approx(mean.std(), rel=0.15)


def test_the_mean_importance_weight_is_one_unless_decisions_go_to_another_version() -> None:
    runs = bandit_runs(18, 1000, [0.1, 0.12, 0.11], floor=0.02)

    def distance(share: FloatArray, n: FloatArray) -> FloatArray:
        total = n.sum(axis=2)[:, :, None]
        mean = (n / share).sum(axis=1) / total.sum(axis=1)
        se = np.sqrt((total * (1.0 / share - 1.0)).sum(axis=1)) / total.sum(axis=1)
        return np.asarray((mean - 1.0) / se)

    honest = distance(runs.share, runs.n)
    # Three standard errors: measured 0.4 % of the arms, in the mean within 0.05 of 0.
    assert (np.abs(honest) > 3.0).mean() <= 0.02
    assert np.abs(honest.mean(axis=0)).max() <= 0.2
    # The share that was current when the reward came, in place of that of the decision: measured 0.90.
    swapped = distance(runs.share[:, 1:], runs.n[:, :-1])
    assert (np.abs(swapped) > 3.0).any(axis=1).mean() >= 0.5


def test_honest_traffic_is_hardly_ever_called_a_mismatch_and_lost_choices_are() -> None:
    runs = bandit_runs(19, 1000, [0.1, 0.12, 0.11], floor=0.05)
    threshold = math.log(1000.0)
    honest = np.array([log_sample_ratio(n, w) for n, w in zip(runs.n, runs.share, strict=True)])
    # At 1e-3 each of 1,000 runs ends above with chance below 1e-3: more than 9 has chance 1e-7.
    assert (honest >= threshold).sum() <= 9
    rng = np.random.default_rng(20)
    lost = runs.n.copy()
    lost[:, :, 0] = rng.binomial(lost[:, :, 0].astype(np.int64), 0.5)
    broken = np.array([log_sample_ratio(n, w) for n, w in zip(lost[:50], runs.share[:50], strict=True)])
    assert (broken >= threshold).mean() >= 0.95


def test_skewed_values_wait_for_enough_rewards_before_an_asymptotic_interval() -> None:
    rng = np.random.default_rng(21)
    runs, looks, batch, share, top = 300, 60, 500, 0.05, 1e4
    n = np.stack([np.zeros((runs, looks)), rng.binomial(batch, share, (runs, looks))], axis=2)
    n[..., 0] = batch - n[..., 1]
    cell = np.repeat(np.arange(n.size), n.ravel().astype(np.int64))
    x = np.minimum(rng.lognormal(0.0, 2.0, len(cell)), top) / top
    s1, s2 = (np.bincount(cell, each, n.size).reshape(n.shape) for each in (x, x * x))
    before = np.cumsum(s1[..., 0], axis=1) - s1[..., 0]
    centre = (before / np.maximum(np.cumsum(n[..., 0], axis=1) - n[..., 0], 1.0))[..., None]
    wide = np.broadcast_to(np.array([1.0 - share, share]), n.shape)
    terms = pair_terms(n, s1 - n * centre, s2 - 2.0 * centre * s1 + n * centre**2, wide, [(1, 0)])
    found = np.cumsum(terms[:, :, 0], axis=1)
    sums = np.cumsum(np.stack([n, s1, s2]), axis=2)
    metric = {"name": "revenue", "kind": "revenue", "direction": "maximize", "range": [0, top]}
    spec = guarded(metrics=[metric], objective=[{"metric": "revenue"}])
    outcome = Outcome({0: top}, "asymptotic")

    def misses(run: int, *, waits: bool) -> bool:
        for look in range(looks):
            ripe = sums[:, run, look][:, None, :]
            enough = events(spec, outcome, ripe, (1, 0)) if waits else math.inf
            shown = interval(outcome, pair_of(outcome, found[run, look][None], {}), enough)
            if not shown.low <= 0.0 <= shown.high:
                return True
        return False

    # Measured 0.18 of the runs, nominal 0.05; and 0 of them when it waits.
    assert np.mean([misses(run, waits=False) for run in range(runs)]) >= 0.08
    assert np.mean([misses(run, waits=True) for run in range(runs)]) <= 0.02

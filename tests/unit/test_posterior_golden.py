"""Posteriors of each kind against closed forms in 40 digits, and what each kind is for."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.kernels.best_arm import best_arm
from bandit.posteriors import POSTERIORS, SECOND
from bandit.posteriors.bernoulli import Bernoulli
from bandit.posteriors.exponential import Exponential
from bandit.posteriors.gaussian import Gaussian, nig_state
from bandit.posteriors.hurdle import digamma, log_rate, trigamma
from bandit.posteriors.lognormal import log_moments
from bandit.posteriors.poisson import Poisson, dispersion
from bandit.posteriors.rating import Rating, dirichlet_mean
from bandit.posteriors.ratio import Ratio
from bandit.posteriors.revenue import Revenue
from bandit.reading import MetricSums, Sums
from bandit.spec.metric import Metric, MetricKind
from tests.values import MEANS, added, drawn, experiment, sums_of

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "posteriors.json").read_text())


def one(*values: float) -> MetricSums:
    return MetricSums(Sums(*(np.array([value]) for value in values)))


def measure(kind: MetricKind, **changes: Any) -> Metric:
    return experiment(kind, metric=changes).metrics[-1]


@pytest.mark.parametrize("row", GOLDEN["gamma_poisson"]["rows"])
def test_counts(row: dict[str, Any]) -> None:
    a0, b0, total, n = (float(row[key]) for key in ("a0", "b0", "sum", "exposure"))
    most = 64.0
    metric = measure(MetricKind.POISSON, range=[0, most], prior={"mean": a0 / b0, "strength": b0})
    params = Poisson().parameters(metric, one(n, total / most, total**2 / n / most**2))
    assert params[0, :2] == pytest.approx([float(row["a"]), float(row["b"]) * most], rel=1e-14)
    mean, sd = Poisson().moments(params)
    assert mean[0] * most == pytest.approx(float(row["mean"]), rel=1e-14)
    assert (sd[0] * most) ** 2 == pytest.approx(float(row["var"]), rel=1e-13)


@pytest.mark.parametrize("row", GOLDEN["gamma_exponential_mean"]["rows"])
def test_waiting_times(row: dict[str, Any]) -> None:
    a0, b0, n, total = (float(row[key]) for key in ("a0", "b0", "n", "sum"))
    most = 64.0
    prior = {"mean": b0 / (a0 - 1.0), "strength": a0 - 1.0}
    metric = measure(MetricKind.EXPONENTIAL, range=[0, most], prior=prior)
    params = Exponential().parameters(metric, one(n, total / most, 0.0))
    assert params[0, :2] == pytest.approx([float(row["a"]), float(row["b"]) / most], rel=1e-14)
    mean, sd = Exponential().moments(params)
    assert mean[0] * most == pytest.approx(float(row["mean_of_mean"]), rel=1e-14)
    assert (sd[0] * most) ** 2 == pytest.approx(float(row["var_of_mean"]), rel=1e-13)


@pytest.mark.parametrize("row", GOLDEN["dirichlet_ratings"]["rows"])
def test_ratings(row: dict[str, Any]) -> None:
    alpha = np.array([row["prior"]], np.float64) + np.array([row["counts"]])
    mean, sd = dirichlet_mean(alpha, np.array(row["values"], np.float64)).T
    assert mean[0] == pytest.approx(float(row["mean"]), rel=1e-14)
    assert sd[0] ** 2 == pytest.approx(float(row["var"]), rel=1e-13)


@pytest.mark.parametrize("row", GOLDEN["hurdle_lognormal_log_mean"]["rows"])
def test_log_means(row: dict[str, Any]) -> None:
    chance, spread = log_rate(np.array([[float(each) for each in row["beta"]]]))
    assert chance[0] == pytest.approx(float(row["E_log_p"]), rel=1e-13)
    assert spread[0] == pytest.approx(float(row["V_log_p"]), rel=1e-11)
    m0, k0, a0, b0 = (float(each) for each in row["nig_prior"])
    n, s1, s2 = (np.array([float(row[key])]) for key in ("n", "sum_log", "sum_log_sq"))
    size, unsure = log_moments(*nig_state(n, s1, s2 - s1 * s1 / n, m0, k0, a0, b0))
    assert size[0] == pytest.approx(float(row["E_log_pos_mean"]), rel=1e-13)
    assert unsure[0] == pytest.approx(float(row["V_log_pos_mean"]), rel=1e-12)
    assert chance[0] + size[0] == pytest.approx(float(row["E_total"]), rel=1e-12)
    assert spread[0] + unsure[0] == pytest.approx(float(row["V_total"]), rel=1e-12)


def test_psi_at_known_points() -> None:
    """psi(1) = -Euler's constant, psi(1/2) = psi(1) - 2 ln 2; psi'(1) = pi^2 / 6, psi'(1/2) = pi^2 / 2."""
    euler = 0.57721566490153286061
    x = np.array([1.0, 0.5, 1e-6, 1e9])
    known = [-euler, -euler - 2 * np.log(2), -1e6 - euler + np.pi**2 / 6 * 1e-6, np.log(1e9) - 0.5e-9]
    assert digamma(x) == pytest.approx(known, rel=1e-13)
    slopes = [np.pi**2 / 6, np.pi**2 / 2, 1e12 + np.pi**2 / 6, 1e-9 + 0.5e-18]
    assert trigamma(x) == pytest.approx(slopes, rel=1e-13)


def test_the_log_mean_is_that_of_draws() -> None:
    """mu and s^2 drawn from the normal-inverse-gamma; E and Var of mu + s^2 / 2."""
    m, k, a, b = (np.array([each]) for each in (0.7, 12.0, 9.0, 5.0))
    chance = np.random.default_rng(1)
    square = b[0] / chance.gamma(a[0], 1.0, 400_000)
    drawn_means = chance.normal(m[0], np.sqrt(square / k[0])) + 0.5 * square
    mean, variance = log_moments(m, k, a, b)
    assert mean[0] == pytest.approx(drawn_means.mean(), abs=6 * drawn_means.std() / np.sqrt(400_000))
    assert variance[0] == pytest.approx(drawn_means.var(), rel=0.03)


@pytest.mark.parametrize("kind", POSTERIORS)
def test_a_learnt_mean_is_the_mean_of_the_values(kind: MetricKind) -> None:
    """By the posterior's definition: sums of many values, in the metric's own unit."""
    made = experiment(kind, 2)
    values = drawn(kind, np.random.default_rng(3), list(MEANS[kind][:2]), 4000)
    metric = made.metrics[-1]
    low, high = metric.scale
    rule = POSTERIORS[kind]
    mean, _ = rule.moments(rule.parameters(metric, sums_of(made, added(made, values))))
    if kind is MetricKind.RATIO:
        truth = values["above"].sum(axis=1) / values["below"].sum(axis=1)
    else:
        truth = np.clip(values["m"], low, high).mean(axis=1)
    assert low + (high - low) * mean == pytest.approx(truth, rel=0.02)


def test_two_values_far_apart_make_no_mean_above_the_range() -> None:
    """ln x from -5 to 6: the matched normal alone would have a mean of thousands of ranges."""
    made = experiment(MetricKind.LOGNORMAL, 2)
    values = {"m": np.array([[0.007, 400.0, 0.007], [3.0, 5.0, 4.0]])}
    sums = sums_of(made, added(made, values))
    for rule in (POSTERIORS[MetricKind.LOGNORMAL], SECOND[MetricKind.REVENUE]):
        mean, sd = rule.moments(rule.parameters(made.metrics[0], sums))
        assert (mean <= 1.1).all()
        assert (sd < 30.0).all()


def test_a_winner_of_seven_samples_is_not_certain() -> None:
    """Five arms of sd 0.3 and seven rewards each: .99 leads .49, and P(best) says how far that goes."""
    means, sd, n = np.array([0.25, 0.06, 0.12, 0.49, 0.99]), 0.3, np.full(5, 7.0)
    metric = measure(MetricKind.GAUSSIAN, range=[-2, 3])
    x = (means + 2.0) / 5.0
    rule = POSTERIORS[MetricKind.GAUSSIAN]
    sums = MetricSums(Sums(n, n * x, n * (x * x + (sd / 5.0) ** 2)))
    best = best_arm(rule.family, rule.parameters(metric, sums))
    assert 0.97 < best.p[4] < 0.9999
    assert best.p[3] > 1e-4


def test_small_rates_are_not_believed_to_be_a_half() -> None:
    """An arm with few requests among many of rate 0.001 is believed to be like them, and still worth a try."""
    n, s = np.array([1e6, 1e6, 20.0]), np.array([1000.0, 1100.0, 0.0])
    mean, sd = Bernoulli().moments(
        Bernoulli().parameters(measure(MetricKind.BERNOULLI), MetricSums(Sums(n, s, s)))
    )
    assert mean == pytest.approx([1e-3, 1.1e-3, 1e-3], rel=0.1)
    assert sd[2] == pytest.approx(1e-3, rel=0.1)


def test_rare_bad_outcomes_are_feared_of_who_was_tried_less() -> None:
    """Four times as many as all arms have, never more than half; good ones are never hoped for beyond that."""
    n = np.array([1e6, 1e6, 0.0])
    for worse, feared in ((0.001, 0.004), (0.02, 0.08), (0.1, 0.4), (0.2, 0.5), (0.6, 0.6), (0.98, 0.98)):
        s = worse * n
        bad = Bernoulli().parameters(
            measure(MetricKind.BERNOULLI, direction="minimize"), MetricSums(Sums(n, s, s))
        )
        good = Bernoulli().parameters(measure(MetricKind.BERNOULLI), MetricSums(Sums(n, n - s, n - s)))
        assert bad == pytest.approx(good[:, ::-1], rel=1e-9)
        assert Bernoulli().moments(bad)[0][2] == pytest.approx(feared, rel=1e-3)
        assert bad[2].min() == pytest.approx(1.0, rel=1e-3)
        if worse < 0.1:  # a new arm among many requests is feared, and still tried
            assert best_arm(Bernoulli().family, bad, lowest=True).p[2] > 0.1


def test_failures_are_not_exposures() -> None:
    """95 of 100 under a uniform prior: 96 / 102, not 96 / 197."""
    metric = measure(MetricKind.BERNOULLI, prior={"mean": 0.5, "strength": 2})
    mean, _ = Bernoulli().moments(Bernoulli().parameters(metric, one(100.0, 95.0, 95.0)))
    assert mean[0] == pytest.approx(0.941176470588, abs=1e-9)


def test_a_fraction_splits_into_success_and_failure() -> None:
    metric = measure(MetricKind.FRACTION, prior={"mean": 0.5, "strength": 2})
    rule = POSTERIORS[MetricKind.FRACTION]
    assert rule.parameters(metric, one(1.0, 0.3, 0.09))[0] == pytest.approx([1.3, 1.7])


def counts(kind: str, size: int = 400) -> MetricSums:
    chance = np.random.default_rng(9)
    x = (
        chance.poisson(3.0, (3, size))
        if kind == "poisson"
        else chance.poisson(chance.gamma(0.5, 6.0, (3, size)))
    )
    made = experiment(MetricKind.POISSON, metric={"range": [0, 100]})
    return sums_of(made, added(made, {"m": x.astype(np.float64)}))


def test_counts_that_vary_more_than_poisson_are_believed_as_real_numbers_are() -> None:
    """Variance 7 times the mean: the sd is that of the normal-inverse-gamma posterior, not 1 / sqrt(7) of it."""
    metric = measure(MetricKind.POISSON, range=[0, 100])
    wide, narrow = counts("negative binomial"), counts("poisson")
    assert dispersion(wide, 100.0) == pytest.approx([7.0] * 3, rel=0.35)
    assert dispersion(narrow, 100.0).tolist() == [1.0] * 3
    for sums in (wide, narrow):
        mean, sd = Poisson().moments(Poisson().parameters(metric, sums))
        real_mean, real_sd = Gaussian().moments(Gaussian().parameters(metric, sums))
        assert mean == pytest.approx(real_mean, rel=0.01)
        assert sd == pytest.approx(real_sd, rel=0.08)


def test_scores_are_read_from_the_same_counts() -> None:
    """Other worth of the levels, nothing learnt anew; the levels' own unit is the scale."""
    levels = np.array([[30.0, 5.0, 5.0, 5.0, 55.0], [5.0, 20.0, 50.0, 20.0, 5.0]])
    n = levels.sum(axis=1)
    sums = MetricSums(Sums(n, n * 0.5, n * 0.4), levels=levels)
    plain = Rating().moments(Rating().parameters(measure(MetricKind.RATING), sums))[0]
    assert plain[0] > plain[1]
    strict = measure(MetricKind.RATING, scores=[1, 3, 4, 4.5, 5])
    turned = Rating().moments(Rating().parameters(strict, sums))[0]
    assert turned[0] < turned[1]
    share = (levels + 2.0 * (levels.sum(axis=0) + 1.0) / (levels.sum() + 5.0)) / 102.0
    assert turned == pytest.approx((share @ np.array([1, 3, 4, 4.5, 5]) - 1) / 4)


def test_fifty_requests_without_a_sale_prove_little() -> None:
    """Of a shop where 3 % pay: without sales an arm's own variance is 0, and its mean would be sure to be 0."""
    chance = np.random.default_rng(4)
    x = np.where(chance.random((3, 2000)) < 0.03, chance.lognormal(3.0, 1.0, (3, 2000)), 0.0)
    made = experiment(MetricKind.REVENUE)
    big = sums_of(made, added(made, {"m": x}))
    assert big.log is not None
    value = Sums(*(np.append(each[:2], last) for each, last in zip(big.value, (50.0, 0.0, 0.0), strict=True)))
    log = Sums(*(np.append(each[:2], 0.0) for each in big.log))
    metric = made.metrics[0]
    mean, sd = Revenue().moments(Revenue().parameters(metric, MetricSums(value, log=log)))
    typical = mean[:2].mean()
    _, high = Revenue().interval(Revenue().parameters(metric, MetricSums(value, log=log)), 0.95)
    assert sd[2] == pytest.approx(np.sqrt(2000 / (50 + 1 / 0.03)) * sd[:2].mean(), rel=0.2)
    assert high[2] > 1.5 * typical
    second = SECOND[MetricKind.REVENUE]
    other, _ = second.moments(second.parameters(metric, MetricSums(value, log=log)))
    assert other[:2] == pytest.approx(mean[:2], rel=0.2)


def test_a_ratio_is_sum_over_sum() -> None:
    """Never the mean of ratios, which is far off where short answers have many tokens a word."""
    made = experiment(MetricKind.RATIO, 2)
    chance = np.random.default_rng(6)
    below = np.asarray(1.0 + chance.poisson(3.0, (2, 3000)), np.float64)
    above = np.round(below * np.array([[2.0], [2.2]]) + chance.poisson(3.0, (2, 3000)))
    sums = sums_of(made, added(made, {"above": above, "below": below}))
    params = Ratio().parameters(made.metrics[-1], sums)
    low, high = made.metrics[-1].scale
    pooled = above.sum(axis=1) / below.sum(axis=1)
    mean, sd = Ratio().moments(params)
    assert low + (high - low) * mean == pytest.approx(pooled, rel=1e-3)
    assert np.abs((above / below).mean(axis=1) / pooled - 1.0).min() > 0.05
    # The sd is that of the ratios of resampled decisions.
    rows = chance.integers(0, 3000, (2000, 3000))
    again = above[0][rows].sum(axis=1) / below[0][rows].sum(axis=1)
    assert sd[0] * (high - low) == pytest.approx(again.std(), rel=0.1)


def test_ratios_of_nothing_are_those_of_all() -> None:
    made = experiment(MetricKind.RATIO, 3)
    values = {"above": np.ones((3, 9)) * 2.0, "below": np.array([[1.0] * 9, [1.0] * 9, [0.0] * 9])}
    values["above"][2] = 0.0
    mean, sd = Ratio().moments(Ratio().parameters(made.metrics[-1], sums_of(made, added(made, values))))
    assert mean * 6.0 == pytest.approx([2.0, 2.0, 2.0], rel=0.05)
    assert (sd > 0.0).all()

"""Values of another policy: against sums written out, against the truth of simulated logs, and their warnings."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bandit.errors import InvalidArgument
from bandit.inference.offpolicy import (
    Estimator,
    Log,
    anytime,
    anytime_lift,
    influence,
    standard_error,
    value,
)
from bandit.ledger import FloatArray

ALL: tuple[Estimator, ...] = ("ips", "snips", "dr", "switch_dr")
MEANS = np.array([0.2, 0.5, 0.7])
TARGET = np.array([0.1, 0.2, 0.7])


def drawn(seed: int, size: int = 4000, floor: float = 0.1) -> Log:
    """A log whose propensities change from decision to decision."""
    rng = np.random.default_rng(seed)
    shares = (1.0 - 3 * floor) * rng.dirichlet((1.0, 1.0, 1.0), size) + floor
    arm = (rng.random(size)[:, None] > np.cumsum(shares, axis=1)[:, :2]).sum(axis=1)
    reward = (rng.random(size) < MEANS[arm]).astype(np.float64)
    return Log(arm, shares[np.arange(size), arm], reward, TARGET)


def test_values_by_hand() -> None:
    log = Log(
        np.array([0, 1, 1, 0]),
        np.array([0.5, 0.25, 0.5, 0.8]),
        np.array([1.0, 0.0, 1.0, 0.5]),
        np.array([0.2, 0.8]),
    )
    w = np.array([0.4, 3.2, 1.6, 0.25])
    r, q = log.reward, np.array([0.5, 0.4, 0.4, 0.5])
    base = 0.2 * 0.5 + 0.8 * 0.4
    model = np.array([0.5, 0.4])
    assert value(log, "ips").estimate == pytest.approx((w * r).mean())
    assert value(log, "snips").estimate == pytest.approx((w * r).sum() / w.sum())
    assert value(log, "dr", model=model).estimate == pytest.approx(base + (w * (r - q)).mean())
    switched = np.where(w <= 2.0, w, 0.0)
    found = value(log, "switch_dr", model=model, tau=2.0)
    assert found.estimate == pytest.approx(base + (switched * (r - q)).mean())
    assert value(log, "ips", clip=1.0).estimate == pytest.approx((np.minimum(w, 1.0) * r).mean())
    assert found.effective == pytest.approx(w.sum() ** 2 / (w**2).sum())
    assert (found.mean_weight, found.largest_weight) == pytest.approx((w.mean(), 3.2))
    assert value(log, "ips").se == pytest.approx((w * r).std(ddof=1) / 2)
    wide = Log(log.arm, log.propensity, r, np.tile(log.target, (4, 1)))
    assert value(wide, "dr", model=np.tile(model, (4, 1))) == value(log, "dr", model=model)


@pytest.mark.parametrize("estimator", ALL)
def test_values_and_standard_errors_are_those_of_the_truth(estimator: Estimator) -> None:
    truth = float(TARGET @ MEANS)
    model = np.array([0.3, 0.4, 0.6])
    found = [value(drawn(seed, 1000), estimator, model=model, tau=8.0) for seed in range(200)]
    estimates = np.array([each.estimate for each in found])
    spread = estimates.std(ddof=1)
    assert abs(estimates.mean() - truth) <= 6 * spread / math.sqrt(200)
    assert np.mean([each.se for each in found]) == pytest.approx(spread, rel=0.3)
    assert not any(each.warnings for each in found)


def test_a_good_model_makes_doubly_robust_values_sharper() -> None:
    log = drawn(1)
    assert value(log, "dr", model=MEANS).se < 0.8 * value(log, "ips").se


def test_the_interval_holds_at_every_look_whatever_the_weights() -> None:
    truth = float(TARGET @ MEANS)
    for seed in range(60):
        log = drawn(100 + seed, 600, floor=0.01)
        for size in (5, 50, 200, 600):
            part = Log(log.arm[:size], log.propensity[:size], log.reward[:size], log.target)
            low, high = anytime(part)
            # 60 runs at 5 % would miss three times; it is far on the safe side.
            assert 0.0 <= low <= truth <= high <= 1.0
    low, high = anytime(drawn(7, 40_000))
    assert high - low < 0.1


def test_the_interval_of_the_lift_is_around_what_the_target_brings_more() -> None:
    # Shares of the log are even on the whole, so that its own value is the mean of the arms'.
    truth = float(TARGET @ MEANS) - float(MEANS.mean())
    log = drawn(7, 40_000)
    low, high = anytime_lift(log)
    assert low < truth < high
    assert high - low < 0.1
    assert low > 0.05
    for seed in range(60):
        for size in (5, 50, 200, 600):
            part = drawn(100 + seed, size, floor=0.01)
            low, high = anytime_lift(part)
            assert -1.0 <= low <= truth <= high <= 1.0
    same = Log(log.arm, np.full(len(log.arm), 0.25), log.reward, np.full(4, 0.25))
    assert anytime_lift(same) == pytest.approx((0.0, 0.0), abs=1e-3)


def test_decisions_of_a_unit_err_together() -> None:
    terms = np.array([1.0, 2.0, 4.0, 5.0])
    assert standard_error(terms) == pytest.approx(terms.std(ddof=1) / 2)
    # Missed by -3 and 3 together; two units.
    assert standard_error(terms, np.array([7, 7, 3, 3])) == pytest.approx(math.sqrt(2 * (9 + 9)) / 4)
    assert math.isnan(standard_error(terms, np.zeros(4, np.int64)))
    log = Log(np.zeros(4, np.int64), np.ones(4), terms, np.ones(1), np.array([7, 7, 3, 3]))
    assert value(log, "ips").se == pytest.approx(math.sqrt(36) / 4)
    assert value(log, "snips").se == pytest.approx(math.sqrt(36) / 4)
    np.testing.assert_allclose(influence(log, "ips"), terms)
    with pytest.raises(InvalidArgument, match="3 units for 4 decisions"):
        Log(log.arm, log.propensity, log.reward, log.target, np.zeros(3, np.int64))


def said(log: Log, **settings: float) -> str:
    return " ".join(value(log, "ips", clip=settings.get("clip", math.inf)).warnings)


def test_doubts_are_sentences() -> None:
    log = drawn(3)
    assert said(log) == ""
    tiny = log.propensity.copy()
    tiny[0] = 1e-6
    off = Log(log.arm, tiny, log.reward, log.target)
    assert "below 0.001, the least 1e-06" in said(off)
    assert "% of all weight" in said(off)
    assert "effective sample size" in said(off)
    assert "the mean weight is" in said(Log(log.arm, log.propensity * 0.5, log.reward, log.target))
    assert "were cut at 2" in said(log, clip=2.0)


@pytest.mark.parametrize(
    ("field", "changed"),
    [
        ("propensity", {"propensity": np.array([0.0, 0.5])}),
        ("propensity", {"propensity": np.array([math.nan, 0.5])}),
        ("propensity", {"propensity": np.array([1.5, 0.5])}),
        ("log", {"reward": np.array([1.0])}),
        ("reward", {"reward": np.array([math.inf, 0.0])}),
        ("arm", {"arm": np.array([0, 2])}),
        ("arm", {"arm": np.array([0, -1])}),
        ("target", {"target": np.array([0.5, 0.6])}),
        ("target", {"target": np.array([1.5, -0.5])}),
        ("target", {"target": np.array([[0.5, 0.5]])}),
    ],
)
def test_what_is_no_log_is_refused(field: str, changed: dict[str, FloatArray]) -> None:
    good = {
        "arm": np.array([0, 1]),
        "propensity": np.array([0.5, 0.5]),
        "reward": np.array([1.0, 0.0]),
        "target": np.array([0.5, 0.5]),
    }
    Log(**good)
    with pytest.raises(InvalidArgument) as caught:
        Log(**{**good, **changed})
    assert caught.value.violations[0].field == field


def test_models_and_rewards_that_do_not_fit_are_refused() -> None:
    log = drawn(1, 10)
    with pytest.raises(InvalidArgument, match="needs the expected reward"):
        value(log, "dr")
    with pytest.raises(InvalidArgument, match="shape"):
        value(log, "dr", model=np.zeros(2))
    with pytest.raises(InvalidArgument, match="above 0"):
        value(log, "ips", clip=0.0)
    with pytest.raises(InvalidArgument, match=r"outside \[0, 1\]"):
        anytime(Log(log.arm, log.propensity, log.reward * 2, log.target))
    with pytest.raises(InvalidArgument, match=r"outside \[0, 1\]"):
        anytime_lift(Log(log.arm, log.propensity, log.reward * 2, log.target))

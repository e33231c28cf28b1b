"""Releases whose requests are routed by features, drawn many at once: requests of two kinds, the level of bad outcomes
differing between the kinds and rising for all arms together, shares of each kind moving by what the arms seemed to be
worth for it so far."""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

import numpy as np
from numpy.random import Generator

from bandit.guardrails.by_features import WeighedHarm
from bandit.guardrails.evidence import outcomes
from bandit.guardrails.harm import Harm
from bandit.guardrails.levels import thresholds
from bandit.kernels import watch, weigh
from bandit.ledger import FloatArray, PeriodTable
from bandit.linear.weights import mean_sums
from bandit.ranges import PPM
from bandit.spec.model import ExperimentSpec
from tests.builders import spec
from tests.evidence import periods

LATE = 10**9
PERIODS, SERVED = 40, 300
GOOD = np.array([[0.5, 0.3], [0.3, 0.5]])
"""[G, K]: the second kind of requests is better served by the challenger."""
LEVELS = np.array([0.05, 0.2])
"""Bad outcomes of each kind, at first."""


def made(kind: str = "lin_ts", **changes: object) -> ExperimentSpec:
    features = [{"name": "plan", "kind": "categorical", "values": ["free", "pro"]}]
    values: dict[str, object] = {
        "arms": [{"name": "control", "control": True}, {"name": "small"}],
        "metrics": [
            {"name": "bad", "kind": "bernoulli", "direction": "minimize", "attribution_window": "1s"},
            {"name": "good", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1s"},
        ],
        "objective": [{"metric": "good"}],
        "allocator": {"kind": kind},
        "baseline": "stationary",
        "features": features if kind == "lin_ts" else [],
        "guardrails": [{"name": "harm", "kind": "harm", "metric": "bad"}],
        "alpha": 0.05,
    }
    return spec(**(values | changes))


class Releases(NamedTuple):
    """R releases of E periods, G kinds and K arms: shares [E, R, G, K]; n, bad and good [E, R, G, K]; centre [E, R] the
    control's bad share so far."""

    shares: FloatArray
    n: FloatArray
    bad: FloatArray
    good: FloatArray
    centre: FloatArray

    def table(self, made: ExperimentSpec, run: int, *, weighed: bool = True) -> PeriodTable:
        """The ledger of one release, kinds added up."""
        n, bad, good = (each[:, run].sum(axis=1) for each in (self.n, self.bad, self.good))
        found = periods(made, np.stack([n, n], axis=2), np.stack([bad, good], axis=2))
        centre = found.centre.copy()
        centre[:, 0] = self.centre[:, run]
        sums = self.sums(run) if weighed else None
        return replace(found, centre=centre, weighed=sums)

    def first(self, runs: int) -> Releases:
        """Only so many of them."""
        return Releases(*(each[:, :runs] for each in self))

    def sums(self, run: int) -> FloatArray:
        s = np.stack([self.bad[:, run], self.good[:, run]], axis=3)
        n = np.repeat(self.n[:, run][..., None], 2, axis=3)
        return mean_sums(n, s, s, self.shares[:, run], 0)


def releases(
    runs: int,
    worse: FloatArray,
    seed: int,
    *,
    add: float = 0.0,
    rise: float = 2.0,
    good: FloatArray = GOOD,
    answers: FloatArray | None = None,
    levels: FloatArray = LEVELS,
) -> Releases:
    """The challenger has ``worse`` [G] times the control's bad outcomes and ``add`` more; levels rise ``rise``-fold.
    ``answers`` [G, K]: parts of the decisions with a reward; all, where left out; ``levels``
    [G]: bad outcomes of each kind, at first."""
    chance = np.random.default_rng(seed)
    shape = (PERIODS, runs, 2, 2)
    one, two, three, four = (np.zeros(shape) for _ in range(4))
    found = Releases(one, two, three, four, np.zeros((PERIODS, runs)))
    tried, won = np.ones((runs, 2, 2)) * 4.0, np.ones((runs, 2, 2)) * 2.0
    before, failed = np.full(runs, 2.0), np.full(runs, 0.2)
    for period in range(PERIODS):
        mean = won / tried
        gap = (mean[..., 1] - mean[..., 0]) / np.sqrt((mean * (1.0 - mean) / tried).sum(axis=2))
        share = np.clip(1.0 / (1.0 + np.exp(-1.7 * gap)), 0.02, 0.95)
        share = np.rint(share * PPM) / PPM
        shares = np.stack([1.0 - share, share], axis=2)
        rate = levels * (1.0 + (rise - 1.0) * period / PERIODS)
        rates = np.stack([rate, worse * rate + add], axis=1)
        found.centre[period] = failed / before
        n, bad, well = _drawn(chance, shares, rates, good, answers)
        for kept, drawn in zip(
            (found.shares, found.n, found.bad, found.good), (shares, n, bad, well), strict=True
        ):
            kept[period] = drawn
        tried, won = tried + n, won + well
        before, failed = before + n[:, :, 0].sum(axis=1), failed + bad[:, :, 0].sum(axis=1)
    return found


def _drawn(
    chance: Generator, shares: FloatArray, rates: FloatArray, good: FloatArray, answers: FloatArray | None
) -> tuple[FloatArray, FloatArray, FloatArray]:
    n = chance.multinomial(SERVED // 2, shares)
    if answers is not None:
        n = chance.binomial(n, answers)
    return n.astype(float), chance.binomial(n, rates).astype(float), chance.binomial(n, good).astype(float)


class Watched(NamedTuple):
    """[R]: period after which the guardrail failed, PERIODS when never; whether it passed in the end."""

    failed: FloatArray
    passed: FloatArray


def watched(found: Releases, spec_: ExperimentSpec) -> Watched:
    """The harm guardrail at every look of every release."""
    guardrail = spec_.guardrails[0]
    test, levels = Harm(), thresholds(spec_, guardrail, 1)
    params, runs = test.params(spec_, guardrail), found.n.shape[1]
    failed, passed = np.full(runs, float(PERIODS)), np.zeros(runs)
    none = np.zeros((0, watch.EDGES))
    for run in range(runs):
        table = found.table(spec_, run)
        every = outcomes(spec_, guardrail.metric, table, LATE)
        weighed = WeighedHarm(spec_, guardrail, table, every, of_mean=False)
        sums, answers = np.zeros(watch.COLUMNS), np.zeros(weigh.ANSWERS)
        for period in range(PERIODS):
            weighed.add(float(params[0]), sums, 1, np.arange(PERIODS) == period)
            weigh.weigh(watch.HARM, params, sums, none, answers)
            if answers[weigh.LOG_E] >= levels.fail:
                failed[run] = period
                break
        passed[run] = answers[weigh.LOG_E_SAFE] >= levels.safe
    return Watched(failed, passed)

"""Many runs of one world -> what they have in common: means, quantiles, shares with intervals; it words nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import stats

from bandit.ledger import FloatArray
from bandit.simulate.plan import Plan
from bandit.simulate.run import NEVER, Run

LEVEL = 0.95
BANDS = (0.1, 0.5, 0.9)


@dataclass(frozen=True, slots=True)
class Part:
    """A share of the runs: ``count`` of ``of``, with an exact central interval (Clopper and Pearson 1934), 95 %."""

    count: int
    of: int

    @property
    def share(self) -> float:
        """0 without any run."""
        return self.count / self.of if self.of else 0.0

    @property
    def low(self) -> float:
        """Lower end of the interval."""
        return (
            float(stats.beta.ppf((1 - LEVEL) / 2, self.count, self.of - self.count + 1))
            if self.count
            else 0.0
        )

    @property
    def high(self) -> float:
        """Upper end of the interval."""
        if self.count == self.of:
            return 1.0
        return float(stats.beta.ppf((1 + LEVEL) / 2, self.count + 1, self.of - self.count))


@dataclass(frozen=True, slots=True)
class Spread:
    """Median and 90 % quantile over runs; None without any."""

    median: float
    p90: float

    @classmethod
    def of(cls, values: FloatArray) -> Spread | None:
        """Of the values of the runs that have one."""
        if not values.size:
            return None
        median, p90 = np.quantile(values, (0.5, 0.9))
        return cls(float(median), float(p90))


@dataclass(frozen=True, slots=True)
class ArmTally:
    """One arm. ``utility``: true mean of a request. ``share``: mean of the last share; ``requests``: mean served.

    ``rolled_back``: by any guardrail, in the right or not."""

    arm: str
    utility: float
    harmful: bool
    share: float
    share_low: float
    share_high: float
    requests: float
    rolled_back: Part


@dataclass(frozen=True, slots=True)
class GuardTally:
    """One guardrail on one challenger.

    ``harmful``: the arm truly breaks its promise at some time. Then ``acted`` is a detection, with the ``requests`` of
    the arm and the ``seconds`` from the beginning of the harm on; else it is a false one. ``missed``: the arm is
    harmful, and was neither rolled back nor held by this or by another guardrail until the end."""

    guardrail: str
    arm: str
    harmful: bool
    acted: Part
    missed: Part
    requests: Spread | None
    seconds: Spread | None


@dataclass(frozen=True, slots=True)
class Tally:
    """A world after all its runs. Regret in units of the objective, sum over the horizon.

    ``equal_regret``: of equal shares for all arms; ``regret_se`` of the mean. ``on_top``: the best feasible arm has
    the largest share at the end; ``top_requests`` and ``top_seconds`` until it has it for good, of runs where it does.
    ``harm_requests``: served by harmful arms while they were harmful. ``false_rollbacks``: runs in which an arm was
    rolled back by a guardrail whose promise it keeps. ``shares`` [3, E, K]: 10, 50 and 90 % quantiles.
    """

    world: str
    runs: int
    requests: float
    best: str
    regret: float
    regret_se: float
    regret_p95: float
    equal_regret: float
    on_top: Part
    top_requests: Spread | None
    top_seconds: Spread | None
    harm_requests: float
    harm_p95: float
    false_rollbacks: Part
    missed: Part
    arms: tuple[ArmTally, ...]
    guards: tuple[GuardTally, ...]
    seconds: FloatArray
    shares: FloatArray


def tally(plan: Plan, runs: Sequence[Run]) -> Tally:
    """Put the runs of a plan together; at least one."""
    regrets = np.array([run.regret for run in runs])
    served = np.stack([run.served for run in runs])
    shares = np.stack([run.shares for run in runs])
    fell = np.stack([run.fell for run in runs])
    rolled = np.stack([run.rolled_back for run in runs])
    harmful = plan.harmful_arm()
    exposed = np.arange(plan.periods)[:, None] >= harmful
    harm = (served * exposed).sum(axis=(1, 2))
    top = _on_top(shares, plan.best)
    cumulated = served.sum(axis=2).cumsum(axis=1)
    reached = np.flatnonzero(top != NEVER)
    before = np.where(top > 0, cumulated[np.arange(len(runs)), np.maximum(top - 1, 0)], 0.0)
    wrong, missed = _wrong(plan, fell), _missed(plan, fell, rolled)
    return Tally(
        world=plan.world.world,
        runs=len(runs),
        requests=float(served.sum(axis=(1, 2)).mean()),
        best=plan.spec.arms[plan.best].name,
        regret=float(regrets.mean()),
        regret_se=float(regrets.std(ddof=1) / np.sqrt(len(runs))) if len(runs) > 1 else 0.0,
        regret_p95=float(np.quantile(regrets, 0.95)),
        equal_regret=_equal_regret(plan),
        on_top=Part(int((top != NEVER).sum()), len(runs)),
        top_requests=Spread.of(before[reached]),
        top_seconds=Spread.of(np.asarray(top[reached] * plan.period_s, np.float64)),
        harm_requests=float(harm.mean()),
        harm_p95=float(np.quantile(harm, 0.95)),
        false_rollbacks=Part(int(wrong.sum()), len(runs)),
        missed=Part(int(missed.sum()), len(runs)),
        arms=tuple(
            ArmTally(
                arm=arm.name,
                utility=float(plan.arm_utility[k]),
                harmful=bool(harmful[k] < plan.periods),
                share=float(shares[:, -1, k].mean()),
                share_low=float(np.quantile(shares[:, -1, k], 0.1)),
                share_high=float(np.quantile(shares[:, -1, k], 0.9)),
                requests=float(served[:, :, k].sum(axis=1).mean()),
                rolled_back=Part(int((rolled[:, k] != NEVER).sum()), len(runs)),
            )
            for k, arm in enumerate(plan.spec.arms)
        ),
        guards=tuple(
            _guard(plan, index, k, fell, rolled, served)
            for index in range(len(plan.spec.guardrails))
            for k, arm in enumerate(plan.spec.arms)
            if not arm.control
        ),
        seconds=np.asarray((np.arange(plan.periods) + 0.5) * plan.period_s, np.float64),
        shares=np.quantile(shares, BANDS, axis=0),
    )


def _on_top(shares: FloatArray, best: int) -> NDArray[np.int64]:
    """[R] first period from which the best arm has the largest share until the end, NEVER where it has not."""
    rest = np.delete(shares, best, axis=2).max(axis=2)
    below = shares[:, :, best] < rest
    periods = shares.shape[1]
    last = periods - 1 - np.argmax(below[:, ::-1], axis=1)
    first = np.where(below.any(axis=1), last + 1, 0)
    out: NDArray[np.int64] = np.where(first < periods, first, NEVER)
    return out


def _equal_regret(plan: Plan) -> float:
    groups = np.arange(len(plan.parts))
    lost = np.maximum(plan.utility[:, groups, plan.best_in, None] - plan.utility, 0.0).mean(axis=2)
    return float((lost @ plan.parts).sum()) * plan.requests_per_period


def _wrong(plan: Plan, fell: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[R] was an arm rolled back by a guardrail whose promise it had not broken by then?"""
    strict = [i for i, guardrail in enumerate(plan.spec.guardrails) if guardrail.action == "rollback"]
    false = (fell[:, strict] != NEVER) & (fell[:, strict] < plan.harmful[strict])
    out: NDArray[np.bool_] = false.any(axis=(1, 2))
    return out


def _missed(plan: Plan, fell: NDArray[np.int64], rolled: NDArray[np.int64]) -> NDArray[np.bool_]:
    """[R] is there an arm that breaks a promise and was neither rolled back nor held?"""
    harmful = plan.harmful_arm() < plan.periods
    stopped = (fell != NEVER).any(axis=1) | (rolled != NEVER)
    out: NDArray[np.bool_] = (harmful & ~stopped).any(axis=1)
    return out


def _guard(
    plan: Plan,
    index: int,
    k: int,
    fell: NDArray[np.int64],
    rolled: NDArray[np.int64],
    served: FloatArray,
) -> GuardTally:
    since = int(plan.harmful[index, k])
    harmful = since < plan.periods
    acted = fell[:, index, k]
    at = acted[acted >= since] if harmful else acted[acted != NEVER]
    runs = np.flatnonzero(acted >= since) if harmful else np.flatnonzero(acted != NEVER)
    total = served[:, :, k].cumsum(axis=1)
    start = total[:, since - 1] if harmful and since else np.zeros(len(served))
    requests = total[runs, at] - start[runs]
    seconds = (at + 1 - (since if harmful else 0)) * plan.period_s
    stopped = (fell[:, :, k] != NEVER).any(axis=1) | (rolled[:, k] != NEVER)
    missed = int((~stopped).sum()) if harmful else 0
    return GuardTally(
        guardrail=plan.spec.guardrails[index].name,
        arm=plan.spec.arms[k].name,
        harmful=harmful,
        acted=Part(int(runs.size), len(fell)),
        missed=Part(missed, len(fell)),
        requests=Spread.of(requests),
        seconds=Spread.of(seconds.astype(np.float64)),
    )

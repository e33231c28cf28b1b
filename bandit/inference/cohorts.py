"""Effects by cohort: what each segment's own data say, drawn to what all of them say as far as they agree.

Differences from the control are shrunk, never means: levels of segments differ for reasons that have nothing to do with
the arms. With G estimates d_g of variance s2_g (random effects; DerSimonian and Laird 1986):

    w = 1 / s2, mu = sum w d / W, Q = sum w (d - mu)^2, tau2 = max(0, (Q - (G - 1)) / (W - sum w^2 / W))
    mu* and its variance with weights 1 / (s2 + tau2);  B = tau2 / (tau2 + s2)
    post = B d + (1 - B) mu*,  var = B s2 + (1 - B)^2 Var(mu*)

Fewer than LEAST_COHORTS estimates, or such that agree (Q <= G - 1), give tau2 = 0: all cohorts have the one effect.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from bandit.baselines.base import evidence_of
from bandit.baselines.contrast import differences_of
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.channels import log_scale
from bandit.spec.check import LEAST_COHORTS
from bandit.spec.metric import MetricKind
from bandit.spec.model import ExperimentSpec

NO_PRIOR = 1e6
LEAST_VALUES = 1.0


@dataclass(frozen=True, slots=True)
class Shrunk:
    """[G] posterior mean and variance of each effect; ``tau2`` variance between cohorts; ``mu``, ``var_mu`` of all."""

    mean: FloatArray
    var: FloatArray
    tau2: float
    mu: float
    var_mu: float


@dataclass(frozen=True, slots=True)
class CohortEffect:
    """Difference of an arm from the control in one cohort: raw, and shrunk with its sd, in the metric's unit (of ln x
    for a lognormal metric). ``n``, ``n_control``: values. ``apart``: chance that its sign is not that of all."""

    metric: int
    arm: int
    cohort: int
    raw: float
    effect: float
    sd: float
    n: float
    n_control: float
    apart: float


def shrink(estimates: FloatArray, variances: FloatArray) -> Shrunk:
    """Empirical Bayes of G >= 1 estimates with variances > 0; see the module."""
    weights = 1.0 / variances
    total = float(weights.sum())
    mu = float(weights @ estimates) / total
    q = float(weights @ (estimates - mu) ** 2)
    free = len(estimates) - 1
    tau2 = 0.0
    if len(estimates) >= LEAST_COHORTS and q > free:
        tau2 = (q - free) / (total - float(weights @ weights) / total)
    spread = 1.0 / (variances + tau2)
    var_mu = 1.0 / float(spread.sum())
    mu = float(spread @ estimates) * var_mu
    b = tau2 / (tau2 + variances)
    return Shrunk(b * estimates + (1.0 - b) * mu, b * variances + (1.0 - b) ** 2 * var_mu, tau2, mu, var_mu)


def cohort_effects(spec: ExperimentSpec, rows: PeriodTable, now_ms: int) -> tuple[CohortEffect, ...]:
    """Effects of every challenger on every metric with rewards of its own, per cohort in which both were seen.

    ``rows``: a row per period and cohort. Empty without declared cohorts.
    """
    if spec.cohorts is None:
        return ()
    found: list[CohortEffect] = []
    cohorts = [int(each) for each in np.unique(rows.cohort)]
    evidence = {each: evidence_of(spec, rows.rows(rows.cohort == each), now_ms) for each in cohorts}
    for index, metric in enumerate(spec.metrics):
        if metric.kind is MetricKind.RATIO:
            continue
        low, high = log_scale(metric) if metric.kind is MetricKind.LOGNORMAL else metric.scale
        raw = {each: differences_of(evidence[each], index, NO_PRIOR) for each in cohorts}
        n = {each: evidence[each].reading.n[:, index] for each in cohorts}
        for arm in range(len(spec.arms)):
            if arm != spec.control_index:
                found += _of_arm(spec, index, arm, high - low, n, raw)
    return tuple(found)


def _of_arm(
    spec: ExperimentSpec,
    metric: int,
    arm: int,
    width: float,
    n: dict[int, FloatArray],
    raw: dict[int, tuple[FloatArray, FloatArray]],
) -> list[CohortEffect]:
    control = spec.control_index
    seen = [each for each in n if min(n[each][arm], n[each][control]) >= LEAST_VALUES]
    if not seen:
        return []
    estimates = np.array([raw[each][0][arm] for each in seen])
    variances = np.array([raw[each][1][arm] + raw[each][1][control] for each in seen])
    made = shrink(estimates, variances)
    effects = []
    for place, cohort in enumerate(seen):
        mean, sd = float(made.mean[place]), math.sqrt(float(made.var[place]))
        apart = 0.5 * math.erfc(math.copysign(mean, mean * made.mu) / sd / math.sqrt(2.0))
        effects.append(
            CohortEffect(
                metric=metric,
                arm=arm,
                cohort=cohort,
                raw=width * float(estimates[place]),
                effect=width * mean,
                sd=width * sd,
                n=float(n[cohort][arm]),
                n_control=float(n[cohort][control]),
                apart=apart,
            )
        )
    return effects

"""Value of another allocator or of fixed shares from logged decisions; it serves nobody and trusts no small weight.

A log has, per decision, the arm that was given, the probability it had (propensity p), and the reward r. The target
gives that arm the probability t there; w = t / p is its importance weight. With a model of rewards q, V the mean of
sum_k t_k q_k over the log:

    ips         mean of w r                                       Horvitz & Thompson 1952
    snips       sum of w r / sum of w                             Swaminathan & Joachims 2015
    dr          V + mean of w (r - q)                             Dudik, Langford & Li 2011
    switch_dr   V + mean of 1{w <= tau} w (r - q)                 Wang, Agarwal & Dudik 2017, as doubly robust

``clip`` cuts w at a limit: less variance, for a bias of at most the target's probability of what was cut. Every value
comes with its standard error, with the effective sample size (sum w)^2 / sum w^2 (Kish 1965), and with sentences about
what makes it doubtful. Where decisions of a unit are no new draws, errors are added up by unit before they are squared
(Liang & Zeger 1986). ``anytime`` is an interval that holds at every look, exact for rewards in [0, 1] whatever the
weights (Waudby-Smith, Wu, Ramdas, Karampatziakis & Mineiro 2024); ``anytime_lift`` that of the difference from what
the log's own policy brings.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from bandit.errors import InvalidArgument
from bandit.inference.effects import RHOS
from bandit.kernels.intervals import overlap_bound
from bandit.ledger import FloatArray, Int64Array

Estimator = Literal["ips", "snips", "dr", "switch_dr"]
TINY = 1e-3
"""A propensity below this makes one decision count for a thousand."""
FEW = 100.0
"""An effective sample size below this makes standard errors guesses."""
HEAVY = 0.05
"""Part of all weight that one decision may have."""
SURE = 3.0
"""Standard errors by which the mean weight may miss 1."""


@dataclass(frozen=True, slots=True)
class Log:
    """T logged decisions in the order in which they were made.

    ``arm`` [T] index of the arm given; ``propensity`` [T] in (0, 1], the probability it had then; ``reward`` [T];
    ``target`` [T, K] probabilities of the other policy, or [K] the same for all. ``unit`` [T]: which unit each is of,
    where they depend on each other inside one; None: each is its own. Raises InvalidArgument.
    """

    arm: Int64Array
    propensity: FloatArray
    reward: FloatArray
    target: FloatArray
    unit: Int64Array | None = None

    def __post_init__(self) -> None:
        size = len(self.arm)
        if not size or len(self.propensity) != size or len(self.reward) != size:
            raise InvalidArgument.at(
                "log", "arm, propensity and reward must be as long as each other, at least 1"
            )
        if self.unit is not None and len(self.unit) != size:
            raise InvalidArgument.at(
                "unit", f"{len(self.unit)} units for {size} decisions; give one for each"
            )
        if not ((self.propensity > 0.0) & (self.propensity <= 1.0)).all():
            raise InvalidArgument.at(
                "propensity", "a propensity is not in (0, 1]; leave decisions without one out"
            )
        if not np.isfinite(self.reward).all():
            raise InvalidArgument.at("reward", "a reward is no number; leave decisions without a reward out")
        if self.target.ndim not in (1, 2) or (self.target.ndim == 2 and len(self.target) != size):
            raise InvalidArgument.at(
                "target", "target is neither one probability per arm nor one row per decision"
            )
        if not (self.arm >= 0).all() or not (self.arm < self.target.shape[-1]).all():
            raise InvalidArgument.at(
                "arm", f"an arm is not in 0 to {self.target.shape[-1] - 1}, as target has it"
            )
        if not (self.target >= 0.0).all() or not np.allclose(self.target.sum(axis=-1), 1.0, atol=1e-6):
            raise InvalidArgument.at("target", "probabilities of target are not at least 0 with sum 1")

    @property
    def weight(self) -> FloatArray:
        """[T] importance weight of each decision."""
        size, arms = len(self.arm), self.target.shape[-1]
        weight: FloatArray = (
            np.broadcast_to(self.target, (size, arms))[np.arange(size), self.arm] / self.propensity
        )
        return weight


class Value(NamedTuple):
    """Mean reward under the target: ``estimate`` with ``se``, ``effective`` sample size, ``mean_weight`` (1 when the
    propensities are right), ``least_propensity``, ``largest_weight``, and ``warnings``, one sentence each."""

    estimate: float
    se: float
    effective: float
    mean_weight: float
    least_propensity: float
    largest_weight: float
    warnings: tuple[str, ...]


def value(
    log: Log,
    estimator: Estimator,
    *,
    model: FloatArray | None = None,
    clip: float = math.inf,
    tau: float = math.inf,
) -> Value:
    """The value of the target. ``model`` [T, K], or [K]: expected rewards, fitted on other decisions; needed by dr and
    switch_dr. ``clip`` > 0: largest weight that is used; ``tau``: of switch_dr. Raises InvalidArgument."""
    raw = log.weight
    terms = influence(log, estimator, model=model, clip=clip, tau=tau)
    weight = np.minimum(raw, clip)
    square = float((weight**2).sum())
    effective = float(weight.sum()) ** 2 / square if square > 0.0 else 0.0
    return Value(
        estimate=float(terms.mean()),
        se=standard_error(terms, log.unit),
        effective=effective,
        mean_weight=float(raw.mean()),
        least_propensity=float(log.propensity.min()),
        largest_weight=float(raw.max()),
        warnings=_warnings(log, raw, effective, clip),
    )


def influence(
    log: Log,
    estimator: Estimator,
    *,
    model: FloatArray | None = None,
    clip: float = math.inf,
    tau: float = math.inf,
) -> FloatArray:
    """[T] terms whose mean is the estimate and whose spread is its error; arguments as for :func:`value`.

    Of snips by the delta method: the ratio moves by (w r - estimate w) / mean w. NaN where no decision has weight.
    """
    if not clip > 0.0 or not tau >= 0.0:
        raise InvalidArgument.at("clip", f"clip {clip:g} and tau {tau:g} must be above 0")
    weight = np.minimum(log.weight, clip)
    if estimator == "ips":
        return weight * log.reward
    if estimator == "snips":
        total = float(weight.sum())
        if not total > 0.0:
            return np.full(len(weight), math.nan)
        estimate = float((weight * log.reward).sum()) / total
        return weight * (log.reward - estimate) / (total / len(weight)) + estimate
    return _robust(log, estimator, weight, model, tau)


def standard_error(terms: FloatArray, unit: Int64Array | None = None) -> float:
    """Of the mean of ``terms`` [T]: what a unit's terms miss it by is added up first. NaN for one unit alone."""
    missed = terms - terms.mean()
    if unit is not None:
        _, of = np.unique(unit, return_inverse=True)
        missed = np.bincount(of.ravel(), missed)
    units = len(missed)
    if units < 2:
        return math.nan
    return math.sqrt(units / (units - 1) * float((missed**2).sum())) / len(terms)


def _robust(
    log: Log, estimator: Estimator, weight: FloatArray, model: FloatArray | None, tau: float
) -> FloatArray:
    if model is None:
        raise InvalidArgument.at("model", f"{estimator} needs the expected reward of every arm; give model")
    size, arms = len(log.arm), log.target.shape[-1]
    if model.shape not in ((arms,), (size, arms)) or not np.isfinite(model).all():
        raise InvalidArgument.at(
            "model", f"model has shape {model.shape}; [{arms}] or [{size}, {arms}] numbers"
        )
    wide = np.broadcast_to(model, (size, arms))
    chosen = wide[np.arange(size), log.arm]
    used = np.where(log.weight <= tau, weight, 0.0) if estimator == "switch_dr" else weight
    scores: FloatArray = (np.broadcast_to(log.target, (size, arms)) * wide).sum(axis=1) + used * (
        log.reward - chosen
    )
    return scores


def anytime(log: Log, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of the value over the whole log; the interval after any number of decisions holds together with all
    others. For rewards in [0, 1]. Raises InvalidArgument.

    Below: the sum of w r - m with a predictable m in [0, 1] has terms of at least -1, however large w may be, and mean
    value - m. Above: the same of w (1 - r), whose mean is 1 - value because that of w is 1.
    """
    if not ((log.reward >= 0.0) & (log.reward <= 1.0)).all():
        raise InvalidArgument.at("reward", "a reward is outside [0, 1]; scale rewards by their range")
    size = len(log.arm)
    threshold = math.log(2.0 / (1.0 - level))
    ends = []
    for gains in (log.weight * log.reward, log.weight * (1.0 - log.reward)):
        before = np.concatenate([[0.0], np.cumsum(gains)[:-1]])
        centre = np.clip((0.5 + before) / np.arange(1.0, size + 1.0), 0.0, 1.0)
        terms = gains - centre
        bound = overlap_bound(float((terms**2).sum()), threshold, RHOS, 1.0)
        ends.append((float(gains.sum()) - bound) / size)
    return max(ends[0], 0.0), min(1.0 - ends[1], 1.0)


def anytime_lift(log: Log, level: float = 0.95) -> tuple[float, float]:
    """(low, high) of what the target brings more than the policy of the log, as :func:`anytime`. For rewards in [0, 1].

    (w - 1) r is at least -1 and has that difference as its mean; (w - 1) (1 - r) has its opposite.
    """
    if not ((log.reward >= 0.0) & (log.reward <= 1.0)).all():
        raise InvalidArgument.at("reward", "a reward is outside [0, 1]; scale rewards by their range")
    threshold = math.log(2.0 / (1.0 - level))
    ends = []
    for reward in (log.reward, 1.0 - log.reward):
        terms = (log.weight - 1.0) * reward
        bound = overlap_bound(float((terms**2).sum()), threshold, RHOS, 1.0)
        ends.append((float(terms.sum()) - bound) / len(terms))
    return max(ends[0], -1.0), min(-ends[1], 1.0)


def _warnings(log: Log, weight: FloatArray, effective: float, clip: float) -> tuple[str, ...]:
    found = []
    size = len(weight)
    tiny = int((log.propensity < TINY).sum())
    if tiny:
        found.append(
            f"{tiny:,} of {size:,} decisions have a propensity below {TINY:g}, the least {log.propensity.min():.2g}: "
            "one of them can decide the value; log with floors, or clip the weights"
        )
    se = float(weight.std(ddof=1)) / math.sqrt(size) if size > 1 else math.inf
    mean = float(weight.mean())
    if abs(mean - 1.0) > SURE * se or abs(mean - 1.0) > 0.5:
        found.append(
            f"the mean weight is {mean:.3g}, not 1: the propensities are not those of the log, or too few decisions "
            "carry the target; prefer snips, and distrust both"
        )
    if effective < FEW:
        found.append(
            f"the effective sample size is {effective:.0f} of {size:,}: the target was hardly tried; take standard "
            "errors for guesses"
        )
    total = float(weight.sum())
    if total > 0.0 and float(weight.max()) > HEAVY * total:
        found.append(f"one decision has {weight.max() / total:.0%} of all weight")
    cut = int((weight > clip).sum())
    if cut:
        found.append(f"{cut:,} weights were cut at {clip:g}: ips and dr are biased by what was cut")
    return tuple(found)

"""What a spec would have been worth by a log of any policy: importance weights on the shares it would have proposed.

At each look the learner of the spec, fed with what the log had collected by then, says which shares it would give; they
are the target probabilities of the decisions until the next look. They depend on earlier decisions alone, so that each
weighted reward less its target's value is a martingale difference (cf. Kato, Ishihara, Honda & Narita 2020; Zhan,
Hadad, Hirshberg & Athey 2021), and estimates and intervals of ``inference.offpolicy`` hold. What is valued is the
sequence of shares on the log's evidence; evidence that the spec itself had collected would have been another, see
``rejection``.

The model of dr and switch_dr is predictable too: an arm's mean so far, drawn to that of all arms as if by DRAWN
decisions, or the linear model of the look where the spec has one.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from bandit.evaluate.learner import Learner, Target
from bandit.evaluate.logged import Logged
from bandit.evaluate.outcome import Estimate, Evaluation, Fall, MetricValue, Span, Trust
from bandit.evaluate.parts import (
    arms_of,
    by_look,
    clipped,
    counts_of,
    few,
    honest,
    in_units,
    logged_of,
    unit_of,
    valued_of,
)
from bandit.evaluate.periods import Schedule, schedule
from bandit.evaluate.support import (
    KEPT,
    answers,
    comparability,
    judgeable,
    keeps_arms,
    support,
    uncovered,
)
from bandit.evaluate.worth import Worth, worth, worthed
from bandit.features import UNIT, Encoder
from bandit.inference.offpolicy import (
    Estimator,
    Log,
    anytime,
    anytime_lift,
    influence,
    standard_error,
    value,
)
from bandit.ledger import FloatArray, Int64Array
from bandit.spec.metric import MetricKind

ESTIMATORS: tuple[Estimator, ...] = ("ips", "snips", "dr", "switch_dr")
TAU = 10.0
"""Weight above which switch_dr trusts its model instead."""
DRAWN = 100.0
"""Decisions that the mean of all arms counts as in an arm's model."""
MIDDLE = 0.5
Held = tuple[tuple[float, float], tuple[float, float]]


def by_weights(
    log: Logged,
    every_s: float,
    *,
    complete: bool = False,
    advance: Callable[[int, int], None] = lambda done, of: None,
) -> Evaluation:
    """Value ``log.spec`` with a look every so often. ``complete`` as for ``worth``; ``advance`` is told how many looks
    are done, and of how many.

    Raises InvalidArgument where no decision has a value, and where the log never made most of what the spec would.
    """
    found = worth(log, complete=complete)
    valued = valued_of(log, found)
    plan = schedule(log, every_s, alike=log.spec.is_linear)
    judged = judgeable(log.spec, plan)
    learner = Learner(log, plan, judged.spec)
    arms = len(log.spec.arms)
    target, model = np.empty((log.size, arms)), np.empty((log.size, arms))
    means = _Means.of(log, found.unit)
    falls: list[Fall] = []
    for at in range(len(plan.at_ms)):
        seen, fell = learner.look(at)
        falls += fell
        chosen = np.arange(plan.first[at], plan.first[at + 1])
        target[chosen] = seen.of(log.cohort[chosen], log.features[chosen])
        model[chosen] = _model(means, seen, log, chosen)
        vector = plan.vector[chosen]
        learner.take(at, chosen, np.where(plan.whole[vector, None], plan.chance[vector], -1.0), own=False)
        advance(at + 1, len(plan.at_ms))
    warnings = comparability(log, plan, judged.names)
    lacking = uncovered(log, plan, target)
    warnings += support(log, target, lacking)
    warnings += answers(log, found)
    return _evaluation(log, plan, found, valued, target, model, lacking, falls, warnings)


class _Means:
    """Sums of values by arm before each decision, as running totals."""

    def __init__(self, sums: FloatArray, counts: FloatArray) -> None:
        self._sums, self._counts = sums, counts

    @classmethod
    def of(cls, log: Logged, unit: FloatArray) -> _Means:
        size, arms = log.size, len(log.spec.arms)
        sums, counts = np.zeros((size + 1, arms)), np.zeros((size + 1, arms))
        told = ~np.isnan(unit)
        at = np.flatnonzero(told)
        sums[at + 1, log.arm[at]], counts[at + 1, log.arm[at]] = unit[at], 1.0
        return cls(np.cumsum(sums, axis=0), np.cumsum(counts, axis=0))

    def before(self, decision: int) -> FloatArray:
        """[K] mean of each arm over the decisions before this one, drawn to that of all."""
        sums, counts = self._sums[decision], self._counts[decision]
        whole = float(sums.sum() / counts.sum()) if counts.sum() else MIDDLE
        found: FloatArray = (sums + DRAWN * whole) / (counts + DRAWN)
        return found


def _model(means: _Means, seen: Target, log: Logged, chosen: Int64Array) -> FloatArray:
    """[N, K] expected objective, on [0, 1], of decisions of one interval under each arm."""
    if seen.chooser is None:
        return np.tile(means.before(int(chosen[0])), (chosen.size, 1))
    rows = Encoder(log.spec.features).rows(log.features[chosen]) / UNIT
    return np.clip(rows @ seen.chooser.rule.coefficients().T, 0.0, 1.0)


def _evaluation(
    log: Logged,
    plan: Schedule,
    found: Worth,
    valued: Int64Array,
    target: FloatArray,
    model: FloatArray,
    lacking: FloatArray,
    falls: list[Fall],
    warnings: list[str],
) -> Evaluation:
    unit = unit_of(log, valued)
    wide = Log(log.arm[valued], log.propensity[valued], found.unit[valued], target[valued], unit)
    part = float(lacking[valued].mean())
    plain = value(wide, "ips")
    warnings += plain.warnings
    warnings += few(wide.reward[wide.weight > 0.0])
    held = None
    if keeps_arms(log):
        warnings.append(KEPT)
    else:
        held = anytime(wide), anytime_lift(wide)
    return Evaluation(
        experiment=log.spec.experiment,
        mode="weights",
        counts=counts_of(log, plan, found),
        range=(found.lowest, found.lowest + found.span),
        logged=logged_of(found, valued, unit),
        estimates=tuple(_estimate(wide, each, model[valued], found, part, held) for each in ESTIMATORS),
        anytime=None if held is None else in_units(held[0], found.lowest, found.span),
        anytime_lift=None if held is None else in_units(held[1], 0.0, found.span),
        trust=Trust(
            effective=plain.effective,
            mean_weight=plain.mean_weight,
            least_propensity=plain.least_propensity,
            largest_weight=plain.largest_weight,
            uncovered=part,
        ),
        accepted=None,
        metrics=_metrics(log, found, target, lacking),
        arms=arms_of(log, target),
        falls=tuple(falls),
        warnings=tuple(warnings),
        at_ms=plan.at_ms,
        shares=by_look(plan, target),
    )


def _estimate(
    wide: Log, estimator: Estimator, model: FloatArray, found: Worth, part: float, held: Held | None
) -> Estimate:
    """``part``: what has no evidence, which ips counts as worth nothing and the others guess; ``held``: intervals of
    value and lift that hold at every look, on [0, 1] and [-1, 1]."""
    terms = influence(wide, estimator, model=model, tau=TAU)
    lower = 0.0 if estimator == "ips" else part
    own = Span.of(float(terms.mean()), standard_error(terms, wide.unit), lower, part)
    apart = terms - wide.reward
    lift = Span.of(float(apart.mean()), standard_error(apart, wide.unit), lower, part)
    seen = wide.reward[wide.weight > 0.0]
    interval, apart_by = held or ((0.0, 1.0), (-1.0, 1.0))
    own, lift = honest(own, seen, interval), honest(lift, seen, apart_by)
    return Estimate(
        estimator, clipped(own).scaled(found.lowest, found.span), clipped(lift, -1.0).scaled(0.0, found.span)
    )


def _metrics(log: Logged, found: Worth, target: FloatArray, lacking: FloatArray) -> tuple[MetricValue, ...]:
    """Each metric's mean under the spec, by snips."""
    made = []
    for index, metric in enumerate(log.spec.metrics):
        own = np.flatnonzero(~np.isnan(found.values[:, index]))
        if metric.kind is MetricKind.RATIO or not own.size:
            continue
        values, unit = worthed(metric, found.values[own, index]), unit_of(log, own)
        part = float(lacking[own].mean()) * (metric.scale[1] - metric.scale[0])
        wide = Log(log.arm[own], log.propensity[own], values, target[own], unit)
        terms = influence(wide, "snips")
        apart = terms - values
        made.append(
            MetricValue(
                metric.name,
                own.size,
                float(values.mean()),
                Span.of(float(terms.mean()), standard_error(terms, unit), part, part),
                Span.of(float(apart.mean()), standard_error(apart, unit), part, part),
            )
        )
    return tuple(made)

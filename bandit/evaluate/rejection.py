"""What a spec would have been worth by a log of constant random shares, if it had learned from its own decisions alone.

A decision that the log gave arm a at propensity p_a is accepted with probability t_a min_k(p_k) / p_a, t the shares
that the spec proposes then; the others are passed over, and the spec's learner hears of none of their rewards. So the
accepted decisions are those that the spec would have made in min_k p_k as much traffic (Li, Chu, Langford & Wang 2011,
algorithm 3 and theorem 1, where shares are alike; by von Neumann's rejection where they are not), and their mean is an
unbiased value of a spec that learns, which weights cannot give. It costs all but that part of the log.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from bandit.errors import InvalidArgument
from bandit.evaluate.learner import Learner
from bandit.evaluate.logged import Logged
from bandit.evaluate.outcome import Estimate, Evaluation, Fall, MetricValue, Span
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
from bandit.evaluate.periods import TOLERANCE, Schedule, schedule
from bandit.evaluate.support import answers, keeps_arms
from bandit.evaluate.worth import Worth, worth, worthed
from bandit.inference.offpolicy import Log, anytime, standard_error
from bandit.ledger import FloatArray, Int64Array
from bandit.rng import hash_unit
from bandit.spec.metric import MetricKind

FEW = 100
SEED_BYTES = 16


def by_replay(
    log: Logged,
    every_s: float,
    *,
    seed: int = 1,
    complete: bool = False,
    advance: Callable[[int, int], None] = lambda done, of: None,
) -> Evaluation:
    """Value ``log.spec`` with a look every so often; ``seed``: of the draws of acceptance; others as ``by_weights``.

    Raises InvalidArgument where the log was not drawn by constant shares anew at each decision, where nothing is
    accepted, or nothing accepted has a value.
    """
    chance = constant_shares(log)
    found = worth(log, complete=complete)
    valued = valued_of(log, found)
    plan = schedule(log, every_s, alike=True)
    learner = Learner(log, plan, log.spec)
    target = np.empty((log.size, len(log.spec.arms)))
    accepted = np.zeros(log.size, np.bool_)
    salt = (seed % (1 << (8 * SEED_BYTES))).to_bytes(SEED_BYTES, "little")
    falls: list[Fall] = []
    for at in range(len(plan.at_ms)):
        seen, fell = learner.look(at)
        falls += fell
        chosen = np.arange(plan.first[at], plan.first[at + 1])
        target[chosen] = seen.of(log.cohort[chosen], log.features[chosen])
        arm = log.arm[chosen]
        u = np.array([hash_unit(salt, f"{each}") >> 11 for each in chosen.tolist()]) * 2.0**-53
        accepted[chosen] = u * chance[arm] < target[chosen, arm] * chance.min()
        taken = chosen[accepted[chosen]]
        learner.take(at, taken, target[taken], own=True)
        advance(at + 1, len(plan.at_ms))
    return _evaluation(log, plan, found, valued, target, accepted, falls, float(chance.min()))


def constant_shares(log: Logged) -> FloatArray:
    """[K] the shares by which all decisions were drawn. Raises InvalidArgument where they were not the same for all."""
    arms = len(log.spec.arms)
    advice = "evaluate it by weights, which any log allows"
    if log.propensities is not None:
        low, high = log.propensities.min(axis=0), log.propensities.max(axis=0)
    else:
        low, high = np.full(arms, np.inf), np.zeros(arms)
        np.minimum.at(low, log.arm, log.propensity)
        np.maximum.at(high, log.arm, log.propensity)
    for arm, least, most in zip(log.spec.arms, low.tolist(), high.tolist(), strict=True):
        if most <= 0.0:
            raise InvalidArgument.at(
                "log",
                f"{arm.name} was never served, and a replay needs all arms of the spec; {advice}, or leave it out",
            )
        if most - least > TOLERANCE:
            raise InvalidArgument.at(
                "log",
                f"the propensity of {arm.name} goes from {least:g} to {most:g}; a replay needs a log of constant "
                f"shares: {advice}",
            )
    if abs(high.sum() - 1.0) > arms * TOLERANCE:
        raise InvalidArgument.at(
            "propensity",
            f"those of all arms add up to {high.sum():g}, not to 1; name all arms of the log in the spec",
        )
    if keeps_arms(log):
        raise InvalidArgument.at(
            "log",
            f"units keep their arm when they come back; a replay needs a new draw for each decision: {advice}",
        )
    shares: FloatArray = np.asarray(high, np.float64)
    return shares


def _evaluation(
    log: Logged,
    plan: Schedule,
    found: Worth,
    valued: Int64Array,
    target: FloatArray,
    accepted: NDArray[np.bool_],
    falls: list[Fall],
    part: float,
) -> Evaluation:
    own = valued[accepted[valued]]
    if not own.size:
        raise InvalidArgument.at(
            "log",
            f"none of {valued.size:,} decisions with a value was accepted, of which about {part * valued.size:.1f} "
            "would be: give a longer log",
        )
    unit = unit_of(log, own)
    rewards = found.unit[own]
    estimate = Span.of(float(rewards.mean()), standard_error(rewards, unit))
    low, high = anytime(Log(np.zeros(own.size, np.int64), np.ones(own.size), rewards, np.ones(1), unit))
    estimate = honest(estimate, rewards, (low, high))
    warnings = answers(log, found) + few(rewards)
    if own.size < FEW:
        warnings.append(
            f"{own.size:,} accepted decisions have a value: take standard errors for guesses, or give a longer log"
        )
    thinner = f"the spec saw {accepted.mean():.2%} of the traffic, as a replay does"
    warnings.append(f"{thinner}: it learned as it would at that pace, looks and windows by the clock")
    return Evaluation(
        experiment=log.spec.experiment,
        mode="replay",
        counts=counts_of(log, plan, found),
        range=(found.lowest, found.lowest + found.span),
        logged=logged_of(found, valued, unit_of(log, valued)),
        estimates=(
            Estimate(
                "replay",
                clipped(estimate).scaled(found.lowest, found.span),
                clipped(_lift(log, found.unit, valued, accepted), -1.0).scaled(0.0, found.span),
            ),
        ),
        anytime=in_units((low, high), found.lowest, found.span),
        anytime_lift=None,
        trust=None,
        accepted=int(accepted.sum()),
        metrics=_metrics(log, found, accepted),
        arms=arms_of(log, target),
        falls=tuple(falls),
        warnings=tuple(warnings),
        at_ms=plan.at_ms,
        shares=by_look(plan, target),
    )


def _lift(log: Logged, values: FloatArray, own: Int64Array, accepted: NDArray[np.bool_]) -> Span:
    """Mean of the accepted less the mean of all, which they are part of."""
    taken, x = accepted[own].astype(np.float64), values[own]
    mean = float(taken @ x / taken.sum())
    terms = taken * (x - mean) / taken.mean() + mean - x
    return Span.of(float(terms.mean()), standard_error(terms, unit_of(log, own)))


def _metrics(log: Logged, found: Worth, accepted: NDArray[np.bool_]) -> tuple[MetricValue, ...]:
    made = []
    for index, metric in enumerate(log.spec.metrics):
        values = worthed(metric, found.values[:, index])
        every = np.flatnonzero(~np.isnan(values))
        own = every[accepted[every]]
        if metric.kind is MetricKind.RATIO or not own.size:
            continue
        made.append(
            MetricValue(
                metric.name,
                own.size,
                float(values[every].mean()),
                Span.of(float(values[own].mean()), standard_error(values[own], unit_of(log, own))),
                _lift(log, values, every, accepted),
            )
        )
    return tuple(made)

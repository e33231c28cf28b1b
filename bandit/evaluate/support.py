"""What makes an evaluation doubtful, in words: decisions that the log never made, units that keep their arm, answers
that depend on the arm, comparisons that the log does not allow. It values nothing."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from bandit.errors import InvalidArgument
from bandit.evaluate.logged import NO_UNIT, Logged
from bandit.evaluate.periods import Schedule
from bandit.evaluate.worth import Worth
from bandit.guardrails.levels import comparisons, pool
from bandit.ledger import FloatArray
from bandit.spec.guardrail import AGAINST_LIMIT
from bandit.spec.model import ExperimentSpec

MOST_UNCOVERED = 0.1
"""Part of the spec's decisions that the log could not have made, beyond which no value is told."""
RARE = 30
"""Decisions of an arm below which the log hardly served it."""
NOTABLE = 0.01
NAMED = 5
SURE = 5.0
KEPT = (
    "units keep their arm when they come back: standard errors count each unit once, and no interval that holds at "
    "every look is told, since decisions are no new draws"
)
NEED_NO_SHARES = AGAINST_LIMIT | {"silence"}
"""Kinds of guardrails that compare no two arms."""


class Unjudged(NamedTuple):
    """A spec without the guardrails that a log cannot be judged by, and their names."""

    spec: ExperimentSpec
    names: tuple[str, ...]


def judgeable(spec: ExperimentSpec, plan: Schedule) -> Unjudged:
    """Without guardrails that need exact shares, where the log does not have them. The others need as much evidence as
    they do beside them."""
    gone = tuple(each for each in spec.guardrails if each.kind not in NEED_NO_SHARES)
    told = plan.whole.all() and spec.weighs if spec.is_linear else plan.exact.all()
    if told or not gone:
        return Unjudged(spec, ())
    kept = tuple(each for each in spec.guardrails if each.kind in NEED_NO_SHARES)
    before, after = (
        sum(each.priority * comparisons(spec, each) for each in own if pool(each) == "release")
        for own in (spec.guardrails, kept)
    )
    fields = {name: getattr(spec, name) for name in spec.model_fields_set}
    alpha = spec.alpha * after / before if after else spec.alpha
    made = ExperimentSpec.model_validate({**fields, "guardrails": kept, "alpha": alpha})
    return Unjudged(made, tuple(each.name for each in gone))


def uncovered(log: Logged, plan: Schedule, target: FloatArray) -> FloatArray:
    """[T] probability that the spec gives each decision to arms at which the log could not have given it: their
    probability was 0, or is not told and the arm is nowhere in the log."""
    never = np.bincount(log.arm, minlength=target.shape[1]) == 0
    without = (plan.chance == 0.0) | ((plan.chance < 0.0) & never)
    found: FloatArray = (target * without[plan.vector]).sum(axis=1)
    return found


def support(log: Logged, target: FloatArray, lacking: FloatArray) -> list[str]:
    """Sentences about arms that the log did not serve, or hardly. ``lacking`` as :func:`uncovered`.

    Raises InvalidArgument where so much is lacking that a value would be an invention.
    """
    part, counts = float(lacking.mean()), np.bincount(log.arm, minlength=target.shape[1])
    told = []
    if part > 0.0:
        never = [arm.name for arm, count in zip(log.spec.arms, counts, strict=True) if not count]
        named = f" ({', '.join(never)} never served)" if never else ""
        seen = f"the spec gives {part:.2%} of the decisions to arms that the log could not have given there{named}"
        if part > MOST_UNCOVERED:
            raise InvalidArgument.at(
                "log",
                f"{seen}; at most {MOST_UNCOVERED:.0%} can be valued: log with a floor for every arm, or leave these "
                "arms out of the spec",
            )
        told.append(
            f"{seen}: ips counts them as worth nothing, snips as worth what the others are, dr by its model; intervals "
            "are as much wider; log with a floor for every arm"
        )
    share = target.mean(axis=0)
    rare = [
        f"{arm.name} ({count} decisions, {own:.1%} under the spec)"
        for arm, count, own in zip(log.spec.arms, counts.tolist(), share.tolist(), strict=True)
        if 0 < count < RARE and own >= NOTABLE
    ]
    if rare:
        more = f" and {len(rare) - NAMED} more" if len(rare) > NAMED else ""
        told.append(f"hardly known are {', '.join(rare[:NAMED])}{more}: log more decisions of them")
    return told


def answers(log: Logged, found: Worth) -> list[str]:
    """A sentence where arms are answered differently often, so that values of the answered are not those of all."""
    asked = ~found.pending
    answered = asked & ~np.isnan(found.unit)
    size = len(log.spec.arms)
    n, got = (np.bincount(log.arm[chosen], minlength=size) for chosen in (asked, answered))
    whole = got.sum() / max(n.sum(), 1)
    error = np.sqrt(np.maximum(whole * (1.0 - whole), 1e-12) / np.maximum(n, 1))
    apart = np.abs(got / np.maximum(n, 1) - whole) / error * (n > 0)
    arm = int(np.argmax(apart))
    if apart[arm] <= SURE:
        return []
    told = (
        f"{got[arm] / n[arm]:.1%} of the decisions of {log.spec.arms[arm].name} have a value and {whole:.1%} of all: "
        "what is told is the value of the answered; say what silence is worth (default_when_silent), or distrust it"
    )
    return [told]


def repeats(log: Logged) -> bool:
    """Are there units with several decisions?"""
    told = log.unit[log.unit != NO_UNIT]
    return len(np.unique(told)) < len(told)


def keeps_arms(log: Logged) -> bool:
    """Do units that come back have the same arm more often than new draws would give it to them?

    Of the decisions after the first of a unit, S have the arm of the one before. Were they new draws, S would exceed
    the sum of the probabilities of those arms by SURE standard errors once in millions; where the arm is another one,
    its probability was at most what the given arm left.
    """
    order = np.argsort(log.unit, kind="stable")
    order = order[log.unit[order] != NO_UNIT]
    again = np.flatnonzero(log.unit[order][1:] == log.unit[order][:-1]) + 1
    if not again.size:
        return False
    now, before = order[again], order[again - 1]
    same = log.arm[now] == log.arm[before]
    most = np.where(same, log.propensity[now], 1.0 - log.propensity[now])
    return float(same.sum() - most.sum()) > SURE * math.sqrt(float((most * (1.0 - most)).sum())) + 1e-9


def comparability(log: Logged, plan: Schedule, names: tuple[str, ...]) -> list[str]:
    """Sentences about guardrails that were left out, and about arms that were not served alike."""
    told = []
    if names:
        told.append(
            f"{', '.join(names)}: not judged, as the log does not tell the shares that all arms had; log the "
            "propensities of all arms"
        )
    rough = len(np.unique(plan.interval[~plan.exact]))
    if rough and not log.spec.is_linear:
        told.append(
            f"in {rough:,} of {len(plan.at_ms):,} intervals the probabilities of the log differ from decision to "
            "decision or are not all known: the spec's learner compares arms there as if they had served alike, which "
            "they have not where the log chose by what a request brought; the value of the shares that it then "
            "proposed is right all the same"
        )
    return told

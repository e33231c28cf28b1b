"""What an evaluation found, as plain values; it computes nothing but intervals from standard errors."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal, NamedTuple

from bandit.ledger import FloatArray, Int64Array

LEVEL = 0.95
Z = 1.959964
"""Of LEVEL, for one look at the whole log."""
Mode = Literal["weights", "replay"]


class Fall(NamedTuple):
    """What a guardrail did to an arm at a look: ``action`` rolled_back or held, at ``time_ms``, and why in words."""

    time_ms: int
    arm: str
    guardrail: str
    action: str
    message: str


class Span(NamedTuple):
    """An estimate with its standard error and a 95 % interval, asymptotic and for one look."""

    value: float
    se: float
    low: float
    high: float

    @classmethod
    def of(cls, value: float, se: float, lower: float = 0.0, upper: float = 0.0) -> Span:
        """From a standard error; ``lower`` and ``upper`` are added to the ends, for what has no evidence."""
        half = Z * se if math.isfinite(se) else math.inf
        return cls(value, se, value - half - lower, value + half + upper)

    def scaled(self, lowest: float, span: float) -> Span:
        """In the unit of what is ``lowest`` at 0 and ``lowest + span`` at 1."""
        return Span(
            lowest + span * self.value, span * self.se, lowest + span * self.low, lowest + span * self.high
        )


class Estimate(NamedTuple):
    """What the spec would have been worth by one ``estimator``, and what that is more than the log was worth."""

    estimator: str
    value: Span
    lift: Span


class MetricValue(NamedTuple):
    """A metric's mean in the log and under the spec, in the metric's unit, over ``decisions`` that have a value."""

    metric: str
    decisions: int
    logged: float
    value: Span
    lift: Span


class ArmPart(NamedTuple):
    """An arm in the log and under the spec: ``decisions`` in the log, its part of them, its mean share under the spec
    over the log's decisions, and its last share."""

    arm: str
    decisions: int
    logged: float
    share: float
    last: float


class Counts(NamedTuple):
    """Of the logged ``decisions``, ``valued`` have a value of every term of the objective, ``pending`` had an open
    window, ``unanswered`` no reward; ``late`` rewards came after their window, ``uncounted`` decisions are those that
    the log says were not drawn by shares. ``looks``, one each ``every_s`` seconds in which there were decisions."""

    decisions: int
    valued: int
    pending: int
    unanswered: int
    late: int
    uncounted: int
    looks: int
    every_s: float


class Trust(NamedTuple):
    """How far weights go, as in ``inference.offpolicy``: ``effective`` sample size, ``mean_weight``,
    ``least_propensity``, ``largest_weight``; ``uncovered``: part of the spec's decisions that the log could not have
    made."""

    effective: float
    mean_weight: float
    least_propensity: float
    largest_weight: float
    uncovered: float


@dataclass(frozen=True, slots=True)
class Evaluation:
    """Values are in units of the objective, which can be within ``range``.

    ``anytime`` and ``anytime_lift``: intervals (95 %) that hold at every look and whatever the weights, None where
    decisions are no new draws (or, of the lift, in a replay). ``trust``: None in a replay; ``accepted``: decisions of a
    replay, None by weights. ``at_ms`` [J] and ``shares`` [J, K]: shares by look, over the decisions that followed it.
    """

    experiment: str
    mode: Mode
    counts: Counts
    range: tuple[float, float]
    logged: Span
    estimates: tuple[Estimate, ...]
    anytime: tuple[float, float] | None
    anytime_lift: tuple[float, float] | None
    trust: Trust | None
    accepted: int | None
    metrics: tuple[MetricValue, ...]
    arms: tuple[ArmPart, ...]
    falls: tuple[Fall, ...]
    warnings: tuple[str, ...]
    at_ms: Int64Array
    shares: FloatArray

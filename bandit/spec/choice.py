"""What a spec maximises and by which rule: terms of the objective and the allocator."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from bandit.spec.frozen import Frozen, MetricKey, Name
from bandit.spec.quantity import Share, Value, increasing, number


class Term(Frozen):
    """One term of the objective: ``weight`` times the metric on its fixed scale, better always up.

    With weight 0 it is not maximised, but what it needs goes on being added up, so that the weight may come back.
    """

    metric: MetricKey = Field(description="name of the metric")
    weight: Annotated[float, Field(ge=0, le=1e6), BeforeValidator(number)] = Field(
        1.0,
        description="importance relative to the other terms; 0: none for now, statistics are kept for later",
    )
    scale: tuple[Value, Value] | None = Field(
        None, description="metric values that map to 0 and 1 in the objective; left out: the metric's range"
    )

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if value is None else increasing(value)


AllocatorKind = Literal[
    "thompson",
    "top_two",
    "exploration",
    "ucb1",
    "ucb_v",
    "ucb1_tuned",
    "kl_ucb",
    "kl_ucb_plus",
    "bayes_ucb",
    "epsilon_greedy",
    "fixed",
    "lin_ts",
    "lin_ucb",
]


class Allocator(Frozen):
    """The rule from posteriors to weights."""

    kind: AllocatorKind = Field(
        "thompson",
        description="thompson: earn most while learning; top_two, exploration: find the best arm soonest; ucb1, ucb_v, "
        "ucb1_tuned, kl_ucb, kl_ucb_plus, bayes_ucb: optimism, poured over the arms; epsilon_greedy: the best so far "
        "and an even part; fixed: the weights given here; lin_ts, lin_ucb: thompson and optimism by the features of "
        "each request, with a linear model of the objective for each arm",
    )
    weights: dict[Name, Share] = Field(
        default_factory=dict, description="fixed only: share of each arm; they add up to 1"
    )
    beta: Annotated[float, Field(gt=0, lt=1), BeforeValidator(number)] = Field(
        0.5, description="top_two only: part of the traffic that goes to the leader, between 0 and 1"
    )
    epsilon: Annotated[float, Field(ge=0, le=1), BeforeValidator(number)] = Field(
        0.1, description="epsilon_greedy only: part of the traffic that all arms share evenly, 0 to 1"
    )
    ridge: Annotated[float, Field(ge=1e-3, le=1e6), BeforeValidator(number)] = Field(
        1.0,
        description="lin_ts and lin_ucb: how many rewards the prior of each coefficient weighs; before any, its sd is "
        "that of one reward over the root of this",
    )
    exploration: Annotated[float, Field(gt=0, le=100), BeforeValidator(number)] | None = Field(
        None,
        description="lin_ts: factor on the posterior sd, 1 is Thompson sampling; lin_ucb: how many posterior sd an "
        "index lies above the mean; left out: 1 and 2",
    )
    confidence: Annotated[float, Field(gt=0, lt=1), BeforeValidator(number)] | None = Field(
        None,
        description="lin_ucb only, instead of exploration: chance that an index is ever below the truth (the width of "
        "OFUL); much wider",
    )

    @property
    def width(self) -> float:
        """Posterior sd that a linear allocator explores by: 1 is Thompson sampling."""
        if self.exploration is not None:
            return self.exploration
        return 2.0 if self.kind == "lin_ucb" else 1.0


class Constraint(Frozen):
    """What an arm must keep to be preferred: a bound on its mean that holds with a probability, by its posterior."""

    metric: MetricKey = Field(description="name of the metric")
    limit: Value | None = Field(
        None,
        description="the mean is at most this (minimize) or at least this (maximize), in the metric's unit",
    )
    within: Annotated[float, Field(gt=0, le=1e12), BeforeValidator(number)] | None = Field(
        None, description="the mean is at most so far from that of the best arm, in the metric's unit"
    )
    probability: Annotated[float, Field(ge=0.5, lt=1), BeforeValidator(number)] = Field(
        0.95, description="how sure it must be that an arm keeps it, and that it does not to be left out"
    )


class Budget(Frozen):
    """What a day may cost; dear arms give way as it is used up, down to their floors."""

    metric: MetricKey = Field(description="name of the metric that is spent, one that is minimised")
    per_day: Annotated[float, Field(gt=0, le=1e15), BeforeValidator(number)] = Field(
        description="most that all decisions of a day (UTC) should cost together, in the metric's unit"
    )

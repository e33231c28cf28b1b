"""Guardrails of a spec: what is watched, against what, and what a failure leads to."""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from bandit.spec.frozen import Frozen, MetricKey, Name
from bandit.spec.quantity import Duration, Number, Value, increasing, number

AGAINST_LIMIT = frozenset({"rate_limit", "breaker", "quantile_limit", "event_rate"})
"""Kinds that compare an arm with a fixed limit."""
AGAINST_CONTROL = frozenset({"harm", "quantile_harm", "became_worse", "response_rate"})
"""Kinds that compare an arm with the concurrent control."""
WARNINGS = frozenset({"sample_ratio", "silence", "response_rate", "drift"})
"""Kinds that say that something is amiss, not that the arm is: they flag or hold, and never roll back alone."""
MOST_EDGES = 48
FINEST = 1.1


class Guardrail(Frozen):
    """One safety check of every challenger."""

    name: Name = Field(description="name of the guardrail")
    kind: Literal[
        "rate_limit",
        "harm",
        "breaker",
        "quantile_limit",
        "quantile_harm",
        "event_rate",
        "became_worse",
        "sample_ratio",
        "silence",
        "response_rate",
        "drift",
    ] = Field(
        description="rate_limit: bad share against a fixed limit; harm: against the concurrent control; "
        "breaker: catastrophe in the latest rewards against a fixed limit; quantile_limit: a quantile against a fixed "
        "limit; quantile_harm: a quantile against the control's; event_rate: events per decision, a fixed limit; "
        "became_worse: against the control after a long good life; sample_ratio: traffic against the shares; "
        "silence: rewards stopped; response_rate: decisions with a reward against the control's; drift: a mean moved"
    )
    metric: MetricKey | None = Field(
        None, description="name of the metric that is watched; all kinds but sample_ratio need one"
    )
    limit: Number | None = Field(
        None,
        description="rate_limit and breaker: highest tolerated share of bad outcomes, in (0, 1); quantile_limit: what "
        "the quantile may reach, event_rate: tolerated events per decision, in the metric's unit",
    )
    quantile: Annotated[float, Field(gt=0, lt=1), BeforeValidator(number)] | None = Field(
        None, description="quantile_limit and quantile_harm: which one, for example 0.99"
    )
    between: tuple[Value, Value] | None = Field(
        None,
        description="quantile_harm: where the control's quantile is expected to lie, in the metric's unit; "
        "the narrower, the finer it is known",
    )
    margin: Annotated[float, Field(ge=1, le=10), BeforeValidator(number)] = Field(
        1.0,
        description="tolerated ratio of the arm's badness to the control's; 1.1 tolerates ten per cent. Badness is the "
        "distance from the best end of the scale: where 2 % of decisions succeed, failing in 98 % times 1.1 tolerates "
        "anything; write margin_of: mean there. quantile_harm, ratio metrics: ratio of the quantiles or ratios; "
        "response_rate: of the shares, either way",
    )
    margin_of: Literal["badness", "mean"] = Field(
        "badness",
        description="harm and became_worse: what margin multiplies or, where more is better, divides: badness, or the "
        "mean itself (1.1: a success rate of at least the control's / 1.1)",
    )
    method: Literal["exact", "asymptotic"] = Field(
        "exact",
        description="harm: exact from the first request; asymptotic: a little quicker where badness is common, says "
        "nothing before 50 bad events on each side and enough outcomes for their skewness",
    )
    tail: Annotated[float, Field(gt=0, le=0.001), BeforeValidator(number)] = Field(
        1e-6, description="breaker: chance per look of as many bad outcomes in a healthy arm"
    )
    run_length: Annotated[float, Field(ge=100, le=1e12), BeforeValidator(number)] = Field(
        100_000.0,
        description="became_worse: periods between two false alarms, on average, over all arms; spends no alpha",
    )
    after: Duration = Field(
        3600.0, description="silence: age from which on a decision should have its reward, for example 15m"
    )
    cohorts: Literal["all", "each"] = Field(
        "all",
        description="all: cohorts added up; each: every declared cohort on its own, and all of them together",
    )
    action: Literal["rollback", "hold", "flag"] = Field(
        "rollback",
        description="on FAIL: rollback; hold the share where it is; or flag: show it and change nothing",
    )
    priority: Annotated[float, Field(gt=0, le=1000), BeforeValidator(number)] = Field(
        1.0, description="share of alpha relative to the other guardrails"
    )

    @field_validator("between")
    @classmethod
    def _check_between(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        if value is not None and value[0] <= 0.0:
            raise ValueError(
                f"[{value[0]:g}, {value[1]:g}] begins at or below 0; its steps are ratios: begin above 0"
            )
        return None if value is None else increasing(value)

    def edges(self) -> tuple[tuple[float, ...], int]:
        """quantile_harm: edges at which outcomes are counted, a geometric grid over ``between``, and how many of them
        lie from tau to margin * tau. As fine as MOST_EDGES allow, at best 1.1 / 2 apart; without a margin the step is
        1.1."""
        assert self.between is not None
        low, high = self.between
        base = self.margin if self.margin > 1.0 else FINEST
        span = math.log(high / low) / math.log(base)
        parts = max(
            min(int((MOST_EDGES - 2) / (span + 1.0)), math.ceil(math.log(base) / math.log(FINEST) * 2)), 1
        )
        steps = parts if self.margin > 1.0 else 0
        # More are refused by the rules of specs; they are not written out before that.
        count = min(math.ceil(span * parts - 1e-9) + 1 + steps, MOST_EDGES + 1)
        return tuple(low * base ** (j / parts) for j in range(count)), steps

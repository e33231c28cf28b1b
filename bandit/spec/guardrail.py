"""Guardrails of a spec: what is watched, against what, and what a failure leads to."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field

from bandit.spec.frozen import Frozen, MetricKey, Name
from bandit.spec.quantity import number


class Guardrail(Frozen):
    """One safety check of every challenger."""

    name: Name = Field(description="name of the guardrail")
    kind: Literal["rate_limit", "harm", "breaker"] = Field(
        description="rate_limit: bad share against a fixed limit; harm: against the concurrent control; "
        "breaker: catastrophe in the latest rewards against a fixed limit"
    )
    metric: MetricKey = Field(description="name of the metric that is watched")
    limit: Annotated[float, Field(gt=0, lt=1), BeforeValidator(number)] | None = Field(
        None, description="rate_limit and breaker: highest tolerated share of bad outcomes"
    )
    margin: Annotated[float, Field(ge=1, le=10), BeforeValidator(number)] = Field(
        1.0,
        description="harm: tolerated ratio of the arm's badness to the control's; 1.1 tolerates ten per cent",
    )
    tail: Annotated[float, Field(gt=0, le=0.001), BeforeValidator(number)] = Field(
        1e-6, description="breaker: chance per look of as many bad outcomes in a healthy arm"
    )
    action: Literal["rollback", "hold"] = Field(
        "rollback", description="on FAIL: rollback, or hold the share where it is"
    )
    priority: Annotated[float, Field(gt=0, le=1000), BeforeValidator(number)] = Field(
        1.0, description="share of alpha relative to the other guardrails"
    )

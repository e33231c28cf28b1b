"""What a spec maximises and by which rule: terms of the objective and the allocator."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, field_validator

from bandit.spec.frozen import Frozen, MetricKey, Name
from bandit.spec.quantity import Share, Value, increasing, number


class Term(Frozen):
    """One term of the objective: ``weight`` times the metric on its fixed scale, better always up."""

    metric: MetricKey = Field(description="name of the metric")
    weight: Annotated[float, Field(gt=0, le=1e6), BeforeValidator(number)] = Field(
        1.0, description="importance relative to the other terms"
    )
    scale: tuple[Value, Value] | None = Field(
        None, description="metric values that map to 0 and 1 in the objective; left out: the metric's range"
    )

    @field_validator("scale")
    @classmethod
    def _check_scale(cls, value: tuple[float, float] | None) -> tuple[float, float] | None:
        return None if value is None else increasing(value)


class Allocator(Frozen):
    """The rule from posteriors to weights."""

    kind: Literal["thompson", "ucb", "fixed"] = Field(
        "thompson", description="thompson or ucb: learn from rewards; fixed: the weights given here"
    )
    weights: dict[Name, Share] = Field(
        default_factory=dict, description="fixed only: share of each arm; they add up to 1"
    )

"""Features of a spec: what of a decide request a linear model sees, each from one attribute, kept in one byte."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, StrictInt

from bandit.spec.frozen import Frozen
from bandit.spec.quantity import Value

MAX_FEATURES = 31
"""So that a token with all of them has 96 bytes."""
MAX_DIMENSION = 32
"""Columns with the intercept: a model of D columns has D (D + 1) / 2 sums for each arm."""
LINEAR = frozenset({"lin_ts", "lin_ucb"})
"""Allocators that read features; the others must not have any."""

FeatureValue = Annotated[str, Field(min_length=1, max_length=128)]


class Feature(Frozen):
    """One feature. A missing or unreadable value is the middle of a numeric one, ``other`` of a categorical one, and
    the empty text of a hashed one; it never fails a decision."""

    name: Annotated[str, Field(min_length=1, max_length=64)] = Field(
        description="name of the attribute of the decide request"
    )
    kind: Literal["numeric", "categorical", "hashed"] = Field(
        description="numeric: a number between low and high; categorical: one of the values, anything else is other; "
        "hashed: any text, by its hash in one of so many buckets"
    )
    low: Value | None = Field(
        None, description="numeric: the number that is -1 to the model, as all below it"
    )
    high: Value | None = Field(
        None, description="numeric: the number that is 1 to the model, as all above it"
    )
    values: Annotated[tuple[FeatureValue, ...], Field(max_length=MAX_DIMENSION - 2)] = Field(
        (), description="categorical: values with a coefficient of their own"
    )
    buckets: Annotated[StrictInt, Field(ge=2, le=MAX_DIMENSION - 1)] | None = Field(
        None, description="hashed: number of buckets, each with a coefficient of its own"
    )

    @property
    def columns(self) -> int:
        """How many columns of the model it has."""
        if self.kind == "numeric":
            return 1
        return 1 + len(self.values) if self.kind == "categorical" else self.buckets or 0

"""What all parts of a spec share: frozen, no unknown keys, names by one rule."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from bandit.ids import METRIC_PATTERN, NAME_PATTERN

Name = Annotated[str, Field(pattern=NAME_PATTERN)]
MetricKey = Annotated[str, Field(pattern=METRIC_PATTERN)]


class Frozen(BaseModel):
    """A part of a spec."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

"""What a user knows of delays: how late rewards come that come within their window. Data correct it."""

from __future__ import annotations

from typing import Annotated

from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from bandit.spec.frozen import Frozen
from bandit.spec.quantity import Duration, format_duration, number

STRENGTH = 100.0


class Delay(Frozen):
    """Delays from decision to reward, over the rewards that come within the attribution window.

    ``median`` and ``p90`` in s, above 0 and rising; without ``p90`` rewards come at a constant rate. ``strength``: how
    many rewards the belief weighs.
    """

    median: Duration = Field(description="half of the rewards have come by then, for example 2h")
    p90: Duration | None = Field(
        None,
        description="nine tenths of the rewards have come by then, for example 20h; left out: as where those that are "
        "still to come come at a constant rate",
    )
    strength: Annotated[float, Field(gt=0, le=1e6), BeforeValidator(number)] = Field(
        STRENGTH, description="how many rewards the belief weighs"
    )

    @field_validator("median")
    @classmethod
    def _check_median(cls, value: float) -> float:
        if value <= 0.0:
            raise ValueError("0ms is no delay; write 1ms or more, or leave the delay out")
        return value

    @field_validator("p90")
    @classmethod
    def _check_p90(cls, value: float | None, seen: ValidationInfo) -> float | None:
        median = seen.data.get("median")
        if value is not None and median is not None and value <= median:
            raise ValueError(
                f"{format_duration(value)} is not after the median, {format_duration(median)}; write a longer one"
            )
        return value

    @property
    def spelled(self) -> str:
        """The belief in a few words."""
        words = f"half of the rewards within {format_duration(self.median)}"
        return words if self.p90 is None else f"{words} and nine tenths within {format_duration(self.p90)}"


def delay_fault(delay: Delay, window: float) -> tuple[str, str]:
    """(field, sentence) of a delay that no reward within a window of so many s can have; empty when it can."""
    for field, value in (("p90", delay.p90), ("median", delay.median)):
        if value is not None and value >= window:
            return field, (
                f"{format_duration(value)} is not before the end of the attribution window, "
                f"{format_duration(window)}, and later rewards do not count; write less, or widen the window"
            )
    return "", ""

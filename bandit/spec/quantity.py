"""The numbers of a spec file as types: shares, values, durations; each refuses what is not plainly one.

A share is a number in [0, 1], kept to the millionth (ppm); a duration is text like ``30m`` in the file and
seconds in the program.
"""

from __future__ import annotations

import math
import re
from decimal import Decimal
from typing import Annotated

from pydantic import AfterValidator, BeforeValidator, Field, PlainSerializer
from pydantic_core import PydanticCustomError

PPM = 1_000_000

_UNIT_MS = {"w": 604_800_000, "d": 86_400_000, "h": 3_600_000, "m": 60_000, "s": 1000, "ms": 1}
DURATION_PATTERN = r"^[0-9]{1,13}(\.[0-9]{1,9})?(ms|s|m|h|d|w)$"
_DURATION = re.compile(r"([0-9]{1,13}(?:\.[0-9]{1,9})?)(ms|s|m|h|d|w)")
_LONGEST_MS = 5200 * _UNIT_MS["w"]
# Beyond it, differences of the size that experiments look for drown in the rounding of sums.
_LARGEST = 1e12


def parse_duration(value: object) -> float:
    """Seconds from ``500ms``, ``10s``, ``30m``, ``6h``, ``7d``, ``2w``: whole milliseconds, at most 5200w.

    Raises ValueError with the rule.
    """
    match = _DURATION.fullmatch(value.strip()) if isinstance(value, str) else None
    if match is None:
        raise ValueError(
            f"{value!r} is not a duration; write a number and ms, s, m, h, d or w, for example 30m"
        )
    millis = Decimal(match[1]) * _UNIT_MS[match[2]]
    if millis != int(millis):
        raise ValueError(f"{value!r} is finer than one millisecond; durations are whole milliseconds")
    if millis > _LONGEST_MS:
        raise ValueError(f"{value!r} is longer than a century; the longest duration is 5200w")
    return int(millis) / 1000


def format_duration(seconds: float) -> str:
    """The shortest text that ``parse_duration`` reads back to the same seconds (to the millisecond)."""
    millis = round(seconds * 1000)
    unit = next((unit for unit, size in _UNIT_MS.items() if millis % size == 0), "ms") if millis else "s"
    return f"{millis // _UNIT_MS[unit]}{unit}"


def _duration(value: object) -> float:
    try:
        return parse_duration(value)
    except ValueError as error:
        raise PydanticCustomError("not_a_duration", "{why}", {"why": str(error)}) from None


def number(value: object) -> float:
    """A finite float from an int or a float; text and booleans are refused, not converted."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise PydanticCustomError(
            "not_a_number", "{seen} is not a number; write it without quotes", {"seen": repr(value)}
        )
    try:
        number = float(value)
    except OverflowError:
        number = math.inf
    if not math.isfinite(number):
        raise PydanticCustomError("not_finite", "{seen} is not a finite number", {"seen": repr(number)})
    return number


def _quantised(share: float) -> float:
    # Shares are served in ppm: what two of them mean must not differ where the server sees them equal.
    rounded = round(share, 6) or 0.0
    if share and not rounded:
        raise PydanticCustomError(
            "share_too_small",
            "{seen} is above 0 and below the smallest share; write 0 or at least 0.000001",
            {"seen": repr(share)},
        )
    return rounded


Number = Annotated[float, BeforeValidator(number)]
Share = Annotated[float, Field(ge=0, le=1), BeforeValidator(number), AfterValidator(_quantised)]
Value = Annotated[float, Field(ge=-_LARGEST, le=_LARGEST), BeforeValidator(number)]
Duration = Annotated[
    float,
    BeforeValidator(_duration, json_schema_input_type=Annotated[str, Field(pattern=DURATION_PATTERN)]),
    PlainSerializer(format_duration, return_type=str),
]


def share_ppm(share: float) -> int:
    """A share in [0, 1] as integer parts per million."""
    return round(share * PPM)


def increasing(pair: tuple[float, float]) -> tuple[float, float]:
    """The pair itself when its first number is below its second; else ValueError."""
    low, high = pair
    if not low < high:
        raise ValueError(f"[{low:g}, {high:g}] is empty; the first number must be below the second")
    return pair

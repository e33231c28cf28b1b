"""Durations and shares: what they read, what they refuse, and that text and number agree."""

from __future__ import annotations

import pytest
from pydantic import TypeAdapter, ValidationError

from bandit.spec.model import format_duration, parse_duration, share_ppm
from bandit.spec.quantity import Share
from bandit.spec.scalar import Odd, resolve


@pytest.mark.parametrize(
    ("text", "seconds", "shortest"),
    [
        ("500ms", 0.5, "500ms"),
        ("1001ms", 1.001, "1001ms"),
        ("10s", 10, "10s"),
        ("1.5h", 5400, "90m"),
        ("90m", 5400, "90m"),
        ("60m", 3600, "1h"),
        ("24h", 86400, "1d"),
        ("7d", 604800, "1w"),
        ("5200w", 3_144_960_000, "5200w"),
        ("7775999999ms", 7_775_999.999, "7775999999ms"),
        ("3144959999999ms", 3_144_959_999.999, "3144959999999ms"),
        (" 1s ", 1, "1s"),
        ("0s", 0, "0s"),
    ],
)
def test_durations(text: str, seconds: float, shortest: str) -> None:
    assert parse_duration(text) == seconds
    assert format_duration(seconds) == shortest


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        ("", "not a duration"),
        ("30", "not a duration"),
        (30, "not a duration"),
        ("-1s", "not a duration"),
        ("1 h", "not a duration"),
        ("1h30m", "not a duration"),
        ("1e3s", "not a duration"),
        ("\u0663s", "not a duration"),
        ("1s\n2s", "not a duration"),
        ("0.5ms", "finer than one millisecond"),
        ("1.0001s", "finer than one millisecond"),
        ("5201w", "longer than a century"),
        ("999999999w", "longer than a century"),
    ],
)
def test_what_is_no_duration(value: object, rule: str) -> None:
    with pytest.raises(ValueError, match=rule):
        parse_duration(value)


def test_shares_are_whole_millionths() -> None:
    share = TypeAdapter(Share).validate_python
    assert share(1 / 3) == 0.333333
    assert share_ppm(share(1 / 3)) / 1_000_000 == share(1 / 3)
    assert str(share(-0.0)) == "0.0"
    assert share(1) == 1.0
    for value in (1.0000001, -1e-9, 1e-9, 10**400, "1", True, None, float("nan")):
        with pytest.raises(ValidationError):
            share(value)


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("", None),
        ("~", None),
        ("null", None),
        ("true", True),
        ("FALSE", False),
        ("yes", Odd("yes")),
        ("OFF", Odd("OFF")),
        ("y", "y"),
        ("truely", "truely"),
        ("0", 0),
        ("-12", -12),
        ("+3", 3),
        ("1.", 1.0),
        (".5", 0.5),
        ("1e-6", 1e-6),
        ("1.5E+3", 1500.0),
        ("-.inf", float("-inf")),
        ("017", Odd("017")),
        ("0o17", Odd("0o17")),
        ("0x1F", Odd("0x1F")),
        ("0b11", Odd("0b11")),
        ("1_000", Odd("1_000")),
        ("1_0.5", Odd("1_0.5")),
        ("12:30", Odd("12:30")),
        ("190:20:30.15", Odd("190:20:30.15")),
        ("1.2.3", "1.2.3"),
        ("10.0.0.1", "10.0.0.1"),
        ("2026-11-25", "2026-11-25"),
        ("1e", "1e"),
        ("-", "-"),
        (".", "."),
        ("12:75", "12:75"),
        ("nan", "nan"),
        ("3h", "3h"),
    ],
)
def test_scalars(text: str, value: object) -> None:
    found = resolve(text)
    assert found == value
    assert type(found) is type(value)

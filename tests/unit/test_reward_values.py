"""Which values each kind of metric takes, and as what they count."""

from __future__ import annotations

import math
from typing import Any

import pytest

from bandit.errors import Rejected
from bandit.ledger import ONE
from bandit.reward import Amendment, RewardEvent, accept_with_token
from bandit.token import Claims
from tests.builders import NOW, running

KINDS: list[dict[str, Any]] = [
    {"kind": "bernoulli"},
    {"kind": "fraction"},
    {"kind": "gaussian", "range": [-10, 10], "winsorize": 5},
    {"kind": "poisson", "range": [0, 40], "winsorize": 20},
    {"kind": "exponential", "range": [0, 60]},
    {"kind": "lognormal", "range": [0, 1000], "winsorize": 100},
    {"kind": "revenue", "range": [0, 1000], "winsorize": 100},
    {"kind": "rating", "levels": [1, 2, 3, 4.5], "scores": [1, 1, 2, 4]},
    {"kind": "ratio", "range": [0, 3], "numerator": "poisson", "denominator": "exponential"},
]
METRICS = [{"name": kind["kind"], "direction": "maximize"} | kind for kind in KINDS]
EXPERIMENT, ALLOCATION = running(metrics=METRICS, objective=[{"metric": "fraction"}], guardrails=[])
CLAIMS = Claims(7, 1, ALLOCATION.number, 5, 99, NOW, 1, 300_000, 0, 1)


def counted(kind: str, value: float | None) -> float | str:
    """What of the scale a value counts as, or the reason of its refusal."""
    try:
        record = accept_with_token(EXPERIMENT, CLAIMS, RewardEvent(kind, value), NOW)
    except Rejected as error:
        return error.reason
    return (record.reward if isinstance(record, Amendment) else record).q / ONE


@pytest.mark.parametrize(
    ("kind", "value", "expected"),
    [
        ("bernoulli", 0.3, "NOT_BINARY"),
        ("fraction", 0.3, 0.3),
        ("fraction", 1.0, 1.0),
        ("fraction", 1.1, "OUT_OF_RANGE"),
        ("gaussian", 2.0, 0.8),
        ("gaussian", 5.0, 1.0),
        ("gaussian", 9.9, 1.0),
        ("gaussian", 10.1, "OUT_OF_RANGE"),
        ("gaussian", -10.0, 0.0),
        ("poisson", 3.0, 0.15),
        ("poisson", -0.0, 0.0),
        ("poisson", 33.0, 1.0),
        ("poisson", 41.0, "OUT_OF_RANGE"),
        ("poisson", -1.0, "OUT_OF_RANGE"),
        ("poisson", 2.5, "NOT_A_COUNT"),
        ("poisson", 41.5, "NOT_A_COUNT"),
        ("exponential", 15.0, 0.25),
        ("exponential", 0.0, 0.0),
        ("exponential", 1e-9, "BELOW_RESOLUTION"),
        ("lognormal", 0.0, "NOT_POSITIVE"),
        ("lognormal", -1.0, "NOT_POSITIVE"),
        ("lognormal", 25.0, 0.25),
        ("lognormal", 400.0, 1.0),
        ("revenue", 0.0, 0.0),
        ("revenue", 400.0, 1.0),
        ("revenue", 1001.0, "OUT_OF_RANGE"),
        ("rating", 1.0, 0.0),
        ("rating", 4.5, 1.0),
        ("rating", 3.0, 2 / 3.5),
        ("rating", 4.0, "NOT_A_LEVEL"),
        ("rating", 0.0, "NOT_A_LEVEL"),
        ("ratio", 1.0, "DERIVED_METRIC"),
        *((kind["kind"], None, "NO_VALUE") for kind in KINDS[:-1]),
        *((kind["kind"], math.nan, "NOT_FINITE") for kind in KINDS[:-1]),
        *((kind["kind"], -math.inf, "NOT_FINITE") for kind in KINDS[:-1]),
    ],
)
def test_a_value_counts_as_its_kind_says(kind: str, value: float | None, expected: float | str) -> None:
    got = counted(kind, value)
    assert got == expected if isinstance(expected, str) else got == pytest.approx(expected, abs=1e-9)


def test_a_fraction_is_so_much_success_and_the_rest_failure() -> None:
    """Rewards of 0.3, 1.7 and -0.2: the first is 0.3 to one side and 0.7 to the other, the others are refused."""
    assert counted("fraction", 0.3) == pytest.approx(0.3, abs=1e-9)
    assert [counted("fraction", value) for value in (1.7, -0.2)] == ["OUT_OF_RANGE"] * 2
    assert [counted("bernoulli", value) for value in (0.3, 1.7, -0.2)] == ["NOT_BINARY"] * 3


@pytest.mark.parametrize("value", ["1", True, False, [1], "", b"1", {}, "x" * 10_000])
def test_what_is_no_number_is_never_taken_for_one(value: Any) -> None:
    for kind in KINDS[:-1]:
        assert counted(kind["kind"], value) == "NOT_A_NUMBER"
    with pytest.raises(Rejected) as caught:
        accept_with_token(EXPERIMENT, CLAIMS, RewardEvent("fraction", value), NOW)
    assert len(str(caught.value)) < 200

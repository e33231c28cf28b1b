"""Features: one byte each, never an error, rows of whole numbers, and P(best) of what is read from them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.features import UNIT, Encoder, bucket_of
from bandit.kernels.best_arm import STUDENT_T, best_arm
from bandit.linear.best import best_of, shapes_of
from bandit.linear.project import PPM, bounded_ppm
from bandit.rollout.bounds import bounded
from bandit.spec.features import Feature

ENCODER = Encoder(
    [
        Feature(name="tokens", kind="numeric", low=0, high=4000),
        Feature(name="plan", kind="categorical", values=("free", "pro")),
        Feature(name="city", kind="hashed", buckets=5),
    ]
)


def test_columns_have_readable_names() -> None:
    assert ENCODER.columns == (
        *("intercept", "tokens", "plan=other", "plan=free", "plan=pro"),
        *(f"city#{bucket}" for bucket in range(5)),
    )
    assert ENCODER.dimension == len(ENCODER.columns)


@pytest.mark.parametrize(
    ("text", "byte"),
    [("0", -127), ("-9e99", -127), ("4000", 127), ("1e99", 127), ("2000", 0), ("3000", 64), (" 1000 ", -64)],
)
def test_numbers_are_scaled_cut_and_rounded(text: str, byte: int) -> None:
    assert ENCODER.encode({"tokens": text, "plan": "free", "city": "Oslo"})[0] == byte & 0xFF


@pytest.mark.parametrize("text", ["", "x", "nan", "inf", "-inf", "1_000", "0x10", "1,5", "١٢٣x"])
def test_what_cannot_be_read_is_the_middle_and_counted(text: str) -> None:
    encoder = Encoder(ENCODER.features)
    assert encoder.encode({"tokens": text, "plan": "free", "city": "Oslo"})[0] == 0
    assert encoder.missing == (1 if text else 0)


def test_what_is_missing_has_a_value_and_is_counted() -> None:
    encoder = Encoder(ENCODER.features)
    assert encoder.encode({}) == bytes([0, 0, bucket_of("city", "", 5)])
    assert encoder.missing == 3
    assert encoder.encode({"tokens": "2000", "plan": "gold", "city": ""}) == encoder.encode({})


def test_buckets_are_those_of_xxh3_in_any_language() -> None:
    assert [bucket_of("city", name, 1 << 62) for name in ("", "Oslo", "Łódź")] == [
        3462080957313349188,
        4315155837179516440,
        210774310459431833,
    ]


@given(st.dictionaries(st.sampled_from(["tokens", "plan", "city"]), st.text(max_size=20)))
def test_any_text_becomes_a_row_of_ones_and_a_number(attributes: dict[str, str]) -> None:
    encoded = ENCODER.encode(attributes)
    assert len(encoded) == 3
    row = ENCODER.rows(np.frombuffer(encoded, np.uint8)[None])[0]
    assert row[0] == UNIT
    assert abs(row[1]) <= UNIT
    assert sorted(row[2:5]) == [0, 0, UNIT]
    assert sorted(row[5:]) == [0, 0, 0, 0, UNIT]
    assert ENCODER.row(encoded) == pytest.approx(row / 127)


@given(st.binary(min_size=3, max_size=3))
def test_bytes_that_no_attributes_give_are_a_legal_row_too(encoded: bytes) -> None:
    row = ENCODER.rows(np.frombuffer(encoded, np.uint8)[None])[0]
    assert abs(row).max() == UNIT
    assert row[2:5].sum() == row[5:].sum() == UNIT


# -- P(best) without numba ------------------------------------------------------------------------------------------

GOLDEN: dict[str, Any] = json.loads((Path(__file__).parents[1] / "golden" / "pbest.json").read_text())


def test_golden_values_of_students_t() -> None:
    cases = [each for each in GOLDEN["cases"] if each["family"] in ("t", "student_t", "normal")]
    assert len(cases) == 10
    for case in cases:
        arms = np.array([[float(each) for each in arm] for arm in case["params"]])
        freedom = arms[:, 2] if arms.shape[1] == 3 else np.full(len(arms), 1e8)
        sign = -1.0 if case["objective"] == "min" else 1.0
        p, _ = best_of(sign * arms[:, 0], arms[:, 1], shapes_of(freedom))
        assert p == pytest.approx([float(each) for each in case["p_best"]], abs=3e-7), case


@pytest.mark.parametrize("arms", [2, 3, 5, 10, 40])
def test_as_the_learners_kernel_has_it_for_arms_of_all_widths(arms: int) -> None:
    chance = np.random.default_rng(arms)
    worst = 0.0
    for turn in range(60):
        mean = chance.normal(size=arms) * 10 ** chance.uniform(-2, 1)
        scale = 10 ** chance.uniform(-3, 1, size=arms) if turn % 2 else np.full(arms, 0.3)
        if turn % 7 == 0:
            mean[0], scale[0] = mean[1], 1e-4
        freedom = chance.choice([2.0, 3.0, 5.0, 20.0, 200.0, 1e5], size=arms)
        p, _ = best_of(mean, scale, shapes_of(freedom))
        exact = best_arm(STUDENT_T, np.stack([mean, scale, freedom], axis=1), None)
        worst = max(worst, float(np.abs(p - exact.p).max()))
        assert p.sum() == pytest.approx(1.0, abs=1e-12)
    assert worst < 1e-6


def test_equal_arms_are_equal_and_a_shift_or_stretch_changes_nothing() -> None:
    shapes = shapes_of(np.array([6.0, 6.0, 6.0, 6.0]))
    p, _ = best_of(np.full(4, 0.3), np.full(4, 0.1), shapes)
    assert p == pytest.approx(np.full(4, 0.25), abs=1e-12)
    mean, scale = np.array([0.1, 0.2, 0.15, 0.0]), np.array([0.1, 0.02, 0.3, 0.05])
    p, highest = best_of(mean, scale, shapes)
    moved, far = best_of(5.0 + 1000.0 * mean, 1000.0 * scale, shapes)
    assert moved == pytest.approx(p, abs=1e-9)
    assert far == pytest.approx(5.0 + 1000.0 * highest, rel=1e-6)
    worst, _ = best_of(-mean, scale, shapes)
    assert worst[3] > worst[1]


@given(
    st.integers(2, 12).flatmap(
        lambda k: st.tuples(
            st.lists(st.floats(0, 1), min_size=k, max_size=k),
            st.lists(st.integers(0, PPM // k), min_size=k, max_size=k),
            st.lists(st.integers(0, PPM), min_size=k, max_size=k),
        )
    )
)
def test_shares_are_the_learners_projection_to_the_ppm(
    parts: tuple[list[float], list[int], list[int]],
) -> None:
    chances, low, more = parts
    p = np.array(chances) + 1e-6
    p /= p.sum()
    high = [min(each + extra, PPM) for each, extra in zip(low, more, strict=True)]
    high[0] = PPM
    shares = bounded_ppm(p.tolist(), low, high)
    assert sum(shares) == PPM
    assert all(a <= share <= b for a, share, b in zip(low, shares, high, strict=True))
    learners = bounded(p, np.array(low, np.int64), np.array(high, np.int64))
    assert max(abs(a - b) for a, b in zip(shares, learners, strict=True)) <= 1

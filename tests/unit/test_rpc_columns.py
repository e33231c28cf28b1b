"""Decisions in columns are the decisions one by one: same arms, same propensities, same tokens."""

from __future__ import annotations

import hmac
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.decide import Table, compile_table
from bandit.ledger import bucket_of
from bandit.ranges import PPM
from bandit.rng import point_ppm
from bandit.token import REROUTED, TOKEN_BYTES, Claims, KeyRing, sign, sign_bodies, verify
from server.rpc.columns import Columns, decide_many, points_ppm, sign_many
from tests.builders import running

RING = KeyRing({3: bytes(range(32)), 9: bytes(range(100, 150))}, 9)
EDGES = [
    0,
    1,
    2**32 - 1,
    2**32,
    2**63,
    2**64 - 1,
    *(n * 2**64 // PPM + d for n in (1, 400_000, 999_999) for d in (-1, 0, 1)),
]


@given(st.lists(st.integers(0, 2**64 - 1) | st.sampled_from(EDGES), min_size=1))
def test_points_are_those_of_the_hash(hashes: list[int]) -> None:
    assert points_ppm(np.array(hashes, np.uint64)).tolist() == [point_ppm(each) for each in hashes]


@given(st.lists(st.text(min_size=1, max_size=20), min_size=1, max_size=50))
def test_arms_are_those_of_the_table(units: list[str]) -> None:
    table = compile_table(*running())
    one_by_one = [table.decide(unit, {}) for unit in units]
    columns = decide_many(table, units)
    assert columns.arms.tolist() == [each.arm for each in one_by_one]
    assert columns.unit_hashes.tolist() == [each.unit_hash for each in one_by_one]
    assert columns.propensities_ppm.tolist() == [each.propensity_ppm for each in one_by_one]


def test_many_ranges_and_empty_arms() -> None:
    table = compile_table(*running())
    split: Table = replace(
        table,
        starts=tuple(range(0, PPM, 10_000)),
        owners=tuple(index % 2 * 2 for index in range(100)),
        shares_ppm=(500_000, 0, 500_000),
    )
    units = [f"u{i}" for i in range(5000)]
    assert decide_many(split, units).arms.tolist() == [split.decide(unit, {}).arm for unit in units]


@given(
    first=st.builds(
        Claims,
        *(st.integers(0, 2**32 - 1) for _ in range(4)),
        st.integers(0, 2**63),
        st.integers(0, 2**64 - 1),
        st.just(0),
        st.just(0),
        st.integers(0, 2**15 - 1),
        st.just(0),
        st.binary(max_size=31),
    ),
    rows=st.lists(
        st.tuples(st.integers(0, 2**64 - 1), st.integers(0, 255), st.integers(0, PPM), st.booleans()),
        min_size=1,
        max_size=20,
    ),
)
def test_tokens_are_those_of_sign(first: Claims, rows: list[tuple[int, int, int, bool]]) -> None:
    hashes, arms, shares, moved = zip(*rows, strict=True)
    columns = Columns(
        np.array(hashes, np.uint64),
        np.array(arms, np.uint8),
        np.array(shares, np.uint32),
        np.array(moved, np.bool_),
    )
    tokens = sign_many(RING, first, columns)
    size = TOKEN_BYTES + len(first.features)
    assert len(tokens) == size * len(rows)
    for index, (unit_hash, arm, share, rerouted) in enumerate(rows):
        claims = first._replace(
            number=first.number + index,
            unit_hash=unit_hash,
            arm=arm,
            propensity_ppm=share,
            cohort=first.cohort | rerouted * REROUTED,
        )
        token = tokens[index * size : (index + 1) * size]
        assert token == sign(RING, claims)
        assert verify(RING, token) == claims
        assert (claims.cohort_index, claims.rerouted) == (first.cohort, rerouted)
        assert columns.buckets[index] == bucket_of(unit_hash, rerouted=rerouted)


@pytest.mark.parametrize("size", [32, 63, 64, 65, 200])
def test_signing_by_blocks_is_hmac_for_every_length_of_key(size: int) -> None:
    key = bytes(index % 256 for index in range(size))
    body = bytes(49)
    want = body + hmac.digest(key, body, "sha256")[:16]
    assert sign_bodies(KeyRing({1: key}, 1), body + body) == want + want

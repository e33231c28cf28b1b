"""Decision tokens: whole, ours, or refused with one and the same reason."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.errors import InvalidArgument, Rejected
from bandit.ids import DecisionId
from bandit.token import TOKEN_BYTES, Claims, KeyRing, sign, verify

RING = KeyRing({1: b"k" * 32, 2: b"n" * 32}, newest=2)
CLAIMS = Claims(7, 2, 31, 5, 123_456, 1_700_000_000_000, 2**64 - 1, 20_000, 3, 1)

uint32, uint64 = st.integers(0, 2**32 - 1), st.integers(0, 2**64 - 1)
claims = st.builds(
    Claims, uint32, uint32, uint32, uint32, uint64, uint64, uint64, st.integers(1, 10**6), st.integers(0, 65535),
    st.integers(0, 255), st.binary(max_size=31),
)  # fmt: skip


@given(claims)
def test_a_token_brings_its_claims_back(given_claims: Claims) -> None:
    token = sign(RING, given_claims)
    assert len(token) == 65 + len(given_claims.features) <= 96
    assert verify(RING, token) == given_claims


def test_a_token_without_features_is_as_it_always_was() -> None:
    token = sign(RING, CLAIMS)
    assert (len(token), token[0], token[1]) == (TOKEN_BYTES, 1, 2)


def test_features_cannot_be_put_into_or_cut_out_of_a_token() -> None:
    with_them = sign(RING, CLAIMS._replace(features=b"abc"))
    for forged in (
        with_them[:49] + with_them[52:],
        b"\x01" + with_them[1:49] + with_them[52:],
        with_them[:49] + b"ab" + with_them[52:],
        b"\x02" + sign(RING, CLAIMS)[1:],
        sign(RING, CLAIMS)[:49] + b"abc" + sign(RING, CLAIMS)[49:],
    ):
        with pytest.raises(Rejected):
            verify(RING, forged)


@pytest.mark.parametrize("claimed", [CLAIMS, CLAIMS._replace(features=bytes(range(31)))])
def test_every_changed_bit_is_refused(claimed: Claims) -> None:
    token = sign(RING, claimed)
    for bit in range(8 * len(token)):
        forged = bytearray(token)
        forged[bit // 8] ^= 1 << bit % 8
        with pytest.raises(Rejected) as caught:
            verify(RING, bytes(forged))
        assert caught.value.reason == "BAD_TOKEN"


def test_mutations_are_refused() -> None:
    chance = random.Random(11)
    tokens = [sign(RING, CLAIMS._replace(number=n)) for n in range(50)]
    for _ in range(20_000):
        first, second = chance.sample(tokens, 2)
        cut = chance.randrange(len(first))
        mutation = chance.choice(
            [
                first[:cut],
                first[:cut] + second[cut:] if first[:cut] + second[cut:] not in tokens else b"",
                first + second[: cut + 1],
                chance.randbytes(chance.randrange(200)),
                first[:cut] + chance.randbytes(1) + first[cut:],
            ]
        )
        with pytest.raises(Rejected):
            verify(RING, mutation)


def test_another_key_and_other_versions_are_refused() -> None:
    other = KeyRing({2: b"x" * 32}, newest=2)
    with pytest.raises(Rejected):
        verify(RING, sign(other, CLAIMS))
    token = sign(RING, CLAIMS)
    for version in (0, 2, 255):
        with pytest.raises(Rejected):
            verify(RING, bytes([version]) + token[1:])


def test_rotation_keeps_old_tokens_until_their_key_is_retired() -> None:
    old = KeyRing({1: b"k" * 32}, newest=1)
    token = sign(old, CLAIMS)
    assert verify(RING, token) == CLAIMS
    assert sign(RING, CLAIMS)[1] == 2
    retired = KeyRing({2: b"n" * 32}, newest=2)
    with pytest.raises(Rejected):
        verify(retired, token)


@pytest.mark.parametrize("keys", [{}, {1: b"short"}, {300: b"k" * 32}])
def test_a_wrong_ring_cannot_be_built(keys: dict[int, bytes]) -> None:
    with pytest.raises(ValueError, match="key"):
        KeyRing(keys, newest=next(iter(keys), 1))


def test_decision_ids_read_back() -> None:
    assert DecisionId.parse(str(CLAIMS.decision_id)) == CLAIMS.decision_id
    for wrong in ("", "1.2", "1.2.3.4", "x.y.z", "-1.2.3", "1..2", " 1.2.3x"):
        with pytest.raises(InvalidArgument):
            DecisionId.parse(wrong)

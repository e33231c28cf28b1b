"""Decision tokens: a decision's own proof, signed by the server that decided, brought back by its rewards.

65 bytes: 49 of fields (little endian) and the first 16 of HMAC-SHA256 over them (RFC 2104; truncation as
RFC 2104 section 5). Where the choice depended on features, version 2: their bytes (``bandit.features``) and the marks
of the arms' shares (``linear.weights``), 1 to 31 in all, lie between the two, so a token has at most 96. No personal
data: the unit is a salted hash. Comparison takes constant time.
"""

from __future__ import annotations

import hashlib
import hmac
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

from bandit.errors import Rejected
from bandit.ids import DecisionId

if TYPE_CHECKING:
    from hashlib import _Hash

VERSION = 1
WITH_FEATURES = 2
TAG_BYTES = 16
REROUTED = 1 << 15
MOST_FEATURES = 31
BODY = struct.Struct("<BBIIIIQQQIHB")
TOKEN_BYTES = BODY.size + TAG_BYTES
_BLOCK = 64
_INNER = bytes(byte ^ 0x36 for byte in range(256))
_OUTER = bytes(byte ^ 0x5C for byte in range(256))


class Claims(NamedTuple):
    """What a token says: which decision, under which allocation, for which arm, when. ``cohort``: its index, with the
    bit REROUTED where the unit's point changed owner before, so that it may have met another arm."""

    experiment_uid: int
    epoch: int
    allocation: int
    issuer: int
    number: int
    issued_ms: int
    unit_hash: int
    propensity_ppm: int
    cohort: int
    arm: int
    features: bytes = b""

    @property
    def cohort_index(self) -> int:
        """The cohort alone."""
        return self.cohort & ~REROUTED

    @property
    def rerouted(self) -> bool:
        """May the unit have met another arm?"""
        return bool(self.cohort & REROUTED)

    @property
    def decision_id(self) -> DecisionId:
        """The decision's id."""
        return DecisionId(self.experiment_uid, self.issuer, self.number)


@dataclass(frozen=True, slots=True)
class KeyRing:
    """Signing keys by key id (0 to 255), each 32 bytes; ``newest`` signs, all verify."""

    keys: Mapping[int, bytes]
    newest: int

    def __post_init__(self) -> None:
        if self.newest not in self.keys:
            raise ValueError(f"key {self.newest} that should sign is not in the ring")
        if any(not 0 <= kid <= 255 or len(key) < 32 for kid, key in self.keys.items()):
            raise ValueError("a key id is 0 to 255 and a key has at least 32 bytes")


def sign(ring: KeyRing, claims: Claims) -> bytes:
    """The token of these claims: 65 bytes, and one for each feature."""
    version = WITH_FEATURES if claims.features else VERSION
    body = BODY.pack(version, ring.newest, *claims[:-1]) + claims.features
    return body + _tag(ring.keys[ring.newest], body)


def sign_bodies(ring: KeyRing, bodies: bytes, size: int = BODY.size) -> bytes:
    """Tokens, one after the other, of bodies one after the other (``size`` bytes each, as :func:`sign` makes them).

    The same bytes as :func:`sign` gives.
    """
    inner, outer = _blocks(ring.keys[ring.newest])
    tokens: list[bytes] = []
    for at in range(0, len(bodies), size):
        body = bodies[at : at + size]
        first, second = inner.copy(), outer.copy()
        first.update(body)
        second.update(first.digest())
        tokens += (body, second.digest()[:TAG_BYTES])
    return b"".join(tokens)


def verify(ring: KeyRing, token: bytes) -> Claims:
    """The claims of a token that one of our keys signed. Raises Rejected(BAD_TOKEN).

    The reason is one and the same whatever is wrong, so that a forger learns nothing.
    """
    features = len(token) - TOKEN_BYTES
    if 0 <= features <= MOST_FEATURES and token[0] == (WITH_FEATURES if features else VERSION):
        key = ring.keys.get(token[1])
        if key is not None:
            body = token[:-TAG_BYTES]
            if hmac.compare_digest(_tag(key, body), token[-TAG_BYTES:]):
                return Claims._make((*BODY.unpack_from(body)[2:], body[BODY.size :]))
    raise Rejected(
        "the token was not signed by this service, was cut, or its key is retired; "
        "send the token bytes exactly as the decide reply gave them",
        reason="BAD_TOKEN",
    )


def _tag(key: bytes, body: bytes) -> bytes:
    """The first 16 bytes of HMAC-SHA256: 1.1 us; ``hmac.digest``, which begins with the key each time, takes 2.1."""
    first, second = _blocks(key)
    first, second = first.copy(), second.copy()
    first.update(body)
    second.update(first.digest())
    return second.digest()[:TAG_BYTES]


@lru_cache(maxsize=64)
def _blocks(key: bytes) -> tuple[_Hash, _Hash]:
    """SHA-256 after the inner and the outer block of a key (RFC 2104, section 4), to be copied and never updated."""
    if len(key) > _BLOCK:
        key = hashlib.sha256(key).digest()
    key = key.ljust(_BLOCK, b"\0")
    return hashlib.sha256(key.translate(_INNER)), hashlib.sha256(key.translate(_OUTER))

"""Many decisions of one experiment at once, in columns: the same arms and tokens as one by one, a hundred times faster.

Measured (2 shared cores, 10,000 units of 12 bytes): hash and look-up 0.35 us, token 1.3 us a decision.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from bandit.decide import Table
from bandit.ranges import PPM
from bandit.token import BODY, VERSION, Claims, KeyRing, sign_bodies

BODY_TYPE = np.dtype(
    [
        ("version", "u1"),
        ("key_id", "u1"),
        ("experiment_uid", "<u4"),
        ("epoch", "<u4"),
        ("allocation", "<u4"),
        ("issuer", "<u4"),
        ("number", "<u8"),
        ("issued_ms", "<u8"),
        ("unit_hash", "<u8"),
        ("propensity_ppm", "<u4"),
        ("cohort", "<u2"),
        ("arm", "u1"),
    ]
)
assert BODY_TYPE.itemsize == BODY.size

_LOW = np.uint64(0xFFFFFFFF)
_HALF = np.uint64(32)
_PPM = np.uint64(PPM)


class Columns(NamedTuple):
    """Decisions of one experiment: salted hashes u8[n], arms u1[n], propensities u4[n] in ppm."""

    unit_hashes: NDArray[np.uint64]
    arms: NDArray[np.uint8]
    propensities_ppm: NDArray[np.uint32]


def decide_many(table: Table, units: Sequence[str]) -> Columns:
    """The arm of each unit, as ``Table.decide`` gives it."""
    salt = table.salt
    hashes = np.array([xxh3_64_intdigest(salt + unit.encode()) for unit in units], np.uint64)
    at = np.searchsorted(np.array(table.starts, np.int64), points_ppm(hashes), side="right") - 1
    arms = np.array(table.owners, np.uint8)[at]
    return Columns(hashes, arms, np.array(table.shares_ppm, np.uint32)[arms])


def points_ppm(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """``bandit.rng.point_ppm`` of each hash: floor(hash * 10**6 / 2**64), in two halves that fit 64 bits."""
    high = (hashes >> _HALF) * _PPM
    low = (hashes & _LOW) * _PPM >> _HALF
    return ((high + low) >> _HALF).astype(np.int64)


def sign_many(ring: KeyRing, first: Claims, columns: Columns) -> bytes:
    """The tokens of all decisions; numbers count on from ``first``, whose other fields hold for all."""
    bodies = np.zeros(len(columns.arms), BODY_TYPE)
    bodies["version"] = VERSION
    bodies["key_id"] = ring.newest
    for name in ("experiment_uid", "epoch", "allocation", "issuer", "issued_ms", "cohort"):
        bodies[name] = getattr(first, name)
    bodies["number"] = np.arange(first.number, first.number + len(columns.arms), dtype=np.uint64)
    bodies["unit_hash"] = columns.unit_hashes
    bodies["propensity_ppm"] = columns.propensities_ppm
    bodies["arm"] = columns.arms
    return sign_bodies(ring, bodies.tobytes())

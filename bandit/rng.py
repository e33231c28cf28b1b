"""The hash of (salt, unit) to a point in the ppm circle; nothing else in the project is random.

XXH3-64 with the salt in front: the same unit and salt give the same point on every machine and in every
language that has XXH3. Independent salts give independent points (Collet 2019, xxHash; SMHasher).
"""

from __future__ import annotations

from xxhash import xxh3_64_intdigest

PPM = 1_000_000


def hash_unit(salt: bytes, unit: str) -> int:
    """Hash of a unit under a salt, a uint64 in [0, 2**64).

    ``salt`` has a fixed length (16 bytes), so no two (salt, unit) pairs share their bytes.
    """
    return xxh3_64_intdigest(salt + unit.encode())


def point_ppm(unit_hash: int) -> int:
    """The hash's point in [0, 1_000_000): the high bits, so that no range is favoured by more than 1e-13."""
    return (unit_hash * PPM) >> 64

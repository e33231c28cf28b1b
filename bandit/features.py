"""Features of a request: attributes -> one byte each -> a row of whole numbers; what is decided by is what is learned.

A byte is all that is kept. A numeric value v is round(127 (2 (v - low) / (high - low) - 1)), cut to -127..127, as int8;
a categorical one its place in ``values``, counted from 1; a hashed one its bucket, xxh3_64(name, 0, text) modulo
``buckets``. Columns: the intercept, then those of each feature. A row has UNIT where a column is 1 to the model, so
sums of products of rows are whole: x = row / UNIT. A row never fails: bytes that no attributes give count as missing.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from xxhash import xxh3_64_intdigest

from bandit.spec.features import Feature
from bandit.spec.model import ExperimentSpec

UNIT = 127
INTERCEPT = "intercept"
OTHER = "other"


class Encoder:
    """Attributes to bytes and bytes to rows, for the features of one spec. ``missing`` counts values that were not
    there or could not be read; several threads at once may lose a few of them."""

    def __init__(self, features: Sequence[Feature]) -> None:
        self.features = tuple(features)
        self.missing = 0
        self._places = [
            {value: place for place, value in enumerate(feature.values, start=1)} for feature in self.features
        ]
        self._starts = [1]
        for feature in self.features:
            self._starts.append(self._starts[-1] + feature.columns)

    @property
    def dimension(self) -> int:
        """Columns, the intercept included."""
        return self._starts[-1]

    @property
    def columns(self) -> tuple[str, ...]:
        """Names of the columns: ``intercept``, ``tokens``, ``plan=pro``, ``plan=other``, ``city#3``."""
        names = [INTERCEPT]
        for feature in self.features:
            if feature.kind == "numeric":
                names.append(feature.name)
            elif feature.kind == "categorical":
                names += [f"{feature.name}={value}" for value in (OTHER, *feature.values)]
            else:
                names += [f"{feature.name}#{bucket}" for bucket in range(feature.columns)]
        return tuple(names)

    def encode(self, attributes: Mapping[str, str]) -> bytes:
        """One byte per feature."""
        found = bytearray(len(self.features))
        for at, feature in enumerate(self.features):
            text = attributes.get(feature.name)
            if text is None:
                self.missing += 1
                text = ""
            if feature.kind == "numeric":
                value = _read(text)
                if value is None:
                    self.missing += bool(text)
                else:
                    found[at] = _cut(value, feature) & 0xFF
            elif feature.kind == "categorical":
                found[at] = self._places[at].get(text, 0)
            else:
                found[at] = bucket_of(feature.name, text, feature.columns)
        return bytes(found)

    def take_missing(self) -> int:
        """``missing`` so far, which begins anew."""
        found, self.missing = self.missing, 0
        return found

    def rows(self, encoded: NDArray[np.uint8]) -> NDArray[np.int64]:
        """[N, D] rows of N encoded requests [N, F]."""
        n = len(encoded)
        rows = np.zeros((n, self.dimension), np.int64)
        rows[:, 0] = UNIT
        every = np.arange(n)
        for at, feature in enumerate(self.features):
            start, byte = self._starts[at], encoded[:, at]
            if feature.kind == "numeric":
                rows[:, start] = np.maximum(byte.view(np.int8).astype(np.int64), -UNIT)
            else:
                place = byte.astype(np.int64)
                rows[every, start + np.where(place < feature.columns, place, 0)] = UNIT
        return rows

    def row(self, encoded: bytes) -> NDArray[np.float64]:
        """[D] the columns of one encoded request as the model sees them, each in [-1, 1]."""
        found: NDArray[np.float64] = (
            self.rows(np.frombuffer(encoded, np.uint8)[None])[0].astype(np.float64) / UNIT
        )
        return found


def encoder_of(spec: ExperimentSpec) -> Encoder | None:
    """The encoder of a spec's features; None where it has none."""
    return Encoder(spec.features) if spec.features else None


def dimension_of(spec: ExperimentSpec) -> int:
    """Columns of a spec's models with the intercept; 0 where it has no features."""
    return 1 + sum(feature.columns for feature in spec.features) if spec.features else 0


def bucket_of(name: str, text: str, buckets: int) -> int:
    """The bucket of a text: the same in every language that has XXH3."""
    return xxh3_64_intdigest(f"{name}\x00{text}".encode()) % buckets


def _read(text: str) -> float | None:
    """A plain finite number, or None."""
    if not text or "_" in text:
        return None
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _cut(value: float, feature: Feature) -> int:
    low, high = feature.low, feature.high
    assert low is not None
    assert high is not None
    part = (min(max(value, low), high) - low) / (high - low)
    return round(UNIT * (2.0 * part - 1.0))

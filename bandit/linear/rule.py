"""What an allocation carries of its linear models, and the choice made of it for each request. No numba, no draw.

Each arm's value for a request with columns x is Student's t around x' theta with scale sqrt(x' V x); V is A^-1 times
b / a and the squared width of exploration. ``lin_ts``: the weights are P(best | x) (Agrawal and Goyal 2013, with
unknown noise). ``lin_ucb``: the arms of highest x' theta + sqrt(x' V x) (Li, Chu, Langford and Schapire 2010). Either
is put inside the allocation's boxes, for each request, in whole ppm (``project``).
"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from bandit.features import Encoder
from bandit.linear.best import best_of, shapes_of
from bandit.linear.project import PPM, bounded_ppm
from bandit.linear.weights import marks_of

FloatArray = NDArray[np.float64]

_HEAD = struct.Struct("<BBHH")
_SCHEMA = 1
LEAST_SCALE = 1e-12
TIED = 1e-12
"""Indices that differ by less are equal, so that equal arms have equal shares."""
KEPT = 4096
"""Requests of like features that are answered from memory; one entry takes about 200 bytes."""


@dataclass(frozen=True, slots=True)
class LinearRule:
    """K arms, D columns; little-endian float64 in ``theta`` [K, D] and ``spread`` [K, D (D + 1) / 2], the upper
    triangles of V row by row. ``freedom`` [K] degrees of freedom; ``rewards`` [K] that it learned from, decayed.
    ``low_ppm``, ``high_ppm`` [K]: the boxes. ``optimistic``: lin_ucb."""

    optimistic: bool
    dimension: int
    theta: bytes
    spread: bytes
    freedom: tuple[float, ...]
    rewards: tuple[float, ...]
    low_ppm: tuple[int, ...]
    high_ppm: tuple[int, ...]

    def __post_init__(self) -> None:
        k, d = len(self.freedom), self.dimension
        if len(self.theta) != 8 * k * d or len(self.spread) != 4 * k * d * (d + 1):
            raise ValueError(f"a linear rule of {k} arms and {d} columns with numbers of another size")
        if not len(self.rewards) == len(self.low_ppm) == len(self.high_ppm) == k:
            raise ValueError(f"a linear rule of {k} arms with boxes or rewards of another number")
        if not all(np.isfinite(np.frombuffer(each, "<f8")).all() for each in (self.theta, self.spread)):
            raise ValueError("a linear rule with a number that is not finite")
        if not all(map(math.isfinite, (*self.freedom, *self.rewards))):
            raise ValueError("a linear rule with rewards that are not finite")
        if not sum(self.low_ppm) <= PPM <= sum(self.high_ppm):
            raise ValueError(f"boxes {self.low_ppm} to {self.high_ppm} hold no shares")
        if any(not 0 <= low <= high <= PPM for low, high in zip(self.low_ppm, self.high_ppm, strict=True)):
            raise ValueError(f"a box of {self.low_ppm} to {self.high_ppm} is none")

    @classmethod
    def of(
        cls,
        theta: FloatArray,
        variance: FloatArray,
        freedom: FloatArray,
        rewards: FloatArray,
        boxes: tuple[NDArray[np.int64], NDArray[np.int64]],
        *,
        optimistic: bool,
    ) -> LinearRule:
        """From ``theta`` [K, D], ``variance`` [K, D, D] and the rest [K]."""
        d = theta.shape[1]
        rows, columns = np.triu_indices(d)
        low, high = boxes
        return cls(
            optimistic,
            d,
            theta.astype("<f8").tobytes(),
            variance[:, rows, columns].astype("<f8").tobytes(),
            tuple(map(float, freedom)),
            tuple(map(float, rewards)),
            tuple(map(int, low)),
            tuple(map(int, high)),
        )

    def pack(self) -> bytes:
        """Bytes that :meth:`unpack` reads."""
        numbers = np.array([self.freedom, self.rewards], "<f8").tobytes()
        boxes = np.array([self.low_ppm, self.high_ppm], "<u4").tobytes()
        head = _HEAD.pack(_SCHEMA, self.optimistic, self.arms, self.dimension)
        return head + boxes + numbers + self.theta + self.spread

    @classmethod
    def unpack(cls, raw: bytes) -> LinearRule:
        """Inverse of :meth:`pack`. Raises ValueError for bytes that are no rule."""
        if len(raw) < _HEAD.size:
            raise ValueError(f"a linear rule cut to {len(raw)} bytes")
        schema, optimistic, k, d = _HEAD.unpack_from(raw)
        sizes = (8 * k, 16 * k, 8 * k * d, 4 * k * d * (d + 1))
        if schema != _SCHEMA or optimistic > 1 or len(raw) != _HEAD.size + sum(sizes):
            raise ValueError(
                f"{len(raw)} bytes of schema {schema} are no linear rule of {k} arms and {d} columns"
            )
        at, parts = _HEAD.size, []
        for size in sizes:
            parts.append(raw[at : at + size])
            at += size
        boxes = np.frombuffer(parts[0], "<u4").reshape(2, k).tolist()
        numbers = np.frombuffer(parts[1], "<f8").reshape(2, k).tolist()
        return cls(bool(optimistic), d, parts[2], parts[3], *map(tuple, (*numbers, *boxes)))

    @property
    def arms(self) -> int:
        """K."""
        return len(self.freedom)

    def coefficients(self) -> FloatArray:
        """theta [K, D]."""
        return np.frombuffer(self.theta, "<f8").reshape(self.arms, self.dimension).astype(np.float64)

    def variance(self) -> FloatArray:
        """V [K, D, D]."""
        d = self.dimension
        rows, columns = np.triu_indices(d)
        found = np.zeros((self.arms, d, d))
        found[:, rows, columns] = np.frombuffer(self.spread, "<f8").reshape(self.arms, -1)
        found[:, columns, rows] = found[:, rows, columns]
        return found


class Chooser:
    """Shares of each arm for a request, by its encoded features.

    The same bytes give the same shares on machines alike; on other processors a share may be 1 ppm off, by the last bit
    of a float. Each token has the share that its own server drew by.
    """

    def __init__(self, rule: LinearRule, encoder: Encoder) -> None:
        if rule.dimension != encoder.dimension:
            raise ValueError(f"a rule of {rule.dimension} columns for features of {encoder.dimension}")
        self.rule, self.encoder = rule, encoder
        self._theta, self._variance = rule.coefficients(), rule.variance()
        self._live = np.flatnonzero(np.array(rule.high_ppm) > 0)
        self._shapes = shapes_of(np.maximum(np.array(rule.freedom)[self._live], 1.0))
        self.shares_ppm = lru_cache(KEPT)(self._shares)
        self.marks = lru_cache(KEPT)(self._marks)

    def _shares(self, encoded: bytes) -> tuple[int, ...]:
        """[K] shares in ppm, sum exactly 1,000,000, 0 for arms that may have none."""
        p, _ = self.chances(self.encoder.row(encoded))
        return bounded_ppm(p.tolist(), self.rule.low_ppm, self.rule.high_ppm)

    def _marks(self, encoded: bytes) -> bytes:
        """[K] bytes that a token brings of these shares (``linear.weights``)."""
        return marks_of(self.shares_ppm(encoded))

    def values(self, x: FloatArray) -> tuple[FloatArray, FloatArray]:
        """(mean, sd) [K] of each arm's value at columns x [D]."""
        spread = np.sqrt(np.maximum((self._variance @ x) @ x, 0.0))
        return self._theta @ x, np.maximum(spread, LEAST_SCALE)

    def chances(self, x: FloatArray) -> tuple[FloatArray, float]:
        """([K] weights before bounds, expected value of the best arm) at columns x [D]; 0 for arms without traffic."""
        weights = np.zeros(self.rule.arms)
        mean, sd = self.values(x)
        live, highest = self._live, 0.0
        if live.size == 1:
            weights[live] = 1.0
            return weights, float(mean[live[0]])
        if self.rule.optimistic:
            index = mean[live] + sd[live]
            weights[live] = index >= index.max() - TIED
            weights /= weights.sum()
            highest = float(mean[live].max())
        else:
            weights[live], highest = best_of(mean[live], sd[live], self._shapes)
        return weights, highest

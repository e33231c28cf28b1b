"""Decisions of a log -> looks and periods, as the ledger wants them: shares are constant inside a period.

A look is due every so often; it is taken at the last such time before a decision, so intervals without decisions cost
nothing. The decisions of an interval fall into periods by the probabilities that the log gave: to compare arms where
they had the same ones is what makes the comparison fair, also where they differ from request to request (Rosenbaum &
Rubin 1983). Where a log tells the propensity of the arm alone, a stretch of decisions of one cohort is one vector
for as long as no arm has two values and the sum stays within 1; the last arm has what is left. An interval of
too many vectors is one period with their mean, and arms may not be compared inside it.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit.errors import InvalidArgument
from bandit.evaluate.logged import Logged
from bandit.ledger import FloatArray, Int64Array
from bandit.rollout.bounds import quantise
from bandit.spec.model import PPM

MOST_VECTORS, FEW_VECTORS = 64, 8
"""Vectors of one interval that are told apart; more than the latter only while they have PER_VECTOR decisions each."""
PER_VECTOR = 4
MOST_LOOKS = 20_000
MIXED = -1
TOLERANCE = 2e-6
"""Two propensities of an arm that differ by less are one, cut to ppm in different ways."""


@dataclass(frozen=True, slots=True)
class Schedule:
    """J looks, P periods, V vectors, K arms.

    ``at_ms`` [J]: time of each look; ``first`` [J + 1]: the decisions of interval j are ``first[j]`` to
    ``first[j + 1]``. ``period`` [T] of each decision; ``interval`` [P] of each period, ascending; ``share`` [P, K] in
    whole ppm; ``exact`` [P]: they are those that the log gave. ``vector`` [T] of each decision in ``chance`` [V, K],
    its probabilities, -1 where one is not known; ``whole`` [V]: all are known, and add up to 1.
    """

    every_ms: int
    at_ms: Int64Array
    first: Int64Array
    period: Int64Array
    interval: Int64Array
    share: FloatArray
    exact: NDArray[np.bool_]
    vector: Int64Array
    chance: FloatArray
    whole: NDArray[np.bool_]


def schedule(log: Logged, every_s: float, *, alike: bool = False) -> Schedule:
    """Looks and periods of a log. ``alike``: one period for each interval, whatever the probabilities were.

    Raises InvalidArgument for far too many looks.
    """
    every_ms = max(round(every_s * 1000.0), 1)
    slot = (log.time_ms - log.time_ms[0]) // every_ms
    first = np.flatnonzero(np.diff(slot, prepend=-1))
    if len(first) > MOST_LOOKS:
        raise InvalidArgument.at(
            "every", f"{every_s:g} s makes {len(first):,} looks; allowed: {MOST_LOOKS:,}: look less often"
        )
    edges = np.append(first, log.size).astype(np.int64)
    vector, chance = _vectors(log)
    interval = np.repeat(np.arange(len(first)), np.diff(edges))
    pairs = np.stack([interval, vector], axis=1)
    _, many = np.unique(np.unique(pairs, axis=0)[:, 0], return_counts=True)
    most = 1 if alike else np.clip(np.diff(edges) // PER_VECTOR, FEW_VECTORS, MOST_VECTORS)
    pairs[(many > most)[interval], 1] = MIXED
    found, period = np.unique(pairs, axis=0, return_inverse=True)
    period = period.ravel()
    filled = np.where(chance >= 0.0, chance, _left(chance))
    counts = np.bincount(period, minlength=len(found))
    mean = np.stack(
        [np.bincount(period, filled[vector, arm], len(found)) / counts for arm in range(chance.shape[1])],
        axis=1,
    )
    whole = (chance >= 0.0).all(axis=1) & (np.abs(chance.sum(axis=1) - 1.0) <= chance.shape[1] * TOLERANCE)
    return Schedule(
        every_ms=every_ms,
        at_ms=log.time_ms[0] + slot[first] * every_ms,
        first=edges,
        period=period.astype(np.int64),
        interval=found[:, 0].astype(np.int64),
        share=np.array([_cut(row) for row in mean]) / PPM,
        exact=(found[:, 1] != MIXED) & whole[found[:, 1]],
        vector=vector,
        chance=chance,
        whole=whole,
    )


def _vectors(log: Logged) -> tuple[Int64Array, FloatArray]:
    """(vector [T] of each decision, [V, K] the vectors, -1 where an arm's probability is not known)."""
    if log.propensities is not None:
        cut = np.rint(log.propensities * PPM).astype(np.int64)
        _, first, vector = np.unique(cut, axis=0, return_index=True, return_inverse=True)
        return vector.ravel().astype(np.int64), log.propensities[first]
    arms = len(log.spec.arms)
    vector = np.zeros(log.size, np.int64)
    found: list[dict[int, float]] = []
    now: dict[int, int] = {}
    columns = zip(log.cohort.tolist(), log.arm.tolist(), log.propensity.tolist(), strict=True)
    for at, (cohort, arm, propensity) in enumerate(columns):
        index = now.get(cohort)
        if index is None or not _fits(found[index], arm, propensity, arms):
            index = now[cohort] = len(found)
            found.append({})
        found[index].setdefault(arm, propensity)
        vector[at] = index
    table = np.full((len(found), arms), -1.0)
    for index, known in enumerate(found):
        table[index, list(known)] = list(known.values())
        left = 1.0 - sum(known.values())
        unseen = [arm for arm in range(arms) if arm not in known]
        if left <= arms * TOLERANCE:
            table[index, unseen] = 0.0
        elif len(unseen) == 1:
            table[index, unseen] = left
    return vector, table


def _fits(known: dict[int, float], arm: int, propensity: float, arms: int) -> bool:
    """May the arm have this propensity in a vector of which these are known?"""
    held = known.get(arm)
    if held is not None:
        return abs(held - propensity) <= TOLERANCE
    return sum(known.values()) + propensity <= 1.0 + arms * TOLERANCE


def _left(table: FloatArray) -> FloatArray:
    """[V, 1] what each arm of unknown probability has if they share evenly what is left."""
    unknown = table < 0.0
    left = np.maximum(1.0 - np.where(unknown, 0.0, table).sum(axis=1), 0.0)
    part: FloatArray = (left / np.maximum(unknown.sum(axis=1), 1))[:, None]
    return part


def _cut(chance: FloatArray) -> tuple[int, ...]:
    """Shares in whole ppm that add up to 1; what is above 0 stays above 0."""
    low = (chance > 0.0).astype(np.int64)
    return quantise(chance / chance.sum(), low, np.full(chance.size, PPM, np.int64))

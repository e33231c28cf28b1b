"""Caps on traffic as it is, where units keep their arm: heavy units that came back make more of it than their share.

An arm with allocated share a (over the newest decisions, each by the share of its own period and cohort) that had r of
them carries f = r / a of its share. Its share is then held at cap / f, so that traffic comes down to the cap: units
move, the tail of the arm's ranges first. f counts once r is above a by more than SURE standard errors
sqrt(r (1 - r) / D) of D decisions: of the newest RECENT, and of all periods that are kept, whichever is the larger, so
that a heavy unit that was just moved away is not called back at once. Never more than the cap; f below 1 is not made up
for.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from bandit.counting import is_clustered
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.model import PPM, ExperimentSpec

RECENT = 2000.0
"""Decisions that the newest periods must hold together to be told apart from chance."""
SURE = 3.0


@dataclass(frozen=True, slots=True)
class Realised:
    """Of the newest decisions: how many, and the part of each arm [K]; ``most_ppm`` [K]: what its share is held at,
    None where traffic keeps to it."""

    decisions: float
    part: FloatArray
    most_ppm: tuple[int | None, ...]


def realised(spec: ExperimentSpec, rows: PeriodTable) -> Realised | None:
    """Traffic of ``rows``, a row per period and cohort; None where units do not keep their arm, or nothing was decided.

    An arm whose cap is 1 is never held.
    """
    live = rows.rows(~rows.block)
    total = live.assigned.sum(axis=1)
    if not is_clustered(spec) or spec.is_linear or total.sum() <= 0.0:
        return None
    newest = _newest(live, total)
    part, _, _ = _parts(live, newest)
    factor = np.maximum(_factor(live, newest), _factor(live, np.ones(len(total), np.bool_)))
    most: list[int | None] = []
    for arm, times in enumerate(factor.tolist()):
        _, cap, _ = spec.bounds_ppm(arm)
        held = times > 1.0 and cap < PPM and arm != spec.control_index
        most.append(int(cap / times) if held else None)
    return Realised(float(total[newest].sum()), part, tuple(most))


def held(hold_ppm: Sequence[int | None], seen: Realised | None) -> list[int | None]:
    """The lower of what an arm is held at by a guardrail and by its traffic."""
    if seen is None:
        return list(hold_ppm)
    pairs = zip(hold_ppm, seen.most_ppm, strict=True)
    return [min((each for each in pair if each is not None), default=None) for pair in pairs]


def _newest(rows: PeriodTable, total: FloatArray) -> np.ndarray[tuple[int], np.dtype[np.bool_]]:
    """The rows of the newest periods that hold RECENT decisions together."""
    numbers = np.unique(rows.number)[::-1]
    held_by = np.array([total[rows.number == number].sum() for number in numbers])
    enough = int(np.searchsorted(np.cumsum(held_by), RECENT)) + 1
    return np.isin(rows.number, numbers[:enough])


def _parts(
    rows: PeriodTable, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]
) -> tuple[FloatArray, FloatArray, float]:
    """(part of the decisions, part that the shares gave) [K], and how many decisions."""
    assigned = rows.assigned[chosen]
    every = assigned.sum(axis=1)
    decisions = max(float(every.sum()), 1.0)
    return assigned.sum(axis=0) / decisions, every @ rows.share[chosen] / decisions, decisions


def _factor(rows: PeriodTable, chosen: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> FloatArray:
    """[K] decisions per decision that the shares gave, 1 where that may be chance."""
    part, given, decisions = _parts(rows, chosen)
    error = np.sqrt(part * (1.0 - part) / decisions)
    sure = (part - given > SURE * error) & (decisions >= RECENT)
    return np.divide(part, given, out=np.ones_like(part), where=sure & (given > 0.0))

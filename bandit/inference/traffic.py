"""Propensities and importance weights of the decisions so far, and whether traffic kept to the shares; no rewards."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bandit.inference.terms import (
    ALL_DECISIONS,
    DECISIONS,
    FINEST,
    PROPENSITIES,
    TILTED,
    WEIGHED,
    WEIGHED_VARIANCE,
    Terms,
    finest,
)
from bandit.kernels.confseq import log_mean_exp
from bandit.ledger import PeriodTable

MISMATCH_ALPHA = 0.001
"""Chance that a healthy experiment is ever said to have a sample-ratio mismatch."""


class ArmTraffic(NamedTuple):
    """``mean_weight``: mean of 1{arm} / share over the decisions of periods where the arm had a share, with its
    standard error; it is 1 when decisions follow the shares. ``least_propensity`` is exact for periods that are not
    folded, and to the next lower power of 2 for folded ones; ``largest_weight`` is 1 over it. NaN without decisions."""

    decisions: int
    least_propensity: float
    largest_weight: float
    mean_weight: float
    mean_weight_se: float


@dataclass(frozen=True, slots=True)
class Traffic:
    """``log_e``: evidence that decisions do not follow the shares; a mismatch from ``log_threshold`` on.

    The mean over arms and tilts t of prod over periods of (t^d / (1 + w (t - 1))^D), d decisions of the arm among D:
    a likelihood ratio whatever the shares do from period to period (cf. Lindon & Malek 2022; a chi-square against one
    fixed ratio is not).
    """

    arms: tuple[ArmTraffic, ...]
    log_e: float
    log_threshold: float

    @property
    def mismatch(self) -> bool:
        """Did decisions leave the shares?"""
        return self.log_e >= self.log_threshold


def traffic_of(terms: Terms, rows: PeriodTable, effect: float = 1.0) -> Traffic:
    """Traffic of all periods; ``rows`` are those that the terms were made of. ``effect``: design effect of decisions
    whose units come back (``clusters.visit_effect``); n of them are the evidence of n / effect."""
    live = rows.rows(~rows.block)
    seen = live.assigned.sum(axis=1) > 0.0
    arms = []
    for arm, row in enumerate(terms.traffic):
        shares = live.share[seen, arm]
        exact = shares[shares > 0.0]
        coarse = np.flatnonzero(row[PROPENSITIES:] > np.bincount(finest(exact), minlength=FINEST))
        least = float(exact.min()) if exact.size else math.inf
        if coarse.size:
            least = min(least, 2.0 ** -(float(coarse[-1]) + 1.0))
        total = float(row[ALL_DECISIONS])
        known = total > 0.0
        arms.append(
            ArmTraffic(
                decisions=round(float(row[DECISIONS])),
                least_propensity=least if least < math.inf else math.nan,
                largest_weight=1.0 / least if least < math.inf else math.nan,
                mean_weight=float(row[WEIGHED]) / total if known else math.nan,
                mean_weight_se=math.sqrt(effect * float(row[WEIGHED_VARIANCE])) / total
                if known
                else math.nan,
            )
        )
    log_e = log_mean_exp(np.ascontiguousarray(terms.traffic[:, TILTED:PROPENSITIES]).ravel() / effect)
    return Traffic(tuple(arms), log_e, -math.log(MISMATCH_ALPHA))

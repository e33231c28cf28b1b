"""What an allocator is: beliefs in, weights out, never an arm. Bounds come later and are not its business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.best_arm import best_arm
from bandit.ledger import FloatArray


@dataclass(frozen=True, slots=True)
class Utility:
    """Belief about each arm's utility, better always up.

    ``family``, ``params`` [K, P]: for ``kernels.best_arm``, in units of which ``unit`` make one of the objective
    (affine maps do not change who is best). ``mean``, ``sd`` [K] in units of the objective. ``unit_mean`` [K]: mean
    utility as a part of what the declared ranges allow, in [0, 1]. ``observations`` [K]: the fewest over the terms.
    ``variance`` [K]: of one request's utility on the scale of ``unit_mean``, so at most 1/4; 1/4 before any reward.
    ``span``: what ``unit_mean`` = 0 and 1 are apart, in units of the objective. ``shown`` [K]: ``unit_mean`` as the
    rewards alone show it, where they do and the spec has no prior; None: as ``unit_mean``.
    """

    family: int
    params: FloatArray
    unit: float
    mean: FloatArray
    sd: FloatArray
    unit_mean: FloatArray
    observations: FloatArray
    variance: FloatArray
    span: float = 1.0
    shown: FloatArray | None = None


@dataclass(frozen=True, slots=True)
class Problem:
    """What an allocator decides by: K arms.

    ``pulls`` [K]: requests assigned, rewarded or not. ``live`` [K]: may the arm have traffic? At least one may.
    ``batch`` > 0: requests that the allocation will probably serve. ``fixed`` [K]: shares that the spec wrote down.
    ``beta``, ``epsilon``: the allocator's numbers, see ``spec.choice.Allocator``.
    """

    utility: Utility
    pulls: FloatArray
    live: NDArray[np.bool_]
    batch: float
    fixed: FloatArray | None = None
    beta: float = 0.5
    epsilon: float = 0.1


class Allocator(Protocol):
    """A rule from posteriors to weights."""

    def weights(self, problem: Problem, p_best: FloatArray) -> FloatArray:
        """[K] weights: at least 0, sum 1, 0 for arms without traffic. ``p_best`` [K] is for those who use it."""


def rank(
    utility: Utility,
    live: NDArray[np.bool_],
    feasible: FloatArray | None = None,
    control: int | None = None,
) -> tuple[FloatArray, FloatArray]:
    """P(best) among the live arms and their expected loss in units of the objective, [K]; 0 for the others.

    ``feasible`` [K] in [0, 1]: the chance that each arm keeps the constraints, None: 1. Then P is that of being
    feasible and the best that is, the loss against such arms, and the chance that no arm is feasible goes to the
    ``control``, or to the others in proportion where it has no traffic.
    """
    p_best, loss = np.zeros(live.size), np.zeros(live.size)
    alive = np.flatnonzero(live)
    if not alive.size:
        return p_best, loss
    best = best_arm(utility.family, utility.params[alive], None if feasible is None else feasible[alive])
    p_best[alive], loss[alive] = best.p, best.loss * utility.unit
    if best.none > 0.0:
        if control is not None and live[control]:
            p_best[control] += best.none
        else:
            total = p_best.sum()
            p_best[alive] = p_best[alive] / total if total > 0.0 else 1.0 / alive.size
    return p_best, loss

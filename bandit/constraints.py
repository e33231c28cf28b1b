"""Which arms keep the constraints of a spec, as probabilities from beliefs; it ranks nothing and stops nothing.

A chance constraint is a preference, not a promise: an arm is weighed by its chance of keeping it, and left out once
that is below 1 - probability. The promise that holds however often one looks is a guardrail's. Chances of several
constraints are multiplied, as if they were independent given what was seen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit.baselines.base import Belief
from bandit.kernels.margin import chance_below, chance_within
from bandit.ledger import FloatArray
from bandit.spec.choice import Constraint
from bandit.spec.model import Direction, ExperimentSpec, Metric


@dataclass(frozen=True, slots=True)
class Feasibility:
    """``chance`` [C, K] that each arm keeps each constraint; ``q`` [K] that it keeps all, 0 where it is left out.

    ``kept`` [K]: every chance is at least its constraint's probability. ``admitted`` [K]: arms that the allocator may
    choose from; where none is, the control, or else all live arms.
    """

    chance: FloatArray
    q: FloatArray
    kept: NDArray[np.bool_]
    admitted: NDArray[np.bool_]


def feasibility(
    spec: ExperimentSpec, beliefs: Sequence[Belief], live: NDArray[np.bool_]
) -> Feasibility | None:
    """Feasibility under ``spec.constraints``, None where there are none. ``beliefs``: one per metric of the spec.

    ``live`` [K]: the best that ``within`` is measured from is a live arm; the others have chance 0.
    """
    if not spec.constraints:
        return None
    chance = np.zeros((len(spec.constraints), len(live)))
    alive = np.flatnonzero(live)
    for row, constraint in enumerate(spec.constraints):
        index = spec.metric_index(constraint.metric)
        assert index is not None
        if alive.size:
            chance[row, alive] = _chance(constraint, spec.metrics[index], beliefs[index], alive)
    sure = np.array([each.probability for each in spec.constraints])[:, None]
    left_out: NDArray[np.bool_] = (chance < 1.0 - sure).any(axis=0) | ~live
    q: FloatArray = np.where(left_out, 0.0, chance.prod(axis=0))
    admitted: NDArray[np.bool_] = q > 0.0
    if not admitted.any():
        admitted[spec.control_index] = live[spec.control_index]
    if not admitted.any():
        admitted = live
    kept: NDArray[np.bool_] = np.all(chance >= sure, axis=0)
    return Feasibility(chance, q, kept, admitted)


def _chance(constraint: Constraint, metric: Metric, belief: Belief, alive: NDArray[np.int64]) -> FloatArray:
    """[A] chance of keeping one constraint among the arms ``alive`` [A]."""
    low, high = metric.scale
    down = metric.direction is Direction.MINIMIZE
    family, params = belief.rule.family, belief.params[alive]
    if constraint.limit is not None:
        shift = float(params[0, 3]) if params.shape[1] > 3 else 0.0
        under = chance_below(family, params, (constraint.limit - low) / (high - low) - shift)
        return under if down else 1.0 - under
    assert constraint.within is not None
    upward = belief.rule.mirrored(params) if down else params
    return chance_within(family, upward, constraint.within / (high - low))

"""Evidence + spec + bounds -> the next shares, with every number that led to them. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit.allocators import ALLOCATORS
from bandit.allocators.base import Problem, Utility, rank
from bandit.baselines import BASELINES
from bandit.baselines.base import Belief, Evidence
from bandit.constraints import Feasibility, feasibility
from bandit.ledger import FloatArray
from bandit.linear.rule import LinearRule
from bandit.objective import utility
from bandit.pacing import Spending, cost_of, pacing, priced, spending
from bandit.rollout.bounds import bounded, boxes
from bandit.spec.model import PPM, ExperimentSpec

LEVEL = 0.95


@dataclass(frozen=True, slots=True)
class Proposal:
    """The next shares and why; K arms, M metrics.

    ``weights`` are the allocator's, before bounds. ``p_best`` and ``expected_loss`` (units of the objective) are among
    live arms, for allocation and not as evidence. ``mean``, ``low``, ``high`` [K, M]: posterior mean and central 95 %
    interval in the metric's own unit. ``feasible`` [K]: chance of keeping all constraints, None without any, 0 for arms
    that are left out; then ``p_best`` is of being feasible and the best that is. ``price`` of a unit of the budget's
    metric in units of the objective, see ``bandit.pacing``; 0 without a budget. ``spending``: what of the budget the
    day has used, None without one. ``utility``: the belief about the objective, no price in it.
    Of a linear allocator, ``linear``: the rule by which each request is decided; ``coefficients``: mean and sd [K, D]
    in units of the objective, by ``linear.crowd.contrasts``; all else is what that comes to on the whole, see
    ``allocate_linear``.
    """

    shares_ppm: tuple[int, ...]
    weights: FloatArray
    p_best: FloatArray
    expected_loss: FloatArray
    utility_mean: FloatArray
    utility_sd: FloatArray
    mean: FloatArray
    low: FloatArray
    high: FloatArray
    utility: Utility
    feasible: FloatArray | None = None
    price: float = 0.0
    spending: Spending | None = None
    linear: LinearRule | None = None
    coefficients: tuple[FloatArray, FloatArray] | None = None


def propose(
    spec: ExperimentSpec,
    evidence: Evidence,
    live: NDArray[np.bool_],
    hold_ppm: Sequence[int | None],
    previous_ppm: Sequence[int] | None,
    elapsed_s: float,
    batch: float,
) -> Proposal:
    """Propose shares. ``live`` [K]; ``hold_ppm``, ``previous_ppm``, ``elapsed_s`` as in ``rollout.bounds.boxes``;
    ``batch``: requests that the allocation will probably serve."""
    beliefs = BASELINES[spec.baseline].beliefs(evidence)
    value = utility(spec, evidence.reading, beliefs)
    kept = feasibility(spec, beliefs, live)
    low_ppm, high_ppm = boxes(spec, [bool(each) for each in live], hold_ppm, previous_ppm, elapsed_s)
    pulls, price, spent = evidence.reading.assigned, 0.0, None
    free = value
    if spec.budget is not None:
        cost = cost_of(spec, evidence, beliefs)
        spent = spending(spec, evidence, cost)

        def shares(price: float) -> FloatArray:
            weights, _, _ = weigh(spec, priced(free, cost, price, live), live, kept, pulls, batch)
            return np.array(bounded(weights, low_ppm, high_ppm)) / PPM

        width = cost.range[1] - cost.range[0]
        price = pacing(spent.allowed, cost.mean, shares, value.span / width)
        value = priced(value, cost, price, live)
    weights, p_best, loss = weigh(spec, value, live, kept, pulls, batch)
    mean, low, high = metric_beliefs(spec, beliefs)
    return Proposal(
        shares_ppm=bounded(weights, low_ppm, high_ppm),
        weights=weights,
        p_best=p_best,
        expected_loss=loss,
        utility_mean=value.mean,
        utility_sd=value.sd,
        mean=mean,
        low=low,
        high=high,
        utility=free,
        feasible=None if kept is None else kept.q,
        price=price,
        spending=spent,
    )


def weigh(
    spec: ExperimentSpec,
    value: Utility,
    live: NDArray[np.bool_],
    kept: Feasibility | None,
    pulls: FloatArray,
    batch: float,
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(weights, P(best), expected loss) [K] of a utility, before bounds."""
    admitted = live if kept is None else kept.admitted
    p_best, loss = rank(value, live, None if kept is None else kept.q, spec.control_index)
    rule = spec.allocator
    problem = Problem(value, pulls, admitted, batch, _fixed(spec, live), rule.beta, rule.epsilon)
    return ALLOCATORS[rule.kind].weights(problem, p_best), p_best, loss


def _fixed(spec: ExperimentSpec, live: NDArray[np.bool_]) -> FloatArray | None:
    """[K] weights that the spec wrote down, those of dead arms given to the control; None where it wrote none."""
    if not spec.allocator.weights:
        return None
    written = np.array([spec.allocator.weights.get(arm.name, 0.0) for arm in spec.arms])
    fixed: FloatArray = np.where(live, written, 0.0)
    fixed[spec.control_index] += written[~live].sum()
    return fixed


def metric_beliefs(
    spec: ExperimentSpec, beliefs: tuple[Belief, ...]
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(mean, low, high) [K, M] of each metric by its posterior, in the metric's own unit."""
    out = np.empty((3, len(spec.arms), len(spec.metrics)))
    for index, (metric, belief) in enumerate(zip(spec.metrics, beliefs, strict=True)):
        least, most = metric.scale
        low, high = belief.rule.interval(belief.params, LEVEL)
        for row, scaled in enumerate((belief.mean, low, high)):
            out[row, :, index] = least + (most - least) * scaled
    return out[0], out[1], out[2]

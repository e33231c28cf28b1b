"""Linear sums + spec + bounds -> the rule by which each request is decided, and what it comes to on the whole. Pure.

Values are taken better-up on [0, 1] and centred at the mean of all arms (or the metric's prior mean), so that a
mirrored metric is a mirrored model, and an arm without rewards is believed to be as the others are. The noise prior is
what all arms show together, as for ``posteriors.gaussian``.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.allocate import Proposal, metric_beliefs
from bandit.allocators.base import Utility
from bandit.baselines import BASELINES
from bandit.baselines.base import Evidence
from bandit.features import encoder_of
from bandit.kernels.best_arm import STUDENT_T
from bandit.ledger import FloatArray
from bandit.linear.crowd import contrasts, crowd_of, mean_row
from bandit.linear.project import bounded_ppm
from bandit.linear.rule import Chooser, LinearRule
from bandit.linear.sums import Totals
from bandit.objective import MOST_VARIANCE, scale
from bandit.posteriors.base import MIDDLE
from bandit.posteriors.gaussian import A0, SD_GUESS
from bandit.posteriors.linear import LinearFit, LinearSums, fit, oful_radius
from bandit.rollout.bounds import boxes, quantise
from bandit.spec.metric import Direction, Metric
from bandit.spec.model import PPM, ExperimentSpec

NOISE, MOST_COEFFICIENTS = 0.5, 1.0
"""Of the width of OFUL: values in [0, 1] are 1/2-sub-Gaussian (Hoeffding 1963), |theta| is taken to be at most 1."""


class Learned(NamedTuple):
    """``model`` of centred values better up, ``middle`` that they are centred at, ``noise`` variance of all arms."""

    model: LinearFit
    middle: float
    noise: float


def propose_linear(
    spec: ExperimentSpec,
    evidence: Evidence,
    totals: Totals | None,
    live: NDArray[np.bool_],
    hold_ppm: Sequence[int | None],
    previous_ppm: Sequence[int] | None,
    elapsed_s: float,
) -> Proposal:
    """Propose a rule and what it comes to. ``totals``: sums of the present epoch, None without any; ``live`` [K]; the
    rest as in ``rollout.bounds.boxes``, where a share is that of any single request.

    ``p_best`` and ``expected_loss`` are means over requests; the utility is that of a request with mean features.
    """
    encoder = encoder_of(spec)
    assert encoder is not None
    learned = learn(spec, totals, encoder.dimension)
    model, rule = learned.model, spec.allocator
    n = model.a * 2.0 - 2.0 * A0
    bounds = boxes(spec, [bool(each) for each in live], hold_ppm, previous_ppm, elapsed_s)
    believed = model.inverse * (model.b / model.a)[:, None, None]
    theta = model.theta.copy()
    theta[:, 0] += learned.middle
    belief = Chooser(LinearRule.of(theta, believed, 2.0 * model.a, n, bounds, optimistic=False), encoder)
    chooser, made = belief, belief.rule
    if rule.kind == "lin_ucb" or rule.width != 1.0:
        variance = believed * rule.width**2
        if rule.confidence is not None:
            radius = oful_radius(
                model,
                delta=rule.confidence / live.size,
                noise=NOISE,
                bound=MOST_COEFFICIENTS,
                ridge=rule.ridge,
            )
            variance = model.inverse * (radius**2)[:, None, None]
        made = LinearRule.of(theta, variance, 2.0 * model.a, n, bounds, optimistic=rule.kind == "lin_ucb")
        chooser = Chooser(made, encoder)
    shares, weights, p_best, lost = (np.zeros(live.size) for _ in range(4))
    crowd, often = np.unique(crowd_of(encoder, totals), axis=0, return_counts=True)
    for each, part in zip(crowd, often / often.sum(), strict=True):
        x = encoder.row(each.tobytes())
        p, highest = belief.chances(x)
        own = p if chooser is belief else chooser.chances(x)[0]
        shares += part * np.array(bounded_ppm(own.tolist(), made.low_ppm, made.high_ppm)) / PPM
        weights += part * own
        p_best += part * p
        lost += part * (highest - belief.values(x)[0])
    slope, base = scale(_metric(spec), spec.objective[0])
    middle = mean_row(encoder, totals)
    mean, sd = belief.values(middle)
    shown = contrasts(encoder, middle)
    told = np.einsum("ij,kj->ki", shown, theta)
    told[:, 0] += base / slope
    means, low, high = metric_beliefs(spec, BASELINES[spec.baseline].beliefs(evidence))
    return Proposal(
        shares_ppm=quantise(shares, *bounds),
        weights=weights,
        p_best=p_best,
        expected_loss=np.where(live, np.maximum(slope * lost, 0.0), 0.0),
        utility_mean=slope * mean + base,
        utility_sd=slope * sd,
        mean=means,
        low=low,
        high=high,
        utility=_utility(learned, n, mean, sd, slope, base),
        linear=made,
        coefficients=(slope * told, slope * _deviations(shown @ believed @ shown.T)),
    )


def learn(spec: ExperimentSpec, totals: Totals | None, dimension: int) -> Learned:
    """The posterior of the objective's one metric for each arm."""
    metric, arms = _metric(spec), len(spec.arms)
    down = metric.direction is Direction.MINIMIZE
    n, xx, xy, yy = _first(totals, arms, dimension)
    if down:
        yy = n - 2.0 * xy[:, 0] + yy
        xy = xx[:, :, 0] - xy
    ridge = np.full(dimension, spec.allocator.ridge)
    if metric.prior is not None:
        least, most = metric.scale
        middle = (metric.prior.mean - least) / (most - least)
        middle = 1.0 - middle if down else middle
        ridge[0] = metric.prior.strength
    else:
        middle = float(xy[:, 0].sum() / n.sum()) if n.sum() > 0.0 else MIDDLE
    yy = np.maximum(yy - 2.0 * middle * xy[:, 0] + middle**2 * n, 0.0)
    xy = xy - middle * xx[:, :, 0]
    sums = LinearSums(n, xx, xy, yy)
    rough = fit(sums, ridge=ridge, a0=A0, b0=0.0)
    noise = float((SD_GUESS**2 + 2.0 * rough.b.sum()) / (1.0 + n.sum()))
    return Learned(fit(sums, ridge=ridge, a0=A0, b0=A0 * noise), middle, noise)


def _first(totals: Totals | None, arms: int, d: int) -> tuple[FloatArray, FloatArray, FloatArray, FloatArray]:
    """Sums of the first learned metric, zeros where there are none yet."""
    if totals is None:
        return np.zeros(arms), np.zeros((arms, d, d)), np.zeros((arms, d)), np.zeros(arms)
    return totals.n[:, 0], totals.xx[:, 0], totals.xy[:, 0], totals.yy[:, 0]


def _metric(spec: ExperimentSpec) -> Metric:
    return spec.metrics[spec.learned[0]]


def _deviations(variance: FloatArray) -> FloatArray:
    """[K, D] standard deviations of coefficients."""
    found: FloatArray = np.sqrt(np.maximum(np.diagonal(variance, axis1=1, axis2=2), 0.0))
    return found


def _utility(
    learned: Learned, n: FloatArray, mean: FloatArray, sd: FloatArray, slope: float, base: float
) -> Utility:
    """What the arms are worth for a request with mean features."""
    return Utility(
        family=STUDENT_T,
        params=np.stack([mean, sd, 2.0 * learned.model.a], axis=1),
        unit=slope,
        mean=slope * mean + base,
        sd=slope * sd,
        unit_mean=np.clip(mean, 0.0, 1.0),
        observations=n,
        variance=np.full(n.size, min(learned.noise, MOST_VARIANCE)),
        span=slope,
    )

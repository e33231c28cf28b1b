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
from bandit.reading import Reading
from bandit.rollout.bounds import boxes, quantise
from bandit.spec.channels import Channel, ChannelKind
from bandit.spec.metric import Direction
from bandit.spec.model import PPM, ExperimentSpec

NOISE, MOST_COEFFICIENTS = 0.5, 1.0
"""Of the width of OFUL: values in [0, 1] are 1/2-sub-Gaussian (Hoeffding 1963), |theta| is taken to be at most 1."""

LEAST_PART = 1e-6
"""Least variance of a sum of terms, as a part of what it would be if they erred alike."""


class Term(NamedTuple):
    """One term of the objective, of ``metric``: ``model`` of its values better up, centred at ``middle``; ``part`` of
    the objective's span; moments of its rows ``n`` [K], ``xx`` [K, D, D]."""

    model: LinearFit
    middle: float
    part: float
    n: FloatArray
    xx: FloatArray
    metric: int

    @property
    def noise(self) -> FloatArray:
        """[K] expected sd of one value around its mean."""
        found: FloatArray = np.sqrt(self.model.b / self.model.a)
        return found


class Learned(NamedTuple):
    """The objective on [0, 1] for each arm: ``theta`` [K, D], its ``variance`` [K, D, D], ``freedom`` [K]; ``n`` [K]
    rewards, the fewest of any term; ``noise`` variance of one request; the ``terms`` that it is made of."""

    theta: FloatArray
    variance: FloatArray
    freedom: FloatArray
    n: FloatArray
    noise: float
    terms: tuple[Term, ...]


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
    learned = learn(spec, evidence.reading, totals, encoder.dimension)
    theta, n, rule = learned.theta, learned.n, spec.allocator
    bounds = boxes(spec, [bool(each) for each in live], hold_ppm, previous_ppm, elapsed_s)
    belief = Chooser(
        LinearRule.of(theta, learned.variance, learned.freedom, n, bounds, optimistic=False), encoder
    )
    chooser, made = belief, belief.rule
    if rule.kind == "lin_ucb" or rule.width != 1.0:
        variance = learned.variance * rule.width**2
        if rule.confidence is not None:
            (model, *_), *_ = learned.terms
            radius = oful_radius(
                model,
                delta=rule.confidence / live.size,
                noise=NOISE,
                bound=MOST_COEFFICIENTS,
                ridge=rule.ridge,
            )
            variance = model.inverse * (radius**2)[:, None, None]
        optimistic = rule.kind == "lin_ucb"
        made = LinearRule.of(theta, variance, learned.freedom, n, bounds, optimistic=optimistic)
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
    slope, base = (sum(each) for each in zip(*_scales(spec), strict=True))
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
        utility=_utility(learned, mean, sd, slope, base),
        linear=made,
        coefficients=(slope * told, slope * _deviations(shown @ learned.variance @ shown.T)),
    )


def learn(spec: ExperimentSpec, reading: Reading, totals: Totals | None, dimension: int) -> Learned:
    """The posterior of the objective for each arm.

    Each term has a model of its own rewards, so that one that comes late costs the others nothing; theta is their
    weighted sum. Where all have the same requests its variance is that of the sum of their noises,
    sum_ij c_i c_j rho_ij s_i s_j A^-1; where they do not, the A_i^-1 are mixed by what each adds, c_i s_i, which is at
    most the variance of terms that err alike (Cauchy and Schwarz). rho: correlation of what features leave unexplained.
    """
    slopes = [slope for slope, _ in _scales(spec)]
    # A term without weight is learned for later and says nothing now, not even how much is known.
    terms = tuple(
        _term(spec, place, slope / sum(slopes), totals, dimension)
        for place, slope in enumerate(slopes)
        if slope > 0.0
    )
    theta = np.sum([each.part * each.model.theta for each in terms], axis=0)
    theta[:, 0] += sum(each.part * each.middle for each in terms)
    lengths = np.array([each.part * each.noise for each in terms])
    whole = lengths.sum(axis=0)
    together = np.zeros_like(whole)
    for i, j in np.ndindex(len(terms), len(terms)):
        rho = 1.0 if i == j else _unexplained(spec, reading, terms[i], terms[j])
        together += rho * lengths[i] * lengths[j]
    shrunk = np.maximum(together, LEAST_PART * whole**2)
    variance = np.sum(
        [
            (length / whole * shrunk)[:, None, None] * each.model.inverse
            for each, length in zip(terms, lengths, strict=True)
        ],
        axis=0,
    )
    return Learned(
        theta,
        variance,
        2.0 * np.min([each.model.a for each in terms], axis=0),
        np.min([each.n for each in terms], axis=0),
        float(shrunk.mean()),
        terms,
    )


def _term(spec: ExperimentSpec, place: int, part: float, totals: Totals | None, d: int) -> Term:
    metric, arms = spec.metrics[spec.learned[place]], len(spec.arms)
    down = metric.direction is Direction.MINIMIZE
    n, xx, xy, yy = np.zeros(arms), np.zeros((arms, d, d)), np.zeros((arms, d)), np.zeros(arms)
    if totals is not None:
        n, xx, xy, yy = (each[:, place] for each in totals)
    if down:
        yy = n - 2.0 * xy[:, 0] + yy
        xy = xx[:, :, 0] - xy
    ridge = np.full(d, spec.allocator.ridge)
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
    return Term(fit(sums, ridge=ridge, a0=A0, b0=A0 * noise), middle, part, n, xx, spec.learned[place])


def _unexplained(spec: ExperimentSpec, reading: Reading, first: Term, second: Term) -> float:
    """Correlation of two terms' values, better up, around what their models say, arms pooled, in [-1, 1]; 0 where the
    two were never seen together."""
    one, two = first.metric, second.metric
    column = spec.columns.get(Channel(ChannelKind.PAIR, min(one, two), other=max(one, two)))
    if column is None:
        return 0.0
    joint, values = reading.channel(column), [reading.channel(each) for each in (one, two)]
    seen = (joint.n > 0.0) & (first.n > 0.0) & (second.n > 0.0)
    if not seen.any():
        return 0.0
    n = joint.n[seen]
    plain = joint.s1[seen] / n - np.prod([each.s1[seen] / each.n[seen] for each in values], axis=0)
    signs = [-1.0 if spec.metrics[each].direction is Direction.MINIMIZE else 1.0 for each in (one, two)]
    moments = first.xx[seen] / first.n[seen, None, None]
    centred = moments - moments[:, :, :1] * moments[:, :1, :]
    told = np.einsum("ki,kij,kj->k", first.model.theta[seen], centred, second.model.theta[seen])
    scale = np.prod([n @ each.noise[seen] ** 2 for each in (first, second)])
    return float(np.clip(n @ (signs[0] * signs[1] * plain - told) / np.sqrt(scale), -1.0, 1.0))


def _scales(spec: ExperimentSpec) -> list[tuple[float, float]]:
    """(slope, base) of each learned metric: weighted utility = slope * (scaled, better-up value) + base."""
    terms = {term.metric: term for term in spec.objective}
    metrics = [spec.metrics[index] for index in spec.learned]
    return [scale(metric, terms[metric.name]) for metric in metrics]


def _deviations(variance: FloatArray) -> FloatArray:
    """[K, D] standard deviations of coefficients."""
    found: FloatArray = np.sqrt(np.maximum(np.diagonal(variance, axis1=1, axis2=2), 0.0))
    return found


def _utility(learned: Learned, mean: FloatArray, sd: FloatArray, slope: float, base: float) -> Utility:
    """What the arms are worth for a request with mean features."""
    return Utility(
        family=STUDENT_T,
        params=np.stack([mean, sd, learned.freedom], axis=1),
        unit=slope,
        mean=slope * mean + base,
        sd=slope * sd,
        unit_mean=np.clip(mean, 0.0, 1.0),
        observations=learned.n,
        variance=np.full(mean.size, min(learned.noise, MOST_VARIANCE)),
        span=slope,
    )

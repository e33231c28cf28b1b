"""Harm against the concurrent control while shares and the baseline move; it never compares pooled means.

Two e-processes on the same mature periods, averaged (the mean of e-processes is one, whatever their
dependence). In a period of N outcomes of arm and control together let v be the arm's part of them, A = 1 for
the arm, and Y = X / r the badness of the arm over the margin r, or X of the control. Null: mu_k <= r mu_0 in
every period, the two means being constant inside it. Given how many outcomes each has:

* Overlap scores (A - v)(Y - m), m the control's mean frozen before the period. Their means add up to
  N v (1 - v)(mu_k / r - mu_0), whatever m is; a good m only makes V small. A score is at least
  -max((1 - v) m, v (1 - m)); where that is below -LEAST, the period's scores shrink to fit. With x >= -c,
  exp(l x - psi(l) x^2) <= 1 + l x, so the product over the period has mean at most exp(l * sum of means) <= 1.
* Odds of bad events: for a ratio t > r the product of f_A^X, f_A = (t/r)^A (r v + 1 - v) / (t v + 1 - v). Since
  f^x <= 1 + x (f - 1) on [0, 1], it has mean at most exp(N mu_0 [r v (f_1 - 1) + (1 - v) (f_0 - 1)]) = 1.
  Mean over RATIOS. This is what sees six bad events against none.

The first is strong where badness is common or varies little, the second where it is rare. Safety is the same
with the signs turned: null mu_k >= r mu_0.

v is counted, not the arm's share: traffic that does not follow the shares, because a few units are heavy or
responses are missing on one side, is then no evidence. Measured with a true part between 5 and 30 % at a share
of 10 %: false alarms of 9 % at alpha 5 % with the share, of 1 % with the count; the delay is the same.

Other margins are other X. ``margin_of: mean`` takes for X the value itself; where more is better the null is
mu_k >= mu_0 / r, so harm is what is safety above with 1 / r for r: linear in the means, hence as exact. A ratio
metric takes N / r - theta D of the arm and N - theta D of the control, theta being the control's ratio in
earlier periods: where the two have the same mean of D, the means of the scores have the sign of ratio_k - r
ratio_0 whatever theta is, and where not, as far as theta is the control's ratio (never an average of ratios).

``method: asymptotic`` weighs unshrunk sums by normal mixtures (Waudby-Smith et al. 2024): at high rates a
little quicker, and wrong early, so it is silent before 50 bad events and 355 skewness^2 outcomes on each side.

Where each request has shares of its own, ``guardrails.by_features`` takes the place of all this.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from bandit.guardrails.evidence import Material, badness_of, filled, in_unit, metric_of, outcomes, unfolded
from bandit.kernels import watch
from bandit.kernels.overlap import LEAST, RATIOS, RHOS
from bandit.ledger import FloatArray, PeriodTable
from bandit.spec.channels import Channel, ChannelKind
from bandit.spec.model import Direction, ExperimentSpec, Guardrail, Metric, MetricKind

__all__ = ["LEAST", "RATIOS", "RHOS"]


class Harm:
    """See the module."""

    averages = True

    def code(self, spec: ExperimentSpec, guardrail: Guardrail) -> int:
        """HARM, HARM_ASYMPTOTIC or RATIO_HARM."""
        _, metric = metric_of(spec, guardrail.metric)
        if metric.kind is MetricKind.RATIO:
            return watch.RATIO_HARM
        return watch.HARM_ASYMPTOTIC if guardrail.method == "asymptotic" else watch.HARM

    def params(self, spec: ExperimentSpec, guardrail: Guardrail) -> FloatArray:
        """The margin as it multiplies the control's mean, and 1 where sums count what is good."""
        _, metric = metric_of(spec, guardrail.metric)
        good = _of_mean(guardrail, metric) and metric.direction is Direction.MAXIMIZE
        return np.array([1.0 / guardrail.margin if good else guardrail.margin, float(good), 0.0, 0.0])

    def material(
        self, spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable, now_ms: int
    ) -> Material:
        """Outcomes of the metric, or of the two parts of a ratio."""
        _, metric = metric_of(spec, guardrail.metric)
        if metric.kind is MetricKind.RATIO:
            return _ratio(spec, metric, table, now_ms)
        return outcomes(spec, guardrail.metric, table, now_ms, of_mean=_of_mean(guardrail, metric))

    def shown(
        self, spec: ExperimentSpec, guardrail: Guardrail, observed: float, reference: float
    ) -> tuple[float, float]:
        """Means in the metric's unit, the control's with the margin applied."""
        _, metric = metric_of(spec, guardrail.metric)
        if _of_mean(guardrail, metric):
            upward = metric.direction is Direction.MAXIMIZE
            return observed, reference / guardrail.margin if upward else reference * guardrail.margin
        return observed, in_unit(metric, guardrail.margin * badness_of(metric, reference))


def is_of_mean(spec: ExperimentSpec, guardrail: Guardrail) -> bool:
    """Does the margin multiply the mean itself?"""
    return _of_mean(guardrail, metric_of(spec, guardrail.metric)[1])


def _of_mean(guardrail: Guardrail, metric: Metric) -> bool:
    return guardrail.margin_of == "mean" or metric.kind is MetricKind.RATIO


def _ratio(spec: ExperimentSpec, metric: Metric, table: PeriodTable, now_ms: int) -> Material:
    """Sums of numerator N and denominator D, each over its scale's upper end; a missing one counts as 0."""
    table = unfolded(table)
    (top, above), (under, below) = (metric_of(spec, name) for name in (metric.numerator, metric.denominator))
    window = max(above.attribution_window, below.attribution_window)
    found = Material.of(table, table.mature(window, now_ms), young=False)
    n, found.bad, found.square = filled(table, spec, Channel(ChannelKind.VALUE, top))
    m, found.below, found.below_square = filled(table, spec, Channel(ChannelKind.VALUE, under))
    pair = Channel(ChannelKind.PAIR, min(top, under), other=max(top, under))
    found.cube = table.s1[:, :, spec.columns[pair]]
    found.count = np.maximum(n, m)
    found.arrived = np.maximum(table.n[:, :, top], table.n[:, :, under])
    found.top, found.bottom = found.bad * above.scale[1], found.below * below.scale[1]
    if len(table.number):
        known = _known(above, table.centre[:, top]) & _known(below, table.centre[:, under])
        theta = table.centre[:, top] / np.where(known, table.centre[:, under], 1.0)
        found.centre = np.where(known, theta, 0.0)
        found.shown_centre = found.centre * above.scale[1] / below.scale[1]
    return found


def _known(metric: Metric, centre: FloatArray) -> NDArray[np.bool_]:
    """[E] Was the control's mean learned, not the prior's, when the period began?"""
    low, high = metric.scale
    prior = 0.5 if metric.prior is None else (metric.prior.mean - low) / (high - low)
    known: NDArray[np.bool_] = (centre > 0.0) & (centre != prior)
    return known

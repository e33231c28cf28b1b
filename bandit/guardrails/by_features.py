"""Arms against the concurrent control where each request has shares of its own: scores with weights, not counts.

Null of harm: at every moment the mean of h (mu_k(x) / r - mu_0(x)) over requests is at most 0, h being the weight of a
request (``linear.weights``: as often as the arm serves it, at most REACH times as often as the control serves its
like). No mean of an arm is compared with another's: features may drive the choice and the outcome both, and the
baseline may move.

A score is w (Y / r - m) of an arm's reward and -w (Y_0 - m) of the control's, w the reward's weight, m the control's
mean frozen before the period; its mean is h (mu_k(x) / r - mu_0(x)) whatever m is, since the shares were known before
the draw. It is at least -max(m, REACH (1 - m)); the scores of a period shrink to be at least -LEAST, and then exp(l S
- psi(l) V) is an e-process for each l in (0, 1 / LEAST), psi(l) = (-ln(1 - LEAST l) - LEAST l) / LEAST^2 (Fan, Grama
and Liu 2015, as in ``guardrails.harm``). Evidence is the mean of those at POINTS of 1 / LEAST and of mixtures over l,
which take the places of odds and overlap scores in ``kernels.overlap``. Safety is the same with the signs turned.

Exact where each decision is drawn anew (``unit.mode: request``); where units keep their arm, evidence is divided by the
design effect of their values, as everywhere. Rewards of decisions whose token brought no shares count nowhere.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.guardrails.evidence import Material, metric_of, unfolded
from bandit.guardrails.harm import is_of_mean
from bandit.kernels import watch
from bandit.kernels.overlap import (
    LEAST,
    ODDS,
    ODDS_SAFE,
    RATIOS,
    TOTAL,
    TOTAL_SAFE,
    VARIANCE,
    VARIANCE_SAFE,
)
from bandit.ledger import FloatArray, PeriodTable
from bandit.linear.weights import CONTROLS, COUNT, OWN, REACH, ROUNDING, SUMS, WW, WWX, WWXX, WX, W, read
from bandit.spec.metric import Direction
from bandit.spec.model import ExperimentSpec, Guardrail

POINTS = np.array([0.2, 0.5, 0.08, 0.03, 0.75, 0.35])
"""The first has most of the mean (``overlap.PARTS_ODDS``): a fifth more on a level of 10 %; the second sees twice
it."""
_L = POINTS / LEAST
_PSI = (-np.log1p(-POINTS) - POINTS) / LEAST**2
assert POINTS.size == RATIOS.size


class Side(NamedTuple):
    """Sums [E, K] over rewards of weight w and badness y: of 1, w, w y, w^2, w^2 y, w^2 y^2."""

    n: FloatArray
    w: FloatArray
    wy: FloatArray
    ww: FloatArray
    wwy: FloatArray
    wwyy: FloatArray

    def spread(self, r: float, m: FloatArray) -> FloatArray:
        """[E, K] sum of w^2 (y / r - m)^2, rounded up."""
        m = m[:, None]
        found: FloatArray = self.wwyy / (r * r) - 2.0 * m * self.wwy / r + m * m * self.ww
        return np.maximum(found, 0.0) + ROUNDING * self.n


class Weighed(ABC):
    """What the periods of one guardrail brought to each challenger and, weighed for it, to the control; E periods."""

    def __init__(self, spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable) -> None:
        self._index, self._metric = metric_of(spec, guardrail.metric)
        self._table = unfolded(table)
        shape = (len(self._table.number), len(spec.arms), 2, SUMS)
        weighed = self._table.weighed
        self._sums = np.zeros(shape) if weighed is None else read(weighed[:, :, self._index])
        self._control_index = spec.control_index

    @abstractmethod
    def add(self, r: float, sums: FloatArray, arm: int, chosen: NDArray[np.bool_]) -> None:
        """Add the ``chosen`` [E] periods to the sums [COLUMNS] of an arm; ``r``: what multiplies the control's mean."""


class WeighedHarm(Weighed):
    """Values of arm and control; ``every``: the material of ``guardrails.harm`` for the same table."""

    def __init__(
        self,
        spec: ExperimentSpec,
        guardrail: Guardrail,
        table: PeriodTable,
        every: Material,
        *,
        of_mean: bool,
    ) -> None:
        super().__init__(spec, guardrail, table)
        low, high = self._metric.scale
        base, slope = 0.0, 1.0
        if of_mean:
            base, slope = low / high, (high - low) / high
        elif self._metric.direction is Direction.MAXIMIZE:
            base, slope = 1.0, -1.0
        self._own, self._control = (_side(self._sums[:, :, which], base, slope) for which in (OWN, CONTROLS))
        self._centre, self._shown_centre = every.centre, every.shown_centre
        self._values = low * self._sums[..., W] + (high - low) * self._sums[..., WX]

    def add(self, r: float, sums: FloatArray, arm: int, chosen: NDArray[np.bool_]) -> None:
        """See the class; what is shown are weighed means, the control's at the arm's weights."""
        _add(sums[watch.BLOCK :], r, self._own, self._control, self._centre, arm, chosen)
        own, control = self._own.w[chosen, arm], self._control.w[chosen, arm]
        value, of_control = self._values[chosen, arm, OWN], self._values[chosen, arm, CONTROLS]
        level = np.divide(
            of_control, control, out=self._shown_centre[chosen].astype(np.float64), where=control > 0.0
        )
        sums[watch.SHOWN_N] += self._own.n[chosen, arm].sum()
        sums[watch.SHOWN_N_0] += self._control.n[chosen, arm].sum()
        sums[watch.SHOWN_TOP] += value.sum()
        sums[watch.SHOWN_BOTTOM] += own.sum()
        sums[watch.SHOWN_EXPECTED] += (own * level).sum()


class WeighedResponse(Weighed):
    """Is there a reward at all? A decision without one adds nothing to scores around 0, and nothing need be known of
    it.

    Null: h-weighed shares of decisions with a reward are within the margin of each other. Decisions or rewards that are
    lost on one side are as much against it as users who do not answer.
    """

    def add(self, r: float, sums: FloatArray, arm: int, chosen: NDArray[np.bool_]) -> None:
        """See the class; shown are the arm's share of decisions with a reward, and what weights say of the
        control's."""
        own, control = (_side(self._sums[:, :, which], 1.0, 0.0) for which in (OWN, CONTROLS))
        none = np.zeros(len(self._table.number))
        _add(sums[watch.BLOCK :], r, own, control, none, arm, chosen)
        _add(sums[watch.SECOND :], 1.0 / r, own, control, none, arm, chosen)
        decisions = self._table.assigned[chosen]
        answered = np.minimum(self._table.n[chosen, arm, self._index], decisions[:, arm])
        of_own, of_control = own.w[chosen, arm], control.w[chosen, arm]
        times = np.divide(of_control, of_own, out=np.ones_like(of_own), where=of_own > 0.0)
        sums[watch.SHOWN_N] += decisions[:, arm].sum()
        sums[watch.SHOWN_N_0] += decisions[:, self._control_index].sum()
        sums[watch.SHOWN_TOP] += answered.sum()
        sums[watch.SHOWN_BOTTOM] += decisions[:, arm].sum()
        sums[watch.SHOWN_EXPECTED] += np.minimum(answered * times, decisions[:, arm]).sum()


def weighed_of(
    spec: ExperimentSpec, guardrail: Guardrail, table: PeriodTable, every: Material
) -> Weighed | None:
    """How a guardrail compares where each request has shares of its own; None where it compares nothing."""
    if not spec.is_linear:
        return None
    if guardrail.kind == "harm":
        return WeighedHarm(spec, guardrail, table, every, of_mean=is_of_mean(spec, guardrail))
    return WeighedResponse(spec, guardrail, table) if guardrail.kind == "response_rate" else None


def _add(
    sums: FloatArray,
    r: float,
    one: Side,
    two: Side,
    m: FloatArray,
    arm: int,
    chosen: NDArray[np.bool_],
) -> None:
    """Add the scores of an arm ``one`` and the control ``two`` around centres ``m`` [E] to a block at the beginning of
    ``sums``."""
    total = (one.wy / r - m[:, None] * one.w - two.wy + m[:, None] * two.w)[:, arm]
    variance = (one.spread(r, m) + two.spread(1.0, m))[:, arm]
    for sign, reach, at, spread, points in (
        (1.0, np.maximum(m, REACH * (1.0 - m)), TOTAL, VARIANCE, ODDS),
        (-1.0, np.maximum(1.0 / r - m, REACH * m), TOTAL_SAFE, VARIANCE_SAFE, ODDS_SAFE),
    ):
        fit = LEAST / np.maximum(reach, LEAST)
        s, v = (sign * fit * total)[chosen].sum(), (fit * fit * variance)[chosen].sum()
        sums[at] += s
        sums[spread] += v
        sums[points : points + POINTS.size] += _L * s - _PSI * v


def _side(sums: FloatArray, base: float, slope: float) -> Side:
    """Of the badness base + slope x instead of the value x."""
    w, wx, ww, wwx, wwxx = (sums[..., each] for each in (W, WX, WW, WWX, WWXX))
    return Side(
        sums[..., COUNT],
        w,
        base * w + slope * wx,
        ww,
        base * ww + slope * wwx,
        base * base * ww + 2.0 * base * slope * wwx + slope * slope * wwxx,
    )

"""What a baseline is: how arms are compared while the level of all of them may move; it weighs no metrics."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from bandit.clusters import Repeats, design_effects, repeats_of
from bandit.delays import DelayCurve, delay_curves
from bandit.kernels.best_arm import NORMAL
from bandit.kernels.quantile import quantiles
from bandit.ledger import Clusters, FloatArray, PeriodTable, decay_weights
from bandit.reading import Reading, Sums, read
from bandit.spec.channels import Channel, ChannelKind
from bandit.spec.model import ExperimentSpec

LEAST_SD = 1e-12


@dataclass(frozen=True, slots=True)
class Evidence:
    """What beliefs are made of: ``rows``, a row per period and cohort, the weight of each [E] in [0, 1] after decay,
    their ``reading``, the delay curves by metric, and the time up to which the log is folded. ``effects`` [M]: design
    effects of units with many values; the values of the reading are divided by them. ``repeats``: the same for what
    follows rewards period by period."""

    spec: ExperimentSpec
    rows: PeriodTable
    weight: FloatArray
    reading: Reading
    curves: dict[int, DelayCurve]
    now_ms: int
    effects: FloatArray
    repeats: Repeats | None = None


def evidence_of(
    spec: ExperimentSpec, rows: PeriodTable, now_ms: int, clusters: Clusters | None = None
) -> Evidence:
    """The evidence in ``rows``, as ``ledger.split_table`` gives them, at a time up to which the log is folded;
    ``clusters`` as ``ledger.cluster_totals`` gives them."""
    weight = decay_weights(rows, spec.decay.half_life if spec.decay else None, now_ms)
    curves = delay_curves(rows, spec, now_ms)
    effects = design_effects(spec, clusters, rows)
    return Evidence(
        spec=spec,
        rows=rows,
        weight=weight,
        reading=thinned(spec, read(rows, spec, now_ms, curves), effects),
        curves=curves,
        now_ms=now_ms,
        effects=effects,
        repeats=repeats_of(effects, clusters),
    )


def part_of(evidence: Evidence, chosen: NDArray[np.bool_]) -> Evidence:
    """The evidence of some rows alone; delays and design effects are those of all."""
    spec, rows = evidence.spec, evidence.rows.rows(chosen)
    reading = thinned(spec, read(rows, spec, evidence.now_ms, evidence.curves), evidence.effects)
    return replace(evidence, rows=rows, weight=evidence.weight[chosen], reading=reading)


def thinned(spec: ExperimentSpec, reading: Reading, effects: FloatArray) -> Reading:
    """The reading as if each metric had that many times fewer values."""
    if (effects == 1.0).all():
        return reading
    apart = np.array(
        [
            np.sqrt(effects[each.metric] * effects[each.other])
            if each.kind is ChannelKind.PAIR
            else effects[each.metric]
            for each in spec.columns
        ]
    )
    return Reading(reading.assigned, reading.n / apart, reading.s1 / apart, reading.s2 / apart)


class Rule(Protocol):
    """What can be asked of parameters of one family."""

    family: int

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """Mean and sd [K]."""
        ...

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """Central interval [K] of that level."""
        ...

    def mirrored(self, params: FloatArray) -> FloatArray:
        """Parameters of 1 - x."""
        ...


class Normal:
    """Normal means: parameters (mean, sd) [K, 2]."""

    family = NORMAL

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See Rule."""
        return params[:, 0], params[:, 1]

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """See Rule."""
        low, high = quantiles(self.family, params, (0.5 - 0.5 * level, 0.5 + 0.5 * level)).T
        return low, high

    def mirrored(self, params: FloatArray) -> FloatArray:
        """See Rule."""
        return np.stack([1.0 - params[:, 0], params[:, 1]], axis=1)


@dataclass(frozen=True, slots=True)
class Belief:
    """Belief about the arm means of one metric, in its scaled units and own direction.

    ``params`` [K, P] of ``rule``; ``n`` [K] values that it stands on. Arms are independent under it; where only their
    differences are known (contrast), the parameters are those of independent arms with just these differences.
    """

    rule: Rule
    params: FloatArray
    n: FloatArray

    @property
    def mean(self) -> FloatArray:
        """[K]."""
        return self.rule.moments(self.params)[0]

    @property
    def sd(self) -> FloatArray:
        """[K] above 0."""
        return np.maximum(self.rule.moments(self.params)[1], LEAST_SD)

    def mirrored(self) -> Belief:
        """Belief about 1 - x."""
        return Belief(self.rule, self.rule.mirrored(self.params), self.n)


class Baseline(Protocol):
    """One way to compare arms."""

    def beliefs(self, evidence: Evidence) -> tuple[Belief, ...]:
        """A belief for each metric of the spec. Finite for any evidence; no evidence gives the prior."""
        ...


def correlation(spec: ExperimentSpec, reading: Reading, one: int, two: int) -> float:
    """Correlation of two metrics over the requests of an arm, arms pooled, in [-1, 1]; 0 where it is not known."""
    pair = spec.columns.get(Channel(ChannelKind.PAIR, min(one, two), other=max(one, two)))
    if pair is None:
        return 0.0
    joint = reading.channel(pair)
    first, second = reading.channel(one), reading.channel(two)
    seen = (joint.n > 0.0) & (first.n > 0.0) & (second.n > 0.0)
    if not seen.any():
        return 0.0
    n = joint.n[seen]
    covariance = joint.s1[seen] / n - mean(first)[seen] * mean(second)[seen]
    scale = float(n @ variance(first)[seen]) * float(n @ variance(second)[seen])
    if scale <= 0.0:
        return 0.0
    return float(np.clip(n @ covariance / np.sqrt(scale), -1.0, 1.0))


def overlap(spec: ExperimentSpec, reading: Reading, one: int, two: int) -> FloatArray:
    """[K] n_ij / sqrt(n_i n_j): how much of the requests two metrics share, in [0, 1]."""
    pair = spec.columns.get(Channel(ChannelKind.PAIR, min(one, two), other=max(one, two)))
    if pair is None:
        return np.zeros(len(spec.arms))
    joint = reading.n[:, pair]
    scale = np.sqrt(reading.n[:, one] * reading.n[:, two])
    return np.clip(np.divide(joint, scale, out=np.zeros_like(joint), where=scale > 0.0), 0.0, 1.0)


def mean(sums: Sums) -> FloatArray:
    """[K] mean of the values; 0 without any."""
    return np.divide(sums.s1, sums.n, out=np.zeros_like(sums.s1), where=sums.n > 0.0)


def variance(sums: Sums) -> FloatArray:
    """[K] variance of the values; 0 without any."""
    square = np.divide(sums.s2, sums.n, out=np.zeros_like(sums.s2), where=sums.n > 0.0)
    return np.maximum(square - mean(sums) ** 2, 0.0)

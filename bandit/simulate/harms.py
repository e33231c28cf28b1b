"""Who is truly harmful: the promise of each kind of guardrail, judged on the laws of a world and not on samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bandit.ledger import FloatArray
from bandit.simulate.laws import Atoms, Law, atoms
from bandit.spec.model import Direction, ExperimentSpec, Guardrail, Metric, MetricKind

EDGE = 1e-9
"""An arm exactly at its limit keeps the promise; means are known to about this."""

Laws = Sequence[Sequence[Sequence[Law | None]]]
Broken = NDArray[np.bool_]


@dataclass(slots=True)
class Truth:
    """A world as it is. ``mean`` [E, G, K, M] on the ledger's scale (ratios on their own); ``drawn`` likewise, the
    means that values are drawn with, in the metric's unit; ``laws`` [G][K][M]; ``parts`` [G] of the traffic."""

    spec: ExperimentSpec
    mean: FloatArray
    drawn: FloatArray
    laws: Laws
    parts: FloatArray
    _atoms: dict[tuple[int, Law, float], Atoms] = field(default_factory=dict)

    def law_at(self, period: int, cohort: int, arm: int, metric: int) -> Atoms:
        """The law of a metric at a moment, as weighted points on the ledger's scale."""
        law = self.laws[cohort][arm][metric]
        assert law is not None
        mean = float(self.drawn[period, cohort, arm, metric])
        key = (metric, law, mean)
        if key not in self._atoms:
            self._atoms[key] = atoms(self.spec.metrics[metric], law, mean)
        return self._atoms[key]

    def badness(self, metric: int) -> FloatArray:
        """[E, G, K] true badness of a metric, 0 best and 1 worst."""
        mean: FloatArray = self.mean[..., metric]
        return mean if self.spec.metrics[metric].direction is Direction.MINIMIZE else 1.0 - mean

    def together(self, each: FloatArray) -> FloatArray:
        """[E, 1, K] of [E, G, K]: all cohorts, by their parts of the traffic."""
        mixed: FloatArray = np.einsum("egk,g->ek", each, self.parts)[:, None, :]
        return mixed


def harmful_from(guardrail: Guardrail, truth: Truth) -> NDArray[np.int64]:
    """[K] first period in which an arm breaks the guardrail's promise; E when never.

    For all cohorts together, and for any with traffic where the guardrail looks at each. The control breaks none: it
    is never judged. Warnings about the pipeline (sample_ratio, silence) are broken by no arm of a world.
    """
    periods, _, arms, _ = truth.mean.shape
    rule = RULES.get(guardrail.kind)
    at = truth.spec.metric_index(guardrail.metric) if guardrail.metric else None
    if rule is None or at is None:
        return np.full(arms, periods, np.int64)
    together, each = rule(guardrail, at, truth)
    seen = together[:, 0].copy()
    if guardrail.cohorts == "each":
        seen |= each[:, truth.parts > 0.0].any(axis=1)
    seen[:, truth.spec.control_index] = False
    first: NDArray[np.int64] = np.where(seen.any(axis=0), seen.argmax(axis=0), periods)
    return first


def _limit(guardrail: Guardrail, at: int, truth: Truth) -> tuple[Broken, Broken]:
    limit = (1.0 if guardrail.limit is None else guardrail.limit) + EDGE
    bad = truth.badness(at)
    return truth.together(bad) > limit, bad > limit


def _events(guardrail: Guardrail, at: int, truth: Truth) -> tuple[Broken, Broken]:
    metric = truth.spec.metrics[at]
    low, high = metric.scale
    count = low + (high - low) * truth.mean[..., at]
    limit = 0.0 if guardrail.limit is None else guardrail.limit
    return (
        _beyond(metric, truth.together(count), limit),
        _beyond(metric, count, limit),
    )


def _beyond(metric: Metric, value: FloatArray, limit: float) -> Broken:
    worse: Broken = value > limit + EDGE if metric.direction is Direction.MINIMIZE else value < limit - EDGE
    return worse


def _against_control(guardrail: Guardrail, at: int, truth: Truth) -> tuple[Broken, Broken]:
    metric = truth.spec.metrics[at]
    of_mean = guardrail.margin_of == "mean" or metric.kind is MetricKind.RATIO
    value = truth.mean[..., at] if of_mean else truth.badness(at)
    upward = of_mean and metric.direction is Direction.MAXIMIZE

    def broken(each: FloatArray) -> Broken:
        control = each[..., truth.spec.control_index, None]
        worse: Broken = (
            each < control / guardrail.margin - EDGE if upward else each > control * guardrail.margin + EDGE
        )
        return worse

    return broken(truth.together(value)), broken(value)


def _quantile_limit(guardrail: Guardrail, at: int, truth: Truth) -> tuple[Broken, Broken]:
    metric = truth.spec.metrics[at]
    low, high = metric.scale
    assert guardrail.limit is not None
    assert guardrail.quantile is not None
    limit = (guardrail.limit - low) / (high - low)
    above = np.zeros(truth.mean.shape[:3])
    for e, g, k in np.ndindex(*above.shape):
        law = truth.law_at(e, g, k, at)
        above[e, g, k] = law.weight[law.x > limit].sum()
    most = 1.0 - guardrail.quantile
    if metric.direction is Direction.MINIMIZE:
        return truth.together(above) > most + EDGE, above > most + EDGE
    return truth.together(above) < most - EDGE, above < most - EDGE


def _quantile_harm(guardrail: Guardrail, at: int, truth: Truth) -> tuple[Broken, Broken]:
    assert guardrail.quantile is not None
    periods, cohorts, arms = truth.mean.shape[:3]
    low, high = truth.spec.metrics[at].scale
    each = np.zeros((periods, cohorts, arms))
    together = np.zeros((periods, 1, arms))
    for e, k in np.ndindex(periods, arms):
        laws = [truth.law_at(e, g, k, at) for g in range(cohorts)]
        each[e, :, k] = [_quantile(law.x, law.weight, guardrail.quantile) for law in laws]
        if cohorts == 1:
            together[e, 0, k] = each[e, 0, k]
            continue
        x = np.concatenate([law.x for law in laws])
        weight = np.concatenate([part * law.weight for part, law in zip(truth.parts, laws, strict=True)])
        together[e, 0, k] = _quantile(x, weight, guardrail.quantile)

    def broken(value: FloatArray) -> Broken:
        unit = low + (high - low) * value
        control = unit[..., truth.spec.control_index, None]
        worse: Broken = unit > guardrail.margin * control * (1.0 + EDGE)
        return worse

    return broken(together), broken(each)


def _quantile(x: FloatArray, weight: FloatArray, quantile: float) -> float:
    order = np.argsort(x, kind="stable")
    at = int(np.searchsorted(np.cumsum(weight[order]), quantile - 1e-12))
    return float(x[order][min(at, x.size - 1)])


def _answers(guardrail: Guardrail, at: int, truth: Truth) -> tuple[Broken, Broken]:
    answered = np.zeros(truth.mean.shape[:3])
    for g, k in np.ndindex(*answered.shape[1:]):
        law = truth.laws[g][k][at]
        answered[:, g, k] = law.answered if law else 0.0

    def broken(value: FloatArray) -> Broken:
        control = value[..., truth.spec.control_index, None]
        apart: Broken = (value > control * guardrail.margin + EDGE) | (
            value < control / guardrail.margin - EDGE
        )
        return apart

    return broken(truth.together(answered)), broken(answered)


def _moved(guardrail: Guardrail, at: int, truth: Truth) -> tuple[Broken, Broken]:
    del guardrail
    mean = truth.mean[..., at]
    together = truth.together(mean)
    return np.abs(together - together[:1]) > EDGE, np.abs(mean - mean[:1]) > EDGE


RULES: dict[str, Callable[[Guardrail, int, Truth], tuple[Broken, Broken]]] = {
    "rate_limit": _limit,
    "breaker": _limit,
    "event_rate": _events,
    "quantile_limit": _quantile_limit,
    "harm": _against_control,
    "became_worse": _against_control,
    "quantile_harm": _quantile_harm,
    "response_rate": _answers,
    "drift": _moved,
}
"""Per kind: ([E, 1, K] all cohorts together, [E, G, K] each) is the promise broken?"""

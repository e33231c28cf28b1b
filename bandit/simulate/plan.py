"""A spec in a world, worked out once for many runs: laws, true means and utilities, who is harmful; it runs nothing."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit.ledger import FloatArray
from bandit.simulate.harms import Truth, harmful_from
from bandit.simulate.laws import Law, atoms, counted_mean
from bandit.simulate.world import WorldFile, groups_of, parts_of_traffic, resolved
from bandit.spec.model import Direction, ExperimentSpec, MetricKind

LEAST_PERIOD_S = 0.1


@dataclass(frozen=True, slots=True)
class Plan:
    """E periods, G cohorts or segments, K arms, M metrics, GD guardrails.

    ``laws`` [G][K][M], None for ratios. ``means`` [E, G, K, M]: means that values are drawn with, metric's unit.
    ``truth`` [E, G, K, M]: true means of a decision as it counts, on the ledger's scale; ratios on their own.
    ``parts`` [G] of the traffic. ``utility`` [E, G, K]: of one request, in units of the objective. ``harmful``
    [GD, K]: first period from which the guardrail's promise is broken, E when never. ``best``: the feasible arm with
    the highest utility over the horizon; ``best_in`` [G] that of each segment, or cohort where those may be apart.
    """

    spec: ExperimentSpec
    world: WorldFile
    periods: int
    period_s: float
    laws: tuple[tuple[tuple[Law | None, ...], ...], ...]
    means: FloatArray
    truth: FloatArray
    parts: FloatArray
    utility: FloatArray
    harmful: NDArray[np.int64]
    best: int
    best_in: NDArray[np.int64]

    @property
    def requests_per_period(self) -> float:
        """Expected decisions in one period."""
        return self.world.traffic_per_hour * self.period_s / 3600.0

    @property
    def arm_utility(self) -> FloatArray:
        """[K] mean utility of a request over the horizon."""
        mean: FloatArray = np.einsum("egk,g->k", self.utility, self.parts) / self.periods
        return mean

    def badness(self, metric: int) -> FloatArray:
        """[E, G, K] true badness of a metric, 0 best and 1 worst."""
        return Truth(self.spec, self.truth, self.means, self.laws, self.parts).badness(metric)

    def harmful_arm(self) -> NDArray[np.int64]:
        """[K] first period from which any guardrail's promise is broken, E when never."""
        if not len(self.harmful):
            return np.full(len(self.spec.arms), self.periods)
        first: NDArray[np.int64] = self.harmful.min(axis=0)
        return first


def plan(spec: ExperimentSpec, world: WorldFile, looks: int) -> Plan:
    """Work a world out in ``looks`` periods of equal length."""
    periods = max(1, min(looks, int(world.horizon / LEAST_PERIOD_S)))
    period_s = world.horizon / periods
    cohorts, arms, metrics = groups_of(world, spec), spec.arms, spec.metrics
    laws = tuple(
        tuple(
            tuple(
                None
                if metric.kind is MetricKind.RATIO
                else resolved(world, spec, cohort, arm.name, metric.name)
                for metric in metrics
            )
            for arm in arms
        )
        for cohort in range(cohorts)
    )
    means = np.zeros((periods, cohorts, len(arms), len(metrics)))
    truth = np.zeros_like(means)
    known: dict[tuple[int, Law, float], float] = {}
    for g, k, m in np.ndindex(cohorts, len(arms), len(metrics)):
        law = laws[g][k][m]
        if law is None:
            continue
        for e in range(periods):
            mean = law.mean * law.factor((e + 0.5) * period_s, world.horizon)
            key = (m, law, mean)
            if key not in known:
                known[key] = counted_mean(metrics[m], law, atoms(metrics[m], law, mean).mean)
            means[e, g, k, m], truth[e, g, k, m] = mean, known[key]
    _ratios(spec, truth)
    parts = np.array(parts_of_traffic(world, spec))
    utility = _utility(spec, truth)
    known_truth = Truth(spec, truth, means, laws, parts)
    harmful = np.array([harmful_from(each, known_truth) for each in spec.guardrails], np.int64)
    harmful = harmful.reshape(len(spec.guardrails), len(arms))
    best = _best(spec, np.einsum("egk,g->k", utility, parts), harmful, periods)
    own = bool(world.segments) or (spec.cohorts is not None and spec.cohorts.apart is not None)
    best_in = [
        _best(spec, utility[:, cohort].sum(axis=0), harmful, periods) if own else best
        for cohort in range(cohorts)
    ]
    return Plan(
        spec, world, periods, period_s, laws, means, truth, parts, utility, harmful, best, np.array(best_in)
    )


def _ratios(spec: ExperimentSpec, truth: FloatArray) -> None:
    """Fill in the true ratios of means, on their own scale."""
    for m, metric in enumerate(spec.metrics):
        if metric.kind is MetricKind.RATIO:
            above, below = (_unit(spec, truth, name or "") for name in (metric.numerator, metric.denominator))
            low, high = metric.scale
            truth[..., m] = (above / np.maximum(below, 1e-300) - low) / (high - low)


def _unit(spec: ExperimentSpec, truth: FloatArray, name: str) -> FloatArray:
    at = spec.metric_index(name)
    assert at is not None
    low, high = spec.metrics[at].scale
    out: FloatArray = low + (high - low) * truth[..., at]
    return out


def _utility(spec: ExperimentSpec, truth: FloatArray) -> FloatArray:
    total = np.zeros(truth.shape[:-1])
    for term in spec.terms:
        at = spec.metric_index(term.metric)
        assert at is not None
        low, high = term.scale or spec.metrics[at].scale
        part = (_unit(spec, truth, term.metric) - low) / (high - low)
        total += term.weight * (1.0 - part if spec.metrics[at].direction is Direction.MINIMIZE else part)
    return total


def _best(spec: ExperimentSpec, utility: FloatArray, harmful: NDArray[np.int64], periods: int) -> int:
    """The best of the arms that break no promise of a guardrail that rolls back; the control if there is none."""
    strict = [i for i, each in enumerate(spec.guardrails) if each.action == "rollback"]
    fine = np.all(harmful[strict] >= periods, axis=0) if strict else np.ones(len(spec.arms), np.bool_)
    fine[spec.control_index] = True
    # Of equals the control: nothing is lost by staying.
    order = sorted(
        range(len(spec.arms)), key=lambda k: (-round(float(utility[k]), 12), k != spec.control_index, k)
    )
    return next(k for k in order if fine[k] and math.isfinite(utility[k]))

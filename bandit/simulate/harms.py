"""Who is truly harmful: the promise of each kind of guardrail, judged on the true means of a world, not on samples."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import NDArray

from bandit.ledger import FloatArray
from bandit.simulate.laws import Law
from bandit.spec.model import Direction, ExperimentSpec, Guardrail

EDGE = 1e-9
"""An arm exactly at its limit keeps the promise; means are known to about this."""

Laws = Sequence[Sequence[Sequence[Law | None]]]


def badness(spec: ExperimentSpec, metric: int, truth: FloatArray) -> FloatArray:
    """[E, G, K] true badness of a metric, 0 best and 1 worst."""
    mean: FloatArray = truth[..., metric]
    return mean if spec.metrics[metric].direction is Direction.MINIMIZE else 1.0 - mean


def harmful_from(
    spec: ExperimentSpec, guardrail: Guardrail, truth: FloatArray, laws: Laws, parts: FloatArray
) -> NDArray[np.int64]:
    """[K] first period in which an arm breaks the guardrail's promise for any cohort with traffic; E when never.

    The control breaks none: it is never judged.
    """
    periods, arms = truth.shape[0], truth.shape[2]
    at = spec.metric_index(guardrail.metric) if guardrail.metric else None
    if at is None:
        return np.full(arms, periods, np.int64)
    bad = badness(spec, at, truth)
    broken = BROKEN.get(guardrail.kind, _against_control)(spec, guardrail, bad)
    # Everybody together, since a guardrail without cohorts judges the mixture.
    together = np.einsum("egk,g->ek", bad, parts)[:, None, :]
    seen = BROKEN.get(guardrail.kind, _against_control)(spec, guardrail, together)[:, 0]
    if guardrail_cohorts(guardrail):
        seen = seen | broken[:, parts > 0.0].any(axis=1)
    seen[:, spec.control_index] = False
    first: NDArray[np.int64] = np.where(seen.any(axis=0), seen.argmax(axis=0), periods)
    return first


def guardrail_cohorts(guardrail: Guardrail) -> bool:
    """Does the guardrail promise something for each cohort?"""
    return bool(getattr(guardrail, "cohorts", None) or getattr(guardrail, "per_cohort", False))


def _limit(spec: ExperimentSpec, guardrail: Guardrail, bad: FloatArray) -> NDArray[np.bool_]:
    del spec
    limit = 1.0 if guardrail.limit is None else guardrail.limit
    out: NDArray[np.bool_] = bad > limit + EDGE
    return out


def _against_control(spec: ExperimentSpec, guardrail: Guardrail, bad: FloatArray) -> NDArray[np.bool_]:
    control = bad[..., spec.control_index, None]
    out: NDArray[np.bool_] = bad > guardrail.margin * control + EDGE
    return out


BROKEN: dict[str, Callable[[ExperimentSpec, Guardrail, FloatArray], NDArray[np.bool_]]] = {
    "rate_limit": _limit,
    "breaker": _limit,
    "harm": _against_control,
}
"""By kind; a kind that is not here compares with the control."""

"""Logs of decisions for tests: specs, worlds of two or three arms, and what their decisions bring."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from bandit.evaluate.logged import Collector, Logged
from bandit.ledger import FloatArray
from bandit.spec.model import ExperimentSpec
from tests.rehearsals import spec_of

START_MS = 1_767_225_600_000
"""2026-01-01."""
NAMES = "abcdefgh"

__all__ = ["NAMES", "START_MS", "drawn", "logged", "spec_of"]


def logged(
    spec: ExperimentSpec,
    arms: list[int],
    chances: FloatArray,
    liked: list[float] | FloatArray,
    *,
    step_ms: int = 1000,
    told: bool = True,
    delay_ms: int | None = None,
    units: list[str] | None = None,
    attributes: list[dict[str, str]] | None = None,
    unsafe: FloatArray | None = None,
) -> Logged:
    """Decisions at equal steps: ``chances`` [T, K] or [K], ``liked`` [T] told after ``delay_ms``, ``unsafe`` [T] too.

    ``told``: the log tells the propensities of all arms, else that of the arm alone.
    """
    collector = Collector(spec, "log")
    wide = np.broadcast_to(chances, (len(arms), len(spec.arms)))
    for at, arm in enumerate(arms):
        every: dict[str, float] = {each.name: float(p) for each, p in zip(spec.arms, wide[at], strict=True)}
        decision = collector.decision(
            at + 1,
            time_ms=START_MS + at * step_ms,
            arm=spec.arms[arm].name,
            propensity=None if told else float(wide[at, arm]),
            propensities=every if told else None,
            unit=units[at] if units else "",
            attributes=attributes[at] if attributes else {},
        )
        if decision is not None:
            collector.reward(at + 1, decision, "liked", float(liked[at]), delay_ms=delay_ms)
            if unsafe is not None:
                collector.reward(at + 1, decision, "unsafe", float(unsafe[at]), delay_ms=delay_ms)
    return collector.finish()


def drawn(
    spec: ExperimentSpec,
    seed: int,
    size: int,
    chances: Callable[[np.random.Generator, int], FloatArray],
    means: FloatArray,
    **settings: Any,
) -> Logged:
    """A seeded log: arms drawn by ``chances``, liked at the ``means`` [T, K] or [K] of their arms."""
    rng = np.random.default_rng(seed)
    wide = np.broadcast_to(chances(rng, size), (size, len(spec.arms)))
    arms = (rng.random(size)[:, None] >= np.cumsum(wide, axis=1)[:, :-1]).sum(axis=1)
    mean = np.broadcast_to(means, wide.shape)[np.arange(size), arms]
    return logged(spec, arms.tolist(), wide, (rng.random(size) < mean).astype(np.float64), **settings)

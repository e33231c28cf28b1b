"""Small specs, experiments and allocations for tests."""

from __future__ import annotations

from typing import Any

from bandit.rollout.state import Allocation, Experiment
from bandit.rollout.transitions import Transition, create, reallocate, start
from bandit.spec.model import ExperimentSpec

SALT = bytes(range(16))
NOW = 1_700_000_000_000


def spec(**changes: Any) -> ExperimentSpec:
    """Three arms (control first), a bernoulli metric to maximise and a gaussian cost to minimise."""
    values: dict[str, Any] = {
        "experiment": "answers",
        "arms": [
            {"name": "control", "control": True, "digest": "sha256:0"},
            {"name": "small", "digest": "sha256:1"},
            {"name": "large", "digest": "sha256:2"},
        ],
        "metrics": [
            {"name": "satisfied", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1h"},
            {
                "name": "cost",
                "kind": "gaussian",
                "direction": "minimize",
                "range": [0.0, 2.0],
                "attribution_window": "10m",
            },
        ],
        "objective": [{"metric": "satisfied", "weight": 0.6}, {"metric": "cost", "weight": 0.4}],
    }
    values.update(changes)
    return ExperimentSpec.model_validate(values)


def created(now_ms: int = NOW, **changes: Any) -> Transition:
    """A new experiment in DRAFT."""
    return create(spec(**changes), uid=7, salt=SALT, now_ms=now_ms)


def running(
    shares_ppm: tuple[int, ...] = (400_000, 300_000, 300_000), **changes: Any
) -> tuple[Experiment, Allocation]:
    """A running experiment under the given shares."""
    made = created(**changes)
    begun = start(made.experiment, made.allocation, NOW + 1000)
    moved = reallocate(
        begun.experiment, begun.allocation, shares_ppm, begun.allocation.centres, "evidence", NOW + 2000
    )
    return moved.experiment, moved.allocation

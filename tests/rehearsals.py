"""Specs, worlds and runs of rehearsals for tests."""

from __future__ import annotations

from typing import Any

import numpy as np

from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import Plan, plan
from bandit.simulate.run import Run, rehearse
from bandit.simulate.world import WorldFile
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_mapping

LIKED: dict[str, Any] = {
    "name": "liked",
    "kind": "bernoulli",
    "direction": "maximize",
    "attribution_window": "1s",
}
UNSAFE: dict[str, Any] = {**LIKED, "name": "unsafe", "direction": "minimize"}


def spec_of(arms: int = 2, **parts: Any) -> ExperimentSpec:
    """Arms ``a`` (the control), ``b``, ``c``...; metrics liked and unsafe; liked is the objective."""
    return parse_mapping(
        {
            "experiment": "rehearsed",
            "arms": [{"name": "abcdefgh"[k], "control": k == 0} for k in range(arms)],
            "metrics": [LIKED, UNSAFE],
            "objective": [{"metric": "liked"}],
            "bounds": {"floor": 0.0, "control_floor": 0.0},
            **parts,
        }
    )


def world_of(per_period: float, periods: int, arms: dict[str, Any], **parts: Any) -> WorldFile:
    """Periods of ten seconds; ``arms``: metric laws by arm and metric, without their names."""
    laws = [
        {"name": arm, "metrics": [{"name": name, **law} for name, law in metrics.items()]}
        for arm, metrics in arms.items()
    ]
    return WorldFile.model_validate(
        {
            "traffic_per_hour": per_period * 360.0,
            "horizon": f"{10 * periods}s",
            "arms": laws,
            **parts,
        }
    )


def runs_of(
    spec: ExperimentSpec, world: WorldFile, looks: int, runs: int, seed: int = 1
) -> tuple[Plan, list[Run]]:
    """Rehearse a world some times."""
    made = plan(spec, world, looks)
    outcomes = Outcomes(made)
    return made, [rehearse(made, outcomes, np.random.default_rng((seed, run))) for run in range(runs)]

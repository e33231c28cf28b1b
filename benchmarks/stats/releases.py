"""Whole releases of equal arms, every metric watched in every cohort: how often is any arm rolled back?

    nice -n 19 uv run python -m benchmarks.stats.releases mixed --runs 10000 --part 1/2

Runs are numbered and seeded one by one; they are written to releases.jsonl in chunks, and chunks that are there
already are passed over, so that the work can be stopped, continued and split over processes (``--part``).
"""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np
from scipy import stats

from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import Plan, plan
from bandit.simulate.run import NEVER, rehearse
from bandit.simulate.world import WorldFile
from bandit.spec.parse import parse_mapping

RESULTS = Path(__file__).with_name("releases.jsonl")
CHUNK = 50
LOOKS = 40
BATCH = 1000
ALPHA = 0.05
SURE = 0.99
COHORTS = ("free", "paid", "team")
RATES = {"rare": (0.001,) * 3, "some": (0.02,) * 3, "many": (0.2,) * 3, "mixed": (0.001, 0.02, 0.2)}
"""Error rates of the three binary metrics of each world; the fourth metric is a cost."""


def made(world: str) -> Plan:
    """Three arms that are alike. The first rate doubles over the release, the second swings by 40 % in a day, the third
    stays; cohorts have half, all and twice the rates."""
    names = ("errors", "refusals", "complaints")
    metrics: list[dict[str, Any]] = [
        {"name": name, "kind": "bernoulli", "direction": "minimize", "attribution_window": "1s"}
        for name in names
    ]
    cost = {"name": "cost", "kind": "gaussian", "range": [0, 10]}
    metrics.append({**metrics[0], **cost})
    spec = parse_mapping(
        {
            "experiment": "release",
            "arms": [{"name": name, "control": name == "old"} for name in ("old", "new", "other")],
            "metrics": metrics,
            "objective": [{"metric": "complaints"}],
            "bounds": {"floor": 0.02, "control_floor": 0.1},
            "cohorts": {"attribute": "plan", "values": list(COHORTS)},
            "guardrails": [
                {"name": each["name"], "kind": "harm", "metric": each["name"], "cohorts": "each"}
                for each in metrics
            ],
            "alpha": ALPHA,
        }
    )
    drifts = ({"shape": "rising", "by": 1.0}, {"shape": "daily", "by": 0.4}, {"shape": "flat"})
    laws: list[dict[str, Any]] = [
        {"name": name, "mean": rate, "drift": drift}
        for name, rate, drift in zip(names, RATES[world], drifts, strict=True)
    ]
    laws.append({"name": "cost", "mean": 3, "sd": 1})
    file = {
        "traffic_per_hour": BATCH,
        "horizon": f"{LOOKS}h",
        "arms": [{"name": "old", "metrics": laws}],
        "cohorts": [
            {"name": name, "part": part, "metrics": [{"name": each, "times": times} for each in names]}
            for name, part, times in zip(COHORTS, (0.5, 0.3, 0.2), (0.5, 1.0, 2.0), strict=True)
        ],
    }
    return plan(spec, WorldFile.model_validate(file), LOOKS)


def known(world: str, seed: int) -> dict[int, dict[str, Any]]:
    """Chunks that are written down, by their first run."""
    if not RESULTS.exists():
        return {}
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {line["first"]: line for line in lines if (line["world"], line["seed"]) == (world, seed)}


def work(world: str, runs: int, seed: int, part: int, parts: int) -> None:
    """Fill in the chunks that are missing, every ``parts``-th one from ``part`` on."""
    planned = made(world)
    assert not (planned.harmful_arm() < planned.periods).any()
    outcomes = Outcomes(planned)
    for first in range(part * CHUNK, runs, parts * CHUNK):
        if first in known(world, seed):
            continue
        began = time.process_time()
        numbers = range(first, min(first + CHUNK, runs))
        fell: list[list[int]] = []
        for run in numbers:
            found = rehearse(planned, outcomes, np.random.default_rng((seed, run)))
            if (found.rolled_back != NEVER).any():
                guards = np.flatnonzero((found.fell != NEVER).any(axis=1))
                fell.append([run, *(int(each) for each in guards)])
        line = {
            "world": world,
            "seed": seed,
            "first": first,
            "runs": len(numbers),
            "fell": fell,
            "ms_per_look": round(1000 * (time.process_time() - began) / len(numbers) / LOOKS, 2),
        }
        with RESULTS.open("a") as out:
            out.write(json.dumps(line) + "\n")


def told(world: str, seed: int) -> None:
    """One line of what is known: any rollback, its upper bound (Clopper & Pearson 1934), and by which guardrail."""
    lines = list(known(world, seed).values())
    runs = sum(line["runs"] for line in lines)
    fell = [each for line in lines for each in line["fell"]]
    if not runs:
        return
    bound = float(stats.beta.ppf(SURE, len(fell) + 1, runs - len(fell))) if len(fell) < runs else 1.0
    by_guard = np.bincount([guard for each in fell for guard in each[1:]], minlength=4).tolist()
    print(
        f"{world}: {len(fell)} of {runs:,} releases rolled an arm back, {len(fell) / runs:.2%}; below {bound:.2%} "
        f"with {SURE:.0%}, alpha {ALPHA:.0%}; by errors, refusals, complaints, cost: {by_guard}"
    )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("worlds", nargs="+", choices=RATES)
    parser.add_argument("--runs", type=int, default=0, help="up to which run; 0: only tell what is known")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--part", default="1/1", help="for example 1/2: every second chunk from the first on")
    given = parser.parse_args()
    part, parts = (int(each) for each in given.part.split("/"))
    for world in given.worlds:
        work(world, given.runs, given.seed, part - 1, parts)
        told(world, given.seed)


if __name__ == "__main__":
    main()

"""What specs are worth by logged decisions, against the truth of simulated logs; each line goes to logs.jsonl.

    nice -n 19 uv run python -m benchmarks.stats.logs weights replay        # seeded; --runs N

``weights``: logs of 1,000 decisions whose shares move, over a level that moves, the best arm becoming the worst; for
each estimator the bias in standard errors, the part of its 95 % intervals that leave the truth out, and its error.
``replay``: what a spec that learns is worth by logs of even shares, beside rehearsals of it with as much traffic as is
accepted.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bandit.evaluate.rejection import by_replay
from bandit.evaluate.weights import ESTIMATORS, by_weights
from bandit.ledger import FloatArray
from tests.evaluations import drawn, spec_of
from tests.rehearsals import runs_of, world_of

RESULTS = Path(__file__).with_name("logs.jsonl")
SIZE, EVERY_S = 1000, 25.0
PHASE = np.pi * np.linspace(0.0, 1.0, SIZE)[:, None]
MEANS = 0.3 + 0.2 * PHASE / np.pi + np.array([0.0, 0.1, -0.1]) * np.cos(PHASE)


def weights(runs: int) -> Iterator[dict[str, Any]]:
    """Logs of three arms: shares that change each 50 decisions, or with each; floors of 0.1 and 0.02."""
    for kind in ("thompson", "kl_ucb"):
        spec = spec_of(3, allocator={"kind": kind})
        for each, floor in ((50, 0.1), (50, 0.02), (1, 0.1)):

            def shares(
                rng: np.random.Generator, size: int, each: int = each, floor: float = floor
            ) -> FloatArray:
                own = (1.0 - 3 * floor) * rng.dirichlet((1.0, 1.0, 1.0), -(-size // each)) + floor
                return np.repeat(own, each, axis=0)[:size]

            errors, out = np.zeros((runs, len(ESTIMATORS))), np.zeros((runs, len(ESTIMATORS)))
            ever = np.zeros((runs, 2))
            for run in range(runs):
                found = by_weights(drawn(spec, run, SIZE, shares, MEANS), EVERY_S)
                interval = np.arange(SIZE) * 1000 // round(EVERY_S * 1000)
                truth = float((found.shares[interval] * MEANS).sum(axis=1).mean())
                for at, estimate in enumerate(found.estimates):
                    errors[run, at] = estimate.value.value - truth
                    out[run, at] = not estimate.value.low <= truth <= estimate.value.high
                logged = float((shares(np.random.default_rng(run), SIZE) * MEANS).sum(axis=1).mean())
                assert found.anytime is not None
                assert found.anytime_lift is not None
                ever[run, 0] = not found.anytime[0] <= truth <= found.anytime[1]
                ever[run, 1] = not found.anytime_lift[0] <= truth - logged <= found.anytime_lift[1]
            bias = errors.mean(axis=0) / (errors.std(axis=0, ddof=1) / math.sqrt(runs))
            yield {
                "line": f"{kind}, shares change each {each}, floor {floor:g}",
                "runs": runs,
                "bias_in_se": _named(bias, 2),
                "left_out": _named(out.mean(axis=0), 4),
                "error": _named(np.sqrt((errors**2).mean(axis=0)), 4),
                "anytime_left_out": ever.mean(axis=0).round(4).tolist(),
            }


def replay(runs: int) -> Iterator[dict[str, Any]]:
    """Two arms, 40 looks of 50 logged decisions; rehearsals with 25."""
    means, looks, per_look = np.array([0.3, 0.4]), 40, 50
    laws = {"a": {"liked": {"mean": 0.3}}, "b": {"liked": {"mean": 0.4}}}
    for kind in ("thompson", "kl_ucb"):
        spec = spec_of(2, allocator={"kind": kind}, bounds={"floor": 0.02, "control_floor": 0.02})
        _, made = runs_of(spec, world_of(per_look / 2, looks, laws), looks, runs)
        rehearsed = np.array([float((run.served.sum(axis=0) @ means) / run.served.sum()) for run in made])
        found = [
            by_replay(drawn(spec, run, looks * per_look, _even, means, step_ms=200), 10.0, seed=run)
            for run in range(runs)
        ]
        values = np.array([each.estimates[0].value.value for each in found])
        error = math.sqrt(values.var(ddof=1) / runs + rehearsed.var(ddof=1) / runs)
        yield {
            "line": f"{kind}, means 0.3 and 0.4",
            "runs": runs,
            "replayed": round(float(values.mean()), 5),
            "rehearsed": round(float(rehearsed.mean()), 5),
            "apart_in_se": round(float(values.mean() - rehearsed.mean()) / error, 2),
            "accepted": round(float(np.mean([each.accepted or 0 for each in found])), 1),
        }


def _even(rng: np.random.Generator, size: int) -> FloatArray:
    return np.array([0.5, 0.5])


def _named(values: FloatArray, digits: int) -> dict[str, float]:
    return {name: round(float(each), digits) for name, each in zip(ESTIMATORS, values, strict=True)}


PARTS: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {"weights": weights, "replay": replay}


def main() -> None:
    """Run the named parts and append their lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("parts", nargs="+", choices=list(PARTS))
    parser.add_argument("--runs", type=int, default=1000)
    options = parser.parse_args()
    for part in options.parts:
        began = time.process_time()
        for line in PARTS[part](options.runs):
            told = {"part": part, **line, "cpu_s": round(time.process_time() - began, 1)}
            print(json.dumps(told), flush=True)
            with RESULTS.open("a") as file:
                file.write(json.dumps(told) + "\n")


if __name__ == "__main__":
    main()

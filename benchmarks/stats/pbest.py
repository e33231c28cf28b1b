"""P(best) by quadrature against 10,000 Monte Carlo draws: error over the golden cases, and time, in one run.

uv run python -m benchmarks.stats.pbest
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from bandit.kernels.best_arm import best_arm
from bandit.kernels.families import BETA
from bandit.ledger import FloatArray

GOLDEN = Path(__file__).parents[2] / "tests/golden/pbest.json"
DRAWS = 10_000
ROUNDS = 200


def monte_carlo(params: FloatArray, rng: np.random.Generator) -> FloatArray:
    """Share of draws in which each arm is the best."""
    draws = rng.beta(params[:, 0], params[:, 1], (DRAWS, len(params)))
    return np.bincount(draws.argmax(axis=1), minlength=len(params)) / DRAWS


def microseconds(call: Callable[[], Any]) -> float:
    """Best of ROUNDS calls."""
    best = float("inf")
    for _ in range(ROUNDS):
        began = time.perf_counter_ns()
        call()
        best = min(best, (time.perf_counter_ns() - began) / 1000.0)
    return best


def main() -> None:
    rng = np.random.default_rng(1)
    cases = [case for case in json.loads(GOLDEN.read_text())["cases"] if case["family"] == "beta"]
    print(f"{'case':40} {'arms':>4} {'error':>9} {'of draws':>9} {'ratio':>9} {'us':>7} {'us draws':>9}")
    for case in cases:
        params = np.array(case["params"], np.float64)
        lowest = case["objective"] == "min"
        exact = np.array([float(each) for each in case["p_best"]])
        found = best_arm(BETA, params, lowest=lowest).p
        turned = params[:, ::-1].copy() if lowest else params
        error = np.abs(found - exact).max()
        drawn = np.mean([np.abs(monte_carlo(turned, rng) - exact).max() for _ in range(20)])
        own = microseconds(partial(best_arm, BETA, params, lowest=lowest))
        theirs = microseconds(partial(monte_carlo, turned, rng))
        ratio = drawn / max(error, 1e-17)
        print(
            f"{case['name']:40} {len(params):4d} {error:9.1e} {drawn:9.1e} {ratio:9.1e} {own:7.1f} {theirs:9.1f}"
        )


if __name__ == "__main__":
    main()

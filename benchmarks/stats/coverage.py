"""Intervals and winners at every look while Thompson sampling moves the shares; each line goes to coverage.jsonl.

    uv run python -m benchmarks.stats.coverage intervals winners        # seeded; --runs N

Shares come from the shipped kernels, sums are read by the report's terms and e-processes (``tests/adaptive.py``); the
difference of plain means with its 95 % interval of one look, and P(best), run beside them.
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

from bandit.inference.effects import BOUND, LEVEL, RHOS
from bandit.inference.terms import PHI, A, N, S, V
from bandit.kernels.best_arm import BETA, compare
from bandit.kernels.jit import kernel
from bandit.ledger import FloatArray
from tests.adaptive import Marks, Runs, bandit_runs, leaves_out, terms_so_far

RESULTS = Path(__file__).with_name("coverage.jsonl")
ALPHA = 0.05
LEAST_ONES = 5


def intervals(runs: int) -> Iterator[dict[str, Any]]:
    """Two arms, 50 batches of 200: part of the runs whose interval leaves the truth out at any look."""
    published = {
        (0.5, 0.5, 0.01): (0.327, 0.0213), (0.5, 0.5, 0.05): (0.328, 0.0173), (0.5, 0.5, 0.1): (0.322, 0.0163),
        (0.1, 0.1, 0.01): (0.386, 0.1288), (0.1, 0.1, 0.05): (0.387, 0.0727), (0.1, 0.1, 0.1): (0.38, 0.0428),
        (0.1, 0.11, 0.01): (0.347, 0.146), (0.1, 0.11, 0.05): (0.353, 0.0685), (0.1, 0.11, 0.1): (0.352, 0.041),
    }  # fmt: skip
    level = math.log(2.0 / (1.0 - LEVEL))
    for (control, other, floor), (naive, asymptotic) in published.items():
        made = bandit_runs(21, runs, [control, other], floor=floor)
        found = terms_so_far(made)
        truth = np.ascontiguousarray((other - control) * found[:, :, A])
        out = leaves_out(found[:, :, S], found[:, :, V], truth, level, RHOS, BOUND)
        ever, last = _naive(made, other - control)
        lift = found[:, -1, PHI] / found[:, -1, N] - (other - control)
        yield {
            "line": f"{control:g} and {other:g}, floor {floor:g}",
            "runs": runs,
            "ours_ever_out": round(float(out.any(axis=1).mean()), 4),
            "naive_ever_out": round(ever, 4),
            "naive_out_at_end": round(last, 4),
            "lift_bias": round(float(lift.mean()), 5),
            "lift_bias_se": round(float(lift.std() / math.sqrt(runs)), 5),
            "published": {"naive_ever_out": naive, "asymptotic_ever_out": asymptotic},
        }


def _naive(made: Runs, truth: float) -> tuple[float, float]:
    """(at any look, at the last): the plain means' interval leaves the truth out, from LEAST_ONES in each arm on."""
    n, s1 = np.cumsum(made.n, axis=1), np.cumsum(made.s1, axis=1)
    rate = s1 / np.maximum(n, 1.0)
    se = np.sqrt((rate * (1.0 - rate) / np.maximum(n, 1.0)).sum(axis=2))
    out = (s1.min(axis=2) >= LEAST_ONES) & (np.abs(rate[:, :, 1] - rate[:, :, 0] - truth) > 1.96 * se)
    return float(out.any(axis=1).mean()), float(out[:, -1].mean())


def winners(runs: int) -> Iterator[dict[str, Any]]:
    """Equal arms, a floor of 2 %, 200 looks: runs in which a winner is called, by our e-values and by P(best)."""
    published = {(0.1, 2, 500): (0.687, 0.217), (0.1, 5, 500): (0.01, 0.0), (0.5, 2, 100): (None, None)}
    for (mean, arms, batch), figure in published.items():
        made = bandit_runs(22, runs, [mean] * arms, periods=200, batch=batch, floor=0.02)
        level = math.log(arms * (arms - 1) / ALPHA)
        won = np.zeros(runs, np.bool_)
        for k in range(arms):
            better = np.ones((runs, 200), np.bool_)
            for j in range(arms):
                if j != k:
                    better &= _better(terms_so_far(made, k, j), level)
            won |= better.any(axis=1)
        top = highest(made.n, made.s1)
        yield {
            "line": f"{arms} arms of {mean:g}, batch {batch}",
            "runs": runs,
            "ours": round(float(won.mean()), 4),
            "p_best_95": round(float((top >= 0.95).mean()), 4),
            "p_best_99": round(float((top >= 0.99).mean()), 4),
            "published": {"p_best_95": figure[0], "p_best_99": figure[1]},
        }


def _better(found: FloatArray, level: float) -> Marks:
    """[R, E] is ln E at the level that the first arm of the pair is better? One-sided, alike at every look."""
    none = np.zeros(found.shape[:2])
    out = leaves_out(found[:, :, S], found[:, :, V], none, level, RHOS, BOUND)
    return np.asarray(out & (found[:, :, S] > 0.0))


@kernel
def highest(n: FloatArray, s1: FloatArray) -> FloatArray:
    """[R] highest P(best) of any arm at any look, Beta(1, 1), from counts and ones [R, E, K] of periods."""
    runs, looks, arms = n.shape
    out, sure = np.zeros(runs), np.ones(arms)
    p, loss = np.empty(arms), np.empty(arms)
    for run in range(runs):
        params = np.ones((arms, 2))
        for look in range(looks):
            for k in range(arms):
                params[k, 0] += s1[run, look, k]
                params[k, 1] += n[run, look, k] - s1[run, look, k]
            compare(BETA, params.copy(), sure, False, p, loss)
            out[run] = max(out[run], p.max())
    return out


TABLES: dict[str, Callable[[int], Iterator[dict[str, Any]]]] = {"intervals": intervals, "winners": winners}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", choices=TABLES)
    parser.add_argument("--runs", type=int, default=4000)
    given = parser.parse_args()
    for name in given.tables:
        for each in TABLES[name](given.runs):
            line = json.dumps({"table": name, **each, "at": time.strftime("%Y-%m-%d %H:%M")})
            print(line, flush=True)
            with RESULTS.open("a") as out:
                out.write(line + "\n")


if __name__ == "__main__":
    main()

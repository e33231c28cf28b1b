"""Harm where each request has shares of its own, at size; each line goes to routed.jsonl.

    nice -n 19 uv run python -m benchmarks.stats.routed --runs 2000

Releases of 12,000 requests of two kinds that a feature routes, whose level of bad outcomes differs between the kinds
and doubles for all arms together; sums, scores and evidence as shipped, looked at 40 times at alpha 5 %; seeded.
Beside them the guardrail of other specs on the same releases, kinds pooled, which is what features make wrong."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path
from typing import Any

import numpy as np

from bandit.guardrails.base import ArmStanding, Folded, Outcome
from bandit.guardrails.judge import judge
from tests.routed import LATE, PERIODS, made, releases, watched

RESULTS = Path(__file__).with_name("routed.jsonl")
LEVELS = ((0.002, 0.01), (0.05, 0.2), (0.1, 0.25))
WORSE = (1.0, 1.2, 1.5, 2.0)
AT_ONCE, POOLED = 500, 100


def line(levels: tuple[float, float], worse: float, runs: int, seed: int) -> dict[str, Any]:
    """How many releases are rolled back, and after how many requests of the arm (median; None where half are not)."""
    fell, until = [], []
    pooled = 0
    for part in range(0, runs, AT_ONCE):
        found = releases(min(AT_ONCE, runs - part), np.full(2, worse), seed + part, levels=np.array(levels))
        failed = watched(found, made()).failed.astype(int)
        served = found.n[..., 1].sum(axis=2).cumsum(axis=0)
        fell += (failed < PERIODS).tolist()
        until += [
            float(served[each, run]) if each < PERIODS else np.inf for run, each in enumerate(failed.tolist())
        ]
        if part == 0:
            pooled = sum(_by_counts(found, run) for run in range(min(POOLED, runs)))
    median = float(np.median(until))
    return {
        "levels": levels,
        "worse": worse,
        "runs": runs,
        "rolled_back": float(np.mean(fell)),
        "requests": median if np.isfinite(median) else None,
        "pooled_rolled_back": pooled / min(POOLED, runs),
    }


def _by_counts(found: Any, run: int) -> bool:
    spec = made("thompson")
    table = found.table(spec, run, weighed=False)
    arms = [ArmStanding(1, 1, live=True)] * 2
    (verdict,) = judge(spec, table, Folded.empty_of(spec), arms, LATE, told=False)
    return verdict.outcome is Outcome.FAIL


def main() -> None:
    """All lines, each appended as soon as it is known."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    told = parser.parse_args()
    for levels in LEVELS:
        for worse in WORSE:
            begun = time.monotonic()
            runs = told.runs if worse == 1.0 else max(told.runs // 10, 1)
            found = line(levels, worse, runs, 1000 * told.seed)
            found |= {
                "seed": told.seed,
                "seconds": round(time.monotonic() - begun, 1),
                "at": time.strftime("%Y-%m-%d %H:%M", time.gmtime()),
            }
            with RESULTS.open("a") as file:
                file.write(json.dumps(found) + "\n")
            print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()

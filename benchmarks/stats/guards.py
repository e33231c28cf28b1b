"""Harm against a concurrent control and a fixed limit at full size; each line goes to guards.jsonl.

    uv run python -m benchmarks.stats.guards ramp wide limit          # seeded; --runs N

Compiled loops around the kernels of the guardrails (``watch``, ``overlap``, ``confseq``), looked at after each batch.
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

from bandit.kernels.confseq import log_rate_above
from bandit.kernels.jit import kernel
from bandit.kernels.overlap import SCORES, add_scores, reaches
from bandit.kernels.weigh import STRENGTHS
from bandit.ledger import FloatArray, Int64Array

RESULTS = Path(__file__).with_name("guards.jsonl")


@kernel
def harmed(
    share: FloatArray,
    level: FloatArray,
    ratio: float,
    batch: int,
    fail: float,
    runs: int,
    chance: np.random.Generator,
) -> Int64Array:
    """[runs] outcomes of the canary until harm fails, -1 if it does not; ``share`` and ``level`` [E] of the periods."""
    out = np.full(runs, -1)
    for run in range(runs):
        scores = np.zeros(SCORES)
        n_0, bad_0, canary = 0.0, 0.0, 0
        for e in range(share.size):
            n = chance.binomial(batch, share[e])
            bad = float(chance.binomial(n, level[e] * ratio))
            other = float(batch - n)
            bad_other = float(chance.binomial(batch - n, level[e]))
            centre = bad_0 / n_0 if n_0 > 0.0 else 0.5
            add_scores(scores, float(n), bad, bad, other, bad_other, bad_other, centre, 1.0)
            n_0 += other
            bad_0 += bad_other
            canary += n
            if reaches(scores, fail):
                out[run] = canary
                break
    return out


@kernel
def exceeded(
    rate: float, limit: float, step: int, most: int, fail: float, runs: int, chance: np.random.Generator
) -> Int64Array:
    """[runs] outcomes until a rate limit fails, looked at every ``step`` of ``most``; -1 if it does not."""
    out = np.full(runs, -1)
    for run in range(runs):
        n, bad = 0, 0.0
        while n < most:
            n += step
            bad += chance.binomial(step, rate)
            if bad > n * limit and log_rate_above(bad, float(n), limit, STRENGTHS) >= fail:
                out[run] = n
                break
    return out


def told(found: Int64Array) -> dict[str, Any]:
    """Share of the runs that alarm, median and 90 % of the outcomes until then."""
    seen = found[found >= 0]
    share = seen.size / found.size
    return {
        "runs": found.size,
        "alarmed": round(share, 4),
        "se": round(math.sqrt(max(share * (1.0 - share), 1e-9) / found.size), 4),
        "median": float(np.median(seen)) if seen.size else None,
        "p90": float(np.quantile(seen, 0.9)) if seen.size else None,
    }


def ramp(runs: int, chance: np.random.Generator) -> Iterator[dict[str, Any]]:
    """A canary from 1 to 50 % over 200 batches of 500; levels flat, rising from 5 to 20 %, falling; alpha 1 %."""
    share, rising = np.linspace(0.01, 0.5, 200), np.linspace(0.05, 0.20, 200)
    levels = {
        "flat": np.full(200, 0.1),
        "rising": rising,
        "falling": rising[::-1].copy(),
        "flat .01": np.full(200, 0.01),
    }
    published = {
        ("flat", 1.0): (0.004, None), ("flat", 1.2): (1.0, 3387.0), ("flat", 2.0): (1.0, 269.0),
        ("rising", 1.0): (0.003, None), ("rising", 1.2): (1.0, 3930.5), ("rising", 2.0): (1.0, 458.0),
        ("falling", 1.0): (0.002, None), ("falling", 1.2): (1.0, 1573.5), ("falling", 2.0): (1.0, 131.5),
        ("flat .01", 1.0): (0.0, None), ("flat .01", 1.2): (0.198, 16174.5), ("flat .01", 2.0): (1.0, 2967.5),
    }  # fmt: skip
    for (level, ratio), (alarmed, median) in published.items():
        found = harmed(share, levels[level], ratio, 500, math.log(100.0), runs, chance)
        yield {
            "line": f"{level}, x{ratio:g}",
            **told(found),
            "published": {"alarmed": alarmed, "median": median},
        }


def wide(runs: int, chance: np.random.Generator) -> Iterator[dict[str, Any]]:
    """A canary from 1 to 50 % over 100 batches of 1,000, also while a day swings by half; alpha 1 %."""
    share, rising = np.linspace(0.01, 0.5, 100), np.linspace(0.05, 0.20, 100)
    levels = {
        "flat": np.full(100, 0.1),
        "rising": rising,
        "falling": rising[::-1].copy(),
        "daily": 0.1 + 0.05 * np.sin(2.0 * math.pi * (np.arange(100) + 0.5) / 24.0),
    }
    # exact on inverse propensities, and asymptotic within periods
    published = {
        ("flat", 1.0): (0.001, 0.01), ("flat", 1.2): (0.995, 1.0), ("rising", 1.0): (0.0, 0.007),
        ("rising", 1.2): (1.0, 1.0), ("falling", 1.0): (0.001, 0.006), ("falling", 1.2): (0.998, 1.0),
        ("daily", 1.0): (0.0, 0.002), ("daily", 1.2): (0.993, 1.0),
    }  # fmt: skip
    for (level, ratio), (exact, within) in published.items():
        found = harmed(share, levels[level], ratio, 1000, math.log(100.0), runs, chance)
        yield {
            "line": f"{level}, x{ratio:g}",
            **told(found),
            "published": {"exact IPW": exact, "asymptotic within periods": within},
        }


def limit(runs: int, chance: np.random.Generator) -> Iterator[dict[str, Any]]:
    """A rate at a fixed limit and above it, looked at every 20 outcomes of 40,000; alpha 5 and 1 %."""
    published: dict[tuple[float, float], tuple[float | None, float | None]] = {
        (0.01, 0.01): (None, None), (0.01, 0.015): (2553.0, 4190.0), (0.01, 0.02): (851.0, 1258.0),
        (0.01, 0.05): (161.0, 180.0), (0.1, 0.1): (None, None), (0.1, 0.11): (5038.0, 8472.0),
        (0.1, 0.12): (1461.0, 2188.0), (0.1, 0.15): (374.0, 475.0),
    }  # fmt: skip
    for (most, rate), figures in published.items():
        for alpha, median in zip((0.05, 0.01), figures, strict=True):
            found = exceeded(rate, most, 20, 40_000, -math.log(alpha), runs, chance)
            line = f"limit {most:g}, rate {rate:g}, alpha {alpha:g}"
            yield {"line": line, **told(found), "published": {"median": median}}


TABLES: dict[str, Callable[[int, np.random.Generator], Iterator[dict[str, Any]]]] = {
    "ramp": ramp,
    "wide": wide,
    "limit": limit,
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", choices=TABLES)
    parser.add_argument("--runs", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for name in given.tables:
        for each in TABLES[name](given.runs, np.random.default_rng(given.seed)):
            line = json.dumps(
                {"table": name, "seed": given.seed, **each, "at": time.strftime("%Y-%m-%d %H:%M")}
            )
            print(line, flush=True)
            with RESULTS.open("a") as out:
                out.write(line + "\n")


if __name__ == "__main__":
    main()

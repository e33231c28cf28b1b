"""Ours beside Thompson sampling from Beta(1, 1), both with the same luck, so that a difference of 1 % can be seen.

    nice -n 19 uv run python -m benchmarks.stats.paired bernoulli canary5 minimise          # seeded; --runs N

Every number is a hash of (seed, run, request, what for): the same request has the same outcome under each arm for both,
and the same draw chooses its arm. Beliefs that differ little then choose alike, and differences are taken run by run.
Beliefs and weights are those of ``rules.py``; where a batch is one request, beliefs are drawn as quotients of gammas
(Marsaglia and Tsang 2000), from the same normals for both. Lines go to rules.jsonl as table "paired".
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import numpy as np

from bandit.kernels.jit import kernel
from bandit.ledger import FloatArray
from benchmarks.stats.rules import CANARY5, FLAT, OURS, PAIR, RESULTS, THOMPSON, believe, weigh

WORLDS: dict[str, tuple[tuple[float, ...], int, int, bool, int]] = {
    "bernoulli": (PAIR, 5000, 1, False, 40_000),
    "tenths": ((0.1, 0.2), 5000, 1, False, 10_000),
    "canary5": (CANARY5, 100_000, 1000, False, 3000),
    "minimise": ((0.10, 0.09, 0.095, 0.11, 0.12), 100_000, 1000, True, 6000),
}
"""Rates, requests, batch, is less better, runs."""
CHUNK = 500


@kernel
def hashed(key: np.uint64, number: int) -> float:
    """In (0, 1), by SplitMix64 (Steele, Lea and Flood 2014)."""
    z = key + np.uint64(number + 1) * np.uint64(0x9E3779B97F4A7C15)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z = z ^ (z >> np.uint64(31))
    return (float(z >> np.uint64(11)) + 0.5) / 9007199254740992.0


@kernel
def gamma(shape: float, key: np.uint64, number: int) -> float:
    """A draw of Gamma(shape >= 1), nearly the same function of the luck for nearby shapes."""
    d = shape - 1.0 / 3.0
    c = 1.0 / math.sqrt(9.0 * d)
    for trial in range(64):
        at = number + 3 * trial
        x = math.sqrt(-2.0 * math.log(hashed(key, at))) * math.cos(2.0 * math.pi * hashed(key, at + 1))
        v = 1.0 + c * x
        if v > 0.0:
            v = v * v * v
            if math.log(hashed(key, at + 2)) < 0.5 * x * x + d - d * v + d * math.log(v):
                return float(d * v)
    return d


@kernel
def drawn(params: FloatArray, lowest: bool, key: np.uint64, request: int) -> int:
    """The arm of the best draw."""
    arms, chosen, top = len(params), 0, -1.0
    for k in range(arms):
        at = 1024 * (request * arms + k)
        x = gamma(params[k, 0], key, at)
        x /= x + gamma(params[k, 1], key, at + 512)
        x = 1.0 - x if lowest else x
        if x > top:
            chosen, top = k, x
    return chosen


@kernel
def pointed(w: FloatArray, u: float) -> int:
    """The arm at ``u`` in (0, 1) of weights that sum to 1."""
    for k in range(w.size - 1):
        u -= w[k]
        if u < 0.0:
            return k
    return w.size - 1


@kernel
def both(
    rates: FloatArray, requests: int, batch: int, lowest: bool, seed: int, first: int, runs: int
) -> FloatArray:
    """[runs, 2] regrets of runs ``first``, ...: ours, and that of Beta(1, 1)."""
    arms, out = rates.size, np.zeros((runs, 2))
    best = rates.min() if lowest else rates.max()
    params, w = np.empty((arms, 2)), np.empty(arms)
    for run in range(runs):
        base = np.uint64(seed) * np.uint64(0x9E3779B97F4A7C15) ^ np.uint64(first + run + 1)
        outcomes = np.uint64(hashed(base, 1) * 1.8e19)
        choices = np.uint64(hashed(base, 2) * 1.8e19)
        for which in range(2):
            n, s = np.zeros(arms), np.zeros(arms)
            for start in range(0, requests, batch):
                believe(OURS if which == 0 else FLAT, lowest, n, s, params)
                if batch > 1:
                    weigh(THOMPSON, params, n, s, n, float(batch), 0.0, lowest, w)
                told, good = np.zeros(arms), np.zeros(arms)
                for request in range(start, start + batch):
                    if batch == 1:
                        chosen = drawn(params, lowest, choices, request)
                    else:
                        chosen = pointed(w, hashed(choices, request))
                    told[chosen] += 1.0
                    if hashed(outcomes, request * arms + chosen) < rates[chosen]:
                        good[chosen] += 1.0
                    out[run, which] += abs(rates[chosen] - best)
                for k in range(arms):
                    n[k] += told[k]
                    s[k] += good[k]
    return out


def told(name: str, found: FloatArray, seed: int, spent: float) -> dict[str, Any]:
    """Means, and the difference run by run as a part of the rule's regret."""
    gap, theirs = found[:, 0] - found[:, 1], float(found[:, 1].mean())
    runs = len(found)

    def se(values: FloatArray) -> float:
        return float(values.std(ddof=1) / math.sqrt(runs))

    correlation = np.asarray(np.corrcoef(found.T))
    return {
        "table": "paired",
        "line": name,
        "runs": runs,
        "seed": seed,
        "ours": round(float(found[:, 0].mean()), 3),
        "ours_se": round(se(found[:, 0]), 3),
        "flat": round(theirs, 3),
        "flat_se": round(se(found[:, 1]), 3),
        "worse_by": round(float(gap.mean()) / theirs, 5),
        "worse_by_se": round(se(gap) / theirs, 5),
        "correlation": round(float(correlation[0, 1]), 4),
        "seconds": round(spent, 1),
        "at": time.strftime("%Y-%m-%d %H:%M"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("worlds", nargs="+", choices=WORLDS)
    parser.add_argument("--runs", type=int, default=0, help="0: as many as decide 2 %% in that world")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for name in given.worlds:
        rates, requests, batch, lowest, usual = WORLDS[name]
        began = time.process_time()
        found: list[FloatArray] = []
        for first in range(0, given.runs or usual, CHUNK):
            size = min(CHUNK, (given.runs or usual) - first)
            found.append(both(np.array(rates), requests, batch, lowest, given.seed, first, size))
        line = json.dumps(told(name, np.concatenate(found), given.seed, time.process_time() - began))
        print(line, flush=True)
        with RESULTS.open("a") as out:
            out.write(line + "\n")


if __name__ == "__main__":
    main()

"""Optimistic indices in a plain loop, on four kinds of means: which of them the published regrets stand on.

    nice -n 19 uv run python -m benchmarks.stats.indices "ten low rates" pair "ten halves"        # seeded

One request at a time to the arm of the highest index (``kernels.indices``; c = 0, t the requests so far, the first of
equals, each arm once before that); it pours nothing. Lines go to rules.jsonl as table "indices".
"""

from __future__ import annotations

import argparse
import json
import math
import time

import numpy as np

from bandit.kernels.indices import KL, KL_PLUS, gap_at
from bandit.kernels.jit import kernel
from bandit.ledger import FloatArray
from benchmarks.stats.rules import FLAT, HALVES, NAMES, OURS, PAIR, RESULTS, TEN, believe

MEANS, BELIEFS, COUNTED, UNIFORM, UNIFORM_COUNTED = range(5)
STANDS_ON = (
    "means",
    "our posterior means",
    "these, with their weight in n",
    "Beta(1, 1)",
    "Beta(1, 1), counted",
)
WORLDS = {
    "ten low rates": (TEN, 20_000, 100),
    "pair": (PAIR, 5000, 1500),
    "ten halves": (HALVES, 10_000, 150),
}
TOP = 1.0 - 2.0**-30


@kernel
def lost(rule: int, stands_on: int, rates: FloatArray, requests: int, runs: int, seed: int) -> FloatArray:
    """[runs] regrets."""
    np.random.seed(seed)  # noqa: NPY002 - the generator of compiled code
    arms, out, best = rates.size, np.zeros(runs), rates.max()
    params = np.ones((arms, 2))
    for run in range(runs):
        n, s = np.zeros(arms), np.zeros(arms)
        for _ in range(requests):
            if stands_on in (BELIEFS, COUNTED):
                believe(OURS, False, n, s, params)
            else:
                believe(FLAT, False, n, s, params)
            t, top, chosen = n.sum(), -1.0, 0
            for k in range(arms):
                weight = params[k, 0] + params[k, 1] - n[k]
                mean, size, of = params[k, 0] / (weight + n[k]), n[k], t
                if stands_on == MEANS:
                    mean = min(s[k] / max(n[k], 1.0), TOP)
                elif stands_on in (COUNTED, UNIFORM_COUNTED):
                    size, of = n[k] + weight, t + arms * weight
                index = mean + gap_at(rule, mean, 0.25, size, max(of, math.e)) if size > 0.0 else 10.0
                if index > top:
                    top, chosen = index, k
            n[chosen] += 1.0
            if np.random.random() < rates[chosen]:  # noqa: NPY002
                s[chosen] += 1.0
            out[run] += best - rates[chosen]
    return out


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("worlds", nargs="+", choices=WORLDS)
    parser.add_argument("--runs", type=int, default=0)
    parser.add_argument("--seed", type=int, default=7)
    given = parser.parse_args()
    for name in given.worlds:
        rates, requests, usual = WORLDS[name]
        for rule in (KL, KL_PLUS):
            for stands_on, words in enumerate(STANDS_ON):
                runs = given.runs or usual
                found = lost(rule, stands_on, np.array(rates), requests, runs, given.seed)
                line = {
                    "table": "indices",
                    "line": f"{name}, {NAMES[rule]}, on {words}",
                    "runs": runs,
                    "seed": given.seed,
                    "regret": round(float(found.mean()), 3),
                    "se": round(float(found.std(ddof=1) / math.sqrt(runs)), 3),
                    "at": time.strftime("%Y-%m-%d %H:%M"),
                }
                print(json.dumps(line), flush=True)
                with RESULTS.open("a") as out:
                    out.write(json.dumps(line) + "\n")


if __name__ == "__main__":
    main()

"""Ours beside Thompson sampling from Beta(1, 1), which pools all periods, in the worlds of ``peers.py``: mean and tail.

    nice -n 19 uv run python -m benchmarks.stats.tails rising --ours 1500 --theirs 20000

That rule is MABWiser's and river's. Serving each arm by its chance of being the best is the same lottery as drawing
beliefs for each request, and costs a thousandth; the same (seed, run) draws the same outcomes for ours, for the rule
and for the libraries' recorded runs, so differences are taken run by run. Where rewards are at once, many more runs of
the rule are compiled, with numbers of their own. Lines go to peers.jsonl as table "tails".
"""

from __future__ import annotations

import argparse
import json
import math
import time
from typing import Any

import numpy as np

from bandit.kernels.best_arm import BETA, compare
from bandit.kernels.jit import kernel
from benchmarks.stats.peers import RESULTS, WORLDS, Floats, Ints, Make, Peer, World, means_at, own, play

BASELINES = {"rising": "contrast"}


class Pooled(Peer):
    """Thompson sampling from Beta(1, 1); where rewards come late it is told of each when its window has closed."""

    def start(self, seed: int) -> None:
        del seed
        self.belief = np.ones((self.arms, 2))

    def take(self, arms: Ints, ones: Ints, batch: int) -> None:
        del batch
        good = ones != self.world.lowest
        self.belief[:, 0] += np.bincount(arms[good], minlength=self.arms)
        self.belief[:, 1] += np.bincount(arms[~good], minlength=self.arms)

    def choose(self, count: int) -> Ints:
        best, loss = np.empty((2, self.arms))
        compare(BETA, self.belief, np.ones(self.arms), False, best, loss)
        return self.rng.choice(self.arms, size=count, p=best / best.sum())


@kernel
def compiled(means: Floats, batch: int, runs: int, chance: np.random.Generator) -> Floats:
    """[runs] regrets of the same rule where the highest of ``means`` [E, K] is the best and rewards are at once."""
    batches, arms = means.shape
    out, sure = np.zeros(runs), np.ones(arms)
    best, loss = np.empty(arms), np.empty(arms)
    for run in range(runs):
        belief = np.ones((arms, 2))
        for e in range(batches):
            compare(BETA, belief, sure, False, best, loss)
            left, rest = batch, best.sum()
            top = means[e].max()
            for k in range(arms):
                served = left
                if k < arms - 1:
                    part = min(max(best[k] / rest, 0.0), 1.0) if rest > 1e-15 else 0.0
                    served = chance.binomial(left, part) if 0.0 < part < 1.0 else round(left * part)
                rest -= best[k]
                left -= served
                good = chance.binomial(served, means[e, k]) if served else 0
                belief[k, 0] += good
                belief[k, 1] += served - good
                out[run] += served * (top - means[e, k])
    return out


def found(world: World, make: Make, runs: int, seed: int, seconds: float) -> Floats:
    """Regret of runs 0, 1, ...; fewer than ``runs`` where the time is up."""
    began = time.monotonic()
    lost: list[float] = []
    while len(lost) < runs and (len(lost) < 2 or time.monotonic() - began < seconds):
        lost.append(play(world, make, seed, len(lost)))
    return np.array(lost)


def told(lost: Floats) -> dict[str, Any]:
    """Mean, its standard error, and the tail."""
    return {
        "runs": lost.size,
        "regret": round(float(lost.mean()), 2),
        "se": round(float(lost.std(ddof=1) / math.sqrt(lost.size)), 2),
        "median": round(float(np.median(lost)), 2),
        "p95": round(float(np.quantile(lost, 0.95)), 2),
        "p99": round(float(np.quantile(lost, 0.99)), 2),
        "worst": round(float(lost.max()), 2),
    }


def apart(first: Floats, second: Floats) -> dict[str, Any]:
    """Mean difference over the runs that both have."""
    both = min(first.size, second.size)
    gap = first[:both] - second[:both]
    return {
        "runs": both,
        "difference": round(float(gap.mean()), 2),
        "se": round(float(gap.std(ddof=1) / math.sqrt(both)), 2),
        "first_less": round(float((gap < 0.0).mean()), 4),
    }


def recorded(world: World, seed: int) -> dict[str, Floats]:
    """Runs of the libraries themselves that are written down."""
    lines = [json.loads(line) for line in RESULTS.read_text().splitlines()]
    return {
        f"{line['peer']} {line['line']}": np.array(line["each"])
        for line in lines
        if line["table"] == "regret"
        and (line["world"], line["seed"]) == (world.name, seed)
        and line["line"] in ("Thompson", "Thompson, waits")
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    worlds = {world.name: world for world in WORLDS}
    parser.add_argument("world", choices=worlds)
    parser.add_argument("--ours", type=int, default=1500)
    parser.add_argument("--theirs", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=600.0, help="of each of the two")
    given = parser.parse_args()
    world = worlds[given.world]
    baseline = BASELINES.get(world.name, "stationary")
    lines: list[dict[str, Any]] = []
    paired = given.theirs
    if not world.delays and not world.lowest:
        paired = min(given.theirs, 2 * given.ours)
        chance = np.random.default_rng((given.seed, *world.name.encode()))
        many = compiled(means_at(world), world.batch, given.theirs, chance)
        lines.append({"line": "Beta(1, 1), compiled", **told(many)})
    theirs = found(world, Pooled, paired, given.seed, given.seconds)
    lines.append({"line": "Beta(1, 1)", **told(theirs)})
    for name, lost in recorded(world, given.seed).items():
        lines.append({"line": f"Beta(1, 1) minus {name}", **apart(theirs, lost)})
    for line in lines:
        print(json.dumps(line), flush=True)
    ours = found(world, own(baseline, 0.0), given.ours, given.seed, given.seconds)
    more = [
        {"line": f"ours, {baseline}", **told(ours)},
        {"line": "ours minus Beta(1, 1)", **apart(ours, theirs)},
    ]
    for line in more:
        print(json.dumps(line), flush=True)
    with RESULTS.open("a") as out:
        for line in lines + more:
            stamp = {"seed": given.seed, "at": time.strftime("%Y-%m-%d %H:%M")}
            out.write(json.dumps({"table": "tails", "world": world.name, **line, **stamp}) + "\n")


if __name__ == "__main__":
    main()

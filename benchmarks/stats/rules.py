"""Stationary worlds at full size: compiled loops around the shipped kernels; each line goes to rules.jsonl.

    uv run python -m benchmarks.stats.rules batched sequential peers        # seeded; --runs N, --only TEXT

A binary metric, ``baseline: stationary``, no chain of periods and no store: belief (``posteriors.bernoulli``), weights,
KL projection onto the floors, a multinomial draw. ``tables.py`` has some of the same lines through the whole chain.

Thompson sampling of peers draws each request from Beta(1 + successes, 1 + failures). Ours serves arms by their chances
of being the best, which is the same lottery; where a batch is one request, loops draw instead of integrating.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bandit.kernels.best_arm import BETA, compare
from bandit.kernels.fluid import ucb_weights
from bandit.kernels.indices import KL, KL_PLUS, UCB1, UCB1_TUNED, UCB_V
from bandit.kernels.jit import kernel
from bandit.kernels.mixing import top_two
from bandit.kernels.simplex import project_kl
from bandit.ledger import FloatArray
from bandit.posteriors.bernoulli import WARY

RESULTS = Path(__file__).with_name("rules.jsonl")
THOMPSON, TOP_TWO = 10, 11
OURS, FLAT = 0, 1
NAMES = {
    THOMPSON: "thompson",
    TOP_TWO: "top_two",
    KL: "kl_ucb",
    KL_PLUS: "kl_ucb_plus",
    UCB1: "ucb1",
    UCB1_TUNED: "ucb1_tuned",
    UCB_V: "ucb_v",
}


@kernel
def believe(prior: int, lowest: bool, n: FloatArray, s: FloatArray, params: FloatArray) -> None:
    """Beta parameters [K, 2]: of ``posteriors.bernoulli`` without a prior of the spec, or of Beta(1, 1)."""
    rate = (s.sum() + 1.0) / (n.sum() + 2.0)
    worse = rate if lowest else 1.0 - rate
    wary = max(worse, min(WARY * worse, 0.5))
    rate = wary if lowest else 1.0 - wary
    rarer = min(rate, 1.0 - rate)
    for k in range(n.size):
        params[k, 0] = s[k] + (1.0 if prior == FLAT else rate / rarer)
        params[k, 1] = n[k] - s[k] + (1.0 if prior == FLAT else (1.0 - rate) / rarer)


@kernel
def weigh(
    rule: int,
    params: FloatArray,
    n: FloatArray,
    s: FloatArray,
    pulls: FloatArray,
    batch: float,
    floor: float,
    lowest: bool,
    w: FloatArray,
) -> None:
    """Weights [K] of the next batch; the first arm is the control, all have the same floor."""
    arms = n.size
    p, loss = np.empty(arms), np.empty(arms)
    if rule < THOMPSON:
        mean, variance = np.empty(arms), np.empty(arms)
        for k in range(arms):
            # Of the rewards alone, as ``objective`` shows them; their own variance, the most where there are none.
            mean[k] = s[k] / n[k] if n[k] > 0.0 else params[k, 0] / (params[k, 0] + params[k, 1])
            variance[k] = mean[k] * (1.0 - mean[k]) if n[k] > 0.0 else 0.25
            if lowest:
                mean[k] = 1.0 - mean[k]
        ucb_weights(rule, mean, variance, n, pulls, batch, p)
    else:
        turned = params.copy()
        if lowest:
            turned[:, 0], turned[:, 1] = params[:, 1], params[:, 0]
        compare(BETA, turned, np.ones(arms), False, p, loss)
        if rule == TOP_TWO:
            top_two(p.copy(), 0.5, p)
    if floor > 0.0:
        project_kl(p / p.sum(), np.full(arms, floor), np.ones(arms), w)
    else:
        w[:] = p / p.sum()


@kernel
def lost(
    rule: int,
    prior: int,
    rates: FloatArray,
    lowest: bool,
    requests: int,
    batch: int,
    floor: float,
    late: int,
    runs: int,
    chance: np.random.Generator,
) -> FloatArray:
    """[runs, 2]: regret, and was the best arm on top of the last weights? Rewards are seen ``late`` batches later."""
    arms, out = rates.size, np.zeros((runs, 2))
    best = rates.argmin() if lowest else rates.argmax()
    gap = np.abs(rates - rates[best])
    batches = requests // batch
    params, w = np.empty((arms, 2)), np.empty(arms)
    for run in range(runs):
        n, s, pulls = np.zeros(arms), np.zeros(arms), np.zeros(arms)
        told = np.zeros((late + 1, 2, arms))
        for e in range(batches):
            believe(prior, lowest, n, s, params)
            if batch == 1 and rule == THOMPSON:
                top, chosen = -1.0, 0
                for k in range(arms):
                    x = chance.beta(params[k, 0], params[k, 1])
                    x = 1.0 - x if lowest else x
                    if x > top:
                        top, chosen = x, k
                w[:] = 0.0
                w[chosen] = 1.0
            else:
                weigh(rule, params, n, s, pulls, float(batch), floor, lowest, w)
            left, rest, at = batch, 1.0, e % (late + 1)
            for k in range(arms):
                served = left
                if k < arms - 1:
                    part = min(max(w[k] / rest, 0.0), 1.0) if rest > 1e-15 else 0.0
                    served = chance.binomial(left, part) if 0.0 < part < 1.0 else round(left * part)
                rest -= w[k]
                left -= served
                pulls[k] += served
                told[at, 0, k] = served
                told[at, 1, k] = chance.binomial(served, rates[k]) if served else 0
            due = (e + 1) % (late + 1)
            if e >= late:
                n += told[due, 0]
                s += told[due, 1]
        out[run, 0] = pulls @ gap
        out[run, 1] = 1.0 if w.argmax() == best else 0.0
    return out


class Line(NamedTuple):
    """``published``: the design's figure and its standard error."""

    table: str
    line: str
    rule: int
    prior: int
    rates: tuple[float, ...]
    requests: int
    batch: int
    runs: int
    floor: float = 0.0
    late: int = 0
    lowest: bool = False
    published: tuple[float, float] | None = None


CANARY5 = (0.10, 0.11, 0.105, 0.09, 0.08)
CANARY2 = (0.100, 0.095)
PAIR = (0.9, 0.8)
TEN = (0.1, 0.05, 0.05, 0.05, 0.02, 0.02, 0.02, 0.01, 0.01, 0.01)
HALVES = (0.5, *(0.4,) * 9)


def batched(runs: int) -> Iterator[Line]:
    """canary5 and canary2, 100,000 requests; batches, floors, rewards that are some batches late."""
    published = {
        (THOMPSON, 5000, 0.0, 0): (209.7, 2.0), (THOMPSON, 1000, 0.0, 0): (194.2, 2.2),
        (THOMPSON, 100, 0.0, 0): (193.5, 5.4), (KL, 5000, 0.0, 0): (308.1, 1.6), (KL, 1000, 0.0, 0): (304.2, 1.5),
        (KL, 100, 0.0, 0): (302.6, 3.8), (TOP_TWO, 5000, 0.0, 0): (415.1, 1.2), (TOP_TWO, 1000, 0.0, 0): (404.9, 1.2),
        (TOP_TWO, 100, 0.0, 0): (403.1, 3.2), (THOMPSON, 1000, 0.01, 0): (223.6, 2.1),
        (THOMPSON, 1000, 0.02, 0): (271.2, 1.9), (THOMPSON, 1000, 0.05, 0): (426.4, 1.6),
        (THOMPSON, 1000, 0.10, 0): (708.5, 1.1), (KL, 1000, 0.05, 0): (490.1, 1.2),
        (TOP_TWO, 1000, 0.05, 0): (572.9, 0.8),
        (THOMPSON, 1000, 0.0, 1): (203.1, 2.5), (THOMPSON, 1000, 0.0, 5): (235.8, 2.2),
        (THOMPSON, 1000, 0.0, 20): (422.0, 2.1), (KL, 1000, 0.0, 1): (320.9, 1.8), (KL, 1000, 0.0, 5): (364.5, 1.9),
        (KL, 1000, 0.0, 20): (531.7, 2.7),
    }  # fmt: skip
    for (rule, batch, floor, late), figure in published.items():
        line = f"canary5, {NAMES[rule]}, batch {batch:,}, floor {floor:g}, {late} batches late"
        size = runs // 10 if batch == 100 else runs
        yield Line("batched", line, rule, OURS, CANARY5, 100_000, batch, size, floor, late, published=figure)
    two = {
        (THOMPSON, 1000, 0.0): (75.4, 2.3), (THOMPSON, 1000, 0.05): (80.9, 2.0), (KL, 1000, 0.0): (106.5, 1.4),
        (THOMPSON, 10_000, 0.0): (86.7, 1.9), (THOMPSON, 10_000, 0.05): (92.7, 1.8), (KL, 10_000, 0.0): (107.8, 1.6),
    }  # fmt: skip
    for (rule, batch, floor), figure in two.items():
        line = f"canary2, {NAMES[rule]}, batch {batch:,}, floor {floor:g}"
        yield Line("batched", line, rule, OURS, CANARY2, 100_000, batch, runs, floor, published=figure)


def sequential(runs: int) -> Iterator[Line]:
    """One request at a time: Garivier & Cappe 2011, scenarios 1 and 2; Chapelle & Li 2011."""
    setups: dict[str, tuple[tuple[float, ...], int, float, dict[int, tuple[float, float]]]] = {
        "pair": (
            PAIR,
            5000,
            1.0,
            {THOMPSON: (9.19, 0.12), UCB1: (64.43, 0.12), UCB1_TUNED: (15.89, 0.16), KL: (13.18, 0.07),
             KL_PLUS: (9.24, 0.08), UCB_V: (50.98, 0.09)},
        ),
        "ten low rates": (
            TEN,
            20_000,
            0.05,
            {THOMPSON: (90.72, 0.68), UCB1: (843.97, 1.52), UCB1_TUNED: (243.29, 1.06), KL: (130.53, 0.84),
             KL_PLUS: (77.94, 0.66), UCB_V: (351.68, 1.15)},
        ),
        "ten halves": (
            HALVES,
            10_000,
            0.05,
            {THOMPSON: (168.92, 3.07), UCB1: (591.52, 2.26), UCB1_TUNED: (150.21, 3.4), KL: (259.18, 2.38),
             KL_PLUS: (160.46, 1.77), UCB_V: (516.46, 2.26)},
        ),
    }  # fmt: skip
    for name, (rates, requests, part, figures) in setups.items():
        for rule, figure in figures.items():
            size = max(round(runs * part) * (10 if rule == THOMPSON else 1), 2)
            yield Line(
                "sequential", f"{name}, {NAMES[rule]}", rule, OURS, rates, requests, 1, size, published=figure
            )
    # Ten requests at a time: P(best) of ten arms for each would take minutes a run.
    for name, rates, requests, figure in (
        ("ten low rates", TEN, 20_000, (553.09, 0.57)),
        ("ten halves", HALVES, 10_000, (530.94, 1.2)),
    ):
        line = f"{name}, top_two, batch 10"
        size = max(runs // 20, 2)
        yield Line("sequential", line, TOP_TWO, OURS, rates, requests, 10, size, published=figure)


def peers(runs: int) -> Iterator[Line]:
    """Ours beside Thompson sampling from Beta(1, 1), the rule of MABWiser and river, in the worlds of ``peers.py``."""
    worlds = {
        "bernoulli": (PAIR, 1, 5000, False, 10),
        "canary5": (CANARY5, 1000, 100_000, False, 1),
        "minimise": ((0.10, 0.09, 0.095, 0.11, 0.12), 1000, 100_000, True, 1),
    }
    for name, (rates, batch, requests, lowest, times) in worlds.items():
        for prior, whose in ((OURS, "ours"), (FLAT, "Beta(1, 1)")):
            yield Line(
                "peers",
                f"{name}, {whose}",
                THOMPSON,
                prior,
                rates,
                requests,
                batch,
                times * runs,
                lowest=lowest,
            )


TABLES: dict[str, Callable[[int], Iterator[Line]]] = {
    "batched": batched,
    "sequential": sequential,
    "peers": peers,
}


def measured(each: Line, seed: int) -> dict[str, Any]:
    """One line; lines of the same seed share no more than that."""
    chance = np.random.default_rng((seed, *each.line.encode()))
    began = time.process_time()
    found = lost(
        each.rule, each.prior, np.array(each.rates), each.lowest, each.requests, each.batch, each.floor, each.late,
        each.runs, chance,
    )  # fmt: skip
    regret = found[:, 0]
    return {
        "table": each.table,
        "line": each.line,
        "runs": each.runs,
        "seed": seed,
        "regret": round(float(regret.mean()), 3),
        "se": round(float(regret.std(ddof=1) / math.sqrt(each.runs)), 3),
        "p95": round(float(np.quantile(regret, 0.95)), 2),
        "best_on_top": round(float(found[:, 1].mean()), 4),
        "published": each.published,
        "seconds": round(time.process_time() - began, 1),
        "at": time.strftime("%Y-%m-%d %H:%M"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", choices=TABLES)
    parser.add_argument("--runs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="lines that hold this text")
    given = parser.parse_args()
    for name in given.tables:
        for each in TABLES[name](given.runs):
            if given.only in each.line:
                line = json.dumps(measured(each, given.seed))
                print(line, flush=True)
                with RESULTS.open("a") as out:
                    out.write(line + "\n")


if __name__ == "__main__":
    main()

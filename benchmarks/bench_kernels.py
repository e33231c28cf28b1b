"""Kernels of the learner, each held against a peer or a plain twin in the same run.

    uv run python benchmarks/bench_kernels.py [--rounds 7] [--seconds 0.2]

Rounds are interleaved and medians taken, so that other work on the machine meets all cases alike; times are CPU time
of this process. Results are compared before anything is timed. JSON to stdout, a table to stderr.

Peers: scipy's adaptive quadrature over its Beta cdfs (P(best)), its root finder (KL-UCB), its inverse of the Beta cdf
(intervals); numpy's ``add.at`` (folding); a bisection in numpy (projection).
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import numpy as np
from numpy.typing import NDArray
from scipy import integrate, optimize, special

from bandit.allocate import propose
from bandit.baselines.base import evidence_of
from bandit.counting import layout_of
from bandit.kernels import jit
from bandit.kernels.best_arm import BETA, STUDENT_T, best_arm
from bandit.kernels.divergence import bernoulli, bernoulli_gap
from bandit.kernels.fluid import pour
from bandit.kernels.fold import fold_rewards
from bandit.kernels.indices import KL
from bandit.kernels.quantile import quantiles
from bandit.kernels.simplex import project_kl
from bandit.ledger import ONE, S1, S2_HIGH, Cells, N, Period, split_table
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_mapping
from benchmarks.service import machine

Array = NDArray[np.float64]
EVENTS = 10_000
CELLS = 20
# Bars of the design, us a call; more is said, and fails nothing.
BARS = {"P(best) 2 arms": 15.0, "P(best) 3 arms": 32.0, "P(best) 10 arms": 216.0}

Case = Callable[[], object]


def beta(arms: int) -> Array:
    """Posteriors of rates around a tenth, about a thousand rewards each."""
    chance = np.random.default_rng(arms)
    n = chance.uniform(500, 2000, arms)
    successes = n * chance.uniform(0.09, 0.12, arms)
    return np.stack([1 + successes, 1 + n - successes], axis=1)


def quad_p_best(params: Array) -> list[float]:
    """The peer: one adaptive integral per arm."""
    a, b = params.T
    log_norm = special.betaln(a, b)
    out = []
    for k in range(len(params)):

        def integrand(x: float, k: int = k) -> float:
            value = math.exp((a[k] - 1) * math.log(x) + (b[k] - 1) * math.log1p(-x) - log_norm[k])
            for i in range(len(params)):
                if i != k:
                    value *= special.betainc(a[i], b[i], x)
            return value

        low, high = special.betaincinv(a[k], b[k], 1e-12), special.betaincinv(a[k], b[k], 1 - 1e-12)
        out.append(integrate.quad(integrand, low, high, epsabs=1e-10, limit=200)[0])
    return out


def brentq_index(mean: float, n: float, level: float) -> float:
    """The peer: the same equation, scipy's root finder."""
    return float(
        optimize.brentq(lambda q: n * bernoulli(mean, q - mean) - level, mean + 1e-12, 1 - 1e-12, xtol=1e-14)
    )


def bisected(p: Array, low: Array, high: Array) -> Array:
    """The twin: clip(nu p, low, high) by bisection on ln nu, in numpy."""
    least, most = -20.0, 20.0
    for _ in range(60):
        nu = 0.5 * (least + most)
        if np.clip(math.exp(nu) * p, low, high).sum() > 1.0:
            most = nu
        else:
            least = nu
    out: Array = np.clip(math.exp(0.5 * (least + most)) * p, low, high)
    return out


def pairs() -> dict[str, tuple[Case, Case]]:
    """Name: (ours, the peer); results are compared here."""
    found: dict[str, tuple[Case, Case]] = {}
    for arms in (2, 3, 10):
        rows = beta(arms)
        assert np.abs(best_arm(BETA, rows).p - quad_p_best(rows)).max() < 1e-8
        found[f"P(best) {arms} arms"] = (partial(best_arm, BETA, rows), partial(quad_p_best, rows))
    assert abs(0.1 + bernoulli_gap(0.1, 9.2e-3) - brentq_index(0.1, 1000.0, 9.2)) < 1e-10
    found["KL-UCB index"] = (lambda: 0.1 + bernoulli_gap(0.1, 9.2e-3), lambda: brentq_index(0.1, 1000.0, 9.2))
    p = np.random.default_rng(1).dirichlet(np.full(10, 0.3))
    low, high, w = np.full(10, 0.02), np.full(10, 0.4), np.empty(10)
    project_kl(p, low, high, w)
    assert np.abs(w - bisected(np.maximum(p, 1e-9), low, high)).max() < 1e-9
    found["projection, 10 arms"] = (lambda: project_kl(p, low, high, w), lambda: bisected(p, low, high))
    rows, levels = beta(10), np.array([0.025, 0.975])
    inverse = special.betaincinv(rows[:, :1], rows[:, 1:], levels)
    assert np.abs(quantiles(BETA, rows, (0.025, 0.975)) - inverse).max() < 1e-9
    found["intervals, 10 arms"] = (
        lambda: quantiles(BETA, rows, (0.025, 0.975)),
        lambda: special.betaincinv(rows[:, :1], rows[:, 1:], levels),
    )
    found[f"fold {EVENTS} rewards"] = folding()
    return found


def folding() -> tuple[Case, Case]:
    """Marks and four sums in one pass, against three scattered additions without marks."""
    chance = np.random.default_rng(2)
    cell, q = chance.integers(0, CELLS, EVENTS), chance.integers(0, 2**30, EVENTS)
    row, slot = np.arange(EVENTS) >> 8, np.arange(EVENTS) & 255
    mark = np.ones(EVENTS, np.uint16)
    pages, sums = np.zeros((row[-1] + 1, 256), np.uint16), np.zeros((CELLS, 4), np.int64)
    outcome = np.zeros(EVENTS, np.uint8)
    counts = np.zeros((3, CELLS), np.int64)

    def ours() -> None:
        pages.fill(0)
        outcome.fill(0)
        fold_rewards(row, slot, mark, cell, q, pages, sums, outcome)

    def peer() -> None:
        np.add.at(counts[0], cell, 1)
        np.add.at(counts[1], cell, q)
        np.add.at(counts[2], cell, q * q)

    ours()
    peer()
    assert (counts[:2] == sums[:, :2].T).all()
    return ours, peer


def alone() -> dict[str, Case]:
    """What has no peer: other families and sizes, and the whole way from sums to shares."""
    chance = np.random.default_rng(3)
    students = np.stack([chance.normal(0.3, 0.01, 3), np.full(3, 0.01), chance.uniform(20, 2000, 3)], axis=1)
    many, w = beta(64), np.empty(10)
    means, pulls = chance.uniform(0.09, 0.12, 10), np.full(10, 1000.0)
    experiment = spec()
    layout = layout_of(experiment)
    cells = Cells.zeros(layout)
    cells.exposures[0] = cells.sums[0, :, 0, N] = 1000
    cells.sums[0, :, 0, S1] = cells.sums[0, :, 0, S2_HIGH] = np.array([100, 110, 90]) * ONE
    shares = (400_000, 300_000, 300_000)
    rows = split_table([Period(1, 1, 1, 0, 60_000, shares, (0.1,), cells)], layout)
    live = np.ones(3, np.bool_)
    return {
        "P(best) 3 arms, Student's t": lambda: best_arm(STUDENT_T, students),
        "P(best) 64 arms": lambda: best_arm(BETA, many),
        "fluid KL-UCB, 10 arms": lambda: pour(KL, means, means, pulls, 1e4, 500.0, w),
        "sums to shares, 3 arms": lambda: propose(
            experiment, evidence_of(experiment, rows, 120_000), live, [None] * 3, None, 0.0, 100.0
        ),
    }


def spec() -> ExperimentSpec:
    """Three arms, one metric."""
    return parse_mapping(
        {
            "experiment": "bench",
            "arms": [{"name": f"arm-{index}", "control": index == 0} for index in range(3)],
            "metrics": [{"name": "liked", "kind": "bernoulli", "direction": "maximize"}],
            "objective": [{"metric": "liked"}],
        }
    )


def cpu_us(case: Case, seconds: float) -> float:
    """CPU time of one call, us."""
    calls, began = 0, time.process_time()
    while (passed := time.process_time() - began) < seconds:
        for _ in range(5):
            case()
        calls += 5
    return passed / calls * 1e6


def run(rounds: int, seconds: float) -> dict[str, object]:
    """All cases in turn, ``rounds`` times; the first is not counted."""
    began = time.process_time()
    jit.warm_all()
    warm_s = time.process_time() - began
    both, single = pairs(), alone()
    times: dict[str, list[float]] = {}
    for turn in range(rounds + 1):
        for name, (ours, peer) in both.items():
            times.setdefault(name, []).append(cpu_us(ours, seconds))
            times.setdefault(f"{name}: peer", []).append(cpu_us(peer, seconds))
        for name, case in single.items():
            times.setdefault(name, []).append(cpu_us(case, seconds))
        sys.stderr.write(f"bench_kernels: {'warm' if turn == 0 else f'round {turn} of {rounds}'}\n")
    cases: dict[str, dict[str, object]] = {}
    for name in [*both, *single]:
        us = median(times[name][1:])
        cases[name] = {"us": round(us, 2)}
        if name in both:
            ratios = [
                peer / ours for ours, peer in zip(times[name][1:], times[f"{name}: peer"][1:], strict=True)
            ]
            cases[name] |= {
                "peer_us": round(median(times[f"{name}: peer"][1:]), 2),
                "faster": round(median(ratios), 2),
            }
        if name in BARS:
            cases[name] |= {"bar_us": BARS[name], "met": us <= BARS[name]}
    return {"warm_all_s": round(warm_s, 2), "cases": cases}


def table(cases: dict[str, dict[str, object]]) -> str:
    """The cases for people."""
    lines = [f"{'':32}{'us':>10}{'peer us':>12}{'faster':>9}"]
    for name, each in cases.items():
        peer = f"{each['peer_us']:>12,.1f}{each['faster']:>9,.1f}" if "peer_us" in each else ""
        bar = (
            f"   (bar {each['bar_us']:g}: {'met' if each['met'] else 'NOT met'})" if "bar_us" in each else ""
        )
        lines.append(f"{name:32}{each['us']:>10,.1f}{peer}{bar}")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Run and print."""
    parser = argparse.ArgumentParser(description="Kernels against peers in the same run.")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--seconds", type=float, default=0.2, help="CPU time of each case in each round")
    options = parser.parse_args()
    found = {"machine": machine("numba", "numpy", "scipy"), **run(options.rounds, options.seconds)}
    sys.stdout.write(json.dumps(found, indent=2) + "\n")
    cases = found["cases"]
    assert isinstance(cases, dict)
    sys.stderr.write(table(cases))


if __name__ == "__main__":
    main()

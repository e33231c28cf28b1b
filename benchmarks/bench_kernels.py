"""Kernels against a peer in the same run: scipy's quadrature and root finder, numpy's sums, Monte Carlo draws.

    uv run python benchmarks/bench_kernels.py > kernels.json

JSON to stdout, a summary to stderr. Each figure is the median over interleaved rounds, in microseconds of wall time.
"""

from __future__ import annotations

import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import numba
import numpy as np
import scipy
from scipy import integrate, optimize, special, stats

from bandit.kernels.best_arm import BETA, best_arm
from bandit.kernels.fold import fold_rewards
from bandit.kernels.simplex import project_kl
from bandit.kernels.ucb import kl_ucb_index

ROUNDS = 7
Case = tuple[str, Callable[[], Any], str, Callable[[], Any]]


def seconds(act: Callable[[], Any], least_s: float = 0.05) -> float:
    """Seconds of one call, from as many calls as take ``least_s``."""
    calls, took = 0, 0.0
    began = time.perf_counter()
    while took < least_s:
        act()
        calls += 1
        took = time.perf_counter() - began
    return took / calls


def beta_rows(arms: int) -> np.ndarray[Any, np.dtype[np.float64]]:
    """Posteriors of rates near 10 % from 500 to 2,000 rewards."""
    n = np.linspace(500, 2000, arms)
    successes = np.round(n * np.linspace(0.09, 0.11, arms))
    return np.stack([1 + successes, 1 + n - successes], axis=1)


def scipy_p_best(rows: np.ndarray[Any, np.dtype[np.float64]]) -> list[float]:
    """The same integral by scipy.integrate.quad, one arm after the other."""
    a, b = rows.T

    def integrand(x: float, k: int) -> float:
        cdfs = special.betainc(a, b, x)
        cdfs[k] = 1.0
        return float(stats.beta.pdf(x, a[k], b[k]) * cdfs.prod())

    means, sds = a / (a + b), np.sqrt(a * b / (a + b + 1)) / (a + b)
    low, high = float((means - 9 * sds).min()), float((means + 9 * sds).max())
    return [
        integrate.quad(integrand, max(low, 0.0), min(high, 1.0), args=(k,), epsabs=1e-10, limit=200)[0]
        for k in range(len(rows))
    ]


def cases() -> tuple[list[Case], dict[str, float]]:
    """Pairs of ours and theirs, and the errors found on the way."""
    chance = np.random.default_rng(1)
    out: list[Case] = []
    errors: dict[str, float] = {}
    for arms in (2, 3, 10):
        rows = beta_rows(arms)
        errors[f"p_best_{arms}_arms_against_quad"] = float(
            np.abs(best_arm(BETA, rows).p - np.array(scipy_p_best(rows))).max()
        )
        draws = chance.beta(rows[:, 0], rows[:, 1], (10_000, arms))
        counted = np.bincount(draws.argmax(axis=1), minlength=arms) / 10_000
        errors[f"p_best_{arms}_arms_of_10000_draws"] = float(np.abs(counted - best_arm(BETA, rows).p).max())
        out.append(
            (
                f"P(best) and expected loss, {arms} arms",
                lambda rows=rows: best_arm(BETA, rows),
                "scipy.integrate.quad, P(best) only",
                lambda rows=rows: scipy_p_best(rows),
            )
        )
        out.append(
            (
                f"P(best) and expected loss, {arms} arms",
                lambda rows=rows: best_arm(BETA, rows),
                "10,000 numpy draws",
                lambda rows=rows, arms=arms: np.bincount(
                    chance.beta(rows[:, 0], rows[:, 1], (10_000, arms)).argmax(axis=1), minlength=arms
                ),
            )
        )

    def excess(q: float) -> float:
        return float(1000 * (special.rel_entr(0.1, q) + special.rel_entr(0.9, 1 - q)) - 9.9)

    errors["kl_ucb_against_brentq"] = abs(
        kl_ucb_index(0.1, 1000.0, 9.9) - float(optimize.brentq(excess, 0.1, 0.999999, xtol=1e-14))
    )
    out.append(
        (
            "KL-UCB index",
            lambda: kl_ucb_index(0.1, 1000.0, 9.9),
            "scipy.optimize.brentq",
            lambda: optimize.brentq(excess, 0.1, 0.999999, xtol=1e-12),
        )
    )
    p = np.array([0.9, 0.05, 0.03, 0.015, 0.005])
    low, high, w = np.full(5, 0.02), np.array([1.0, 0.5, 0.5, 0.5, 0.5]), np.empty(5)

    def numpy_projection() -> float:
        return float(optimize.brentq(lambda nu: np.clip(nu * p, low, high).sum() - 1, 0, 100, xtol=1e-14))

    out.append(
        (
            "KL projection, 5 arms",
            lambda: project_kl(p, low, high, w),
            "brentq over numpy's clip",
            numpy_projection,
        )
    )
    n = 100_000
    row, slot = np.divmod(np.arange(n, dtype=np.int64), 256)
    q = chance.integers(0, 1 << 30, n)
    cell = chance.integers(0, 20, n)
    marks, outcome = np.ones(n, np.uint16), np.zeros(n, np.uint8)
    pages, ledger = np.zeros((n // 256 + 1, 256), np.uint16), np.zeros((20, 4), np.int64)

    def ours() -> None:
        pages.fill(0)
        outcome.fill(0)
        fold_rewards(row, slot, marks, cell, q, pages, ledger, outcome)

    def theirs() -> None:
        sums = np.zeros((20, 3), np.int64)
        np.add.at(sums[:, 0], cell, 1)
        np.add.at(sums[:, 1], cell, q)
        np.add.at(sums[:, 2], cell, (q * q) >> 30)

    out.append(("fold of 100,000 rewards, marks tested", ours, "np.add.at of three sums, no marks", theirs))
    return out, errors


def main() -> None:
    """Run every pair, interleaved."""
    pairs, errors = cases()
    for _, ours, _, theirs in pairs:
        ours()
        theirs()
    rows = []
    for name, ours, peer, theirs in pairs:
        rounds = [(seconds(ours), seconds(theirs)) for _ in range(ROUNDS)]
        mine, other = (statistics.median(column) for column in zip(*rounds, strict=True))
        ratio = statistics.median(b / a for a, b in rounds)
        rows.append(
            {"case": name, "us": mine * 1e6, "peer": peer, "peer_us": other * 1e6, "times_quicker": ratio}
        )
        sys.stderr.write(
            f"{name:45} {mine * 1e6:10.1f} us   {peer:36} {other * 1e6:12.1f} us   {ratio:8.1f} x\n"
        )
    for name, error in errors.items():
        sys.stderr.write(f"{name:45} {error:.1e}\n")
    machine = {
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "python": platform.python_version(),
        "numba": numba.__version__,
        "numpy": np.__version__,
        "scipy": scipy.__version__,
        "load": os.getloadavg()[0],
    }
    json.dump({"rows": rows, "errors": errors, "rounds": ROUNDS, "machine": machine}, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()

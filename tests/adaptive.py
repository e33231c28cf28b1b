"""Simulated experiments under bandit allocation, as sums per period: the shipped kernels choose the shares."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.inference.terms import pair_terms
from bandit.kernels.best_arm import BETA, compare
from bandit.kernels.intervals import log_better_e
from bandit.kernels.jit import kernel
from bandit.kernels.simplex import project_kl
from bandit.ledger import FloatArray

Marks = NDArray[np.bool_]


class Runs(NamedTuple):
    """R runs of E periods with K arms, arm 0 the control, outcomes 0 or 1: counts and ones [R, E, K], shares
    [R, E, K], and centre [R, E], the control's mean before each period (at first 0.5)."""

    n: FloatArray
    s1: FloatArray
    share: FloatArray
    centre: FloatArray


@kernel
def _run(
    seed: int, means: FloatArray, batch: int, floor: float, n: FloatArray, s1: FloatArray, share: FloatArray
) -> None:
    np.random.seed(seed)  # noqa: NPY002 - the generator of compiled code
    runs, periods, arms = n.shape
    low, high, sure = np.full(arms, floor), np.ones(arms), np.ones(arms)
    for run in range(runs):
        count, ones = np.zeros(arms), np.zeros(arms)
        params, p, loss, w = np.empty((arms, 2)), np.full(arms, 1.0 / arms), np.empty(arms), np.empty(arms)
        for period in range(periods):
            if period > 0:
                for k in range(arms):
                    params[k, 0], params[k, 1] = 1.0 + ones[k], 1.0 + count[k] - ones[k]
                compare(BETA, params, sure, False, p, loss)
            project_kl(p, low, high, w)
            left, rest = batch, 1.0
            for k in range(arms):
                got = left if k == arms - 1 else np.random.binomial(left, min(w[k] / rest, 1.0))  # noqa: NPY002
                hits = np.random.binomial(got, means[period, k])  # noqa: NPY002
                left, rest = left - got, max(rest - w[k], 1e-12)
                n[run, period, k], s1[run, period, k], share[run, period, k] = got, hits, w[k]
                count[k] += got
                ones[k] += hits


def bandit_runs(
    seed: int,
    runs: int,
    means: FloatArray | list[float],
    *,
    periods: int = 50,
    batch: int = 200,
    floor: float = 0.01,
) -> Runs:
    """Thompson sampling by P(best), Beta(1, 1) priors, KL-projected on the floor; ``means`` [K] or [E, K]."""
    wide = np.array(np.broadcast_to(np.asarray(means, np.float64), (periods, np.shape(means)[-1])))
    n, s1, share = (np.zeros((runs, periods, wide.shape[1])) for _ in range(3))
    _run(seed, wide, batch, floor, n, s1, share)
    before, hits = (np.cumsum(each[:, :, 0], axis=1) - each[:, :, 0] for each in (n, s1))
    centre = np.where(before > 0, hits / np.maximum(before, 1), 0.5)
    return Runs(n, s1, share, centre)


def terms_so_far(runs: Runs, k: int = 1, j: int = 0) -> FloatArray:
    """[R, E, 6] the report's terms of a pair of arms after each period."""
    centre = runs.centre[..., None]
    sums = runs.s1 - runs.n * centre
    squares = runs.s1 - 2.0 * centre * runs.s1 + runs.n * centre**2
    found: FloatArray = np.cumsum(pair_terms(runs.n, sums, squares, runs.share, [(k, j)])[:, :, 0], axis=1)
    return found


@kernel
def leaves_out(
    s: FloatArray, v: FloatArray, truth: FloatArray, level: float, rhos: FloatArray, c: float
) -> Marks:
    """[R, E] does the exact interval of S +- u(V) leave ``truth`` out? As ``overlap_bound`` says, by one evaluation
    where it is near: no mixture is above exp(S^2 / (2 V))."""
    out = np.zeros(s.shape, np.bool_)
    for run in range(s.shape[0]):
        for look in range(s.shape[1]):
            off = abs(s[run, look] - truth[run, look])
            if off * off >= 2.0 * level * v[run, look]:
                out[run, look] = log_better_e(off, v[run, look], rhos, c) >= level
    return out

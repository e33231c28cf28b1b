"""Catastrophe in the latest rewards: a hard count between two looks of the e-processes, for what cannot wait.

For each run of consecutive periods that ends at one of the newest REACH with outcomes, and is just long enough for
50, 100 or 200 of them, it asks how likely that many bad ones are at the limit. It trips when that chance is at most
``tail``: 7 of 50, 9 of 100, 13 of 200 at a limit of 1 per cent and a tail of 1e-6.

It is the one guardrail outside the lifetime bound: each look at a run spends up to ``tail``. It keeps its part of
alpha by priority like the others, and that pays for alpha_part / (3 tail) allocations of an arm exactly at its
limit; an arm at half its limit spends about a hundredth of that. Measured: an arm exactly at a limit of 1 per cent
trips in 1 of 300 runs of 60,000 rewards in 1,000 periods, at half the limit in none.

Older runs are looked at again on purpose: where silence is good their counts only grow, so a run spends its tail
once, and outcomes that come late still count.
"""

from __future__ import annotations

import math

import numpy as np

from bandit.guardrails.base import CANNOT_TELL, COLUMNS, Evidence, Levels, Pair
from bandit.guardrails.evidence import Outcomes
from bandit.kernels.confseq import least_count, log_binomial_tails, rarest_run
from bandit.ledger import FloatArray
from bandit.spec.model import Guardrail

RUNS = np.array([50.0, 100.0, 200.0])
REACH = COLUMNS // 3


class Breaker:
    """Columns: number, outcomes and bad outcomes of the newest REACH periods with outcomes, newest first."""

    def accumulate(
        self, guardrail: Guardrail, before: FloatArray, mature: Outcomes, pair: Pair
    ) -> FloatArray:
        """The newest REACH of the periods in ``before`` and of the mature ones."""
        del guardrail
        return _newest(before, mature, pair.arm)

    def weigh(
        self, guardrail: Guardrail, sums: FloatArray, young: Outcomes, pair: Pair, levels: Levels
    ) -> Evidence:
        """Rarest run against the limit. Safe: the newest full run of mature periods shows a share that a
        catastrophe, the share that trips a run of that length, would show with a chance of at most exp(-safe)."""
        assert guardrail.limit is not None
        periods = (_newest(sums, young, pair.arm) if young.counts_young else sums).reshape(REACH, 3)
        log_tail, n, bad = rarest_run(
            np.ascontiguousarray(periods[:, 1]), np.ascontiguousarray(periods[:, 2]), RUNS, guardrail.limit
        )
        log_e_safe = _log_e_safe(sums.reshape(REACH, 3), guardrail.limit, math.log(guardrail.tail))
        arrived = young.arrived[:, pair.arm].sum() if young.counts_young else 0.0
        return Evidence(
            seen=bool(sums.reshape(REACH, 3)[:, 1].sum() > 0.0 or arrived > 0.0),
            log_e=max(0.0, -log_tail),
            log_threshold=-math.log(guardrail.tail),
            log_e_safe=log_e_safe,
            n=n,
            n_control=0.0,
            observed=bad / n if n else 0.0,
            reference=guardrail.limit,
            more=float(RUNS[0] - n) if n < RUNS[0] else CANNOT_TELL,
        )


def _newest(before: FloatArray, more: Outcomes, arm: int) -> FloatArray:
    """[COLUMNS] the newest REACH of both; periods without outcomes take no room."""
    rows = np.vstack(
        [before.reshape(REACH, 3), np.column_stack([more.number, more.n[:, arm], more.bad[:, arm]])]
    )
    rows = rows[rows[:, 1] > 0.0]
    rows = rows[np.argsort(-rows[:, 0], kind="stable")][:REACH]
    after = np.zeros((REACH, 3))
    after[: len(rows)] = rows
    return after.reshape(COLUMNS)


def _log_e_safe(periods: FloatArray, limit: float, log_tail: float) -> float:
    """-ln of the chance of so few bad outcomes in the newest full run, were the share what trips such a run."""
    n, bad = np.cumsum(periods[:, 1]), np.cumsum(periods[:, 2])
    full = [int(np.searchsorted(n, run)) for run in RUNS if n[-1] >= run]
    if not full:
        return 0.0
    run_n, run_bad = float(n[full[-1]]), float(bad[full[-1]])
    catastrophe = least_count(run_n, limit, log_tail) / run_n
    if catastrophe >= 1.0:
        return 0.0
    return -log_binomial_tails(run_bad + 1.0, run_n, catastrophe)[1]

"""Share of bad outcomes against a fixed limit, at any number of looks; it compares with no other arm."""

from __future__ import annotations

import math

import numpy as np

from bandit.guardrails.base import CANNOT_TELL, COLUMNS, Evidence, Levels, Pair
from bandit.guardrails.evidence import Outcomes
from bandit.kernels.confseq import log_rate_above, log_rate_below
from bandit.ledger import FloatArray
from bandit.spec.model import Guardrail

# Pseudo-outcomes of the mixed priors: 10 sees a catastrophe in three outcomes, 1,000 an excess of a fifth.
STRENGTHS = np.array([10.0, 100.0, 1000.0])
TYPICAL_STRENGTH = 100.0
FARTHEST = 1e9

N, BAD, ARRIVED = range(3)


class RateLimit:
    """Null of FAIL: the arm's bad share is at most the limit, whatever its drift; of PASS: at least the limit.

    Columns: outcomes, bad ones, rewards among them. Harm counts young periods where that is sound (see
    ``Outcomes.counts_young``); safety counts mature periods only. Evidence are the e-processes
    ``log_rate_above`` and ``log_rate_below``.
    """

    def accumulate(
        self, guardrail: Guardrail, before: FloatArray, mature: Outcomes, pair: Pair
    ) -> FloatArray:
        """``before`` with the arm's outcomes in mature periods added."""
        del guardrail
        after = before.copy()
        after[N] += mature.n[:, pair.arm].sum()
        after[BAD] += mature.bad[:, pair.arm].sum()
        after[ARRIVED] += mature.arrived[:, pair.arm].sum()
        return after

    def weigh(
        self, guardrail: Guardrail, sums: FloatArray, young: Outcomes, pair: Pair, levels: Levels
    ) -> Evidence:
        """Evidence that the bad share is above, and that it is below, the limit."""
        assert guardrail.limit is not None
        limit = guardrail.limit
        now = np.zeros(COLUMNS)
        if young.counts_young:
            now = self.accumulate(guardrail, now, young, pair)
        n, bad = float(sums[N] + now[N]), float(sums[BAD] + now[BAD])
        log_e = log_rate_above(bad, n, limit, STRENGTHS)
        log_e_safe = log_rate_below(float(sums[BAD]), float(sums[N]), limit, STRENGTHS)
        observed = bad / n if n else 0.0
        return Evidence(
            seen=bool(sums[N] > 0 or now[ARRIVED] > 0),
            log_e=log_e,
            log_threshold=levels.fail,
            log_e_safe=log_e_safe,
            n=n,
            n_control=0.0,
            observed=observed,
            reference=limit,
            more=rewards_more(observed, n, limit, levels),
        )


def rewards_more(observed: float, n: float, limit: float, levels: Levels) -> float:
    """About how many rewards more decide, if the bad share stays ``observed``: [level + ln(1 + n/k)/2] / kl - n."""
    divergence = _kl(observed, limit)
    level = levels.fail if observed > limit else levels.safe
    if n <= 0.0 or divergence * FARTHEST < level:
        return CANNOT_TELL
    needed = level / divergence
    for _ in range(20):
        needed = (level + 0.5 * math.log1p(needed / TYPICAL_STRENGTH)) / divergence
    return max(needed - n, 1.0)


def _kl(p: float, q: float) -> float:
    """Divergence of Bernoulli(p) from Bernoulli(q), 0 < q < 1."""
    left = p * math.log(p / q) if p > 0.0 else 0.0
    right = (1.0 - p) * math.log((1.0 - p) / (1.0 - q)) if p < 1.0 else 0.0
    return max(left + right, 0.0)

"""Catastrophe in the latest rewards: a hard count between two looks of the e-processes, for what cannot wait.

For each run of consecutive periods that ends at one of the newest REACH with outcomes, and is just long enough
for 50, 100 or 200 of them, it asks how likely that many bad ones are at the limit. It trips when that chance is
at most ``tail``: 7 of 50, 9 of 100, 13 of 200 at a limit of 1 per cent and a tail of 1e-6.

It is the one guardrail outside the lifetime bound: each look at a run spends up to ``tail``. It keeps its part
of alpha by priority like the others, and that pays for alpha_part / (3 tail) allocations of an arm exactly at
its limit; an arm at half its limit spends about a hundredth of that. Measured: an arm exactly at a limit of 1
per cent trips in 1 of 300 runs of 60,000 rewards in 1,000 periods, at half the limit in none.

Older runs are looked at again on purpose: where silence is good their counts only grow, so a run spends its
tail once, and outcomes that come late still count. Safe: the newest full run of mature periods shows a share
that a catastrophe, the share that trips a run of that length, would show with a chance of at most exp(-safe).
"""

from __future__ import annotations

import math

import numpy as np

from bandit.guardrails.rate_limit import RateLimit
from bandit.kernels import watch
from bandit.ledger import FloatArray
from bandit.spec.model import ExperimentSpec, Guardrail


class Breaker(RateLimit):
    """See the module."""

    averages = False

    def code(self, spec: ExperimentSpec, guardrail: Guardrail) -> int:
        """BREAKER."""
        del spec, guardrail
        return watch.BREAKER

    def params(self, spec: ExperimentSpec, guardrail: Guardrail) -> FloatArray:
        """The limit and ln of the tail."""
        del spec
        assert guardrail.limit is not None
        return np.array([guardrail.limit, math.log(guardrail.tail), 0.0, 0.0])

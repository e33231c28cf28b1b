"""The level may do anything and the differences may change: each arm by its mean difference over the traffic so far.

For each arm the strata (neighbouring periods, merged until both have enough values) that it shares with the control:
difference d_k = sum W_e (xbar_ek - xbar_e0) / sum W_e with W_e all traffic of the stratum; variance of the arm's part
v sum W_e^2 / n_ek / (sum W_e)^2. An arm without values in a stratum does not lose the stratum's weight, it leaves the
stratum out, and so does the control when compared with it. Traffic, not information, weighs the strata: that is the
effect on the traffic, whatever the shares were (post-stratification, Holt and Smith 1979; Qin and Russo 2022).
"""

from __future__ import annotations

import numpy as np

from bandit.baselines.base import Belief, Evidence, variance
from bandit.baselines.contrast import (
    LEAST_VARIANCE,
    VARIANCE_GUESS,
    Contrast,
    believe,
    gather,
    levelled,
    prior_variance,
)
from bandit.facts import streams
from bandit.ledger import FloatArray
from bandit.spec.channels import ChannelKind
from bandit.spec.metric import MetricKind

COMPARED = frozenset(
    {
        MetricKind.BERNOULLI,
        MetricKind.FRACTION,
        MetricKind.GAUSSIAN,
        MetricKind.POISSON,
        MetricKind.EXPONENTIAL,
        MetricKind.REVENUE,
        MetricKind.LOGNORMAL,
    }
)
"""Kinds with one stream; ratings and ratios are compared as the contrast baseline does."""


class Stratified:
    """Normal beliefs from strata."""

    def beliefs(self, evidence: Evidence) -> tuple[Belief, ...]:
        """See Baseline."""
        spec = evidence.spec
        rest = any(metric.kind not in COMPARED for metric in spec.metrics)
        others = Contrast().beliefs(evidence) if rest else ()
        made = []
        for index, metric in enumerate(spec.metrics):
            if metric.kind in COMPARED:
                value = evidence.reading.channel(index)
                made.append(believe(value.n, levelled(metric, value, *_differences(evidence, index))))
            else:
                made.append(others[index])
        return tuple(made)


def _differences(evidence: Evidence, index: int) -> tuple[FloatArray, FloatArray]:
    """(difference from the control, its part of the variance) [K]."""
    spec, metric = evidence.spec, evidence.spec.metrics[index]
    kind = ChannelKind.LOG if metric.kind is MetricKind.LOGNORMAL else ChannelKind.VALUE
    stream = next(
        each for each in streams(spec) if each.channel.kind is kind and each.channel.metric == index
    )
    made = gather(evidence, stream, strata=True)
    sums = evidence.reading.channel(spec.columns[stream.channel])
    total = float(sums.n.sum())
    of_one = max(float(sums.n @ variance(sums)) / total, LEAST_VARIANCE) if total > 0.0 else VARIANCE_GUESS
    weight, own, other, spread, spread_control = made.strata
    seen = weight > 0.0
    safe = np.where(seen, weight, 1.0)
    delta = np.where(seen, (own - other) / safe, 0.0)
    prior = 0.5 * prior_variance(metric, of_one)
    control = spec.control_index
    whole = of_one * float(evidence.effects[index])
    parts, shared = whole * spread / safe**2, whole * spread_control / safe**2
    # A normal prior of mean 0 on each difference: it shrinks the difference and its variance alike.
    pulled = np.where(seen, 2.0 * prior / (2.0 * prior + parts + shared), 0.0)
    delta = pulled * delta
    out = np.where(seen, pulled * parts, prior)
    rivals = seen & (np.arange(len(seen)) != control)
    out[control] = float(np.median((shared * pulled)[rivals])) if rivals.any() else prior
    delta[control] = 0.0
    return delta, out

"""Nothing moves but by chance: all periods are pooled, each metric has its own family's posterior.

Wrong where the level of all arms drifts while shares move: arms whose share grows have younger values (Simpson 1951).
"""

from __future__ import annotations

from bandit.baselines.base import Belief, Evidence
from bandit.posteriors import POSTERIORS
from bandit.reading import metric_sums


class Stationary:
    """Conjugate posteriors of pooled sums."""

    def beliefs(self, evidence: Evidence) -> tuple[Belief, ...]:
        """See Baseline."""
        spec, reading = evidence.spec, evidence.reading
        made = []
        for index, metric in enumerate(spec.metrics):
            posterior = POSTERIORS[metric.kind]
            sums = metric_sums(spec, reading, index)
            params = posterior.parameters(metric, sums, spec.priors(index))
            n = sums.value.n if sums.denominator is None else sums.denominator.n
            made.append(Belief(posterior, params, n))
        return tuple(made)

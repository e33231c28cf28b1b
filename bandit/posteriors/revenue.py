"""Mean of a revenue, mostly 0 and sometimes large: normal-inverse-gamma on the raw values, cut at ``winsorize``.

The mean of what was paid is what is decided on: it needs no shape of the tail, which a log-normal of the payments would
get wrong just where the money is. Its variance is known only from payments, so that of all arms counts for an arm as
if FEW payments had shown it: an arm of fifty requests without any has not shown that it varies little.
"""

from __future__ import annotations

from collections.abc import Sequence

from bandit.ledger import FloatArray
from bandit.posteriors.arms import StudentMeans
from bandit.posteriors.base import Stated, pooled_mean
from bandit.posteriors.gaussian import A0, nig, pooled_variance
from bandit.reading import MetricSums
from bandit.spec.model import Metric, Prior

FEW = 30.0
"""Payments of an arm from which on its own variance counts most; below them normal theory does not hold either."""
STRENGTH = 1.0
"""Without a prior the mean is believed near that of all arms, as if one payment's worth of requests had said so."""


class Revenue(StudentMeans):
    """Parameters (location, scale, degrees of freedom) [K, 3]."""

    def parameters(self, metric: Metric, sums: MetricSums, priors: Sequence[Prior | None] = ()) -> FloatArray:
        """See Posterior."""
        n, s1, s2 = sums.value
        paid = (float((n if sums.log is None else sums.log.n).sum()) + 1.0) / (float(n.sum()) + 1.0)
        said = Stated(metric, priors, n.size)
        m0, k0 = said.mean_or(pooled_mean(n, s1)), said.strength_or(STRENGTH / min(paid, 1.0))
        a0 = max(A0, 0.5 * FEW / min(paid, 1.0))
        return nig(n, s1, s2, m0, k0, a0, a0 * pooled_variance(n, s1, s2))

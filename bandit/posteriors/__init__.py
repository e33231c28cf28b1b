"""Posteriors by metric kind: a new kind is one file and one line here."""

from bandit.posteriors.base import Posterior
from bandit.posteriors.bernoulli import Bernoulli
from bandit.posteriors.exponential import Exponential
from bandit.posteriors.fraction import Fraction
from bandit.posteriors.gaussian import Gaussian
from bandit.posteriors.hurdle import Hurdle
from bandit.posteriors.lognormal import Lognormal
from bandit.posteriors.poisson import Poisson
from bandit.posteriors.rating import Rating
from bandit.posteriors.ratio import Ratio
from bandit.posteriors.revenue import Revenue
from bandit.spec.model import MetricKind

POSTERIORS: dict[MetricKind, Posterior] = {
    MetricKind.BERNOULLI: Bernoulli(),
    MetricKind.FRACTION: Fraction(),
    MetricKind.GAUSSIAN: Gaussian(),
    MetricKind.POISSON: Poisson(),
    MetricKind.EXPONENTIAL: Exponential(),
    MetricKind.LOGNORMAL: Lognormal(),
    MetricKind.REVENUE: Revenue(),
    MetricKind.RATING: Rating(),
    MetricKind.RATIO: Ratio(),
}

SECOND: dict[MetricKind, Posterior] = {MetricKind.REVENUE: Hurdle()}
"""Beliefs that are reported beside the first, for kinds where another model may say something else."""

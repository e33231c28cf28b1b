"""Posteriors by metric kind: a new kind is one file and one line here."""

from bandit.posteriors.base import Posterior
from bandit.posteriors.bernoulli import Bernoulli
from bandit.posteriors.gaussian import Gaussian
from bandit.spec.model import MetricKind

POSTERIORS: dict[MetricKind, Posterior] = {
    MetricKind.BERNOULLI: Bernoulli(),
    MetricKind.GAUSSIAN: Gaussian(),
}

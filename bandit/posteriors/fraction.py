"""Mean of a fraction: Beta(a0 + S1, b0 + n - S1), where a value of 0.3 is 0.3 of a success and 0.7 of a failure.

Wider than the values deserve, since no distribution on [0, 1] of mean m varies more than a coin; never narrower. The
values are not drawn to 0 or 1 first (Agrawal and Goyal 2012 do so for a proof): that would only add noise.
"""

from __future__ import annotations

from bandit.posteriors.bernoulli import Bernoulli


class Fraction(Bernoulli):
    """Parameters (a, b) [K, 2] and priors as for a rate."""

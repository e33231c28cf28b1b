"""Anytime-valid intervals of one arm's rate, quantile or mean, for display; no decision is taken on them.

An interval holds every value that its e-process has not refuted: valid at any number of looks for undecayed sums of one
arm whose mean stays what it is (Waudby-Smith & Ramdas 2020, prior-posterior ratio; Howard & Ramdas 2022, quantiles).
"""

from __future__ import annotations

import math

from bandit.kernels.confseq import log_mass_above
from bandit.kernels.jit import kernel

STEPS = 200


@kernel
def log_beta_mass(a: float, b: float, p: float, q: float) -> float:
    """ln B(a, b) - a ln p - b ln q for p + q = 1, without taking anything large from something large."""
    above, below = log_mass_above(a, b, p, q), log_mass_above(b, a, q, p)
    top = max(above, below)
    return top + math.log(math.exp(above - top) + math.exp(below - top))


@kernel
def log_rate_ratio(bad: float, n: float, p: float, a: float, b: float) -> float:
    """ln of prior over posterior at p, both Beta: ln B(a+s, b+n-s) - ln B(a, b) - s ln p - (n-s) ln(1-p), 0 < p < 1.

    It is the two-sided e-process against "the rate is p", of ``bad`` = s in [0, n].
    """
    q = 1.0 - p
    return log_beta_mass(a + bad, b + n - bad, p, q) - log_beta_mass(a, b, p, q)


@kernel
def rate_interval(bad: float, n: float, a: float, b: float, level: float) -> tuple[float, float]:
    """The rates that are not refuted at ``level`` = ln(1/alpha), by the prior Beta(a, b): Jeffreys 1/2, 1/2."""
    if n <= 0.0:
        return 0.0, 1.0
    peak = min(max(bad / n, 1e-300), 1.0 - 2.0**-53)
    low = 0.0 if bad <= 0.0 else _edge(bad, n, a, b, level, peak, math.log(1e-300))
    high = 1.0 if bad >= n else 1.0 - _edge(n - bad, n, b, a, level, 1.0 - peak, math.log(1e-300))
    return low, high


@kernel
def _edge(bad: float, n: float, a: float, b: float, level: float, peak: float, lowest: float) -> float:
    """The lower end, by bisection on ln p between ``lowest`` and ln of the ``peak``."""
    low, high = lowest, math.log(peak)
    for _ in range(STEPS):
        middle = 0.5 * (low + high)
        if middle in (low, high):
            break
        if log_rate_ratio(bad, n, math.exp(middle), a, b) < level:
            high = middle
        else:
            low = middle
    return math.exp(high)


@kernel
def quantile_ranks(n: float, p: float, a: float, b: float, level: float) -> tuple[float, float]:
    """Least and most count of outcomes at or below the p-quantile that is not refuted at ``level`` = ln(1/alpha).

    The interval of the quantile is from the low-th to the (high + 1)-th smallest outcome, open where there is none;
    from a histogram: the lower end rounded down to an edge, the upper one up. Prior Beta(a, b), best near p : 1 - p.
    """
    best = min(max(math.floor(n * p + 0.5), 0.0), n)
    if log_rate_ratio(best, n, p, a, b) >= level:
        return best, best
    low, high = -1.0, best
    while high - low > 1.0:
        middle = math.floor(0.5 * (low + high))
        if log_rate_ratio(middle, n, p, a, b) < level:
            high = middle
        else:
            low = middle
    least = high
    low, high = best, n + 1.0
    while high - low > 1.0:
        middle = math.floor(0.5 * (low + high))
        if log_rate_ratio(middle, n, p, a, b) < level:
            low = middle
        else:
            high = middle
    return least, low


@kernel
def asymptotic_rho2(alpha: float, n: float, two_sided: bool) -> float:
    """rho^2 of most power after n terms: (-W_{-1}(-a^2 / e) - 1) / n, a = alpha, or 2 alpha for one side."""
    a = alpha if two_sided else 2.0 * alpha
    target = 1.0 - 2.0 * math.log(a)
    y = target + math.log(target) + 1.0
    for _ in range(STEPS):
        step = (y - math.log(y) - target) / (1.0 - 1.0 / y)
        y -= step
        if abs(step) <= 1e-15 * y:
            break
    return (y - 1.0) / n


@kernel
def asymptotic_half_width(n: float, sd: float, alpha: float, rho2: float, two_sided: bool) -> float:
    """Half-width of the asymptotic interval of a mean of n terms (Waudby-Smith et al. 2024), r = rho^2: two-sided
    sd sqrt(2 (n r + 1) / (n^2 r) ln(sqrt(n r + 1) / alpha)), one-sided with ln(1 + sqrt(n r + 1) / (2 alpha)).

    Wrong early for skewed terms: ask for n >= 355 skewness^2 and 50 events before.
    """
    grown = n * rho2 + 1.0
    spent = math.log(math.sqrt(grown) / alpha) if two_sided else math.log1p(math.sqrt(grown) / (2.0 * alpha))
    return sd * math.sqrt(2.0 * grown / (n * n * rho2) * spent)


def warm() -> None:
    """Compile for the types that reports use."""
    rate_interval(1.0, 2.0, 0.5, 0.5, 3.0)
    quantile_ranks(4.0, 0.5, 0.5, 0.5, 3.0)
    asymptotic_half_width(2.0, 1.0, 0.05, asymptotic_rho2(0.05, 2.0, True), True)

"""Logarithms of e-processes and binomial tails as functions of sums alone; it keeps no state and never decides.

Each is a ratio of integrals of exp(concave), all of them summed by the same rule: march outwards from the peak in
panels that double (at most 2 long), 20 Gauss-Legendre nodes each, until the rest is below exp(-46) of the peak or
exactly exponential. No incomplete beta or gamma function is needed, nothing large is subtracted from something
large, and sums up to 1e12 stay finite. Agrees with 40-digit values to 1e-10.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel

LOGIT, GAMMA, GAMMA_LEFT, GAMMA_RIGHT = 0, 1, 2, 3
PANELS = 2000
LONGEST = 2.0
DEPTH = 46.0
NEGLIGIBLE = 1e-17

_LEGENDRE = np.polynomial.legendre.leggauss(20)
NODES = (_LEGENDRE[0] + 1.0) / 2.0
WEIGHTS = _LEGENDRE[1] / 2.0


@kernel
def _fall(shape: int, d: float, a: float, b: float, p: float, q: float) -> float:
    """Logarithm of the integrand at distance d >= 0 from where the march begins, relative to there.

    LOGIT: -a d - b ln(p + q exp(-d)), p + q = 1. GAMMA: -a d + b (1 - exp(-d)). GAMMA_LEFT: -a (exp(d) - 1 - d).
    GAMMA_RIGHT: a d - b (exp(d) - 1), a <= b.
    """
    if shape == LOGIT:
        if d < 0.5:
            return -a * d - b * math.log1p(q * math.expm1(-d))
        return -a * d - b * math.log(p + q * math.exp(-d))
    if shape == GAMMA:
        return -a * d - b * math.expm1(-d)
    if shape == GAMMA_RIGHT:
        return a * d - b * math.expm1(d)
    return -a * (math.expm1(d) - d)


@kernel
def _bend(shape: int, a: float, b: float, p: float, q: float) -> float:
    """1 / length over which the integrand falls by about e at the start."""
    if shape == LOGIT:
        return abs(a - b * q) + math.sqrt(b * p * q)
    if shape in (GAMMA, GAMMA_RIGHT):
        return abs(a - b) + math.sqrt(abs(b))
    return math.sqrt(a)


@kernel
def _outward(shape: int, limit: float, a: float, b: float, p: float, q: float) -> float:
    """Integral of exp(_fall) over [0, limit], which may be infinite; the tail slope of LOGIT and GAMMA is -a."""
    total, start = 0.0, 0.0
    step = min(LONGEST, 1.0 / max(_bend(shape, a, b, p, q), 1e-3))
    for _ in range(PANELS):
        end = min(start + step, limit)
        width = end - start
        for i in range(NODES.size):
            total += width * WEIGHTS[i] * math.exp(_fall(shape, start + width * NODES[i], a, b, p, q))
        start = end
        if start >= limit:
            break
        fallen = _fall(shape, start, a, b, p, q)
        if fallen < -DEPTH:
            break
        if shape in (LOGIT, GAMMA):
            rest = math.exp(-start) * (b * q / p if shape == LOGIT else abs(b))
            if rest < NEGLIGIBLE:
                tail = math.exp(fallen) / a
                if limit < math.inf:
                    tail *= -math.expm1(-a * (limit - start))
                total += tail
                break
        step = min(2.0 * step, LONGEST)
    return total


@kernel
def log_mass_above(a: float, b: float, p: float, q: float) -> float:
    """ln of the integral of x^(a-1) (1-x)^(b-1) over [p, 1], divided by p^a q^b; a, b > 0, p + q = 1.

    In logit x the integrand is log-concave with its peak at x = a/(a+b); below p the integral starts downhill.
    """
    n = a + b
    ahead = a * q - b * p
    if ahead <= 0.0:
        return math.log(_outward(LOGIT, math.inf, b, n, p, q))
    gap = ahead / n
    at_p, at_q = a / n, b / n
    left = math.log1p(gap / p)
    right = math.log1p(-gap / q) if gap < 0.5 * q else math.log(at_q / q)
    mass = _outward(LOGIT, math.inf, b, n, at_p, at_q) + _outward(LOGIT, left - right, a, n, at_q, at_p)
    return a * left + b * right + math.log(mass)


@kernel
def log_rate_above(bad: float, n: float, limit: float, strengths: NDArray[np.float64]) -> float:
    """ln E against "the rate is at most ``limit``", which lies in (0, 1).

    ``bad`` in [0, n] is a sum of outcomes in [0, 1]. E is the mean over k in ``strengths`` [J] of the mixtures of
    likelihood ratios by Beta(k limit, k (1 - limit)) restricted to the far side of the limit:
    B(a+s, b+n-s) (1 - I_p(a+s, b+n-s)) / [B(a, b) (1 - I_p(a, b)) p^s (1-p)^(n-s)]. Whatever the order, the peeking
    and the drift of a rate that keeps the limit, P(E >= 1/alpha ever) <= alpha (Robbins 1970; Howard et al. 2021).
    """
    return _log_rate(bad, n - bad, limit, 1.0 - limit, strengths)


@kernel
def log_rate_below(bad: float, n: float, limit: float, strengths: NDArray[np.float64]) -> float:
    """ln E against "the rate is at least ``limit``"; the mirror of :func:`log_rate_above`."""
    return _log_rate(n - bad, bad, 1.0 - limit, limit, strengths)


@kernel
def _log_rate(hit: float, miss: float, p: float, q: float, strengths: NDArray[np.float64]) -> float:
    values = np.empty(strengths.size)
    for i in range(strengths.size):
        a, b = strengths[i] * p, strengths[i] * q
        values[i] = log_mass_above(a + hit, b + miss, p, q) - log_mass_above(a, b, p, q)
    return log_mean_exp(values)


@kernel
def _log_count_mass(t: float, x: float) -> float:
    """ln of the integral of exp(t z - x (exp(z) - 1)) over z in [0, inf), t and x > 0.

    It equals Gamma(t) Q(t, x) x^-t exp(x), Q the regularised upper incomplete gamma function.
    """
    if t <= x:
        return math.log(_outward(GAMMA_RIGHT, math.inf, t, x, 1.0, 0.0))
    u = (t - x) / x
    peak = math.log1p(u)
    mass = _outward(GAMMA_RIGHT, math.inf, t, t, 1.0, 0.0) + _outward(GAMMA, peak, t, t, 1.0, 0.0)
    return t * peak - (t - x) + math.log(mass)


@kernel
def log_count_above(count: float, expected: float, strengths: NDArray[np.float64]) -> float:
    """ln E against "events come at the limiting rate at most", ``expected`` = limit times exposure, ``count`` of them.

    E is the mean over a in ``strengths`` [J], pseudo-events, of the mixtures of Poisson likelihood ratios by
    Gamma(a, rate a / limit) restricted to rates above the limit: with J(t, x) = Gamma(t) Q(t, x) x^-t exp(x) it is
    J(a + count, a + expected) / J(a, a). Exact for counts whose moment generating function is at most the Poisson's,
    so also for sums of 0s and 1s and for counts cut at a cap (Howard et al. 2021, gamma-exponential family).
    """
    values = np.empty(strengths.size)
    for i in range(strengths.size):
        a = strengths[i]
        values[i] = _log_count_mass(a + count, a + expected) - _log_count_mass(a, a)
    return log_mean_exp(values)


@kernel
def log_count_below(count: float, expected: float, strengths: NDArray[np.float64]) -> float:
    """ln E against "events come at the limiting rate at least"; the mirror of :func:`log_count_above`."""
    values = np.empty(strengths.size)
    for i in range(strengths.size):
        a = strengths[i]
        values[i] = _log_gamma_mass(a + count, expected - count) - _log_gamma_mass(a, 0.0)
    return log_mean_exp(values)


@kernel
def log_mean_exp(values: NDArray[np.float64]) -> float:
    """ln of the mean of exp(values) [J]."""
    top = float(values.max())
    if top == -math.inf:
        return top
    total = 0.0
    for i in range(values.size):
        total += math.exp(values[i] - top)
    return top + math.log(total / values.size)


@kernel
def log_binomial_tails(count: float, n: float, p: float) -> tuple[float, float]:
    """(ln P(X >= count), ln P(X < count)) for X binomial(n, p), 0 < p < 1, by I_p(count, n - count + 1)."""
    if count <= 0.0:
        return 0.0, -math.inf
    if count > n:
        return -math.inf, 0.0
    q = 1.0 - p
    above = log_mass_above(count, n - count + 1.0, p, q)
    below = log_mass_above(n - count + 1.0, count, q, p)
    top = max(above, below)
    whole = top + math.log(math.exp(above - top) + math.exp(below - top))
    return below - whole, above - whole


@kernel
def least_count(n: float, p: float, log_tail: float) -> float:
    """The least whole count m with ln P(binomial(n, p) >= m) <= log_tail; above n when none is."""
    low, high = 0.0, math.floor(n) + 1.0
    while high - low > 1.0:
        middle = math.floor((low + high) / 2.0)
        if log_binomial_tails(middle, n, p)[0] <= log_tail:
            high = middle
        else:
            low = middle
    return high


@kernel
def _least_log_tail(count: float, n: float, p: float) -> float:
    """A lower bound of ln P(binomial(n, p) >= count), 0 without an excess over p: the exact one costs 16 us, this 0.1.

    One term of the sum is at least exp(-n kl(count/n, p)) / sqrt(8 count (1 - count/n)) (Ash 1965, lemma 4.7.2).
    """
    if count <= n * p:
        return 0.0
    rate = count / n
    least = -count * math.log(rate / p)
    if count < n:
        least -= (n - count) * math.log((1.0 - rate) / (1.0 - p)) + 0.5 * math.log(8.0 * count * (1.0 - rate))
    return least


@kernel
def rarest_run(
    n: NDArray[np.float64], bad: NDArray[np.float64], runs: NDArray[np.float64], limit: float
) -> tuple[float, float, float]:
    """(ln tail, n, bad) of the run of periods whose count of bad outcomes is least likely at the limit.

    ``n``, ``bad`` [R] are outcomes per period, newest first. A run starts at any period and goes back in time until it
    has ``runs`` [W] (ascending) outcomes; only the newest may stop short of that, where the periods end. The tail is
    P(binomial(n, limit) >= bad). Without an excess over the limit anywhere: tail 1 (ln 0) and the newest run.
    """
    best, best_n, best_bad = 0.0, 0.0, 0.0
    for start in range(n.size):
        total, total_bad, wanted = 0.0, 0.0, 0
        for i in range(start, n.size):
            total += n[i]
            total_bad += bad[i]
            if total < runs[wanted] and (start > 0 or i + 1 < n.size):
                continue
            if _least_log_tail(total_bad, total, limit) < best:
                tail = log_binomial_tails(total_bad, total, limit)[0]
                if tail < best:
                    best, best_n, best_bad = tail, total, total_bad
            while wanted < runs.size and total >= runs[wanted]:
                wanted += 1
            if wanted == runs.size:
                break
        if start == 0 and best == 0.0:
            best_n, best_bad = total, total_bad
    return best, best_n, best_bad


@kernel
def _log_gamma_mass(t: float, ahead: float) -> float:
    """ln of the integral of exp(-t z + x (1 - exp(-z))) over z in [0, inf), with x = t + ahead, t > 0.

    It equals Gamma(t) P(t, x) x^-t exp(x), P the regularised lower incomplete gamma function, where x > 0.
    """
    x = t + ahead
    if ahead <= 0.0:
        return math.log(_outward(GAMMA, math.inf, t, x, 1.0, 0.0))
    u = ahead / t
    peak = math.log1p(u)
    mass = _outward(GAMMA, math.inf, t, t, 1.0, 0.0) + _outward(GAMMA_LEFT, peak, t, 0.0, 1.0, 0.0)
    return t * (u - peak) + math.log(mass)


@kernel
def log_overlap_e(total: float, variance: float, rho: float, c: float) -> float:
    """ln of the gamma-exponential mixture of a sum of terms that are each at least -c and of mean at most 0.

    ``total`` S is their sum, ``variance`` V the sum of their squares, ``rho`` > 0 places the power (see
    ``tuned_rho``). With r = rho/c^2, t = (V + rho)/c^2, x = (c S + V + rho)/c^2:
    ln E = r ln r - ln Gamma(r) - ln P(r, r) + ln Gamma(t) + ln P(t, x) - t ln x + (c S + V)/c^2
    (Howard, Ramdas, McAuliffe & Sekhon 2021, proposition 9).
    """
    if variance < 0.0:
        variance = 0.0
    square = c * c
    return _log_gamma_mass((variance + rho) / square, total / c) - _log_gamma_mass(rho / square, 0.0)


@kernel
def log_normal_e(total: float, variance: float, rho: float) -> float:
    """ln of the one-sided normal mixture 2 sqrt(rho/(V+rho)) exp(S^2/(2(V+rho))) Phi(S/sqrt(V+rho)).

    Valid for sub-Gaussian sums with known variance, else only asymptotically (Howard et al. 2021, proposition 6).
    """
    spread = max(variance, 0.0) + rho
    z = total / math.sqrt(spread)
    start = 0.5 * math.log(rho / spread)
    if z > -30.0:
        return start + 0.5 * z * z + math.log(math.erfc(-z / math.sqrt(2.0)))
    # Mills' ratio, five terms: exp(z^2/2) 2 Phi(z) without the underflow of Phi.
    w = 1.0 / (z * z)
    series = 1.0 - w * (1.0 - 3.0 * w * (1.0 - 5.0 * w * (1.0 - 7.0 * w)))
    return start + math.log(math.sqrt(2.0 / math.pi) * series / -z)


def tuned_rho(variance: float, alpha: float) -> float:
    """The rho of most one-sided power when V is ``variance``: V/(L + ln(1 + L)), L = 2 ln(1/(2 alpha))."""
    level = 2.0 * math.log(1.0 / (2.0 * alpha))
    return variance / (level + math.log1p(level))


def warm() -> None:
    """Compile for the types that the judges use."""
    ones = np.ones(1)
    log_rate_above(1.0, 2.0, 0.5, ones)
    log_rate_below(1.0, 2.0, 0.5, ones)
    log_binomial_tails(1.0, 2.0, 0.5)
    least_count(2.0, 0.5, -1.0)
    rarest_run(ones, ones, ones, 0.5)
    log_count_above(1.0, 2.0, ones)
    log_count_below(1.0, 2.0, ones)
    log_overlap_e(0.0, 1.0, 1.0, 1.0)

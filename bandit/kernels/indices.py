"""Optimistic indices as gaps above the mean, and their inverses: at which count an arm's index has come down to a gap.

n pulls, t of all arms, L = ln t, v the variance of one value (population), values in [0, 1]:

    rule        gap of the index above the mean                   source
    UCB1        sqrt(2 L / n)                                     Auer, Cesa-Bianchi & Fischer 2002, fig. 1
    UCB_V       sqrt(2 v Z L / n) + 3 Z L / n, Z = 1.2            Audibert, Munos & Szepesvari 2009, eq. 1 (b = c = 1)
    UCB1_TUNED  sqrt(L / n min(1/4, v + sqrt(2 L / n)))           Auer et al. 2002, sec. 4
    KL          n kl(m, m + gap) = L                              Garivier & Cappe 2011, eq. 3 (c = 0)
    KL_PLUS     n kl(m, m + gap) = ln(t / n)                      Garivier & Cappe 2011, sec. 3 (KL-UCB+)

Values outside [0, 1] must be scaled by their declared range before. Nothing here serves an arg max; see ``fluid``.
"""

from __future__ import annotations

import math

from bandit.kernels.divergence import bernoulli, bernoulli_gap
from bandit.kernels.jit import kernel

UCB1, UCB_V, UCB1_TUNED, KL, KL_PLUS = range(5)

ZETA = 1.2
HIGHEST_VARIANCE = 0.25


@kernel
def gap_at(rule: int, mean: float, variance: float, n: float, t: float) -> float:
    """Gap of the index after ``n`` > 0 of ``t`` > 1 pulls; ``mean`` in [0, 1], ``variance`` in [0, 1/4]."""
    level = math.log(t)
    if rule == UCB1:
        return math.sqrt(2.0 * level / n)
    if rule == UCB_V:
        return math.sqrt(2.0 * variance * ZETA * level / n) + 3.0 * ZETA * level / n
    if rule == UCB1_TUNED:
        each = level / n
        return math.sqrt(each * min(HIGHEST_VARIANCE, variance + math.sqrt(2.0 * each)))
    return bernoulli_gap(mean, (level if rule == KL else max(math.log(t / n), 0.0)) / n)


@kernel
def count_at(rule: int, mean: float, variance: float, gap: float, t: float) -> float:
    """The n at which ``gap_at`` is ``gap`` > 0, falling in ``gap``; 0 where KL rules leave no room for the gap."""
    level = math.log(t)
    if rule == UCB1:
        return 2.0 * level / (gap * gap)
    if rule == UCB_V:
        root = math.sqrt(2.0 * variance)
        y = (
            2.0 * gap / (root + math.sqrt(2.0 * variance + 12.0 * gap))
        )  # of 3 y^2 + sqrt(2 v) y = gap, y^2 = Z L / n
        return ZETA * level / (y * y)
    if rule == UCB1_TUNED:
        y = 2.0 * gap
        if variance + math.sqrt(2.0) * y < HIGHEST_VARIANCE:
            y = _tuned(variance, gap)
        return level / (y * y)
    distance = bernoulli(mean, gap)
    if rule == KL:
        return level / distance
    return _lambert(t * distance) / distance if distance < math.inf else 0.0


@kernel
def _tuned(variance: float, gap: float) -> float:
    """y > 0 of y^2 (variance + sqrt(2) y) = gap^2: Newton on a convex function from above the root."""
    root = math.sqrt(2.0)
    y = (gap * gap / root) ** (1.0 / 3.0)
    if variance > 0.0:
        y = min(y, gap / math.sqrt(variance))
    for _ in range(100):
        after = y - (y * y * (variance + root * y) - gap * gap) / (y * (2.0 * variance + 3.0 * root * y))
        if not 0.0 < after < y * (1.0 - 4e-16):
            break
        y = after
    return float(y)


@kernel
def _lambert(x: float) -> float:
    """w >= 0 of w exp(w) = x >= 0, by Halley's rule (Corless et al. 1996, eq. 5.9)."""
    if x <= 0.0:
        return 0.0
    w = math.log1p(x)
    if x > 3.0:
        w -= math.log(w)
    for _ in range(50):
        e = math.exp(-w)
        off = w - x * e
        step = off / (w + 1.0 - 0.5 * (w + 2.0) * off / (w + 1.0))
        w -= step
        if abs(step) <= 4e-16 * w:
            break
    return w


def warm() -> None:
    """Nothing of its own: ``fluid`` compiles these in."""

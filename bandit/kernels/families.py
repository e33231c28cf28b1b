"""Families of posteriors on an unconstrained coordinate: where their mass lies, how to cut it, and their densities.

    family         parameters [K, 3]             coordinate z    density in z, up to a factor
    NORMAL         mean, sd                      x               exp(-u^2 / 2), u = (z - mean) / sd
    BETA           a, b                          logit x         exp(a z) / (1 + exp(z))^(a + b)
    STUDENT_T      location, scale, df           x               (1 + u^2 / df)^(-(df + 1) / 2)
    GAMMA          shape, rate, sign             ln x            exp(shape z - rate exp(z))
    LOGNORMAL      mean and sd of ln x, sign     ln x            as NORMAL
    INVERSE_GAMMA  shape, rate of 1 / x, sign    ln x            exp(-shape z - rate exp(-z))

The last three are about positive x: with sign -1 (of all arms; a missing one is 1) x is what is better when lower, and
the arms are compared by -x on the coordinate -ln x (``facing``). The loss of INVERSE_GAMMA is good to 1e-6 of the mean
at shape 3, where its tail is heavy, and to 1e-12 from shape 20 on; P(best) always.

On that coordinate each density is smooth and has one peak, from which it only falls; so Gauss-Legendre rules on panels
integrate it, and distribution functions follow from the same nodes through their integration matrix: no incomplete
beta or gamma function, and no loss of digits for parameters up to 1e12. Nothing here compares arms.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.jit import kernel

FloatArray = NDArray[np.float64]

NORMAL, BETA, STUDENT_T, GAMMA, LOGNORMAL, INVERSE_GAMMA = range(6)
GAMMA_DOWN, LOGNORMAL_DOWN, INVERSE_GAMMA_DOWN = range(6, 9)
"""What ``facing`` makes of the last three when their sign is -1: families of -x."""

LOGIT_SIDE, GAMMA_LEFT, GAMMA_RIGHT = range(3)

NODES = 12
X, W = np.polynomial.legendre.leggauss(NODES)
"""Nodes in (-1, 1) and weights."""

CORE, GROWTH, REACH = 1.45, 1.4, 8.5
"""Edges lie at t = 0, then t' = GROWTH t + CORE, up to REACH, where the density is exp(-t^2 / 2) of its peak."""
MOST = 64
"""Most edges on one side of a peak."""
FARTHEST = 1e10
"""Farthest edge of Student's t, in scales: there the tail of 2 degrees of freedom has 1e-20 of the mass."""
SHARPEST = 1e-11
"""Least sd or scale, relative to the span of all arms: below it the grid's rounding would show."""
LEAST_SHAPE, MOST_SHAPE = 1e-6, 1e15
HOTTEST, WIDEST = 600.0, 1e6
"""Greatest z = ln x that is told from larger ones, and greatest mean and sd of it: beyond, x would be infinite."""
LONG = 20.0
"""A panel half as long as this lies in a tail that is a pure exponential."""


def _inside() -> FloatArray:
    """[i, j]: integral from -1 to node j of the polynomial that is 1 at node i and 0 at the others."""
    legendre = np.polynomial.legendre
    values = legendre.legvander(X, NODES - 1)
    degree = 2.0 * np.arange(NODES) + 1.0
    rows = [
        legendre.legval(X, legendre.legint(degree / 2.0 * W[i] * values[i], lbnd=-1)) for i in range(NODES)
    ]
    return np.array(rows)


INSIDE = _inside()


@kernel
def facing(family: int, params: FloatArray) -> int:
    """The family that the rules below take for ``params`` [K, 3]: one of -x where the sign of its first arm is -1.

    The means of LOGNORMAL are turned around in place.
    """
    if params[0, 2] > 0.0 or family not in (GAMMA, LOGNORMAL, INVERSE_GAMMA):
        return family
    if family == GAMMA:
        return GAMMA_DOWN
    if family == INVERSE_GAMMA:
        return INVERSE_GAMMA_DOWN
    for k in range(params.shape[0]):
        params[k, 0] = -params[k, 0]
    return LOGNORMAL_DOWN


@kernel
def _turned(family: int) -> bool:
    """Whether z is minus the logarithm of a gamma variable."""
    return family in (GAMMA_DOWN, INVERSE_GAMMA)


@kernel
def _gamma(family: int) -> bool:
    """Whether the density is that of a gamma variable, on its logarithm or minus that."""
    return family in (GAMMA, GAMMA_DOWN, INVERSE_GAMMA, INVERSE_GAMMA_DOWN)


@kernel
def _falls(family: int) -> bool:
    """Whether x = -exp(-z)."""
    return family in (GAMMA_DOWN, LOGNORMAL_DOWN, INVERSE_GAMMA_DOWN)


@kernel
def tame(family: int, params: FloatArray) -> float:
    """Bring ``params`` [K, 3] into what the rules below can bear, in place; returns the unit of x in the new ones.

    NORMAL and STUDENT_T are shifted to the location of the narrowest arm and divided by the span of all, which moves
    P(best) by nothing and keeps digits; sd 0 becomes SHARPEST. Shapes are kept within [1e-6, 1e15], df within
    [1, 1e12]. 0 is returned for arms that cannot be told apart or compared: no span at all, or not finite.
    """
    arms = params.shape[0]
    used = 3 if family == STUDENT_T else 2
    for k in range(arms):
        for i in range(used):
            if not math.isfinite(params[k, i]):
                return 0.0
    if family == BETA or _gamma(family):
        for k in range(arms):
            for i in range(2):
                params[k, i] = min(max(params[k, i], LEAST_SHAPE), MOST_SHAPE)
        return 1.0
    if family in (LOGNORMAL, LOGNORMAL_DOWN):
        for k in range(arms):
            params[k, 0] = min(max(params[k, 0], -WIDEST), WIDEST)
            params[k, 1] = min(max(abs(params[k, 1]), SHARPEST), WIDEST)
        return 1.0
    return _spread(params)


@kernel
def _spread(params: FloatArray) -> float:
    """``tame`` for NORMAL and STUDENT_T."""
    low, high, widest, narrowest, centre = math.inf, -math.inf, 0.0, math.inf, 0.0
    for k in range(params.shape[0]):
        location, scale = params[k, 0], abs(params[k, 1])
        low, high, widest = min(low, location), max(high, location), max(widest, scale)
        if scale < narrowest or (scale == narrowest and location < centre):
            narrowest, centre = scale, location
    span = high - low + widest
    if not 0.0 < span < math.inf:
        return 0.0
    for k in range(params.shape[0]):
        params[k, 0] = (params[k, 0] - centre) / span
        params[k, 1] = max(abs(params[k, 1]) / span, SHARPEST)
        params[k, 2] = min(max(params[k, 2], 1.0), 1e12)
    return span


@kernel
def _fall(side: int, a: float, b: float, d: float) -> float:
    """How far ln f is below its peak at distance d >= 0 to one side; no cancellation for any a and b."""
    if side == GAMMA_RIGHT:
        return a * (math.expm1(d) - d)
    if side == GAMMA_LEFT:
        return a * (math.expm1(-d) + d)
    # ln(1 + exp z) grows by about p d: taken on the side where p <= 1/2, since 1e9 d - 1e9 d would leave no digits.
    p, q = a / (a + b), b / (a + b)
    if p <= 0.5:
        return (a + b) * math.log1p(p * math.expm1(-d)) + a * d
    if d < 700.0:
        return (a + b) * math.log1p(q * math.expm1(d)) - b * d
    return (a + b) * math.log(q) + a * d


@kernel
def _shaped(side: int, a: float, b: float, distance: FloatArray) -> int:
    """Distances from the peak to one side of BETA or GAMMA into ``distance`` [MOST]; returns how many.

    Each is about where t has its next value, by a parabola through the last. A panel stays shorter than the strip in
    which logit and exp(-exp(z)) are tame (2.5), but grows as far out as the density is a pure exponential.
    """
    p, q, pure = 0.0, 1.0, -math.log(b)
    if side == LOGIT_SIDE:
        p, q, pure = a / (a + b), b / (a + b), -max(math.log(a + b), 0.0)
    ahead = math.log(a) - math.log(b) - pure
    d, fall, n = 0.0, 0.0, 0
    while n < MOST and fall < 0.5 * REACH * REACH:
        t = GROWTH * math.sqrt(2.0 * fall) + CORE
        drop = 0.5 * min(t, REACH + 0.1) ** 2 - fall
        longest = 2.5
        if side == GAMMA_RIGHT:
            steep, bend = a * math.expm1(d), a * math.exp(d)
        else:
            e = math.exp(-d)
            whole = q + p * e
            steep, bend = -a * math.expm1(-d) * q / whole, a * e * q / (whole * whole)
            longest += 0.7 * max(d - ahead, 0.0)
        d += min(2.0 * drop / (steep + math.sqrt(steep * steep + 2.0 * bend * drop)), longest)
        fall = _fall(side, a, b, d)
        distance[n] = d
        n += 1
    return n


@kernel
def _even(family: int, df: float, distance: FloatArray) -> int:
    """Distances from the peak, in sd or scales, to either side of the other families; returns how many.

    Those of Student's t grow by 1.6 at most, since its singularities are at +-i sqrt(df), and go on until the tail
    holds about 1e-11 of the mass and of the mean, or to FARTHEST.
    """
    u, t, n = 0.0, 0.0, 0
    while n < MOST:
        t = min(GROWTH * t + CORE, REACH)
        if family != STUDENT_T:
            distance[n] = t
        else:
            u = min(math.sqrt(df * math.expm1(min(t * t / (df + 1.0), 600.0))), 1.6 * u + 0.5 * math.sqrt(df))
            t = math.sqrt((df + 1.0) * math.log1p(u * u / df))
            distance[n] = u
        n += 1
        if t >= REACH - 1e-9 or (
            family == STUDENT_T and (math.exp(-0.5 * t * t) * u * u < 1e-11 or u > FARTHEST)
        ):
            break
    return n


@kernel
def peak_of(family: int, arm: FloatArray) -> float:
    """Coordinate of the highest density of one arm [3]."""
    if family == BETA or _gamma(family):
        peak = math.log(arm[0]) - math.log(arm[1])
        return -peak if _turned(family) else peak
    location: float = arm[0]
    return location


@kernel
def cut(family: int, arm: FloatArray, edges: FloatArray) -> int:
    """Ascending panel edges of one arm [3] into ``edges`` [2 MOST + 1]; returns how many.

    Between the first and the last lies all but about 1e-16 of the mass (Student's t: see FARTHEST).
    """
    left, right = np.empty(MOST), np.empty(MOST)
    peak, unit = peak_of(family, arm), 1.0
    if family == BETA:
        lefts, rights = _shaped(LOGIT_SIDE, arm[0], arm[1], left), _shaped(LOGIT_SIDE, arm[1], arm[0], right)
    elif _turned(family):
        lefts, rights = _shaped(GAMMA_RIGHT, arm[0], arm[1], left), _shaped(GAMMA_LEFT, arm[0], arm[1], right)
    elif _gamma(family):
        lefts, rights = _shaped(GAMMA_LEFT, arm[0], arm[1], left), _shaped(GAMMA_RIGHT, arm[0], arm[1], right)
    else:
        unit = arm[1]
        lefts = _even(family, arm[2], left)
        rights, right = lefts, left
    n = 0
    for i in range(lefts + 1 + rights):
        edge = peak
        if i < lefts:
            edge -= unit * left[lefts - 1 - i]
        elif i > lefts:
            edge += unit * right[i - lefts - 1]
        if n == 0 or edge > edges[n - 1]:
            edges[n] = edge
            n += 1
    return n


@kernel
def share_nodes(family: int, middle: float, half: float, place: FloatArray, unit: FloatArray) -> None:
    """What all arms share on the panel middle +- half: ``unit`` [NODES] = half dx/dz, and ``place`` [NODES].

    ``place``: ln of (1 + exp(z)) at the node over that at the middle, z turned around for middle > 0 (BETA);
    exp(z) - exp(middle) (gamma densities, of -z where z is turned); nothing for the others.
    """
    if family == BETA:
        e = math.exp(-abs(middle))
        p, q = e / (1.0 + e), 1.0 / (1.0 + e)
        for j in range(NODES):
            d = -half * X[j] if middle > 0.0 else half * X[j]
            if half < LONG:
                grown = math.expm1(d)
                whole = 1.0 + p * grown
                place[j] = math.log1p(p * grown)
                unit[j] = half * p * q * (grown + 1.0) / (whole * whole)
            else:
                e = math.exp(d - abs(middle))
                place[j] = math.log1p(e)
                unit[j] = half * e / ((1.0 + e) * (1.0 + e))
    elif family >= GAMMA:
        turn = -1.0 if _turned(family) or family == LOGNORMAL_DOWN else 1.0
        base = math.exp(min(turn * middle, HOTTEST))
        for j in range(NODES):
            d = turn * half * X[j]
            place[j] = (
                base * math.expm1(d) if half < LONG else math.exp(min(turn * middle + d, HOTTEST)) - base
            )
            if family in (INVERSE_GAMMA, INVERSE_GAMMA_DOWN):
                unit[j] = half * math.exp(min(-turn * middle - d, HOTTEST))
            else:
                unit[j] = half * (base + place[j])
    else:
        for j in range(NODES):
            unit[j] = half


@kernel
def densities(
    family: int,
    arm: FloatArray,
    peak: float,
    middle: float,
    half: float,
    place: FloatArray,
    out: FloatArray,
) -> None:
    """Density of one arm, 1 at its peak, times ``half``, at the nodes of the panel middle +- half into ``out``."""
    a, b = arm[0], arm[1]
    if family == BETA or _gamma(family):
        d = middle - peak
        if family != BETA:
            turn = -1.0 if _turned(family) else 1.0
            d *= turn
            fall = _fall(GAMMA_LEFT, a, b, -d) if d < 0.0 else _fall(GAMMA_RIGHT, a, b, d)
            slope, strength = half * a * turn, b
        elif d < 0.0:
            fall = _fall(LOGIT_SIDE, a, b, -d)
        else:
            fall = _fall(LOGIT_SIDE, b, a, d)
        if family == BETA:
            slope, strength = -half * b if middle > 0.0 else half * a, a + b
        for j in range(NODES):
            out[j] = half * math.exp(slope * X[j] - strength * place[j] - fall)
        return
    u, step = (middle - a) / b, half / b
    if family == STUDENT_T:
        df = arm[2]
        power = -0.5 * (df + 1.0)
        for j in range(NODES):
            z = u + step * X[j]
            out[j] = half * math.exp(power * math.log1p(z * z / df))
    else:
        for j in range(NODES):
            z = u + step * X[j]
            out[j] = half * math.exp(-0.5 * z * z)


@kernel
def in_units(family: int, z: float) -> float:
    """x at the coordinate z."""
    if family == BETA:
        return 1.0 / (1.0 + math.exp(-z)) if z > 0.0 else math.exp(z) / (1.0 + math.exp(z))
    if _falls(family):
        return -math.exp(min(-z, HOTTEST))
    if family in (GAMMA, LOGNORMAL, INVERSE_GAMMA):
        return math.exp(min(z, HOTTEST))
    return z


@kernel
def table(params: FloatArray) -> FloatArray:
    """Parameters [K, P] as a new [K, 3], the layout that the kernels take."""
    out = np.ones((params.shape[0], 3))
    for k in range(params.shape[0]):
        for i in range(min(params.shape[1], 3)):
            out[k, i] = params[k, i]
    return out


def warm() -> None:
    """Nothing of its own: the kernels that use these compile them in."""

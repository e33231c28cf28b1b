"""Probabilities -> shares in whole ppm inside boxes, for each request, in plain Python: K is small, numba not here.

The same rule as ``kernels.simplex.project_kl`` and ``rollout.bounds.quantise``, which the learner uses.
"""

from __future__ import annotations

from collections.abc import Sequence

PPM = 1_000_000
LEAST = 1e-9
"""A smaller probability counts as this, so that a cap leaves something to the hopeless."""


def bounded_ppm(p: Sequence[float], low: Sequence[int], high: Sequence[int]) -> tuple[int, ...]:
    """The nearest shares to ``p`` [K] in the sense of Kullback-Leibler, in ppm, inside [low, high], sum exactly PPM.

    w_k = clip(nu p_k, low_k, high_k) (Warmuth and Kuzmin 2008, sec. 3), rounded by largest remainder inside the boxes,
    ties to the lower index. The lows must add up to at most PPM and the highs to at least that.
    """
    q = [max(each, LEAST) for each in p]
    if sum(low) >= PPM:
        return _whole([float(each) for each in low], low, high)
    if sum(high) <= PPM:
        return _whole([float(each) for each in high], low, high)
    corners = sorted(
        {
            bound / each
            for each, bounds in zip(q, zip(low, high, strict=True), strict=True)
            for bound in bounds
        }
    )
    first, last = 0, len(corners) - 1
    while last - first > 1:
        middle = (first + last) // 2
        if _total(corners[middle], q, low, high) <= PPM:
            first = middle
        else:
            last = middle
    start, end = corners[first], corners[last]
    bound, free = 0.0, 0.0
    for each, least, most in zip(q, low, high, strict=True):
        if least / each <= start and most / each >= end:
            free += each
        else:
            bound += min(max(start * each, least), most)
    nu = min(max((PPM - bound) / free, start), end) if free > 0.0 else start
    wanted = [min(max(nu * each, least), most) for each, least, most in zip(q, low, high, strict=True)]
    return _whole(wanted, low, high)


def _total(nu: float, q: Sequence[float], low: Sequence[int], high: Sequence[int]) -> float:
    return sum(min(max(nu * each, least), most) for each, least, most in zip(q, low, high, strict=True))


def _whole(wanted: Sequence[float], low: Sequence[int], high: Sequence[int]) -> tuple[int, ...]:
    shares = [
        min(max(int(each + 1e-6), least), most) for each, least, most in zip(wanted, low, high, strict=True)
    ]
    lack = PPM - sum(shares)
    order = sorted(range(len(shares)), key=lambda k: shares[k] - wanted[k])
    while lack:
        step = 1 if lack > 0 else -1
        before = lack
        for k in order if step > 0 else reversed(order):
            room = high[k] - shares[k] if step > 0 else shares[k] - low[k]
            if lack and room > 0:
                shares[k] += step
                lack -= step
        if lack == before:
            raise ValueError(f"boxes {list(low)} to {list(high)} hold no shares that add up to {PPM}")
    return tuple(shares)

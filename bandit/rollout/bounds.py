"""Bounds on shares: boxes in priority order, the projection onto them, and exact whole ppm inside them.

Per challenger: killed (0) > absolute cap > hold > floor > ramp. The control may always take everything, so the caps
can never be infeasible; its own floor keeps a concurrent comparison possible.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from bandit.kernels.simplex import project_kl
from bandit.ledger import FloatArray, Int64Array
from bandit.spec.model import PPM, ExperimentSpec


def boxes(
    spec: ExperimentSpec,
    live: Sequence[bool],
    hold_ppm: Sequence[int | None],
    previous_ppm: Sequence[int] | None,
    elapsed_s: float,
) -> tuple[Int64Array, Int64Array]:
    """(low, high) [K] in ppm.

    ``hold_ppm``: most a held arm may have. ``previous_ppm``: shares ``elapsed_s`` ago, from which challengers may rise
    by their ramp; None begins: a challenger with a ramp starts at its floor, however long ago the experiment was
    started. A ramp of 1 per minute is none. Floors win over ramps. When the floors add up to more than 1, the
    challengers' are scaled down to fit beside the control's.
    """
    arms = len(spec.arms)
    low, high = np.zeros(arms, np.int64), np.zeros(arms, np.int64)
    control = spec.control_index
    for k in range(arms):
        if not live[k]:
            continue
        floor, cap, ramp = spec.bounds_ppm(k)
        held = hold_ppm[k]
        most = cap if held is None or k == control else min(cap, held)
        low[k] = min(floor, most)
        if ramp < PPM and k != control:
            risen = 0 if previous_ppm is None else previous_ppm[k] + int(ramp * max(elapsed_s, 0.0) / 60.0)
            most = min(most, max(risen, int(low[k])))
        high[k] = most
    high[control] = PPM
    room = PPM - int(low[control])
    challengers = int(low.sum()) - int(low[control])
    if challengers > room:
        scaled = low * room // challengers
        scaled[control] = low[control]
        low = scaled
    return low, high


def bounded(weights: FloatArray, low_ppm: Int64Array, high_ppm: Int64Array) -> tuple[int, ...]:
    """Shares in whole ppm, sum exactly 1,000,000: the KL projection onto the boxes, rounded inside them."""
    projected = np.empty(weights.size)
    project_kl(weights, low_ppm / PPM, high_ppm / PPM, projected)
    return quantise(projected, low_ppm, high_ppm)


def quantise(weights: FloatArray, low_ppm: Int64Array, high_ppm: Int64Array) -> tuple[int, ...]:
    """Weights that sum to 1 as whole ppm that sum to 1,000,000, none outside its box (largest remainder first).

    Ties go to the lower index; an arm whose box is [0, 0] gets exactly 0.
    """
    wanted = weights * PPM
    shares = np.clip(np.floor(wanted + 1e-6).astype(np.int64), low_ppm, high_ppm)
    order = np.argsort(-(wanted - shares), kind="stable")
    lack = PPM - int(shares.sum())
    while lack:
        step = 1 if lack > 0 else -1
        before = lack
        for k in order if step > 0 else order[::-1]:
            room = high_ppm[k] - shares[k] if step > 0 else shares[k] - low_ppm[k]
            if lack and room > 0:
                shares[k] += step
                lack -= step
        if lack == before:
            raise ValueError(
                f"boxes {low_ppm.tolist()} to {high_ppm.tolist()} hold no shares that add up to {PPM}"
            )
    return tuple(int(share) for share in shares)

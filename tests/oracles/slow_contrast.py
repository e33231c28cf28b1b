"""Two-way fixed effects the long way: one regression with a dummy for every period and every arm."""

from __future__ import annotations

from typing import Any

import numpy as np


def regression(
    n: Any, s1: Any, even: Any, weight: Any, unit: float, prior: float, control: int
) -> tuple[Any, Any]:
    """(differences from the control [K], covariance of the arms' effects up to the level [K, K]).

    ``n``, ``s1`` [E, K]; ``prior`` the variance of the difference of any two arms before any value.
    """
    rows, arms = n.shape
    normal = np.zeros((rows + arms, rows + arms))
    right = np.zeros(rows + arms)
    for e in range(rows):
        for k in range(arms):
            if n[e, k] <= 0:
                continue
            x = np.zeros(rows + arms)
            x[e] = x[rows + k] = 1.0
            precision = n[e, k] * even[e] * weight[e] / unit
            normal += precision * np.outer(x, x)
            right += precision * (s1[e, k] / n[e, k]) * x
    for i in range(arms):
        for j in range(i):
            x = np.zeros(rows + arms)
            x[rows + i], x[rows + j] = 1.0, -1.0
            normal += 2.0 / (arms * prior) * np.outer(x, x)
    covariance = np.linalg.pinv(normal, hermitian=True, rcond=1e-13)
    effects = (covariance @ right)[rows:]
    return effects - effects[control], covariance[rows:, rows:]


def resistance(covariance: Any) -> Any:
    """[K, K] variance of each difference."""
    own = np.diag(covariance)
    return own[:, None] + own[None, :] - 2.0 * covariance

"""What parameters of a family say about arm means: moments, intervals and the mirror image; it learns nothing.

Of Beta, Student's t, normal and positive families. All in scaled units, where a metric's scale is [0, 1].
"""

from __future__ import annotations

import numpy as np

from bandit.kernels.best_arm import BETA, GAMMA, INVERSE_GAMMA, NORMAL, STUDENT_T
from bandit.kernels.quantile import quantiles
from bandit.ledger import FloatArray

LEAST_DF = 3.0
"""Below so many degrees of freedom, where the sd goes to infinity, that of so many stands in."""
LEAST_SD = 1e-12
WIDEST = 12.0
"""Most sd of ln x: beyond it the moments of x would leave the doubles, and mean nothing."""


def central(family: int, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
    """Central interval (low, high) [K] of a level in (0, 1)."""
    low, high = quantiles(family, params, (0.5 - 0.5 * level, 0.5 + 0.5 * level)).T
    return low, high


class BetaMeans:
    """Parameters (a, b) [K, 2], both above 0."""

    family = BETA

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        a, b = params.T
        total = a + b
        return a / total, np.sqrt(a / total * (b / total) / (total + 1.0))

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        return central(self.family, params, level)

    def mirrored(self, params: FloatArray) -> FloatArray:
        """See Posterior."""
        return params[:, ::-1].copy()


class StudentMeans:
    """Parameters (location, scale, degrees of freedom) [K, 3], the last two above 0."""

    family = STUDENT_T

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See Posterior. Below LEAST_DF degrees of freedom the sd is that of LEAST_DF."""
        location, scale, df = params.T
        df = np.maximum(df, LEAST_DF)
        return location, scale * np.sqrt(df / (df - 2.0))

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        return central(self.family, params, level)

    def mirrored(self, params: FloatArray) -> FloatArray:
        """See Posterior."""
        return np.stack([1.0 - params[:, 0], params[:, 1], params[:, 2]], axis=1)


class NormalMeans:
    """Parameters (mean, sd) [K, 2], sd above 0."""

    family = NORMAL

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        return params[:, 0], params[:, 1]

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        return central(self.family, params, level)

    def mirrored(self, params: FloatArray) -> FloatArray:
        """See Posterior."""
        return np.stack([1.0 - params[:, 0], params[:, 1]], axis=1)


class PositiveMeans:
    """Parameters [K, 4] of GAMMA, LOGNORMAL or INVERSE_GAMMA: two of the family, sign and shift.

    The scaled mean is shift + sign y with y > 0 of the family. The kernels read the sign and have no use for the shift,
    which is the same for all arms.
    """

    family: int

    def moments(self, params: FloatArray) -> tuple[FloatArray, FloatArray]:
        """See Posterior. An inverse gamma of shape below 3, whose sd goes to infinity, has that of shape 3."""
        one, two, sign, shift = params.T
        if self.family == GAMMA:
            mean, sd = one / two, np.sqrt(one) / two
        elif self.family == INVERSE_GAMMA:
            shape = np.maximum(one, LEAST_DF)
            mean = two / (shape - 1.0)
            sd = mean / np.sqrt(shape - 2.0)
        else:
            width = np.minimum(two, WIDEST)
            mean = np.exp(one + 0.5 * width * width)
            sd = mean * np.sqrt(np.expm1(width * width))
        return shift + sign * mean, np.maximum(sd, LEAST_SD * np.finfo(np.float64).eps)

    def interval(self, params: FloatArray, level: float) -> tuple[FloatArray, FloatArray]:
        """See Posterior."""
        low, high = central(self.family, params, level)
        return params[:, 3] + low, params[:, 3] + high

    def mirrored(self, params: FloatArray) -> FloatArray:
        """See Posterior."""
        one, two, sign, shift = params.T
        return np.stack([one, two, -sign, 1.0 - shift], axis=1)

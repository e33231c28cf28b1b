"""Pauses between tries: a random time up to a limit that doubles (full jitter; M. Brooker, AWS Architecture Blog 2015).

So that servers which lost one store for one reason do not come back all at once.
"""

from __future__ import annotations

import random
from collections.abc import Callable

FIRST_S, CAP_S = 0.1, 2.0
_uniform = random.SystemRandom().random


class Pauses:
    """Limits double from ``first_s`` to ``cap_s``, s; ``uniform`` draws from [0, 1)."""

    def __init__(
        self, uniform: Callable[[], float] = _uniform, *, first_s: float = FIRST_S, cap_s: float = CAP_S
    ) -> None:
        self._uniform = uniform
        self._first_s = first_s
        self._cap_s = cap_s
        self.failures = 0

    def next(self) -> float:
        """Seconds to wait after one more failure."""
        limit_s = min(self._cap_s, self._first_s * 2.0 ** min(self.failures, 20))
        self.failures += 1
        return self._uniform() * limit_s

    def reset(self) -> None:
        """It went well."""
        self.failures = 0

"""Requests of a rehearsal as a linear allocator sees them: a kind for each segment of the world."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from bandit.features import UNIT, Encoder
from bandit.ledger import FloatArray, PeriodTable, decay_weights
from bandit.linear.rule import Chooser
from bandit.linear.sums import Totals
from bandit.linear.weights import mean_sums
from bandit.ranges import PPM
from bandit.rollout.state import Allocation
from bandit.simulate.plan import Plan


@dataclass(frozen=True, slots=True)
class Requests:
    """G kinds of requests: their ``encoded`` features, ``rows`` [G, D] as a model has them; how many metrics are
    ``measured`` with weights."""

    encoder: Encoder
    encoded: tuple[bytes, ...]
    rows: FloatArray
    metrics: tuple[int, ...]
    half_life_s: float | None
    control: int
    measured: int

    @classmethod
    def of(cls, plan: Plan) -> Requests | None:
        """Those of a plan; None where its spec reads no features. Without segments nobody has any attribute."""
        spec = plan.spec
        if not spec.learned:
            return None
        encoder = Encoder(spec.features)
        segments = plan.world.segments
        encoded = tuple(
            encoder.encode(segments[g].attributes if segments else {}) for g in range(len(plan.parts))
        )
        rows = encoder.rows(np.frombuffer(b"".join(encoded), np.uint8).reshape(len(encoded), -1)) / UNIT
        half_life = spec.decay.half_life if spec.decay else None
        return cls(
            encoder,
            encoded,
            rows,
            spec.learned,
            half_life,
            spec.control_index,
            len(spec.metrics) * spec.weighs,
        )

    def shares(self, allocation: Allocation) -> FloatArray | None:
        """[G, K] that each kind of request has, in [0, 1]; None where the allocation is the same for all."""
        if allocation.linear is None:
            return None
        chooser = Chooser(allocation.linear, self.encoder)
        return np.array([chooser.shares_ppm(each) for each in self.encoded]) / PPM

    def weighed(
        self, cells: tuple[FloatArray, FloatArray, FloatArray], shares: FloatArray
    ) -> FloatArray | None:
        """[E, K, M, 2, 6] what a ledger keeps of rewards that brought ``shares`` [E, G, K] (``linear.weights``)."""
        if not self.measured:
            return None
        n, s1, s2 = (each[..., : self.measured] for each in cells)
        return mean_sums(n, s1, s2, shares, self.control)

    def totals(
        self, table: PeriodTable, cells: tuple[FloatArray, FloatArray, FloatArray], now_ms: int
    ) -> Totals:
        """What a linear model learns from: ``cells`` are (n, s1, s2) [E, G, K, C] of the periods of ``table``."""
        weights = decay_weights(table, self.half_life_s, now_ms)
        n, s1, s2 = (np.einsum("e,egkm->gkm", weights, each[..., list(self.metrics)]) for each in cells)
        return Totals(
            n.sum(axis=0),
            np.einsum("gkm,gi,gj->kmij", n, self.rows, self.rows),
            np.einsum("gkm,gi->kmi", s1, self.rows),
            s2.sum(axis=0),
        )

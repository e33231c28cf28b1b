"""Outcomes as guardrails count them: bad is up, in [0, 1]; it says which periods may count, never what follows."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit.ledger import FloatArray, Int64Array, PeriodTable
from bandit.reading import with_silence
from bandit.spec.model import Direction, ExperimentSpec, Metric


@dataclass(frozen=True, slots=True)
class Outcomes:
    """Badness of one metric in E periods of K arms: x of a metric to minimise, 1 - x of one to maximise.

    ``n``, ``bad``, ``square`` [E, K]: outcomes, and sums of their badness and its square; an exposure without a
    reward counts as the metric's ``default_when_silent``, if it has one. ``arrived`` [E, K]: rewards alone.
    ``share`` [E, K] of traffic; ``centre`` [E] the control's badness, frozen when the period began; ``mature`` [E]:
    no reward can still arrive. ``silent``: badness of silence, None when silence is missing.
    """

    number: Int64Array
    share: FloatArray
    centre: FloatArray
    mature: NDArray[np.bool_]
    n: FloatArray
    bad: FloatArray
    square: FloatArray
    arrived: FloatArray
    silent: float | None

    def rows(self, chosen: NDArray[np.bool_]) -> Outcomes:
        """Only the periods where ``chosen`` [E] is True."""
        return Outcomes(
            self.number[chosen],
            self.share[chosen],
            self.centre[chosen],
            self.mature[chosen],
            self.n[chosen],
            self.bad[chosen],
            self.square[chosen],
            self.arrived[chosen],
            self.silent,
        )

    @property
    def counts_young(self) -> bool:
        """May periods whose window is open count as evidence of harm?

        Where silence is missing: yes, each reward as it comes. Where silence is good: yes, with every pending
        exposure counted as good at once. That keeps the error bound, because what is pending can only turn out
        worse: the counts at any look are at most the final ones of the same exposures, evidence of harm grows with
        badness, and for the final ones, in order of exposure, the bound holds at every look. Where silence is bad
        nothing is known of the pending yet: no.
        """
        return self.silent is None or self.silent == 0.0


def outcomes(table: PeriodTable, metric: Metric, index: int, now_ms: int) -> Outcomes:
    """The periods of ``table`` that are no blocks; ``index`` is the metric's."""
    n, s1, s2, _ = with_silence(table, metric, index, now_ms)
    silent, centre = scaled_silence(metric), table.centre[:, index]
    bad, square = s1, s2
    if metric.direction is Direction.MAXIMIZE:
        bad, square, centre = n - s1, n - 2.0 * s1 + s2, 1.0 - centre
        silent = None if silent is None else 1.0 - silent
    bad = np.clip(bad, 0.0, n)
    every = Outcomes(
        number=table.number,
        share=table.share,
        centre=np.clip(centre, 0.0, 1.0),
        mature=table.mature(metric.attribution_window, now_ms),
        n=n,
        bad=bad,
        square=np.clip(square, 0.0, bad),
        arrived=table.n[:, :, index],
        silent=silent,
    )
    return every.rows(~table.block)


def scaled_silence(metric: Metric) -> float | None:
    """``default_when_silent`` scaled to [0, 1], or None."""
    if metric.default_when_silent is None:
        return None
    low, high = metric.scale
    return (metric.default_when_silent - low) / (high - low)


def in_unit(metric: Metric, badness: float) -> float:
    """The value of the metric that has this badness."""
    low, high = metric.scale
    width = badness * (high - low)
    return low + width if metric.direction is Direction.MINIMIZE else high - width


def metric_of(spec: ExperimentSpec, name: str) -> tuple[int, Metric]:
    """Index and metric of a name that the spec is known to have."""
    index = spec.metric_index(name)
    assert index is not None
    return index, spec.metrics[index]

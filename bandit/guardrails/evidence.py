"""What periods brought to arms, as guardrails count it: bad is up, in [0, 1]; it says which may count, never
what follows."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bandit.kernels import watch
from bandit.ledger import FloatArray, Int64Array, PeriodTable
from bandit.reading import silent_value
from bandit.spec.channels import Channel, ChannelKind
from bandit.spec.model import Direction, ExperimentSpec, Metric

_OWN = [
    *(watch.SHARE, watch.ASSIGNED, watch.ARRIVED, watch.COUNT, watch.BAD, watch.SQUARE, watch.CUBE),
    *(watch.BELOW, watch.BELOW_SQUARE, watch.TOP, watch.BOTTOM),
]
_CONTROLS = [
    *(
        watch.SHARE_0,
        watch.ASSIGNED_0,
        watch.ARRIVED_0,
        watch.COUNT_0,
        watch.BAD_0,
        watch.SQUARE_0,
        watch.CUBE_0,
    ),
    *(watch.BELOW_0, watch.BELOW_SQUARE_0, watch.TOP_0, watch.BOTTOM_0),
]
FIELDS = (
    "share",
    "assigned",
    "arrived",
    "count",
    "bad",
    "square",
    "cube",
    "below",
    "below_square",
    "top",
    "bottom",
)
_ASSIGNED = FIELDS.index("assigned")


@dataclass(slots=True)
class Material:
    """E periods of K arms for one guardrail; arrays are [E, K] unless said. See the columns of ``kernels.watch``.

    ``number`` [E]; ``mature`` [E]: nothing that counts can still change; ``young``: may others count as evidence of
    harm? Only limits, breaker and sample_ratio ask; ``kernels.weigh`` passes them over for all other kinds. ``centre``,
    ``shown_centre`` [E]; ``edges`` [E, K, J] outcomes above each edge.
    """

    number: Int64Array
    mature: NDArray[np.bool_]
    young: bool
    share: FloatArray
    assigned: FloatArray
    arrived: FloatArray
    count: FloatArray
    bad: FloatArray
    square: FloatArray
    cube: FloatArray
    below: FloatArray
    below_square: FloatArray
    top: FloatArray
    bottom: FloatArray
    centre: FloatArray
    shown_centre: FloatArray
    edges: FloatArray
    _stacked: tuple[NDArray[np.int64], FloatArray] | None = field(default=None, init=False, repr=False)

    @classmethod
    def of(cls, table: PeriodTable, mature: NDArray[np.bool_], *, young: bool = False) -> Material:
        """Traffic alone; the rest is zero."""
        none = np.zeros_like(table.assigned)
        zeros = np.zeros(len(table.number))
        return cls(
            number=table.number,
            mature=mature,
            young=young,
            share=table.share,
            assigned=table.assigned,
            **dict.fromkeys(FIELDS[2:], none),
            centre=zeros,
            shown_centre=zeros,
            edges=np.zeros((*none.shape, 0)),
        )

    def rows(self, arm: int, control: int, chosen: NDArray[np.bool_]) -> FloatArray:
        """[E', R] rows of the ``chosen`` periods for a pair, oldest first. The material must be complete."""
        if self._stacked is None:
            order = np.argsort(self.number, kind="stable")
            self._stacked = order, np.stack([getattr(self, name)[order] for name in FIELDS], axis=2)
        order, values = self._stacked
        keep = chosen[order]
        at = order[keep]
        edges = self.edges.shape[2]
        rows = np.zeros((len(at), watch.EDGES + 2 * edges))
        if not at.size:
            return rows
        values = values[keep]
        rows[:, watch.NUMBER] = self.number[at]
        rows[:, watch.ASSIGNED_ALL] = values[:, :, _ASSIGNED].sum(axis=1)
        rows[:, watch.CENTRE] = self.centre[at]
        rows[:, watch.SHOWN_CENTRE] = self.shown_centre[at]
        rows[:, _OWN] = values[:, arm]
        rows[:, _CONTROLS] = values[:, control]
        if edges:
            rows[:, watch.EDGES : watch.EDGES + edges] = self.edges[at, arm]
            rows[:, watch.EDGES + edges :] = self.edges[at, control]
        return rows


def unfolded(table: PeriodTable) -> PeriodTable:
    """Without blocks, whose sums guardrails have already."""
    return table.rows(~table.block) if table.block.any() else table


def filled(
    table: PeriodTable, spec: ExperimentSpec, channel: Channel
) -> tuple[FloatArray, FloatArray, FloatArray]:
    """(n, s1, s2) [E, K] of a channel, each exposure without a reward counted as the metric's silent value, if any."""
    at, metric = spec.columns[channel], spec.metrics[channel.metric]
    n, s1, s2 = table.n[:, :, at], table.s1[:, :, at], table.s2[:, :, at]
    value = None if metric.default_when_silent is None else silent_value(metric, channel)
    if value is None:
        return n, s1, s2
    silent = np.maximum(table.assigned - n, 0.0)
    return n + silent, s1 + silent * value, s2 + silent * value * value


def outcomes(
    spec: ExperimentSpec, name: str | None, table: PeriodTable, now_ms: int, *, of_mean: bool = False
) -> Material:
    """Badness of one metric: x where less is better, 1 - x where more is; scaled to [0, 1].

    ``of_mean``: the value as a part of the scale's upper end instead, for both directions. An exposure without a reward
    counts as the metric's ``default_when_silent``, if it has one. What is shown is the mean in the metric's unit.
    """
    index, metric = metric_of(spec, name)
    table = unfolded(table)
    value = Channel(ChannelKind.VALUE, index)
    n, s1, s2 = filled(table, spec, value)
    s3 = _cubes(table, spec, metric, index, s1)
    low, high = metric.scale
    # A table without rows knows no metrics.
    width, centre = high - low, table.centre[:, index] if len(table.number) else np.zeros(0)
    silent = None if metric.default_when_silent is None else silent_value(metric, value)
    found = Material.of(
        table,
        table.mature(metric.attribution_window, now_ms),
        young=counts_young(silent, metric.direction),
    )
    found.top, found.bottom = n * low + width * s1, n
    found.shown_centre = low + width * centre
    if of_mean:
        # x = (low + width s) / high and its powers.
        p, q = low / high, width / high
        s3 = n * p**3 + 3 * p * p * q * s1 + 3 * p * q * q * s2 + q**3 * s3
        s2 = n * p * p + 2 * p * q * s1 + q * q * s2
        s1 = n * p + q * s1
        centre = p + q * centre
    elif metric.direction is Direction.MAXIMIZE:
        s3 = n - 3 * s1 + 3 * s2 - s3
        s2 = n - 2 * s1 + s2
        s1 = n - s1
        centre = 1.0 - centre
    found.count, found.arrived = n, table.n[:, :, index]
    found.bad = np.clip(s1, 0.0, n)
    found.square = np.clip(s2, 0.0, found.bad)
    found.cube = np.clip(s3, 0.0, found.square)
    found.centre = np.clip(centre, 0.0, 1.0)
    return found


def exceedances(spec: ExperimentSpec, table: PeriodTable, channel: Channel, now_ms: int) -> Material:
    """Outcomes on the bad side of a threshold: above it, or not above it where more is better."""
    metric = spec.metrics[channel.metric]
    table = unfolded(table)
    n, above, _ = filled(table, spec, channel)
    silent = None if metric.default_when_silent is None else silent_value(metric, channel)
    found = Material.of(
        table,
        table.mature(metric.attribution_window, now_ms),
        young=counts_young(silent, metric.direction),
    )
    found.count, found.arrived = n, table.n[:, :, channel.metric]
    found.bad = found.square = np.clip(n - above if metric.direction is Direction.MAXIMIZE else above, 0.0, n)
    return found


def counts_young(silent: float | None, direction: Direction) -> bool:
    """May periods whose window is open count as evidence of harm? ``silent`` is the value of silence in [0, 1].

    Where silence is missing: yes, each reward as it comes. Where silence is good: yes, with every pending exposure
    counted as good at once. That keeps the error bound, because what is pending can only turn out worse: the counts at
    any look are at most the final ones of the same exposures, evidence of harm grows with badness, and for the final
    ones, in order of exposure, the bound holds at every look. Where silence is bad nothing is known of the pending
    yet: no.
    """
    return silent is None or silent == (1.0 if direction is Direction.MAXIMIZE else 0.0)


def _cubes(
    table: PeriodTable, spec: ExperimentSpec, metric: Metric, index: int, s1: FloatArray
) -> FloatArray:
    """Sums of cubes, of the channel that has them; a 0 or 1 is its own cube."""
    channel = Channel(ChannelKind.CUBE, index)
    if channel in spec.columns:
        return filled(table, spec, channel)[1]
    return s1


def in_unit(metric: Metric, badness: float) -> float:
    """The value of the metric that has this badness."""
    low, high = metric.scale
    width = badness * (high - low)
    return low + width if metric.direction is Direction.MINIMIZE else high - width


def badness_of(metric: Metric, value: float) -> float:
    """Inverse of :func:`in_unit`."""
    low, high = metric.scale
    part = (value - low) / (high - low)
    return part if metric.direction is Direction.MINIMIZE else 1.0 - part


def metric_of(spec: ExperimentSpec, name: str | None) -> tuple[int, Metric]:
    """Index and metric of a name that the spec is known to have."""
    index = None if name is None else spec.metric_index(name)
    assert index is not None
    return index, spec.metrics[index]

"""Terms: what reports need of periods, as numbers that are added over periods; it estimates nothing.

Of one row (a period, and a cohort of it) with shares w, for a metric m with frozen centre c (the control's mean before
the period, scaled) and a pair of arms (k, j); n, s, q are counts, sums and sums of squares; v = n_k / (n_k + n_j):

    A     (1 - v) n_k = v n_j                                            overlap weight
    S     (1 - v)(s_k - n_k c) - v (s_j - n_j c)                         overlap scores; their mean is A (mu_k - mu_j)
    V     (1 - v)^2 C_k + v^2 C_j,  C = q - 2 c s + n c^2                sum of their squares
    N     values of all arms of the row                                  traffic
    PHI   (s_k - n_k c) / w_k - (s_j - n_j c) / w_j                      AIPW scores; their mean is N (mu_k - mu_j)
    PHI2  C_k / w_k^2 + C_j / w_j^2                                      sum of their squares

(AIPW: Robins, Rotnitzky & Zhao 1994, with the same centre for both arms.) Rows where one of the two has no share add
nothing. ``direct`` [M, K-1, 6] has all six for each challenger against the control, ``others`` [M, Q, 3] has A, S, V
for each further pair (none from MOST_ARMS + 1 arms on), ``leader`` [M, 3] has N, PHI, PHI2 of the leading challenger,
the one with the largest share of the row: known before the row, so the lift of the leader is free of the winner's
curse. Of two metrics whose product is counted, ``crosses`` hold A of the joint values and V, PHI2 of the products.
``traffic`` [K, TRAFFIC], with d decisions of the arm and D of the row: d, D, d / w, D (1 / w - 1), then
d ln t - D ln(1 + w (t - 1)) for each tilt t of TILTS, then rows by floor(-log2 w): the propensities.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.signals import TILTS
from bandit.ledger import FloatArray, PeriodTable
from bandit.reading import counted
from bandit.spec.channels import Channel, ChannelKind
from bandit.spec.metric import MetricKind
from bandit.spec.model import ExperimentSpec

FOREVER_MS = 1 << 62
MOST_ARMS = 16
"""Up to so many arms every two are compared; their pairs grow with the square of their number."""
FINEST = 20
"""Shares are whole ppm, so none above 0 is below 2 ** -20."""
A, S, V, N, PHI, PHI2 = range(6)
DECISIONS, ALL_DECISIONS, WEIGHED, WEIGHED_VARIANCE, TILTED = range(5)
PROPENSITIES = TILTED + TILTS.size
TRAFFIC = PROPENSITIES + FINEST


@dataclass(frozen=True, slots=True)
class Terms:
    """See the module. ``crosses_direct`` [X, K-1, 3], ``crosses_others`` [X, Q, 3], ``crosses_leader`` [X, 3]: joint
    A, V, PHI2 of each two metrics that have a PAIR channel, in the order of the channels; of the leader N, 0, PHI2."""

    direct: FloatArray
    others: FloatArray
    leader: FloatArray
    crosses_direct: FloatArray
    crosses_others: FloatArray
    crosses_leader: FloatArray
    traffic: FloatArray

    def __add__(self, other: Terms) -> Terms:
        return Terms(*(getattr(self, each.name) + getattr(other, each.name) for each in fields(self)))

    def packed(self) -> FloatArray:
        """[width] all of them, in the order above."""
        return np.concatenate([getattr(self, each.name).ravel() for each in fields(self)])


def shapes(spec: ExperimentSpec) -> tuple[tuple[int, ...], ...]:
    """Shapes of the parts of :class:`Terms`; they change only with what begins a new epoch."""
    arms, metrics = len(spec.arms), len(spec.metrics)
    far, joint = len(far_pairs(spec)), len(joints(spec))
    return (
        (metrics, arms - 1, 6),
        (metrics, far, 3),
        (metrics, 3),
        (joint, arms - 1, 3),
        (joint, far, 3),
        (joint, 3),
        (arms, TRAFFIC),
    )


def width(spec: ExperimentSpec) -> int:
    """How many numbers the terms of a spec are."""
    return sum(int(np.prod(shape)) for shape in shapes(spec))


def unpack(spec: ExperimentSpec, packed: FloatArray) -> Terms:
    """Inverse of ``Terms.packed``."""
    parts, start = [], 0
    for shape in shapes(spec):
        end = start + int(np.prod(shape))
        parts.append(packed[start:end].reshape(shape))
        start = end
    return Terms(*parts)


def near_pairs(spec: ExperimentSpec) -> list[tuple[int, int]]:
    """(challenger, control) for each challenger, in the order of the arms."""
    return [(arm, spec.control_index) for arm in range(len(spec.arms)) if arm != spec.control_index]


def far_pairs(spec: ExperimentSpec) -> list[tuple[int, int]]:
    """Every two challengers, the earlier first; none above MOST_ARMS arms."""
    if len(spec.arms) > MOST_ARMS:
        return []
    return list(combinations([arm for arm, _ in near_pairs(spec)], 2))


def joints(spec: ExperimentSpec) -> list[Channel]:
    """The PAIR channels."""
    return [channel for channel in spec.columns if channel.kind is ChannelKind.PAIR]


def settle(spec: ExperimentSpec, rows: PeriodTable, cohorts: int) -> FloatArray:
    """[G, width] terms of periods that can never change again; ``rows`` as in ``facts.settle``: per period and cohort.

    Reports add the cohorts up, so all is kept with the first one. Raises ValueError for an open period or a block.
    """
    if rows.block.any() or (rows.end_ms == 0).any():
        raise ValueError("terms are made of periods that are closed and not folded yet")
    kept = np.zeros((cohorts, width(spec)))
    kept[0] = terms_of(spec, rows, FOREVER_MS).packed()
    return kept


def kept_of(spec: ExperimentSpec, rows: PeriodTable, start: int) -> Terms:
    """Terms that the blocks among ``rows`` keep in their facts from column ``start`` on; zeros where they keep none."""
    end = start + width(spec)
    blocks = rows.facts[rows.block, start:end]
    if blocks.shape[1] < width(spec):
        blocks = np.zeros((0, width(spec)))
    return unpack(spec, blocks.sum(axis=0))


def terms_of(spec: ExperimentSpec, rows: PeriodTable, now_ms: int) -> Terms:
    """Terms of the rows that are no blocks. Metrics count periods whose attribution window is closed, and no younger
    ones: what is late may depend on the arm. Traffic counts all periods."""
    live = rows.rows(~rows.block)
    near, far = near_pairs(spec), far_pairs(spec)
    totals = [np.zeros(shape) for shape in shapes(spec)]
    direct, others, leader, crosses_direct, crosses_others, crosses_leader, traffic = totals
    traffic[:] = _traffic(live.assigned, live.share)
    if not len(live.number):
        return Terms(*totals)
    lead = leading(live.share, spec)
    every = np.arange(len(lead))
    for index, metric in enumerate(spec.metrics):
        if metric.kind is MetricKind.RATIO:
            continue
        ripe = live.mature(metric.attribution_window, now_ms)
        cells = counted(live, spec, Channel(ChannelKind.VALUE, index), now_ms)
        n, s1, s2 = (np.where(ripe[:, None], each, 0.0) for each in cells[:3])
        centre = live.centre[:, index, None]
        sums = s1 - n * centre
        squares = np.maximum(s2 - 2.0 * centre * s1 + n * centre**2, 0.0)
        found = pair_terms(n, sums, squares, live.share, near)
        direct[index] = found.sum(axis=0)
        leader[index] = found[every, lead][:, N:].sum(axis=0)
        others[index] = pair_terms(n, sums, squares, live.share, far)[..., :N].sum(axis=0)
    for index, channel in enumerate(joints(spec)):
        windows = [spec.metrics[each].attribution_window for each in (channel.metric, channel.other)]
        ripe = live.mature(max(windows), now_ms)
        n, products = _products(spec, live, channel, ripe, now_ms)
        nothing = np.zeros_like(n)
        found = pair_terms(n, nothing, products, live.share, near)
        crosses_direct[index] = found[..., [A, V, PHI2]].sum(axis=0)
        crosses_leader[index] = found[every, lead][:, [N, S, PHI2]].sum(axis=0)
        crosses_others[index] = pair_terms(n, nothing, products, live.share, far)[..., [A, V, PHI2]].sum(
            axis=0
        )
    return Terms(*totals)


def pair_terms(
    n: FloatArray, sums: FloatArray, squares: FloatArray, share: FloatArray, pairs: list[tuple[int, int]]
) -> FloatArray:
    """[..., P, 6] the terms of each row and pair. ``n``, ``sums`` (s - n c), ``squares`` (C), ``share`` [..., K]."""
    if not pairs:
        return np.zeros((*n.shape[:-1], 0, 6))
    one, two = (list(side) for side in zip(*pairs, strict=True))
    both = (share[..., one] > 0.0) & (share[..., two] > 0.0)
    n1, n2 = np.where(both, n[..., one], 0.0), np.where(both, n[..., two], 0.0)
    part = n1 / np.maximum(n1 + n2, 1e-300)
    w1, w2 = np.where(both, share[..., one], 1.0), np.where(both, share[..., two], 1.0)
    s1, s2 = np.where(both, sums[..., one], 0.0), np.where(both, sums[..., two], 0.0)
    c1, c2 = np.where(both, squares[..., one], 0.0), np.where(both, squares[..., two], 0.0)
    return np.stack(
        [
            (1.0 - part) * n1,
            (1.0 - part) * s1 - part * s2,
            (1.0 - part) ** 2 * c1 + part**2 * c2,
            np.where(both, n.sum(axis=-1)[..., None], 0.0),
            s1 / w1 - s2 / w2,
            c1 / w1**2 + c2 / w2**2,
        ],
        axis=-1,
    )


def leading(share: FloatArray, spec: ExperimentSpec) -> NDArray[np.int64]:
    """[E] place among the near pairs of the challenger with the largest share; the first of equals."""
    challengers = [arm for arm, _ in near_pairs(spec)]
    found: NDArray[np.int64] = np.argmax(share[:, challengers], axis=1)
    return found


def _products(
    spec: ExperimentSpec, live: PeriodTable, channel: Channel, ripe: NDArray[np.bool_], now_ms: int
) -> tuple[FloatArray, FloatArray]:
    """(n, sum of (x - c_x)(y - c_y)) [E, K] over decisions that have both values."""
    joint = counted(live, spec, channel, now_ms)
    one = counted(live, spec, Channel(ChannelKind.VALUE, channel.metric), now_ms)
    two = counted(live, spec, Channel(ChannelKind.VALUE, channel.other), now_ms)
    n = np.where(ripe[:, None], joint.n, 0.0)
    cx, cy = live.centre[:, channel.metric, None], live.centre[:, channel.other, None]
    mean_x = np.divide(one.s1, one.n, out=np.zeros_like(n), where=one.n > 0.0)
    mean_y = np.divide(two.s1, two.n, out=np.zeros_like(n), where=two.n > 0.0)
    products = joint.s1 - joint.n * (cx * mean_y + cy * mean_x - cx * cy)
    return n, np.where(ripe[:, None], products, 0.0)


def _traffic(decisions: FloatArray, share: FloatArray) -> FloatArray:
    """[K, TRAFFIC] of rows [E, K]."""
    total = np.where(share > 0.0, decisions.sum(axis=1)[:, None], 0.0)
    d = np.where(share > 0.0, decisions, 0.0)
    w = np.where(share > 0.0, share, 1.0)
    out = np.zeros((share.shape[1], TRAFFIC))
    for column, each in enumerate((d, total, d / w, total * (1.0 / w - 1.0))):
        out[:, column] = each.sum(axis=0)
    for column, tilt in enumerate(TILTS):
        out[:, TILTED + column] = (d * np.log(tilt) - total * np.log1p(w * (tilt - 1.0))).sum(axis=0)
    column_of = finest(w)
    for column in range(FINEST):
        out[:, PROPENSITIES + column] = ((total > 0.0) & (column_of == column)).sum(axis=0)
    return out


def finest(share: FloatArray) -> NDArray[np.int64]:
    """floor(-log2 share), in [0, FINEST): which of the PROPENSITIES columns a share above 0 is counted in."""
    return np.clip(np.floor(-np.log2(share)), 0, FINEST - 1).astype(np.int64)

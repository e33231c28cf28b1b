"""Facts: what readers need of periods beyond their sums, as additive numbers; it believes nothing.

Comparisons within periods are not functions of totals over periods, so a block, which has only totals, keeps them.
Per *stream* (the channels that arms are compared by: VALUE, LOG, LEVEL) the facts of a set of periods are

    links [K (K - 1) / 2]  sum_e h_e n_ei n_ej / N_e, i < j                      weights of a graph on the arms
    pull [K]               sum_e h_e (s_ei - n_ei S_e / N_e)
    spread, freedom        sum_e h_e sum_k (q_ek - s_ek^2 / n_ek), sum_e sum_k (n_ek - 1)
    strata [5, K]          sum of W, W xbar_k, W xbar_0, W^2 / n_k, W^2 / n_0 over the strata shared with the control

with n_ek values of arm k in period e, their sum s_ek and sum of squares q_ek, N_e and S_e those of all arms. The
graph's Laplacian is the information about differences between arms, and pull its right-hand side (two-way fixed
effects; Searle 1971, Linear Models, 7.1). h_e makes periods comparable where the variance moves with the level:
1 / (m (1 - m)) for a bernoulli metric, m the frozen centre of the period, else 1.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from bandit.ledger import FloatArray, PeriodTable
from bandit.reading import Cells, counted
from bandit.spec.channels import Channel, ChannelKind
from bandit.spec.metric import MetricKind
from bandit.spec.model import ExperimentSpec

FOREVER_MS = 1 << 62
STREAM_KINDS = (ChannelKind.VALUE, ChannelKind.LOG, ChannelKind.LEVEL)
NEAREST = 1e-3
"""A frozen rate is taken no closer to 0 or 1 than this, so that no period outweighs all others."""
LEAST_IN_STRATUM = 10.0
"""Of the periods in which both the control and an arm have values, neighbours are merged until both have so many."""
STRATA = 5


@dataclass(frozen=True, slots=True)
class Comparison:
    """Facts of one stream, see the module; ``links`` is the full symmetric [K, K] with zeros on its diagonal."""

    links: FloatArray
    pull: FloatArray
    spread: float
    freedom: float
    strata: FloatArray

    def __add__(self, other: Comparison) -> Comparison:
        return Comparison(
            self.links + other.links,
            self.pull + other.pull,
            self.spread + other.spread,
            self.freedom + other.freedom,
            self.strata + other.strata,
        )


class Stream(NamedTuple):
    """One stream: its channel and where its facts begin."""

    channel: Channel
    start: int


def streams(spec: ExperimentSpec) -> tuple[Stream, ...]:
    """The streams of a spec, in the order of the facts."""
    width = stream_width(len(spec.arms))
    channels = [channel for channel in spec.columns if channel.kind in STREAM_KINDS]
    return tuple(Stream(channel, index * width) for index, channel in enumerate(channels))


def stream_width(arms: int) -> int:
    """Numbers that one stream keeps."""
    return arms * (arms - 1) // 2 + arms + 2 + STRATA * arms


def settle(spec: ExperimentSpec, periods: PeriodTable, cohorts: int) -> FloatArray:
    """[G, L] facts of periods that can never change again; ``periods`` has a row per period and cohort, no blocks.

    Raises ValueError for an open period or a block.
    """
    if periods.block.any() or (periods.end_ms == 0).any():
        raise ValueError("facts are made of periods that are closed and not folded yet")
    arms = len(spec.arms)
    found = streams(spec)
    facts = np.zeros((cohorts, len(found) * stream_width(arms)))
    for cohort in np.unique(periods.cohort):
        rows = periods.rows(periods.cohort == cohort)
        ones = np.ones(len(rows.number))
        for stream in found:
            cells = counted(rows, spec, stream.channel, FOREVER_MS)
            made = compare(cells, evenness(spec, rows, stream.channel), ones, spec.control_index)
            facts[cohort, stream.start : stream.start + stream_width(arms)] = pack(made)
    return facts


def compare(
    cells: Cells, even: FloatArray, weight: FloatArray, control: int, *, strata: bool = True
) -> Comparison:
    """Facts of rows: ``cells`` [E, K], ``even`` [E] the h of the module, ``weight`` [E] >= 0 of each row; without
    ``strata`` zeros stand for them."""
    weight = weight * cells.weight
    n, s1, s2 = cells.n, cells.s1, cells.s2
    total = n.sum(axis=1)
    share = np.divide(n, total[:, None], out=np.zeros_like(n), where=total[:, None] > 0.0)
    part = (even * weight)[:, None]
    links = (part * share).T @ n
    links = 0.5 * (links + links.T)  # the same bits on both sides
    np.fill_diagonal(links, 0.0)
    pull = (part * (s1 - share * s1.sum(axis=1)[:, None])).sum(axis=0)
    mean = np.divide(s1, n, out=np.zeros_like(s1), where=n > 0.0)
    within = np.where(n > 1.0, np.maximum(s2 - s1 * mean, 0.0), 0.0)
    spread = float((part * within).sum())
    freedom = float((weight[:, None] * np.maximum(n - 1.0, 0.0)).sum())
    made = _strata(n, s1, weight, control) if strata else np.zeros((STRATA, n.shape[1]))
    return Comparison(links, pull, spread, freedom, made)


def evenness(spec: ExperimentSpec, rows: PeriodTable, channel: Channel) -> FloatArray:
    """[E] the h of the module."""
    if channel.kind is not ChannelKind.VALUE or spec.metrics[channel.metric].kind is not MetricKind.BERNOULLI:
        return np.ones(len(rows.number))
    centre = np.clip(rows.centre[:, channel.metric], NEAREST, 1.0 - NEAREST)
    even: FloatArray = 1.0 / (centre * (1.0 - centre))
    return even


def kept(rows: PeriodTable, stream: Stream, weight: FloatArray) -> Comparison:
    """Facts of the blocks among ``rows``, each with its ``weight`` [E]."""
    arms = rows.n.shape[1]
    blocks = rows.block
    end = stream.start + stream_width(arms)
    if not blocks.any() or rows.facts.shape[1] < end:
        return unpack(np.zeros(stream_width(arms)), arms)
    return unpack(weight[blocks] @ rows.facts[blocks, stream.start : end], arms)


def pack(made: Comparison) -> FloatArray:
    """[stream_width] of a comparison."""
    upper = np.triu_indices(len(made.pull), 1)
    return np.concatenate([made.links[upper], made.pull, [made.spread, made.freedom], made.strata.ravel()])


def unpack(facts: FloatArray, arms: int) -> Comparison:
    """Inverse of :func:`pack`."""
    pairs = arms * (arms - 1) // 2
    links = np.zeros((arms, arms))
    links[np.triu_indices(arms, 1)] = facts[:pairs]
    links += links.T
    pull = facts[pairs : pairs + arms]
    spread, freedom = facts[pairs + arms : pairs + arms + 2]
    return Comparison(
        links, pull, float(spread), float(freedom), facts[pairs + arms + 2 :].reshape(STRATA, arms)
    )


def _strata(n: FloatArray, s1: FloatArray, weight: FloatArray, control: int) -> FloatArray:
    """[5, K] sums over strata, for each arm over those that it shares with the control."""
    out = np.zeros((STRATA, n.shape[1]))
    if not n.size:
        return out
    traffic = n.sum(axis=1)
    for arm in range(n.shape[1]):
        rows = np.flatnonzero((n[:, arm] > 0.0) & (n[:, control] > 0.0))
        if not rows.size:
            continue
        columns = (n[:, arm], n[:, control], s1[:, arm], s1[:, control], traffic * weight)
        starts = _merge(np.minimum(n[rows, arm], n[rows, control]))
        one, zero, x, y, w = (np.add.reduceat(each[rows], starts) for each in columns)
        out[:, arm] = w.sum(), w @ (x / one), w @ (y / zero), w @ (w / one), w @ (w / zero)
    return out


def _merge(fewest: FloatArray) -> np.ndarray[tuple[int, ...], np.dtype[np.intp]]:
    """First rows of the strata: each ends as soon as it holds LEAST_IN_STRATUM; the last takes what is left."""
    reached = np.floor(np.cumsum(fewest) / LEAST_IN_STRATUM)
    ends = np.flatnonzero(np.diff(np.concatenate([[0.0], reached]))) + 1
    return np.concatenate([[0], ends[:-1]]).astype(np.intp)

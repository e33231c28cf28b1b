"""Rewards with features and shares -> the linear and weighed sums of their periods; repeats, lateness and corrections
are settled before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.batch import Batch
from bandit.features import Encoder
from bandit.ledger import Int64Array, Period
from bandit.linear import weights
from bandit.linear.sums import add
from bandit.rollout.state import Experiment
from bandit.spec.model import ExperimentSpec


class Changed(NamedTuple):
    """Decisions of whose values some changed: a ``row`` [N] of the batch that speaks of each, its value ``before`` and
    ``after`` [N], scaled; -1 for none."""

    row: Int64Array
    before: Int64Array
    after: Int64Array


def first_values(counts: NDArray[np.bool_], q: Int64Array) -> Changed:
    """Rewards that are the first and only value of their decision and metric."""
    row = np.flatnonzero(counts)
    return Changed(row, np.full(row.size, -1, np.int64), q[row])


def fold_linear(batch: Batch, experiment: Experiment, replaced: Iterable[tuple[int, Changed]]) -> set[int]:
    """Add changed values, each of an epoch, to the sums of their periods. Returns the numbers of changed periods."""
    given: set[int] = set()
    for epoch, changed in replaced:
        spec = experiment.spec_of(epoch)
        if spec is not None and spec.learned:
            given |= _fold(batch, spec, epoch, changed)
    return given


def fold_weighed(batch: Batch, experiment: Experiment, replaced: Iterable[tuple[int, Changed]]) -> set[int]:
    """Add changed values of decisions that brought their shares, each of an epoch, to the weighed sums of their
    periods. Returns the numbers of changed periods."""
    given: set[int] = set()
    for epoch, changed in replaced:
        spec = experiment.spec_of(epoch)
        if spec is not None and spec.weighs:
            given |= _fold_weighed(batch, spec, epoch, changed)
    return given


def _fold_weighed(batch: Batch, spec: ExperimentSpec, epoch: int, changed: Changed) -> set[int]:
    row, metric = changed.row, batch.metric[changed.row]
    start = np.isin(metric, spec.learned) * len(spec.features)
    size = weights.mark_bytes(spec) + weights.SHARE_BYTES
    own = (batch.records["epoch"][row] == epoch) & (batch.width[row] == start + size)
    own &= changed.before != changed.after
    numbers = batch.records["allocation"][row]
    given: set[int] = set()
    for allocation in np.unique(numbers[own]).tolist():
        period = batch.places.period(allocation)
        if period is None or period.weighed is None:
            continue
        at = np.flatnonzero(own & (numbers == allocation))
        brought = batch.features[row[at, None], start[at, None] + np.arange(size)]
        marks, share = np.split(brought, [len(spec.arms)], axis=1)
        share_ppm = share.astype(np.int64) @ (1 << 8 * np.arange(weights.SHARE_BYTES))
        arm = batch.records["arm"][row[at]].astype(np.int64)
        for values, sign in ((changed.before[at], -1), (changed.after[at], 1)):
            there = values >= 0
            weights.add(
                period.weighed,
                marks[there],
                share_ppm[there],
                arm[there],
                metric[at][there],
                values[there],
                np.full(int(there.sum()), sign, np.int64),
                spec.control_index,
            )
        given.add(period.number)
    return given


def _fold(batch: Batch, spec: ExperimentSpec, epoch: int, changed: Changed) -> set[int]:
    encoder = Encoder(spec.features)
    slots = {metric: slot for slot, metric in enumerate(spec.learned)}
    own = (batch.records["epoch"][changed.row] == epoch) & np.isin(batch.metric[changed.row], spec.learned)
    own &= changed.before != changed.after
    given: set[int] = set()
    for period, arm, metric, at in _cells(batch, changed.row, np.flatnonzero(own)):
        if period.linear is None:
            continue
        rows = encoder.rows(batch.features[changed.row[at], : len(spec.features)])
        before, after = changed.before[at], changed.after[at]
        gone, come = before >= 0, after >= 0
        add(
            period.linear[arm, slots[metric]],
            np.concatenate([rows[gone], rows[come]]),
            np.concatenate([before[gone], after[come]]),
            np.repeat(np.array([-1, 1], np.int64), [int(gone.sum()), int(come.sum())]),
        )
        given.add(period.number)
    return given


def _cells(
    batch: Batch, row: Int64Array, chosen: Int64Array
) -> Iterator[tuple[Period, int, int, Int64Array]]:
    """(period, arm, metric, places in ``row``) for each of them that the ``chosen`` places speak of."""
    keys = np.stack(
        [
            batch.records["allocation"][row[chosen]],
            batch.records["arm"][row[chosen]],
            batch.metric[row[chosen]],
        ],
        axis=1,
    )
    found, group = np.unique(keys, axis=0, return_inverse=True)
    for index, (allocation, arm, metric) in enumerate(found.tolist()):
        period = batch.places.period(allocation)
        if period is not None:
            yield period, arm, metric, chosen[group.ravel() == index]

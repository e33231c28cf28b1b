"""Rewards with features -> the linear sums of their periods; repeats, lateness and corrections are settled before."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.batch import Batch
from bandit.features import Encoder
from bandit.ledger import Int64Array, Period
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

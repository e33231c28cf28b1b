"""Folds rewards of metrics whose values are remembered per decision: joins, aggregates, corrections, retractions.

A decision's slots of all remembered metrics lie side by side, so the second value of a pair finds the first, and a
correction finds what it replaces. It decides nothing about age, place or legality: see ``bandit.learn``.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from bandit.counting import AGGREGATES, Tables
from bandit.kernels.values import fold_values
from bandit.ledger import ONE, Int64Array
from bandit.log import OUTCOME_CONFLICT, OUTCOME_DUPLICATE, OUTCOME_REJECTED, REPORT, RETRACT
from bandit.seen import AMENDED, PAGE_BITS, PAGE_SLOTS, PageKey, Seen, ValuePage

MOST_EVENTS = 1000
"""Rewards of one decision and metric that may be summed; more are rejected."""


@dataclass(slots=True)
class Rows:
    """Rewards of one epoch in the order of the log, each array [n]: who, what, where it is added, and its outcome.

    ``place``: row of the decision's channel 0 in ``sums`` [W, 4]; ``bucket``: row in ``clusters`` [B, 2] or -1;
    ``part``: as in ``kernels.values``. ``outcome`` is written where it is 0.
    """

    issuer: Int64Array
    number: NDArray[np.uint64]
    issued_ms: Int64Array
    metric: Int64Array
    q: Int64Array
    op: Int64Array
    order: NDArray[np.uint64]
    event: NDArray[np.uint64]
    part: Int64Array
    place: Int64Array
    bucket: Int64Array
    outcome: NDArray[np.uint8]


def fold_remembered(
    rows: Rows, epoch: int, tables: Tables, seen: Seen, sums: Int64Array, clusters: Int64Array
) -> tuple[set[PageKey], tuple[Int64Array, Int64Array, Int64Array]]:
    """Fold the rows into the sums and into the pages of ``seen``.

    Returns the keys of the changed pages, and of each decision and metric a row that speaks of it, with the value that
    counted before all rows and the one after, -1 for none.
    """
    page = (rows.number >> np.uint64(PAGE_BITS)).astype(np.int64)
    slot = (rows.number & np.uint64(PAGE_SLOTS - 1)).astype(np.int64)
    join = tables.join[rows.metric]
    first, group = _grouped(rows.issuer, page)
    width = len(tables.remembered)
    keys = [
        [PageKey(issuer, epoch, metric, number) for metric in tables.remembered.tolist()]
        for issuer, number in zip(rows.issuer[first].tolist(), page[first].tolist(), strict=True)
    ]
    newest = np.full(len(keys) * width, -1, np.int64)
    np.maximum.at(newest, group * width + join, rows.issued_ms)
    touched = np.flatnonzero(newest >= 0)
    for at in touched.tolist():
        key = keys[at // width][at % width]
        kept = seen.values.setdefault(key, ValuePage.empty())
        kept.newest_ms = max(kept.newest_ms, int(newest[at]))
    for at in np.flatnonzero((tables.aggregate[join] == AGGREGATES["sum"]) & (rows.op == REPORT)).tolist():
        events = seen.values[keys[group[at]][join[at]]].events.setdefault(int(slot[at]), {})
        _sum_up(rows, at, events, int(tables.offset[join[at]]))

    shape = (len(keys), width, PAGE_SLOTS)
    base, parts = np.zeros(shape, np.uint32), np.zeros(shape, np.int8)
    code, over, orders = np.zeros(shape, np.uint8), np.zeros(shape, np.uint32), np.zeros(shape, np.uint64)
    for g, row in enumerate(keys):
        for j, key in enumerate(row):
            if (held := seen.values.get(key)) is None:
                continue
            base[g, j] = held.base
            if held.parts is not None:
                parts[g, j] = held.parts
            if held.amended is not None:
                code[g, j], over[g, j], orders[g, j] = (held.amended[name] for name in ("op", "q", "order"))
    flat = (group * width + join) * PAGE_SLOTS + slot
    _, row = np.unique(flat, return_index=True)
    places = group[row], join[row], slot[row]
    before = _values(base[places], code[places], over[places])
    fold_values(
        group, slot, join, rows.place, rows.bucket, rows.q, rows.op, rows.order, rows.part,
        tables.remembered, tables.aggregate, base, code, over, orders, parts, sums, clusters, rows.outcome,
        tables.start, tables.column, tables.kind, tables.threshold, tables.logs, tables.silent,
        tables.pair_start, tables.pair_other, tables.pair_column,
    )  # fmt: skip
    for at in touched.tolist():
        g, j = divmod(at, width)
        kept = seen.values[keys[g][j]]
        kept.base = base[g, j].copy()
        kept.parts = parts[g, j].copy() if tables.early[tables.remembered[j]] else None
        if code[g, j].any():
            kept.amended = np.zeros(PAGE_SLOTS, AMENDED)
            kept.amended["op"], kept.amended["q"], kept.amended["order"] = (
                code[g, j],
                over[g, j],
                orders[g, j],
            )
    after = _values(base[places], code[places], over[places])
    return {keys[at // width][at % width] for at in touched.tolist()}, (row.astype(np.int64), before, after)


def _values(base: NDArray[np.uint32], code: NDArray[np.uint8], over: NDArray[np.uint32]) -> Int64Array:
    """``kernels.values.value_of`` each."""
    amended = np.where(code == RETRACT, -1, over.astype(np.int64))
    found: Int64Array = np.where(code != 0, amended, base.astype(np.int64) - 1)
    return found


def _grouped(issuer: Int64Array, page: Int64Array) -> tuple[Int64Array, Int64Array]:
    """A row of each group of equal issuer and page, and the group of each row."""
    order = np.lexsort((page, issuer))
    new = np.ones(order.size, np.bool_)
    new[1:] = (np.diff(issuer[order]) != 0) | (np.diff(page[order]) != 0)
    group = np.empty(order.size, np.int64)
    group[order] = np.cumsum(new) - 1
    return order[new], group


def _sum_up(rows: Rows, at: int, events: dict[int, int], offset: int) -> None:
    """Put the sum so far in the place of a reward's q, or give it its outcome when its event was added before.

    The sum of k scaled values is their sum of q and k - 1 times ``offset``, the scaled distance from ``low`` to 0;
    beyond the metric's scale it counts as the end of the scale. So it is the same in any order.
    """
    event, q = int(rows.event[at]), int(rows.q[at])
    before = events.get(event)
    if before is not None:
        rows.outcome[at] = OUTCOME_DUPLICATE if before == q else OUTCOME_CONFLICT
    elif len(events) >= MOST_EVENTS:
        rows.outcome[at] = OUTCOME_REJECTED
    else:
        events[event] = q
        rows.q[at] = min(max(sum(events.values()) + (len(events) - 1) * offset, 0), ONE)

"""From one state of a ledger to another: a fold that writes what differs and drops what is gone, and nothing else."""

from __future__ import annotations

from dataclasses import fields, is_dataclass

import numpy as np

from bandit.seen import Page, PageKey, Seen, ValuePage
from server.store.base import FoldWrite, WriterState


def difference(uid: int, before: WriterState, after: WriterState) -> FoldWrite:
    """The fold that makes ``after`` of what the store has, which is ``before``; its sequence goes on.

    Accumulators that are gone are written as zeros, which is what having none comes to.
    """
    was, now = _pages(before.seen), _pages(after.seen)
    old, new = before.seen.foreign, after.seen.foreign
    both = old.keys() & new.keys()
    periods = after.ledger.periods
    folded = after.folded
    if folded is None and before.folded is not None:
        folded = np.zeros_like(before.folded[0]), np.zeros_like(before.folded[1])
    return FoldWrite(
        uid=uid,
        expected_sequence=before.sequence,
        offset=after.offset,
        epoch=after.ledger.epoch,
        layout=after.ledger.layout,
        counts=after.counts,
        exposures_lost=after.exposures_lost,
        set_periods={
            number: period
            for number, period in sorted(periods.items())
            if not alike(before.ledger.periods.get(number), period)
        },
        drop_periods=tuple(sorted(before.ledger.periods.keys() - periods.keys())),
        set_pages={key: page for key, page in now.items() if not alike(was.get(key), page)},
        drop_pages=[key for key in was if key not in now],
        add_foreign={key: ids for key, ids in new.items() if key not in old},
        replace_foreign={key: new[key] for key in both if new[key] != old[key]},
        drop_foreign=[key for key in old if key not in new],
        exposed={
            issuer: following
            for issuer, following in after.seen.exposed.items()
            if before.seen.exposed.get(issuer) != following
        },
        folded=folded,
        removals=after.removals,
    )


def alike(a: object, b: object) -> bool:
    """Are two values the same bit for bit? Parts of dataclasses one by one, arrays with shape and type."""
    if isinstance(a, np.ndarray) and isinstance(b, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if is_dataclass(a) and type(a) is type(b):
        return all(alike(getattr(a, each.name), getattr(b, each.name)) for each in fields(a))
    if isinstance(a, np.ndarray) or isinstance(b, np.ndarray):
        return False
    return a == b


def _pages(seen: Seen) -> dict[PageKey, Page | ValuePage]:
    return {**seen.pages, **seen.values}

"""What is served in the place of experiments of which arms are stopped at this machine."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from bandit.decide import Reason, Table, fallback_table, stopped_table
from server.snapshot.view import Entry, Snapshot
from server.stops import Ordered, Stop

log = structlog.get_logger(__name__)


def stopped_arms(entry: Entry, ordered: Ordered) -> list[int]:
    """Indexes of the arms that are stopped here and that the store does not have rolled back.

    While the orders cannot be read, every arm but the control may be one of them.
    """
    arms = entry.experiment.spec.arms
    live = [
        index
        for index, state in enumerate(entry.experiment.arms)
        if state.rollback is None and index != entry.experiment.spec.control_index
    ]
    if ordered.fault:
        return live
    stops = [stop for stop in ordered.stops if stop.uid == entry.experiment.uid]
    return [
        index for index in live if any(is_of(stop, arms[index].name, arms[index].digest) for stop in stops)
    ]


def matters(stop: Stop, snapshot: Snapshot | None) -> bool:
    """Would the arm have traffic here, as far as this server knows, if the stop were not there?"""
    entry = None if snapshot is None else snapshot.by_uid.get(stop.uid)
    return entry is not None and bool(stopped_arms(entry, Ordered((stop,))))


def is_of(stop: Stop, arm: str, digest: str) -> bool:
    """Is the stop of this build? Another build of the name is another arm."""
    return (stop.arm, stop.digest) == (arm, digest)


def stopped_tables(entries: Iterable[Entry], ordered: Ordered) -> dict[str, Table]:
    """Experiment -> its table without the arms that are stopped here; only those that have such arms."""
    if not ordered.stops and not ordered.fault:
        return {}
    found: dict[str, Table] = {}
    for entry in entries:
        if entry.table.reason is Reason.FALLBACK or not (arms := stopped_arms(entry, ordered)):
            continue
        try:
            found[entry.table.name] = stopped_table(entry.experiment, entry.allocation, arms)
        except Exception:  # whatever is wrong, the stop holds
            log.exception("stop_by_fallback", experiment=entry.table.name)
            found[entry.table.name] = fallback_table(entry.experiment, Reason.STOPPED)
    return found

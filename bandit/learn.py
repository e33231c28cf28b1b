"""Log entries -> cells: the fenced writer's arithmetic; it changes the ledger and marks given and says what changed.

Replaying the same entries from the same state gives the same bits: lateness is judged by the log's clock, never
by this machine's. A poisoned entry is counted as rejected and passed over.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bandit.kernels.fold import count_exposures, fold_rewards
from bandit.ledger import COLUMNS, Cells, Layout, Ledger, Period
from bandit.log import (
    EXPOSURE_HEADER,
    EXPOSURES,
    OUTCOME_CONFLICT,
    OUTCOME_DUPLICATE,
    OUTCOME_LATE,
    OUTCOME_REJECTED,
    REWARDS,
    LogEntry,
)
from bandit.reward import CLOCK_SLACK_S, RECORD_BYTES
from bandit.rollout.state import Allocation, Experiment
from bandit.seen import (
    BUCKET_MS,
    PAGE_BITS,
    PAGE_SLOTS,
    BucketKey,
    Page,
    PageKey,
    Seen,
    fingerprint,
    fingerprints,
)
from bandit.spec.model import ExperimentSpec

RECORD_TYPE = np.dtype(
    [
        ("issuer", "<u4"),
        ("epoch", "<u4"),
        ("number", "<u8"),
        ("issued_ms", "<u8"),
        ("allocation", "<u4"),
        ("q", "<u4"),
        ("cohort", "<u2"),
        ("arm", "u1"),
        ("metric", "u1"),
        ("reserved", "<u4"),
    ]
)
EXPOSURE_TYPE = np.dtype([("allocation", "<u4"), ("cohort", "<u2"), ("arm", "u1"), ("pad", "u1")])
Q_LIMIT = 1 << 30
SNAPSHOT_LAG_MS = 1500
"""How long servers may still decide by an allocation after the next one was committed."""

Records = NDArray[np.void]


@dataclass(slots=True)
class Folding:
    """What one fold changed: outcome counts, outcome bytes for those who wait, and every dirty part."""

    outcomes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(8, np.int64))
    replies: dict[bytes, bytes] = field(default_factory=dict)
    periods: set[int] = field(default_factory=set)
    pages: set[PageKey] = field(default_factory=set)
    foreign: dict[BucketKey, dict[int, int]] = field(default_factory=dict)
    issuers: set[int] = field(default_factory=set)
    exposures: int = 0
    exposures_lost: int = 0


def layout_of(spec: ExperimentSpec) -> Layout:
    """Sizes of the cells under a spec."""
    return Layout(1 + (len(spec.cohorts.values) if spec.cohorts else 0), len(spec.arms), len(spec.metrics))


def open_periods(ledger: Ledger, allocations: Iterable[Allocation], experiment: Experiment) -> set[int]:
    """Give each new allocation its period and close the one before. Returns the numbers of changed periods.

    Allocations of an epoch whose spec is forgotten are passed over: nothing of theirs can arrive.
    """
    changed: set[int] = set()
    for allocation in sorted(allocations, key=lambda each: each.number):
        newest = max(ledger.periods, default=0)
        if newest and allocation.number <= ledger.periods[newest].last:
            continue
        spec = experiment.spec_of(allocation.epoch)
        if spec is None:
            continue
        if newest and ledger.periods[newest].end_ms == 0:
            ledger.periods[newest].end_ms = (
                max(allocation.time_ms, ledger.periods[newest].start_ms) + SNAPSHOT_LAG_MS
            )
            changed.add(newest)
        ledger.periods[allocation.number] = Period(
            number=allocation.number,
            last=allocation.number,
            epoch=allocation.epoch,
            start_ms=allocation.time_ms,
            end_ms=0,
            shares_ppm=allocation.shares_ppm,
            centres=allocation.centres,
            cells=Cells.zeros(layout_of(spec)),
        )
        changed.add(allocation.number)
    ledger.epoch, ledger.layout = experiment.epoch, layout_of(experiment.spec)
    return changed


def newest_allocation(entries: Sequence[LogEntry]) -> int:
    """Highest allocation number that the entries speak of, 0 for none: the writer must know its period first."""
    newest = 0
    for entry in entries:
        if entry.kind == REWARDS and len(entry.payload) % RECORD_BYTES == 0:
            newest = max(newest, int(np.frombuffer(entry.payload, RECORD_TYPE)["allocation"].max(initial=0)))
        elif entry.kind == EXPOSURES and (records := _exposures(entry)) is not None:
            newest = max(newest, int(records["allocation"].max(initial=0)))
    return newest


def fold(entries: Sequence[LogEntry], experiment: Experiment, ledger: Ledger, seen: Seen) -> Folding:
    """Fold entries of one experiment, oldest first, into the ledger and marks."""
    folding = Folding()
    places = _Places(ledger)
    rewards: list[LogEntry] = []
    for entry in entries:
        if entry.kind == EXPOSURES:
            _fold_exposures(entry, places, seen, folding)
        elif entry.kind == REWARDS and entry.payload and len(entry.payload) % RECORD_BYTES == 0:
            rewards.append(entry)
        else:
            folding.outcomes[OUTCOME_REJECTED] += max(len(entry.payload) // RECORD_BYTES, 1)
            if entry.reply:
                folding.replies[entry.reply] = bytes([OUTCOME_REJECTED]) * max(
                    len(entry.payload) // RECORD_BYTES, 1
                )
    if rewards:
        _fold_rewards(rewards, experiment, places, seen, folding)
    return folding


class _Places:
    """From allocation number to the period (or block) that holds it, and cells by flat index."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.numbers = sorted(ledger.periods)

    def period(self, allocation: int) -> Period | None:
        """The period of an allocation, or None."""
        at = bisect_right(self.numbers, allocation) - 1
        if at < 0:
            return None
        period = self.ledger.periods[self.numbers[at]]
        return period if allocation <= period.last else None

    def resolved(self, records: Records) -> NDArray[np.int64]:
        """Allocation number of each record; for those without a token, that of the period open at event time."""
        numbers = records["allocation"].astype(np.int64)
        for epoch in np.unique(records["epoch"][records["issuer"] == 0]):
            rows = (records["issuer"] == 0) & (records["epoch"] == epoch)
            periods = [p for n in self.numbers if (p := self.ledger.periods[n]).epoch == epoch]
            if not periods:
                numbers[rows] = 0
                continue
            starts = np.array([period.start_ms for period in periods], np.int64)
            at = np.searchsorted(starts, records["issued_ms"][rows].astype(np.int64), side="right") - 1
            numbers[rows] = np.array([period.number for period in periods], np.int64)[np.maximum(at, 0)]
        return numbers


def _exposures(entry: LogEntry) -> Records | None:
    body = len(entry.payload) - EXPOSURE_HEADER.size
    if body < 0 or body % EXPOSURE_TYPE.itemsize:
        return None
    return np.frombuffer(entry.payload, EXPOSURE_TYPE, offset=EXPOSURE_HEADER.size)


def _fold_exposures(entry: LogEntry, places: _Places, seen: Seen, folding: Folding) -> None:
    records = _exposures(entry)
    if records is None:
        folding.outcomes[OUTCOME_REJECTED] += 1
        return
    issuer, _, first = EXPOSURE_HEADER.unpack_from(entry.payload)
    expected = seen.exposed.get(issuer, 0)
    if first > expected:
        folding.exposures_lost += first - expected
    fresh = records[max(expected - first, 0) :]
    if first + len(records) <= expected:
        return
    seen.exposed[issuer] = first + len(records)
    folding.issuers.add(issuer)
    for allocation in np.unique(fresh["allocation"]):
        rows = fresh[fresh["allocation"] == allocation]
        period = places.period(int(allocation))
        if period is None:
            folding.exposures_lost += len(rows)
            continue
        layout = period.cells.layout
        cohort = np.where(rows["cohort"] < layout.cohorts, rows["cohort"], 0).astype(np.int64)
        known = rows["arm"] < layout.arms
        folding.exposures_lost += int((~known).sum())
        cell = (cohort * layout.arms + rows["arm"])[known]
        count_exposures(cell, period.cells.exposures.reshape(-1))
        folding.exposures += len(cell)
        folding.periods.add(period.number)


def _fold_rewards(
    entries: list[LogEntry], experiment: Experiment, places: _Places, seen: Seen, folding: Folding
) -> None:
    records = np.frombuffer(b"".join(entry.payload for entry in entries), RECORD_TYPE)
    counts = [len(entry.payload) // RECORD_BYTES for entry in entries]
    log_ms = np.repeat(np.array([entry.time_ms for entry in entries], np.int64), counts)
    outcome = np.zeros(len(records), np.uint8)
    _judge_age(records, log_ms, experiment, outcome)
    outcome[records["q"] > Q_LIMIT] = OUTCOME_REJECTED
    cell, bases, width = _cells(records, places, outcome)
    if (foreign := np.flatnonzero((records["issuer"] == 0) & (outcome == 0))).size:
        _mark_foreign(records, foreign, seen, folding, outcome)
    _add(records, cell, width, bases, seen, folding, outcome)
    folding.outcomes += np.bincount(outcome, minlength=8)
    start = 0
    for entry, count in zip(entries, counts, strict=True):
        if entry.reply:
            folding.replies[entry.reply] = outcome[start : start + count].tobytes()
        start += count


def _judge_age(
    records: Records, log_ms: NDArray[np.int64], experiment: Experiment, outcome: NDArray[np.uint8]
) -> None:
    """Set late and rejected where the window was closed when the log took it, or the epoch is forgotten."""
    for epoch in np.unique(records["epoch"]):
        rows = records["epoch"] == epoch
        spec = experiment.spec_of(int(epoch))
        if spec is None:
            outcome[rows] = OUTCOME_REJECTED
            continue
        windows = np.array([m.attribution_window + CLOCK_SLACK_S for m in spec.metrics]) * 1000
        known = rows & (records["metric"] < len(windows))
        outcome[rows & ~known] = OUTCOME_REJECTED
        age = log_ms[known] - records["issued_ms"][known].astype(np.int64)
        outcome[known] = np.where(age > windows[records["metric"][known]], OUTCOME_LATE, 0)


def _cells(
    records: Records, places: _Places, outcome: NDArray[np.uint8]
) -> tuple[NDArray[np.int64], dict[int, tuple[Period, int]], int]:
    """Flat cell of each record over the periods involved, their base offsets, and the total width."""
    cell = np.zeros(len(records), np.int64)
    bases: dict[int, tuple[Period, int]] = {}
    width = 0
    numbers = places.resolved(records)
    for number in np.unique(numbers):
        rows = numbers == number
        period = places.period(int(number))
        if period is None:
            outcome[rows & (outcome == 0)] = OUTCOME_REJECTED
            continue
        layout = period.cells.layout
        fits = (
            rows
            & (records["arm"] < layout.arms)
            & (records["metric"] < layout.metrics)
            & (records["epoch"] == period.epoch)
        )
        outcome[rows & ~fits & (outcome == 0)] = OUTCOME_REJECTED
        if period.number not in bases:
            bases[period.number] = (period, width)
            width += layout.cohorts * layout.arms * layout.metrics
        base = bases[period.number][1]
        found = records[fits]
        cohort = np.where(found["cohort"] < layout.cohorts, found["cohort"], 0).astype(np.int64)
        cell[fits] = base + (cohort * layout.arms + found["arm"]) * layout.metrics + found["metric"]
    return cell, bases, width


def _mark_foreign(
    records: Records, rows: NDArray[np.int64], seen: Seen, folding: Folding, outcome: NDArray[np.uint8]
) -> None:
    """Marks of rewards without a token: repeats get their outcome here, first ones go on to be added."""
    for row in rows:
        record = records[row]
        key = BucketKey(int(record["issued_ms"]) // BUCKET_MS, int(record["epoch"]), int(record["metric"]))
        bucket = seen.foreign.setdefault(key, {})
        number, mark = int(record["number"]), fingerprint(int(record["q"]))
        before = bucket.get(number)
        if before is None:
            bucket[number] = mark
            folding.foreign.setdefault(key, {})[number] = mark
        else:
            outcome[row] = OUTCOME_DUPLICATE if before == mark else OUTCOME_CONFLICT


def _add(
    records: Records,
    cell: NDArray[np.int64],
    width: int,
    bases: Mapping[int, tuple[Period, int]],
    seen: Seen,
    folding: Folding,
    outcome: NDArray[np.uint8],
) -> None:
    """Test the marks and add, through the kernel; then hand marks and sums back to their owners."""
    live = outcome == 0
    keys, row = _page_rows(records, live)
    first_ms = np.zeros(len(keys) + 1, np.int64)
    np.maximum.at(first_ms, row[live], records["issued_ms"][live].astype(np.int64))
    pages = np.zeros((len(keys) + 1, PAGE_SLOTS), np.uint16)
    for index, key in enumerate(keys):
        if key.issuer and key in seen.pages:
            pages[index] = seen.pages[key].marks
    slot = (records["number"] & np.uint64(PAGE_SLOTS - 1)).astype(np.int64)
    tokenless = live & (records["issuer"] == 0)
    sums = np.zeros((max(width, 1), COLUMNS), np.int64)
    q = records["q"].astype(np.int64)
    tokens = np.where(tokenless, OUTCOME_REJECTED, outcome).astype(np.uint8)
    fold_rewards(row, slot, fingerprints(records["q"]), cell, q, pages, sums, tokens)
    outcome[~tokenless] = tokens[~tokenless]
    if tokenless.any():  # their marks were tested by id; here each only needs adding
        cells, values = cell[tokenless], q[tokenless]
        fresh = np.arange(len(cells), dtype=np.int64)
        blank = np.zeros((len(cells) // PAGE_SLOTS + 1, PAGE_SLOTS), np.uint16)
        first = np.zeros(len(cells), np.uint8)
        fold_rewards(
            fresh // PAGE_SLOTS,
            fresh % PAGE_SLOTS,
            np.ones(len(cells), np.uint16),
            cells,
            values,
            blank,
            sums,
            first,
        )
        outcome[tokenless] = first
    for index, key in enumerate(keys):
        if key.issuer:
            before = seen.pages.get(key)
            newest = max(int(first_ms[index]), before.newest_ms if before else 0)
            seen.pages[key] = Page(newest, pages[index].copy())
            folding.pages.add(key)
    for number, (period, base) in bases.items():
        cells = period.cells.sums
        part = sums[base : base + cells.size // COLUMNS]
        if part.any():
            cells += part.reshape(cells.shape)
            folding.periods.add(number)


def _page_rows(records: Records, live: NDArray[np.bool_]) -> tuple[list[PageKey], NDArray[np.int64]]:
    """The pages that the live records touch, and the row of each record among them (a spare row for the rest)."""
    page = records["number"] >> np.uint64(PAGE_BITS)
    order = np.lexsort((page, records["metric"], records["epoch"], records["issuer"]))
    order = order[live[order]]
    row = np.zeros(len(records), np.int64)
    if not order.size:
        return [], row
    sorted_ = [column[order] for column in (records["issuer"], records["epoch"], records["metric"], page)]
    new = np.zeros(order.size, np.bool_)
    new[0] = True
    for column in sorted_:
        new[1:] |= column[1:] != column[:-1]
    row[order] = np.cumsum(new) - 1
    keys = [PageKey(*map(int, values)) for values in zip(*(column[new] for column in sorted_), strict=True)]
    row[~live] = len(keys)
    return keys, row

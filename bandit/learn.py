"""Log entries -> cells: the fenced writer's arithmetic; it changes the ledger and marks given and says what changed.

Replaying the same entries from the same state gives the same bits: lateness is judged by the log's clock, never
by this machine's. A poisoned entry is counted as rejected and passed over, and so is one of a source in quarantine.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from bandit.batch import (
    Batch,
    Places,
    Records,
    Rows,
    batch_of,
    find_places,
    hand_back,
    judge,
    pieces_of,
    place_of_bucket,
)
from bandit.counting import Tables, layout_of
from bandit.kernels.fold import count_exposures, fold_rewards
from bandit.kernels.values import fold_clusters, fold_derived
from bandit.learn_linear import Changed, first_values, fold_linear, fold_weighed
from bandit.ledger import Cells, Ledger, Period
from bandit.linear import sums, weights
from bandit.log import (
    EXPOSURE_HEADER,
    EXPOSURES,
    OUTCOME_APPLIED,
    OUTCOME_CONFLICT,
    OUTCOME_DUPLICATE,
    OUTCOME_REJECTED,
    LogEntry,
)
from bandit.remember import Rows as Remembered
from bandit.remember import fold_remembered
from bandit.reward import RECORD_BYTES
from bandit.rollout.quarantine import rejects
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

EXPOSURE_TYPE = np.dtype([("allocation", "<u4"), ("cohort", "<u2"), ("arm", "u1"), ("bucket", "u1")])
SNAPSHOT_LAG_MS = 1500
"""How long servers may still decide by an allocation after the next one was committed."""


@dataclass(slots=True)
class Folding:
    """What one fold changed: outcome counts, outcome bytes for those who wait, and every dirty part.

    ``sources``: outcome counts by source, as ``LogEntry.source`` names it.
    """

    outcomes: NDArray[np.int64] = field(default_factory=lambda: np.zeros(8, np.int64))
    sources: dict[bytes, NDArray[np.int64]] = field(default_factory=dict)
    replies: dict[bytes, bytes] = field(default_factory=dict)
    periods: set[int] = field(default_factory=set)
    pages: set[PageKey] = field(default_factory=set)
    values: set[PageKey] = field(default_factory=set)
    foreign: dict[BucketKey, dict[int, int]] = field(default_factory=dict)
    issuers: set[int] = field(default_factory=set)
    exposures: int = 0
    exposures_lost: int = 0

    def count(self, source: bytes, ended: NDArray[np.int64]) -> None:
        """Add what ``ended`` [8] how, by outcome."""
        self.outcomes += ended
        found = self.sources.get(source)
        self.sources[source] = ended.copy() if found is None else found + ended


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
            apart_ppm=allocation.apart_ppm,
            linear=sums.zeros(spec),
            weighed=weights.zeros(spec),
        )
        changed.add(allocation.number)
    ledger.epoch, ledger.layout = experiment.epoch, layout_of(experiment.spec)
    return changed


def newest_allocation(entries: Sequence[LogEntry], uid: int) -> int:
    """Highest allocation number that entries of this experiment speak of, 0 for none: the writer must know its period
    first."""
    newest = 0
    for entry in entries:
        if _is_foreign(entry, uid):
            continue
        if entry.kind == EXPOSURES:
            records = _exposures(entry)
        else:
            pieces = pieces_of(entry)
            records = None if pieces is None else pieces[0]
        if records is not None:
            newest = max(newest, int(records["allocation"].max(initial=0)))
    return newest


def fold(entries: Sequence[LogEntry], experiment: Experiment, ledger: Ledger, seen: Seen) -> Folding:
    """Fold entries of one experiment, oldest first, into the ledger and marks.

    Those accepted for another experiment of its name, which was deleted by then, are rejected and counted nowhere.
    """
    folding = Folding()
    places = Places(ledger)
    rewards: list[LogEntry] = []
    for entry in entries:
        if _is_foreign(entry, experiment.uid):
            if entry.reply:
                found = pieces_of(entry)
                folding.replies[entry.reply] = bytes([OUTCOME_REJECTED]) * (
                    len(found.records) if found else 1
                )
        elif entry.kind == EXPOSURES:
            _fold_exposures(entry, places, seen, folding)
        elif pieces_of(entry) is None or rejects(experiment.quarantines, entry):
            _refuse(entry, folding)
        else:
            rewards.append(entry)
    if rewards:
        _fold_rewards(rewards, experiment, ledger, seen, folding)
    return folding


def _refuse(entry: LogEntry, folding: Folding) -> None:
    found = pieces_of(entry)
    count = len(found.records) if found else max(len(entry.payload) // RECORD_BYTES, 1)
    folding.count(entry.source, np.bincount([OUTCOME_REJECTED], [count], 8).astype(np.int64))
    if entry.reply:
        folding.replies[entry.reply] = bytes([OUTCOME_REJECTED]) * count


def _is_foreign(entry: LogEntry, uid: int) -> bool:
    return entry.uid not in (0, uid)


def _exposures(entry: LogEntry) -> Records | None:
    body = len(entry.payload) - EXPOSURE_HEADER.size
    if body < 0 or body % EXPOSURE_TYPE.itemsize:
        return None
    return np.frombuffer(entry.payload, EXPOSURE_TYPE, offset=EXPOSURE_HEADER.size)


def _fold_exposures(entry: LogEntry, places: Places, seen: Seen, folding: Folding) -> None:
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
        if period.cells.visits is not None:
            place = place_of_bucket(rows["bucket"][known], layout)
            visit = rows["arm"][known].astype(np.int64) * layout.buckets + place
            count_exposures(visit[place >= 0], period.cells.visits.reshape(-1))
        folding.exposures += len(cell)
        folding.periods.add(period.number)


def _fold_rewards(
    entries: list[LogEntry], experiment: Experiment, ledger: Ledger, seen: Seen, folding: Folding
) -> None:
    batch = batch_of(entries, ledger)
    records, outcome = batch.records, batch.outcome
    epochs = judge(batch, experiment)
    find_places(batch)
    remembered = np.zeros(len(records), np.bool_)
    replaced: list[tuple[int, Changed]] = []
    for epoch, tables in epochs.items():
        if tables.remembered.size:
            own = (outcome == 0) & (records["issuer"] != 0) & (records["epoch"] == epoch)
            own[own] = tables.join[batch.metric[own]] >= 0
            if (rows := np.flatnonzero(own)).size:
                remembered |= own
                replaced.append((epoch, _fold_remembered(batch, rows, epoch, tables, seen, folding)))
    if (foreign := np.flatnonzero((records["issuer"] == 0) & (outcome == 0))).size:
        _mark_foreign(records, foreign, seen, folding, outcome)
    if not remembered.all():
        _add(batch, seen, folding)
    counts = (outcome == OUTCOME_APPLIED) & ~remembered
    for epoch, tables in epochs.items():
        if tables.kind.size:
            own = counts & (records["epoch"] == epoch)
            fold_derived(
                own, batch.place, batch.metric, batch.q, batch.part(tables), batch.sums,
                tables.start, tables.column, tables.kind, tables.threshold, tables.logs, tables.silent,
            )  # fmt: skip
    if len(batch.clusters) > 1:
        fold_clusters(counts, batch.bucket, batch.q, batch.clusters)
    folding.periods |= hand_back(batch)
    if batch.width.any():
        replaced += [(epoch, first_values(counts, batch.q)) for epoch in epochs]
        folding.periods |= fold_linear(batch, experiment, replaced)
        folding.periods |= fold_weighed(batch, experiment, replaced)
    _count(entries, batch.counts, outcome, folding)
    start = 0
    for entry, count in zip(entries, batch.counts, strict=True):
        if entry.reply:
            folding.replies[entry.reply] = outcome[start : start + count].tobytes()
        start += count


def _count(
    entries: Sequence[LogEntry], counts: Sequence[int], outcome: NDArray[np.uint8], folding: Folding
) -> None:
    """Outcomes by source; nearly always there is one source only."""
    named = {source: index for index, source in enumerate(dict.fromkeys(entry.source for entry in entries))}
    if len(named) == 1:
        folding.count(entries[0].source, np.bincount(outcome, minlength=8))
        return
    owner = np.repeat([named[entry.source] for entry in entries], counts)
    table = np.bincount(owner * 8 + outcome, minlength=8 * len(named)).reshape(-1, 8)
    for source, index in named.items():
        folding.count(source, table[index])


def _fold_remembered(
    batch: Batch, rows: Rows, epoch: int, tables: Tables, seen: Seen, folding: Folding
) -> Changed:
    records = batch.records
    kept = Remembered(
        issuer=records["issuer"][rows].astype(np.int64),
        number=records["number"][rows],
        issued_ms=records["issued_ms"][rows].astype(np.int64),
        metric=batch.metric[rows],
        q=batch.q[rows],
        op=batch.op[rows],
        order=batch.order[rows],
        event=batch.event[rows],
        part=batch.part(tables)[rows],
        place=batch.place[rows],
        bucket=batch.bucket[rows],
        outcome=batch.outcome[rows],
    )
    pages, (row, before, after) = fold_remembered(kept, epoch, tables, seen, batch.sums, batch.clusters)
    folding.values |= pages
    batch.outcome[rows] = kept.outcome
    return Changed(rows[row], before, after)


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


def _add(batch: Batch, seen: Seen, folding: Folding) -> None:
    """Test the marks and add, through the kernel; then hand the marks back to their owners."""
    records, outcome = batch.records, batch.outcome
    cell = batch.place + batch.metric
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
    q = batch.q
    tokens = np.where(tokenless, OUTCOME_REJECTED, outcome).astype(np.uint8)
    fold_rewards(row, slot, fingerprints(records["q"]), cell, q, pages, batch.sums, tokens)
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
            batch.sums,
            first,
        )
        outcome[tokenless] = first
    for index, key in enumerate(keys):
        if key.issuer:
            before = seen.pages.get(key)
            newest = max(int(first_ms[index]), before.newest_ms if before else 0)
            seen.pages[key] = Page(newest, pages[index].copy())
            folding.pages.add(key)


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

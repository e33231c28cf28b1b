"""Rewards of a portion of the log as columns: what each says, whether it may count, and where it is added.

Lateness is judged by the log's clock, never by this machine's. Marks are tested and sums added in ``bandit.learn``.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.counting import Tables, tables_of
from bandit.ledger import BUCKETS, COLUMNS, Layout, Ledger, Period
from bandit.linear.weights import SHARE_BYTES, mark_bytes
from bandit.log import (
    AMENDMENTS,
    OUTCOME_LATE,
    OUTCOME_REJECTED,
    REPORT,
    RETRACT,
    REWARDS,
    LogEntry,
)
from bandit.reward import AMENDMENT_BYTES, CLOCK_SLACK_S, RECORD_BYTES
from bandit.rollout.state import Experiment
from bandit.token import MOST_FEATURES

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
        ("bucket", "<u4"),
    ]
)
AMENDMENT_TYPE = np.dtype(
    [("reward", RECORD_TYPE), ("order", "<u8"), ("event", "<u8"), ("op", "u1"), ("pad", "V7")]
)
_SIZES = {REWARDS: RECORD_BYTES, AMENDMENTS: AMENDMENT_BYTES}
_TYPES = {REWARDS: RECORD_TYPE, AMENDMENTS: AMENDMENT_TYPE}
Q_LIMIT = 1 << 30
MOST_BROUGHT = MOST_FEATURES + SHARE_BYTES
"""Bytes of features and shares behind a reward."""

Records = NDArray[np.void]
Rows = NDArray[np.int64]


class Pieces(NamedTuple):
    """Of an entry of n rewards: records [n], what amends them [n] and their features u1[n, F], where it has those."""

    records: Records
    amended: Records | None
    features: NDArray[np.uint8] | None


class Places:
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

    def resolved(self, records: Records, log_ms: NDArray[np.int64]) -> NDArray[np.int64]:
        """Allocation number of each record; for those without a token, that of the period open at event time.

        An event from when the log took it, or after, is of the moment before: so it is of the same period also where
        allocations that came later are known already.
        """
        numbers = records["allocation"].astype(np.int64)
        for epoch in np.unique(records["epoch"][records["issuer"] == 0]):
            rows = (records["issuer"] == 0) & (records["epoch"] == epoch)
            periods = [p for n in self.numbers if (p := self.ledger.periods[n]).epoch == epoch]
            if not periods:
                numbers[rows] = 0
                continue
            starts = np.array([period.start_ms for period in periods], np.int64)
            happened = np.minimum(records["issued_ms"][rows].astype(np.int64), log_ms[rows] - 1)
            at = np.searchsorted(starts, happened, side="right") - 1
            numbers[rows] = np.array([period.number for period in periods], np.int64)[np.maximum(at, 0)]
        return numbers


def pieces_of(entry: LogEntry) -> Pieces | None:
    """Records of a reward entry, with what amends them and their features where it has that; None for an entry that
    has none."""
    size, features = _SIZES.get(entry.kind[:1]), int.from_bytes(entry.kind[1:], "big")
    if size is None or len(entry.kind) > 2 or features > MOST_BROUGHT:
        return None
    if not entry.payload or len(entry.payload) % (size + features):
        return None
    rows = np.frombuffer(entry.payload, np.uint8).reshape(-1, size + features)
    own = np.ascontiguousarray(rows[:, :size]).view(_TYPES[entry.kind[:1]])[:, 0]
    behind = rows[:, size:] if features else None
    if entry.kind[:1] == REWARDS:
        return Pieces(own, None, behind)
    return Pieces(own["reward"], own, behind)


def batch_of(entries: Sequence[LogEntry], ledger: Ledger) -> Batch:
    if all(entry.kind == REWARDS for entry in entries):
        records = np.frombuffer(b"".join(entry.payload for entry in entries), RECORD_TYPE)
        counts = [len(entry.payload) // RECORD_BYTES for entry in entries]
        return Batch(records, counts, entries, ledger)
    pieces = [found for entry in entries if (found := pieces_of(entry)) is not None]
    counts = [len(each.records) for each in pieces]
    batch = Batch(np.concatenate([each.records for each in pieces]), counts, entries, ledger)
    start = 0
    for records, amended, features in pieces:
        part = slice(start, start + len(records))
        if amended is not None:
            batch.op[part], batch.order[part], batch.event[part] = (
                amended[name] for name in ("op", "order", "event")
            )
        if features is not None:
            batch.bring(part, features)
        start += len(records)
    return batch


class Batch:
    """Rewards in the order of the log, [n] each, and the sums they are added to before their periods get them."""

    def __init__(
        self, records: Records, counts: list[int], entries: Sequence[LogEntry], ledger: Ledger
    ) -> None:
        n = len(records)
        self.records = records
        self.q, self.metric = records["q"].astype(np.int64), records["metric"].astype(np.int64)
        self.counts = counts
        self.log_ms = np.repeat(np.array([entry.time_ms for entry in entries], np.int64), counts)
        self.outcome = np.zeros(n, np.uint8)
        self.op = np.full(n, REPORT, np.int64)
        self.order, self.event = np.zeros(n, np.uint64), np.zeros(n, np.uint64)
        self.width = np.zeros(n, np.int64)
        self.features = np.zeros((n, 0), np.uint8)
        self.places = Places(ledger)
        self.place = np.zeros(n, np.int64)
        self.bucket = np.full(n, -1, np.int64)
        self.bases: dict[int, tuple[Period, int, int]] = {}
        self.sums = np.zeros((1, COLUMNS), np.int64)
        self.clusters = np.zeros((1, 2), np.int64)

    def bring(self, rows: slice, features: NDArray[np.uint8]) -> None:
        """Take up the features of some rewards; ``width`` [n] says how many each has, ``features`` [n, most] which."""
        width = features.shape[1]
        if width > self.features.shape[1]:
            wider = np.zeros((len(self.features), width), np.uint8)
            wider[:, : self.features.shape[1]] = self.features
            self.features = wider
        self.width[rows] = width
        self.features[rows, :width] = features

    def part(self, tables: Tables) -> NDArray[np.int64]:
        """Which part of the attribution window the delay of each reward fits in; -1 where no delay is known."""
        if not tables.early.any():
            return np.full(len(self.q), -1, np.int64)
        delay = self.log_ms - self.records["issued_ms"].astype(np.int64)
        known = np.minimum(self.metric, len(tables.early_ms) - 1)
        part = (delay[:, None] > tables.early_ms[known]).sum(axis=1)
        return np.where(self.records["issuer"] == 0, -1, part)


def judge(batch: Batch, experiment: Experiment) -> dict[int, Tables]:
    """Set late and rejected; returns how each epoch counts.

    Late: the window was closed when the log took it. Rejected: the epoch is forgotten, there is no such metric or it
    has no rewards of its own, the value or operation is none, or would need values that are not remembered, or the
    features are not those of the spec.
    """
    records, outcome = batch.records, batch.outcome
    found: dict[int, Tables] = {}
    for epoch in np.unique(records["epoch"]).tolist():
        rows = records["epoch"] == epoch
        spec = experiment.spec_of(epoch)
        if spec is None:
            outcome[rows] = OUTCOME_REJECTED
            continue
        tables = found[epoch] = tables_of(spec)
        known = rows & (batch.metric < len(tables.counted))
        outcome[rows & ~known] = OUTCOME_REJECTED
        metric = batch.metric[known]
        age = batch.log_ms[known] - records["issued_ms"][known].astype(np.int64)
        judged = np.where(age > tables.window_ms[metric] + CLOCK_SLACK_S * 1000, OUTCOME_LATE, 0)
        op = batch.op[known]
        takes = (op == REPORT) | ((op > 0) & (op <= RETRACT) & (tables.join[metric] >= 0))
        takes &= (op == REPORT) | (records["issuer"][known] != 0)
        wanted = np.isin(metric, spec.learned) * len(spec.features)
        marked = wanted + (mark_bytes(spec) + SHARE_BYTES if spec.weighs else 0)
        takes &= (batch.width[known] == wanted) | (batch.width[known] == marked)
        judged[~takes | (tables.counted[metric] == 0)] = OUTCOME_REJECTED
        outcome[known] = judged
    outcome[records["q"] > Q_LIMIT] = OUTCOME_REJECTED
    return found


def find_places(batch: Batch) -> None:
    """Row of each record's channel 0 over the periods involved, and that of its bucket."""
    records, outcome = batch.records, batch.outcome
    width, clusters = 0, 0
    numbers = batch.places.resolved(records, batch.log_ms)
    for number in np.unique(numbers).tolist():
        rows = numbers == number
        period = batch.places.period(number)
        if period is None:
            outcome[rows & (outcome == 0)] = OUTCOME_REJECTED
            continue
        layout = period.cells.layout
        fits = rows & (records["arm"] < layout.arms) & (records["epoch"] == period.epoch)
        outcome[rows & ~fits & (outcome == 0)] = OUTCOME_REJECTED
        if period.number not in batch.bases:
            batch.bases[period.number] = (period, width, clusters)
            width += layout.cohorts * layout.arms * layout.channels
            clusters += layout.arms * layout.clustered * layout.buckets
        _, base, start = batch.bases[period.number]
        arm = records["arm"][fits].astype(np.int64)
        cohort = records["cohort"][fits].astype(np.int64)
        cohort[cohort >= layout.cohorts] = 0
        batch.place[fits] = base + (cohort * layout.arms + arm) * layout.channels
        if layout.clustered:
            place = place_of_bucket(records["bucket"][fits], layout)
            at = start + (arm * layout.clustered + batch.metric[fits]) * layout.buckets + place
            at[place < 0] = -1
            batch.bucket[fits] = at
    batch.sums = np.zeros((max(width, 1), COLUMNS), np.int64)
    batch.clusters = np.zeros((max(clusters, 1), 2), np.int64)


def place_of_bucket(bucket: NDArray[np.unsignedinteger[Any]], layout: Layout) -> NDArray[np.int64]:
    """Place of each decision among the buckets of a layout, -1 where its unit is not known; ``bucket`` as
    ``ledger.bucket_of`` gives it."""
    place = bucket.astype(np.int64) - 1
    known = (place >= 0) & (place < 2 * BUCKETS)
    return np.where(known, place % layout.buckets, -1)


def hand_back(batch: Batch) -> set[int]:
    """Give each period what was added for it. Returns the numbers of the changed ones."""
    given: set[int] = set()
    for number, (period, base, start) in batch.bases.items():
        cells = period.cells
        part = batch.sums[base : base + cells.sums.size // COLUMNS]
        changed = part.any()
        if changed:
            cells.sums += part.reshape(cells.sums.shape)
        if cells.clusters is not None:
            own = batch.clusters[start : start + cells.clusters.size // 2]
            cells.clusters += own.reshape(cells.clusters.shape)
            changed = changed or own.any()
        if changed:
            given.add(number)
    return given

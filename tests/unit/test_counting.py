"""How rewards are counted: outcomes of corrections and aggregates, what is refused, logarithms and hash buckets."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandit.counting import AGGREGATES, tables_of
from bandit.errors import Rejected
from bandit.kernels import values as kernels
from bandit.learn import fold, open_periods
from bandit.ledger import BUCKETS, ONE, S1, S2_HIGH, S2_LOW, Ledger, N, cluster_totals, fold_block, quantise
from bandit.log import (
    AMENDMENTS,
    CORRECT,
    OUTCOME_APPLIED,
    OUTCOME_CONFLICT,
    OUTCOME_DUPLICATE,
    OUTCOME_LATE,
    OUTCOME_REJECTED,
    OUTCOME_SUPERSEDED,
    REPORT,
    RETRACT,
    REWARDS,
    LogEntry,
)
from bandit.remember import MOST_EVENTS
from bandit.reward import (
    AMENDMENT_BYTES,
    RECORD_BYTES,
    Amendment,
    RewardEvent,
    RewardRecord,
    accept_with_token,
    accept_without_token,
)
from bandit.seen import Seen
from bandit.spec.channels import ChannelKind, log_scale
from bandit.spec.check_counting import counting_findings
from bandit.spec.metric import Metric
from bandit.token import Claims
from tests.builders import NOW, running, spec

METRICS: list[dict[str, Any]] = [
    {"name": "first", "kind": "gaussian", "direction": "maximize", "range": [0, 1], "corrections": True},
    {"name": "last", "kind": "gaussian", "direction": "maximize", "range": [0, 1], "aggregate": "last"},
    {"name": "sum", "kind": "gaussian", "direction": "maximize", "range": [0, 1], "aggregate": "sum"},
    {"name": "max", "kind": "gaussian", "direction": "maximize", "range": [0, 1], "aggregate": "max"},
    {"name": "plain", "kind": "gaussian", "direction": "maximize", "range": [0, 1]},
]
FIRST, LAST, SUM, MAX, PLAIN = range(5)
EXPERIMENT, ALLOCATION = running(metrics=METRICS, objective=[{"metric": "plain"}], rewards_without_token=True)
CLAIMS = Claims(7, 1, ALLOCATION.number, 5, 99, NOW, (1 << 40) + 13, 300_000, 0, 1)


class Book:
    """A ledger that rewards of one decision are told to, one by one."""

    def __init__(self) -> None:
        self.ledger = Ledger(1, tables_of(EXPERIMENT.spec).layout)
        open_periods(self.ledger, [ALLOCATION], EXPERIMENT)
        self.seen = Seen()

    def tell(self, metric: int, op: int, q: int, order: int = 0, event: int = 0, after_ms: int = 10) -> int:
        """The outcome."""
        record = RewardRecord(5, 1, 99, NOW, ALLOCATION.number, q, 0, 1, metric, 14)
        entry = LogEntry(
            f"{NOW + after_ms}-0", AMENDMENTS, Amendment(record, order, event, op).pack(), b"who"
        )
        folding = fold([entry], EXPERIMENT, self.ledger, self.seen)
        assert folding.outcomes.sum() == 1
        return folding.replies[b"who"][0]

    def cell(self, metric: int) -> tuple[int, int, int]:
        """(n, s1, s2) of the decision's arm."""
        cell = self.ledger.periods[ALLOCATION.number].cells.sums[0, 1, metric]
        return int(cell[N]), int(cell[S1]), int(cell[S2_HIGH]) * ONE + int(cell[S2_LOW])


@pytest.fixture
def book() -> Book:
    return Book()


def test_the_kernels_mean_the_same_kinds() -> None:
    named = {"LOG": kernels.LOG, "LEVEL": kernels.LEVEL, "CUBE": kernels.CUBE, "ABOVE": kernels.ABOVE}
    assert {name: ChannelKind[name] for name in named} == named
    assert ChannelKind.EARLY == kernels.EARLY
    both = {"first": kernels.FIRST, "last": kernels.LAST, "sum": kernels.SUM, "max": kernels.MAX}
    assert both == AGGREGATES


def test_a_reward_corrected_three_times_is_one_reward(book: Book) -> None:
    """n stays, and the sums are those of the last value, exactly."""
    assert book.tell(FIRST, REPORT, 12345) == OUTCOME_APPLIED
    for order, q in enumerate((ONE, 7, 424_242), start=1):
        assert book.tell(FIRST, CORRECT, q, order) == OUTCOME_APPLIED
        assert book.cell(FIRST) == (1, q, q * q)
    assert book.tell(FIRST, CORRECT, 424_242, 3) == OUTCOME_DUPLICATE
    assert book.tell(FIRST, CORRECT, 7, 2) == OUTCOME_SUPERSEDED
    assert book.tell(FIRST, CORRECT, 5, 3) == OUTCOME_CONFLICT
    assert book.tell(FIRST, REPORT, 12345) == OUTCOME_DUPLICATE
    assert book.tell(FIRST, REPORT, 12346) == OUTCOME_CONFLICT
    assert book.cell(FIRST) == (1, 424_242, 424_242**2)


def test_a_retraction_stands_until_something_newer(book: Book) -> None:
    assert book.tell(FIRST, RETRACT, 0, 5) == OUTCOME_APPLIED  # before the report came
    assert book.tell(FIRST, REPORT, 77) == OUTCOME_SUPERSEDED
    assert book.cell(FIRST) == (0, 0, 0)
    assert book.tell(FIRST, CORRECT, 88, 4) == OUTCOME_SUPERSEDED
    assert book.tell(FIRST, CORRECT, 88, 6) == OUTCOME_APPLIED
    assert book.cell(FIRST) == (1, 88, 88 * 88)


def test_the_last_by_event_time_counts_whatever_came_last(book: Book) -> None:
    assert book.tell(LAST, REPORT, 10, order=500) == OUTCOME_APPLIED
    assert book.tell(LAST, REPORT, 99, order=400) == OUTCOME_SUPERSEDED
    assert book.tell(LAST, REPORT, 11, order=500) == OUTCOME_APPLIED  # of two at the same time, the larger
    assert book.tell(LAST, REPORT, 10, order=500) == OUTCOME_CONFLICT
    assert book.cell(LAST) == (1, 11, 121)


def test_a_sum_adds_each_event_once_up_to_the_highest_value(book: Book) -> None:
    assert book.tell(SUM, REPORT, ONE // 2, event=1) == OUTCOME_APPLIED
    assert book.tell(SUM, REPORT, ONE // 4, event=2) == OUTCOME_APPLIED
    assert book.tell(SUM, REPORT, ONE // 4, event=2) == OUTCOME_DUPLICATE
    assert book.tell(SUM, REPORT, ONE // 8, event=2) == OUTCOME_CONFLICT
    assert book.cell(SUM)[:2] == (1, ONE // 4 * 3)
    assert book.tell(SUM, REPORT, ONE, event=3) == OUTCOME_APPLIED
    assert book.cell(SUM)[:2] == (1, ONE)


def test_a_sum_takes_so_many_events_and_no_more(book: Book) -> None:
    for event in range(MOST_EVENTS):
        assert book.tell(SUM, REPORT, 1, event=event + 1) == OUTCOME_APPLIED
    assert book.tell(SUM, REPORT, 1, event=MOST_EVENTS + 1) == OUTCOME_REJECTED
    assert book.tell(SUM, REPORT, 1, event=MOST_EVENTS) == OUTCOME_DUPLICATE
    assert book.cell(SUM)[:2] == (1, MOST_EVENTS)


def test_the_largest_counts(book: Book) -> None:
    assert [book.tell(MAX, REPORT, q) for q in (5, 9, 7, 9)] == [
        OUTCOME_APPLIED,
        OUTCOME_APPLIED,
        OUTCOME_SUPERSEDED,
        OUTCOME_DUPLICATE,
    ]
    assert book.cell(MAX) == (1, 9, 81)


def test_what_was_not_remembered_cannot_be_taken_back(book: Book) -> None:
    assert book.tell(PLAIN, REPORT, 5) == OUTCOME_APPLIED
    assert book.tell(PLAIN, RETRACT, 0, 9) == OUTCOME_REJECTED
    assert book.tell(PLAIN, CORRECT, 6, 9) == OUTCOME_REJECTED
    assert book.tell(FIRST, 4, 6, 9) == OUTCOME_REJECTED
    assert book.tell(FIRST, 0, 6, 9) == OUTCOME_REJECTED
    assert book.tell(FIRST, REPORT, ONE + 1) == OUTCOME_REJECTED
    assert book.cell(PLAIN) == (1, 5, 25)
    assert book.cell(FIRST) == (0, 0, 0)


def test_a_late_correction_is_late(book: Book) -> None:
    assert book.tell(FIRST, REPORT, 5) == OUTCOME_APPLIED
    assert book.tell(FIRST, RETRACT, 0, 9, after_ms=87_100_000) == OUTCOME_LATE
    assert book.cell(FIRST) == (1, 5, 25)


def test_an_outlier_moves_nothing_that_was_counted(book: Book) -> None:
    """The scale is the declared range, not what was seen."""
    book.tell(PLAIN, REPORT, 1000)
    before = book.cell(PLAIN)
    record = RewardRecord(5, 1, 100, NOW, ALLOCATION.number, ONE, 0, 1, PLAIN)
    fold([LogEntry(f"{NOW}-1", REWARDS, record.pack())], EXPERIMENT, book.ledger, book.seen)
    n, s1, s2 = book.cell(PLAIN)
    assert (n - 1, s1 - ONE, s2 - ONE * ONE) == before


def test_a_torn_amendment_is_poison() -> None:
    book = Book()
    entry = LogEntry(f"{NOW}-0", AMENDMENTS, bytes(AMENDMENT_BYTES + 1), b"who")
    folding = fold([entry], EXPERIMENT, book.ledger, book.seen)
    assert set(folding.replies[b"who"]) == {OUTCOME_REJECTED}


def reason(event: RewardEvent, *, token: bool = True) -> str:
    try:
        if token:
            record = accept_with_token(EXPERIMENT, CLAIMS, event, NOW)
            assert len(record.pack()) == (RECORD_BYTES if record.kind == REWARDS else AMENDMENT_BYTES)
        else:
            accept_without_token(EXPERIMENT, bytes(32), event, NOW)
    except Rejected as error:
        return error.reason if ";" in str(error) else f"{error.reason}, and no word of what to do"
    return record.kind.decode() if token else "taken"


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (RewardEvent("plain", 0.5), "r"),
        (RewardEvent("first", 0.5), "r"),
        (RewardEvent("max", 0.5), "r"),
        (RewardEvent("plain", 0.5, operation=CORRECT, sequence=1), "NOT_CORRECTABLE"),
        (RewardEvent("plain", None, operation=RETRACT, sequence=1), "NOT_CORRECTABLE"),
        (RewardEvent("first", 0.5, operation=CORRECT), "NO_ORDER"),
        (RewardEvent("first", None, operation=RETRACT), "NO_ORDER"),
        (RewardEvent("first", None, operation=CORRECT, sequence=1), "NO_VALUE"),
        (RewardEvent("first", 0.5, operation=CORRECT, sequence=0), "a"),
        (RewardEvent("first", None, operation=RETRACT, event_ms=NOW), "a"),
        (RewardEvent("last", 0.5), "NO_ORDER"),
        (RewardEvent("last", 0.5, event_ms=NOW), "a"),
        (RewardEvent("last", 0.5, sequence=(1 << 64) - 1), "a"),
        (RewardEvent("sum", 0.5), "NO_EVENT_ID"),
        (RewardEvent("sum", 0.5, event_id="e"), "a"),
    ],
)
def test_what_the_border_takes(event: RewardEvent, expected: str) -> None:
    assert reason(event) == expected


@pytest.mark.parametrize(
    ("event", "expected"),
    [
        (RewardEvent("first", 0.5, arm="small", unit="u"), "taken"),
        (RewardEvent("first", 0.5, arm="small", unit="u", operation=CORRECT, sequence=1), "TOKEN_REQUIRED"),
        (RewardEvent("sum", 0.5, arm="small", unit="u", event_id="e"), "TOKEN_REQUIRED"),
    ],
)
def test_what_the_border_takes_without_a_token(event: RewardEvent, expected: str) -> None:
    assert reason(event, token=False) == expected


def test_the_bucket_is_of_the_unit_with_a_token_or_without() -> None:
    record = accept_with_token(EXPERIMENT, CLAIMS, RewardEvent("plain", 0.5), NOW)
    assert isinstance(record, RewardRecord)
    assert record.bucket == 1 + 13
    named = accept_without_token(EXPERIMENT, bytes(32), RewardEvent("plain", 0.5, arm="small", unit="u"), NOW)
    again = accept_without_token(EXPERIMENT, bytes(32), RewardEvent("plain", 0.1, arm="small", unit="u"), NOW)
    assert BUCKETS < named.bucket == again.bucket <= 2 * BUCKETS, "whether it was re-routed is not known"


def test_events_of_a_sum_are_hashed_with_the_secret_of_the_experiment() -> None:
    event = RewardEvent("sum", 0.5, event_id="e")
    one = accept_with_token(EXPERIMENT, CLAIMS, event, NOW)
    other = accept_with_token(replace(EXPERIMENT, salt=bytes(16)), CLAIMS, event, NOW)
    assert isinstance(one, Amendment)
    assert isinstance(other, Amendment)
    assert 0 != one.event != other.event


@pytest.mark.parametrize(
    ("unit", "clustered"),
    [
        ({"kind": "user", "mode": "sticky"}, 5),
        ({"kind": "request", "mode": "sticky"}, 0),
        ({"kind": "user", "mode": "epoch"}, 5),
        ({"kind": "user", "mode": "request"}, 0),
    ],
)
def test_buckets_are_kept_where_units_repeat(unit: dict[str, str], clustered: int) -> None:
    experiment, _ = running(metrics=METRICS, objective=[{"metric": "plain"}], unit=unit)
    layout = tables_of(experiment.spec).layout
    assert layout.clustered == clustered
    assert (cluster_totals([], layout) is None) == (clustered == 0)


def test_buckets_add_up_to_the_sums_and_survive_blocks() -> None:
    book = Book()
    rows = [
        RewardRecord(5, 1, n, NOW, ALLOCATION.number, n, 0, n % 3, n % 2 * PLAIN, 1 + n % BUCKETS)
        for n in range(1000)
    ]
    rows[7] = rows[7]._replace(bucket=0)
    rows[9] = rows[9]._replace(bucket=2 * BUCKETS + 1)
    fold(
        [LogEntry(f"{NOW}-1", REWARDS, b"".join(row.pack() for row in rows))],
        EXPERIMENT,
        book.ledger,
        book.seen,
    )
    period = book.ledger.periods[ALLOCATION.number]
    period.end_ms = NOW + 1
    for periods in ([period], [fold_block([period])]):
        totals = cluster_totals(periods, period.cells.layout)
        assert totals is not None
        assert totals.values.shape == (3, 5, BUCKETS, 2)
        for metric in (FIRST, PLAIN):
            known = [row for row in rows if row.metric == metric and 1 <= row.bucket <= BUCKETS]
            for arm in range(3):
                own = [row for row in known if row.arm == arm]
                assert totals.values[arm, metric].sum(axis=0).tolist() == [
                    len(own),
                    sum(row.q for row in own),
                ]
                for row in own[:5]:
                    assert totals.values[arm, metric, row.bucket - 1, 0] > 0
    assert int(period.cells.sums[..., :5, N].sum()) == 1000


@pytest.mark.parametrize("span", [(0.0, 1000.0), (1.0, 1000.0), (3.0, 3.5), (1e-7, 1e6), (0.0, 1e-3)])
def test_logarithms_are_those_of_the_scale(span: tuple[float, float]) -> None:
    metric = Metric(name="m", kind="lognormal", direction="minimize", range=span)
    experiment, _ = running(metrics=[metric.model_dump()], objective=[{"metric": "m"}], guardrails=[])
    low, high = log_scale(metric)
    arguments = tables_of(experiment.spec).logs[0].tolist()
    before = -1
    for q in [1, 2, 3, 1000, 123_456, *range(10**6, ONE, 12_345_677), ONE]:
        found = kernels.log_channel(q, *arguments)
        value = span[0] + q / ONE * (span[1] - span[0])
        wanted = (math.log(max(value, math.exp(low))) - low) / (high - low)
        # 2**-28 of a doubling, and what a step of q is at 2**-60 of the highest value
        assert found / ONE == pytest.approx(wanted, abs=1e-8 / min(1.0, high - low))
        assert found >= before
        before = found
    assert kernels.log_channel(ONE, *arguments) == ONE
    assert kernels.log_channel(0, *arguments) == (-1 if span[0] == 0 else 0)


def test_variance_far_from_zero_keeps_its_digits() -> None:
    draws = 1e6 + np.random.default_rng(17).normal(size=4000)
    q = [quantise(float(x), 1e6 - 10, 1e6 + 10) for x in draws]
    n, s1, s2 = len(q), sum(q), sum(each * each for each in q)
    variance = (n * s2 - s1 * s1) / n**2 / ONE**2 * 20**2
    assert variance == pytest.approx(float(np.var(draws)), rel=1e-6)


def test_too_many_sums_are_found_before_they_are_kept() -> None:
    many = [
        {"name": f"m{index}", "kind": "fraction", "direction": "maximize", "range": [0, 1]}
        for index in range(64)
    ]
    terms = [{"metric": f"m{index}"} for index in range(64)]
    cohorts = {"attribute": "plan", "values": [f"c{index}" for index in range(49)]}
    (finding,) = counting_findings(spec(metrics=many, objective=terms, cohorts=cohorts))
    assert "50 cohorts x 3 arms x 2080 sums" in finding.sentence
    assert not list(counting_findings(spec(metrics=many, objective=terms)))


def test_the_delay_is_that_of_the_reward_that_ended_the_silence() -> None:
    metric = {"name": "m", "kind": "gaussian", "direction": "maximize", "range": [0, 1], "corrections": True,
              "default_when_silent": 0, "pending": "weigh", "attribution_window": "1h"}  # fmt: skip
    experiment, allocation = running(metrics=[metric], objective=[{"metric": "m"}])
    ledger, seen = Ledger(1, tables_of(experiment.spec).layout), Seen()
    open_periods(ledger, [allocation], experiment)
    for after_ms, op, q in ((1000, REPORT, 0), (900_000, CORRECT, 7), (3_600_000, CORRECT, ONE)):
        record = RewardRecord(5, 1, 99, NOW, allocation.number, q, 0, 1, 0)
        entry = LogEntry(f"{NOW + after_ms}-0", AMENDMENTS, Amendment(record, after_ms, 0, op).pack())
        fold([entry], experiment, ledger, seen)
    early = ledger.periods[allocation.number].cells.sums[0, 1, 1:, :2]
    assert early[:, 0].tolist() == [1] * 13
    assert early[:, 1].tolist() == [0] * 10 + [ONE] * 3  # within a quarter, a half, all of the window

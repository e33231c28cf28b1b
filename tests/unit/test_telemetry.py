"""Metrics: counted exactly by many threads, named by the conventions, bounded in their labels."""

from __future__ import annotations

import re
import sys
import threading
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from server.telemetry import catalogue
from server.telemetry.catalogue import FAMILIES, Kind
from server.telemetry.hot import HotCounter, HotHistogram
from server.telemetry.learning import LearnerTelemetry
from server.telemetry.serving import ServingLevels, ServingTelemetry
from tests.fakes import FakeClock

Values = dict[tuple[str, frozenset[tuple[str, str]]], float]


def values(text: str) -> Values:
    """Sample name and labels -> value."""
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def of(registry: CollectorRegistry) -> Values:
    return values(generate_latest(registry).decode())


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


# --- hot counting ---------------------------------------------------------------------------------------------------


def test_many_threads_lose_no_count_while_one_drains() -> None:
    counter: HotCounter[str] = HotCounter()
    histogram: HotHistogram[str] = HotHistogram((0.5, 1.5))
    adding, drained, spreads = 8, 0, [0, 0, 0]
    before = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)  # threads change places as often as they can

    def add() -> None:
        for _ in range(20_000):
            counter.add("a")
            histogram.observe("a", 1.0)

    try:
        threads = [threading.Thread(target=add) for _ in range(adding)]
        for thread in threads:
            thread.start()
        while any(thread.is_alive() for thread in threads):
            drained += counter.drain().get("a", 0)
            for spread in histogram.drain().values():
                spreads = [a + b for a, b in zip(spreads, spread.buckets, strict=True)]
    finally:
        sys.setswitchinterval(before)
    drained += counter.drain().get("a", 0)
    for spread in histogram.drain().values():
        spreads = [a + b for a, b in zip(spreads, spread.buckets, strict=True)]
    assert drained == adding * 20_000
    assert spreads == [0, adding * 20_000, 0]
    assert counter.drain() == {}
    assert histogram.drain() == {}


def test_counts_of_threads_that_ended_are_kept_and_the_threads_let_go() -> None:
    counter: HotCounter[str] = HotCounter()
    for _ in range(50):
        thread = threading.Thread(target=counter.add, args=("a",))
        thread.start()
        thread.join()
    counter.drain()
    assert len(counter._cells._threads) == 0
    counter.add("a", 5)
    assert counter.drain() == {"a": 5}


def test_observations_fall_into_buckets_whose_bounds_belong_to_them() -> None:
    histogram: HotHistogram[str] = HotHistogram((0.1, 1.0))
    for seconds in (0.0, 0.1, 0.10001, 1.0, 2.0, -1.0):
        histogram.observe("a", seconds)
    spread = histogram.drain()["a"]
    assert spread.buckets == (3, 2, 1)
    assert spread.sum_s == pytest.approx(3.20001)


# --- the catalogue ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("family", FAMILIES, ids=lambda family: family.name)
def test_names_and_labels_keep_the_conventions(family: catalogue.Family) -> None:
    assert re.fullmatch(r"banditd_[a-z]+(_[a-z]+)*", family.name)
    assert family.name.endswith("_total") == (family.kind is Kind.COUNTER)
    assert family.name.endswith("_seconds") or family.kind is not Kind.HISTOGRAM
    assert family.meaning.endswith((".", "1.", "why."))
    assert set(family.labels) <= catalogue.LABELS
    assert list(family.bounds) == sorted(set(family.bounds))
    assert bool(family.bounds) == (family.kind is Kind.HISTOGRAM)


def test_every_metric_is_listed_once() -> None:
    assert len({family.name for family in FAMILIES}) == len(FAMILIES) > 20


# --- serving ---------------------------------------------------------------------------------------------------------


def test_a_server_writes_what_it_counted() -> None:
    levels = ServingLevels()
    registry = CollectorRegistry()
    telemetry = ServingTelemetry(lambda: levels, registry)
    telemetry.rpc("Decide", "OK", 60e-6)
    telemetry.rpc("Decide", "OK", 0.02)
    telemetry.rpc("Decide", "NOT_FOUND", 100.0)
    telemetry.decided("assigned", "fresh")
    telemetry.decided("assigned", "fresh", 9)
    telemetry.rewarded("REJECTED", "LATE", 3)
    telemetry.appended(0.004)
    telemetry.flush()
    found = of(registry)
    assert found[key("banditd_rpcs_total", method="Decide", code="OK")] == 2
    assert found[key("banditd_rpcs_total", method="Decide", code="NOT_FOUND")] == 1
    assert found[key("banditd_rpc_seconds_bucket", method="Decide", le="0.0001")] == 1
    assert found[key("banditd_rpc_seconds_bucket", method="Decide", le="0.025")] == 2
    assert found[key("banditd_rpc_seconds_bucket", method="Decide", le="+Inf")] == 3
    assert found[key("banditd_rpc_seconds_sum", method="Decide")] == pytest.approx(100.02006)
    assert found[key("banditd_decisions_total", reason="assigned", mode="fresh")] == 10
    assert found[key("banditd_rewards_total", outcome="REJECTED", reason="LATE")] == 3
    assert found[key("banditd_log_append_seconds_count")] == 1
    assert found[key("banditd_store_up")] == 0
    assert key("banditd_snapshot_version") not in found  # nothing was read yet

    levels = ServingLevels(10, 1, 6, 2, 2, 7, 5_000, store_up=True)
    telemetry.flush()
    telemetry.flush()
    found = of(registry)
    assert found[key("banditd_exposures_journaled_total")] == 10
    assert found[key("banditd_exposures_not_journaled_total")] == 1
    assert found[key("banditd_exposures_shipped_total")] == 6
    assert found[key("banditd_exposures_dropped_total")] == 2
    assert found[key("banditd_journal_backlog_records")] == 2
    assert found[key("banditd_snapshot_version")] == 7
    assert found[key("banditd_snapshot_read_timestamp_seconds")] == 5
    assert found[key("banditd_store_up")] == 1
    assert found[key("banditd_decisions_total", reason="assigned", mode="fresh")] == 10


def test_the_last_counts_are_written_at_the_stop() -> None:
    registry = CollectorRegistry()
    telemetry = ServingTelemetry(ServingLevels, registry)
    telemetry.start()
    telemetry.decided("assigned", "fresh", 3)
    telemetry.stop()
    assert of(registry)[key("banditd_decisions_total", reason="assigned", mode="fresh")] == 3


def test_labels_that_were_never_meant_to_grow_do_not() -> None:
    registry = CollectorRegistry()
    telemetry = ServingTelemetry(ServingLevels, registry)
    for number in range(10_000):
        telemetry.rewarded("REJECTED", f"reason-{number}")
    telemetry.flush()
    found = {
        labels: value for (name, labels), value in of(registry).items() if name == "banditd_rewards_total"
    }
    assert len(found) <= catalogue.MOST_WORDS + 1
    assert sum(found.values()) == 10_000
    assert max(found.values()) > 9_900


# --- learning --------------------------------------------------------------------------------------------------------


def test_a_learner_tells_of_folds_and_transitions() -> None:
    registry = CollectorRegistry()
    telemetry = LearnerTelemetry(FakeClock().now_ms, registry)
    telemetry.folded(3, 20, 100, 0.002)
    telemetry.folded(1, 0, 50, 0.2)
    telemetry.committed("reallocated")
    telemetry.committed("rolled_back")
    telemetry.leases(4)
    found = of(registry)
    assert found[key("banditd_folds_total")] == 2
    assert found[key("banditd_folded_entries_total")] == 4
    assert found[key("banditd_folded_rewards_total")] == 20
    assert found[key("banditd_folded_exposures_total")] == 150
    assert found[key("banditd_fold_seconds_bucket", le="0.0025")] == 1
    assert found[key("banditd_allocations_total", action="reallocated")] == 1
    assert found[key("banditd_rollbacks_total")] == 1
    assert found[key("banditd_leases_held")] == 4


def test_looks_are_told_by_experiment_until_it_is_forgotten(tmp_path: Path) -> None:
    clock = FakeClock(now_ms=60_000)
    registry = CollectorRegistry()
    telemetry = LearnerTelemetry(clock.now_ms, registry)
    telemetry.evaluated("answers", 7, {"PASS": 2, "FAIL": 1})
    telemetry.evaluated("answers", 5, {"PASS": 3})
    found = of(registry)
    assert found[key("banditd_learner_lag_entries", experiment="answers")] == 5
    assert found[key("banditd_verdicts", experiment="answers", outcome="PASS")] == 3
    assert found[key("banditd_verdicts", experiment="answers", outcome="FAIL")] == 0
    assert found[key("banditd_evaluation_timestamp_seconds", experiment="answers")] == 60
    telemetry.forgotten("answers")
    gone = of(registry)[key("banditd_verdicts", experiment="answers", outcome="PASS")]
    assert gone != gone  # not a number: left out when it is asked for


def test_many_experiments_share_a_label() -> None:
    clock = FakeClock(now_ms=0)
    registry = CollectorRegistry()
    telemetry = LearnerTelemetry(clock.now_ms, registry)
    for number in range(1000):
        telemetry.evaluated(f"e-{number}", 1, {"PASS": 1})
    clock.advance(2)
    telemetry.evaluated("e-999", 1, {"PASS": 1})
    found = of(registry)
    names = {dict(labels)["experiment"] for name, labels in found if name == "banditd_learner_lag_entries"}
    assert len(names) == catalogue.MOST_EXPERIMENTS + 1
    assert found[key("banditd_learner_lag_entries", experiment="other")] == 1000 - catalogue.MOST_EXPERIMENTS
    assert found[key("banditd_evaluation_timestamp_seconds", experiment="other")] == 0  # the oldest of them
    # One that goes makes room for another, which is then counted once.
    telemetry.forgotten("e-0")
    telemetry.evaluated("e-500", 9, {})
    found = of(registry)
    assert found[key("banditd_learner_lag_entries", experiment="e-500")] == 9
    assert found[key("banditd_learner_lag_entries", experiment="other")] == 799

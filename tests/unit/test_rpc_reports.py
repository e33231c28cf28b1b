"""GetReport: what the learner published, of the present epoch only."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import grpc
import pytest

from bandit.v1 import experiment_service_pb2 as pb
from bandit.v1 import report_pb2
from server.store.base import Commit
from server.store.memory import MemoryStore
from tests.serving import Faulty, Serving, details_of, load, put_running, serving

NAME = "experiments/answers"


@pytest.fixture
def store() -> Faulty:
    return Faulty(MemoryStore())


@pytest.fixture
def served(store: Faulty) -> Iterator[Serving]:
    with serving(store) as made:
        yield made


def ask(served: Serving) -> report_pb2.Report:
    return served.operate.GetReport(pb.GetReportRequest(name=NAME)).report


def refused(served: Serving, code: grpc.StatusCode) -> str:
    with pytest.raises(grpc.RpcError) as caught:
        ask(served)
    assert caught.value.code() == code
    return str(details_of(caught.value)["ErrorInfo"].reason)


def publish(store: Faulty, report: bytes) -> None:
    fence = store.acquire("answers", "learner", 60_000)
    assert fence is not None
    assert store.put_report("answers", report, fence)


def test_a_report_is_answered_as_it_was_published(served: Serving, store: Faulty) -> None:
    assert refused(served, grpc.StatusCode.NOT_FOUND)
    put_running(store)
    assert refused(served, grpc.StatusCode.FAILED_PRECONDITION) == "NO_REPORT_YET"
    made = report_pb2.Report(name=NAME, epoch=1, decisions=17, hypothesis="as it was")
    publish(store, made.SerializeToString())
    found = ask(served)
    assert (found.decisions, found.epoch) == (17, 1)
    assert found.hypothesis == load(store).experiment.spec.hypothesis


def test_a_report_of_another_epoch_or_of_torn_bytes_is_none(served: Serving, store: Faulty) -> None:
    put_running(store)
    publish(store, report_pb2.Report(name=NAME, epoch=1, decisions=17).SerializeToString())
    stored = load(store)
    moved = replace(stored.experiment, epoch=2, revision=stored.experiment.revision + 1)
    allocation = replace(stored.allocation, epoch=2, number=stored.allocation.number + 1)
    store.commit(Commit(stored.generation, moved, allocation))
    assert refused(served, grpc.StatusCode.FAILED_PRECONDITION) == "NO_REPORT_YET"
    publish(store, b"\xff\xff\xff torn")
    assert refused(served, grpc.StatusCode.FAILED_PRECONDITION) == "NO_REPORT_YET"

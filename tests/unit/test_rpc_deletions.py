"""Deletions: once for each request id, also where the answer was lost, and never of the next one of the name."""

from __future__ import annotations

from collections.abc import Iterator

import grpc
import pytest

from bandit.client.convert import spec_to_proto
from bandit.errors import StoreUnavailable
from bandit.rollout.audit import AuditRecord
from bandit.v1 import experiment_service_pb2 as pb
from server.store.memory import MemoryStore
from tests.builders import spec
from tests.serving import Faulty, Serving, code_of, load, serving

NAME = "experiments/answers"


@pytest.fixture
def store() -> Faulty:
    return Faulty(MemoryStore())


@pytest.fixture
def served(store: Faulty) -> Iterator[Serving]:
    with serving(store) as made:
        made.operate.CreateExperiment(pb.CreateExperimentRequest(spec=spec_to_proto(spec()), actor="anna"))
        yield made


def delete(served: Serving, request_id: str = "once", etag: str = "") -> None:
    request = pb.DeleteExperimentRequest(name=NAME, request_id=request_id, etag=etag, actor="ben")
    served.operate.DeleteExperiment(request)


def actions(served: Serving) -> list[tuple[int, str, str]]:
    reply = served.operate.ListAuditRecords(pb.ListAuditRecordsRequest(name=NAME))
    return [(each.sequence, each.action, each.actor) for each in reply.records]


def test_the_same_request_deletes_once_and_never_the_next_of_the_name(served: Serving, store: Faulty) -> None:
    delete(served)
    delete(served)
    assert code_of(lambda: delete(served, "another")) is grpc.StatusCode.NOT_FOUND
    assert code_of(lambda: delete(served, "")) is grpc.StatusCode.NOT_FOUND
    served.operate.CreateExperiment(pb.CreateExperimentRequest(spec=spec_to_proto(spec())))
    now = load(store)
    delete(served)
    assert load(store) == now
    delete(served, "another")
    assert store.load("answers") is None


def test_an_answer_that_was_lost_is_found_again(served: Serving, store: Faulty) -> None:
    def lost(name: str, generation: int, last: AuditRecord | None, request_id: str) -> None:
        store.store.delete(name, generation, last, request_id)
        raise StoreUnavailable("no answer")

    store.instead["delete"] = lost
    etag = load(store).experiment.etag
    assert code_of(lambda: delete(served, etag=etag)) is grpc.StatusCode.UNAVAILABLE
    del store.instead["delete"]
    delete(served, etag=etag)
    assert store.load("answers") is None


def test_who_deleted_it_can_be_read_afterwards(served: Serving, store: Faulty) -> None:
    before = actions(served)
    delete(served)
    assert actions(served) == [(2, "deleted", "client/ben"), *before]
    served.operate.CreateExperiment(pb.CreateExperimentRequest(spec=spec_to_proto(spec()), actor="eve"))
    assert actions(served) == [(1, "created", "client/eve")]


def test_what_never_was_has_no_records(served: Serving) -> None:
    request = pb.ListAuditRecordsRequest(name="experiments/unknown")
    assert code_of(lambda: served.operate.ListAuditRecords(request)) is grpc.StatusCode.NOT_FOUND

"""The operators' service over a memory store: each move, its audit, its refusals, and ids that make it happen once."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import grpc
import pytest

from bandit.client.convert import spec_to_proto
from bandit.errors import CorruptStored, Stale, StoreUnavailable
from bandit.rollout.audit import first_broken
from bandit.v1 import experiment_pb2
from bandit.v1 import experiment_service_pb2 as pb
from server.store.base import Commit
from server.store.memory import MemoryStore
from tests.builders import spec
from tests.serving import Faulty, Serving, details_of, load, put_draft, put_running, reshare, serving

Code = grpc.StatusCode
RUNNING, PAUSED = experiment_pb2.EXPERIMENT_STATE_RUNNING, experiment_pb2.EXPERIMENT_STATE_PAUSED
NAME = "experiments/answers"


@pytest.fixture
def store() -> Faulty:
    made = Faulty(MemoryStore())
    made.beat("learner", 3_600_000)
    return made


@pytest.fixture
def served(store: Faulty) -> Iterator[Serving]:
    with serving(store) as made:
        yield made


def create(served: Serving, request_id: str = "", **changes: Any) -> experiment_pb2.Experiment:
    request = pb.CreateExperimentRequest(
        spec=spec_to_proto(spec(**changes)), request_id=request_id, actor="anna"
    )
    return served.operate.CreateExperiment(request).experiment


def refused(call: Callable[[], object], code: grpc.StatusCode, reason: str = "") -> Any:
    with pytest.raises(grpc.RpcError) as caught:
        call()
    error: Any = caught.value
    assert error.code() == code, error.details()
    if reason:
        assert details_of(error)["ErrorInfo"].reason == reason
    return error


def test_a_life(served: Serving, store: Faulty) -> None:
    made = create(served)
    assert made.name == NAME
    assert made.state == experiment_pb2.EXPERIMENT_STATE_DRAFT
    assert served.operate.GetExperiment(pb.GetExperimentRequest(name=NAME)).experiment == made
    operate = served.operate
    started = operate.StartExperiment(
        pb.StartExperimentRequest(name=NAME, etag=made.etag, actor="anna")
    ).experiment
    assert started.state == RUNNING
    assert started.etag != made.etag
    reshare(store, load(store), (400_000, 300_000, 300_000))
    paused = operate.PauseExperiment(pb.PauseExperimentRequest(name=NAME, reason="lunch")).experiment
    assert paused.state == PAUSED
    assert operate.ResumeExperiment(pb.ResumeExperimentRequest(name=NAME)).experiment.state == RUNNING
    arm = f"{NAME}/arms/small"
    back = operate.RollBackArm(pb.RollBackArmRequest(name=arm, reason="slow", actor="bert")).experiment
    assert (back.arms[1].rollback.actor, back.arms[1].rollback.reason) == ("client/bert", "slow")
    again = operate.ClearRollback(pb.ClearRollbackRequest(name=arm, reason="mended")).experiment
    assert not again.arms[1].HasField("rollback")
    assert again.arms[1].attempt == 2
    done = operate.PromoteArm(pb.PromoteArmRequest(name=f"{NAME}/arms/large", reason="best")).experiment
    assert (done.state, done.promoted_arm) == (experiment_pb2.EXPERIMENT_STATE_CONCLUDED, "large")
    records = operate.ListAuditRecords(pb.ListAuditRecordsRequest(name=NAME)).records
    assert [(r.sequence, r.action, r.actor, r.reason) for r in records] == [
        (7, "promoted", "client/unnamed", "best"),
        (6, "rollback_cleared", "client/unnamed", "mended"),
        (5, "rolled_back", "client/bert", "slow"),
        (4, "resumed", "client/unnamed", ""),
        (3, "paused", "client/unnamed", "lunch"),
        (2, "started", "client/anna", ""),
        (1, "created", "client/anna", ""),
    ]
    assert first_broken(list(reversed(store.audit("answers", None, 100)))) is None
    assert list(records[0].shares_after_ppm) == [0, 0, 1_000_000]
    operate.DeleteExperiment(pb.DeleteExperimentRequest(name=NAME))
    refused(lambda: operate.GetExperiment(pb.GetExperimentRequest(name=NAME)), Code.NOT_FOUND)


def test_refusals_by_state(served: Serving, store: Faulty) -> None:
    operate = served.operate
    put_draft(store)
    refused(
        lambda: operate.PauseExperiment(pb.PauseExperimentRequest(name=NAME)),
        Code.FAILED_PRECONDITION,
        "WRONG_STATE",
    )
    operate.StartExperiment(pb.StartExperimentRequest(name=NAME))
    refused(lambda: operate.StartExperiment(pb.StartExperimentRequest(name=NAME)), Code.FAILED_PRECONDITION)
    refused(
        lambda: operate.DeleteExperiment(pb.DeleteExperimentRequest(name=NAME)),
        Code.FAILED_PRECONDITION,
        "RUNNING",
    )
    control = f"{NAME}/arms/control"
    error = refused(
        lambda: operate.RollBackArm(pb.RollBackArmRequest(name=control)),
        Code.FAILED_PRECONDITION,
        "CONTROL_CANNOT_ROLL_BACK",
    )
    assert details_of(error)["PreconditionFailure"].violations[0].type == "CONTROL_CANNOT_ROLL_BACK"
    arm = f"{NAME}/arms/small"
    operate.RollBackArm(pb.RollBackArmRequest(name=arm))
    refused(
        lambda: operate.RollBackArm(pb.RollBackArmRequest(name=arm)),
        Code.FAILED_PRECONDITION,
        "ALREADY_ROLLED_BACK",
    )
    refused(
        lambda: operate.PromoteArm(pb.PromoteArmRequest(name=arm)),
        Code.FAILED_PRECONDITION,
        "ARM_ROLLED_BACK",
    )
    large = f"{NAME}/arms/large"
    refused(lambda: operate.ClearRollback(pb.ClearRollbackRequest(name=large)), Code.FAILED_PRECONDITION)
    error = refused(
        lambda: operate.PromoteArm(pb.PromoteArmRequest(name=f"{NAME}/arms/huge")),
        Code.NOT_FOUND,
        "ARM_NOT_FOUND",
    )
    assert details_of(error)["ResourceInfo"].resource_name == f"{NAME}/arms/huge"


OTHER_SPEC = spec_to_proto(spec(alpha=0.01))
WRITES: list[tuple[str, Callable[[Any], Any], str]] = [
    ("UpdateExperiment", lambda more: pb.UpdateExperimentRequest(spec=OTHER_SPEC, **more), "draft"),
    ("DeleteExperiment", lambda more: pb.DeleteExperimentRequest(name=NAME, **more), "draft"),
    ("StartExperiment", lambda more: pb.StartExperimentRequest(name=NAME, **more), "draft"),
    ("PauseExperiment", lambda more: pb.PauseExperimentRequest(name=NAME, **more), "running"),
    ("ResumeExperiment", lambda more: pb.ResumeExperimentRequest(name=NAME, **more), "paused"),
    ("RollBackArm", lambda more: pb.RollBackArmRequest(name=f"{NAME}/arms/small", **more), "running"),
    ("ClearRollback", lambda more: pb.ClearRollbackRequest(name=f"{NAME}/arms/small", **more), "rolled-back"),
    ("PromoteArm", lambda more: pb.PromoteArmRequest(name=f"{NAME}/arms/small", **more), "running"),
]  # fmt: skip
# A delete takes what it would be remembered with along.
REMEMBERED = [row for row in WRITES if row[0] != "DeleteExperiment"]
REMEMBERED_IDS = [row[0] for row in REMEMBERED]
EVERY = pytest.mark.parametrize(("method", "request_of", "state"), WRITES, ids=[row[0] for row in WRITES])


def prepare(served: Serving, store: Faulty, state: str) -> str:
    """An experiment in that state; its etag."""
    put_draft(store) if state == "draft" else put_running(store)
    if state == "paused":
        served.operate.PauseExperiment(pb.PauseExperimentRequest(name=NAME))
    if state == "rolled-back":
        served.operate.RollBackArm(pb.RollBackArmRequest(name=f"{NAME}/arms/small"))
    return load(store).experiment.etag


@EVERY
def test_every_write_needs_the_present_etag(
    served: Serving, store: Faulty, method: str, request_of: Any, state: str
) -> None:
    etag = prepare(served, store, state)
    call = getattr(served.operate, method)
    before = store.load("answers")
    error = refused(lambda: call(request_of({"etag": "7-1ff"})), Code.ABORTED, "ETAG_MISMATCH")
    assert details_of(error)["ErrorInfo"].metadata["etag"] == etag
    assert store.load("answers") == before
    call(request_of({"etag": etag}))
    assert store.load("answers") != before


@EVERY
def test_every_write_needs_an_experiment(
    served: Serving, store: Faulty, method: str, request_of: Any, state: str
) -> None:
    error = refused(
        lambda: getattr(served.operate, method)(request_of({})), Code.NOT_FOUND, "EXPERIMENT_NOT_FOUND"
    )
    assert details_of(error)["ResourceInfo"].resource_name == NAME


@EVERY
def test_every_write_limits_who_and_why(
    served: Serving, store: Faulty, method: str, request_of: Any, state: str
) -> None:
    prepare(served, store, state)
    before = store.load("answers")
    call = getattr(served.operate, method)
    wrong: list[dict[str, str]] = [{"actor": "a" * 129}, {"actor": "a\nb"}, {"request_id": "r" * 129}]
    if "reason" in request_of({}).DESCRIPTOR.fields_by_name:
        wrong += [{"reason": "r" * 1001}, {"reason": "a\x1b[31m"}]
    for more in wrong:
        error = refused(partial(call, request_of(more)), Code.INVALID_ARGUMENT)
        assert details_of(error)["BadRequest"].field_violations[0].field == next(iter(more))
    assert store.load("answers") == before
    call(request_of({"actor": "a" * 128, "request_id": "r" * 128}))


@EVERY
def test_every_write_tells_of_a_store_that_is_away(
    served: Serving, store: Faulty, method: str, request_of: Any, state: str
) -> None:
    prepare(served, store, state)
    for broken in ("load", "commit", "delete"):
        if (broken == "delete") != (method == "DeleteExperiment") and broken != "load":
            continue
        store.broken = {broken}
        error = refused(lambda: getattr(served.operate, method)(request_of({})), Code.UNAVAILABLE)
        assert details_of(error)["RetryInfo"].retry_delay.ToMilliseconds() > 0
        store.broken = set()


@pytest.mark.parametrize(("method", "request_of", "state"), REMEMBERED, ids=REMEMBERED_IDS)
def test_a_request_id_makes_it_happen_once(
    served: Serving, store: Faulty, method: str, request_of: Any, state: str
) -> None:
    prepare(served, store, state)
    call = getattr(served.operate, method)
    first = call(request_of({"request_id": "once"}))
    after = store.load("answers")
    second = call(request_of({"request_id": "once"}))
    assert store.load("answers") == after
    assert second == first


@pytest.mark.parametrize(("method", "request_of", "state"), REMEMBERED, ids=REMEMBERED_IDS)
def test_a_reply_that_was_lost_is_found_again(
    served: Serving, store: Faulty, method: str, request_of: Any, state: str
) -> None:
    """The commit happened, its answer did not arrive: the same id again answers what became of it."""
    etag = prepare(served, store, state)

    def lost(commit: Commit) -> int:
        store.store.commit(commit)
        raise StoreUnavailable("no answer")

    store.instead["commit"] = lost
    call = getattr(served.operate, method)
    request = request_of({"request_id": "once", "etag": etag})
    refused(lambda: call(request), Code.UNAVAILABLE)
    after = store.load("answers")
    assert after.experiment.etag != etag
    assert call(request).experiment.etag == after.experiment.etag
    assert store.load("answers") == after
    assert len(store.audit("answers", None, 100)) == after.audit_sequence


def test_an_update_sent_again_answers_the_changes_of_the_first(served: Serving, store: Faulty) -> None:
    """The first reply is lost, then somebody else changes the spec: what this update changed is told all the same."""
    prepare(served, store, "draft")
    wanted = served.operate.DryRun(pb.DryRunRequest(spec=OTHER_SPEC)).changes
    assert wanted

    def lost(commit: Commit) -> int:
        store.store.commit(commit)
        raise StoreUnavailable("no answer")

    store.instead["commit"] = lost
    request = pb.UpdateExperimentRequest(spec=OTHER_SPEC, request_id="once")
    refused(lambda: served.operate.UpdateExperiment(request), Code.UNAVAILABLE)
    store.instead.clear()
    other = served.operate.UpdateExperiment(pb.UpdateExperimentRequest(spec=spec_to_proto(spec())))
    for _ in range(2):
        again = served.operate.UpdateExperiment(request)
        assert (again.changes, again.experiment) == (wanted, other.experiment)


@EVERY
def test_shares_that_move_meanwhile_are_no_conflict(
    served: Serving, store: Faulty, method: str, request_of: Any, state: str
) -> None:
    """The learner commits between read and write; etag and audit stay right."""
    etag = prepare(served, store, state)
    left = [3]

    def overtaken(*arguments: Any) -> Any:
        if left[0]:
            left[0] -= 1
            now = load(store.store)
            reshare(store.store, now, now.allocation.shares_ppm)
        return getattr(store.store, call_name)(*arguments)

    call_name = "delete" if method == "DeleteExperiment" else "commit"
    store.instead[call_name] = overtaken
    getattr(served.operate, method)(request_of({"etag": etag}))
    assert left == [0]
    if method != "DeleteExperiment":
        assert load(store).experiment.etag != etag
        assert first_broken(list(reversed(store.audit("answers", None, 100)))) is None


def test_who_is_always_overtaken_gives_up(served: Serving, store: Faulty) -> None:
    put_running(store)

    def stale(commit: Commit) -> int:
        raise Stale("moved on")

    store.instead["commit"] = stale
    refused(lambda: served.operate.PauseExperiment(pb.PauseExperimentRequest(name=NAME)), Code.ABORTED)
    assert store.calls.count("commit") >= 20


# --- creating ---


def test_create_refuses_every_violation_at_once(served: Serving) -> None:
    message = spec_to_proto(spec())
    message.alpha = 2.0
    message.metrics[0].kind = 0  # type: ignore[assignment]
    message.arms[1].bounds.cap_ppm = -1
    error = refused(
        lambda: served.operate.CreateExperiment(pb.CreateExperimentRequest(spec=message)),
        Code.INVALID_ARGUMENT,
    )
    fields = {violation.field for violation in details_of(error)["BadRequest"].field_violations}
    assert {"spec.alpha", "spec.metrics.0.kind", "spec.arms.1.bounds.cap_ppm"} <= fields


def test_create_twice(served: Serving, store: Faulty) -> None:
    made = create(served, request_id="one")
    refused(lambda: create(served), Code.ALREADY_EXISTS)
    refused(lambda: create(served, request_id="two"), Code.ALREADY_EXISTS)
    assert create(served, request_id="one") == made
    assert len(store.audit("answers", None, 10)) == 1


def test_create_whose_reply_was_lost(served: Serving, store: Faulty) -> None:
    def lost(commit: Commit) -> int:
        store.store.commit(commit)
        raise StoreUnavailable("no answer")

    store.instead["commit"] = lost
    refused(lambda: create(served, request_id="one"), Code.UNAVAILABLE)
    del store.instead["commit"]
    assert create(served, request_id="one").uid == load(store).experiment.uid


def test_every_experiment_has_its_own_number_and_salt(served: Serving, store: Faulty) -> None:
    made = [create(served, experiment=f"e{index}") for index in range(5)]
    assert len({each.uid for each in made}) == 5
    assert len({load(store, f"e{index}").experiment.salt for index in range(5)}) == 5
    assert all(len(load(store, f"e{index}").experiment.salt) == 16 for index in range(5))


# --- update and dry run ---


def test_update_tells_what_changed(served: Serving, store: Faulty) -> None:
    put_running(store)
    wanted = spec_to_proto(spec(alpha=0.01))
    dry = served.operate.DryRun(pb.DryRunRequest(spec=wanted))
    assert (dry.creates, dry.new_epoch, dry.restarts_guardrails) == (False, False, True)
    assert dry.etag == load(store).experiment.etag
    assert [change.path for change in dry.changes] == ["alpha"]
    reply = served.operate.UpdateExperiment(pb.UpdateExperimentRequest(spec=wanted, etag=dry.etag))
    assert reply.changes == dry.changes
    assert (reply.changes[0].before, reply.changes[0].after) == ("0.05", "0.01")
    assert reply.changes[0].effect
    same = served.operate.UpdateExperiment(pb.UpdateExperimentRequest(spec=wanted))
    assert not same.changes
    assert same.experiment == reply.experiment
    assert len(store.audit("answers", None, 10)) == 1


def test_dry_run_of_a_new_experiment_and_of_a_new_epoch(served: Serving, store: Faulty) -> None:
    dry = served.operate.DryRun(pb.DryRunRequest(spec=spec_to_proto(spec())))
    assert dry.creates
    assert dry.changes
    assert dry.etag == ""
    assert store.load("answers") is None
    put_running(store)
    arms = [{"name": name, "control": name == "control"} for name in ("control", "small")]
    dry = served.operate.DryRun(pb.DryRunRequest(spec=spec_to_proto(spec(arms=arms))))
    assert (dry.creates, dry.new_epoch, dry.restarts_guardrails) == (False, True, True)


def test_a_draft_has_no_attempt_to_begin_anew(served: Serving, store: Faulty) -> None:
    put_draft(store)
    dry = served.operate.DryRun(pb.DryRunRequest(spec=spec_to_proto(spec(alpha=0.01))))
    assert dry.changes
    assert not dry.restarts_guardrails


# --- what cannot be read ---


def test_an_unreadable_experiment_says_so_and_can_be_deleted(served: Serving, store: Faulty) -> None:
    now = put_draft(store)

    def unreadable(name: str) -> None:
        raise CorruptStored("is no document", generation=now.generation)

    store.instead["load"] = unreadable
    refused(
        lambda: served.operate.GetExperiment(pb.GetExperimentRequest(name=NAME)),
        Code.DATA_LOSS,
        "CORRUPT_STORED",
    )
    refused(
        lambda: served.operate.DeleteExperiment(pb.DeleteExperimentRequest(name=NAME, etag="1-1")),
        Code.DATA_LOSS,
    )
    served.operate.DeleteExperiment(pb.DeleteExperimentRequest(name=NAME))
    del store.instead["load"]
    assert store.load("answers") is None


# --- pages ---


def test_experiments_come_in_pages(served: Serving, store: Faulty) -> None:
    names = [f"e{index:02d}" for index in range(23)]
    for name in names:
        put_draft(store, name)
    seen: list[str] = []
    token, pages = "", 0
    while True:
        page = served.operate.ListExperiments(pb.ListExperimentsRequest(page_size=10, page_token=token))
        seen += [experiment.name for experiment in page.experiments]
        pages += 1
        token = page.next_page_token
        if not token:
            break
        if pages == 1:
            store.delete("e11", load(store, "e11").generation)
    assert seen == [f"experiments/{name}" for name in names if name != "e11"]
    assert pages == 3
    for size in (-1, 1001):
        refused(
            partial(served.operate.ListExperiments, pb.ListExperimentsRequest(page_size=size)),
            Code.INVALID_ARGUMENT,
        )
    for bad in ("!!!", "%%", "YWJj\n=="):
        refused(
            partial(served.operate.ListAuditRecords, pb.ListAuditRecordsRequest(name=NAME, page_token=bad)),
            Code.INVALID_ARGUMENT,
        )


def test_a_page_ends_before_a_message_is_too_large(served: Serving, store: Faulty) -> None:
    arms = [
        {"name": f"a{index}", "control": index == 0, "metadata": {f"k{n}": "x" * 2000 for n in range(20)}}
        for index in range(20)
    ]
    for index in range(6):
        put_draft(store, f"e{index}", arms=arms)
    seen: list[str] = []
    token = ""
    while True:
        page = served.operate.ListExperiments(pb.ListExperimentsRequest(page_token=token))
        assert page.ByteSize() < 4 << 20
        seen += [experiment.name for experiment in page.experiments]
        token = page.next_page_token
        if not token:
            break
    assert seen == [f"experiments/e{index}" for index in range(6)]


def test_audit_records_come_in_pages(served: Serving, store: Faulty) -> None:
    create(served)
    served.operate.StartExperiment(pb.StartExperimentRequest(name=NAME))
    for _ in range(5):
        served.operate.PauseExperiment(pb.PauseExperimentRequest(name=NAME))
        served.operate.ResumeExperiment(pb.ResumeExperimentRequest(name=NAME))
    seen: list[int] = []
    token, pages = "", 0
    while True:
        page = served.operate.ListAuditRecords(
            pb.ListAuditRecordsRequest(name=NAME, page_size=5, page_token=token)
        )
        seen += [record.sequence for record in page.records]
        pages += 1
        token = page.next_page_token
        if not token:
            break
    assert seen == list(range(12, 0, -1))
    assert pages == 3

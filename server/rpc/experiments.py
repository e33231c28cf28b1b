"""The operators' service: thin; each method names its move and leaves the rest to changes, statuses and watch."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, TypeVar, cast

import grpc
from google.protobuf.empty_pb2 import Empty

from bandit.client.convert import spec_from_proto
from bandit.errors import InvalidArgument
from bandit.ids import parse_arm, parse_experiment
from bandit.rollout import transitions
from bandit.rollout.state import Allocation, Experiment, State
from bandit.rollout.transitions import Transition
from bandit.spec.diff import diff, new_epoch, restarts_guardrails
from bandit.v1 import experiment_pb2, experiment_service_pb2_grpc
from bandit.v1 import experiment_service_pb2 as pb
from server.clock import Clock
from server.rpc.changes import MAX_REASON_BYTES, Changes, arm_index, asked, check_text, missing
from server.rpc.convert import audit_to_proto, changes_to_proto, experiment_to_proto
from server.rpc.reports import read_report
from server.rpc.securing import asks, tell
from server.rpc.statuses import StatusReader
from server.rpc.watch import CHECK_S, Watcher
from server.store.base import ControlStore

PAGE = 100
MAX_PAGE = 1000
PAGE_BYTES = 2 << 20
"""A page ends before this size, though fewer than asked: clients take messages of 4 MiB."""
LOAD_AT_ONCE = 100


Answer = TypeVar("Answer")


def _told(call: Callable[[Any, Any, grpc.ServicerContext], Answer]) -> Callable[..., Answer]:
    """A write: who asks how safe it is has that in the answer's trailing metadata; see ``securing``."""

    @wraps(call)
    def method(self: Experiments, request: Any, context: grpc.ServicerContext) -> Answer:
        if not asks(context):
            return call(self, request, context)
        response: Any = call(self, request, context)
        if isinstance(response, pb.DeleteExperimentResponse):
            safe = self._changes.told(parse_experiment(request.name))
        else:
            after = response.experiment
            safe = self._changes.told(parse_experiment(after.name), after.etag)
        tell(context, safe)
        return cast("Answer", response)

    return method


class Experiments(experiment_service_pb2_grpc.ExperimentServiceServicer):
    """Experiments, their state, what is known about them."""

    def __init__(
        self,
        store: ControlStore,
        clock: Clock,
        *,
        check_s: float = CHECK_S,
        standing: Callable[[str], list[str]] = lambda _: [],
    ) -> None:
        self._store = store
        self._changes = Changes(store, clock)
        self._statuses = StatusReader(store, clock, standing)
        self.watcher = Watcher(self._statuses, clock, check_s=check_s)

    @_told
    def CreateExperiment(  # noqa: N802
        self, request: pb.CreateExperimentRequest, context: grpc.ServicerContext
    ) -> pb.CreateExperimentResponse:
        """A new experiment in DRAFT."""
        wanted = asked("", request.request_id, request.actor)
        done = self._changes.create(spec_from_proto(request.spec), wanted)
        return pb.CreateExperimentResponse(experiment=experiment_to_proto(done.experiment))

    def GetExperiment(  # noqa: N802
        self, request: pb.GetExperimentRequest, context: grpc.ServicerContext
    ) -> pb.GetExperimentResponse:
        """One experiment."""
        stored = self._changes.load(parse_experiment(request.name))
        return pb.GetExperimentResponse(experiment=experiment_to_proto(stored.experiment))

    def ListExperiments(  # noqa: N802
        self, request: pb.ListExperimentsRequest, context: grpc.ServicerContext
    ) -> pb.ListExperimentsResponse:
        """A page of experiments by name; one that cannot be read is left out (GetExperiment says why)."""
        size = _page_size(request.page_size)
        after = _read_token(request.page_token)
        names = [name for name in self._store.names() if name > after]
        response = pb.ListExperimentsResponse()
        total = 0
        for start in range(0, len(names), LOAD_AT_ONCE):
            loaded = self._store.load_many(names[start : start + LOAD_AT_ONCE])
            for name in sorted(loaded):
                stored = loaded[name]
                if isinstance(stored, Exception):
                    continue
                message = experiment_to_proto(stored.experiment)
                total += message.ByteSize()
                if len(response.experiments) == size or (total > PAGE_BYTES and response.experiments):
                    last = parse_experiment(response.experiments[-1].name)
                    response.next_page_token = _token(last)
                    return response
                response.experiments.append(message)
        return response

    @_told
    def UpdateExperiment(  # noqa: N802
        self, request: pb.UpdateExperimentRequest, context: grpc.ServicerContext
    ) -> pb.UpdateExperimentResponse:
        """Another spec."""
        spec = spec_from_proto(request.spec)
        wanted = asked(request.etag, request.request_id, request.actor)

        def move(experiment: Experiment, allocation: Allocation, now_ms: int) -> Transition | None:
            return transitions.update(experiment, allocation, spec, now_ms)

        def tell(before: Experiment) -> bytes:
            changes = changes_to_proto(diff(before.spec, spec))
            return pb.UpdateExperimentResponse(changes=changes).SerializeToString()

        done = self._changes.apply(spec.experiment, wanted, move, tell)
        response = pb.UpdateExperimentResponse.FromString(done.answer)
        response.experiment.CopyFrom(experiment_to_proto(done.experiment))
        return response

    @_told
    def DeleteExperiment(  # noqa: N802
        self, request: pb.DeleteExperimentRequest, context: grpc.ServicerContext
    ) -> pb.DeleteExperimentResponse:
        """Gone, with its statistics."""
        wanted = asked(request.etag, request.request_id, request.actor)
        self._changes.delete(parse_experiment(request.name), wanted)
        return pb.DeleteExperimentResponse(empty=Empty())

    @_told
    def StartExperiment(  # noqa: N802
        self, request: pb.StartExperimentRequest, context: grpc.ServicerContext
    ) -> pb.StartExperimentResponse:
        """DRAFT to RUNNING."""
        wanted = asked(request.etag, request.request_id, request.actor)
        done = self._changes.apply(parse_experiment(request.name), wanted, transitions.start)
        return pb.StartExperimentResponse(experiment=experiment_to_proto(done.experiment))

    @_told
    def PauseExperiment(  # noqa: N802
        self, request: pb.PauseExperimentRequest, context: grpc.ServicerContext
    ) -> pb.PauseExperimentResponse:
        """RUNNING to PAUSED."""
        wanted = asked(request.etag, request.request_id, request.actor)
        reason = check_text("reason", request.reason, MAX_REASON_BYTES)

        def move(experiment: Experiment, allocation: Allocation, now_ms: int) -> Transition:
            return transitions.pause(experiment, allocation, now_ms, reason)

        done = self._changes.apply(parse_experiment(request.name), wanted, move)
        return pb.PauseExperimentResponse(experiment=experiment_to_proto(done.experiment))

    @_told
    def ResumeExperiment(  # noqa: N802
        self, request: pb.ResumeExperimentRequest, context: grpc.ServicerContext
    ) -> pb.ResumeExperimentResponse:
        """PAUSED to RUNNING."""
        wanted = asked(request.etag, request.request_id, request.actor)
        done = self._changes.apply(parse_experiment(request.name), wanted, transitions.resume)
        return pb.ResumeExperimentResponse(experiment=experiment_to_proto(done.experiment))

    @_told
    def RollBackArm(  # noqa: N802
        self, request: pb.RollBackArmRequest, context: grpc.ServicerContext
    ) -> pb.RollBackArmResponse:
        """No more traffic for an arm."""
        name, arm = parse_arm(request.name)
        wanted = asked(request.etag, request.request_id, request.actor)
        reason = check_text("reason", request.reason, MAX_REASON_BYTES)

        def move(experiment: Experiment, allocation: Allocation, now_ms: int) -> Transition:
            index = arm_index(experiment, arm)
            return transitions.roll_back(
                experiment,
                allocation,
                index,
                actor=wanted.client,
                reason=reason,
                rollback_id=f"{experiment.uid:x}-{experiment.revision:x}-{index}",
                now_ms=now_ms,
            )

        done = self._changes.apply(name, wanted, move)
        return pb.RollBackArmResponse(experiment=experiment_to_proto(done.experiment))

    @_told
    def ClearRollback(  # noqa: N802
        self, request: pb.ClearRollbackRequest, context: grpc.ServicerContext
    ) -> pb.ClearRollbackResponse:
        """Another attempt of an arm."""
        name, arm = parse_arm(request.name)
        wanted = asked(request.etag, request.request_id, request.actor)
        reason = check_text("reason", request.reason, MAX_REASON_BYTES)

        def move(experiment: Experiment, allocation: Allocation, now_ms: int) -> Transition:
            index = arm_index(experiment, arm)
            return transitions.clear_rollback(experiment, allocation, index, now_ms, reason)

        done = self._changes.apply(name, wanted, move)
        return pb.ClearRollbackResponse(experiment=experiment_to_proto(done.experiment))

    @_told
    def PromoteArm(  # noqa: N802
        self, request: pb.PromoteArmRequest, context: grpc.ServicerContext
    ) -> pb.PromoteArmResponse:
        """All traffic for an arm."""
        name, arm = parse_arm(request.name)
        wanted = asked(request.etag, request.request_id, request.actor)
        reason = check_text("reason", request.reason, MAX_REASON_BYTES)

        def move(experiment: Experiment, allocation: Allocation, now_ms: int) -> Transition:
            return transitions.promote(experiment, allocation, arm_index(experiment, arm), now_ms, reason)

        done = self._changes.apply(name, wanted, move)
        return pb.PromoteArmResponse(experiment=experiment_to_proto(done.experiment))

    def GetStatus(  # noqa: N802
        self, request: pb.GetStatusRequest, context: grpc.ServicerContext
    ) -> pb.GetStatusResponse:
        """Everything an operator asks."""
        return pb.GetStatusResponse(status=self._statuses.read(parse_experiment(request.name)))

    def WatchStatus(  # noqa: N802
        self, request: pb.WatchStatusRequest, context: grpc.ServicerContext
    ) -> Iterator[pb.WatchStatusResponse]:
        """The same, whenever it changes."""
        for status in self.watcher.watch(parse_experiment(request.name)):
            if not context.is_active():
                return
            if status is not None:
                yield pb.WatchStatusResponse(status=status)

    def GetReport(self, request: pb.GetReportRequest, context: grpc.ServicerContext) -> pb.GetReportResponse:  # noqa: N802
        """What the data show."""
        return pb.GetReportResponse(report=read_report(self._store, parse_experiment(request.name)))

    def ListAuditRecords(  # noqa: N802
        self, request: pb.ListAuditRecordsRequest, context: grpc.ServicerContext
    ) -> pb.ListAuditRecordsResponse:
        """What happened, newest first."""
        name = parse_experiment(request.name)
        size = _page_size(request.page_size)
        text = _read_token(request.page_token)
        if text and not text.isdecimal():
            raise _bad_token()
        before = int(text) if text else None
        records = self._store.audit(name, before, size + 1)
        if not records and self._store.load(name) is None:
            records = self._store.past_audit(name, before, size + 1)
            if not records and not text:
                raise missing(name)
        response = pb.ListAuditRecordsResponse()
        total = 0
        for record in records:
            message: experiment_pb2.AuditRecord = audit_to_proto(record)
            total += message.ByteSize()
            if len(response.records) == size or (total > PAGE_BYTES and response.records):
                response.next_page_token = _token(str(response.records[-1].sequence))
                break
            response.records.append(message)
        return response

    def DryRun(self, request: pb.DryRunRequest, context: grpc.ServicerContext) -> pb.DryRunResponse:  # noqa: N802
        """What a spec would change."""
        spec = spec_from_proto(request.spec)
        stored = self._store.load(spec.experiment)
        if stored is None:
            return pb.DryRunResponse(creates=True, changes=changes_to_proto(diff(None, spec)))
        old = stored.experiment.spec
        epoch = new_epoch(old, spec)
        return pb.DryRunResponse(
            changes=changes_to_proto(diff(old, spec)),
            new_epoch=epoch,
            restarts_guardrails=stored.experiment.state is not State.DRAFT
            and (epoch or restarts_guardrails(old, spec)),
            etag=stored.experiment.etag,
        )


def _page_size(size: int) -> int:
    if not 0 <= size <= MAX_PAGE:
        raise InvalidArgument.at("page_size", f"{size} is not 0 to {MAX_PAGE}; 0 stands for {PAGE}")
    return size or PAGE


def _token(text: str) -> str:
    return base64.urlsafe_b64encode(text.encode()).decode()


def _read_token(token: str) -> str:
    try:
        return base64.b64decode(token.encode(), b"-_", validate=True).decode()
    except (binascii.Error, UnicodeError):
        raise _bad_token() from None


def _bad_token() -> InvalidArgument:
    return InvalidArgument.at(
        "page_token", "it is not one of ours; send next_page_token as the last page gave it"
    )

"""The experiment service of the double: the real moves behind the real wire."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import grpc

from bandit import errors
from bandit.client.convert import spec_from_proto
from bandit.ids import parse_arm, parse_experiment
from bandit.rollout import transitions
from bandit.rollout.audit import GENESIS
from bandit.rollout.transitions import Transition
from bandit.spec.diff import diff, new_epoch, restarts_guardrails
from bandit.spec.model import ExperimentSpec
from bandit.v1 import experiment_pb2 as pb
from bandit.v1 import experiment_service_pb2 as epb
from bandit.v1 import experiment_service_pb2_grpc as egrpc
from tests.double.ground import Ground, Held, abort, arm_of, fresh, now_ms
from tests.double.views import audit_view, experiment_view, status_view

SALT = bytes(range(16))


class Experiments(egrpc.ExperimentServiceServicer):
    """ExperimentService over a Ground."""

    def __init__(self, ground: Ground) -> None:
        self.ground = ground
        self._uid = 6

    def _write(
        self, call: str, request: Any, context: grpc.ServicerContext, move: Callable[[Held], Transition]
    ) -> Any:
        def work() -> pb.Experiment:
            name = parse_arm(request.name)[0] if "/arms/" in request.name else parse_experiment(request.name)
            held = self.ground.named(name)
            fresh(held, request.etag)
            self.ground.put(held, move(held), request.actor)
            return experiment_view(held.experiment)

        return self.ground.serve(call, request, context, work)

    def CreateExperiment(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> epb.CreateExperimentResponse:
            spec = spec_from_proto(request.spec)
            if spec.experiment in self.ground.held:
                raise errors.AlreadyExists(f"{spec.experiment} exists; update it, or take another name")
            self._uid += 1
            made = transitions.create(spec, self._uid, SALT, now_ms())
            record = transitions.audit_record(
                None, made, actor=request.actor, sequence=0, previous_hash=GENESIS, now_ms=now_ms()
            )
            self.ground.held[spec.experiment] = Held(made.experiment, made.allocation, [record])
            return epb.CreateExperimentResponse(experiment=experiment_view(made.experiment))

        return self.ground.serve("Create", request, context, work)

    def GetExperiment(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.ground.serve(
            "Get",
            request,
            context,
            lambda: epb.GetExperimentResponse(
                experiment=experiment_view(self.ground.find(request.name).experiment)
            ),
        )

    def ListExperiments(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> epb.ListExperimentsResponse:
            names = sorted(name for name in self.ground.held if name > request.page_token)
            size = request.page_size or 100
            page = [experiment_view(self.ground.held[name].experiment) for name in names[:size]]
            return epb.ListExperimentsResponse(
                experiments=page, next_page_token=names[size - 1] if len(names) > size else ""
            )

        return self.ground.serve("List", request, context, work)

    def UpdateExperiment(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> epb.UpdateExperimentResponse:
            spec = spec_from_proto(request.spec)
            held = self.ground.named(spec.experiment)
            fresh(held, request.etag)
            changes = changes_view(held, spec)
            moved = transitions.update(held.experiment, held.allocation, spec, now_ms())
            if moved is not None:
                self.ground.put(held, moved, request.actor)
            return epb.UpdateExperimentResponse(experiment=experiment_view(held.experiment), changes=changes)

        return self.ground.serve("Update", request, context, work)

    def DeleteExperiment(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> epb.DeleteExperimentResponse:
            held = self.ground.find(request.name)
            fresh(held, request.etag)
            if held.experiment.state.value == "running":
                raise errors.NotAllowed(f"{held.experiment.name} is running; pause it first")
            del self.ground.held[held.experiment.name]
            return epb.DeleteExperimentResponse()

        return self.ground.serve("Delete", request, context, work)

    def StartExperiment(self, request: Any, context: Any) -> Any:  # noqa: N802
        moved = self._write(
            "Start",
            request,
            context,
            lambda held: transitions.start(held.experiment, held.allocation, now_ms()),
        )
        return epb.StartExperimentResponse(experiment=moved)

    def PauseExperiment(self, request: Any, context: Any) -> Any:  # noqa: N802
        moved = self._write(
            "Pause",
            request,
            context,
            lambda held: transitions.pause(held.experiment, held.allocation, now_ms(), request.reason),
        )
        return epb.PauseExperimentResponse(experiment=moved)

    def ResumeExperiment(self, request: Any, context: Any) -> Any:  # noqa: N802
        moved = self._write(
            "Resume",
            request,
            context,
            lambda held: transitions.resume(held.experiment, held.allocation, now_ms()),
        )
        return epb.ResumeExperimentResponse(experiment=moved)

    def RollBackArm(self, request: Any, context: Any) -> Any:  # noqa: N802
        moved = self._write(
            "RollBack",
            request,
            context,
            lambda held: transitions.roll_back(
                held.experiment,
                held.allocation,
                arm_of(held, request.name),
                actor=request.actor,
                reason=request.reason,
                rollback_id=request.request_id,
                now_ms=now_ms(),
            ),
        )
        return epb.RollBackArmResponse(experiment=moved)

    def ClearRollback(self, request: Any, context: Any) -> Any:  # noqa: N802
        moved = self._write(
            "Clear",
            request,
            context,
            lambda held: transitions.clear_rollback(
                held.experiment, held.allocation, arm_of(held, request.name), now_ms(), request.reason
            ),
        )
        return epb.ClearRollbackResponse(experiment=moved)

    def PromoteArm(self, request: Any, context: Any) -> Any:  # noqa: N802
        moved = self._write(
            "Promote",
            request,
            context,
            lambda held: transitions.promote(
                held.experiment, held.allocation, arm_of(held, request.name), now_ms(), request.reason
            ),
        )
        return epb.PromoteArmResponse(experiment=moved)

    def GetStatus(self, request: Any, context: Any) -> Any:  # noqa: N802
        return self.ground.serve(
            "Status", request, context, lambda: epb.GetStatusResponse(status=self._status(request.name))
        )

    def GetReport(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> epb.GetReportResponse:
            report = self.ground.find(request.name).report
            if report is None:
                raise errors.NotAllowed("no report yet; ask again")
            return epb.GetReportResponse(report=report)

        return self.ground.serve("Report", request, context, work)

    def WatchStatus(self, request: Any, context: Any) -> Iterator[Any]:  # noqa: N802
        last = None
        self.ground.serve("Watch", request, context, lambda: None)
        while context.is_active():
            with self.ground.changed:
                if not self.ground.open:
                    return
                try:
                    status = self._status(request.name)
                except errors.BanditError as error:
                    abort(context, error)
                if status == last:
                    self.ground.changed.wait(0.1)
                    continue
            last = status
            yield epb.WatchStatusResponse(status=status)
            if act := self.ground.after.pop("Shown", None):
                act()
            if broken := self.ground.breaks.pop(status.allocation.number, None):
                context.abort(broken, "the stream breaks")

    def _status(self, resource: str) -> pb.ExperimentStatus:
        held = self.ground.find(resource)
        status = status_view(held.experiment, held.allocation, held.exposures, held.ends)
        status.warnings.extend(held.warnings)
        status.verdicts.extend(held.verdicts)
        if self.ground.stuck_ppm:
            for arm in status.arms:
                if arm.state.HasField("rollback"):
                    arm.share_ppm = self.ground.stuck_ppm
        return status

    def ListAuditRecords(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> epb.ListAuditRecordsResponse:
            before = int(request.page_token or 1 << 62)
            records = [
                each for each in reversed(self.ground.find(request.name).records) if each.sequence < before
            ]
            page = records[: request.page_size or 100]
            return epb.ListAuditRecordsResponse(
                records=[audit_view(each) for each in page],
                next_page_token=str(page[-1].sequence) if len(page) < len(records) else "",
            )

        return self.ground.serve("Audit", request, context, work)

    def DryRun(self, request: Any, context: Any) -> Any:  # noqa: N802
        def work() -> epb.DryRunResponse:
            spec = spec_from_proto(request.spec)
            held = self.ground.held.get(spec.experiment)
            if held is None:
                return epb.DryRunResponse(creates=True, changes=changes_view(None, spec))
            old = held.experiment.spec
            return epb.DryRunResponse(
                changes=changes_view(held, spec),
                new_epoch=new_epoch(old, spec),
                restarts_guardrails=restarts_guardrails(old, spec),
                etag=held.experiment.etag,
            )

        return self.ground.serve("DryRun", request, context, work)


def changes_view(held: Held | None, spec: ExperimentSpec) -> list[epb.Change]:
    return [
        epb.Change(
            path=each.path,
            before="" if each.before is None else str(each.before),
            after="" if each.after is None else str(each.after),
            effect=each.effect,
        )
        for each in diff(held.experiment.spec if held else None, spec)
    ]

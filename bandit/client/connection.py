"""The connection to one banditd: every call of the wire as a typed method; it decides nothing itself.

::

    with Client("127.0.0.1:50061") as client:
        decision = client.decide("summariser", unit="user-17")
        ...
        client.report_reward(decision.token, "helpful", 1.0)
"""

from __future__ import annotations

import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self, TypeVar, cast

import grpc

from bandit.client.changes import asked, reached
from bandit.client.errors import answered, from_rpc
from bandit.client.ingesting import IngestCalls
from bandit.client.pages import pages
from bandit.client.retries import channel_options
from bandit.client.rewards import Reported, report
from bandit.ids import arm_resource, experiment_resource, parse_name
from bandit.v1 import (
    decision_service_pb2,
    decision_service_pb2_grpc,
    experiment_pb2,
    experiment_service_pb2,
    experiment_service_pb2_grpc,
    ingest_service_pb2_grpc,
    report_pb2,
    reward_service_pb2,
    reward_service_pb2_grpc,
    server_service_pb2,
    server_service_pb2_grpc,
)

if TYPE_CHECKING:
    from bandit.spec.model import ExperimentSpec
    from bandit.v1 import spec_pb2

MAX_UNITS = 10_000
DEFAULT_TIMEOUT_S = 10.0
# A quiet stream is opened anew after this long, so that a dead connection is noticed.
WATCH_S = 60.0

Request = TypeVar("Request")
Reply = TypeVar("Reply")


class Client(IngestCalls):
    """Calls one server; safe to share between threads, not across a fork.

    ``target``: ``host:port``. ``timeout_s``: deadline of each call, retries included. ``actor``: who asks, for the
    audit. ``credentials``: for TLS; None speaks in the clear. What failed on the way is sent again (``retries``);
    each write carries a request_id, so it has one effect. Experiments and arms are given by bare name. ``durability``:
    how safe each change of an experiment is to be before it is answered, as of :meth:`report_rewards`; "" waits for
    nothing. What was reached by the last one is in ``reached``, "" when the server does not say.

    Every method raises the errors of ``bandit.errors`` that the proto names, and ServerUnavailable or
    UnexpectedAnswer of ``bandit.client.errors``.
    """

    def __init__(
        self,
        target: str,
        *,
        timeout_s: float = DEFAULT_TIMEOUT_S,
        actor: str = "",
        credentials: grpc.ChannelCredentials | None = None,
        durability: str = "",
    ) -> None:
        self._asked = asked(durability)
        self.reached = ""
        self.target = target
        self.timeout_s = timeout_s
        self.actor = actor
        options = channel_options()
        if credentials is None:
            self._channel = grpc.insecure_channel(target, options)
        else:
            self._channel = grpc.secure_channel(target, credentials, options)
        self._decisions = decision_service_pb2_grpc.DecisionServiceStub(self._channel)
        self._rewards = reward_service_pb2_grpc.RewardServiceStub(self._channel)
        self._experiments = experiment_service_pb2_grpc.ExperimentServiceStub(self._channel)
        self._server = server_service_pb2_grpc.ServerServiceStub(self._channel)
        self._ingest = ingest_service_pb2_grpc.IngestServiceStub(self._channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Ends the connection and every call on it."""
        self._channel.close()

    def decide(
        self, experiment: str, unit: str, attributes: Mapping[str, str] | None = None, session: str = ""
    ) -> decision_service_pb2.DecideResponse:
        """The arm of a unit; ``session`` where the experiment draws it anew in each. Counts one exposure."""
        return self._call(
            self._decisions.Decide,
            decision_service_pb2.DecideRequest(
                experiment=_experiment(experiment), unit=unit, attributes=attributes or {}, session=session
            ),
        )

    def decide_batch(
        self,
        experiment: str,
        units: Sequence[str],
        attributes: Mapping[str, str] | None = None,
        sessions: Sequence[str] = (),
    ) -> decision_service_pb2.DecideBatchResponse:
        """The arms of at most 10000 units, in columns; ``sessions``: one for each, where the experiment draws a unit
        anew in each of them. Counts one exposure each."""
        return self._call(
            self._decisions.DecideBatch,
            decision_service_pb2.DecideBatchRequest(
                experiment=_experiment(experiment),
                units=units,
                attributes=attributes or {},
                sessions=sessions,
            ),
        )

    def report_rewards(
        self,
        events: Iterable[reward_service_pb2.RewardEvent],
        *,
        wait: bool = False,
        durability: str = "",
        source: str = "",
    ) -> Reported:
        """What became of each event, in order. ``wait``: until it is counted, as long as the timeout allows.

        ``durability``: how safe they are to be before the answer: ``memory``, ``replicated``, ``fsynced``, or as the
        server is configured; what was reached is in the answer's ``durability``.
        ``source``: the name of who sends; the rewards are counted, and can be removed, under ``grpc/{source}``.
        Sent in batches of 1000. After an error send all again: what was counted is not counted twice.
        """

        def send(
            request: reward_service_pb2.ReportRewardsRequest,
        ) -> reward_service_pb2.ReportRewardsResponse:
            return self._call(self._rewards.ReportRewards, request)

        return report(send, events, wait=wait, durability=durability, source=source, target=self.target)

    def report_reward(
        self, token: bytes, metric: str, value: float, *, wait: bool = False
    ) -> reward_service_pb2.RewardResult:
        """What became of one reward of the decision that ``token`` came with."""
        event = reward_service_pb2.RewardEvent(token=token, metric=metric, value=value)
        return self.report_rewards([event], wait=wait)[0]

    def correct_reward(
        self, token: bytes, metric: str, value: float, *, sequence: int | None = None, wait: bool = False
    ) -> reward_service_pb2.RewardResult:
        """Make ``value`` the decision's value of a metric that remembers its values, whatever was reported.

        Of several corrections and retractions the one with the highest ``sequence`` stands; left out: the time of
        this call, so that a correction which is sent again should have one.
        """
        operation = reward_service_pb2.REWARD_OPERATION_CORRECT
        return self._amend(token, metric, value, operation, sequence, wait=wait)

    def retract_reward(
        self, token: bytes, metric: str, *, sequence: int | None = None, wait: bool = False
    ) -> reward_service_pb2.RewardResult:
        """Take back the decision's value of a metric that remembers its values; see :meth:`correct_reward`."""
        operation = reward_service_pb2.REWARD_OPERATION_RETRACT
        return self._amend(token, metric, None, operation, sequence, wait=wait)

    def _amend(
        self,
        token: bytes,
        metric: str,
        value: float | None,
        operation: reward_service_pb2.RewardOperation.ValueType,
        sequence: int | None,
        *,
        wait: bool,
    ) -> reward_service_pb2.RewardResult:
        event = reward_service_pb2.RewardEvent(
            token=token, metric=metric, value=value, operation=operation, sequence=sequence
        )
        if sequence is None:
            event.event_time.GetCurrentTime()
        return self.report_rewards([event], wait=wait)[0]

    def get(self, experiment: str) -> experiment_pb2.Experiment:
        """The spec and state of one experiment."""
        request = experiment_service_pb2.GetExperimentRequest(name=_experiment(experiment))
        return self._call(self._experiments.GetExperiment, request).experiment

    def experiments(self, page_size: int = 100) -> Iterator[experiment_pb2.Experiment]:
        """Every experiment, by name."""

        def page(token: str) -> experiment_service_pb2.ListExperimentsResponse:
            return self._call(
                self._experiments.ListExperiments,
                experiment_service_pb2.ListExperimentsRequest(page_size=page_size, page_token=token),
            )

        return pages(page, lambda reply: reply.experiments, self.target)

    def audit(self, experiment: str, page_size: int = 100) -> Iterator[experiment_pb2.AuditRecord]:
        """The audit records of an experiment, newest first."""

        def page(token: str) -> experiment_service_pb2.ListAuditRecordsResponse:
            return self._call(
                self._experiments.ListAuditRecords,
                experiment_service_pb2.ListAuditRecordsRequest(
                    name=_experiment(experiment), page_size=page_size, page_token=token
                ),
            )

        return pages(page, lambda reply: reply.records, self.target)

    def status(self, experiment: str) -> experiment_pb2.ExperimentStatus:
        """Everything an operator asks about one experiment."""
        request = experiment_service_pb2.GetStatusRequest(name=_experiment(experiment))
        return self._call(self._experiments.GetStatus, request).status

    def report(self, experiment: str) -> report_pb2.Report:
        """What the data of one experiment show."""
        request = experiment_service_pb2.GetReportRequest(name=_experiment(experiment))
        return self._call(self._experiments.GetReport, request).report

    def watch(
        self, experiment: str, duration_s: float = WATCH_S
    ) -> Iterator[experiment_pb2.ExperimentStatus]:
        """The status now and whenever it changes, for ``duration_s``; then it ends, and is to be called again.

        It raises as soon as the stream breaks; it does not open it again by itself.
        """
        request = experiment_service_pb2.WatchStatusRequest(name=_experiment(experiment))
        stream = self._experiments.WatchStatus(request, timeout=duration_s)
        seen = False
        try:
            for reply in stream:
                seen = True
                yield reply.status
        except grpc.RpcError as error:
            call = answered(error)
            if not (seen and call and call.code() is grpc.StatusCode.DEADLINE_EXCEEDED):
                raise from_rpc(error, self.target, duration_s) from error
        finally:
            stream.cancel()

    def dry_run(self, spec: ExperimentSpec) -> experiment_service_pb2.DryRunResponse:
        """What a spec would change. Changes nothing."""
        request = experiment_service_pb2.DryRunRequest(spec=_proto(spec))
        return self._call(self._experiments.DryRun, request)

    def create(self, spec: ExperimentSpec) -> experiment_pb2.Experiment:
        """A new experiment in state DRAFT."""
        request = experiment_service_pb2.CreateExperimentRequest(spec=_proto(spec), **self._signed())
        return self._write(self._experiments.CreateExperiment, request).experiment

    def update(self, spec: ExperimentSpec, etag: str = "") -> experiment_service_pb2.UpdateExperimentResponse:
        """Replaces the spec, when the experiment still has this ``etag`` (empty: whatever it has)."""
        request = experiment_service_pb2.UpdateExperimentRequest(
            spec=_proto(spec), etag=etag, **self._signed()
        )
        return self._write(self._experiments.UpdateExperiment, request)

    def delete(self, experiment: str, etag: str = "") -> None:
        """Deletes an experiment with its statistics."""
        request = experiment_service_pb2.DeleteExperimentRequest(
            name=_experiment(experiment), etag=etag, **self._signed()
        )
        self._write(self._experiments.DeleteExperiment, request)

    def start(self, experiment: str, etag: str = "") -> experiment_pb2.Experiment:
        """DRAFT to RUNNING."""
        request = experiment_service_pb2.StartExperimentRequest(
            name=_experiment(experiment), etag=etag, **self._signed()
        )
        return self._write(self._experiments.StartExperiment, request).experiment

    def pause(self, experiment: str, reason: str = "", etag: str = "") -> experiment_pb2.Experiment:
        """RUNNING to PAUSED: every unit gets the control."""
        request = experiment_service_pb2.PauseExperimentRequest(
            name=_experiment(experiment), etag=etag, reason=reason, **self._signed()
        )
        return self._write(self._experiments.PauseExperiment, request).experiment

    def resume(self, experiment: str, etag: str = "") -> experiment_pb2.Experiment:
        """PAUSED to RUNNING."""
        request = experiment_service_pb2.ResumeExperimentRequest(
            name=_experiment(experiment), etag=etag, **self._signed()
        )
        return self._write(self._experiments.ResumeExperiment, request).experiment

    def roll_back(self, experiment: str, arm: str, reason: str, etag: str = "") -> experiment_pb2.Experiment:
        """Takes all traffic from a challenger until it is cleared."""
        request = experiment_service_pb2.RollBackArmRequest(
            name=_arm(experiment, arm), etag=etag, reason=reason, **self._signed()
        )
        return self._write(self._experiments.RollBackArm, request).experiment

    def clear_rollback(
        self, experiment: str, arm: str, reason: str = "", etag: str = ""
    ) -> experiment_pb2.Experiment:
        """Lets a rolled back or held arm have traffic again, as a new attempt."""
        request = experiment_service_pb2.ClearRollbackRequest(
            name=_arm(experiment, arm), etag=etag, reason=reason, **self._signed()
        )
        return self._write(self._experiments.ClearRollback, request).experiment

    def promote(
        self, experiment: str, arm: str, reason: str = "", etag: str = ""
    ) -> experiment_pb2.Experiment:
        """Gives every unit to one arm and concludes."""
        request = experiment_service_pb2.PromoteArmRequest(
            name=_arm(experiment, arm), etag=etag, reason=reason, **self._signed()
        )
        return self._write(self._experiments.PromoteArm, request).experiment

    def server(self) -> server_service_pb2.Server:
        """How the server stands that this client speaks to; it answers without the store too."""
        request = server_service_pb2.GetServerRequest()
        return self._call(self._server.GetServer, request).server

    def stop_arm(self, experiment: str, arm: str, reason: str) -> server_service_pb2.LocalStop:
        """Takes all traffic from a challenger on the machine that this client speaks to, whatever the store does."""
        request = server_service_pb2.StopArmRequest(
            name=_arm(experiment, arm), actor=self.actor, reason=reason
        )
        return self._call(self._server.StopArm, request).stop

    def accept_store(self, reason: str) -> server_service_pb2.Server:
        """Lets that machine take the store as it is, after it was emptied, set back or exchanged."""
        request = server_service_pb2.AcceptStoreRequest(actor=self.actor, reason=reason)
        return self._call(self._server.AcceptStore, request).server

    def findings(self) -> list[server_service_pb2.Finding]:
        """What is right and wrong with that machine and its store, looked at now."""
        request = server_service_pb2.ListFindingsRequest()
        return list(self._call(self._server.ListFindings, request).findings)

    def _signed(self) -> dict[str, Any]:
        """The fields of every write: a fresh request_id, under which retries have one effect, and who asks."""
        return {"request_id": uuid.uuid4().hex, "actor": self.actor}

    def _write(self, method: Callable[..., Reply], request: object) -> Reply:
        called: Any = method  # its types do not say that it can answer with the call
        try:
            reply, call = called.with_call(request, timeout=self.timeout_s, metadata=self._asked)
        except grpc.RpcError as error:
            raise from_rpc(error, self.target, self.timeout_s) from error
        self.reached = reached(call)
        return cast("Reply", reply)

    def _call(self, method: Callable[..., Reply], request: object) -> Reply:
        try:
            return method(request, timeout=self.timeout_s)
        except grpc.RpcError as error:
            raise from_rpc(error, self.target, self.timeout_s) from error


def _experiment(name: str) -> str:
    return experiment_resource(parse_name(name, "experiment"))


def _arm(experiment: str, name: str) -> str:
    return arm_resource(parse_name(experiment, "experiment"), parse_name(name, "arm"))


def _proto(spec: ExperimentSpec) -> spec_pb2.ExperimentSpec:
    # Late: pydantic takes a quarter of a second, and most commands send no spec.
    from bandit.client.convert import spec_to_proto

    return spec_to_proto(spec)


def split_tokens(reply: decision_service_pb2.DecideBatchResponse) -> list[bytes]:
    """One token per unit of a batch; empty ones when the decisions are not counted."""
    size, units = reply.token_size, len(reply.arm_indexes)
    if not reply.counted:
        return [b""] * units
    return [reply.tokens[index * size : (index + 1) * size] for index in range(units)]

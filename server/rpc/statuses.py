"""The status of an experiment: what its learner published, with state and shares as they are now; it judges nothing."""

from __future__ import annotations

from collections.abc import Callable

from google.protobuf.message import DecodeError

from bandit.ids import experiment_resource
from bandit.rollout.state import State
from bandit.v1 import experiment_pb2 as pb
from server.clock import Clock
from server.messages import STATES, allocation_to_proto, arm_state_to_proto
from server.rpc.changes import missing
from server.store.base import ControlStore, Stored

SILENT_S = 15.0


class StatusReader:
    """Reads statuses from the store. ``standing``: what this server has to say of its own state of an experiment."""

    def __init__(
        self, store: ControlStore, clock: Clock, standing: Callable[[str], list[str]] = lambda _: []
    ) -> None:
        self._store = store
        self._clock = clock
        self._standing = standing

    def read(self, name: str) -> pb.ExperimentStatus:
        """The status now. Raises NotFound, CorruptStored, StoreUnavailable."""
        stored = self._store.load(name)
        if stored is None:
            raise missing(name)
        published, fault = _parsed(self._store.status(name))
        status = overlaid(published, stored)
        status.warnings.extend(self._warnings(status, stored, fault))
        return status

    def _warnings(self, status: pb.ExperimentStatus, stored: Stored, fault: str) -> list[str]:
        warnings = [*([fault] if fault else []), *self._standing(stored.experiment.name)]
        if not self._store.learner_alive():
            warnings.append(
                "no learner is alive: rewards wait in the log, shares stand still, guardrails do not judge; "
                "start banditd with the learn role"
            )
        elif stored.experiment.state is State.RUNNING:
            # In whole steps, so that a status that stands still is seen to stand still.
            silent_s = (self._clock.now_ms() - _last_ms(status, stored)) / 1000 // SILENT_S * SILENT_S
            if silent_s > 0:
                warnings.append(
                    f"the learner has not judged this experiment for {silent_s:.0f} s or more: guardrails are blind; "
                    "see the learner's log"
                )
        return warnings


def overlaid(published: pb.ExperimentStatus | None, stored: Stored) -> pb.ExperimentStatus:
    """What was published, with the state and shares of now; zeros where nothing fits the present epoch."""
    experiment, allocation = stored.experiment, stored.allocation
    names = [arm.name for arm in experiment.spec.arms]
    fits = (
        published is not None
        and published.epoch == experiment.epoch
        and [arm.arm for arm in published.arms] == names
    )
    status = pb.ExperimentStatus()
    if published is not None:
        status.CopyFrom(published)
    if not fits:
        for field in ("arms", "verdicts", "exposures", "requests_more", "budget"):
            status.ClearField(field)
        for name in names:
            status.arms.add(arm=name).metrics.extend(
                pb.MetricStatus(metric=metric.name) for metric in experiment.spec.metrics
            )
    status.name = experiment_resource(experiment.name)
    status.state = STATES[experiment.state]
    status.epoch = experiment.epoch
    status.etag = experiment.etag
    status.allocation.CopyFrom(allocation_to_proto(allocation, experiment.spec))
    for index, share_ppm in enumerate(allocation.shares_ppm):
        arm = status.arms[index]
        arm.control = experiment.spec.arms[index].control
        arm.share_ppm = share_ppm
        arm.floor_ppm, arm.cap_ppm, _ = experiment.spec.bounds_ppm(index)
        arm.state.CopyFrom(arm_state_to_proto(experiment, index))
    return status


def _parsed(published: bytes | None) -> tuple[pb.ExperimentStatus | None, str]:
    if published is None:
        return None, ""
    try:
        return pb.ExperimentStatus.FromString(published), ""
    except DecodeError:
        return None, "the published status cannot be read; it is made anew when the learner next judges"


def _last_ms(status: pb.ExperimentStatus, stored: Stored) -> int:
    judged_ms = status.evaluation_time.ToMilliseconds() if status.HasField("evaluation_time") else 0
    return max(judged_ms, stored.experiment.update_time_ms)

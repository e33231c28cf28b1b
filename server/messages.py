"""Experiments and allocations in the words of the wire, as servers and learners tell them alike."""

from __future__ import annotations

from collections.abc import Mapping

from google.protobuf.timestamp_pb2 import Timestamp

from bandit.ids import arm_resource
from bandit.rollout.state import Allocation, Experiment, State
from bandit.spec.model import ExperimentSpec
from bandit.v1 import experiment_pb2

STATES: Mapping[State, experiment_pb2.ExperimentState.ValueType] = {
    State.DRAFT: experiment_pb2.EXPERIMENT_STATE_DRAFT,
    State.RUNNING: experiment_pb2.EXPERIMENT_STATE_RUNNING,
    State.PAUSED: experiment_pb2.EXPERIMENT_STATE_PAUSED,
    State.CONCLUDED: experiment_pb2.EXPERIMENT_STATE_CONCLUDED,
}


def timestamp(time_ms: int) -> Timestamp:
    """A moment from Unix milliseconds."""
    return Timestamp(seconds=time_ms // 1000, nanos=time_ms % 1000 * 1_000_000)


def arm_state_to_proto(experiment: Experiment, index: int) -> experiment_pb2.ArmState:
    """What was decided about one arm."""
    state = experiment.arms[index]
    message = experiment_pb2.ArmState(
        name=arm_resource(experiment.name, experiment.spec.arms[index].name),
        hold_ppm=state.hold_ppm,
        attempt=state.attempt,
        since_allocation=state.since,
    )
    if (rollback := state.rollback) is not None:
        message.rollback.id = rollback.id
        message.rollback.time.CopyFrom(timestamp(rollback.time_ms))
        message.rollback.actor = rollback.actor
        message.rollback.reason = rollback.reason
    return message


def allocation_to_proto(allocation: Allocation, spec: ExperimentSpec) -> experiment_pb2.Allocation:
    """One numbered vector of shares, and those of cohorts that have their own."""
    return experiment_pb2.Allocation(
        number=allocation.number,
        time=timestamp(allocation.time_ms),
        shares_ppm=allocation.shares_ppm,
        cause=allocation.cause,
        apart=apart_to_proto(allocation, spec),
    )


def apart_to_proto(allocation: Allocation, spec: ExperimentSpec) -> list[experiment_pb2.ApartCohort]:
    """Cohorts with shares of their own, by name."""
    return [
        experiment_pb2.ApartCohort(
            cohort=spec.cohort_name(each.cohort),
            shares_ppm=each.ranges.shares_ppm(),
            arm=spec.arms[each.arm].name,
            chance=each.chance,
        )
        for each in allocation.apart
    ]

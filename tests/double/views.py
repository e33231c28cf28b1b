"""What the double of banditd shows of its experiments, as protos."""

from __future__ import annotations

from collections import Counter

from bandit.client.convert import spec_to_proto
from bandit.ids import arm_resource, experiment_resource
from bandit.ranges import PPM
from bandit.rollout.audit import AuditRecord
from bandit.rollout.state import Allocation, Experiment
from bandit.v1 import experiment_pb2 as pb


def arm_view(experiment: Experiment, index: int) -> pb.ArmState:
    state = experiment.arms[index]
    view = pb.ArmState(
        name=arm_resource(experiment.name, experiment.spec.arms[index].name),
        attempt=state.attempt,
        since_allocation=state.since,
        hold_ppm=state.hold_ppm,
    )
    if state.rollback is not None:
        view.rollback.id, view.rollback.actor = state.rollback.id, state.rollback.actor
        view.rollback.reason = state.rollback.reason
        view.rollback.time.FromMilliseconds(state.rollback.time_ms)
    return view


def state_view(word: str) -> pb.ExperimentState.ValueType:
    return pb.ExperimentState.Value(f"EXPERIMENT_STATE_{word.upper() or 'UNSPECIFIED'}")


def experiment_view(experiment: Experiment) -> pb.Experiment:
    view = pb.Experiment(
        name=experiment_resource(experiment.name),
        uid=experiment.uid,
        etag=experiment.etag,
        spec=spec_to_proto(experiment.spec),
        state=state_view(experiment.state),
        epoch=experiment.epoch,
        arms=[arm_view(experiment, index) for index in range(len(experiment.arms))],
        promoted_arm="" if experiment.promoted is None else experiment.spec.arms[experiment.promoted].name,
    )
    view.create_time.FromMilliseconds(experiment.create_time_ms)
    view.update_time.FromMilliseconds(experiment.update_time_ms)
    return view


def allocation_view(allocation: Allocation) -> pb.Allocation:
    view = pb.Allocation(number=allocation.number, shares_ppm=allocation.shares_ppm, cause=allocation.cause)
    view.time.FromMilliseconds(allocation.time_ms)
    return view


def status_view(
    experiment: Experiment, allocation: Allocation, exposures: Counter[int], ends: Counter[str]
) -> pb.ExperimentStatus:
    view = pb.ExperimentStatus(
        name=experiment_resource(experiment.name),
        state=state_view(experiment.state),
        epoch=experiment.epoch,
        allocation=allocation_view(allocation),
        exposures=sum(exposures.values()),
        etag=experiment.etag,
        periods=allocation.number,
        rewards=pb.RewardCounts(
            applied=ends["applied"], duplicate=ends["duplicate"], conflict=ends["conflict"]
        ),
    )
    view.evaluation_time.FromMilliseconds(allocation.time_ms)
    for index, arm in enumerate(experiment.spec.arms):
        floor, cap, _ = experiment.spec.bounds_ppm(index)
        shown = view.arms.add(
            arm=arm.name,
            control=arm.control,
            share_ppm=allocation.shares_ppm[index],
            floor_ppm=floor,
            cap_ppm=cap,
            exposures=exposures[index],
            p_best=allocation.shares_ppm[index] / PPM,
            expected_loss=0.01 * index,
            state=arm_view(experiment, index),
        )
        for metric in experiment.spec.metrics:
            low, high = metric.range
            shown.metrics.add(
                metric=metric.name,
                n=ends["applied"],
                mean=(low + high) / 2,
                posterior_mean=(low + high) / 2,
                posterior_low=low,
                posterior_high=high,
            )
    return view


def audit_view(record: AuditRecord) -> pb.AuditRecord:
    view = pb.AuditRecord(
        sequence=record.sequence,
        actor=record.actor,
        action=record.action,
        reason=record.reason,
        shares_before_ppm=record.shares_before_ppm,
        shares_after_ppm=record.shares_after_ppm,
        state_before=state_view(record.state_before),
        state_after=state_view(record.state_after),
        hash=record.hash,
        epoch=record.epoch,
        allocation_number=record.allocation,
    )
    view.time.FromMilliseconds(record.time_ms)
    return view


def sample_verdict(arm: str, outcome: pb.Outcome.ValueType, message: str) -> pb.Verdict:
    """A verdict as a guardrail on errors gives it."""
    return pb.Verdict(
        guardrail="errors",
        arm=arm,
        outcome=outcome,
        log_e=6.5,
        log_threshold=5.99,
        n=812,
        n_control=1644,
        observed=0.0591,
        reference=0.02,
        message=message,
    )

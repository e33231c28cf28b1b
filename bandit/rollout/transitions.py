"""Moves from one state of an experiment to the next: pure, total over states, each refused with a sentence or done.

Traffic leaves an arm at once and goes to the control; it comes back only through the learner's next allocation.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from bandit.errors import NotAllowed
from bandit.linear.rule import LinearRule
from bandit.ranges import contiguous, move
from bandit.rollout.audit import AuditRecord, chained
from bandit.rollout.epochs import last_state, remembered
from bandit.rollout.moves import carried, given_to, next_allocation, next_in_each, to_control
from bandit.rollout.quarantine import begun, ended
from bandit.rollout.state import (
    Allocation,
    ArmState,
    Experiment,
    Parting,
    PastEpoch,
    Rollback,
    State,
    all_to,
)
from bandit.spec.diff import diff, new_epoch, restarts_guardrails
from bandit.spec.model import ExperimentSpec

_OPENS = frozenset({"created", "started", "new epoch"})
"""Causes of allocations before the first comparison of an epoch; what the next one moves is no re-routing."""


@dataclass(frozen=True, slots=True)
class Transition:
    """What an experiment becomes, the allocation that goes with it, the audit's word for it, and why."""

    experiment: Experiment
    allocation: Allocation
    action: str
    reason: str


def create(spec: ExperimentSpec, uid: int, salt: bytes, now_ms: int) -> Transition:
    """A new experiment in state DRAFT: everything to the control. ``salt`` is 16 random bytes."""
    experiment = Experiment(
        name=spec.experiment,
        uid=uid,
        epoch=1,
        revision=1,
        state=State.DRAFT,
        spec=spec,
        salt=salt,
        arms=tuple(ArmState() for _ in spec.arms),
        promoted=None,
        create_time_ms=now_ms,
        update_time_ms=now_ms,
    )
    allocation = Allocation(
        number=1,
        epoch=1,
        time_ms=now_ms,
        ranges=contiguous(all_to(spec.control_index, len(spec.arms))),
        centres=_prior_centres(spec),
        cause="created",
    )
    return Transition(experiment, allocation, "created", "")


def start(experiment: Experiment, allocation: Allocation, now_ms: int) -> Transition:
    """DRAFT to RUNNING. Shares stay with the control until the learner's first allocation, moments later."""
    _need(experiment, "start", State.DRAFT)
    after = _with_since(_next(experiment, now_ms, state=State.RUNNING), allocation.number + 1)
    return Transition(after, to_control(after, allocation, now_ms, "started"), "started", "")


def pause(experiment: Experiment, allocation: Allocation, now_ms: int, reason: str = "") -> Transition:
    """RUNNING to PAUSED: every unit gets the control."""
    _need(experiment, "pause", State.RUNNING)
    after = _next(experiment, now_ms, state=State.PAUSED)
    return Transition(after, to_control(after, allocation, now_ms, "paused"), "paused", reason)


def resume(experiment: Experiment, allocation: Allocation, now_ms: int) -> Transition:
    """PAUSED to RUNNING; what was learned is kept."""
    _need(experiment, "resume", State.PAUSED)
    after = _next(experiment, now_ms, state=State.RUNNING)
    return Transition(after, to_control(after, allocation, now_ms, "resumed"), "resumed", "")


def roll_back(
    experiment: Experiment,
    allocation: Allocation,
    arm: int,
    *,
    actor: str,
    reason: str,
    rollback_id: str,
    now_ms: int,
) -> Transition:
    """Take all traffic from a challenger, in any state, until it is cleared or a new build comes.

    A promoted arm can be rolled back too: everything returns to the control and the experiment is PAUSED.
    """
    name = experiment.spec.arms[arm].name
    if arm == experiment.spec.control_index:
        raise NotAllowed(
            f"{name} is the control, which everything falls back to; promote another arm or pause instead",
            reason="CONTROL_CANNOT_ROLL_BACK",
        )
    if experiment.arms[arm].rollback is not None:
        raise NotAllowed(f"{name} is rolled back already", reason="ALREADY_ROLLED_BACK")
    state = replace(
        experiment.arms[arm], rollback=Rollback(rollback_id, now_ms, actor, reason), hold_ppm=None
    )
    after = _next(experiment, now_ms, arms=_set(experiment.arms, arm, state))
    if experiment.promoted == arm:
        after = replace(after, promoted=None, state=State.PAUSED)
    control = experiment.spec.control_index

    def freed(shares: Sequence[int]) -> list[int]:
        left = list(shares)
        left[control] += left[arm]
        left[arm] = 0
        return left

    moved = next_in_each(allocation, freed, now_ms, f"{name} rolled back")
    return Transition(after, moved, "rolled_back", reason)


def hold(experiment: Experiment, allocation: Allocation, arm: int, *, reason: str, now_ms: int) -> Transition:
    """Keep a challenger's share from rising until an operator clears it; shares do not move now."""
    share = allocation.shares_ppm[arm]
    state = replace(experiment.arms[arm], hold_ppm=share)
    after = _next(experiment, now_ms, arms=_set(experiment.arms, arm, state))
    cause = f"{experiment.spec.arms[arm].name} held at {share} ppm"
    return Transition(after, next_in_each(allocation, tuple, now_ms, cause), "held", reason)


def clear_rollback(
    experiment: Experiment, allocation: Allocation, arm: int, now_ms: int, reason: str = ""
) -> Transition:
    """Let a rolled back or held arm have traffic again: a new attempt, judged by new evidence with less alpha."""
    name = experiment.spec.arms[arm].name
    state = experiment.arms[arm]
    if state.rollback is None and state.hold_ppm is None:
        raise NotAllowed(f"{name} is neither rolled back nor held", reason="NOTHING_TO_CLEAR")
    cleared = ArmState(attempt=state.attempt + 1, since=allocation.number + 1)
    after = _next(experiment, now_ms, arms=_set(experiment.arms, arm, cleared))
    moved = next_in_each(allocation, tuple, now_ms, f"{name} cleared")
    return Transition(after, moved, "rollback_cleared", reason)


def promote(
    experiment: Experiment, allocation: Allocation, arm: int, now_ms: int, reason: str = ""
) -> Transition:
    """RUNNING or PAUSED to CONCLUDED: every unit gets this arm; rewards still count in their windows."""
    _need(experiment, "promote an arm of", State.RUNNING, State.PAUSED)
    name = experiment.spec.arms[arm].name
    if experiment.arms[arm].rollback is not None:
        raise NotAllowed(f"{name} is rolled back; clear the rollback first", reason="ARM_ROLLED_BACK")
    after = _next(experiment, now_ms, state=State.CONCLUDED, promoted=arm)
    shares = all_to(arm, len(experiment.arms))
    return Transition(
        after, next_allocation(allocation, shares, now_ms, f"{name} promoted"), "promoted", reason
    )


def reallocate(
    experiment: Experiment,
    allocation: Allocation,
    shares_ppm: Sequence[int],
    centres: tuple[float, ...],
    cause: str,
    now_ms: int,
    apart: Sequence[Parting] = (),
    linear: LinearRule | None = None,
) -> Transition:
    """The learner's next allocation; the experiment itself stays as it is, revision and all. ``apart``: cohorts that
    get shares of their own; those that are not among them any more join the others again. ``linear``: shares by the
    features of each request, of which ``shares_ppm`` are what is expected."""
    moved = next_allocation(allocation, shares_ppm, now_ms, cause, apart)
    moved = replace(moved, centres=centres, linear=linear)
    if allocation.cause in _OPENS:
        moved = replace(moved, ranges=moved.ranges.settled())
    return Transition(experiment, moved, "reallocated", cause)


def update(
    experiment: Experiment, allocation: Allocation, spec: ExperimentSpec, now_ms: int
) -> Transition | None:
    """Replace the spec; None when nothing that matters differs.

    A new epoch (arms, metrics, cohorts or unit changed) begins statistics anew and keeps each unit on its arm
    as far as that arm is still there; every challenger of it, new builds too, begins an attempt above all before,
    so that alpha is spent once for the experiment and not once for each build. Changed guardrails begin a new
    attempt of every arm. A DRAFT has shown nobody anything and spends nothing. An arm of the same name and digest
    keeps its rollback, also after epochs without it; another digest is another arm. Raises NotAllowed once
    CONCLUDED, and for another number of partitions.
    """
    if not diff(experiment.spec, spec):
        return None
    if experiment.state is State.CONCLUDED:
        raise NotAllowed(
            f"{experiment.name} is concluded; create a new experiment for the next comparison",
            reason="CONCLUDED",
        )
    if spec.partitions != experiment.spec.partitions:
        raise NotAllowed(
            f"{experiment.name} was created with partitions: {experiment.spec.partitions}, which holds for its life, "
            f"not {spec.partitions}; write that, or create another experiment",
            reason="PARTITIONS_FIXED",
        )
    if not new_epoch(experiment.spec, spec):
        after = _next(experiment, now_ms, spec=spec)
        if restarts_guardrails(experiment.spec, spec):
            arms = tuple(
                replace(arm, attempt=arm.attempt + _spent(experiment), since=allocation.number + 1)
                for arm in experiment.arms
            )
            after = replace(after, arms=arms)
        moved = next_in_each(allocation, tuple, now_ms, "spec updated")
        return Transition(after, moved, "updated", "")
    return _begin_epoch(experiment, allocation, spec, now_ms)


def _begin_epoch(
    experiment: Experiment, allocation: Allocation, spec: ExperimentSpec, now_ms: int
) -> Transition:
    old = {arm.name: index for index, arm in enumerate(experiment.spec.arms)}
    ended = PastEpoch(experiment.epoch, experiment.spec, now_ms, experiment.arms)
    past = remembered(
        (ended, *experiment.past), max(experiment.spec.event_retention, spec.event_retention), now_ms
    )
    # Not per build nor per name: whoever renames an arm that was judged would have its alpha again.
    attempt = max(state.attempt for state in experiment.arms) + _spent(experiment)
    arms = []
    kept: dict[int, int] = {}
    for index, arm in enumerate(spec.arms):
        before = old.get(arm.name)
        if before is not None:
            kept[before] = index
        was = None if arm.control else last_state(past, arm)
        arms.append(replace(was or ArmState(), attempt=attempt, since=allocation.number + 1))
    after = replace(
        _next(experiment, now_ms, spec=spec, arms=tuple(arms)),
        epoch=experiment.epoch + 1,
        past=past,
    )
    ranges = carried(allocation.ranges, kept, spec.control_index, len(spec.arms))
    if after.state is State.RUNNING:
        # A new build is unproven: it gives its traffic to the control until the learner's next allocation.
        changed = [
            index
            for before, index in kept.items()
            if experiment.spec.arms[before].digest != spec.arms[index].digest
            or arms[index].rollback is not None
        ]
        ranges = given_to(ranges, changed, spec.control_index)
    else:
        ranges = move(ranges, all_to(spec.control_index, len(spec.arms)))
    moved = Allocation(
        number=allocation.number + 1,
        epoch=after.epoch,
        time_ms=now_ms,
        ranges=ranges,
        centres=_prior_centres(spec),
        cause="new epoch",
    )
    return Transition(
        after, moved, "updated", "arms, metrics, cohorts or unit changed: statistics begin anew"
    )


def remove_source(
    experiment: Experiment, allocation: Allocation, source: str, since_ms: int, now_ms: int, reason: str = ""
) -> Transition:
    """Count no event of a source that the log took from ``since_ms`` on (0: ever), in any state; what was counted is
    taken back by the learner. Shares do not move now, and a rollback that such events caused stays."""
    held = begun(experiment.quarantines, source, since_ms)
    after = replace(_next(experiment, now_ms), quarantines=held)
    return Transition(after, allocation, "source_removed", reason)


def release_source(
    experiment: Experiment, allocation: Allocation, source: str, now_ms: int, reason: str = ""
) -> Transition:
    """Count the events of a removed source again that come from now on."""
    after = replace(_next(experiment, now_ms), quarantines=ended(experiment.quarantines, source, now_ms))
    return Transition(after, allocation, "source_released", reason)


def audit_record(
    before: tuple[Experiment, Allocation] | None,
    transition: Transition,
    *,
    actor: str,
    sequence: int,
    previous_hash: str,
    now_ms: int,
    verdict: Mapping[str, object] | None = None,
) -> AuditRecord:
    """The chained record of a transition; ``sequence`` and ``previous_hash`` are those of the record before."""
    return chained(
        AuditRecord(
            sequence=sequence + 1,
            time_ms=now_ms,
            actor=actor,
            action=transition.action,
            reason=transition.reason,
            state_before=before[0].state.value if before else "",
            state_after=transition.experiment.state.value,
            shares_before_ppm=before[1].shares_ppm if before else (),
            shares_after_ppm=transition.allocation.shares_ppm,
            epoch=transition.experiment.epoch,
            allocation=transition.allocation.number,
            verdict=verdict,
        ),
        previous_hash,
    )


def _need(experiment: Experiment, verb: str, *allowed: State) -> None:
    if experiment.state not in allowed:
        wanted = " or ".join(state.value for state in allowed)
        raise NotAllowed(
            f"cannot {verb} {experiment.name}: it is {experiment.state.value}, it must be {wanted}",
            reason="WRONG_STATE",
            state=experiment.state.value,
        )


def _next(
    experiment: Experiment,
    now_ms: int,
    *,
    state: State | None = None,
    spec: ExperimentSpec | None = None,
    arms: tuple[ArmState, ...] | None = None,
    promoted: int | None = None,
) -> Experiment:
    return replace(
        experiment,
        revision=experiment.revision + 1,
        update_time_ms=now_ms,
        state=experiment.state if state is None else state,
        spec=experiment.spec if spec is None else spec,
        arms=experiment.arms if arms is None else arms,
        promoted=experiment.promoted if promoted is None else promoted,
    )


def _with_since(experiment: Experiment, since: int) -> Experiment:
    return replace(experiment, arms=tuple(replace(arm, since=since) for arm in experiment.arms))


def _set(arms: tuple[ArmState, ...], index: int, state: ArmState) -> tuple[ArmState, ...]:
    return (*arms[:index], state, *arms[index + 1 :])


def _spent(experiment: Experiment) -> int:
    """Attempts that end now: none while no challenger can have had a decision."""
    return 0 if experiment.state is State.DRAFT else 1


def _prior_centres(spec: ExperimentSpec) -> tuple[float, ...]:
    """Scaled prior means: the best guess of the control's means before any reward."""
    centres = []
    for metric in spec.metrics:
        low, high = metric.scale
        centres.append(0.5 if metric.prior is None else (metric.prior.mean - low) / (high - low))
    return tuple(centres)

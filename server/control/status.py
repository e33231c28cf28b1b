"""The status of an experiment as its learner sees it, in the words of the wire."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping

import numpy as np

from bandit.allocate import Proposal
from bandit.allocators.needed import needed
from bandit.features import encoder_of
from bandit.guardrails.base import Verdict
from bandit.ids import experiment_resource, parse_ledger
from bandit.ledger import ONE, S1, Ledger, N
from bandit.look import Look
from bandit.rollout.state import Allocation, Experiment
from bandit.spec.model import PPM, ExperimentSpec
from bandit.v1 import experiment_pb2, spec_pb2
from server.evidence import KeptEvents
from server.messages import STATES, allocation_to_proto, arm_state_to_proto, timestamp
from server.store.base import RewardCounts, Stored

UNLIKE = (
    "each arm serves other requests, by their features: means and exposures of arms must not be compared; the "
    "coefficients say what an arm is worth for which request, effects are in the report"
)


def status_of(
    stored: Stored,
    look: Look,
    ledger: Ledger,
    counts: RewardCounts,
    exposures_lost: int,
    behind: int,
    warnings: list[str],
    events: KeptEvents | None = None,
) -> experiment_pb2.ExperimentStatus:
    """Everything an operator asks, after a look."""
    experiment, allocation = stored.experiment, stored.allocation
    totals = ledger.totals()
    exposures = totals.exposures.sum(axis=0)
    more = requests_more(experiment, look.proposal)
    return experiment_pb2.ExperimentStatus(
        name=experiment_resource(experiment.name),
        state=STATES[experiment.state],
        epoch=experiment.epoch,
        allocation=allocation_to_proto(allocation, experiment.spec),
        arms=[
            _arm(experiment, allocation, look, totals.sums.sum(axis=0), exposures, k)
            for k in range(len(exposures))
        ],
        verdicts=[verdict_message(verdict, experiment) for verdict in look.verdicts],
        rewards=_rewards(counts),
        sources=[
            experiment_pb2.SourceRewards(source=source, rewards=_rewards(each))
            for source, each in sorted(counts.sources.items())
        ],
        exposures=int(exposures.sum()),
        exposures_lost=exposures_lost,
        evaluation_time=timestamp(look.now_ms),
        log_entries_behind=behind,
        periods=len(ledger.periods),
        warnings=[*warnings, *_removed(experiment, events), *([UNLIKE] if experiment.spec.is_linear else [])],
        etag=experiment.etag,
        requests_more=more if math.isfinite(more) else None,
        budget=budget_message(experiment.spec, look.proposal),
        kept_since_time=None if events is None else timestamp(events.since_ms),
        rebuild=None if events is None else _rebuild(events),
        removals=0 if events is None else events.removals,
    )


def _removed(experiment: Experiment, events: KeptEvents | None) -> Iterator[str]:
    """What an operator has to know of removed sources."""
    if events is not None and events.read is not None:
        yield (
            f"the ledger is made anew without the events of a removed source: {events.read} log entries were read, "
            f"{events.left} are left; shares stand still meanwhile"
        )
    for each in experiment.quarantines:
        if each.is_open:
            yield f"the source {each.source} is removed: its events are rejected until it is released"


def _rebuild(events: KeptEvents) -> experiment_pb2.Rebuild | None:
    if events.read is None:
        return None
    return experiment_pb2.Rebuild(entries_read=events.read, entries_left=events.left or 0)


def partition_messages(
    told: Mapping[str, tuple[int, int]], behind: Mapping[str, int]
) -> Iterator[experiment_pb2.PartitionStatus]:
    """Exposures and rewards applied of each ledger, and how far behind its log it is."""
    for ledger, (exposures, applied) in told.items():
        yield experiment_pb2.PartitionStatus(
            partition=parse_ledger(ledger)[1],
            exposures=exposures,
            rewards_applied=applied,
            log_entries_behind=behind.get(ledger, 0),
        )


def requests_more(experiment: Experiment, proposal: Proposal) -> float:
    """About so many more requests until the best arm can be told with chance 1 - alpha; inf where two seem alike, and
    where no arm is best for all requests."""
    if experiment.spec.is_linear:
        return math.inf
    return needed(proposal.utility, np.array(experiment.live(), np.bool_), experiment.spec.alpha)


def budget_message(spec: ExperimentSpec, proposal: Proposal) -> experiment_pb2.BudgetStatus | None:
    """What the day has spent and what a unit of it costs the arms; None without a budget."""
    spent = proposal.spending
    if spec.budget is None or spent is None:
        return None
    return experiment_pb2.BudgetStatus(
        metric=spec.budget.metric,
        per_day=spec.budget.per_day,
        spent=spent.spent,
        requests_expected=spent.expected,
        allowed=spent.allowed if math.isfinite(spent.allowed) else None,
        price=proposal.price,
    )


def feasible_of(proposal: Proposal, index: int) -> float | None:
    """Chance that an arm keeps all constraints; None without any."""
    return None if proposal.feasible is None else float(proposal.feasible[index])


def _rewards(counts: RewardCounts) -> experiment_pb2.RewardCounts:
    return experiment_pb2.RewardCounts(
        applied=counts.applied,
        duplicate=counts.duplicate,
        conflict=counts.conflict,
        late=counts.late,
        rejected=counts.rejected,
        superseded=counts.superseded,
    )


def _arm(
    experiment: Experiment,
    allocation: Allocation,
    look: Look,
    sums: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    exposures: np.ndarray[tuple[int, ...], np.dtype[np.int64]],
    index: int,
) -> experiment_pb2.ArmStatus:
    arm, proposal = experiment.spec.arms[index], look.proposal
    floor, cap, _ = experiment.spec.bounds_ppm(index)
    metrics = []
    for m, metric in enumerate(experiment.spec.metrics):
        low, high = metric.scale
        n, s1 = int(sums[index, m, N]), int(sums[index, m, S1])
        metrics.append(
            experiment_pb2.MetricStatus(
                metric=metric.name,
                n=n,
                mean=low + (high - low) * s1 / (n * ONE) if n else 0.0,
                posterior_mean=float(proposal.mean[index, m]),
                posterior_low=float(proposal.low[index, m]),
                posterior_high=float(proposal.high[index, m]),
            )
        )
    return experiment_pb2.ArmStatus(
        arm=arm.name,
        control=arm.control,
        share_ppm=allocation.shares_ppm[index],
        floor_ppm=floor,
        cap_ppm=cap,
        exposures=int(exposures[index]),
        p_best=float(proposal.p_best[index]),
        expected_loss=float(proposal.expected_loss[index]),
        utility_mean=float(proposal.utility_mean[index]),
        utility_sd=float(proposal.utility_sd[index]),
        metrics=metrics,
        state=arm_state_to_proto(experiment, index),
        feasible=feasible_of(proposal, index),
        coefficients=coefficients_of(experiment.spec, proposal, index),
        realised_ppm=None if look.realised is None else round(PPM * float(look.realised.part[index])),
        realised_most_ppm=None if look.realised is None else look.realised.most_ppm[index],
    )


def coefficients_of(spec: ExperimentSpec, proposal: Proposal, index: int) -> list[experiment_pb2.Coefficient]:
    """What each column adds to an arm's objective; nothing without a linear allocator."""
    encoder = encoder_of(spec)
    if encoder is None or proposal.coefficients is None:
        return []
    means, deviations = proposal.coefficients
    return [
        experiment_pb2.Coefficient(column=column, mean=float(mean), sd=float(sd))
        for column, mean, sd in zip(encoder.columns, means[index], deviations[index], strict=True)
    ]


def verdict_message(verdict: Verdict, experiment: Experiment) -> experiment_pb2.Verdict:
    """A judgement with its numbers."""
    return experiment_pb2.Verdict(
        guardrail=verdict.guardrail,
        arm=experiment.spec.arms[verdict.arm].name,
        outcome=experiment_pb2.Outcome.Value(f"OUTCOME_{verdict.outcome.name}"),
        log_e=verdict.log_e,
        log_threshold=verdict.log_threshold,
        log_e_safe=verdict.log_e_safe,
        log_threshold_safe=verdict.log_threshold_safe,
        n=verdict.n,
        n_control=verdict.n_control,
        observed=verdict.observed,
        reference=verdict.reference,
        action=spec_pb2.GuardrailAction.Value(f"GUARDRAIL_ACTION_{verdict.action.upper()}"),
        message=verdict.message,
        cohort=verdict.cohort,
    )

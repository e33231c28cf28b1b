"""Read -> judge -> move: what an experiment's evidence asks for now. It decides; committing is the caller's.

Order of a look: guardrails first; a rollback or hold goes out at once; otherwise, while the experiment runs, the
next allocation when the weights moved enough or the period is old enough. The learner and rehearsals both look here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np

from bandit.allocate import Proposal
from bandit.allocate_linear import propose_linear
from bandit.apart import propose_each
from bandit.baselines.base import Evidence, evidence_of
from bandit.guardrails.base import ArmStanding, Folded, Verdict
from bandit.guardrails.judge import judge
from bandit.ledger import Clusters, PeriodTable
from bandit.linear.rule import LinearRule
from bandit.linear.sums import Totals
from bandit.ranges import PPM
from bandit.reading import with_silence
from bandit.realised import Realised, held, realised
from bandit.rollout.rollback import ArmDecision, Kind, decisions
from bandit.rollout.state import Allocation, Experiment, Parting, State
from bandit.rollout.transitions import Transition, hold, reallocate, roll_back
from bandit.spec.model import ExperimentSpec

EVIDENCE = "evidence"
FRESH_STARTS = frozenset({"created", "started", "resumed", "new epoch"})
MOVED_ENOUGH = 0.01
PERIODS_IN_WINDOW = 3000
LEARNED_ENOUGH = 0.1


@dataclass(frozen=True, slots=True)
class Look:
    """One look at one experiment: what was read, judged and proposed, and the move that follows (if any).

    ``decided``: what the verdicts asked for, where the move is a rollback or a hold. ``realised``: traffic as it is,
    where units keep their arm.
    """

    now_ms: int
    table: PeriodTable
    evidence: Evidence
    verdicts: tuple[Verdict, ...]
    proposal: Proposal
    transition: Transition | None
    decided: ArmDecision | None
    realised: Realised | None = None

    @property
    def actor(self) -> str:
        """Who moves, for the audit."""
        return f"guardrail/{self.decided.verdict.guardrail}" if self.decided else "learner"

    @property
    def verdict(self) -> dict[str, object] | None:
        """The verdict that led to the move, as plain values for the audit."""
        return verdict_values(self.decided.verdict, self.evidence.spec) if self.decided else None


def look(
    experiment: Experiment,
    allocation: Allocation,
    table: PeriodTable,
    rows: PeriodTable,
    folded: Folded,
    now_ms: int,
    clusters: Clusters | None = None,
    *,
    batch: float | None = None,
    renew: bool = False,
    told: bool = True,
    totals: Totals | None = None,
) -> Look:
    """Judge and propose. Pure; ``now_ms`` is the time up to which the log has been folded; ``table`` and ``rows`` are
    the same periods, cohorts added up and apart, ``clusters`` their ``ledger.cluster_totals``.

    ``batch``: requests that the next allocation will serve, where that is known. ``renew``: the next allocation is
    due however little would move. ``told`` as for ``guardrails.judge``. ``totals``: what a linear allocator learns
    from.
    """
    spec = experiment.spec
    evidence = evidence_of(spec, rows, now_ms, clusters)
    arms = [ArmStanding(arm.attempt, arm.since, arm.rollback is None) for arm in experiment.arms]
    verdicts = judge(
        spec, table, folded, arms, now_ms, rows, evidence.effects, repeats=evidence.repeats, told=told
    )
    traffic = realised(spec, rows)
    live, holds = (
        np.array(experiment.live(), np.bool_),
        held([arm.hold_ppm for arm in experiment.arms], traffic),
    )
    elapsed_s = max((now_ms - allocation.time_ms) / 1000, 0.0)
    fresh = allocation.cause in FRESH_STARTS
    apart: tuple[Parting, ...] = ()
    if spec.is_linear:
        before = None if fresh else allocation.most_ppm
        proposal = propose_linear(spec, evidence, totals, live, holds, before, elapsed_s)
    else:
        coming = expected_requests(table, spec, now_ms) if batch is None else batch
        proposal, apart = propose_each(
            spec, evidence, live, holds, allocation, elapsed_s, coming, fresh=fresh
        )
    decided = _first(decisions(verdicts, experiment.arms))
    transition = None
    if decided is not None:
        transition = _taken_away(experiment, allocation, decided, now_ms)
    elif experiment.state is State.RUNNING and (renew or _due(spec, allocation, proposal, apart, now_ms)):
        centres = control_centres(table, spec, allocation.centres, now_ms)
        transition = reallocate(
            experiment,
            allocation,
            proposal.shares_ppm,
            centres,
            EVIDENCE,
            now_ms,
            apart,
            linear=proposal.linear,
        )
    return Look(now_ms, table, evidence, verdicts, proposal, transition, decided, traffic)


def _first(asked: Sequence[ArmDecision]) -> ArmDecision | None:
    """A rollback, else a hold; the others have their turn next."""
    return max(asked, key=lambda each: (each.kind, -each.arm), default=None)


def _taken_away(
    experiment: Experiment, allocation: Allocation, decided: ArmDecision, now_ms: int
) -> Transition:
    arm, kind, verdict = decided
    if kind is Kind.HOLD:
        return hold(experiment, allocation, arm, reason=verdict.message, now_ms=now_ms)
    return roll_back(
        experiment,
        allocation,
        arm,
        actor=f"guardrail/{verdict.guardrail}",
        reason=verdict.message,
        rollback_id=f"{experiment.uid:x}-{experiment.revision:x}-{arm}",
        now_ms=now_ms,
    )


def _due(
    spec: ExperimentSpec, allocation: Allocation, proposal: Proposal, apart: Sequence[Parting], now_ms: int
) -> bool:
    """Is the next allocation worth a new period now?

    At once after anything but an allocation by evidence; else after the least interval when at least 1 % of
    some cohort's traffic would move, and anyhow when the period is at its greatest age, so that it can mature.
    """
    if allocation.cause != EVIDENCE:
        return True
    age_s = (now_ms - allocation.time_ms) / 1000
    if age_s >= longest_period_s(spec):
        return True
    if age_s < shortest_period_s(spec):
        return False
    if proposal.linear is not None and (
        allocation.linear is None or _learned(proposal.linear, allocation.linear)
    ):
        return True
    common, before = allocation.shares_ppm, allocation.apart_ppm
    after = {each.cohort: each.shares_ppm for each in apart}
    moved = [variation(proposal.shares_ppm, common)]
    moved += [
        variation(after.get(cohort, proposal.shares_ppm), before.get(cohort, common))
        for cohort in before.keys() | after.keys()
    ]
    return max(moved) >= MOVED_ENOUGH


def variation(after_ppm: Sequence[int], before_ppm: Sequence[int]) -> float:
    """Total variation of two vectors of shares: the part of the units that must move, in [0, 1]."""
    return sum(abs(after - before) for after, before in zip(after_ppm, before_ppm, strict=True)) / (2 * PPM)


def _learned(now: LinearRule, before: LinearRule) -> bool:
    """Has the evidence of an arm changed by a tenth? Shares of single requests may then differ where all together do
    not (cf. the batches of Perchet et al. 2016: refreshes at a geometric pace lose nothing but a constant)."""
    return any(
        abs(new - old) > LEARNED_ENOUGH * (old + 1.0)
        for new, old in zip(now.rewards, before.rewards, strict=True)
    )


def longest_period_s(spec: ExperimentSpec) -> float:
    """Greatest life of an allocation: a quarter of the shortest attribution window, within 2 s and 10 min."""
    return min(max(min(metric.attribution_window for metric in spec.metrics) / 4, 2.0), 600.0)


def shortest_period_s(spec: ExperimentSpec) -> float:
    """Least life of an allocation by evidence: keeps about 3,000 periods in the longest window, 1 s to 60 s."""
    longest = max(metric.attribution_window for metric in spec.metrics)
    return min(max(longest / PERIODS_IN_WINDOW, 1.0), 60.0)


def expected_requests(table: PeriodTable, spec: ExperimentSpec, now_ms: int) -> float:
    """Requests that the next allocation will probably serve, from the latest periods that are not blocks."""
    rows = np.flatnonzero(~table.block)[-8:]
    if not rows.size:
        return 1.0
    since_ms = now_ms - int(table.start_ms[rows[0]])
    rate = float(table.assigned[rows].sum()) / max(since_ms / 1000, 1.0)
    return max(rate * longest_period_s(spec), 1.0)


def control_centres(
    table: PeriodTable, spec: ExperimentSpec, before: tuple[float, ...], now_ms: int
) -> tuple[float, ...]:
    """The control's mean of each metric so far, scaled, silence filled in; where it has none, what stood before.

    Frozen into the next period, so it is predictable: it depends on earlier rewards only.
    """
    control = spec.control_index
    centres = []
    for index, (metric, old) in enumerate(zip(spec.metrics, before, strict=True)):
        n, s1, _, counted = with_silence(table, metric, index, now_ms)
        count = float((n[:, control] * counted).sum())
        centres.append(float((s1[:, control] * counted).sum()) / count if count > 0.0 else old)
    return tuple(centres)


def verdict_values(verdict: Verdict, spec: ExperimentSpec) -> dict[str, object]:
    """A verdict as plain values, for the audit."""
    values = asdict(verdict)
    values["arm"] = spec.arms[verdict.arm].name
    values["outcome"] = str(verdict.outcome)
    return {key: _plain(value) for key, value in values.items()}


def _plain(value: object) -> object:
    return value.item() if isinstance(value, np.generic) else value

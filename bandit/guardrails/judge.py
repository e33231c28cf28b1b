"""Verdicts of every live challenger under every guardrail, and the fold of what they stand on; it moves nothing.

Errors are shared out by weighted Bonferroni over challengers and guardrails, which holds for e-values under any
dependence: FAIL at E >= M / alpha_j, M = sum of priorities * challengers / own priority, alpha_j = 6 alpha /
(pi^2 j^2) for the j-th attempt of the arm, so that all attempts together spend alpha. PASS at E >= 1 / alpha.
No verdict changes by time alone: only outcomes move it, a closed window without a reward being one where the metric
says what silence means.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from bandit.guardrails import GUARDRAILS
from bandit.guardrails.base import (
    ArmStanding,
    Evidence,
    Folded,
    Levels,
    Outcome,
    Pair,
    Verdict,
)
from bandit.guardrails.evidence import Outcomes, metric_of, outcomes
from bandit.guardrails.wording import Seen, sentence
from bandit.ledger import Int64Array, PeriodTable
from bandit.spec.model import ExperimentSpec, Guardrail

FOREVER_MS = 1 << 62


def judge(
    spec: ExperimentSpec,
    table: PeriodTable,
    folded: Folded,
    arms: Sequence[ArmStanding],
    now_ms: int,
) -> tuple[Verdict, ...]:
    """One verdict per live challenger and guardrail, arm by arm in the order of the spec.

    ``table`` holds the periods of the present epoch; its blocks are passed over, their sums are in ``folded``.
    A period counts for an arm from allocation ``since`` on. The control is never judged; its own share of bad
    outcomes is told where a challenger fails a limit that the control fails too.
    """
    control = spec.control_index
    verdicts: dict[tuple[int, int], Verdict] = {}
    for index, guardrail in enumerate(spec.guardrails):
        metric_index, metric = metric_of(spec, guardrail.metric)
        weigh = _Weighing(guardrail, index, folded, outcomes(table, metric, metric_index, now_ms))
        for arm, standing in enumerate(arms):
            if arm == control or not standing.live:
                continue
            levels = thresholds(spec, guardrail, standing.attempt)
            evidence = weigh(Pair(arm, control), standing.since, levels)
            outcome = _outcome(evidence, levels)
            of_control = None
            if outcome is Outcome.FAIL and guardrail.kind == "rate_limit":
                of_control = weigh(Pair(control, control), arms[control].since, levels)
            seen = Seen(guardrail, metric, spec.arms[arm].name, outcome, evidence, levels, of_control)
            verdicts[arm, index] = _verdict(seen, arm)
    return tuple(verdicts[key] for key in sorted(verdicts))


def accumulate(spec: ExperimentSpec, folded: Folded, mature: PeriodTable, since: Int64Array) -> Folded:
    """``folded`` with periods added that are about to become a block, all of them settled for every metric.

    ``since`` [K]: first allocation number that counts for each arm; where it moved on, the arm's sums start at zero
    and older periods are passed over. Blocks in ``mature`` are in ``folded`` already and are passed over too.
    Open periods are refused with ValueError.
    """
    if (mature.end_ms[~mature.block] == 0).any():
        raise ValueError("an open period cannot be folded; fold it after its attribution windows closed")
    control = spec.control_index
    after = Folded.empty(len(spec.guardrails), len(spec.arms))
    for index, guardrail in enumerate(spec.guardrails):
        metric_index, metric = metric_of(spec, guardrail.metric)
        every = outcomes(mature, metric, metric_index, FOREVER_MS)
        for arm in range(len(spec.arms)):
            before = folded.of(index, arm, int(since[arm]))
            rows = every.rows(every.number >= since[arm])
            test = GUARDRAILS[guardrail.kind]
            after.sums[index, arm] = test.accumulate(guardrail, before, rows, Pair(arm, control))
    return Folded(after.sums, np.array(since, np.int64))


def thresholds(spec: ExperimentSpec, guardrail: Guardrail, attempt: int) -> Levels:
    """ln(M / alpha_j) and ln(1 / alpha), see the module."""
    priorities = sum(each.priority for each in spec.guardrails)
    parts = priorities * (len(spec.arms) - 1) / guardrail.priority
    alpha_attempt = 6.0 * spec.alpha / (math.pi * attempt) ** 2
    return Levels(fail=math.log(parts / alpha_attempt), safe=-math.log(spec.alpha))


class _Weighing:
    """One guardrail over all arms; periods are split once for each ``since``, which arms mostly share."""

    def __init__(self, guardrail: Guardrail, index: int, folded: Folded, every: Outcomes) -> None:
        self._guardrail = guardrail
        self._index = index
        self._folded = folded
        self._every = every
        self._split: dict[int, tuple[Outcomes, Outcomes]] = {}

    def __call__(self, pair: Pair, since: int, levels: Levels) -> Evidence:
        if since not in self._split:
            counts, mature = self._every.number >= since, self._every.mature
            self._split[since] = self._every.rows(counts & mature), self._every.rows(counts & ~mature)
        mature_rows, young = self._split[since]
        test = GUARDRAILS[self._guardrail.kind]
        before = self._folded.of(self._index, pair.arm, since)
        sums = test.accumulate(self._guardrail, before, mature_rows, pair)
        return test.weigh(self._guardrail, sums, young, pair, levels)


def _outcome(evidence: Evidence, levels: Levels) -> Outcome:
    if not evidence.seen:
        return Outcome.NO_DATA
    if evidence.log_e >= evidence.log_threshold:
        return Outcome.FAIL
    return Outcome.PASS if evidence.log_e_safe >= levels.safe else Outcome.INCONCLUSIVE


def _verdict(seen: Seen, arm: int) -> Verdict:
    evidence = seen.evidence
    observed, reference = seen.in_unit()
    return Verdict(
        guardrail=seen.guardrail.name,
        arm=arm,
        outcome=seen.outcome,
        log_e=evidence.log_e,
        log_threshold=evidence.log_threshold,
        log_e_safe=evidence.log_e_safe,
        log_threshold_safe=seen.levels.safe,
        n=round(evidence.n),
        n_control=round(evidence.n_control),
        observed=observed,
        reference=reference,
        action=seen.guardrail.action,
        message=sentence(seen),
    )

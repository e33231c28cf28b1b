"""Verdicts of every live challenger under every guardrail, and the fold of what they stand on; it moves
nothing.

Three states: FAIL on evidence of harm, PASS on evidence of safety, else INCONCLUSIVE; the levels are in
``guardrails.levels``. No verdict but that of silence changes by time alone: only outcomes move it, a closed
window without a reward being one where the metric says what silence means.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from bandit.guardrails import GUARDRAILS
from bandit.guardrails.base import (
    ANY_COHORT,
    CANNOT_TELL,
    ArmStanding,
    Evidence,
    Folded,
    Levels,
    Outcome,
    Pair,
    Slot,
    Verdict,
    slots,
)
from bandit.guardrails.evidence import Material
from bandit.guardrails.foresight import rewards_more
from bandit.guardrails.levels import fail_level, thresholds
from bandit.guardrails.wording import Seen, sentence
from bandit.kernels import watch, weigh
from bandit.kernels.confseq import log_mean_exp
from bandit.ledger import EVERY, FloatArray, Int64Array, PeriodTable
from bandit.spec.model import ExperimentSpec, Guardrail

__all__ = ["accumulate", "judge", "thresholds"]

FOREVER_MS = 1 << 62
ADDITIVE = frozenset(
    {
        watch.RATE,
        watch.EVENTS,
        watch.HARM,
        watch.HARM_ASYMPTOTIC,
        watch.RATIO_HARM,
        watch.QUANTILE_HARM,
        watch.RESPONSE,
    }
)
"""Guardrails whose evidence is a function of sums over periods, so that it can be thinned."""


def judge(
    spec: ExperimentSpec,
    table: PeriodTable,
    folded: Folded,
    arms: Sequence[ArmStanding],
    now_ms: int,
    by_cohort: PeriodTable | None = None,
    effects: FloatArray | None = None,
    *,
    told: bool = True,
) -> tuple[Verdict, ...]:
    """One verdict per live challenger and guardrail, arm by arm in the order of the spec.

    ``table`` holds the periods of the present epoch, cohorts added up, ``by_cohort`` the same with a row per cohort
    (``ledger.split_table``); their blocks are passed over, their sums are in ``folded``. A guardrail that looks at each
    cohort gives a verdict for every declared one, and for the mean of the evidence over all of them; without
    ``by_cohort`` it looks at all of them added up. A period counts for an arm from allocation ``since`` on. The
    control is never judged; its own share of bad outcomes is told where a challenger fails a limit that it fails too.

    ``effects`` [M]: design effects of units with many values (``bandit.clusters``). Where a guardrail's evidence is a
    function of sums, n values of such a metric are the evidence of n / effect. That is right for many units and many
    values (asymptotically), where without it the evidence grows with how often the same units come back.

    Not ``told``: nobody reads the messages, which stay empty, and nothing is foreseen; all else is the same.
    """
    control = spec.control_index
    verdicts: list[tuple[int, int, int, Verdict]] = []
    split = {
        index
        for index, each in enumerate(spec.guardrails)
        if each.cohorts == "each" and by_cohort is not None
    }
    chosen = [
        (place, slot)
        for place, slot in enumerate(slots(spec))
        if (slot.cohort != EVERY) == (slot.guardrail in split)
    ]
    rows = {cohort: _rows_of(table, by_cohort, cohort) for cohort in {slot.cohort for _, slot in chosen}}
    weighings = {
        slot: _Weighing(spec, slot, place, folded, rows[slot.cohort], now_ms, effects, told=told)
        for place, slot in chosen
    }
    for index, guardrail in enumerate(spec.guardrails):
        own = {slot.cohort: each for slot, each in weighings.items() if slot.guardrail == index}
        for arm, standing in enumerate(arms):
            if arm == control or not standing.live:
                continue
            levels = thresholds(spec, guardrail, standing.attempt)
            found = {cohort: each(Pair(arm, control), standing.since, levels) for cohort, each in own.items()}
            for order, (cohort, evidence) in enumerate(_looks(spec, guardrail, found)):
                outcome = _outcome(evidence, fail_level(guardrail, levels), levels.safe)
                of_control = None
                if outcome is Outcome.FAIL and guardrail.kind == "rate_limit" and cohort == "":
                    of_control = own[EVERY](Pair(control, control), arms[control].since, levels)
                seen = Seen(
                    spec, guardrail, spec.arms[arm].name, cohort, outcome, evidence, levels, of_control
                )
                verdicts.append((arm, index, order, _verdict(seen, arm, told)))
    return tuple(verdict for *_, verdict in sorted(verdicts, key=lambda each: each[:3]))


def accumulate(
    spec: ExperimentSpec,
    folded: Folded,
    mature: PeriodTable,
    since: Int64Array,
    by_cohort: PeriodTable | None = None,
) -> Folded:
    """``folded`` with periods added that are about to become a block, all of them settled for every metric.

    ``since`` [K]: first allocation number that counts for each arm; where it moved on, the arm's sums start at zero
    and older periods are passed over. Blocks in ``mature`` are in ``folded`` already and are passed over too.
    ``by_cohort``: the same periods with a row per cohort, needed where a guardrail looks at each.
    Open periods are refused with ValueError.
    """
    if (mature.end_ms[~mature.block] == 0).any():
        raise ValueError("an open period cannot be folded; fold it after its attribution windows closed")
    control = spec.control_index
    after = Folded.empty_of(spec)
    for place, slot in enumerate(slots(spec)):
        weighing = _Weighing(spec, slot, place, folded, _rows_of(mature, by_cohort, slot.cohort), FOREVER_MS)
        for arm in range(len(spec.arms)):
            after.sums[place, arm] = weighing.sums(Pair(arm, control), int(since[arm]))
    return Folded(after.sums, np.array(since, np.int64))


def _rows_of(table: PeriodTable, by_cohort: PeriodTable | None, cohort: int) -> PeriodTable:
    if cohort == EVERY:
        return table
    if by_cohort is None:
        return table.rows(np.zeros(len(table.number), np.bool_))
    return by_cohort.rows(by_cohort.cohort == cohort)


class _Weighing:
    """One guardrail in one cohort, or in all, over all arms."""

    def __init__(
        self,
        spec: ExperimentSpec,
        slot: Slot,
        place: int,
        folded: Folded,
        table: PeriodTable,
        now_ms: int,
        effects: FloatArray | None = None,
        *,
        told: bool = True,
    ) -> None:
        guardrail = spec.guardrails[slot.guardrail]
        test = GUARDRAILS[guardrail.kind]
        self._code = test.code(spec, guardrail)
        self._params = test.params(spec, guardrail)
        self._every: Material = test.material(spec, guardrail, table, now_ms)
        self._place = place
        self._folded = folded
        self._told = told
        metric = spec.metric_index(guardrail.metric) if guardrail.metric else None
        self._effect = 1.0
        if effects is not None and metric is not None and self._code in ADDITIVE:
            self._effect = float(effects[metric])

    def sums(self, pair: Pair, since: int) -> FloatArray:
        """[COLUMNS] of all mature periods from ``since`` on, folded ones included."""
        every = self._every
        sums = self._folded.of(self._place, pair.arm, since).copy()
        rows = every.rows(*pair, (every.number >= since) & every.mature)
        watch.add_rows(self._code, self._params, sums, rows)
        return sums

    def __call__(self, pair: Pair, since: int, levels: Levels) -> Evidence:
        every = self._every
        sums = self.sums(pair, since)
        may_count = (every.number >= since) & ~every.mature
        young = every.rows(*pair, may_count if every.young else np.zeros_like(may_count))
        answers = np.zeros(weigh.ANSWERS)
        weigh.weigh(self._code, self._params, sums, young, answers)
        thin, fewer, strength = sums, young, answers
        if self._effect > 1.0:
            thin, fewer, strength = sums / self._effect, young / self._effect, np.zeros(weigh.ANSWERS)
            weigh.weigh(self._code, self._params, thin, fewer, strength)
        more, pending = CANNOT_TELL, 0.0
        if self._told:
            more, pending = rewards_more(self._code, self._params, thin, fewer, strength, levels)
        return Evidence(
            seen=bool(answers[weigh.SEEN]),
            log_e=float(strength[weigh.LOG_E]),
            log_e_safe=float(strength[weigh.LOG_E_SAFE]),
            n=float(answers[weigh.N]),
            n_control=float(answers[weigh.N_CONTROL]),
            observed=float(answers[weigh.OBSERVED]),
            reference=float(answers[weigh.REFERENCE]),
            more=self._effect * more,
            pending=self._effect * pending,
            ready=bool(strength[weigh.READY]),
        )


class _Look(NamedTuple):
    cohort: str
    evidence: Evidence


def _looks(spec: ExperimentSpec, guardrail: Guardrail, found: dict[int, Evidence]) -> Iterator[_Look]:
    """The evidence that gets a verdict: of all cohorts added up, or of each declared one and of their mean."""
    if EVERY in found:
        yield _Look("", found[EVERY])
        return
    assert spec.cohorts is not None
    for place, name in enumerate(spec.cohorts.values):
        yield _Look(name, found[place + 1])
    if GUARDRAILS[guardrail.kind].averages:
        yield _Look(ANY_COHORT, _mean(list(found.values())))


def _mean(each: Sequence[Evidence]) -> Evidence:
    """Harm in any cohort: the mean of the e-values, whatever their dependence. Safe: every cohort with outcomes is."""
    seen = [evidence for evidence in each if evidence.seen]
    if not seen:
        return each[0]
    n = sum(evidence.n for evidence in seen)
    part = [evidence.n / n if n else 0.0 for evidence in seen]
    return Evidence(
        seen=True,
        log_e=log_mean_exp(np.array([evidence.log_e if evidence.seen else 0.0 for evidence in each])),
        log_e_safe=min(evidence.log_e_safe for evidence in seen),
        n=n,
        n_control=sum(evidence.n_control for evidence in seen),
        observed=sum(p * evidence.observed for p, evidence in zip(part, seen, strict=True)),
        reference=sum(p * evidence.reference for p, evidence in zip(part, seen, strict=True)),
        ready=all(evidence.ready for evidence in seen),
    )


def _outcome(evidence: Evidence, fail: float, safe: float) -> Outcome:
    if not evidence.seen:
        return Outcome.NO_DATA
    if evidence.log_e >= fail:
        return Outcome.FAIL
    return Outcome.PASS if evidence.log_e_safe >= safe else Outcome.INCONCLUSIVE


def _verdict(seen: Seen, arm: int, told: bool) -> Verdict:
    evidence = seen.evidence
    observed, reference = seen.shown()
    return Verdict(
        guardrail=seen.guardrail.name,
        arm=arm,
        outcome=seen.outcome,
        log_e=evidence.log_e,
        log_threshold=fail_level(seen.guardrail, seen.levels),
        log_e_safe=evidence.log_e_safe,
        log_threshold_safe=seen.levels.safe,
        n=round(evidence.n),
        n_control=round(evidence.n_control),
        observed=observed,
        reference=reference,
        action=seen.guardrail.action,
        message=sentence(seen) if told else "",
        cohort=seen.cohort,
    )

"""Verdicts of every live challenger under every guardrail, and the fold of what they stand on; it moves
nothing.

Three states: FAIL on evidence of harm, PASS on evidence of safety, else INCONCLUSIVE; the levels are in
``guardrails.levels``. No verdict but that of silence changes by time alone: only outcomes move it, a closed
window without a reward being one where the metric says what silence means.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from bandit.clusters import Repeats
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
from bandit.guardrails.by_features import weighed_of
from bandit.guardrails.evidence import Material
from bandit.guardrails.foresight import rewards_more
from bandit.guardrails.levels import fail_level, thresholds
from bandit.guardrails.wording import Seen, sentence
from bandit.kernels import watch, weigh
from bandit.kernels.confseq import log_mean_exp
from bandit.ledger import EVERY, FloatArray, Int64Array, PeriodTable, comparable
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
IN_ORDER = frozenset({watch.DETECTOR, watch.BREAKER})
"""Guardrails that follow the periods one by one: each is thinned before it is added."""
COMPARED = frozenset(
    {
        watch.HARM,
        watch.HARM_ASYMPTOTIC,
        watch.RATIO_HARM,
        watch.QUANTILE_HARM,
        watch.RESPONSE,
        watch.DETECTOR,
        watch.SAMPLE_RATIO,
    }
)
"""Guardrails that need the exact shares of what they compare."""
_COUNTS = slice(watch.ASSIGNED, watch.CENTRE)


def judge(
    spec: ExperimentSpec,
    table: PeriodTable,
    folded: Folded,
    arms: Sequence[ArmStanding],
    now_ms: int,
    by_cohort: PeriodTable | None = None,
    effects: FloatArray | None = None,
    *,
    repeats: Repeats | None = None,
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

    ``repeats``: the same arm by arm and from the first unit on; it counts in place of ``effects``, and for guardrails
    that follow the periods one by one and for the number of decisions too.

    Where some cohorts have shares of their own, what is compared with the control is compared within each group of
    cohorts with the same shares, and added up.

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
    alike = comparable(table, by_cohort)
    weighings = {
        slot: _Weighing(
            spec,
            slot,
            place,
            folded,
            _of_kind(spec, slot, rows[slot.cohort], alike),
            now_ms,
            effects,
            repeats,
            told=told,
        )
        for place, slot in chosen
    }
    for index, guardrail in enumerate(spec.guardrails):
        own = {slot.cohort: each for slot, each in weighings.items() if slot.guardrail == index}
        for arm, standing in enumerate(arms):
            if arm == control or not standing.live:
                continue
            levels = thresholds(spec, guardrail, standing.attempt)
            if guardrail.kind == "became_worse":
                levels = levels._replace(fail=levels.fail + math.log(_steps(alike)))
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
    repeats: Repeats | None = None,
) -> Folded:
    """``folded`` with periods added that are about to become a block, all of them settled for every metric.

    ``since`` [K]: first allocation number that counts for each arm; where it moved on, the arm's sums start at zero
    and older periods are passed over. Blocks in ``mature`` are in ``folded`` already and are passed over too.
    ``by_cohort``: the same periods with a row per cohort, needed where a guardrail looks at each. ``repeats`` as they
    are known now: what follows the periods one by one keeps them thinned by that.
    Open periods are refused with ValueError.
    """
    if (mature.end_ms[~mature.block] == 0).any():
        raise ValueError("an open period cannot be folded; fold it after its attribution windows closed")
    control = spec.control_index
    after = Folded.empty_of(spec)
    alike = comparable(mature, by_cohort)
    for place, slot in enumerate(slots(spec)):
        rows = _of_kind(spec, slot, _rows_of(mature, by_cohort, slot.cohort), alike)
        weighing = _Weighing(spec, slot, place, folded, rows, FOREVER_MS, repeats=repeats)
        for arm in range(len(spec.arms)):
            after.sums[place, arm] = weighing.sums(Pair(arm, control), int(since[arm]))
    return Folded(after.sums, np.array(since, np.int64))


def _rows_of(table: PeriodTable, by_cohort: PeriodTable | None, cohort: int) -> PeriodTable:
    if cohort == EVERY:
        return table
    if by_cohort is None:
        return table.rows(np.zeros(len(table.number), np.bool_))
    return by_cohort.rows(by_cohort.cohort == cohort)


def _of_kind(spec: ExperimentSpec, slot: Slot, rows: PeriodTable, alike: PeriodTable) -> PeriodTable:
    """The rows that a guardrail looks at: of all cohorts added up, only such with exact shares where it needs them."""
    guardrail = spec.guardrails[slot.guardrail]
    compares = GUARDRAILS[guardrail.kind].code(spec, guardrail) in COMPARED
    return alike if compares and slot.cohort == EVERY else rows


def _steps(alike: PeriodTable) -> int:
    """Most rows of one period: a detector that takes a step with each takes so many more."""
    return int(np.unique(alike.number, return_counts=True)[1].max(initial=1))


def _thin(rows: FloatArray, effect: float) -> FloatArray:
    """Rows [E, R] as if there were so many times fewer outcomes and decisions; the rest stays."""
    thin = rows.copy()
    thin[:, _COUNTS] /= effect
    thin[:, watch.EDGES :] /= effect
    return thin


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
        repeats: Repeats | None = None,
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
        self._weighed = weighed_of(spec, guardrail, table, self._every)
        metric = spec.metric_index(guardrail.metric) if guardrail.metric else None
        # [K] so many outcomes of an arm, or decisions of all, are the evidence of one.
        self._effects = np.ones(len(spec.arms))
        if self._code == watch.SAMPLE_RATIO and repeats is not None:
            self._effects[:] = repeats.visits
        elif metric is not None and self._code in ADDITIVE | IN_ORDER and repeats is not None:
            self._effects = repeats.values[:, metric]
        elif metric is not None and self._code in ADDITIVE and effects is not None:
            self._effects[:] = effects[metric]

    def _repeated(self, pair: Pair) -> float:
        """The larger of the two where arms are compared."""
        both = [pair.arm, pair.control] if self._code in COMPARED else [pair.arm]
        return float(self._effects[both].max())

    def _rows(self, pair: Pair, chosen: NDArray[np.bool_]) -> FloatArray:
        rows = self._every.rows(*pair, chosen)
        return _thin(rows, self._repeated(pair)) if self._code in IN_ORDER else rows

    def sums(self, pair: Pair, since: int) -> FloatArray:
        """[COLUMNS] of all mature periods from ``since`` on, folded ones included."""
        every = self._every
        sums = self._folded.of(self._place, pair.arm, since).copy()
        chosen = (every.number >= since) & every.mature
        if self._weighed is not None:
            self._weighed.add(float(self._params[0]), sums, pair.arm, chosen)
        else:
            watch.add_rows(self._code, self._params, sums, self._rows(pair, chosen))
        return sums

    def __call__(self, pair: Pair, since: int, levels: Levels) -> Evidence:
        every = self._every
        sums = self.sums(pair, since)
        may_count = (every.number >= since) & ~every.mature
        young = self._rows(pair, may_count if every.young else np.zeros_like(may_count))
        answers = np.zeros(weigh.ANSWERS)
        weigh.weigh(self._code, self._params, sums, young, answers)
        thin, fewer, strength = sums, young, answers
        repeated = self._repeated(pair)
        shown = repeated if self._code in IN_ORDER else 1.0
        if repeated > 1.0 and self._code not in IN_ORDER:
            thin, fewer, strength = sums / repeated, _thin(young, repeated), np.zeros(weigh.ANSWERS)
            weigh.weigh(self._code, self._params, thin, fewer, strength)
        more, pending = CANNOT_TELL, 0.0
        if self._told:
            more, pending = rewards_more(self._code, self._params, thin, fewer, strength, levels)
        return Evidence(
            seen=bool(answers[weigh.SEEN]),
            log_e=float(strength[weigh.LOG_E]),
            log_e_safe=float(strength[weigh.LOG_E_SAFE]),
            n=float(answers[weigh.N]) * shown,
            n_control=float(answers[weigh.N_CONTROL]) * shown,
            observed=float(answers[weigh.OBSERVED]),
            reference=float(answers[weigh.REFERENCE]),
            more=repeated * more,
            pending=repeated * pending,
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

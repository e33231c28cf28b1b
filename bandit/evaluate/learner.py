"""The learner of a service over a log: what it would have proposed at each look, by the code that serves.

Rewards go through the same fold into the same integer sums (``bandit.learn``), and the same look judges, takes away and
proposes (``bandit.look``). It differs from a server in three ways: looks come at the times of a schedule, shares are
renewed at each, and whatever a look takes away is taken at once. At a look nothing is known but rewards that had come
by then, of decisions that were made before.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

import bandit.look
from bandit.batch import AMENDMENT_TYPE, RECORD_TYPE
from bandit.counting import layout_of, tables_of
from bandit.errors import InvalidArgument
from bandit.evaluate.logged import EPOCH, ISSUER, SALT, UID, Logged
from bandit.evaluate.outcome import Fall
from bandit.evaluate.periods import Schedule
from bandit.features import encoder_of
from bandit.guardrails.base import Folded
from bandit.learn import EXPOSURE_TYPE, fold
from bandit.ledger import (
    COLUMNS,
    EVERY,
    ONE,
    S1,
    S2_HIGH,
    S2_LOW,
    Cells,
    Clusters,
    FloatArray,
    Int64Array,
    Ledger,
    N,
    Period,
    PeriodTable,
    cluster_totals,
    decay_weights,
)
from bandit.linear import weights
from bandit.linear.rule import Chooser
from bandit.linear.sums import Totals, totals, zeros
from bandit.log import AMENDMENTS, EXPOSURES, REPORT, REWARDS, LogEntry, exposure_entry, kind_of
from bandit.rollout.rollback import Kind
from bandit.rollout.state import Allocation, State
from bandit.rollout.transitions import create
from bandit.seen import Seen
from bandit.spec.model import PPM, ExperimentSpec

MOST_BYTES = 1 << 30
"""Of the ledger of an evaluation."""


class Target(NamedTuple):
    """Shares that the spec gives until the next look: ``shares`` [G, K] by cohort; by ``chooser`` for each request
    where the spec reads features."""

    shares: FloatArray
    chooser: Chooser | None

    def of(self, cohort: Int64Array, features: NDArray[np.uint8]) -> FloatArray:
        """[N, K] probabilities of N decisions."""
        if self.chooser is None:
            return self.shares[cohort]
        kinds, which = np.unique(features, axis=0, return_inverse=True)
        own = np.array([self.chooser.shares_ppm(each.tobytes()) for each in kinds]) / PPM
        found: FloatArray = own[which.ravel()]
        return found


class Learner:
    """Holds the ledger of one evaluation and where its experiment stands; used look by look, in order."""

    def __init__(self, log: Logged, plan: Schedule, spec: ExperimentSpec) -> None:
        layout = layout_of(spec)
        self.log, self.plan, self.spec, self.layout = log, plan, spec, layout
        periods, (g, k, c, _, _) = len(plan.interval), layout
        if 8 * periods * g * k * (c * COLUMNS + 2) > MOST_BYTES:
            raise InvalidArgument.at(
                "every",
                f"{len(plan.at_ms):,} looks with {periods:,} periods of {g} cohorts, {k} arms and {c} channels do not "
                "fit into memory; look less often",
            )
        self._exposures = np.zeros((periods, g, k), np.int64)
        self._sums = np.zeros((periods, g, k, c, COLUMNS), np.int64)
        self._share = np.zeros((periods, g, k))
        self._common = np.zeros((periods, k))
        self._centre = np.zeros((periods, len(spec.metrics)))
        # Nothing reads these period by period, so all periods add to the same ones.
        self._whole = Cells.zeros(layout._replace(cohorts=1, channels=1))
        self._linear = zeros(spec)
        weighed = weights.zeros(spec)
        self._weighed = None if weighed is None else np.zeros((periods, *weighed.shape), np.int64)
        self._marks = np.zeros((log.size, k if spec.weighs else 0), np.uint8)
        self._marked = np.zeros(log.size, np.bool_)
        self._share_ppm = np.zeros(log.size, np.int64)
        self._ledger, self._seen = Ledger(EPOCH, layout), Seen()
        self._encoder = encoder_of(spec)
        self._taken = np.zeros(log.size, np.bool_)
        self._count = self._told = 0
        draft = create(spec, UID, SALT, int(log.time_ms[0]))
        self._experiment = replace(draft.experiment, state=State.RUNNING)
        self._allocation = draft.allocation
        self._folded = Folded.empty_of(spec)

    @property
    def allocation(self) -> Allocation:
        """The allocation of the newest look."""
        return self._allocation

    def look(self, at: int) -> tuple[Target, list[Fall]]:
        """Look number ``at``: what the spec gives until the next one, and what was taken away on the way."""
        now_ms = int(self.plan.at_ms[at])
        self._fold_rewards(now_ms, int(self.plan.first[at]))
        whole, rows = self._tables(at)
        elapsed_ms = now_ms - int(self.plan.at_ms[0])
        batch = max(self._count * self.plan.every_ms / elapsed_ms if elapsed_ms else 0.0, 1.0)
        given = (whole, rows, self._folded, now_ms, self._clusters())
        sums = self._totals(at, now_ms)
        falls: list[Fall] = []
        while True:
            seen = bandit.look.look(
                self._experiment, self._allocation, *given, batch=batch, renew=True, told=False, totals=sums
            )
            if seen.decided is not None:
                # Once more, for the words.
                seen = bandit.look.look(
                    self._experiment, self._allocation, *given, batch=batch, renew=True, totals=sums
                )
            assert seen.transition is not None
            self._experiment, self._allocation = seen.transition.experiment, seen.transition.allocation
            if seen.decided is None:
                return self._target(), falls
            arm, kind, verdict = seen.decided
            action = "rolled_back" if kind is Kind.ROLL_BACK else "held"
            falls.append(Fall(now_ms, self.spec.arms[arm].name, verdict.guardrail, action, verdict.message))

    def take(self, at: int, chosen: Int64Array, chance: FloatArray, *, own: bool) -> None:
        """Count decisions of interval ``at``, of which ``chosen`` [N] are indexes; all rewards of theirs will count.

        ``chance`` [N, K]: the probabilities that they were drawn by, below 0 where one is not known. ``own``: these are
        the shares of the newest look, else those of the log.
        """
        here = np.flatnonzero(self.plan.interval == at)
        target = self._target()
        for place in here.tolist():
            self._share[place] = target.shares if own else self.plan.share[place]
            self._common[place] = (
                np.array(self._allocation.shares_ppm) / PPM if own else self.plan.share[place]
            )
            self._centre[place] = self._allocation.centres
            self._ledger.periods[place + 1] = self._period(place)
        self._taken[chosen] = True
        log = self.log
        if self.spec.weighs:
            cut = np.rint(chance * PPM).astype(np.int64)
            self._marked[chosen] = (cut >= 0).all(axis=1)
            self._marks[chosen] = (
                np.searchsorted(np.array(weights.LADDER), np.maximum(cut, 0), side="right") - 1
            )
            self._share_ppm[chosen] = cut[np.arange(chosen.size), log.arm[chosen]]
        records = np.zeros(chosen.size, EXPOSURE_TYPE)
        records["allocation"], records["cohort"] = self.plan.period[chosen] + 1, log.cohort[chosen]
        records["arm"], records["bucket"] = log.arm[chosen], log.bucket[chosen]
        entry = exposure_entry(ISSUER, EPOCH, self._count, records.tobytes())
        stamp = f"{int(self.plan.at_ms[at])}-0"
        fold([LogEntry(stamp, EXPOSURES, entry)], self._experiment, self._ledger, self._seen)
        self._count += chosen.size

    def _period(self, place: int) -> Period:
        cells = Cells(self._exposures[place], self._sums[place], self._whole.clusters, self._whole.visits)
        start = int(self.plan.at_ms[self.plan.interval[place]])
        shares = tuple(round(each * PPM) for each in self._common[place].tolist())
        return Period(
            number=place + 1,
            last=place + 1,
            epoch=EPOCH,
            start_ms=start,
            end_ms=start + self.plan.every_ms,
            shares_ppm=shares,
            centres=self._allocation.centres,
            cells=cells,
            linear=zeros(self.spec) if self.spec.decay else self._linear,
            weighed=None if self._weighed is None else self._weighed[place],
        )

    def _target(self) -> Target:
        allocation = self._allocation
        own = allocation.apart_ppm
        shares = (
            np.array([own.get(cohort, allocation.shares_ppm) for cohort in range(self.layout.cohorts)]) / PPM
        )
        if allocation.linear is None or self._encoder is None:
            return Target(shares, None)
        return Target(shares, Chooser(allocation.linear, self._encoder))

    def _fold_rewards(self, now_ms: int, before: int) -> None:
        rewards = self.log.rewards
        stop = int(np.searchsorted(rewards.arrival_ms, now_ms))
        # Of those that come at this very moment, the ones of decisions that are still to be made wait.
        while (
            stop < len(rewards.arrival_ms)
            and rewards.arrival_ms[stop] == now_ms
            and rewards.decision[stop] < before
        ):
            stop += 1
        rows = np.arange(self._told, stop)
        self._told = stop
        rows = rows[self._taken[rewards.decision[rows]]]
        if rows.size:
            fold(list(self._entries(rows)), self._experiment, self._ledger, self._seen)

    def _entries(self, rows: Int64Array) -> Iterator[LogEntry]:
        """Entries of the log as a server would have written them, in order."""
        log, rewards = self.log, self.log.rewards
        decision = rewards.decision[rows]
        records = np.zeros(rows.size, RECORD_TYPE)
        records["issuer"], records["epoch"], records["number"] = ISSUER, EPOCH, decision
        records["issued_ms"], records["allocation"] = log.time_ms[decision], self.plan.period[decision] + 1
        records["q"], records["metric"] = rewards.q[rows], rewards.metric[rows]
        records["cohort"], records["arm"], records["bucket"] = (
            each[decision] for each in (log.cohort, log.arm, log.bucket)
        )
        amended, learned = rewards.amended[rows], np.isin(rewards.metric[rows], self.spec.learned)
        marked = self._marked[decision]
        # The time of an entry matters to delay curves alone: lateness was judged before.
        time_ms = rewards.arrival_ms[rows]
        key = [amended, learned, marked, time_ms]
        key = key if tables_of(self.spec).early.any() else key[:-1]
        starts = np.flatnonzero(
            np.any([np.diff(each.astype(np.int64), prepend=-1) != 0 for each in key], axis=0)
        )
        for start, stop in zip(starts, [*starts[1:], rows.size], strict=True):
            part = slice(int(start), int(stop))
            own: NDArray[Any] = records[part]
            if amended[start]:
                own = np.zeros(stop - start, AMENDMENT_TYPE)
                own["reward"], own["op"] = records[part], REPORT
                own["order"], own["event"] = rewards.order[rows[part]], rewards.event[rows[part]]
            body = [own.view(np.uint8).reshape(stop - start, -1)]
            if learned[start]:
                body.append(log.features[decision[part]])
            if marked[start]:
                share = self._share_ppm[decision[part]].astype("<u4").view(np.uint8).reshape(stop - start, -1)
                body += [self._marks[decision[part]], share[:, : weights.SHARE_BYTES]]
            width = sum(each.shape[1] for each in body[1:])
            kind = kind_of(AMENDMENTS if amended[start] else REWARDS, width)
            yield LogEntry(f"{time_ms[start]}-{start}", kind, np.concatenate(body, axis=1).tobytes())

    def _clusters(self) -> Clusters | None:
        periods = list(self._ledger.periods.values())[:1]
        return cluster_totals(periods, self.layout)

    def _totals(self, at: int, now_ms: int) -> Totals | None:
        if self._linear is None or not at:
            return None
        if self.spec.decay is None:
            return totals([(self._linear, 1.0)])
        periods = list(self._ledger.periods.values())
        weights = decay_weights(self._tables(at)[0], self.spec.decay.half_life, now_ms)
        return totals(
            (each.linear, float(weight))
            for each, weight in zip(periods, weights, strict=True)
            if each.linear is not None
        )

    def _tables(self, at: int) -> tuple[PeriodTable, PeriodTable]:
        """(a row per period, a row per period and cohort) of the intervals before look ``at``."""
        count = int(np.searchsorted(self.plan.interval, at))
        exposures, sums = self._exposures[:count], self._sums[:count]
        place = np.arange(count)
        whole = self._rows(
            place, self._common[:count], exposures.sum(axis=1), sums.sum(axis=1), np.full(count, EVERY)
        )
        if self._weighed is not None:
            whole = replace(whole, weighed=self._weighed[:count])
        if self.layout.cohorts == 1:
            return whole, replace(whole, cohort=np.zeros(count, np.int64))
        place, cohort = np.nonzero(exposures.any(axis=2) | sums[..., N].any(axis=(2, 3)))
        at_cohort = (place, cohort)
        return whole, self._rows(place, self._share[at_cohort], exposures[at_cohort], sums[at_cohort], cohort)

    def _rows(
        self,
        place: Int64Array,
        share: FloatArray,
        exposures: Int64Array,
        sums: Int64Array,
        cohort: Int64Array,
    ) -> PeriodTable:
        start = self.plan.at_ms[self.plan.interval[place]]
        return PeriodTable(
            number=place + 1,
            last=place + 1,
            start_ms=start,
            end_ms=start + self.plan.every_ms,
            block=np.zeros(place.size, np.bool_),
            share=share,
            centre=self._centre[place],
            assigned=exposures.astype(np.float64),
            n=sums[..., N].astype(np.float64),
            s1=sums[..., S1] / ONE,
            s2=(sums[..., S2_HIGH] + sums[..., S2_LOW] / ONE) / ONE,
            facts=np.zeros((place.size, 0)),
            cohort=cohort.astype(np.int64),
        )

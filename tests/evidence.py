"""Evidence for tests: from sums of one reading, or from periods given as plain arrays."""

from __future__ import annotations

from typing import Any

import numpy as np

from bandit.baselines import BASELINES
from bandit.baselines.base import Belief, Evidence, evidence_of
from bandit.ledger import PeriodTable
from bandit.reading import Reading
from bandit.spec.model import ExperimentSpec

SECOND = 1000


def periods(
    spec: ExperimentSpec,
    n: Any,
    s1: Any,
    s2: Any = None,
    assigned: Any = None,
    centre: float = 0.5,
    cohort: Any = None,
) -> PeriodTable:
    """Closed periods of a second from [E, K, C] sums in scaled units; ``s2`` is ``s1``, missing channels are empty."""
    n, s1 = np.asarray(n, np.float64), np.asarray(s1, np.float64)
    s2 = s1 if s2 is None else np.asarray(s2, np.float64)
    width = len(spec.columns)
    rows, arms, given = n[:, :, :width].shape

    def wide(values: Any) -> Any:
        return np.concatenate([values[:, :, :width], np.zeros((rows, arms, width - given))], axis=2)

    exposed = n[:, :, 0] if assigned is None else np.asarray(assigned, np.float64)
    start = np.arange(rows, dtype=np.int64) * SECOND
    return PeriodTable(
        number=np.arange(1, rows + 1),
        last=np.arange(1, rows + 1),
        start_ms=start,
        end_ms=start + SECOND,
        block=np.zeros(rows, np.bool_),
        share=exposed / np.maximum(exposed.sum(axis=1, keepdims=True), 1.0),
        centre=np.full((rows, len(spec.metrics)), centre),
        assigned=exposed,
        n=wide(n),
        s1=wide(s1),
        s2=wide(s2),
        facts=np.zeros((rows, 0)),
        cohort=np.zeros(rows, np.int64) if cohort is None else np.asarray(cohort, np.int64),
    )


def evidence_from(spec: ExperimentSpec, reading: Reading) -> Evidence:
    """A reading as one period."""
    rows = periods(spec, reading.n[None], reading.s1[None], reading.s2[None], reading.assigned[None])
    return Evidence(spec, rows, np.ones(1), reading, {}, SECOND, np.ones(len(spec.metrics)))


def beliefs_from(spec: ExperimentSpec, rows: PeriodTable, now_ms: int) -> tuple[Belief, ...]:
    """Beliefs of the spec's baseline."""
    return BASELINES[spec.baseline].beliefs(evidence_of(spec, rows, now_ms))

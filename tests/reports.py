"""Specs, periods and reports for tests of what reports say."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from bandit.inference.report import Effect, Report, report_of
from bandit.ledger import Layout, Period, PeriodTable, split_table
from bandit.spec.model import ExperimentSpec
from tests.guardrail_periods import LONG_AFTER, guarded

EQUAL = (1 / 3, 1 / 3, 1 / 3)
METRIC = {"name": "good", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1h"}


def of(**changes: Any) -> ExperimentSpec:
    values: dict[str, Any] = {
        "metrics": [METRIC],
        "objective": [{"metric": "good"}],
        "unit": {"kind": "request"},
    }
    return guarded(**(values | changes))


def rows_of(spec: ExperimentSpec, periods: Sequence[Period], cohorts: int = 1) -> PeriodTable:
    return split_table(periods, Layout(cohorts, len(spec.arms), len(spec.columns)))


def reported(spec: ExperimentSpec, periods: Sequence[Period], now_ms: int = LONG_AFTER) -> Report:
    return report_of(spec, rows_of(spec, periods), [True] * len(spec.arms), now_ms)


def effect(report: Report, arm: int, metric: int = 0) -> Effect:
    found = report.metrics[metric].arms[arm].effect
    assert found is not None
    return found

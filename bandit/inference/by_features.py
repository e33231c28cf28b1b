"""A report where each request has shares of its own: everything that weighs by the shares of a period is taken out."""

from __future__ import annotations

import math
from dataclasses import replace

from bandit.inference.means import StratifiedMean
from bandit.inference.report import ArmMetric, MetricReport, Report

UNLIKE = (
    "each arm serves other requests, by their features, so arms are not compared here: no effect, winner or ratio of "
    "traffic is told, and plain means are of the requests that each arm served; the coefficients say what an arm is "
    "worth for which request"
)
_UNKNOWN = StratifiedMean(math.nan, math.nan, 0.0, 0.0)


def without_comparisons(report: Report) -> Report:
    """What stays true of a report whose shares differ within periods: counts, plain means and their bounds."""
    return replace(
        report,
        metrics=tuple(_metric(each) for each in report.metrics),
        objective=tuple(None for _ in report.objective),
        traffic=replace(
            report.traffic,
            arms=tuple(
                each._replace(
                    least_propensity=math.nan,
                    largest_weight=math.nan,
                    mean_weight=math.nan,
                    mean_weight_se=math.nan,
                )
                for each in report.traffic.arms
            ),
            log_e=0.0,
        ),
        winner=replace(
            report.winner,
            arm=None,
            leader=None,
            rival=None,
            log_e=0.0,
            decisions_more=math.inf,
            lift=math.nan,
            lift_se=math.nan,
        ),
        notes=(UNLIKE, *report.notes),
    )


def _metric(each: MetricReport) -> MetricReport:
    return replace(each, arms=tuple(_arm(arm) for arm in each.arms), cohorts=())


def _arm(each: ArmMetric) -> ArmMetric:
    return replace(each, mean=_UNKNOWN, effect=None)

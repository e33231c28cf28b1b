"""The report of an experiment in the words of the wire; the numbers are ``bandit.inference``'s."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from google.protobuf.message import Message
from google.protobuf.timestamp_pb2 import Timestamp

from bandit.ids import experiment_resource
from bandit.inference.by_features import by_features
from bandit.inference.cohorts import CohortEffect
from bandit.inference.effects import LEVEL, Method
from bandit.inference.first_exposure import first_exposures
from bandit.inference.report import ArmMetric, Effect, MetricReport, Report, better, report_of
from bandit.inference.terms import MOST_ARMS
from bandit.inference.traffic import Traffic
from bandit.inference.winner import Winner
from bandit.ledger import Clusters, FloatArray
from bandit.look import Look
from bandit.spec.metric import Direction, Metric
from bandit.spec.model import PPM, ExperimentSpec
from bandit.v1 import report_pb2, spec_pb2
from server.control.status import (
    budget_message,
    coefficients_of,
    feasible_of,
    requests_more,
    verdict_message,
)
from server.messages import apart_to_proto
from server.store.base import Stored

METHODS: dict[Method, report_pb2.Effect.Method.ValueType] = {
    "none": report_pb2.Effect.METHOD_NONE,
    "exact": report_pb2.Effect.METHOD_EXACT,
    "asymptotic": report_pb2.Effect.METHOD_ASYMPTOTIC,
}
FINDINGS = {
    "better": report_pb2.Effect.FINDING_BETTER,
    "worse": report_pb2.Effect.FINDING_WORSE,
    "not shown": report_pb2.Effect.FINDING_NOT_SHOWN,
}
DIRECTIONS = {
    Direction.MAXIMIZE: spec_pb2.DIRECTION_MAXIMIZE,
    Direction.MINIMIZE: spec_pb2.DIRECTION_MINIMIZE,
}


@dataclass(frozen=True, slots=True)
class Units:
    """What is known of units that keep their arm: ``settled`` terms (``inference.first_exposure.unit_terms``), and sums
    by hash bucket."""

    settled: FloatArray
    clusters: Clusters


def report_message(stored: Stored, look: Look, units: Units | None = None) -> report_pb2.Report:
    """What the data of a look show; ``units`` where they keep their arm until their point moves."""
    experiment, spec = stored.experiment, stored.experiment.spec
    evidence = look.evidence
    visits = 1.0 if evidence.repeats is None else evidence.repeats.visits
    report = report_of(spec, evidence.rows, experiment.live(), look.now_ms, evidence.effects, visits)
    if spec.is_linear:
        report = by_features(report, spec, look.table, look.now_ms, evidence.effects)
    stamp = Timestamp()
    stamp.FromMilliseconds(look.now_ms)
    message = report_pb2.Report(
        name=experiment_resource(experiment.name),
        epoch=experiment.epoch,
        hypothesis=spec.hypothesis,
        evaluation_time=stamp,
        decisions=report.decisions,
        level=LEVEL,
        arms=[_arm(stored, look, report, arm) for arm in range(len(spec.arms))],
        metrics=[_metric(spec, each) for each in report.metrics],
        winner=_winner(stored, look, report.winner),
        verdicts=[verdict_message(verdict, experiment) for verdict in look.verdicts],
        sample_ratio=_sample_ratio(spec, report.traffic),
        notes=report.notes,
        budget=budget_message(spec, look.proposal),
        apart=apart_to_proto(stored.allocation, spec),
    )
    if units is not None and not spec.is_linear:
        _first_exposures(message, stored, units)
    return message


def _first_exposures(message: report_pb2.Report, stored: Stored, units: Units) -> None:
    """Effects on units that met no other arm, and how many did."""
    for each in first_exposures(stored.experiment.spec, units.settled):
        told = message.metrics[each.metric].arms[each.arm].first_exposure
        told.estimate = each.estimate
        known(told, se=each.se, low=each.low, high=each.high)
    message.censored_units = 1.0 - sum(stored.allocation.ranges.settled_ppm()) / PPM
    visits = int(units.clusters.visits.sum())
    if visits:
        message.censored_decisions = int(units.clusters.rerouted.sum()) / visits


def _arm(stored: Stored, look: Look, report: Report, index: int) -> report_pb2.ArmReport:
    spec, traffic = stored.experiment.spec, report.traffic.arms[index]
    arm = spec.arms[index]
    message = report_pb2.ArmReport(
        arm=arm.name,
        control=arm.control,
        share_ppm=stored.allocation.shares_ppm[index],
        floor_ppm=spec.bounds_ppm(index)[0],
        decisions=traffic.decisions,
        p_best=float(look.proposal.p_best[index]),
        expected_loss=float(look.proposal.expected_loss[index]),
        rolled_back=stored.experiment.arms[index].rollback is not None,
        feasible=feasible_of(look.proposal, index),
        coefficients=coefficients_of(spec, look.proposal, index),
    )
    known(
        message,
        least_propensity=traffic.least_propensity,
        largest_weight=traffic.largest_weight,
        mean_weight=traffic.mean_weight,
        mean_weight_se=traffic.mean_weight_se,
    )
    effect = report.objective[index]
    if effect is not None:
        message.objective.CopyFrom(_effect(effect, None))
    return message


def _metric(spec: ExperimentSpec, each: MetricReport) -> report_pb2.MetricReport:
    metric = spec.metrics[each.metric]
    return report_pb2.MetricReport(
        metric=metric.name,
        direction=DIRECTIONS[metric.direction],
        matured=each.matured,
        arms=[_arm_metric(spec, metric, arm) for arm in each.arms],
        design_effect=each.design_effect,
        cohorts=[_cohort(spec, cohort) for cohort in each.cohorts],
    )


def _cohort(spec: ExperimentSpec, each: CohortEffect) -> report_pb2.CohortEffect:
    return report_pb2.CohortEffect(
        arm=spec.arms[each.arm].name,
        cohort=spec.cohort_name(each.cohort),
        raw=each.raw,
        effect=each.effect,
        sd=each.sd,
        n=round(each.n),
        n_control=round(each.n_control),
        apart=each.apart,
    )


def _arm_metric(spec: ExperimentSpec, metric: Metric, each: ArmMetric) -> report_pb2.ArmMetric:
    message = report_pb2.ArmMetric(
        arm=spec.arms[each.arm].name, n=each.n, n_effective=each.mean.n_effective, covered=each.mean.covered
    )
    known(
        message,
        answered=each.answered,
        mean=each.mean.mean,
        control_mean=each.mean.control,
        plain_mean_biased=each.plain,
        least=each.least,
        most=each.most,
    )
    if each.effect is not None:
        message.effect.CopyFrom(_effect(each.effect, metric))
    return message


def _effect(each: Effect, metric: Metric | None) -> report_pb2.Effect:
    """``metric`` None: of the objective, which is better up."""
    sign = each.sign
    found = better(metric, sign) if metric else {1: "better", -1: "worse", 0: "not shown"}[sign]
    message = report_pb2.Effect(
        method=METHODS[each.interval.method], finding=FINDINGS[found], n=each.n, n_control=each.n_control
    )
    known(
        message,
        estimate=each.interval.estimate,
        low=each.interval.low,
        high=each.interval.high,
        aipw=each.aipw,
        aipw_se=each.aipw_se,
    )
    return message


def _winner(stored: Stored, look: Look, winner: Winner) -> report_pb2.Winner:
    spec = stored.experiment.spec
    least = math.inf if winner.arm is not None else requests_more(stored.experiment, look.proposal)
    message = report_pb2.Winner(
        arm=_name(spec, winner.arm),
        leader=_name(spec, winner.leader),
        rival=_name(spec, winner.rival),
        log_e=winner.log_e,
        log_threshold=winner.log_threshold,
        message=winner_sentence(spec, winner, float(max(look.proposal.p_best)), least),
    )
    known(
        message,
        decisions_more=winner.decisions_more,
        lift=winner.lift,
        lift_se=winner.lift_se,
        requests_needed=least,
    )
    return message


def winner_sentence(spec: ExperimentSpec, winner: Winner, p_best: float, least: float = math.inf) -> str:
    """Who won, or how far from it. ``p_best``: highest of any arm, told beside it since it decides nothing;
    ``least``: further requests that any rule needs, told where the evidence itself points nowhere."""
    if spec.is_linear:
        return (
            "no winner is told: which arm is best depends on the features of a request; see the coefficients"
        )
    if winner.leader is None or winner.rival is None:
        if len(spec.arms) > MOST_ARMS:
            return f"no winner: with more than {MOST_ARMS} arms each is compared with the control alone"
        return "no winner: fewer than two arms may have traffic"
    leader, rival = spec.arms[winner.leader].name, spec.arms[winner.rival].name
    seen = f"ln E {winner.log_e:.2f}, enough from {winner.log_threshold:.2f} on"
    if winner.arm is not None:
        return f"{leader} is the best arm by the objective: it beats even {rival} ({seen})"
    if math.isfinite(winner.decisions_more):
        more = f"about {winner.decisions_more:,.0f} more decisions at the present rate"
    elif math.isfinite(least) and least > 0.0:
        more = (
            "the evidence points nowhere yet; if the means are what they seem, telling the best arm takes about "
            f"{least:,.0f} more requests at least"
        )
    else:
        more = "the evidence points nowhere yet"
    return f"no winner yet (P(best) {p_best:.3f} is no evidence): {leader} over {rival} has {seen}; {more}"


def _sample_ratio(spec: ExperimentSpec, traffic: Traffic) -> report_pb2.SampleRatio:
    seen = f"ln E {traffic.log_e:.2f}, an alarm from {traffic.log_threshold:.2f} on"
    if spec.is_linear:
        return report_pb2.SampleRatio(
            message="not checked: each request has shares of its own, so that there is no one ratio to keep; a "
            "guardrail of kind response_rate holds rewards against the chances of their requests"
        )
    if not traffic.mismatch:
        text = f"decisions follow the shares ({seen})"
    else:
        known_arms = [k for k, arm in enumerate(traffic.arms) if math.isfinite(arm.mean_weight)]
        worst = max(known_arms, key=lambda k: abs(traffic.arms[k].mean_weight - 1.0))
        name, weight = spec.arms[worst].name, traffic.arms[worst].mean_weight
        text = (
            f"decisions do not follow the shares ({seen}): {name} has {weight:.3f} times its part; believe no "
            "comparison until you know why"
        )
    return report_pb2.SampleRatio(
        log_e=traffic.log_e, log_threshold=traffic.log_threshold, mismatch=traffic.mismatch, message=text
    )


def _name(spec: ExperimentSpec, index: int | None) -> str:
    return "" if index is None else spec.arms[index].name


def known(message: Message, **values: float) -> None:
    """Set the fields whose value is a finite number; the others stay unset."""
    target: Any = message
    for field, value in values.items():
        if math.isfinite(value):
            setattr(target, field, float(value))

"""No sums, however odd, break a look: every metric kind under every allocator and baseline, with every guardrail."""

from __future__ import annotations

import itertools
import math
from dataclasses import replace
from typing import Any, get_args

import numpy as np
import pytest

from bandit.allocate_linear import propose_linear
from bandit.allocators import ALLOCATORS
from bandit.allocators.needed import needed
from bandit.baselines import BASELINES
from bandit.baselines.base import evidence_of
from bandit.decide import compile_table
from bandit.features import Encoder
from bandit.guardrails import GUARDRAILS
from bandit.guardrails.base import Folded
from bandit.inference.by_features import by_features
from bandit.inference.report import report_of
from bandit.ledger import ONE, PeriodTable
from bandit.linear.project import bounded_ppm
from bandit.linear.rule import Chooser
from bandit.linear.sums import Totals, add, read, width_of
from bandit.linear.weights import add as add_weighed
from bandit.linear.weights import marks_of
from bandit.look import Look, look
from bandit.ranges import PPM
from bandit.rollout.bounds import boxes
from bandit.rollout.transitions import create, reallocate, start
from bandit.spec.channels import EARLY_PARTS, Channel, ChannelKind, log_scale
from bandit.spec.check import check
from bandit.spec.choice import AllocatorKind
from bandit.spec.metric import MetricKind
from bandit.spec.model import ExperimentSpec
from tests.evidence import periods

KINDS: dict[str, dict[str, Any]] = {
    "bernoulli": {"direction": "maximize", "default_when_silent": 0},
    "fraction": {"direction": "maximize", "range": [-1, 1]},
    "gaussian": {"direction": "minimize", "range": [-1e6, 1e6]},
    "poisson": {"direction": "minimize", "range": [0, 50]},
    "exponential": {"direction": "minimize", "range": [0, 10_000]},
    "lognormal": {"direction": "maximize", "range": [1, 1e6]},
    "revenue": {"direction": "maximize", "range": [0, 1000], "default_when_silent": 0},
    "rating": {"direction": "maximize", "levels": [1, 2, 3, 4, 5]},
    "ratio": {"direction": "minimize", "numerator": "poisson", "denominator": "exponential", "range": [0, 5]},
}
GUARDED: dict[str, dict[str, Any]] = {
    "rate_limit": {"metric": "bernoulli", "limit": 0.02},
    "harm": {"metric": "gaussian"},
    "breaker": {"metric": "bernoulli", "limit": 0.02},
    "quantile_limit": {"metric": "exponential", "limit": 800, "quantile": 0.99},
    "quantile_harm": {"metric": "exponential", "quantile": 0.99, "between": [200, 5000], "margin": 1.1},
    "event_rate": {"metric": "poisson", "limit": 2.5},
    "became_worse": {"metric": "revenue", "margin_of": "mean", "margin": 1.1},
    "sample_ratio": {"action": "flag"},
    "silence": {"metric": "bernoulli", "after": "1s", "action": "hold"},
    "response_rate": {"metric": "fraction", "margin": 1.05, "action": "flag"},
    "drift": {"metric": "rating", "action": "flag"},
}
FREE = [kind for kind in get_args(AllocatorKind) if kind in ALLOCATORS]
SECOND = 1000
COUNTS = np.array([0.0, 0.0, 1.0, 2.0, 3.0, 1e3, 1e6, 1e9, 1e12])
"""Decisions of one sort in a period; among them none, and more than there are people."""


def spec_of(kind: str, allocator: str, baseline: str, arms: int, **more: Any) -> ExperimentSpec:
    names = ["control", *(f"a{index}" for index in range(1, arms))]
    rule: dict[str, Any] = {"kind": allocator}
    if allocator == "fixed":
        rule["weights"] = dict.fromkeys(names, 1 / arms)
    values: dict[str, Any] = {
        "experiment": "hostile",
        "arms": [{"name": name, "control": name == "control"} for name in names],
        "metrics": [
            {
                "name": name,
                "kind": name,
                **({} if name == "ratio" else {"attribution_window": "2s"}),
                **fields,
            }
            for name, fields in KINDS.items()
        ],
        "objective": [{"metric": kind}],
        "allocator": rule,
        "baseline": baseline,
        "bounds": {"floor": 0.002, "control_floor": 0.01, "cap": 0.7},
        "guardrails": [
            {"name": name.replace("_", "-"), "kind": name, **fields} for name, fields in GUARDED.items()
        ],
    }
    made = ExperimentSpec.model_validate(values | more)
    assert check(made) == []
    return made


def legal(spec: ExperimentSpec, index: int, chance: np.random.Generator) -> float | None:
    """A value that the border takes, often one at an end of the range; None: no reward."""
    metric = spec.metrics[index]
    low, high = metric.scale
    if metric.kind is MetricKind.RATIO or chance.random() < 0.2:
        return None
    if metric.kind is MetricKind.BERNOULLI:
        return float(chance.integers(2))
    if metric.levels:
        return float(chance.choice(metric.levels))
    value = float(chance.choice([low, high, low + (high - low) * 1e-9, chance.uniform(low, high), 0.0, 1.0]))
    value = min(max(value, low), high)
    return float(round(value)) if metric.kind is MetricKind.POISSON else value


def channel_value(
    spec: ExperimentSpec, channel: Channel, values: list[float | None], part: int
) -> float | None:
    """What a decision adds to a channel, as ``spec.channels`` says; ``part``: its rewards came within that one."""
    value, metric = values[channel.metric], spec.metrics[channel.metric]
    if value is None:
        return None
    low, high = metric.scale
    scaled = (value - low) / (high - low)
    match channel.kind:
        case ChannelKind.VALUE:
            return scaled
        case ChannelKind.LOG:
            bottom, top = log_scale(metric)
            return min(max((math.log(value) - bottom) / (top - bottom), 0.0), 1.0) if value > 0.0 else None
        case ChannelKind.LEVEL:
            return float(value == metric.levels[channel.place])
        case ChannelKind.CUBE:
            return scaled**3
        case ChannelKind.ABOVE:
            return float(value > channel.threshold)
        case ChannelKind.EARLY:
            return None if value == metric.default_when_silent else float(part <= channel.place)
        case ChannelKind.PAIR:
            other, more = spec.metrics[channel.other], values[channel.other]
            if more is None:
                return None
            return scaled * (more - other.scale[0]) / (other.scale[1] - other.scale[0])


def hostile(spec: ExperimentSpec, rows: int, chance: np.random.Generator) -> PeriodTable:
    """Sums of up to three sorts of decisions in each cell, of each as many as COUNTS says: cells are empty or huge,
    values never vary or lie at both ends, arms have nothing but silence."""
    arms, channels = len(spec.arms), spec.columns
    n, s1, s2 = np.zeros((3, rows, arms, len(channels)))
    assigned = np.zeros((rows, arms))
    for row, arm in itertools.product(range(rows), range(arms)):
        for _ in range(int(chance.integers(1, 4))):
            many = float(chance.choice(COUNTS))
            assigned[row, arm] += many
            values = [legal(spec, index, chance) for index in range(len(spec.metrics))]
            part = int(chance.integers(len(EARLY_PARTS)))
            for channel, at in channels.items():
                found = channel_value(spec, channel, values, part)
                if found is not None:
                    n[row, arm, at] += many
                    s1[row, arm, at] += many * found
                    s2[row, arm, at] += many * found * found
        assigned[row, arm] += float(chance.choice(COUNTS))
    made = periods(spec, n, s1, s2, assigned=assigned)
    if rows and chance.random() < 0.7:  # the newest is open, and young
        made = replace(made, end_ms=np.where(np.arange(rows) == rows - 1, 0, made.end_ms))
    return made


def looked(spec: ExperimentSpec, rows: PeriodTable, totals: Totals | None = None) -> Look:
    draft = create(spec, 1, bytes(16), 0)
    begun = start(draft.experiment, draft.allocation, 0)
    # Counted from the first period on.
    experiment = replace(begun.experiment, arms=draft.experiment.arms)
    shares = [PPM // len(spec.arms)] * len(spec.arms)
    shares[0] += PPM - sum(shares)
    before = reallocate(
        experiment, begun.allocation, shares, begun.allocation.centres, "evidence", 0
    ).allocation
    now = len(rows.number) * SECOND + 500
    return look(
        experiment,
        before,
        rows,
        rows,
        Folded.empty_of(spec),
        now,
        batch=1000.0,
        renew=spec.is_linear,
        totals=totals,
    )


def assert_sound(spec: ExperimentSpec, seen: Look) -> None:
    got = seen.proposal
    arms = len(spec.arms)
    assert sum(got.shares_ppm) == PPM
    low, high = boxes(spec, [True] * arms, [None] * arms, None, 0.0)
    assert (low <= got.shares_ppm).all()
    assert (got.shares_ppm <= high).all()
    for name in ("weights", "p_best", "expected_loss", "utility_mean", "utility_sd", "mean", "low", "high"):
        assert np.isfinite(getattr(got, name)).all(), name
    assert abs(got.weights.sum() - 1.0) < 1e-9
    assert (got.weights >= 0.0).all()
    assert (got.utility_sd > 0.0).all()
    assert not np.isnan(needed(got.utility, np.ones(arms, np.bool_), spec.alpha))
    assert seen.verdicts
    for verdict in seen.verdicts:
        for value in (verdict.log_e, verdict.log_e_safe, verdict.observed, verdict.reference):
            assert np.isfinite(value), verdict
        assert "nan" not in verdict.message
    if seen.transition is not None:
        assert all(0.0 <= centre <= 1.0 for centre in seen.transition.allocation.centres)


def test_every_kind_is_tried() -> None:
    assert set(KINDS) == set(MetricKind)
    assert set(GUARDED) == set(GUARDRAILS)
    assert set(FREE) == set(ALLOCATORS)


@pytest.mark.parametrize("kind", list(KINDS))
def test_every_allocator_and_baseline_gives_lawful_shares(kind: str) -> None:
    chance = np.random.default_rng(list(KINDS).index(kind))
    for allocator, baseline in itertools.product(FREE, BASELINES):
        spec = spec_of(kind, allocator, baseline, int(chance.choice([2, 3])))
        rows = hostile(spec, int(chance.choice([0, 1, 4])), chance)
        assert_sound(spec, looked(spec, rows))


@pytest.mark.parametrize("baseline", list(BASELINES))
def test_sixty_four_arms(baseline: str) -> None:
    chance = np.random.default_rng(len(baseline))
    for allocator in ("thompson", "kl_ucb", "bayes_ucb"):
        spec = spec_of(str(chance.choice(list(KINDS))), allocator, baseline, 64)
        assert_sound(spec, looked(spec, hostile(spec, 3, chance)))


@pytest.mark.parametrize("baseline", list(BASELINES))
def test_several_terms_a_budget_and_constraints(baseline: str) -> None:
    chance = np.random.default_rng(7 + len(baseline))
    for trial in range(12):
        terms = [
            {"metric": kind, "weight": 10.0 ** int(chance.integers(-3, 4))}
            for kind in ("bernoulli", "gaussian")
        ]
        spec = spec_of(
            "bernoulli",
            "thompson",
            baseline,
            3,
            objective=terms,
            budget={"metric": "exponential", "per_day": float(10 ** chance.uniform(-3, 12))},
            constraints=[
                {"metric": "gaussian", "within": 10.0, "probability": 0.9},
                {"metric": "fraction", "limit": 0.5, "probability": 0.5},
            ],
            decay={"half_life": "1s"} if trial % 2 else None,
        )
        seen = looked(spec, hostile(spec, int(chance.choice([0, 1, 4])), chance))
        assert_sound(spec, seen)
        assert seen.proposal.feasible is not None
        assert ((seen.proposal.feasible >= 0.0) & (seen.proposal.feasible <= 1.0)).all()
        assert seen.proposal.price >= 0.0


@pytest.mark.parametrize("baseline", list(BASELINES))
def test_a_report_of_anything_is_made(baseline: str) -> None:
    chance = np.random.default_rng(3 + len(baseline))
    for _ in range(8):
        spec = spec_of("bernoulli", "thompson", baseline, 3)
        made = report_of(spec, hostile(spec, 4, chance), (True, True, True), 10**9)
        assert np.isfinite(made.winner.log_e)
        assert np.isfinite(made.traffic.log_e)
        for each in made.objective:
            if each is not None and each.interval.method != "none":
                assert each.interval.low <= each.interval.estimate <= each.interval.high


LINEAR: list[dict[str, Any]] = [
    {"kind": "lin_ts"},
    {"kind": "lin_ts", "exploration": 100.0},
    {"kind": "lin_ucb"},
    {"kind": "lin_ucb", "confidence": 0.01},
]
ODD = ["", "nan", "inf", "-1e999", "5", "0", "1e-320", "pro", "x" * 9000, "\x00", "१२"]
"""Attributes as clients may send them."""


def linear_spec(rule: dict[str, Any], kind: str, arms: int) -> ExperimentSpec:
    fields = {key: value for key, value in KINDS[kind].items() if key != "default_when_silent"}
    names = ["control", *(f"a{index}" for index in range(1, arms))]
    harm = {"name": "harm", "kind": "harm", "metric": kind}
    limit = {"name": "limit", "kind": "silence", "metric": kind, "after": "1s", "action": "flag"}
    made = ExperimentSpec.model_validate(
        {
            "experiment": "hostile",
            "arms": [{"name": name, "control": name == "control"} for name in names],
            "metrics": [{"name": kind, "kind": kind, "attribution_window": "2s", **fields}],
            "objective": [{"metric": kind}],
            "allocator": rule,
            "baseline": "stationary",
            "bounds": {"floor": 0.002, "control_floor": 0.01, "cap": 0.7},
            "features": [
                {"name": "plan", "kind": "categorical", "values": ["free", "pro"]},
                {"name": "tokens", "kind": "numeric", "low": -1e12, "high": 1e12},
                {"name": "text", "kind": "hashed", "buckets": 3},
            ],
            "guardrails": [harm if arms < 28 else limit],
        }
    )
    assert check(made) == []
    return made


def hostile_linear(
    spec: ExperimentSpec, rows: int, chance: np.random.Generator
) -> tuple[PeriodTable, Totals | None]:
    """As :func:`hostile`, with features and shares of every decision: all alike, at the ends, next to none."""
    arms, encoder = len(spec.arms), Encoder(spec.features)
    n, s1, s2 = np.zeros((3, rows, arms, len(spec.columns)))
    learned = np.zeros((arms, 1, width_of(encoder.dimension)))
    weighed = np.zeros((rows, arms, 1, 2, 6))
    one = np.ones(1, np.int64)
    for row, arm in itertools.product(range(rows), range(arms)):
        for _ in range(int(chance.integers(0, 3))):
            many, value = float(chance.choice(COUNTS)), legal(spec, 0, chance)
            if value is None:
                continue
            low, high = spec.metrics[0].scale
            part = (value - low) / (high - low)
            q = np.array([round(part * ONE)])
            encoded = encoder.encode({each.name: str(chance.choice(ODD)) for each in spec.features})
            sums = np.zeros(learned.shape[2], np.int64)
            add(sums, encoder.rows(np.frombuffer(encoded, np.uint8)[None]), q, one)
            learned[arm, 0] += many * sums
            p = chance.choice([1e-9, 1e-4, 1.0], arms) * chance.random(arms) + 1e-12
            shares = bounded_ppm((p / p.sum()).tolist(), [1] * arms, [PPM] * arms)
            marks = np.frombuffer(marks_of(shares), np.uint8)[None]
            single = np.zeros((arms, 1, 2, 6), np.int64)
            add_weighed(single, marks, np.array([shares[arm]]), arm * one, 0 * one, q, one, 0)
            weighed[row] += many * single
            for array, moment in ((n, 1.0), (s1, part), (s2, part * part)):
                array[row, arm, 0] += many * moment
    table = periods(spec, n, s1, s2, assigned=n[:, :, 0])
    return replace(table, weighed=weighed), read(learned) if learned.any() else None


@pytest.mark.parametrize("rule", LINEAR, ids=[" ".join(map(str, rule.values())) for rule in LINEAR])
def test_linear_allocators_give_lawful_shares_to_any_request(rule: dict[str, Any]) -> None:
    chance = np.random.default_rng(len(str(rule)))
    for trial in range(15):
        arms = 64 if trial == 0 else int(chance.choice([2, 3]))
        spec = linear_spec(rule, str(chance.choice(["bernoulli", "gaussian", "revenue", "poisson"])), arms)
        rows, totals = hostile_linear(spec, int(chance.choice([0, 1, 4])), chance)
        seen = looked(spec, rows, totals)
        assert_sound(spec, seen)
        assert seen.transition is not None
        report = by_features(
            report_of(spec, rows, [True] * arms, 10**9), spec, rows, 10**9, np.ones(len(spec.metrics))
        )
        for effect in report.objective:
            if effect is not None and effect.interval.method != "none":
                assert effect.interval.low <= effect.interval.estimate <= effect.interval.high
        made = seen.transition
        if made.allocation.linear is None:  # an arm was taken away: the next look makes the rule
            continue
        served = compile_table(made.experiment, made.allocation)
        assert served.chooser is not None
        for _ in range(40):
            attributes = {each.name: str(chance.choice(ODD)) for each in spec.features}
            decision = served.decide(str(chance.random()), attributes)
            shares = served.chooser.shares_ppm(decision.features[: len(spec.features)])
            assert sum(shares) == PPM
            assert decision.propensity_ppm == shares[decision.arm] > 0
            assert decision.features[len(spec.features) :] == (marks_of(shares) if spec.weighs else b"")


def test_a_rule_for_the_control_alone_serves_it() -> None:
    """Every challenger is rolled back: nothing is left to choose, and nothing divides by nothing."""
    chance = np.random.default_rng(5)
    spec = linear_spec(LINEAR[0], "bernoulli", 3)
    rows, totals = hostile_linear(spec, 4, chance)
    shares = np.zeros(3, np.bool_)
    shares[0] = True
    proposal = propose_linear(spec, evidence_of(spec, rows, 10**6), totals, shares, [None] * 3, None, 1.0)
    assert proposal.shares_ppm == (PPM, 0, 0)
    assert proposal.linear is not None
    chooser = Chooser(proposal.linear, Encoder(spec.features))
    assert chooser.shares_ppm(bytes(3)) == (PPM, 0, 0)
    assert chooser.marks(bytes(3)) == bytes([255, 0, 0])

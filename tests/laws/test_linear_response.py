"""Answers that one arm's requests do not get, where each request has shares of its own; sums that are drawn at once."""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.guardrails.base import ArmStanding, Folded, Outcome, Verdict
from bandit.guardrails.by_features import WeighedResponse
from bandit.guardrails.judge import judge
from bandit.kernels import watch
from bandit.kernels.overlap import LEAST, ODDS, SCORES, TOTAL, TOTAL_SAFE
from bandit.ledger import ONE, FloatArray
from bandit.linear.project import bounded_ppm
from bandit.linear.weights import add, marks_of, mean_sums, read
from bandit.ranges import PPM
from bandit.spec.model import ExperimentSpec
from tests.evidence import periods
from tests.routed import LATE, Releases, made, releases

RUNS = 60
BY_KIND = np.array([[0.9, 0.9], [0.4, 0.4]])
"""[G, K]: the kind that the challenger serves answers less, whoever serves it."""


def asking(margin: float) -> ExperimentSpec:
    guardrail = {
        "name": "answers",
        "kind": "response_rate",
        "metric": "bad",
        "margin": margin,
        "action": "flag",
    }
    return made(guardrails=[guardrail])


def judged(found: Releases, spec: ExperimentSpec) -> list[Verdict]:
    """The verdict on each release at its end; decisions are told as all that there were."""
    arms = [ArmStanding(1, 1, live=True)] * 2
    verdicts = []
    for run in range(found.n.shape[1]):
        assigned = (150.0 * found.shares[:, run]).sum(axis=1)
        table = replace(found.table(spec, run), assigned=assigned)
        (verdict,) = judge(spec, table, Folded.empty_of(spec), arms, LATE)
        verdicts.append(verdict)
    return verdicts


def test_requests_that_answer_less_are_no_fault_of_the_arm_that_serves_them() -> None:
    verdicts = judged(releases(RUNS, np.ones(2), 41, answers=BY_KIND), asking(1.0))
    assert sum(each.outcome is Outcome.FAIL for each in verdicts) <= 3
    # Plain shares of answers are far from each other; what the control is said to have on the same requests is not.
    assert np.median([each.observed for each in verdicts]) < 0.5
    assert np.median([abs(each.reference - each.observed) for each in verdicts]) < 0.08


def test_answers_that_are_lost_on_one_side_are_seen_and_a_margin_that_is_kept_is_shown() -> None:
    fewer = releases(RUNS, np.ones(2), 43, answers=BY_KIND * np.array([1.0, 0.6]))
    assert sum(each.outcome is Outcome.FAIL for each in judged(fewer, asking(1.0))) >= 0.9 * RUNS
    # 0.6 is outside a margin of 1.5, 0.9 is inside one of 2.
    some = releases(RUNS, np.ones(2), 47, answers=BY_KIND * np.array([1.0, 0.9]))
    assert sum(each.outcome is Outcome.PASS for each in judged(some, asking(2.0))) >= 0.9 * RUNS
    assert sum(each.outcome is Outcome.PASS for each in judged(fewer, asking(1.5))) <= 3


@given(
    st.lists(st.floats(0.0, 1.0), min_size=3, max_size=3),
    st.floats(0.0, 1.0),
    st.sampled_from([1.0, 1.1, 2.0]),
    st.booleans(),
)
@settings(max_examples=80, deadline=None)
def test_one_request_adds_nothing_in_the_mean_at_the_edge(
    p: list[float], rate: float, margin: float, more: bool
) -> None:
    """Of every draw, answered or not, exactly, at either edge of the margin."""
    shares = bounded_ppm([each + 1e-3 for each in p], [0] * 3, [PPM] * 3)
    arms = [{"name": "control", "control": True}, {"name": "small"}, {"name": "large"}]
    guardrail = {"name": "a", "kind": "response_rate", "metric": "bad", "margin": margin, "action": "flag"}
    spec = made(arms=arms, guardrails=[guardrail])
    r = margin if more else 1.0 / margin
    control = min(rate, 1.0 / r)
    answered = [control, min(r * control, 1.0), 0.5]
    mean_e, total = np.zeros(SCORES), np.zeros(SCORES)
    for arm in range(3):
        for there in (0.0, 1.0):
            block = one_request(spec, shares, arm, there)[0 if more else 1]
            probability = shares[arm] / PPM * (answered[arm] if there else 1.0 - answered[arm])
            mean_e += probability * np.exp(block)
            total += probability * block
            assert min(block[TOTAL], block[TOTAL_SAFE]) >= -LEAST - 1e-9
    assert (mean_e[ODDS:] <= 1.0 + 1e-6).all()
    assert abs(total[TOTAL]) <= 1e-6


def one_request(
    spec: ExperimentSpec, shares: tuple[int, ...], arm: int, there: float
) -> tuple[FloatArray, FloatArray]:
    """Both blocks of scores of the small arm."""
    n = np.zeros((1, 1, 3, 2))
    n[0, 0, arm] = there
    table = periods(spec, n[:, 0], 0.0 * n[:, 0])
    table = replace(table, weighed=mean_sums(n, 0.0 * n, 0.0 * n, np.array(shares)[None, None] / PPM, 0))
    sums = np.zeros(watch.COLUMNS)
    WeighedResponse(spec, spec.guardrails[0], table).add(
        spec.guardrails[0].margin, sums, 1, np.ones(1, np.bool_)
    )
    return sums[watch.BLOCK : watch.AFTER], sums[watch.SECOND : watch.SECOND + SCORES]


def test_rehearsed_sums_are_those_of_the_ledger_but_for_rounding() -> None:
    chance = random.Random(3)
    shares = [(250_000, 600_000, 150_000), (20_000, 900_000, 80_000)]
    n, s1, s2 = (np.zeros((1, 2, 3, 1)) for _ in range(3))
    sums = np.zeros((3, 1, 2, 6), np.int64)
    for _ in range(200):
        g, arm, q = chance.randrange(2), chance.randrange(3), chance.randrange(ONE + 1)
        marks = np.frombuffer(marks_of(shares[g]), np.uint8)[None]
        one = np.ones(1, np.int64)
        add(sums, marks, np.array([shares[g][arm]]), arm * one, 0 * one, q * one, one, 0)
        n[0, g, arm] += 1
        s1[0, g, arm] += q / ONE
        s2[0, g, arm] += (q / ONE) ** 2
    found = mean_sums(n, s1, s2, np.array(shares)[None] / PPM, 0)
    assert read(found[0]) == pytest.approx(read(sums), abs=2e-5)

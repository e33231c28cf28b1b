"""Declared delays in rehearsals: the world's rewards come as late as the spec says, unless the world says otherwise."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandit.simulate.laws import Law, draw_delays
from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import plan
from bandit.simulate.standard import standard_worlds
from bandit.simulate.world import resolved
from bandit.spec.model import ExperimentSpec
from bandit.spec.parse import parse_mapping
from bandit.spec.render import to_mapping
from tests.rehearsals import LIKED, UNSAFE, runs_of, spec_of, world_of

QUICK = {"median": "20s", "p90": "60s"}
SLOW = {"median": "2m", "p90": "4m"}
LATE: dict[str, Any] = {**LIKED, "attribution_window": "300s", "default_when_silent": 0}


def late_spec(of_metric: Any = None, of_b: Any = None, **parts: Any) -> ExperimentSpec:
    """Arm ``b`` may have delays of its own."""
    metric = LATE | ({} if of_metric is None else {"delay": of_metric})
    made = spec_of(metrics=[metric, UNSAFE], **parts)
    if of_b is None:
        return made
    value = to_mapping(made)
    value["arms"][1]["delay"] = {"liked": of_b}
    return parse_mapping(value)


def laws(spec: ExperimentSpec, **arms: Any) -> list[Law]:
    world = world_of(100, 10, arms)
    return [resolved(world, spec, 0, arm, "liked") for arm in ("a", "b")]


def points(law: Law) -> tuple[float, float]:
    assert law.late is not None
    return 300.0 * law.late.middle, 300.0 * law.late.late


def test_who_says_how_late_rewards_come() -> None:
    """The world before the spec, the arm before the metric, and what is left out is the control's."""
    nobody = laws(late_spec())
    assert not any(each.comes_late for each in nobody)
    assert [points(each) for each in laws(late_spec(QUICK))] == [(20.0, 60.0), (20.0, 60.0)]
    assert [points(each) for each in laws(late_spec(QUICK, SLOW))] == [(20.0, 60.0), (120.0, 240.0)]
    only_b = laws(late_spec(None, SLOW))
    assert not only_b[0].comes_late
    assert points(only_b[1]) == (120.0, 240.0)
    world = laws(late_spec(QUICK), a={"liked": {"delay": "5s"}})
    assert [(each.delay_s, each.late) for each in world] == [(5.0, None), (5.0, None)]
    of_b = laws(late_spec(QUICK, SLOW), a={"liked": {"delay": "5s"}})
    assert (of_b[0].delay_s, of_b[1].delay_s) == (5.0, 0.0)
    assert points(of_b[1]) == (120.0, 240.0)
    both = laws(late_spec(QUICK, SLOW), b={"liked": {"delay": "5s"}})
    assert points(both[0]) == (20.0, 60.0)
    assert (both[1].delay_s, both[1].late) == (5.0, None)


def test_drawn_delays_are_as_declared_and_within_the_window() -> None:
    (_, law) = laws(late_spec(QUICK, SLOW))
    found = draw_delays(law, 300.0, 100_000, np.random.default_rng(1))
    assert found.max() <= 300.0
    for at, share in ((120.0, 0.5), (240.0, 0.9)):
        # Six standard errors.
        assert np.mean(found <= at) == pytest.approx(share, abs=6 * np.sqrt(share * (1 - share) / 1e5))


def test_the_usual_worlds_are_as_late_as_the_spec_says_and_lose_nothing() -> None:
    spec = late_spec(QUICK, SLOW)
    for world in standard_worlds(spec, 1000.0, 3600.0):
        made = plan(spec, world, 20)
        assert made.laws[0][1][0] is not None
        assert points(made.laws[0][1][0]) == (120.0, 240.0)
        outcomes = Outcomes(made)
        assert outcomes.lags > 1
        drawn = outcomes.period(0, np.array([0.5, 0.5]), np.random.default_rng(2))
        told = drawn.n[:, 0, :, 0]
        assert (told[0] < told[-1]).all()  # some come late
        assert told[-1] == pytest.approx(drawn.assigned[0])  # and all come
    undelayed = plan(late_spec(), standard_worlds(late_spec(), 1000.0, 3600.0)[0], 20)
    assert Outcomes(undelayed).lags == 1


def test_verdicts_wait_for_closed_windows_whatever_is_declared() -> None:
    """Guardrails count no decision by its age: with the same rewards, they fail at the same looks."""
    harm = {"name": "less-liked", "kind": "harm", "metric": "liked"}
    fixed = {"kind": "fixed", "weights": {"a": 0.5, "b": 0.5}}
    world = world_of(
        2000,
        60,
        {"a": {"liked": {"mean": 0.3, "delay": "40s"}}, "b": {"liked": {"mean": 0.2, "delay": "80s"}}},
    )
    fell = []
    for declared in ({}, {"of_metric": SLOW, "of_b": {"median": "1s"}}):
        _, runs = runs_of(late_spec(**declared, guardrails=[harm], allocator=fixed), world, 60, 2)
        fell.append(np.stack([run.fell for run in runs]))
    assert (fell[0][:, 0, 1] >= 30).all()  # not before a window of 30 periods has closed
    assert (fell[0][:, 0, 1] < 60).all()
    assert np.array_equal(fell[0], fell[1])

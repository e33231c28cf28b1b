"""World files: every mistake at its line and column, and cohorts as the file says."""

from __future__ import annotations

import numpy as np
import pytest

from bandit.errors import InvalidArgument
from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import plan
from bandit.simulate.world import WorldFile, parse_world
from tests.rehearsals import spec_of, world_of

WORLD = "traffic_per_hour: 300\nhorizon: 7d\n"


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "w:1:1: spec: the file is empty; begin it with `traffic_per_hour: 300`"),
        ("horizon: 7d\n", "w:1:1: traffic_per_hour: missing; add traffic_per_hour"),
        (WORLD + "trafic: 3\n", "w:3:1: trafic: unknown key; allowed: world, traffic_per_hour, horizon"),
        ("traffic_per_hour: .inf\nhorizon: 7d\n", "w:1:19: traffic_per_hour: .inf is not a finite number"),
        (
            "traffic_per_hour: -1\nhorizon: 7d\n",
            "w:1:19: traffic_per_hour: -1 is not allowed; allowed: above 0",
        ),
        ("traffic_per_hour: 1\nhorizon: 2 weeks\n", "w:2:10: horizon: '2 weeks' is not a duration"),
        (WORLD + "arms: [{name: z}]\n", "w:3:15: arms.0.name: 'z' is not an arm of this experiment"),
        (WORLD + "arms: [{name: a}, {name: a}]\n", "w:3:26: arms.1.name: a second arm of this name"),
        (
            WORLD + "arms:\n- name: a\n  metrics:\n  - {name: like, mean: 0.1}\n",
            "w:6:12: arms.0.metrics.0.name: 'like' is not a metric of this experiment; did you mean liked?",
        ),
        (
            WORLD + "arms:\n- name: a\n  metrics:\n  - {name: liked, mean: 1.5}\n",
            "w:6:5: arms.0.metrics.0: liked of a: its mean goes from 1.5 to 1.5, outside [0, 1]",
        ),
        (
            WORLD + "arms:\n- name: b\n  metrics:\n  - {name: liked, mean: 0.4, times: 2}\n",
            "w:6:37: arms.0.metrics.0.times: times beside a mean; keep one of the two",
        ),
        (
            WORLD
            + "arms:\n- name: a\n  metrics:\n  - {name: liked, mean: 0.4, drift: {shape: rising, by: 2}}\n",
            "liked of a: its mean goes from 0.4 to 1.2, outside [0, 1]",
        ),
        (
            WORLD + "arms:\n- name: a\n  metrics:\n  - {name: liked, drift: {shape: step}}\n",
            "w:6:26: arms.0.metrics.0.drift: step without `at`; write when",
        ),
        (
            WORLD + "arms:\n- name: a\n  metrics:\n  - {name: liked, sd: 2}\n",
            "a bernoulli has no sd of its own",
        ),
        (WORLD + "cohorts: [{name: eu, part: 1}]\n", "w:3:18: cohorts.0.name: 'eu' is not a cohort"),
        (WORLD + "x: &a 1\n", "w:3:4: x: an anchor"),
        ("traffic_per_hour: 1\n---\nhorizon: 7d\n", "a second document begins here"),
        ("\x00", "which an editor does not show"),
    ],
)
def test_a_mistake_in_a_world_is_told_at_its_line_and_column(text: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_world(text, "w", spec_of())
    assert told in str(caught.value)


def test_all_mistakes_of_a_world_are_told_at_once() -> None:
    text = "traffic_per_hour: fast\nhorizon: 0s\narms:\n- name: A B\n"
    with pytest.raises(InvalidArgument) as caught:
        parse_world(text, "w", spec_of())
    assert [line.split(": ")[1] for line in str(caught.value).splitlines()] == [
        "traffic_per_hour",
        "horizon",
        "arms.0.name",
    ]


def test_cohorts_have_their_parts_and_their_own_laws() -> None:
    spec = spec_of(cohorts={"attribute": "plan", "values": ["free", "paid"]})
    world = world_of(
        30_000,
        1,
        {"a": {"liked": {"mean": 0.4}, "unsafe": {"mean": 0.01}}},
        cohorts=[
            {"name": "other", "part": 0.2},
            {"name": "free", "part": 0.5, "metrics": [{"name": "liked", "times": 0.5}]},
            {
                "name": "paid",
                "part": 0.3,
                "arms": [{"name": "b", "metrics": [{"name": "liked", "times": 0.8}]}],
            },
        ],
    )
    assert isinstance(world, WorldFile)
    made = plan(spec, world, 1)
    assert made.truth[0, :, :, 0].ravel().tolist() == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.4, 0.32])
    drawn = Outcomes(made).period(0, np.array([0.5, 0.5]), np.random.default_rng(6))
    assert (drawn.assigned.sum(axis=1) / 30_000).tolist() == pytest.approx([0.2, 0.5, 0.3], abs=0.02)
    rates = drawn.s1[0, :, :, 0] / drawn.n[0, :, :, 0]
    assert rates.ravel().tolist() == pytest.approx([0.4, 0.4, 0.2, 0.2, 0.4, 0.32], abs=0.04)

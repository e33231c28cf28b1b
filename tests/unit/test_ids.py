"""Resource names: whole, or refused with the rule."""

from __future__ import annotations

import pytest

from bandit.errors import InvalidArgument
from bandit.ids import arm_resource, experiment_resource, parse_arm, parse_experiment, parse_name


def test_resources_read_back() -> None:
    assert parse_experiment(experiment_resource("answers-2")) == "answers-2"
    assert parse_arm(arm_resource("answers", "small")) == ("answers", "small")


@pytest.mark.parametrize(
    "name", ["", "A", "a_b", "2a", "a\n", " a", "a" * 64, "a/b", "ä", "experiments"[:-1] + "S"]
)
def test_wrong_names_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument, match="name"):
        parse_name(name, "arm")
    with pytest.raises(InvalidArgument, match="experiments/NAME"):
        parse_experiment(f"experiments/{name}")
    with pytest.raises(InvalidArgument, match="experiments/NAME/arms/ARM"):
        parse_arm(f"experiments/answers/arms/{name}")


@pytest.mark.parametrize(
    "resource", ["answers", "experiments", "experiment/a", "experiments/a/arms", "experiments/a/arm/b"]
)
def test_wrong_resources_are_refused(resource: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_arm(resource)
    with pytest.raises(InvalidArgument):
        parse_experiment(resource if resource != "experiments" else "")

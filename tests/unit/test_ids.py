"""Resource names: whole, or refused with the rule."""

from __future__ import annotations

import pytest

from bandit.errors import InvalidArgument
from bandit.ids import (
    arm_resource,
    experiment_resource,
    ledger_name,
    parse_arm,
    parse_experiment,
    parse_ledger,
    parse_name,
)


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


@pytest.mark.parametrize("partition", [0, 1, 15])
def test_ledgers_read_back(partition: int) -> None:
    assert parse_ledger(ledger_name("answers", partition)) == ("answers", partition)


@pytest.mark.parametrize(
    "name", ["", "a/", "a/0", "a/01", "a/-1", "a/+1", "a/1/2", "a/x", "a/²", "A/1", "/1"]
)
def test_wrong_ledgers_are_refused(name: str) -> None:
    with pytest.raises(InvalidArgument):
        parse_ledger(name)

"""The partitions of a spec: how they are written, that they hold for life, and which of them counts what."""

from __future__ import annotations

from collections import Counter

import pytest

from bandit.client.convert import spec_from_proto, spec_to_proto
from bandit.errors import InvalidArgument, NotAllowed
from bandit.ids import ledger_names, parse_ledger
from bandit.log import partition_of
from bandit.rollout.transitions import update
from bandit.spec.diff import diff, new_epoch
from bandit.spec.parse import parse_yaml
from bandit.spec.render import render_yaml
from server.supervise.issuers import BATCH
from tests.builders import NOW, created, spec
from tests.double.command import SPEC


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("0", "0 is not allowed; allowed: 1 to 16"),
        ("17", "17 is not allowed; allowed: 1 to 16"),
        ("2.5", "2.5 is not a whole number; write plain decimal digits; allowed: 1 to 16"),
        ('"3"', "'3' is not a whole number; write plain decimal digits; allowed: 1 to 16"),
        ("true", "true is not a whole number; write plain decimal digits; allowed: 1 to 16"),
        ("", "nothing is written here; write a whole number; allowed: 1 to 16, or leave it out"),
    ],
)
def test_what_is_no_number_of_partitions_is_told(written: str, told: str) -> None:
    with pytest.raises(InvalidArgument) as refused:
        parse_yaml(f"{SPEC}partitions: {written}\n")
    assert f"partitions: {told}" in str(refused.value)


def test_it_goes_to_the_wire_and_to_a_file_and_back() -> None:
    made = spec(partitions=4)
    assert spec_from_proto(spec_to_proto(made)) == made
    assert parse_yaml(render_yaml(made)) == made
    assert "partitions: 4" in render_yaml(made)
    assert "partitions" not in render_yaml(spec())
    message = spec_to_proto(spec())
    message.ClearField("partitions")
    assert spec_from_proto(message).partitions == 1


def test_it_holds_for_the_life_of_an_experiment() -> None:
    made = created(partitions=2)
    for other in (1, 3):
        with pytest.raises(
            NotAllowed, match="created with partitions: 2, which holds for its life"
        ) as refused:
            update(made.experiment, made.allocation, spec(partitions=other), NOW + 1)
        assert refused.value.reason == "PARTITIONS_FIXED"
    assert update(made.experiment, made.allocation, spec(partitions=2, hypothesis="x"), NOW + 1) is not None
    (change,) = diff(spec(partitions=2), spec(partitions=3))
    assert change.effect == "refused: an experiment keeps the partitions that it was created with"
    assert not new_epoch(spec(partitions=2), spec(partitions=3))
    effects = {each.path: each.effect for each in diff(None, spec(partitions=3))}
    assert effects["partitions"] == "its log and ledger are split over 3 slots"


@pytest.mark.parametrize("partitions", [1, 2, 3, 16])
def test_processes_spread_and_what_is_of_one_decision_meets(partitions: int) -> None:
    """Processes of a machine have numbers one after the other; machines take them by batches."""
    for first in (1, 17, 5000):
        machine = {partition_of(issuer, 0, partitions) for issuer in range(first, first + partitions)}
        assert len(machine) == partitions
    for batches in (1, 2):  # some take another for the start without a store
        machines = {
            partition_of(1 + BATCH * batches * machine, 0, partitions) for machine in range(2 * partitions)
        }
        assert len(machines) == partitions
    assert len({partition_of(5, number, partitions) for number in range(100)}) == 1
    foreign = Counter(
        partition_of(0, number * 0x9E3779B97F4A7C15 % 2**64, partitions) for number in range(1600)
    )
    assert len(foreign) == partitions
    names = ledger_names("checkout", partitions)
    assert [parse_ledger(name) for name in names] == [("checkout", each) for each in range(partitions)]

"""The replay of logged recommendations: reading, matching, weighting, and what counts as a difference."""

from __future__ import annotations

import gzip
import math
from pathlib import Path

import pytest

from bandit.spec.model import PPM
from bandit.v1 import experiment_pb2 as pb
from benchmarks.replay_obd import (
    METRIC,
    Counts,
    Row,
    arm_name,
    differences,
    read_rows,
    replay_spec,
    wilson,
)
from tests.synthetic_log import ITEMS, PATH, ROWS, synthetic

HEAD = "timestamp,item_id,position,click,propensity_score\n"
GOOD = "2019-11-24 00:00:01.500000+00:00,3,1,1,0.125\n"


def test_the_fixture_is_what_its_program_writes() -> None:
    assert PATH.read_text() == synthetic()


def test_rows_are_read_plain_and_compressed(tmp_path: Path) -> None:
    rows = list(read_rows(PATH))
    assert len(rows) == ROWS
    assert {row.item for row in rows} == set(range(ITEMS))
    packed = tmp_path / "log.csv.gz"
    packed.write_bytes(gzip.compress(PATH.read_bytes()))
    assert list(read_rows(packed)) == rows


def test_a_row_says_what_its_line_says(tmp_path: Path) -> None:
    path = tmp_path / "log.csv"
    path.write_text(HEAD + GOOD)
    assert list(read_rows(path)) == [Row(0, 3, 1, 1_574_553_601_500, 0.125)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a,b\n1,2\n", "no column timestamp, item_id, click, propensity_score"),
        (HEAD + GOOD + GOOD.replace(",1,1,", ",1,2,"), "line 3"),
        (HEAD + GOOD.replace("0.125", "0"), "cannot be"),
        (HEAD + GOOD.replace("0.125", "1.5"), "cannot be"),
        (HEAD + GOOD.replace("2019-11-24", "yesterday"), "line 2"),
        (HEAD + "2019-11-24,3\n", "line 2"),
    ],
)
def test_files_of_another_form_are_refused_with_their_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "log.csv"
    path.write_text(text)
    with pytest.raises(SystemExit) as refused:
        list(read_rows(path))
    assert said in str(refused.value)


@pytest.mark.parametrize("count", [2, 34, 46, 64])
@pytest.mark.parametrize("allocator", ["thompson", "kl_ucb", "fixed"])
def test_every_item_gets_an_arm_that_the_spec_allows(count: int, allocator: str) -> None:
    spec = replay_spec("replay", range(count), allocator)
    assert [arm.name for arm in spec.arms] == [arm_name(item) for item in range(count)]
    assert spec.control_index == 0
    if allocator == "fixed":
        assert round(sum(spec.allocator.weights.values()) * PPM) == PPM


def test_a_uniform_log_weighs_each_match_alike() -> None:
    counts = Counts()
    for number in range(10):
        counts.match(Row(number, 0, number == 0, 0, 1 / 8), 8)
    rate, low, high = counts.rate()
    assert (rate, counts.effective()) == (0.1, 10.0)
    assert (low, high) == wilson(0.1, 10.0)


def test_another_log_is_weighted_back_to_a_uniform_one() -> None:
    """Item a was shown nine times as often as item b, and only b is clicked; under even shares half is clicked."""
    counts = Counts()
    for number in range(90):
        counts.match(Row(number, 0, 0, 0, 0.9), 2)
    for number in range(10):
        counts.match(Row(number, 1, 1, 0, 0.1), 2)
    assert counts.rate()[0] == pytest.approx(0.5)
    assert counts.effective() == pytest.approx(100**2 / (90 / 1.8**2 + 10 / 0.2**2))


def test_wilson_against_published_numbers() -> None:
    # Newcombe 1998, table I: 81 of 263, and 0 of 20.
    low, high = wilson(81 / 263, 263)
    assert (round(low, 4), round(high, 4)) == (0.2553, 0.3662)
    low, high = wilson(0.0, 20)
    assert low == 0.0
    assert math.isclose(high, 0.1611, abs_tol=5e-5)


def status(exposures: int, n: int, mean: float) -> pb.ExperimentStatus:
    found = pb.ExperimentStatus()
    arm = found.arms.add(arm="item-0", exposures=exposures)
    arm.metrics.add(metric=METRIC, n=n, mean=mean)
    return found


def counts() -> Counts:
    own = Counts()
    own.decisions["item-0"], own.rewards["item-0"], own.clicks["item-0"] = 100, 12, 3
    return own


def test_the_same_counts_differ_in_nothing() -> None:
    assert differences(counts(), status(100, 12, 0.25)) == []


def test_every_difference_is_a_sentence() -> None:
    assert differences(counts(), status(99, 11, 4 / 11)) == [
        "item-0: 100 decisions answered, 99 in the ledger",
        "item-0: 12 rewards answered, 11 in the ledger",
        "item-0: 3 clicks answered, 4 in the ledger",
    ]


def test_refused_rewards_and_lost_decisions_are_differences() -> None:
    own, seen = counts(), status(100, 12, 0.25)
    own.refused["LATE"] = 2
    seen.exposures_lost = 5
    assert differences(own, seen) == [
        "2 rewards refused: LATE",
        "the service says that 5 decisions were lost",
    ]

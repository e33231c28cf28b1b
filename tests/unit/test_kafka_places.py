"""Where to begin in a partition: the earliest of what group, slots and log know; never past what was not safe."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from server.ingest.kafka_places import Committed, Ends, Start, again, start
from server.store.fed import Position

NONE = Committed(None)


def at(offset: int, epoch: str = "id") -> Position:
    """A slot's position."""
    return Position("rewards/0", epoch, offset)


def test_begins_at_the_head_of_a_log_that_was_never_read() -> None:
    assert start("id", NONE, [], Ends(40, 100)) == Start("id", 40, 0, 0, commit=True)
    assert start("id", NONE, [], Ends(40, 100), latest=True) == Start("id", 100, 0, 0, commit=True)


def test_goes_on_where_the_group_is() -> None:
    assert start("id", Committed(70, "id"), [at(69)], Ends(0, 100)) == Start("id", 70, 0, 70, commit=False)


def test_a_slot_that_went_back_is_fed_again() -> None:
    assert start("id", Committed(70, "id"), [at(69), at(30)], Ends(0, 100)).offset == 31
    assert start("id", Committed(70, "id"), [at(69), at(30)], Ends(50, 100)).offset == 50


def test_a_position_ahead_of_the_commit_skips_nothing() -> None:
    # Of the batch that made it, another experiment may not have its part.
    assert start("id", Committed(70, "id"), [at(90)], Ends(0, 100)).offset == 70
    assert start("id", NONE, [at(90)], Ends(5, 100)) == Start("id", 5, 0, 91, commit=True)
    assert start("id", NONE, [at(90)], Ends(5, 100), latest=True).offset == 5


def test_a_topic_that_was_made_again_is_read_from_its_head() -> None:
    assert start("new", Committed(70, "old"), [at(69, "old")], Ends(0, 100)) == Start(
        "new", 0, 0, 0, commit=True
    )
    # The commit is of the new one already, a slot went back to before it.
    assert start("new", Committed(70, "new"), [at(69, "new"), at(80, "old")], Ends(0, 100)).offset == 0


def test_a_name_that_begins_like_another_is_another() -> None:
    assert start("id", Committed(70, "id2"), [], Ends(0, 100)).offset == 0
    assert start("id", Committed(70, "id~x"), [], Ends(0, 100)).offset == 0


def test_a_commit_of_another_tool_counts_and_is_signed() -> None:
    assert start("id", Committed(70, ""), [], Ends(0, 100)) == Start("id", 70, 0, 70, commit=True)


def test_a_log_whose_tail_was_cut_is_read_again_as_another() -> None:
    cut = start("id", Committed(70, "id"), [at(69)], Ends(10, 60))
    assert cut == Start("id~1", 10, 0, 0, commit=True)
    # From then on it is that epoch that counts, after a restart too.
    assert start("id", Committed(60, "id~1"), [at(59, "id~1")], Ends(10, 90)) == Start(
        "id~1", 60, 0, 60, False
    )
    assert start("id", Committed(70, "id"), [at(20, "id~1")], Ends(10, 90)) == Start("id~1", 10, 0, 21, True)
    assert start("id", Committed(95, "id~1"), [], Ends(10, 90)).epoch == "id~2"


def test_what_retention_took_before_it_was_read_is_counted() -> None:
    assert start("id", Committed(70, "id"), [at(69)], Ends(75, 100)).lost == 5
    assert start("id", Committed(70, "id"), [at(30)], Ends(50, 100)).lost == 0


@given(
    committed=st.integers(0, 100),
    slots=st.lists(st.integers(0, 99), max_size=4),
    low=st.integers(0, 50),
)
def test_nothing_that_was_not_safe_everywhere_is_skipped(committed: int, slots: list[int], low: int) -> None:
    found = start("id", Committed(committed, "id"), [at(each) for each in slots], Ends(low, 100))
    assert found.epoch == "id"
    assert found.offset <= max(low, committed)
    assert all(found.offset <= max(low, each + 1) for each in slots)
    assert found.offset >= low
    assert found.lost == max(0, low - committed)


@pytest.mark.parametrize(
    ("positions", "offset"),
    [([], None), ([at(9), at(5)], 6), ([at(-1)], 0), ([at(9), at(5, "old")], None)],
)
def test_reads_again_after_the_lowest_position(positions: list[Position], offset: int | None) -> None:
    assert again("id", positions) == offset

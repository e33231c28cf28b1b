"""Slots of one experiment that go back in time, each by itself: what others bring again makes the sums whole."""

from __future__ import annotations

from itertools import pairwise

import pytest

from bandit.errors import CorruptStored
from bandit.ledger import ONE, Period
from tests.partitions import STICKY, Both, same_sums


def _number(period: Period) -> int:
    return period.number


def before_a_block(partitions: int = 3) -> Both:
    """Rewards of old periods, all counted and none folded yet."""
    both = Both(partitions, STICKY)
    both.move(20)
    for which in range(60):
        both.reward(which, which % 3, ONE)
    both.turn()
    both.wait(1_500_000)
    return both


def test_the_first_slot_may_lose_minutes_and_nothing_is_lost() -> None:
    """Its block and its accumulators are gone; the others have their periods apart still, so all is made again."""
    both = before_a_block()
    kept = both.worlds[1].copied(0)
    both.old()
    both.move(2)
    both.turn()
    both.worlds[1].go_back(0, kept)
    both.worlds[1].turn(compact=True)
    assert both.several.warnings() == []
    same_sums(both.single, both.several)
    one, several = both.single, both.several
    assert (one.folded().sums == several.folded().sums).all()
    assert [len(each.ledger_read.periods) for each in (one, several)] == [len(one.ledger_read.periods)] * 2


def test_a_first_slot_that_lost_more_is_folded_to_the_others_and_says_so() -> None:
    both = before_a_block()
    kept = both.worlds[1].copied(0)
    both.old()
    both.wait(700_000)
    both.old()
    assert all(
        max(part.state.ledger.periods.values(), key=lambda p: p.last - p.number).is_block
        for part in both.parts
    )
    both.worlds[1].go_back(0, kept)
    both.worlds[1].turn(compact=True)
    same_sums(both.single, both.several)
    (warning,) = both.several.warnings()
    assert "lost more than 10 minutes of partition 0" in warning
    assert not both.several.folded().sums.any()
    assert both.single.folded().sums.any()


@pytest.mark.parametrize("old", [False, True], ids=["before it followed", "before anything was folded"])
def test_another_slot_may_lose_anything_that_others_bring_again(old: bool) -> None:
    both = Both(3, STICKY)
    empty = both.worlds[1].copied(1)
    both.move(20)
    for which in range(60):
        both.reward(which, which % 3, ONE)
    both.turn()
    if old:
        both.worlds[1].go_back(1, empty)
        both.worlds[1].turn()
        same_sums(both.single, both.several)
    both.wait(1_500_000)
    kept = both.worlds[1].copied(1)
    both.go_on(compact=True)
    both.wait(700_000)
    both.go_on(compact=True)
    both.worlds[1].go_back(1, kept)
    both.go_on(compact=True)
    both.move(3)
    both.go_on()


@pytest.mark.parametrize("folded", [False, True], ids=["open periods", "a block"])
def test_periods_whose_allocations_are_let_go_are_made_anew_in_a_slot_that_lost_them(folded: bool) -> None:
    both = Both(3, STICKY)
    both.wait(700_000)
    both.move(3)
    both.turn()
    kept = both.worlds[1].copied(1)
    both.move(17)
    for which in range(40):
        both.reward(which, which % 3, ONE)
    both.turn()
    if folded:
        both.wait(1_500_000)
        both.old()
    both.move(1)
    both.turn()
    both.move(1)
    both.turn()
    assert both.worlds[1].store.allocations("answers", 0)[0].number > 15
    both.worlds[1].go_back(1, kept)
    both.worlds[1].turn()
    exposures = [each.ledger_read.totals().exposures for each in (both.single, both.several)]
    assert (exposures[0] == exposures[1]).all()
    if not folded:  # else the windows of what is sent again are closed by now
        same_sums(both.single, both.several)
        both.move(2)
        both.go_on(compact=True)
    first, second, _ = (sorted(part.state.ledger.periods.values(), key=_number) for part in both.parts)
    assert any(each.is_block for each in first) == folded
    assert (second[0].number, second[-1].last) == (first[0].number, first[-1].last)
    assert all(before.last + 1 == after.number for before, after in pairwise(second))
    assert all(before.start_ms <= after.start_ms for before, after in pairwise(second))


def test_decisions_of_an_allocation_that_is_lost_for_good_count_with_the_newest() -> None:
    """The first slot lost a commit and the learner that knew it; what the others counted under it stays."""
    both = Both(2, STICKY)
    both.move(2)
    both.turn()
    kept = both.worlds[1].copied(0)
    world = both.worlds[1]
    for each in both.worlds:
        now = each.stored.allocation
        each.move((now.shares_ppm[1], now.shares_ppm[2], now.shares_ppm[0]), now.centres)
    both.serve(2, 5)
    both.serve(8, 5)
    both.turn()
    world.forget_commits()
    world.go_back(0, kept)
    world.turn()
    (warning,) = both.several.warnings()
    assert "10 decisions of answers/1" in warning
    same_sums(both.single, both.several)
    assert both.several.knows([])


def test_partitions_of_different_pasts_are_left_alone() -> None:
    """The first slot is where periods are open that another has folded: no share may follow from that."""
    both = Both(2, STICKY)
    both.move(2)
    both.turn()
    kept = both.worlds[1].copied(0)
    both.move(20)
    both.turn()
    both.wait(1_500_000)
    both.old()
    both.wait(700_000)
    both.old()
    both.worlds[1].forget_commits()
    both.worlds[1].go_back(0, kept)
    with pytest.raises(CorruptStored, match="different pasts"):
        both.worlds[1].turn()


def test_a_ledger_of_a_partition_that_is_gone_is_no_empty_one() -> None:
    both = Both(2, STICKY)
    both.wait(700_000)
    both.move(3)
    both.turn()
    both.move(1)
    both.turn()
    both.worlds[1].store.clear("answers/1")
    both.worlds[1].writer = None
    with pytest.raises(CorruptStored, match=r"answers/1: .* the ledger is gone"):
        both.worlds[1].turn()

"""An experiment in any number of partitions has the sums of one, bit for bit: whatever comes, wherever it breaks."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.ledger import ONE
from bandit.log import CORRECT, RETRACT
from tests.partitions import CLICKED, COST, ISSUERS, LINEAR, STICKY, Both

serve = st.tuples(st.just("serve"), st.sampled_from(ISSUERS), st.integers(1, 12))
reward = st.tuples(
    st.just("reward"), st.integers(0, 10**6), st.integers(0, 2), st.sampled_from([0, 1, ONE // 3, ONE])
)
amend = st.tuples(
    st.just("amend"), st.integers(0, 10**6), st.sampled_from([CORRECT, RETRACT]), st.integers(1, 9)
)
foreign = st.tuples(
    st.just("foreign"), st.integers(1, 40), st.sampled_from([COST, CLICKED]), st.sampled_from([0, ONE])
)
again = st.tuples(st.just("again"), st.integers(0, 10**6))
move = st.tuples(st.just("move"), st.integers(1, 10))
wait = st.tuples(st.just("wait"), st.sampled_from([10, 1000, 61_000, 700_000, 1_500_000]))
turn = st.tuples(st.just("turn"))
old = st.tuples(st.just("old"))
steps = st.lists(
    serve | reward | reward | amend | foreign | again | move | wait | turn | old, min_size=1, max_size=50
)


@pytest.mark.parametrize("changes", [STICKY, LINEAR], ids=["sticky", "linear"])
@settings(max_examples=14)
@given(partitions=st.sampled_from([2, 3, 5]), told=steps)
def test_partitions_have_the_sums_of_one(
    changes: dict[str, Any], partitions: int, told: list[tuple[Any, ...]]
) -> None:
    both = Both(partitions, changes)
    both.move(16)
    for step in told:
        both.tell(step)
    both.old()
    both.wait(1_500_000)
    both.old()
    both.wait(700_000)
    both.old()
    assert any(each.is_block for each in both.single.ledger_read.periods.values())


@settings(max_examples=14)
@given(partitions=st.sampled_from([2, 4]), told=steps, left=st.integers(0, 12), after=st.booleans())
def test_a_crash_between_the_writes_of_partitions_changes_nothing(
    partitions: int, told: list[tuple[Any, ...]], left: int, after: bool
) -> None:
    """A fold breaks, taken or not; whoever comes next goes on from what each slot has."""
    both = Both(partitions, STICKY)
    both.move(17)
    both.turn()
    both.wait(1_500_000)
    both.breaks(left, after=after)
    both.old()
    for step in told:
        both.tell(step)
    both.old()
    both.wait(700_000)
    both.old()


@pytest.mark.parametrize("after", [False, True], ids=["not taken", "taken"])
def test_every_write_of_a_compaction_may_be_the_last(after: bool) -> None:
    """The same events each time; the k-th fold after them breaks."""
    broken = 0
    for left in range(9):
        both = Both(3, STICKY)
        both.move(20)
        for which in range(30):
            both.reward(which, which % 3, ONE)
        both.turn()
        both.wait(1_500_000)
        both.breaks(left, after=after)
        both.old()
        both.move(1)
        both.wait(700_000)
        both.old()
        both.move(17)
        both.wait(1_500_000)
        both.old()
        both.wait(700_000)
        both.old()
        broken += both.worlds[1].store.left is None
        parts = both.parts
        assert [len(part.state.ledger.periods) for part in parts] == [len(parts[0].state.ledger.periods)] * 3
    assert broken == 9

"""An experiment in any number of partitions has the sums of one, bit for bit: whatever comes, wherever it breaks."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bandit.errors import CorruptStored
from bandit.ledger import ONE, Period
from bandit.linear.weights import SHARE_BYTES, marks_of
from bandit.log import CORRECT, RETRACT
from bandit.reward import Amendment, RewardRecord
from server.evidence import Evidence
from server.learner import Writer
from server.partitioned import Partitioned
from tests.partitions import Decided, Split, same, same_sums

ISSUERS = (1, 2, 3, 8)
STICKY: dict[str, Any] = {
    "metrics": [
        {"name": "satisfied", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1m",
         "corrections": True},
        {"name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0, 2], "attribution_window": "1m"},
        {"name": "clicked", "kind": "bernoulli", "direction": "maximize", "attribution_window": "2m"},
    ],
    "objective": [{"metric": "satisfied"}],
    "cohorts": {"attribute": "plan", "values": ["pro"]},
    "guardrails": [
        {"name": "dear", "kind": "harm", "metric": "cost", "method": "asymptotic"},
        {"name": "clicks", "kind": "rate_limit", "metric": "clicked", "limit": 0.9},
    ],
    "rewards_without_token": True,
}  # fmt: skip
LINEAR: dict[str, Any] = STICKY | {
    "unit": {"kind": "request", "mode": "request"},
    "allocator": {"kind": "lin_ts"},
    "features": [{"name": "tokens", "kind": "numeric", "low": 0, "high": 10}],
    "baseline": "stationary",
    "rewards_without_token": False,
    "guardrails": [{"name": "clicks", "kind": "rate_limit", "metric": "clicked", "limit": 0.9}],
}
SATISFIED, COST, CLICKED = range(3)

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


class Both:
    """The experiment in one ledger and in several; each step is told to both."""

    def __init__(self, partitions: int, changes: dict[str, Any]) -> None:
        self.worlds = [Split(1, changes), Split(partitions, changes)]
        self.linear = "features" in changes
        self.decided: list[Decided] = []
        self.sent: list[RewardRecord | Amendment] = []
        self.following = dict.fromkeys(ISSUERS, 0)

    @property
    def single(self) -> Evidence:
        """What judges read of the one ledger."""
        found = self.worlds[0].writer
        assert found is not None
        return found

    @property
    def several(self) -> Evidence:
        """What judges read of all partitions."""
        found = self.worlds[1].writer
        assert found is not None
        return found

    @property
    def parts(self) -> tuple[Writer, ...]:
        """The writers of the partitions."""
        assert isinstance(self.several, Partitioned)
        return self.several.parts

    def breaks(self, left: int, *, after: bool) -> None:
        """After so many folds of the partitions one breaks."""
        self.worlds[1].store.left, self.worlds[1].store.after = left, after

    def tell(self, step: tuple[Any, ...]) -> None:
        """One step."""
        getattr(self, step[0])(*step[1:])

    def serve(self, issuer: int, count: int) -> None:
        """Decisions of one issuer under the newest allocation."""
        world = self.worlds[0]
        newest, first = world.stored.allocation.number, self.following[issuer]
        fresh = [
            Decided(
                issuer, number, newest, (number + issuer) % 3, number % 2, world.now_ms, 1 + number * 7 % 64
            )
            for number in range(first, first + count)
        ]
        self.following[issuer] += count
        self.decided += fresh
        for each in self.worlds:
            each.serve(fresh)

    def reward(self, which: int, metric: int, q: int) -> None:
        """A reward of some decision."""
        if self.decided:
            self._send(self._record(self.decided[which % len(self.decided)], metric, q))

    def amend(self, which: int, operation: int, order: int) -> None:
        """A correction or retraction of some decision's value."""
        if self.decided:
            q = 0 if operation == RETRACT else ONE
            self._send(
                Amendment(
                    self._record(self.decided[which % len(self.decided)], SATISFIED, q), order, 0, operation
                )
            )

    def foreign(self, number: int, metric: int, q: int) -> None:
        """A reward without a token, where they are taken."""
        if self.linear:
            return
        at = self.worlds[0].now_ms - number * 100
        self._send(
            RewardRecord(0, 1, number * 0x9E3779B97F4A7C15 % 2**64, at, 0, q, 0, number % 3, metric, 3)
        )

    def again(self, which: int) -> None:
        """Something that was sent before."""
        if self.sent:
            self._send(self.sent[which % len(self.sent)])

    def move(self, count: int) -> None:
        """Other shares, so many times, and a decision of each issuer under each."""
        for _ in range(count):
            for issuer in ISSUERS:
                self.serve(issuer, 1)
            for world in self.worlds:
                now = world.stored.allocation
                world.move((now.shares_ppm[1], now.shares_ppm[2], now.shares_ppm[0]), now.centres)
            self.wait(500)

    def wait(self, ms: int) -> None:
        """Time passes."""
        for world in self.worlds:
            world.now_ms += ms

    def turn(self) -> None:
        """All is folded, and then the same."""
        self._turn(compact=False)

    def old(self) -> None:
        """Old periods are folded too."""
        self._turn(compact=True)

    def go_on(self, *, compact: bool = False) -> None:
        """All is folded; sums alone are compared, for repeats were counted on one side."""
        for world in self.worlds:
            world.surely(compact)
        same_sums(self.single, self.several)

    def _turn(self, *, compact: bool) -> None:
        for world in self.worlds:
            world.surely(compact)
        same(self.single, self.several)

    def _record(self, of: Decided, metric: int, q: int) -> RewardRecord:
        features = bytes([of.number % 200]) if self.linear and metric == SATISFIED else b""
        if self.linear:  # drawn evenly, whatever the allocation says
            features += marks_of((333_333,) * 3) + (333_333).to_bytes(SHARE_BYTES, "little")
        place = (
            of.issuer,
            1,
            of.number,
            of.issued_ms,
            of.allocation,
            q,
            of.cohort,
            of.arm,
            metric,
            of.bucket,
        )
        return RewardRecord(*place, features=features)

    def _send(self, made: RewardRecord | Amendment) -> None:
        self.sent.append(made)
        for world in self.worlds:
            world.reward(made)


@pytest.mark.parametrize("changes", [STICKY, LINEAR], ids=["sticky", "linear"])
@settings(max_examples=20)
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


@settings(max_examples=20)
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

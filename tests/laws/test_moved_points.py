"""Points that changed owner: a partition knows every one of them since it was laid out, and no others."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from bandit.ranges import MOST_MOVED, PPM, Ranges, contiguous, move
from bandit.rollout.state import Parting
from bandit.rollout.transitions import reallocate, roll_back
from tests.builders import NOW, running

PROBES = range(0, PPM, 997)


@st.composite
def shares(draw: st.DrawFn, arms: int = 3) -> tuple[int, ...]:
    cuts = sorted(draw(st.lists(st.integers(0, PPM), min_size=arms - 1, max_size=arms - 1)))
    return tuple(high - low for low, high in zip([0, *cuts], [*cuts, PPM], strict=True))


def is_moved(ranges: Ranges, point: int) -> bool:
    pairs = zip(ranges.moved[::2], ranges.moved[1::2], strict=True)
    return any(low <= point < high for low, high in pairs)


@given(st.lists(shares(), min_size=2, max_size=8))
def test_a_point_is_moved_when_its_owner_ever_changed(steps: list[tuple[int, ...]]) -> None:
    path = [contiguous(steps[0])]
    for each in steps[1:]:
        path.append(move(path[-1], each))
    last = path[-1]
    for point in PROBES:
        owners = {each.arm_at(point) for each in path}
        assert is_moved(last, point) == (len(owners) > 1)
    kept = [0] * 3
    for point in range(0, PPM, 10_007):
        if not is_moved(last, point):
            kept[last.arm_at(point)] += 1
    assert all(
        abs(have * 10_007 - want) < 10 * 10_007 for have, want in zip(kept, last.settled_ppm(), strict=True)
    )
    assert sum(last.settled_ppm()) == PPM - sum(
        high - low for low, high in zip(last.moved[::2], last.moved[1::2], strict=True)
    )
    assert last.settled().moved == ()


def test_of_very_many_stretches_too_many_points_count_as_moved_and_never_too_few() -> None:
    owned = [(low, low + 1000, low // 1000 % 2) for low in range(0, PPM, 1000)]
    checkered, plain = Ranges.of(2, owned[:1000]), contiguous((PPM, 0))
    after = plain.after(checkered)
    assert len(after.moved) == 2 * MOST_MOVED
    assert all(is_moved(after, point) for point in PROBES if checkered.arm_at(point) == 1)


@given(st.lists(shares(), min_size=2, max_size=5), shares())
def test_a_cohort_apart_moves_alone_and_carries_its_moves_home(
    steps: list[tuple[int, ...]], own: tuple[int, ...]
) -> None:
    experiment, allocation = running(steps[0], cohorts={"attribute": "plan", "values": ["free", "team"]})
    begun = allocation.ranges
    parted = reallocate(
        experiment, allocation, steps[1], (0.5, 0.5), "evidence", NOW, [Parting(2, own, 1, 0.95)]
    ).allocation
    assert parted.ranges == move(begun, steps[1])
    assert parted.apart_ppm == {2: own}
    assert parted.apart[0].ranges == move(begun, own), (
        "it begins where it was, and moves no more than it must"
    )
    path = [begun, parted.apart[0].ranges]
    home = reallocate(experiment, parted, steps[-1], (0.5, 0.5), "evidence", NOW).allocation
    assert home.apart == ()
    for point in PROBES:
        if len({each.arm_at(point) for each in [*path, home.ranges]}) > 1:
            assert is_moved(home.ranges, point), "its units met another arm there"


@given(shares(), shares())
def test_a_rolled_back_arm_has_nothing_in_any_cohort(joint: tuple[int, ...], own: tuple[int, ...]) -> None:
    experiment, allocation = running(joint, cohorts={"attribute": "plan", "values": ["free"]})
    parted = reallocate(
        experiment, allocation, joint, (0.5, 0.5), "evidence", NOW, [Parting(1, own, 1, 0.95)]
    ).allocation
    after = roll_back(experiment, parted, 2, actor="me", reason="", rollback_id="r", now_ms=NOW).allocation
    assert after.shares_ppm == (joint[0] + joint[2], joint[1], 0)
    assert after.apart_ppm == {1: (own[0] + own[2], own[1], 0)}


def test_what_the_first_allocation_by_evidence_moves_is_not_re_routed() -> None:
    experiment, allocation = running()
    assert allocation.ranges.moved == ()
    assert allocation.ranges.settled_ppm() == (400_000, 300_000, 300_000)
    later = reallocate(experiment, allocation, (500_000, 300_000, 200_000), (0.5, 0.5), "evidence", NOW)
    assert later.allocation.ranges.settled_ppm() == (400_000, 300_000, 200_000)

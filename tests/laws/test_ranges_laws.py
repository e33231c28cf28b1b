"""Owned ranges: a partition always, exactly the total variation moves, and nobody else."""

from __future__ import annotations

import random
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bandit.ranges import MAX_RANGES, PPM, Ranges, contiguous, move
from bandit.rng import hash_unit, point_ppm


@st.composite
def shares(draw: st.DrawFn, arms: int) -> tuple[int, ...]:
    weights = draw(st.lists(st.integers(0, 1000), min_size=arms, max_size=arms).filter(any))
    total = sum(weights)
    out = [weight * PPM // total for weight in weights]
    out[weights.index(max(weights))] += PPM - sum(out)
    return tuple(out)


def total_variation(a: tuple[int, ...], b: tuple[int, ...]) -> int:
    return sum(abs(x - y) for x, y in zip(a, b, strict=True)) // 2


def moved(before: Ranges, after: Ranges) -> int:
    edges = sorted(
        {edge for ranges in (before, after) for each in ranges.owned for edge in (each.low, each.high)}
    )
    return sum(high - low for low, high in pairwise(edges) if before.arm_at(low) != after.arm_at(low))


@given(st.data(), st.integers(1, 12))
def test_shares_are_what_was_asked_for_and_exactly_the_total_variation_moves(
    data: st.DataObject, arms: int
) -> None:
    ranges = contiguous(data.draw(shares(arms)))
    for _ in range(data.draw(st.integers(1, 6))):
        wanted = data.draw(shares(arms))
        after = move(ranges, wanted)
        assert after.shares_ppm() == wanted
        assert moved(ranges, after) == total_variation(ranges.shares_ppm(), wanted)
        ranges = after


@given(st.data())
def test_an_arm_without_a_share_owns_no_point(data: st.DataObject) -> None:
    wanted = data.draw(shares(5))
    after = move(contiguous(data.draw(shares(5))), wanted)
    owners = {each.arm for each in after.owned}
    assert owners == {arm for arm, share in enumerate(wanted) if share}


def test_edges_of_the_circle_belong_to_somebody() -> None:
    ranges = contiguous((1, PPM - 2, 1))
    assert [ranges.arm_at(point) for point in (0, 1, PPM - 2, PPM - 1)] == [0, 1, 1, 2]
    assert point_ppm(0) == 0
    assert point_ppm(2**64 - 1) == PPM - 1
    for extreme in (0x80000000, 0xFFFFFFFF, 0x8000000000000000, 0xFFFFFFFFFFFFFFFF):
        assert 0 <= point_ppm(extreme) < PPM


def test_documented_moves() -> None:
    before = contiguous((900_000, 50_000, 50_000))
    assert moved(before, move(before, (500_000, 300_000, 200_000))) == 400_000
    before = contiguous((400_000, 300_000, 200_000, 100_000))
    assert moved(before, move(before, (200_000, 400_000, 100_000, 300_000))) == 300_000


def test_many_moves_stay_few_ranges() -> None:
    chance = random.Random(5)
    ranges = contiguous((250_000,) * 4)
    for _ in range(2000):
        wanted = list(ranges.shares_ppm())
        giver, taker = chance.sample(range(4), 2)
        part = chance.randint(0, min(wanted[giver], 30_000))
        wanted[giver] -= part
        wanted[taker] += part
        ranges = move(ranges, wanted)
        assert len(ranges.owned) <= MAX_RANGES


@pytest.mark.parametrize("wrong", [(1, 2), (PPM, 1), (-1, PPM + 1), (PPM,)])
def test_wrong_shares_are_refused(wrong: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="shares"):
        move(contiguous((500_000, 500_000)), wrong)


@pytest.mark.parametrize(
    "wrong",
    [
        [(0, 10, 0)],
        [(0, PPM, 2)],
        [(1, PPM, 0)],
        [(0, 5, 0), (6, PPM, 1)],
        [(0, 5, 0), (5, 5, 1), (5, PPM, 0)],
    ],
)
def test_a_broken_partition_cannot_be_built(wrong: list[tuple[int, int, int]]) -> None:
    with pytest.raises(ValueError, match="range"):
        Ranges.of(2, wrong)


def test_experiments_assign_independently() -> None:
    """Two salts at 10 %: the overlap is 1 %, not 10 % (the same units are not always the canaries)."""
    first, second = b"a" * 16, b"b" * 16
    units = [f"user-{number}" for number in range(200_000)]
    a = [point_ppm(hash_unit(first, unit)) < 100_000 for unit in units]
    b = [point_ppm(hash_unit(second, unit)) < 100_000 for unit in units]
    both = sum(x and y for x, y in zip(a, b, strict=True)) / len(units)
    assert abs(both - 0.01) < 0.0013  # 6 standard errors


def test_a_gate_and_a_split_inside_it_are_independent() -> None:
    gate, split = b"g" * 16, b"s" * 16
    inside = [u for n in range(200_000) if point_ppm(hash_unit(gate, u := f"u{n}")) < 100_000]
    counts = [0] * 4
    for unit in inside:
        counts[point_ppm(hash_unit(split, unit)) // 250_000] += 1
    expected = len(inside) / 4
    chi_square = sum((count - expected) ** 2 / expected for count in counts)
    assert chi_square < 34.0  # 3 degrees of freedom: p = 2e-7


def test_fine_shares_are_served() -> None:
    """0.001 of a million units is 1,000; 1e-5 is ten; none is an error."""
    ranges = contiguous((PPM - 1010, 1000, 10))
    counts = [0, 0, 0]
    for number in range(1_000_000):
        counts[ranges.arm_at(point_ppm(hash_unit(b"fine-shares-salt", str(number))))] += 1
    assert abs(counts[1] - 1000) < 6 * 1000**0.5
    assert counts[2] <= 10 + 6 * 10**0.5


def test_a_shrinking_arm_gives_its_tail() -> None:
    after = move(contiguous((500_000, 500_000)), (400_000, 600_000))
    assert [tuple(each) for each in after.owned] == [(0, 400_000, 0), (400_000, PPM, 1)]
    back = move(after, (500_000, 500_000))
    assert [tuple(each) for each in back.owned] == [(0, 400_000, 0), (400_000, 900_000, 1), (900_000, PPM, 0)]
    again = move(back, (450_000, 550_000))
    assert again.owned[0] == (0, 400_000, 0)

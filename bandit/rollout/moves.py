"""From one allocation to the next: which ranges move, for all cohorts and for those that are apart; it asks nobody
whether they may."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from bandit.ranges import Range, Ranges, move
from bandit.rollout.state import Allocation, Apart, Experiment, Parting, all_to


def next_allocation(
    allocation: Allocation,
    shares_ppm: Sequence[int],
    now_ms: int,
    cause: str,
    apart: Sequence[Parting] = (),
) -> Allocation:
    """The next allocation. A cohort that parts begins with the ranges of all; one that joins them again may meet
    another arm wherever the two differ, so those points count as moved for everybody. Shares by features end: until the
    learner's next look every request has the shares of all."""
    before = {each.cohort: each.ranges for each in allocation.apart}
    going = {each.cohort for each in apart}
    joining = [ranges for cohort, ranges in before.items() if cohort not in going]
    return replace(
        allocation,
        number=allocation.number + 1,
        time_ms=max(now_ms, allocation.time_ms),
        ranges=move(allocation.ranges, shares_ppm).after(*joining),
        cause=cause,
        apart=tuple(
            Apart(
                each.cohort,
                move(before.get(each.cohort, allocation.ranges), each.shares_ppm),
                each.arm,
                each.chance,
            )
            for each in sorted(apart)
        ),
        linear=None,
    )


def next_in_each(
    allocation: Allocation, change: Callable[[Sequence[int]], Sequence[int]], now_ms: int, cause: str
) -> Allocation:
    """The next allocation: the same change of shares in cohorts that are apart as in all others."""
    apart = [
        Parting(each.cohort, tuple(change(each.ranges.shares_ppm())), each.arm, each.chance)
        for each in allocation.apart
    ]
    return next_allocation(allocation, change(allocation.shares_ppm), now_ms, cause, apart)


def to_control(experiment: Experiment, allocation: Allocation, now_ms: int, cause: str) -> Allocation:
    """Everything to the control, in every cohort."""
    return next_allocation(
        allocation, all_to(experiment.spec.control_index, len(experiment.arms)), now_ms, cause
    )


def carried(ranges: Ranges, kept: Mapping[int, int], control: int, arms: int) -> Ranges:
    """The same partition under new arm indexes; ranges of arms that are gone are spread over the arms kept.

    Arms that are still there keep every unit they have.
    """
    shares = [0] * arms
    gone = 0
    for arm, share in enumerate(ranges.shares_ppm()):
        if arm in kept:
            shares[kept[arm]] += share
        else:
            gone += share
    if gone:
        heirs = [index for index, share in enumerate(shares) if share] or [control]
        total = sum(shares)
        parts = [gone * shares[index] // total if total else gone for index in heirs]
        parts[0] += gone - sum(parts)
        for index, part in zip(heirs, parts, strict=True):
            shares[index] += part
    # An extra arm stands for everything that is gone; moving its share away keeps all others in place.
    merged: list[Range] = []
    for low, high, arm in ranges.owned:
        owner = kept.get(arm, arms)
        if merged and merged[-1].arm == owner:
            merged[-1] = Range(merged[-1].low, high, owner)
        else:
            merged.append(Range(low, high, owner))
    moved = move(Ranges.of(arms + 1, merged), (*shares, 0))
    return Ranges.of(arms, moved.owned)


def given_to(ranges: Ranges, arms: Sequence[int], control: int) -> Ranges:
    """The ranges after these arms gave all that they own to the control."""
    shares = list(ranges.shares_ppm())
    for arm in arms:
        if arm != control:
            shares[control] += shares[arm]
            shares[arm] = 0
    return move(ranges, shares)

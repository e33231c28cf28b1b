"""Units that remember their first arm: the plain effect is biased by those that were re-routed, the settled is not."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import pytest
from scipy import stats

from bandit.batch import place_of_bucket
from bandit.counting import layout_of
from bandit.inference.first_exposure import FirstExposure, first_exposures, settle_units, unit_terms
from bandit.inference.report import report_of
from bandit.ledger import BUCKETS, ONE, Cells, Period, bucket_of, fold_block, split_table
from bandit.ranges import PPM, contiguous, move
from bandit.spec.model import ExperimentSpec
from tests.builders import spec

LATE = 10**9
UNITS, ROWS = 1500, 8
RATES = (0.3, 0.4)


def of(**changes: Any) -> ExperimentSpec:
    metric = {"name": "ok", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1s"}
    return spec(
        arms=[{"name": "old", "control": True}, {"name": "new"}],
        metrics=[metric | changes],
        objective=[{"metric": "ok"}],
        unit={"kind": "user", "mode": "sticky"},
    )


class Told(NamedTuple):
    settled: FirstExposure
    plain: float
    plain_se: float
    periods: list[Period]


def release(made: ExperimentSpec, seed: int, *, carry: bool = True, effect: float = 0.1) -> Told:
    """Shares move from 10 to 80 per cent while the level of all rises; a unit decides twice in a period.

    With ``carry`` a unit goes on as the arm that it met first. Each unit has a level of its own.
    """
    chance = np.random.default_rng(seed)
    points, hashes = chance.integers(0, PPM, UNITS), chance.integers(0, 2**63, UNITS)
    own = chance.normal(0.0, 0.1, UNITS)
    ranges = contiguous((900_000, 100_000))
    first = np.full(UNITS, -1)
    periods = []
    for row in range(ROWS):
        share = 0.1 + 0.1 * row
        if row:
            ranges = move(ranges, (PPM - round(share * PPM), round(share * PPM)))
        arm = np.array([ranges.arm_at(int(point)) for point in points])
        first = np.where(first < 0, arm, first)
        moved = np.searchsorted(np.array(ranges.moved), points, side="right") % 2 == 1
        behaves = first if carry else arm
        rate = np.clip(0.2 + 0.04 * row + effect * behaves + own, 0.0, 1.0)
        cells = Cells.zeros(layout_of(made))
        assert cells.clusters is not None
        assert cells.visits is not None
        bucket = np.array([bucket_of(int(h), rerouted=bool(m)) for h, m in zip(hashes, moved, strict=True)])
        place = place_of_bucket(bucket.astype(np.uint8), layout_of(made))
        for _ in range(2):
            good = (chance.random(UNITS) < rate).astype(np.int64)
            for each in range(2):
                on = arm == each
                cells.exposures[0, each] += on.sum()
                cells.sums[0, each, 0, 0] += on.sum()
                cells.sums[0, each, 0, 1:3] += good[on].sum() * ONE
                np.add.at(cells.clusters[each, 0, :, 0], place[on], 1)
                np.add.at(cells.clusters[each, 0, :, 1], place[on], good[on] * ONE)
                np.add.at(cells.visits[each], place[on], 1)
        number = row + 1
        periods.append(
            Period(
                *(number, number, 1, row * 1000, row * 1000 + 1000),
                shares_ppm=ranges.shares_ppm(),
                centres=(0.3,),
                cells=cells,
            )
        )
    (settled,) = first_exposures(made, unit_terms(made, periods, LATE))
    found = (
        report_of(made, split_table(periods, layout_of(made)), [True, True], LATE).metrics[0].arms[1].effect
    )
    assert found is not None
    return Told(settled, found.interval.estimate, found.aipw_se, periods)


@pytest.mark.slow
def test_carry_over_biases_the_plain_effect_and_not_that_of_settled_units() -> None:
    """60 releases: the settled estimate within 3 standard errors of the effect, the plain one more than 10 off."""
    made = of()
    told = [release(made, seed) for seed in range(60)]
    settled = np.array([each.settled.estimate for each in told])
    plain = np.array([each.plain for each in told])
    assert abs(settled.mean() - 0.1) < 3 * settled.std() / np.sqrt(60)
    assert plain.mean() < 0.1 - 10 * plain.std() / np.sqrt(60)
    covered = sum(each.settled.low < 0.1 < each.settled.high for each in told)
    assert covered >= int(stats.binom.ppf(1e-6, 60, 0.95))
    assert np.mean([each.settled.se for each in told]) == pytest.approx(settled.std(), rel=0.25)


def test_without_carry_over_both_tell_the_same() -> None:
    told = [release(of(), seed, carry=False) for seed in range(20)]
    for values in ([each.settled.estimate for each in told], [each.plain for each in told]):
        assert abs(np.mean(values) - 0.1) < 4 * np.std(values) / np.sqrt(20)


def test_it_is_the_difference_of_means_within_periods_weighed_by_overlap() -> None:
    """A slow twin: means of settled units of each period, weights n_1 n_0 / (n_1 + n_0)."""
    told = release(of(), 2)
    scores = weights = 0.0
    for period in told.periods:
        assert period.cells.clusters is not None
        (n0, s0), (n1, s1) = period.cells.clusters[:, 0, :BUCKETS].sum(axis=1).tolist()
        weight = n0 * n1 / (n0 + n1)
        scores += weight * (s1 / n1 - s0 / n0) / ONE
        weights += weight
    assert told.settled.estimate == pytest.approx(scores / weights, rel=1e-12)


def test_a_block_keeps_what_its_periods_told() -> None:
    made = of()
    periods = release(made, 1).periods
    whole = unit_terms(made, periods, LATE)
    block = fold_block(periods[:5], units=settle_units(made, periods[:5]))
    assert block.units is not None
    assert unit_terms(made, [block, *periods[5:]], LATE) == pytest.approx(whole, rel=1e-12, abs=1e-12)
    twice = fold_block([block, *periods[5:7]], units=settle_units(made, [block, *periods[5:7]]))
    assert unit_terms(made, [twice, periods[7]], LATE) == pytest.approx(whole, rel=1e-12, abs=1e-12)


def test_silence_that_has_a_value_counts_once_the_window_is_closed() -> None:
    """Rewards of failures alone, silence is success: the same effect as with all rewards."""
    made, silent = of(), of(default_when_silent=1.0)
    every = release(made, 3).periods
    for period in every:
        cells = period.cells
        assert cells.clusters is not None
        cells.clusters[..., 0] -= cells.clusters[..., 1] // ONE
        cells.clusters[..., 1] = 0
    (told,) = first_exposures(silent, unit_terms(silent, every, LATE))
    assert told.estimate == pytest.approx(release(made, 3).settled.estimate, abs=1e-12)
    assert not unit_terms(silent, every, 1000).any(), "no window is closed yet"


def test_periods_with_a_cohort_apart_are_left_out() -> None:
    """Buckets add up the cohorts, so where these have other shares a cohort's level would pass for an arm's."""
    made = of()
    periods = release(made, 1).periods
    for period in periods[3:]:
        period.apart_ppm = {1: (500_000, 500_000)}
    assert unit_terms(made, periods, LATE) == pytest.approx(unit_terms(made, periods[:3], LATE))


def test_few_buckets_give_no_interval_and_no_units_no_estimate() -> None:
    made = of()
    terms = np.zeros((1, 1, BUCKETS, 2))
    assert first_exposures(made, terms) == ()
    terms[0, 0, :10] = (0.5, 2.0)
    (told,) = first_exposures(made, terms)
    assert told.estimate == 0.25
    assert np.isnan([told.se, told.low, told.high]).all()
    assert settle_units(spec(unit={"kind": "user", "mode": "epoch"}), []) is None

"""Design effects against values drawn unit by unit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from bandit.baselines import BASELINES
from bandit.baselines.base import evidence_of
from bandit.clusters import design_effects
from bandit.ledger import BUCKETS, ONE, Clusters, PeriodTable
from bandit.spec.model import ExperimentSpec
from tests.builders import spec
from tests.evidence import beliefs_from, periods

LATE = 10**9


def made_of(**changes: Any) -> ExperimentSpec:
    metric = {"name": "m", "kind": "bernoulli", "direction": "maximize", "attribution_window": "1s"} | changes
    arms = [{"name": "a", "control": True}, {"name": "b"}]
    return spec(arms=arms, metrics=[metric], objective=[{"metric": "m"}])


def drawn(made: ExperimentSpec, values: Any, assigned: int = 0) -> tuple[PeriodTable, Any]:
    """One period of two arms and its clusters from [2, units, values of a unit]; units fall into buckets at random."""
    chance = np.random.default_rng(0)
    clusters = np.zeros((2, 1, BUCKETS, 2), np.int64)
    for arm in range(2):
        bucket = chance.integers(0, BUCKETS, values.shape[1])
        answered = ~np.isnan(values[arm])
        np.add.at(clusters[arm, 0, :, 0], bucket, answered.sum(axis=1))
        np.add.at(
            clusters[arm, 0, :, 1], bucket, np.round(np.nansum(values[arm], axis=1) * ONE).astype(np.int64)
        )
    n, s1, s2 = (
        np.nansum(each, axis=(1, 2))[None, :, None]
        for each in (np.where(np.isnan(values), np.nan, 1.0), values, values**2)
    )
    exposed = None if not assigned else np.full((1, 2), float(assigned))
    visits = clusters[:, 0, :, 0].copy()
    return periods(made, n, s1, s2, assigned=exposed), Clusters(clusters, visits, np.zeros(2, np.int64))


def test_independent_values_have_no_effect() -> None:
    made = made_of()
    values = (np.random.default_rng(1).random((2, 200_000, 1)) < 0.2).astype(np.float64)
    rows, clusters = drawn(made, values)
    assert design_effects(made, clusters, rows)[0] < 1.6  # 1 but for 64 buckets: sd 0.13


@pytest.mark.parametrize("rate", [0.02, 0.5])
def test_twenty_equal_values_of_a_unit_count_as_one(rate: float) -> None:
    made = made_of()
    one = (np.random.default_rng(2).random((2, 20_000, 1)) < rate).astype(np.float64)
    rows, clusters = drawn(made, np.repeat(one, 20, axis=2))
    effect = float(design_effects(made, clusters, rows)[0])
    assert 20 * 0.4 < effect < 20 * 1.7
    plain = beliefs_from(made, rows, LATE)[0]
    told = evidence_of(made, rows, LATE, clusters)
    for name in BASELINES:
        other = made.model_copy(update={"baseline": name})
        apart = BASELINES[name].beliefs(replace(told, spec=other))[0]
        bare = BASELINES[name].beliefs(replace(evidence_of(other, rows, LATE), spec=other))[0]
        assert apart.sd[1] == pytest.approx(bare.sd[1] * np.sqrt(effect), rel=0.05)
        assert apart.mean == pytest.approx(bare.mean, abs=1e-2)
    assert plain.sd[1] < 0.5 * BASELINES[made.baseline].beliefs(told)[0].sd[1]


def test_where_silence_has_a_value_only_what_arrived_is_known() -> None:
    """A tenth of the units convert; each of their ten decisions brings a reward, all others are silent."""
    made = made_of(default_when_silent=0)
    one = (np.random.default_rng(3).random((2, 30_000, 1)) < 0.1).astype(np.float64)
    values = np.repeat(np.where(one > 0, 1.0, np.nan), 10, axis=2)
    rows, clusters = drawn(made, values, assigned=300_000)
    assert 10 * 0.4 < design_effects(made, clusters, rows)[0] < 10 * 1.7


def test_units_more_even_than_chance_make_no_evidence_stronger() -> None:
    """An effect below 1 would count each value for more than it is; here every bucket has the same mean."""
    made = made_of()
    clusters = np.zeros((2, 1, BUCKETS, 2), np.int64)
    clusters[..., 0], clusters[..., 1] = 100, 30 * ONE
    n = np.full((1, 2, 1), 100.0 * BUCKETS)
    even = Clusters(clusters, clusters[:, 0, :, 0].copy(), np.zeros(2, np.int64))
    assert design_effects(made, even, periods(made, n, 0.3 * n)).tolist() == [1.0]


def test_few_values_and_no_clusters_say_nothing() -> None:
    made = made_of()
    rows, clusters = drawn(made, np.ones((2, 30, 1)))
    assert design_effects(made, clusters, rows).tolist() == [1.0]
    assert design_effects(made, None, rows).tolist() == [1.0]
    same, clusters = drawn(made, np.ones((2, 3000, 1)))
    assert design_effects(made, clusters, same).tolist() == [1.0], "values that never vary"

"""Every kind of metric under the baseline of contrasts: the level moves with the shares, the better arm is found."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from bandit.allocate import propose
from bandit.baselines import BASELINES
from bandit.baselines.base import evidence_of
from bandit.spec.channels import ChannelKind, log_scale
from bandit.spec.model import ExperimentSpec
from tests.builders import spec
from tests.evidence import beliefs_from, periods

LATE = 10**9
ROWS, EACH = 24, 300
RATIO_PARTS = [
    {"name": "tokens", "kind": "gaussian", "direction": "minimize", "range": [0, 4000]},
    {"name": "answers", "kind": "gaussian", "direction": "maximize", "range": [0, 40]},
]
KINDS: dict[str, dict[str, Any]] = {
    "bernoulli": {},
    "fraction": {},
    "gaussian": {"range": [0, 40]},
    "poisson": {"range": [0, 40]},
    "exponential": {"range": [0, 40]},
    "lognormal": {"range": [0, 400]},
    "revenue": {"range": [0, 400], "winsorize": 100},
    "rating": {"levels": [1, 2, 3, 4, 5], "scores": [1, 1, 2, 3, 5]},
    "ratio": {"numerator": "tokens", "denominator": "answers", "range": [0, 1000]},
}


def made_of(kind: str, baseline: str, direction: str = "maximize") -> ExperimentSpec:
    """Two arms and one metric, with the parts of a ratio."""
    metric = {"name": "m", "kind": kind, "direction": direction} | KINDS[kind]
    parts = RATIO_PARTS if kind == "ratio" else []
    arms = [{"name": "a", "control": True}, {"name": "b"}]
    bounds = {"floor": 0.01, "control_floor": 0.01}
    return spec(
        arms=arms, metrics=[metric, *parts], objective=[{"metric": "m"}], bounds=bounds, baseline=baseline
    )


def values(kind: str, level: float, chance: np.random.Generator, n: int) -> Any:
    """n values of a kind whose mean grows with the level in (0, 1); for a ratio two rows."""
    if kind == "bernoulli":
        return (chance.random(n) < level).astype(np.float64)
    if kind == "fraction":
        return chance.beta(8 * level, 8 * (1 - level), n)
    if kind == "gaussian":
        return np.clip(20 * level + chance.standard_normal(n), 0, 40)
    if kind == "poisson":
        return np.minimum(chance.poisson(10 * level, n), 40).astype(np.float64)
    if kind == "exponential":
        return np.minimum(chance.exponential(5 * level, n), 40)
    if kind == "lognormal":
        return np.clip(np.exp(np.log(10 * level) + 0.8 * chance.standard_normal(n)), 1e-3, 400)
    if kind == "revenue":
        paid = chance.random(n) < 0.5
        return np.where(
            paid, np.clip(np.exp(np.log(30 * level) + 0.5 * chance.standard_normal(n)), 0, 100), 0.0
        )
    if kind == "rating":
        return np.clip(np.round(1 + 4 * level + chance.standard_normal(n)), 1, 5)
    answers = np.clip(10 + 2 * chance.standard_normal(n), 1, 40)
    return np.stack([np.clip(answers * 200 * level + 20 * chance.standard_normal(n), 0, 4000), answers])


def sums(made: ExperimentSpec, raw: Any) -> Any:
    """(n, s1, s2) [C] of one cell."""
    out = np.zeros((3, len(made.columns)))
    rows = {0: raw} if made.metrics[0].kind != "ratio" else {1: raw[0], 2: raw[1]}

    def scaled(metric: int) -> Any:
        low, high = made.metrics[metric].scale
        return (np.minimum(rows[metric], high) - low) / (high - low)

    for channel, at in made.columns.items():
        if channel.metric not in rows:
            continue
        x = scaled(channel.metric)
        if channel.kind is ChannelKind.LOG:
            low, high = log_scale(made.metrics[channel.metric])
            paid = rows[channel.metric][rows[channel.metric] > 0]
            x = (np.log(np.minimum(paid, made.metrics[channel.metric].scale[1])) - low) / (high - low)
        elif channel.kind is ChannelKind.LEVEL:
            x = (rows[channel.metric] == made.metrics[channel.metric].levels[channel.place]).astype(
                np.float64
            )
        elif channel.kind is ChannelKind.PAIR:
            x = x * scaled(channel.other)
        out[:, at] = len(x), x.sum(), (x * x).sum()
    return out


def drawn(made: ExperimentSpec, lift: float, seed: int) -> Any:
    """Periods in which the level rises from 0.2 to 0.6 while the second arm's share rises from 5 to 95 %."""
    chance = np.random.default_rng(seed)
    cells = np.zeros((3, ROWS, 2, len(made.columns)))
    for row in range(ROWS):
        level, share = 0.2 + 0.4 * row / ROWS, 0.05 + 0.9 * row / (ROWS - 1)
        for arm, n in enumerate((round(EACH * (1 - share)), round(EACH * share))):
            raw = values(str(made.metrics[0].kind), level * (lift if arm else 1.0), chance, max(n, 1))
            cells[:, row, arm] = sums(made, raw)
    counts, first, second = cells
    return periods(made, counts, first, second, np.maximum(counts[:, :, -1], 1.0), 0.4)


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("baseline", ["contrast", "stratified"])
def test_equal_arms_stay_equal_while_the_level_moves(kind: str, baseline: str) -> None:
    """The difference, in its own standard errors, over 30 draws: about normal, never the level's."""
    made = made_of(kind, baseline)
    z = []
    for seed in range(30):
        belief = beliefs_from(made, drawn(made, 1.0, seed), LATE)[0]
        z.append((belief.mean[1] - belief.mean[0]) / np.hypot(*belief.sd))
    # Levels that multiply leave a log-normal mean's difference between the first and the last level: small.
    assert abs(np.mean(z)) < 5 / np.sqrt(30)
    assert np.std(z) < 1.8


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("direction", ["maximize", "minimize"])
@pytest.mark.parametrize("baseline", list(BASELINES))
def test_the_arm_that_is_better_by_a_fifth_is_found(kind: str, direction: str, baseline: str) -> None:
    made = made_of(kind, baseline, direction)
    lift = 1.25 if direction == "maximize" else 0.8
    live = np.ones(2, np.bool_)
    for seed in range(3):
        evidence = evidence_of(made, drawn(made, lift, seed), LATE)
        got = propose(made, evidence, live, [None, None], None, 0.0, 100.0)
        if baseline == "stationary" and direction == "minimize":
            assert got.p_best[1] < 0.5, "pooled, the arm of the later and higher level looks worse"
        else:
            assert got.p_best[1] > 0.98


def test_what_a_level_is_worth_can_change_later() -> None:
    """The same counts: more of the top level wins when only that counts, fewer of the lowest when all count."""
    counts = {"a": [30.0, 0, 0, 0, 70.0], "b": [0.0, 0, 0, 90.0, 10.0]}
    for scores, best in (([1, 1, 1, 1, 5], 0), ([1, 2, 3, 4, 4.01], 1)):
        made = spec(
            arms=[{"name": "a", "control": True}, {"name": "b"}],
            metrics=[
                {
                    "name": "m",
                    "kind": "rating",
                    "direction": "maximize",
                    "levels": [1, 2, 3, 4, 5],
                    "scores": scores,
                }
            ],
            objective=[{"metric": "m"}],
        )
        n, s1, s2 = (np.zeros((1, 2, len(made.columns))) for _ in range(3))
        for arm, levels in enumerate(counts.values()):
            x = np.repeat([0, 0.25, 0.5, 0.75, 1.0], [round(each) for each in levels])
            n[0, arm], s1[0, arm, 0], s2[0, arm, 0] = 100, x.sum(), (x * x).sum()
            for channel, at in made.columns.items():
                if channel.kind is ChannelKind.LEVEL:
                    s1[0, arm, at] = s2[0, arm, at] = levels[channel.place]
        belief = beliefs_from(made, periods(made, n, s1, s2), LATE)[0]
        assert int(np.argmax(belief.mean)) == best

"""Readings against golden values: decay by age, and rates of decisions that are pending."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.delays import DelayCurve
from bandit.ledger import decay_weights
from bandit.reading import counted
from bandit.spec.channels import EARLY_PARTS, Channel, ChannelKind
from tests.builders import spec
from tests.evidence import periods

GOLDEN = Path(__file__).parents[1] / "golden"
DECAY: dict[str, Any] = json.loads((GOLDEN / "forward_decay.json").read_text())
DELAY: dict[str, Any] = json.loads((GOLDEN / "posteriors.json").read_text())["delay_exposure"]


@pytest.mark.parametrize("case", DECAY["cases"], ids=lambda each: f"{each['tau']}-{each['now']}")
def test_decay_by_age_is_forward_decay_for_every_landmark(case: dict[str, Any]) -> None:
    """Each event in a period of its own of no length; the longest tau over an age overflows no power here."""
    made = spec()
    times, values = (np.array(each) for each in zip(*DECAY["events"], strict=True))
    n = np.ones((len(times), 3, 1))
    at = np.round(times * 1000).astype(np.int64)
    rows = replace(periods(made, n, n * values[:, None, None]), start_ms=at, end_ms=np.maximum(at, 1))
    half_life = case["tau"] * math.log(2)
    now_ms = round(case["now"] * 1000)
    weights = decay_weights(rows, half_life, now_ms)
    grown = math.exp(-(case["now"] - max(times)) / case["tau"])
    assert weights.sum() == pytest.approx(float(case["sum_w"]), rel=2e-4)
    assert weights @ values == pytest.approx(float(case["sum_wx"]), rel=2e-4)
    assert weights @ values / weights.sum() == pytest.approx(float(case["mean"]), rel=4e-4)
    assert (weights**2).sum() == pytest.approx(float(case["sum_w2"]), rel=4e-4)
    assert weights.sum() ** 2 / (weights**2).sum() == pytest.approx(float(case["n_eff"]), rel=4e-4)
    assert weights.max() == pytest.approx(grown, rel=2e-4)


@pytest.mark.parametrize(
    "row", DECAY["poisson_arrivals_steady_state"], ids=lambda row: f"{row['rate_per_s']}"
)
def test_steady_traffic_weighs_as_much_as_its_rate_times_tau(row: dict[str, Any]) -> None:
    """Forty tau of traffic in periods of a hundredth of tau each, at its mean rate."""
    made, each = spec(), row["tau_s"] / 100
    n = np.full((4000, 3, 1), row["rate_per_s"] * each)
    start = np.round(np.arange(4000) * each * 1000).astype(np.int64)
    end = np.round(np.arange(1, 4001) * each * 1000).astype(np.int64)
    rows = replace(periods(made, n, n), start_ms=start, end_ms=end)
    weights = decay_weights(rows, row["tau_s"] * math.log(2), int(end[-1]))
    count = n[:, 0, 0]
    assert weights @ count == pytest.approx(row["sum_w"], rel=1e-4)
    assert weights**2 @ count == pytest.approx(row["sum_w2"], rel=1e-4)
    assert (weights @ count) ** 2 / (weights**2 @ count) == pytest.approx(row["n_eff"], rel=1e-4)


@pytest.mark.parametrize(
    "row", DECAY["bucketed_decay_weight_error"], ids=lambda row: f"{row['bucket_over_tau']}"
)
def test_a_period_taken_at_its_middle_is_wrong_by_as_much_as_it_is_long(row: dict[str, Any]) -> None:
    made = spec()
    tau_ms = 10**9
    length = round(row["bucket_over_tau"] * tau_ms)
    rows = replace(
        periods(made, np.ones((1, 3, 1)), np.ones((1, 3, 1))),
        start_ms=np.array([0], np.int64),
        end_ms=np.array([length], np.int64),
    )
    taken = float(decay_weights(rows, tau_ms / 1000 * math.log(2), length)[0])
    oldest = math.exp(-length / tau_ms)
    assert taken / oldest - 1 == pytest.approx(float(row["worst_weight_error_mid_bucket"]), rel=1e-9)


@pytest.mark.parametrize("answered", [(1.0, 1.0), (0.5, 1.0), (1.0, 0.3), (0.6, 0.5), (0.0, 0.7), (0.0, 0.0)])
def test_cross_moments_count_what_silence_means(answered: tuple[float, float]) -> None:
    """Against the sum over single decisions, of which some answered one metric, some both, some neither."""
    silent = 0.75, 0.5
    made = spec(
        metrics=[
            {"name": name, "kind": "gaussian", "direction": "maximize", "attribution_window": "1s"}
            | {"default_when_silent": value}
            for name, value in zip("ab", silent, strict=True)
        ],
        objective=[{"metric": "a"}, {"metric": "b"}],
    )
    chance = np.random.default_rng(3)
    count = 200_000
    common = chance.random(count)
    values = np.stack([0.5 * common + 0.5 * chance.random(count), common])
    told = chance.random((2, count)) < np.array(answered)[:, None]
    whole = np.where(told, values, np.array(silent)[:, None])
    n, s1, s2 = np.zeros((3, 1, 3, len(made.columns)))
    pair = Channel(ChannelKind.PAIR, 0, other=1)
    channels = {
        Channel(ChannelKind.VALUE, 0): (told[0], values[0]),
        Channel(ChannelKind.VALUE, 1): (told[1], values[1]),
    }
    for channel, (seen, x) in (channels | {pair: (told.all(axis=0), values.prod(axis=0))}).items():
        at = made.columns[channel]
        n[:, :, at], s1[:, :, at], s2[:, :, at] = seen.sum(), (seen * x).sum(), (seen * x * x).sum()
    rows = periods(made, n, s1, s2, assigned=np.full((1, 3), float(count)))
    found = counted(rows, made, pair, 10**9)
    assert found.n.tolist() == [[count] * 3]
    # Exact when one of the two always answers or never does; else up to chance in who did.
    assert found.s1[0] / count == pytest.approx([float((whole[0] * whole[1]).mean())] * 3, abs=0.003)


def test_pending_decisions_by_the_golden_delay_curve() -> None:
    """Four periods of 100 decisions at the ages at which the curve has the golden values; the last one is mature."""
    made = spec(
        metrics=[
            {
                "name": "m",
                "kind": "bernoulli",
                "direction": "maximize",
                "attribution_window": "1h",
                "default_when_silent": 0,
            }
        ],
        objective=[{"metric": "m"}],
    )
    buckets = DELAY["buckets"]
    parts = np.array(EARLY_PARTS)
    # The golden values of F lie at these parts of the window; a period is as young as its decisions all are.
    places, found = (4, 8, 11), [float(each["F"]) for each in buckets]
    curve = np.interp(parts, parts[list(places)], found[:3])
    curve[-1] = 1.0
    known = DelayCurve(np.tile(np.concatenate([[0.0], curve]), (3, 1)), np.zeros(3))
    now = 10 * 3_600_000
    decided = np.array([now - round(parts[place] * 3_600_000) for place in places] + [now - 2 * 3_600_000])
    assert [each["n"] for each in buckets] == [100] * 4
    converted = np.array([each["conversions"] for each in buckets], np.float64)
    n = np.zeros((4, 3, len(made.columns)))
    n[:, :, :] = converted[:, None, None]
    rows = replace(
        periods(made, n, n, assigned=np.full((4, 3), 100.0)),
        start_ms=decided.astype(np.int64),
        end_ms=decided.astype(np.int64),
    )
    cells = counted(rows, made, Channel(ChannelKind.VALUE, 0), now, {0: known})
    assert cells.n.sum(axis=0) == pytest.approx([float(DELAY["exposure"])] * 3, rel=1e-9)
    rate = cells.s1.sum(axis=0) / cells.n.sum(axis=0)
    assert rate == pytest.approx([float(DELAY["estimate"])] * 3, rel=1e-9)
    assert float(converted.sum()) / 400 == pytest.approx(float(DELAY["naive"]))

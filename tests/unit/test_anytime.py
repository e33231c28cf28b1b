"""Intervals for display against 40-digit values, and at the edges."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from bandit.kernels.anytime import (
    asymptotic_half_width,
    asymptotic_rho2,
    log_rate_ratio,
    quantile_ranks,
    rate_interval,
)
from bandit.kernels.confseq import log_overlap_e
from bandit.kernels.overlap import ODDS, TOTAL, VARIANCE, add_ipw, add_scores
from bandit.kernels.signals import TILTS, log_sample_ratio

GOLDEN = Path(__file__).parents[1] / "golden"
SEQUENCES: dict[str, Any] = json.loads((GOLDEN / "confidence_sequences.json").read_text())


@pytest.mark.parametrize("row", SEQUENCES["bernoulli_prior_posterior_ratio"]["rows"])
@pytest.mark.parametrize(("prior", "a"), [("jeffreys", 0.5), ("uniform", 1.0)])
def test_rates_not_refuted_equal_their_golden_values(row: dict[str, Any], prior: str, a: float) -> None:
    low, high = rate_interval(float(row["successes"]), float(row["n"]), a, a, -math.log(row["alpha"]))
    assert (low, high) == pytest.approx([float(end) for end in row[prior]], abs=1e-11)


@pytest.mark.parametrize("row", SEQUENCES["bernoulli_one_sided_e"]["rows"])
def test_both_sides_of_a_rate_make_its_ratio(row: dict[str, Any]) -> None:
    # Prior over posterior is the mean of its two halves, weighed by the prior's mass on each side of p0.
    s, n, p = float(row["successes"]), float(row["n"]), float(row["p0"])
    above = 1.0 - 2.0 / math.pi * math.asin(math.sqrt(p))
    both = above * math.exp(float(row["ln_e_above"])) + (1 - above) * math.exp(float(row["ln_e_below"]))
    assert log_rate_ratio(s, n, p, 0.5, 0.5) == pytest.approx(math.log(both), abs=1e-8)


@pytest.mark.parametrize("row", SEQUENCES["quantile_rank_cs"]["rows"])
def test_ranks_equal_their_golden_values(row: dict[str, Any]) -> None:
    a, b = row["prior"]
    low, high = quantile_ranks(float(row["n"]), row["p"], a, b, -math.log(row["alpha"]))
    assert (low, high) == (row["count_le_lo"], row["count_le_hi"])
    assert (low, high + 1) == (row["lower_quantile_order_stat"], row["upper_quantile_order_stat"])


@pytest.mark.parametrize("row", SEQUENCES["asymptotic_cs"]["rows"])
@pytest.mark.parametrize("side", ["two", "one"])
def test_asymptotic_widths_equal_their_golden_values(row: dict[str, Any], side: str) -> None:
    two = side == "two"
    rho2 = asymptotic_rho2(row["alpha"], float(row["t_star"]), two)
    assert rho2 == pytest.approx(float(row[f"rho2_{side}"]), rel=1e-12)
    width = asymptotic_half_width(float(row["n"]), row["sd"], row["alpha"], rho2, two)
    assert width == pytest.approx(float(row[f"halfwidth_{side}"]), rel=1e-12)


@pytest.mark.parametrize("row", SEQUENCES["srm_tilt_e"]["rows"])
def test_sample_ratio_equals_its_golden_values(row: dict[str, Any]) -> None:
    arms = len(row["probs"][0])
    assert row["tilts"] == [[arm, tilt] for arm in range(arms) for tilt in TILTS]
    found = log_sample_ratio(np.array(row["counts"], float), np.array(row["probs"], float))
    assert found == pytest.approx(float(row["ln_e"]), abs=1e-8)


def test_inverse_propensity_scores_equal_their_golden_values() -> None:
    golden = json.loads((GOLDEN / "eb_ipw.json").read_text())
    sums = np.zeros(2)
    before = (0.0, 0.0, 0.0)
    for epoch in golden["epochs"]:
        n, x1, x0 = float(epoch["N"]), float(epoch["x1"]), float(epoch["x0"])
        add_ipw(sums, float(epoch["w"]), n, x1, x0, float(epoch["centre"]))
        before = (n, x1, x0)
        assert sums == pytest.approx([float(epoch["S"]), float(epoch["V"])], rel=1e-12)
        log_e = log_overlap_e(sums[0], sums[1], float(golden["rho"]), float(golden["c"]))
        assert log_e == pytest.approx(float(epoch["ln_e"]), abs=1e-8)
    assert before[0] == 4000


def test_overlap_scores_of_a_period_add_up_to_the_golden_sums() -> None:
    # Golden scores take the arm's share for its part and never shrink; by counts and centres both are so in the first
    # period of each row alone. For others ours are others, on purpose; `test_watch_twins` has their slow twin.
    golden = json.loads((GOLDEN / "eb_overlap.json").read_text())
    checked = 0
    for row in golden["rows"]:
        margin = float(row["relative_margin_r"])
        total = variance = 0.0
        for epoch in row["epochs"]:
            w, m = float(epoch["w"]), float(epoch["m"])
            n1, n0 = float(epoch["n1"]), float(epoch["n0"])
            step_total, step_variance = float(epoch["S"]) - total, float(epoch["V"]) - variance
            total, variance = float(epoch["S"]), float(epoch["V"])
            if n1 / (n1 + n0) != w or max((1 - w) * m, w * (1 - m)) > 0.1:
                continue
            scores = np.zeros(ODDS + 12)
            sums = (float(epoch[key]) for key in ("s1", "ss1", "s0", "ss0"))
            s1, ss1, s0, ss0 = sums
            add_scores(scores, n1, s1, ss1, n0, s0, ss0, m, margin)
            assert (scores[TOTAL], scores[VARIANCE]) == pytest.approx((step_total, step_variance), rel=1e-10)
            checked += 1
    assert checked == 2


@pytest.mark.parametrize("n", [0.0, 1.0, 1e6, 1e12])
def test_intervals_are_in_order_for_any_sums(n: float) -> None:
    for bad in {0.0, min(n, 1.0), n / 3, n}:
        low, high = rate_interval(bad, n, 0.5, 0.5, 3.0)
        assert 0.0 <= low <= (bad / n if n else 0.5) <= high <= 1.0
    least, most = quantile_ranks(n, 0.99, 0.99, 0.01, 4.6)
    assert 0.0 <= least <= n * 0.99 + 1 <= most + 2 <= n + 2

"""Slow twins of what guardrails add up per period: whole tables at once in numpy, or written out in plain Python."""

from __future__ import annotations

import math

import numpy as np
import pytest

from bandit.kernels import watch, weigh
from bandit.kernels.overlap import SCORES
from bandit.kernels.signals import REACH, TILTS
from bandit.ledger import FloatArray

RATIOS = np.array([1.2, 1.5, 2.0, 3.0, 6.0, 20.0])
LEAST = 0.1


def table(seed: int, periods: int = 60, edges: int = 0) -> FloatArray:
    """Random rows: some arms without share, some without outcomes."""
    rng = np.random.default_rng(seed)
    rows = np.zeros((periods, watch.EDGES + 2 * edges))
    rows[:, watch.NUMBER] = np.arange(1, periods + 1)
    for share, n, bad, square, cube, below, below_square, top, bottom in (
        (
            watch.SHARE,
            watch.COUNT,
            watch.BAD,
            watch.SQUARE,
            watch.CUBE,
            watch.BELOW,
            watch.BELOW_SQUARE,
            watch.TOP,
            watch.BOTTOM,
        ),
        (
            watch.SHARE_0,
            watch.COUNT_0,
            watch.BAD_0,
            watch.SQUARE_0,
            watch.CUBE_0,
            watch.BELOW_0,
            watch.BELOW_SQUARE_0,
            watch.TOP_0,
            watch.BOTTOM_0,
        ),
    ):
        rows[:, share] = rng.uniform(0.05, 0.5, periods) * (rng.random(periods) < 0.9)
        counts = rng.integers(0, 60, periods) * (rng.random(periods) < 0.9)
        rows[:, n] = counts
        for e, count in enumerate(counts):
            x, d = rng.beta(1, 6, count), rng.beta(2, 3, count)
            rows[e, [bad, square, cube]] = x.sum(), (x * x).sum(), (x * d).sum()
            rows[e, [below, below_square, top, bottom]] = d.sum(), (d * d).sum(), 3 * x.sum(), count
    rows[:, watch.ASSIGNED] = rows[:, watch.COUNT] + rng.integers(0, 30, periods)
    rows[:, watch.ASSIGNED_0] = rows[:, watch.COUNT_0] + rng.integers(0, 30, periods)
    rows[:, watch.ASSIGNED_ALL] = (
        rows[:, watch.ASSIGNED] + rows[:, watch.ASSIGNED_0] + rng.integers(0, 9, periods)
    )
    rows[:, watch.ARRIVED], rows[:, watch.ARRIVED_0] = rows[:, watch.COUNT], rows[:, watch.COUNT_0]
    rows[:, watch.CENTRE] = rng.uniform(0, 1, periods) * (rng.random(periods) < 0.9)
    rows[:, watch.SHOWN_CENTRE] = 3 * rows[:, watch.CENTRE]
    for first, of in ((watch.EDGES, watch.COUNT), (watch.EDGES + edges, watch.COUNT_0)):
        left = rows[:, of].astype(int)
        for j in range(edges):
            left = rng.binomial(left, 0.7)
            rows[:, first + j] = left
    return rows


def added(code: int, params: list[float], rows: FloatArray) -> FloatArray:
    sums = np.zeros(watch.COLUMNS)
    watch.add_rows(code, np.array([*params, *[0.0] * (4 - len(params))]), sums, rows)
    return sums


def scores(r: float, m: FloatArray, *sums: FloatArray) -> FloatArray:
    """[E, SCORES] of harm, all periods at once; ``sums``: n, bad, square of the arm, then of the control."""
    n1, bad1, square1, n0, bad0, square0 = sums
    v = n1 / np.maximum(n1 + n0, 1.0)
    step = np.zeros((len(n1), SCORES))
    total = (1.0 - v) * (bad1 / r - n1 * m) - v * (bad0 - n0 * m)
    spread1 = np.maximum(square1 / (r * r) - 2.0 * m * bad1 / r + n1 * m * m, 0.0)
    spread0 = np.maximum(square0 - 2.0 * m * bad0 + n0 * m * m, 0.0)
    variance = (1.0 - v) ** 2 * spread1 + v**2 * spread0
    for at, sign, least in (
        (0, 1.0, np.maximum((1.0 - v) * m, v * (1.0 - m))),
        (2, -1.0, np.maximum((1.0 - v) * (1.0 / r - m), v * m)),
    ):
        fit = np.where(least > LEAST, LEAST / np.maximum(least, LEAST), 1.0)
        step[:, at], step[:, at + 1] = sign * fit * total, fit * fit * variance
    null = r * v + 1.0 - v
    for at, ratios in ((4, RATIOS), (4 + RATIOS.size, 1.0 / RATIOS)):
        for j, t in enumerate(ratios):
            step[:, at + j] = bad1 * np.log(t) + (bad1 + bad0) * np.log(null / (r * t * v + 1.0 - v))
    return step


def shared(rows: FloatArray) -> FloatArray:
    return rows[(rows[:, watch.SHARE] > 0) & (rows[:, watch.SHARE_0] > 0)]


SUMS = (watch.COUNT, watch.BAD, watch.SQUARE, watch.COUNT_0, watch.BAD_0, watch.SQUARE_0)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("margin", [1.0, 1.3, 1 / 1.3])
def test_harm(seed: int, margin: float) -> None:
    rows = table(seed)
    used = shared(rows)
    sums = added(watch.HARM, [margin], rows)
    twin = scores(margin, used[:, watch.CENTRE], *(used[:, at] for at in SUMS)).sum(axis=0)
    assert sums[watch.BLOCK : watch.AFTER] == pytest.approx(twin, rel=1e-12, abs=1e-12)
    n0 = used[:, watch.BOTTOM_0]
    level = np.where(n0 > 0, used[:, watch.TOP_0] / np.maximum(n0, 1), used[:, watch.SHOWN_CENTRE])
    shown = [used[:, at].sum() for at in (watch.COUNT, watch.COUNT_0, watch.TOP, watch.BOTTOM)]
    assert sums[: watch.BLOCK] == pytest.approx([*shown, (used[:, watch.BOTTOM] * level).sum()], rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("margin", [1.0, 1.2])
def test_asymptotic_harm(seed: int, margin: float) -> None:
    rows = table(seed)
    used = shared(rows)
    n1, bad1, square1, n0, bad0, square0 = (used[:, at] for at in SUMS)
    m = used[:, watch.CENTRE]
    v = n1 / np.maximum(n1 + n0, 1.0)
    total = ((1 - v) * (bad1 / margin - n1 * m) - v * (bad0 - n0 * m)).sum()
    variance = (
        (1 - v) ** 2 * (square1 / margin**2 - 2 * m * bad1 / margin + n1 * m * m)
        + v**2 * (square0 - 2 * m * bad0 + n0 * m * m)
    ).sum()
    sums = added(watch.HARM_ASYMPTOTIC, [margin], rows)
    found = sums[watch.BLOCK : watch.BLOCK + 4]
    assert found == pytest.approx([total, variance, -total, variance], rel=1e-12, abs=1e-12)
    moments = [used[:, at + i].sum() for at in (watch.COUNT, watch.COUNT_0) for i in range(4)]
    assert sums[watch.MOMENTS : watch.MOMENTS + 8] == pytest.approx(moments, rel=1e-12)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("margin", [1.0, 1.2, 1 / 1.2])
def test_ratio_harm_equals_scores_of_single_decisions(seed: int, margin: float) -> None:
    rng = np.random.default_rng(seed)
    rows, steps = [], np.zeros(SCORES)
    for number in range(12):
        row = np.zeros(watch.EDGES)
        row[[watch.NUMBER, watch.SHARE, watch.SHARE_0]] = number, 0.3, 0.7
        row[watch.CENTRE] = theta = 0.0 if number < 2 else rng.uniform(0.1, 3.0)
        whole = theta + max(1.0, 1.0 / margin)
        sides = []
        for n, x, square, product, d_sum, d_square, r in (
            (watch.COUNT, watch.BAD, watch.SQUARE, watch.CUBE, watch.BELOW, watch.BELOW_SQUARE, margin),
            (
                watch.COUNT_0,
                watch.BAD_0,
                watch.SQUARE_0,
                watch.CUBE_0,
                watch.BELOW_0,
                watch.BELOW_SQUARE_0,
                1.0,
            ),
        ):
            count = int(rng.integers(1, 40))
            top, below = rng.beta(1, 4, count), rng.beta(3, 3, count)
            row[n], row[x], row[square], row[product] = count, top.sum(), (top**2).sum(), (top * below).sum()
            row[d_sum], row[d_square] = below.sum(), (below**2).sum()
            y = (top / r - theta * below + theta) / whole
            assert y.min() >= 0.0
            assert y.max() <= 1.0
            sides += [np.array([value]) for value in (float(count), y.sum(), (y * y).sum())]
        rows.append(row)
        if theta > 0.0:
            steps += scores(1.0, np.array([theta / whole]), *sides)[0]
    sums = added(watch.RATIO_HARM, [margin], np.array(rows))
    assert sums[watch.BLOCK : watch.AFTER] == pytest.approx(steps, rel=1e-9, abs=1e-9)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("margin", [1.0, 1.2])
def test_response_rate(seed: int, margin: float) -> None:
    rows = table(seed)
    rows[:, watch.BAD] = rows[:, watch.SQUARE] = np.floor(rows[:, watch.BAD])
    rows[:, watch.BAD_0] = rows[:, watch.SQUARE_0] = np.floor(rows[:, watch.BAD_0])
    used = shared(rows)
    n0, bad0 = (np.cumsum(used[:, at]) - used[:, at] for at in (watch.COUNT_0, watch.BAD_0))
    centre = np.where(n0 > 0, bad0 / np.maximum(n0, 1), 0.5)
    sums = added(watch.RESPONSE, [margin], rows)
    for at, r in ((watch.BLOCK, margin), (watch.SECOND, 1 / margin)):
        twin = scores(r, centre, *(used[:, each] for each in SUMS)).sum(axis=0)
        assert sums[at : at + SCORES] == pytest.approx(twin, rel=1e-11, abs=1e-11)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("swap", [0.0, 1.0])
def test_became_worse_sums_over_every_beginning(seed: int, swap: float) -> None:
    rows = table(seed)
    used = shared(rows)
    steps = scores(1.1, used[:, watch.CENTRE], *(used[:, at] for at in SUMS))
    at = 2 if swap else 0
    logs = []
    for rate in (0.1, 0.3, 1.0, 3.0, 8.0):
        psi = (-math.log(1 - LEAST * rate) - LEAST * rate) / LEAST**2
        logs.append(rate * steps[:, at] - psi * steps[:, at + 1])
    logs += [steps[:, (10 if swap else 4) + j] for j in (1, 3)]
    # M = sum over all beginnings of the product of L from there to now.
    values = [sum(math.exp(each[begin:].sum()) for begin in range(len(each))) for each in logs]
    out = np.zeros(weigh.ANSWERS)
    sums = added(watch.DETECTOR, [1.1, swap], rows)
    weigh.weigh(watch.DETECTOR, np.array([1.1, swap, 0, 0]), sums, np.zeros((0, watch.EDGES)), out)
    assert out[weigh.LOG_E] == pytest.approx(max(math.log(np.mean(values)), 0.0), rel=1e-10, abs=1e-10)


@pytest.mark.parametrize("seed", range(4))
def test_quantile_harm(seed: int) -> None:
    edges, steps, share = 9, 2, 0.25
    rows = table(seed, 120, edges)
    sums = added(watch.QUANTILE_HARM, [share, edges, steps], rows)
    n, above, twin = 0.0, np.zeros(edges), np.zeros(SCORES)
    judged = 0
    for row in shared(rows):
        if n * share >= 10:
            fits = [j for j in range(edges - steps) if above[j] <= share * n]
            tau = fits[0] if fits else edges - 1 - steps
            bad1, bad0 = row[watch.EDGES + tau + steps], row[watch.EDGES + edges + tau]
            sides = [row[watch.COUNT], bad1, bad1, row[watch.COUNT_0], bad0, bad0]
            twin += scores(1.0, np.array([above[tau] / n]), *(np.array([each]) for each in sides))[0]
            judged += 1
        n += row[watch.COUNT_0]
        above = above + row[watch.EDGES + edges :]
        if n * share > 400:
            n, above = n / 2, above / 2
    assert judged > 50
    assert sums[watch.BLOCK : watch.AFTER] == pytest.approx(twin, rel=1e-12, abs=1e-12)


@pytest.mark.parametrize("seed", range(4))
def test_limits_tilts_and_newest(seed: int) -> None:
    rows = table(seed, 90)
    rows[:, watch.BAD] = np.floor(rows[:, watch.BAD])
    for code in (watch.RATE, watch.EVENTS):
        found = added(code, [0.2], rows)[:3]
        assert found == pytest.approx(rows[:, [watch.COUNT, watch.BAD, watch.ARRIVED]].sum(axis=0), rel=1e-12)
    n, total, part = (rows[:, at][:, None] for at in (watch.ASSIGNED, watch.ASSIGNED_ALL, watch.SHARE))
    twin = (n * np.log(TILTS) - total * np.log(1 + part * (TILTS - 1))).sum(axis=0)
    assert added(watch.SAMPLE_RATIO, [], rows)[: TILTS.size] == pytest.approx(twin, rel=1e-11)
    newest = [row for row in rows[::-1] if row[watch.COUNT] > 0][:REACH]
    flat = [row[at] for row in newest for at in (watch.NUMBER, watch.COUNT, watch.BAD)]
    assert added(watch.BREAKER, [0.2, -9.0], rows).tolist() == flat
    shuffled = rows[np.random.default_rng(seed).permutation(90)]
    assert added(watch.BREAKER, [0.2, -9.0], shuffled).tolist() == flat


@pytest.mark.parametrize("seed", range(4))
def test_silence(seed: int) -> None:
    rng = np.random.default_rng(seed)
    rows = table(seed, 40)
    rows[:, watch.ARRIVED] = np.where(rng.random(40) < 0.5, 0.0, rows[:, watch.ARRIVED])
    rows[-2:, watch.ARRIVED] = 0.0
    rows[:, watch.ASSIGNED] += 5
    run = 0.0
    for row in rows[::-1]:
        if row[watch.ARRIVED] > 0:
            break
        run += row[watch.ASSIGNED]
    out = np.zeros(weigh.ANSWERS)
    sums = added(watch.SILENCE, [], rows)
    weigh.weigh(watch.SILENCE, np.zeros(4), sums, np.zeros((0, watch.EDGES)), out)
    share = rows[:, watch.ARRIVED].sum() / (rows[:, watch.ASSIGNED].sum() - run)
    j = rows[:, watch.ARRIVED].sum()
    assert out[weigh.REFERENCE] == pytest.approx(share)
    assert out[weigh.N] == run
    twin = -run * math.log(1 - share / 2) - math.log((j + 1) * (j + 2) / 2)
    assert out[weigh.LOG_E] == pytest.approx(max(twin, 0.0))


@pytest.mark.parametrize("periods", [1, 2, 7, 40, 500, 6000])
def test_the_history_of_a_drift_loses_nothing_and_stays_small(periods: int) -> None:
    rng = np.random.default_rng(periods)
    rows = np.zeros((periods, watch.EDGES))
    rows[:, watch.COUNT] = rng.integers(1, 50, periods)
    rows[:, watch.BAD] = rng.binomial(rows[:, watch.COUNT].astype(int), 0.2)
    rows[:, watch.SQUARE] = rows[:, watch.BAD]
    sums = added(watch.DRIFT, [], rows)
    used = int(sums[0])
    buckets = sums[2 : 2 + 4 * used].reshape(used, 4)
    assert used <= 23
    assert sums[2 + 4 * used :].tolist() == [0.0] * (94 - 4 * used)
    assert (np.diff(buckets[:, 0]) >= 0).all()
    # Newest first: each holds the sums of the periods that its level says, as far as room allows.
    end = periods
    for level, n, s1, _ in buckets:
        begin = end - 2 ** int(level)
        if begin < 0 or periods > 4000:
            break
        part = rows[begin:end]
        assert (n, s1) == (part[:, watch.COUNT].sum(), part[:, watch.BAD].sum())
        end = begin
    assert buckets[:, 1:].sum(axis=0) == pytest.approx(
        rows[:, [watch.COUNT, watch.BAD, watch.SQUARE]].sum(axis=0)
    )
    out = np.zeros(weigh.ANSWERS)
    weigh.weigh(watch.DRIFT, np.zeros(4), sums, np.zeros((0, watch.EDGES)), out)
    assert out[weigh.LOG_E] == pytest.approx(slow_drift(buckets, periods), rel=1e-10, abs=1e-10)


def slow_drift(buckets: FloatArray, periods: int) -> float:
    """The largest y with |m1 - m0| >= sqrt(2 v y / m) + 2 y / (3 m) over all cuts, found by bisection."""
    n, s1, s2 = buckets[:, 1:].sum(axis=0)
    variance, best = s2 / n - (s1 / n) ** 2, 0.0
    for cut in range(1, len(buckets)):
        n1, t1, _ = buckets[:cut, 1:].sum(axis=0)
        m = 1 / (1 / n1 + 1 / (n - n1))
        gap = abs(t1 / n1 - (s1 - t1) / (n - n1))
        low, high = 0.0, 1e9
        for _ in range(200):
            y = (low + high) / 2
            if math.sqrt(2 * variance * y / m) + 2 * y / (3 * m) <= gap:
                low = y
            else:
                high = y
        best = max(best, low)
    return max(best - math.log(2 * max(len(buckets) - 1, 1)) - math.log(math.pi**2 * periods**2 / 6), 0.0)

"""Tests at the size of the published simulations; each line goes to evidence.jsonl.

    nice -n 19 uv run python -m benchmarks.stats.evidence tails shares strengths forgotten

Compiled loops around the kernels of the guardrails; seeded; --runs N. What others do runs beside ours where that shows
a fault.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

from bandit.kernels import watch, weigh
from bandit.kernels.confseq import log_normal_e, log_rate_above, tuned_rho
from bandit.kernels.jit import kernel
from bandit.kernels.overlap import SCORES, TOTAL, VARIANCE, reaches
from bandit.ledger import FloatArray, Int64Array

RESULTS = Path(__file__).with_name("evidence.jsonl")
Line = dict[str, Any]
Table = Callable[[int, np.random.Generator], Iterator[Line]]
NEVER = -1


@kernel
def skewed(
    sigma: float,
    zeros: float,
    scale: float,
    down: bool,
    least: float,
    rho: float,
    mean: float,
    share: float,
    batch: int,
    looks: int,
    fail: float,
    runs: int,
    chance: np.random.Generator,
) -> FloatArray:
    """[runs, 4] does a test of equal arms alarm? The asymptotic one as shipped; a normal mixture at ``rho``, after the
    same burn-in; that from ``least`` outcomes of the arm on; the exact one. Values of mean 1 but for ``zeros``, cut at
    ``scale``; ``down``: less is worse. ``mean`` of their badness: the first centre, as if known from history."""
    out = np.zeros((runs, 4))
    params = np.array([1.0, 0.0, 0.0, 0.0])
    for run in range(runs):
        normal, exact = np.zeros(watch.COLUMNS), np.zeros(watch.COLUMNS)
        row, found = np.zeros(watch.EDGES), np.zeros(weigh.ANSWERS)
        young = np.zeros((0, watch.EDGES))
        n_0, bad_0, canary = 0.0, 0.0, 0.0
        row[watch.SHARE], row[watch.SHARE_0] = share, 1.0 - share
        for _ in range(looks):
            row[watch.CENTRE] = bad_0 / n_0 if n_0 > 0.0 else mean
            for side in range(2):
                count = int(chance.binomial(batch, share)) if side == 0 else batch - int(row[watch.COUNT])
                first, second, third = 0.0, 0.0, 0.0
                for _ in range(count):
                    x = 0.0
                    if zeros == 0.0 or chance.random() >= zeros:
                        x = (
                            min(math.exp(sigma * chance.standard_normal() - 0.5 * sigma * sigma), scale)
                            / scale
                        )
                    x = 1.0 - x if down else x
                    first, second, third = first + x, second + x * x, third + x * x * x
                if side == 0:
                    row[watch.COUNT], row[watch.BOTTOM], row[watch.BAD] = count, count, first
                    row[watch.SQUARE], row[watch.CUBE] = second, third
                else:
                    row[watch.COUNT_0], row[watch.BOTTOM_0], row[watch.BAD_0] = count, count, first
                    row[watch.SQUARE_0], row[watch.CUBE_0] = second, third
            n_0 += row[watch.COUNT_0]
            bad_0 += row[watch.BAD_0]
            canary += row[watch.COUNT]
            watch.add(watch.HARM_ASYMPTOTIC, params, normal, row)
            watch.add(watch.HARM, params, exact, row)
            total, variance = normal[watch.BLOCK + TOTAL], normal[watch.BLOCK + VARIANCE]
            if total * total >= 2.0 * fail * variance and total > 0.0:
                weigh.weigh(watch.HARM_ASYMPTOTIC, params, normal, young, found)
                plain = log_normal_e(total, variance, rho) >= fail
                if found[weigh.READY] == 1.0:
                    out[run, 0] = 1.0 if found[weigh.LOG_E] >= fail else out[run, 0]
                    out[run, 1] = 1.0 if plain else out[run, 1]
                if canary >= least and plain:
                    out[run, 2] = 1.0
            if reaches(exact[watch.BLOCK : watch.BLOCK + SCORES], fail):
                out[run, 3] = 1.0
    return out


def tails(runs: int, chance: np.random.Generator) -> Iterator[Line]:
    """Equal arms with heavy tails, a tenth to the canary, 100 looks of 1,000; alpha 1 % on each side."""
    worlds = {
        (1.0, 0.0, 200.0): ((0.0025, 0.0325), (0.0025, 0.015)),
        (2.0, 0.0, 2000.0): ((0.0, 0.1275), (0.0, 0.055)),
        (1.5, 0.97, 500.0): ((0.0, 0.18), (0.0, 0.0775)),
        (1.5, 0.97, 20.0): ((0.0, 0.245), (0.0, 0.06)),
    }
    for (sigma, zeros, scale), published in worlds.items():
        values = np.exp(sigma * chance.standard_normal(1_000_000) - 0.5 * sigma * sigma)
        values = np.minimum(values * (chance.random(1_000_000) >= zeros), scale) / scale
        rho = tuned_rho(2000.0 * 0.9 * float(values.var()), 0.01)
        for least, figures in zip((100.0, 1000.0), published, strict=True):
            for down, figure in zip((False, True), figures, strict=True):
                side = "down" if down else "up"
                mean = 1.0 - float(values.mean()) if down else float(values.mean())
                found = skewed(
                    sigma, zeros, scale, down, least, rho, mean, 0.1, 1000, 100, math.log(100.0), runs, chance
                )
                yield {
                    "line": f"sigma {sigma:g}, zeros {zeros:g}, cut at {scale:g}, {side}, from {least:g}",
                    "runs": runs,
                    "shipped": round(float(found[:, 0].mean()), 4),
                    "tuned": round(float(found[:, 1].mean()), 4),
                    "without_burn_in": round(float(found[:, 2].mean()), 4),
                    "exact": round(float(found[:, 3].mean()), 4),
                    "published": figure,
                }


@kernel
def compared(
    share: float,
    rate: float,
    ratio: float,
    batch: int,
    looks: int,
    fail: float,
    runs: int,
    chance: np.random.Generator,
) -> Int64Array:
    """[runs, 2] outcomes of the canary until the exact and the asymptotic test of harm fail, NEVER if they do not."""
    out = np.full((runs, 2), NEVER)
    params, young = np.array([1.0, 0.0, 0.0, 0.0]), np.zeros((0, watch.EDGES))
    for run in range(runs):
        exact, normal = np.zeros(watch.COLUMNS), np.zeros(watch.COLUMNS)
        row, found = np.zeros(watch.EDGES), np.zeros(weigh.ANSWERS)
        row[watch.SHARE], row[watch.SHARE_0] = share, 1.0 - share
        n_0, bad_0, canary = 0.0, 0.0, 0
        for _ in range(looks):
            n = chance.binomial(batch, share)
            bad, other = chance.binomial(n, rate * ratio), chance.binomial(batch - n, rate)
            row[watch.CENTRE] = bad_0 / n_0 if n_0 > 0.0 else 0.5
            row[watch.COUNT], row[watch.BOTTOM], row[watch.BAD] = n, n, bad
            row[watch.SQUARE], row[watch.CUBE] = bad, bad
            row[watch.COUNT_0], row[watch.BOTTOM_0], row[watch.BAD_0] = batch - n, batch - n, other
            row[watch.SQUARE_0], row[watch.CUBE_0] = other, other
            n_0 += batch - n
            bad_0 += other
            canary += n
            watch.add(watch.HARM, params, exact, row)
            watch.add(watch.HARM_ASYMPTOTIC, params, normal, row)
            if out[run, 0] == NEVER:
                over = reaches(exact[watch.BLOCK : watch.BLOCK + SCORES], fail)
                out[run, 0] = canary if over else NEVER
            if out[run, 1] == NEVER:
                weigh.weigh(watch.HARM_ASYMPTOTIC, params, normal, young, found)
                ready = found[weigh.READY] == 1.0 and found[weigh.LOG_E] >= fail
                out[run, 1] = canary if ready else NEVER
            if out[run].min() > NEVER:
                break
    return out


def shares(runs: int, chance: np.random.Generator) -> Iterator[Line]:
    """A constant share of the canary, looked at about every 20 of its outcomes up to 20,000; alpha 1 %."""
    published = {
        (0.01, 0.1, 1.2): (3035.5, 2631.0), (0.01, 0.1, 1.5): (660.5, 601.5), (0.01, 0.01, 2.0): (2217.5, 2110.0),
        (0.01, 0.01, 5.0): (356.0, 412.5), (0.05, 0.1, 1.2): (3100.5, 2512.5), (0.05, 0.1, 1.5): (694.5, 629.5),
        (0.05, 0.01, 2.0): (2221.0, 2072.0), (0.05, 0.01, 5.0): (358.0, 416.5), (0.1, 0.1, 1.2): (3303.0, 2770.5),
        (0.1, 0.1, 1.5): (733.0, 653.0), (0.1, 0.01, 2.0): (2313.0, 2143.5), (0.1, 0.01, 5.0): (391.0, 428.0),
        (0.01, 0.1, 1.0): (None, None), (0.01, 0.01, 1.0): (None, None), (0.05, 0.1, 1.0): (None, None),
        (0.05, 0.01, 1.0): (None, None), (0.1, 0.1, 1.0): (None, None), (0.1, 0.01, 1.0): (None, None),
    }  # fmt: skip
    for (share, rate, ratio), figure in published.items():
        found = compared(share, rate, ratio, round(20 / share), 1000, math.log(100.0), runs, chance)
        yield {
            "line": f"share {share:g}, rate {rate:g}, x{ratio:g}",
            "runs": runs,
            "exact": _alarms(found[:, 0]),
            "asymptotic": _alarms(found[:, 1]),
            "published": {"exact IPW": figure[0], "asymptotic AIPW": figure[1]},
        }


def _alarms(found: Int64Array) -> tuple[float, float | None]:
    seen = found[found > NEVER]
    return round(seen.size / found.size, 4), float(np.median(seen)) if seen.size else None


@kernel
def exceeded(
    rate: float, limit: float, strengths: FloatArray, fail: float, runs: int, chance: np.random.Generator
) -> Int64Array:
    """[runs] outcomes until a rate limit fails, looked at every 20 of 30,000; NEVER if it does not."""
    out = np.full(runs, NEVER)
    for run in range(runs):
        n, bad = 0, 0.0
        while n < 30_000:
            n += 20
            bad += chance.binomial(20, rate)
            part = bad / n
            if part <= limit:
                continue
            # No mixture is above the likelihood ratio of the rate that was seen.
            most = bad * math.log(part / limit)
            most += (n - bad) * math.log((1.0 - part) / (1.0 - limit)) if part < 1.0 else 0.0
            if most >= fail and log_rate_above(bad, float(n), limit, strengths) >= fail:
                out[run] = n
                break
    return out


def strengths(runs: int, chance: np.random.Generator) -> Iterator[Line]:
    """A limit tested with priors of one strength each, and with the three that are shipped; alpha 1 %."""
    shipped = tuple(float(each) for each in weigh.STRENGTHS)
    for limit in (0.01, 0.1):
        for each in ((1.0,), (10.0,), (100.0,), (300.0,), (1000.0,), (3000.0,), shipped):
            line: Line = {
                "line": f"limit {limit:g}, strength {'shipped' if len(each) > 1 else f'{each[0]:g}'}"
            }
            for ratio in (1.0, 1.2, 1.5, 2.0, 5.0):
                found = exceeded(limit * ratio, limit, np.array(each), math.log(100.0), runs, chance)
                line[f"x{ratio:g}"] = _alarms(found)
            yield {**line, "runs": runs}


@kernel
def forgetful(
    decayed: bool, checks: int, fail: float, rho: float, runs: int, chance: np.random.Generator
) -> Int64Array:
    """[runs] checks until an alarm, NEVER if there is none: a rate of 0.1 that stays, 200 outcomes a check, by a normal
    mixture at ``rho`` on sums with tau of 10,000 outcomes; or two equal arms of 100 each by the shipped detector."""
    out = np.full(runs, NEVER)
    keep = math.exp(-200.0 / 10_000.0)
    params, young = np.array([1.0, 0.0, 0.0, 0.0]), np.zeros((0, watch.EDGES))
    for run in range(runs):
        total, variance = 0.0, 0.0
        sums, row, found = np.zeros(watch.COLUMNS), np.zeros(watch.EDGES), np.zeros(weigh.ANSWERS)
        row[watch.SHARE], row[watch.SHARE_0], row[watch.CENTRE] = 0.5, 0.5, 0.1
        for check in range(checks):
            if decayed:
                total = keep * total + chance.binomial(200, 0.1) - 20.0
                variance = keep * keep * variance + 18.0
                alarm = total > 0.0 and log_normal_e(total, variance, rho) >= fail
            else:
                row[watch.COUNT], row[watch.BOTTOM] = 100, 100
                row[watch.COUNT_0], row[watch.BOTTOM_0] = 100, 100
                row[watch.BAD] = row[watch.SQUARE] = chance.binomial(100, 0.1)
                row[watch.BAD_0] = row[watch.SQUARE_0] = chance.binomial(100, 0.1)
                watch.add(watch.DETECTOR, params, sums, row)
                found[weigh.LOG_E] = 0.0
                if sums[watch.AFTER : watch.PAGE].max() >= fail:
                    weigh.weigh(watch.DETECTOR, params, sums, young, found)
                alarm = found[weigh.LOG_E] >= fail
            if alarm:
                out[run] = check + 1
                break
    return out


def forgotten(runs: int, chance: np.random.Generator) -> Iterator[Line]:
    """What decay does to a test that is valid at every look, and the detector that is made for it."""
    published = {500: (0.023, 0.923), 5000: (0.307, 1.0), 50_000: (0.97, 1.0)}
    for checks, (sums, detector) in published.items():
        size = runs if checks < 50_000 else max(runs // 3, 2)
        rho = tuned_rho(0.09 * 10_000.0 / 2.0, 0.01)
        found = [forgetful(each, checks, math.log(100.0), rho, size, chance) for each in (True, False)]
        lengths = np.where(found[1] == NEVER, checks, found[1])
        yield {
            "line": f"{checks} checks",
            "runs": size,
            "decayed_alarm": round(float((found[0] > NEVER).mean()), 4),
            "detector_alarm": round(float((found[1] > NEVER).mean()), 4),
            "detector_mean_length_at_100": round(float(lengths.mean()), 1),
            "published": {"decayed_alarm": sums, "detector_alarm": detector},
        }


TABLES: dict[str, tuple[Table, int]] = {
    "tails": (tails, 400),
    "shares": (shares, 400),
    "strengths": (strengths, 300),
    "forgotten": (forgotten, 300),
}


def work(tables: dict[str, tuple[Table, int]], about: str | None) -> None:
    """The command of a module with such tables."""
    parser = argparse.ArgumentParser(description=about, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("tables", nargs="+", choices=tables)
    parser.add_argument("--runs", type=int, default=0, help="0: as many as the published")
    parser.add_argument("--seed", type=int, default=1)
    given = parser.parse_args()
    for name in given.tables:
        table, usual = tables[name]
        began = time.process_time()
        for each in table(given.runs or usual, np.random.default_rng((given.seed, *name.encode()))):
            spent = {"seconds": round(time.process_time() - began, 1), "at": time.strftime("%Y-%m-%d %H:%M")}
            line = json.dumps({"table": name, "seed": given.seed, **each, **spent})
            print(line, flush=True)
            with RESULTS.open("a") as out:
                out.write(line + "\n")


if __name__ == "__main__":
    work(TABLES, __doc__)

"""The design's simulation tables, run by the shipped code; each line goes to results.jsonl as soon as it is known.

    uv run python -m benchmarks.stats.tables moving delay ramp regret        # one process, seeded; --runs N

Every number comes out of ``bandit.simulate``: draws, ledger table, reading, baseline, allocator, bounds, guardrails.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from bandit.ledger import FloatArray
from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import Plan, plan
from bandit.simulate.run import NEVER, Run, rehearse
from bandit.simulate.world import WorldFile
from bandit.spec.parse import parse_mapping

RESULTS = Path(__file__).with_name("results.jsonl")
METRIC: dict[str, Any] = {
    "name": "x",
    "kind": "bernoulli",
    "direction": "maximize",
    "attribution_window": "1s",
}


class Setup(NamedTuple):
    """One line of a table. ``published``: the design's figure and its standard error, None where it has none."""

    table: str
    line: str
    spec: dict[str, Any]
    world: dict[str, Any]
    batch: float
    periods: int
    runs: int
    measure: Callable[[Plan, list[Run]], dict[str, float]]
    published: dict[str, tuple[float, float]]


def spec_of(arms: int, **parts: Any) -> dict[str, Any]:
    return {
        "experiment": "table",
        "arms": [{"name": f"arm{k}", "control": k == 0} for k in range(arms)],
        "metrics": [METRIC],
        "objective": [{"metric": "x"}],
        "bounds": {"floor": 0.0, "control_floor": 0.0},
        **parts,
    }


def laws(*each: dict[str, Any]) -> dict[str, Any]:
    return {"arms": [{"name": f"arm{k}", "metrics": [{"name": "x", **law}]} for k, law in enumerate(each)]}


def regret(made: Plan, runs: list[Run]) -> dict[str, float]:
    lost = np.array([run.regret for run in runs])
    top = np.mean([run.shares[-1].argmax() == made.best for run in runs])
    return {
        "regret": float(lost.mean()),
        "se": float(lost.std(ddof=1) / math.sqrt(len(runs))),
        "p95": float(np.quantile(lost, 0.95)),
        "best_is_top": float(top),
        "final_weight_best": float(np.mean([run.shares[-1, made.best] for run in runs])),
    }


def alarms(made: Plan, runs: list[Run]) -> dict[str, float]:
    del made
    fell = np.array([run.fell[0, 1] for run in runs])
    seen = np.flatnonzero(fell != NEVER)
    canary = [runs[r].served[: fell[r] + 1, 1].sum() for r in seen]
    share = seen.size / len(runs)
    return {
        "alarm": share,
        "se": math.sqrt(max(share * (1 - share), 1e-9) / len(runs)),
        "median_n": float(np.median(canary)) if canary else math.nan,
        "p90_n": float(np.quantile(canary, 0.9)) if canary else math.nan,
    }


def moving(runs: int) -> Iterator[Setup]:
    """Baselines that move: 3 arms, lifts 1, 1.08, 1.03, Thompson, floor 5 %, 96 batches of 1,000."""
    methods: dict[str, dict[str, Any]] = {
        "stationary": {"baseline": "stationary"},
        "stratified": {"baseline": "stratified"},
        "contrast": {"baseline": "contrast"},
        # tau of 24 batches of an hour
        "decayed": {
            "baseline": "stationary",
            "decay": {"half_life": f"{round(24 * 3600 * math.log(2.0))}s"},
        },
        "uniform": {
            "allocator": {
                "kind": "fixed",
                "weights": {f"arm{k}": 0.333333 + 1e-6 * (k == 0) for k in range(3)},
            }
        },
    }
    # A sine of one day in the file; 96 batches are four days here.
    worlds: dict[str, tuple[dict[str, Any], tuple[tuple[float, float, float], ...]]] = {
        "flat": (
            {"mean": 0.1},
            ((146.5, 4.1, 0.993), (182.9, 3.7, 0.99), (155.1, 4.5, 0.977), (194.2, 3.0, 0.937), (416.2, 0.1, 0)),
        ),
        "daily": (
            {"mean": 0.1, "drift": {"shape": "daily", "by": 0.5}},
            ((190.4, 5.4, 0.953), (186.5, 3.7, 0.997), (160.0, 4.4, 0.977), (270.0, 4.8, 0.783), (415.9, 0.1, 0)),
        ),
        "rising": (
            {"mean": 0.05, "drift": {"shape": "rising", "by": 3.0}},
            ((255.4, 14.4, 0.727), (206.0, 4.2, 0.997), (184.6, 6.5, 0.973), (375.9, 11.4, 0.353), (520.0, 0.1, 0)),
        ),
        "falling": (
            {"mean": 0.2, "drift": {"shape": "falling", "by": 0.75}},
            ((258.0, 5.7, 0.933), (207.4, 4.3, 0.983), (172.4, 4.3, 0.99), (252.9, 4.2, 0.99), (520.1, 0.1, 0)),
        ),
    }  # fmt: skip
    for name, (law, published) in worlds.items():
        for (method, parts), (lost, se, top) in zip(methods.items(), published, strict=True):
            yield Setup(
                "moving",
                f"{name}, {method}",
                spec_of(3, bounds={"floor": 0.05, "control_floor": 0.05}, **parts),
                laws(law, {"times": 1.08}, {"times": 1.03}),
                1000,
                96,
                # Equal shares vary little.
                runs if method != "uniform" else max(runs // 10, 2),
                regret,
                {"regret": (lost, se), "best_is_top": (top, math.sqrt(top * (1 - top) / 300))},
            )


def delay(runs: int) -> Iterator[Setup]:
    """Delays of 1 and 10 batches on average within a window of 30: 200 batches of 500, floor 2 %.

    "declared": the spec says of both arms what is true; "wrong": what is true of the other one.
    """
    late = 0.11 / -math.expm1(-3.0)
    window_s, means_s = 108_000.0, (3600.0, 36_000.0)
    known = [
        {"median": _seconds(0.5, mean, window_s), "p90": _seconds(0.9, mean, window_s)} for mean in means_s
    ]
    lines: dict[str, tuple[str, list[dict[str, str]], dict[str, tuple[float, float]]]] = {
        "weigh, declared": ("weigh", known, {"regret": (72.4, 4.1)}),
        "weigh, declared wrong": ("weigh", known[::-1], {}),
        "weigh": ("weigh", [], {}),
        "wait": ("wait", [], {"regret": (147.3, 5.4)}),
    }
    for name, (pending, told, published) in lines.items():
        for baseline in ("stationary", "contrast"):
            metric = {
                **METRIC,
                "attribution_window": f"{window_s:.0f}s",
                "default_when_silent": 0,
                "pending": pending,
            }
            spec = spec_of(
                2, baseline=baseline, bounds={"floor": 0.02, "control_floor": 0.02}, metrics=[metric]
            )
            for arm, each in zip(spec["arms"], told, strict=False):
                arm["delay"] = {"x": each}
            yield Setup(
                "delay",
                f"{name}, {baseline}",
                spec,
                laws({"mean": 0.10, "delay": "3600s"}, {"mean": late, "delay": "36000s"}),
                500,
                200,
                runs,
                regret,
                published if baseline == "stationary" else {},
            )


def _seconds(part: float, mean_s: float, window_s: float) -> str:
    """Time by which this part has come of what comes within the window, delays being exponential."""
    return f"{-mean_s * math.log1p(part * math.expm1(-window_s / mean_s)):.0f}s"


def ramp(runs: int) -> Iterator[Setup]:
    """Harm against the control while the canary ramps from 1 to 50 % over 200 batches of 500; alpha 1 %."""
    published = {
        ("flat", 1.0): (0.004, 0.002, math.nan),
        ("flat", 1.2): (1.0, 0.001, 3387.0),
        ("flat", 2.0): (1.0, 0.001, 269.0),
        ("rising", 1.0): (0.003, 0.0017, math.nan),
        ("rising", 1.2): (1.0, 0.001, 3930.5),
        ("rising", 2.0): (1.0, 0.001, 458.0),
        ("falling", 1.0): (0.002, 0.0014, math.nan),
        ("falling", 1.2): (1.0, 0.001, 1573.5),
        ("falling", 2.0): (1.0, 0.001, 131.5),
    }
    worlds: dict[str, Any] = {
        "flat": {"mean": 0.1},
        "rising": {"mean": 0.05, "drift": {"shape": "rising", "by": 3.0}},
        "falling": {"mean": 0.2, "drift": {"shape": "falling", "by": 0.75}},
    }
    bad = {**METRIC, "direction": "minimize"}
    for (name, ratio), (alarm, se, median) in published.items():
        yield Setup(
            "ramp",
            f"{name}, x{ratio:g}",
            spec_of(
                2,
                metrics=[bad],
                # A fixed half for the canary, from 1 % on by its ramp: 0.49 in 200 looks of an hour.
                allocator={"kind": "fixed", "weights": {"arm0": 0.5, "arm1": 0.5}},
                bounds={"floor": 0.01, "control_floor": 0.0, "ramp_per_minute": round(0.49 / 199 / 60, 6)},
                guardrails=[{"name": "worse", "kind": "harm", "metric": "x"}],
                alpha=0.01,
            ),
            laws(worlds[name], {"times": ratio}),
            500,
            200,
            runs,
            alarms,
            {"alarm": (alarm, se), **({"median_n": (median, math.nan)} if median == median else {})},
        )


def regrets(runs: int) -> Iterator[Setup]:
    """canary5: means .10 (control), .11, .105, .09, .08; 100,000 requests, pooled, no floor unless said."""
    means: FloatArray = np.array([0.10, 0.11, 0.105, 0.09, 0.08])
    published = {
        ("thompson", 5000, 0.0): (209.7, 2.0),
        ("thompson", 1000, 0.0): (194.2, 2.2),
        ("kl_ucb", 5000, 0.0): (308.1, 1.6),
        ("kl_ucb", 1000, 0.0): (304.2, 1.5),
        ("top_two", 1000, 0.0): (404.9, 1.2),
        ("thompson", 1000, 0.01): (223.6, 2.1),
        ("thompson", 1000, 0.02): (271.2, 1.9),
        ("thompson", 1000, 0.05): (426.4, 1.6),
        ("thompson", 1000, 0.10): (708.5, 1.1),
        ("kl_ucb", 1000, 0.05): (490.1, 1.2),
    }
    for (kind, batch, floor), figure in published.items():
        yield Setup(
            "regret",
            f"{kind}, batch {batch:,}, floor {floor:g}",
            spec_of(
                5,
                baseline="stationary",
                allocator={"kind": kind},
                bounds={"floor": floor, "control_floor": floor},
            ),
            laws(*({"mean": float(mean)} for mean in means)),
            batch,
            100_000 // batch,
            runs,
            regret,
            {"regret": figure},
        )


TABLES: dict[str, Callable[[int], Iterator[Setup]]] = {
    "moving": moving,
    "delay": delay,
    "ramp": ramp,
    "regret": regrets,
}


def measured(setup: Setup, seed: int) -> dict[str, Any]:
    """One line; a period is an hour, so a day has 24."""
    spec = parse_mapping(setup.spec)
    world = WorldFile.model_validate(
        {
            "traffic_per_hour": setup.batch,
            "horizon": f"{setup.periods}h",
            **setup.world,
        }
    )
    made = plan(spec, world, setup.periods)
    outcomes = Outcomes(made)
    began = time.process_time()
    runs = [rehearse(made, outcomes, np.random.default_rng((seed, run))) for run in range(setup.runs)]
    spent = time.process_time() - began
    return {
        "table": setup.table,
        "line": setup.line,
        "runs": setup.runs,
        "seed": seed,
        **{key: round(value, 4) for key, value in setup.measure(made, runs).items()},
        "published": {key: list(value) for key, value in setup.published.items()},
        "ms_per_look": round(1000 * spent / setup.runs / setup.periods, 3),
        "at": time.strftime("%Y-%m-%d %H:%M"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tables", nargs="+", choices=TABLES)
    parser.add_argument("--runs", type=int, default=300)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--only", default="", help="lines that hold this text")
    given = parser.parse_args()
    for name in given.tables:
        for setup in TABLES[name](given.runs):
            if given.only in setup.line:
                line = json.dumps(measured(setup, given.seed))
                print(line, flush=True)
                with RESULTS.open("a") as out:
                    out.write(line + "\n")


if __name__ == "__main__":
    main()

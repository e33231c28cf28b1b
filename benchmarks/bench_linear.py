"""What a decision by features costs: encode, P(best | x), projection, draw; beside the learner's kernel in one run.

    uv run python benchmarks/bench_linear.py --rounds 5

Every call has features of its own, so nothing is answered from memory, but for the column ``again``: the same request
once more. Times are CPU time of this process. JSON goes to stdout, a table to stderr.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
from collections.abc import Callable
from time import process_time

import numpy as np

from bandit.decide import arm_of
from bandit.features import Encoder
from bandit.kernels.best_arm import STUDENT_T, best_arm
from bandit.linear.rule import Chooser, LinearRule
from bandit.spec.features import Feature

CASES = [(k, d) for k in (2, 3, 10) for d in (8, 16)]


def rule_of(arms: int, dimension: int, *, optimistic: bool = False) -> LinearRule:
    """A rule as some hundred rewards an arm leave it."""
    chance = np.random.default_rng(arms * 100 + dimension)
    root = 0.05 * chance.normal(size=(arms, dimension, dimension))
    return LinearRule.of(
        0.1 * chance.normal(size=(arms, dimension)),
        root @ root.transpose(0, 2, 1),
        np.full(arms, 300.0),
        np.full(arms, 296.0),
        (np.full(arms, 20_000), np.full(arms, 1_000_000)),
        optimistic=optimistic,
    )


def timed(calls: int, act: Callable[[int], object]) -> float:
    """Microseconds a call."""
    began = process_time()
    for index in range(calls):
        act(index)
    return (process_time() - began) / calls * 1e6


def measure(arms: int, dimension: int, rounds: int, calls: int) -> dict[str, float]:
    """Medians of one case over the rounds, in microseconds."""
    encoder = Encoder([Feature(name=f"f{n}", kind="numeric", low=0, high=1e6) for n in range(dimension - 1)])
    rule, eager = rule_of(arms, dimension), rule_of(arms, dimension, optimistic=True)
    mean = np.random.default_rng(1).normal(size=arms)
    params = np.stack([mean, np.full(arms, 0.1), np.full(arms, 300.0)], axis=1)
    best_arm(STUDENT_T, params, None)
    seen: dict[str, list[float]] = {"decide": [], "lin_ucb": [], "repeated": [], "kernel": []}
    for turn in range(rounds):
        chance = np.random.default_rng(turn)
        requests = [
            {f"f{n}": str(value) for n, value in enumerate(row)}
            for row in chance.integers(0, 1_000_000, (calls, dimension - 1)).tolist()
        ]
        for name, made in (("decide", rule), ("lin_ucb", eager)):
            chooser = Chooser(made, encoder)

            def decide(
                index: int, chooser: Chooser = chooser, requests: list[dict[str, str]] = requests
            ) -> int:
                return arm_of(chooser.shares_ppm(encoder.encode(requests[index])), 500_000)

            seen[name].append(timed(calls, decide))
        seen["repeated"].append(timed(calls, lambda _, decide=decide: decide(0)))  # type: ignore[misc]
        seen["kernel"].append(timed(calls, lambda _: best_arm(STUDENT_T, params, None)))
    return {name: statistics.median(values) for name, values in seen.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--calls", type=int, default=500)
    options = parser.parse_args()
    found = []
    print(
        f"{'arms':>5}{'columns':>9}{'lin_ts us':>11}{'lin_ucb us':>12}{'again us':>10}{'kernel us':>11}",
        file=sys.stderr,
    )
    for arms, dimension in CASES:
        case = measure(arms, dimension, options.rounds, options.calls)
        found.append({"arms": arms, "columns": dimension, **case})
        shown = "".join(
            f"{case[name]:>{width}.1f}"
            for name, width in (("decide", 11), ("lin_ucb", 12), ("repeated", 10), ("kernel", 11))
        )
        print(f"{arms:>5}{dimension:>9}{shown}", file=sys.stderr)
    json.dump(found, sys.stdout, indent=1)
    print()


if __name__ == "__main__":
    main()

"""The same seeded worlds for this project's allocators and for those of other libraries; each line goes to peers.jsonl.

    uv run python -m benchmarks.stats.peers all --runs 40         # everything, one process after the other
    uv run python -m benchmarks.stats.peers own                   # this project's lines alone

Every run has its outcomes and delays of all arms drawn beforehand from (seed, run), so all policies meet the same
ones. Each peer is run in an environment of its own, made for it and thrown away; the module needs only numpy there.
"""

from __future__ import annotations

import argparse
import importlib
import importlib.metadata
import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

HERE = Path(__file__)
RESULTS = HERE.with_name("peers.jsonl")
GOLDEN = HERE.parents[2] / "tests/golden/pbest.json"
PYTHON = "3.11"
NEEDS = {
    "mabwiser": ("mabwiser==2.7.4", "numpy==2.4.6"),
    "river": ("river==0.26.1", "numpy==2.4.6"),
    "vowpalwabbit": ("vowpalwabbit==9.11.9", "numpy==2.4.6"),
    "gbstats": ("gbstats==0.8.0",),
}
DRAWS = 10_000


class World(NamedTuple):
    """K arms. ``means`` [K] chances of a 1; ``rising``: they grow to four times that; ``delays`` [K]: mean batches
    until a 1 is told, a 0 never is; ``window``: batches after which silence is a 0."""

    name: str
    means: tuple[float, ...]
    batch: int
    batches: int
    lowest: bool = False
    rising: bool = False
    delays: tuple[float, ...] = ()
    window: int = 0


LATE = 0.11 / -math.expm1(-3.0)
WORLDS = (
    World("bernoulli", (0.9, 0.8), 1, 5000),
    World("canary5", (0.10, 0.11, 0.105, 0.09, 0.08), 1000, 100),
    World("minimise", (0.10, 0.09, 0.095, 0.11, 0.12), 1000, 100, lowest=True),
    World("rising", (0.05, 0.054, 0.0515), 1000, 96, rising=True),
    World("delayed", (0.10, LATE), 500, 200, delays=(1.0, 10.0), window=30),
)


class Policy(Protocol):
    """One run of one policy; it is told of decisions in whole batches."""

    def choose(self, count: int) -> Ints:
        """[count] arms of the next batch."""

    def learn(self, arms: Ints, told: Ints, age: Floats) -> None:
        """The outcomes of the batch just chosen: ``told`` [count] batches from now at whose end the 1 is told, -1 for a
        0 and for a 1 that comes too late; ``age`` [count] its delay as a part of the window."""


Make = Callable[[World, int], Policy]


def means_at(world: World) -> Floats:
    """[E, K] chances of a 1 that counts, by batch."""
    factor = 1.0 + 3.0 * (np.arange(world.batches) + 0.5) / world.batches * world.rising
    return np.outer(factor, world.means)


def play(world: World, make: Make, seed: int, run: int) -> float:
    """Regret of one run: sum over requests of what the best arm's mean is better by; silence is a 0."""
    rng = np.random.default_rng((seed, run))
    policy = make(world, 1 + 1000 * seed + run)
    means = means_at(world)
    counted = means.copy()
    if world.delays:
        counted *= -np.expm1(-world.window / np.array(world.delays))
    gap = counted - counted.min(axis=1)[:, None] if world.lowest else counted.max(axis=1)[:, None] - counted
    row = np.arange(world.batch)
    lost = 0.0
    for batch in range(world.batches):
        ones = rng.random((world.batch, len(world.means))) < means[batch]
        told, age = np.where(ones, 0, -1), np.zeros(ones.shape)
        if world.delays:
            wait = rng.exponential(world.delays, ones.shape)
            late = np.floor(rng.random(ones.shape) + wait)
            age = wait / world.window
            told = np.where(ones & (age <= 1.0), late, -1).astype(np.int64)
        arms = policy.choose(world.batch)
        lost += float(gap[batch][arms].sum())
        policy.learn(arms, told[row, arms], age[row, arms])
    return lost


class Peer:
    """A peer behind the protocol: it takes (arm, 0 or 1) once each, when it may; it can not take one back.

    ``waits``: every outcome is given when the window has closed. Else a 1 is given when it is told and a 0 when the
    window has closed, which is what a caller without a notion of delays does.
    """

    waits = True

    def __init__(self, world: World, seed: int) -> None:
        self.world, self.arms, self.at = world, len(world.means), 0
        self.rng = np.random.default_rng((seed, 1))
        self.due: list[list[tuple[Ints, Ints, int]]] = [[] for _ in range(world.batches + world.window + 1)]
        self.start(seed)

    def start(self, seed: int) -> None:
        raise NotImplementedError

    def take(self, arms: Ints, ones: Ints, batch: int) -> None:
        """Outcomes of decisions of a batch."""
        raise NotImplementedError

    def choose(self, count: int) -> Ints:
        raise NotImplementedError

    def learn(self, arms: Ints, told: Ints, age: Floats) -> None:
        del age
        closes = self.at + self.world.window
        ones = (told >= 0).astype(np.int64)
        here = np.full(arms.size, closes) if self.waits else np.where(ones, self.at + told, closes)
        for when in np.unique(here):
            self.due[when].append((arms[here == when], ones[here == when], self.at))
        for part in self.due[self.at]:
            self.take(*part)
        self.at += 1


class Mabwiser(Peer):
    """Thompson sampling; lower-is-better is given as 1 - reward, since it has no direction."""

    def start(self, seed: int) -> None:
        mab = importlib.import_module("mabwiser.mab")
        self.mab = mab.MAB(list(range(self.arms)), mab.LearningPolicy.ThompsonSampling(), seed=seed)
        self.fitted = False

    def take(self, arms: Ints, ones: Ints, batch: int) -> None:
        self.mab.partial_fit(arms, 1 - ones if self.world.lowest else ones)
        self.fitted = True

    def choose(self, count: int) -> Ints:
        if not self.fitted:  # it refuses to predict before it has seen anything
            return self.rng.integers(self.arms, size=count)
        return np.array([self.mab.predict() for _ in range(count)], np.int64)


class River(Peer):
    """Thompson sampling with Beta(1, 1); lower-is-better is given as 1 - reward."""

    def start(self, seed: int) -> None:
        bandit, proba = importlib.import_module("river.bandit"), importlib.import_module("river.proba")
        self.policy = bandit.ThompsonSampling(reward_obj=proba.Beta(1, 1), seed=seed)

    def take(self, arms: Ints, ones: Ints, batch: int) -> None:
        for arm, one in zip(arms.tolist(), (ones != self.world.lowest).tolist(), strict=True):
            self.policy.update(arm, one)

    def choose(self, count: int) -> Ints:
        arms = range(self.arms)
        return np.array([self.policy.pull(arms) for _ in range(count)], np.int64)


class VowpalWabbit(Peer):
    """Contextual bandit without features; its costs are lower-is-better by themselves."""

    rule = "--squarecb"

    def start(self, seed: int) -> None:
        vw = importlib.import_module("vowpalwabbit")
        self.space = vw.Workspace(f"--cb_explore_adf {self.rule} --quiet --random_seed {seed}")
        self.plain = [f"| arm{arm}" for arm in range(self.arms)]
        self.chances: list[Floats] = []

    def take(self, arms: Ints, ones: Ints, batch: int) -> None:
        sign = 1 if self.world.lowest else -1
        for arm, one in zip(arms.tolist(), ones.tolist(), strict=True):
            lines = self.plain.copy()
            lines[arm] = f"0:{sign * one}:{self.chances[batch][arm]:.6f} {lines[arm]}"
            self.space.learn("shared |\n" + "\n".join(lines))

    def choose(self, count: int) -> Ints:
        chance = np.array(self.space.predict("shared |\n" + "\n".join(self.plain)))
        self.chances.append(np.maximum(chance / chance.sum(), 1e-6))
        return self.rng.choice(self.arms, size=count, p=chance / chance.sum())


class VowpalMeans(VowpalWabbit):
    """The same, tuned: one weight for each arm, steps of 1 / t, so that it learns running means."""

    rule = "--squarecb --noconstant --power_t 1 -l 1"


class GrowthBook(Peer):
    """Two arms by the chance to win of its Bayesian test: this version has no bandit and no more arms than two."""

    def start(self, seed: int) -> None:
        del seed
        self.sums = np.zeros((2, 2), np.int64)

    def take(self, arms: Ints, ones: Ints, batch: int) -> None:
        self.sums += np.column_stack(
            [np.bincount(arms, minlength=2), np.bincount(arms[ones > 0], minlength=2)]
        )

    def choose(self, count: int) -> Ints:
        second = chance_to_win(self.sums, self.world.lowest)
        return (self.rng.random(count) < second).astype(np.int64)


def chance_to_win(sums: Ints, lowest: bool) -> float:
    """gbstats' chance that the second of two arms (n, successes) is better."""
    tests = importlib.import_module("gbstats.bayesian.tests")
    models = importlib.import_module("gbstats.models.statistics")
    arms = [models.ProportionStatistic(n=int(n), sum=int(one)) for n, one in sums]
    rule = tests.EffectBayesianConfig(difference_type="absolute", inverse=lowest)
    return float(tests.EffectBayesianABTest(*arms, rule).compute_result().chance_to_win)


class Own:
    """This project's learner: ledger table, reading, baseline, allocator and bounds, as the server runs them."""

    def __init__(self, world: World, seed: int, baseline: str, floor: float) -> None:
        # Here, because a peer's environment has none of it.
        from bandit.simulate.look import Book, Standing
        from bandit.spec.channels import EARLY_PARTS, ChannelKind
        from bandit.spec.parse import parse_mapping

        metric: dict[str, Any] = {
            "name": "x",
            "kind": "bernoulli",
            "direction": "minimize" if world.lowest else "maximize",
            "attribution_window": "1s",
        }
        if world.delays:
            metric |= {
                "attribution_window": f"{world.window * 3600}s",
                "default_when_silent": 0,
                "pending": "weigh",
            }
        arms = range(len(world.means))
        self.spec = parse_mapping(
            {
                "experiment": "peers",
                "arms": [{"name": f"arm{k}", "control": k == 0} for k in arms],
                "metrics": [metric],
                "objective": [{"metric": "x"}],
                "bounds": {"floor": floor, "control_floor": floor},
                "baseline": baseline,
            }
        )
        self.world, self.parts = world, EARLY_PARTS
        self.early = [c.place if c.kind is ChannelKind.EARLY else None for c in self.spec.columns]
        self.lags = min(world.batches, world.window + 2) if world.delays else 1
        self.book = Book.empty(self.spec, world.batches, self.lags, 1, 3600.0)
        self.standing = Standing.begin(self.spec)
        self.rng = np.random.default_rng((seed, 1))

    def choose(self, count: int) -> Ints:
        from bandit.simulate.look import look

        look(self.standing, self.book, float(count))
        self.shares = np.array(self.standing.shares_ppm) / sum(self.standing.shares_ppm)
        return self.rng.choice(self.shares.size, size=count, p=self.shares)

    def learn(self, arms: Ints, told: Ints, age: Floats) -> None:
        from bandit.simulate.outcomes import Drawn

        size = self.shares.size
        n, s1 = np.zeros((2, self.lags, size, len(self.early)))
        # Without delays a 0 is told as well; with them it is silence, which the reading fills in.
        kept = (told >= 0) & (told < self.lags) if self.world.delays else np.ones(arms.size, np.bool_)
        ones = (told[kept] >= 0).astype(np.float64)
        place = np.maximum(told[kept], 0) * size + arms[kept]
        for column, part in enumerate(self.early):
            value = ones if part is None else (age[kept] <= self.parts[part]).astype(np.float64)
            n[:, :, column] = np.bincount(place, minlength=self.lags * size).reshape(self.lags, size)
            s1[:, :, column] = np.bincount(place, value, self.lags * size).reshape(self.lags, size)
        n, s1 = (np.cumsum(each, axis=0)[:, None] for each in (n, s1))
        assigned = np.bincount(arms, minlength=size).astype(np.float64)[None]
        self.book.add(Drawn(assigned, n, s1, s1), self.shares, self.standing.centres)


def own(baseline: str, floor: float) -> Make:
    return lambda world, seed: Own(world, seed, baseline, floor)


def early(kind: type[Peer]) -> type[Peer]:
    """The same peer, given each 1 as soon as it is told."""
    return type(kind.__name__ + "Early", (kind,), {"waits": False})


def lines(peer: str, world: World) -> Iterator[tuple[str, Make]]:
    """(name, policy) of each line of a peer in a world."""
    if peer == "own":
        yield "stationary", own("stationary", 0.0)
        if world.rising or world.name == "canary5":
            yield "contrast", own("contrast", 0.0)
            yield "contrast, floor 5 %", own("contrast", 0.05)
        return
    kinds: dict[str, tuple[tuple[str, type[Peer]], ...]] = {
        "mabwiser": (("Thompson", Mabwiser),),
        "river": (("Thompson", River),),
        "vowpalwabbit": (("SquareCB", VowpalWabbit), ("SquareCB, tuned", VowpalMeans)),
        "gbstats": (("chance to win", GrowthBook),) if len(world.means) == 2 else (),
    }
    for name, kind in kinds[peer]:
        yield name + (", waits" if world.delays else ""), kind
        if world.delays and kind is not VowpalWabbit:
            yield f"{name}, as told", early(kind)


def work(peer: str, world: World, runs: int, seed: int, seconds: float) -> None:
    """Print the lines of a peer in a world; fewer runs where the time is up."""
    version = "" if peer == "own" else importlib.metadata.version(peer)
    found = list(lines(peer, world))
    for name, make in found:
        began = time.monotonic()
        lost: list[float] = []
        while len(lost) < runs and (len(lost) < 2 or time.monotonic() - began < seconds / len(found)):
            lost.append(round(play(world, make, seed, len(lost)), 3))
        each = np.array(lost)
        line: dict[str, Any] = {
            "table": "regret",
            "world": world.name,
            "peer": peer,
            "version": version,
            "line": name,
        }
        line |= {"runs": each.size, "seed": seed, "regret": round(float(each.mean()), 2)}
        line |= {"se": round(float(each.std(ddof=1) / math.sqrt(each.size)), 2), "each": lost}
        print(json.dumps({**line, "at": time.strftime("%Y-%m-%d %H:%M")}), flush=True)


def answers(peer: str) -> Iterator[tuple[str, Callable[[Ints, bool], Callable[[], Floats]]]]:
    """(name, make) of each way of a peer to a P(best) [K]: ``make`` takes (successes, failures) [K, 2] and whether
    fewer is better, and gives what is timed."""

    def exact(counts: Ints, lowest: bool) -> Callable[[], Floats]:
        from bandit.kernels.best_arm import BETA, best_arm

        params = (counts + 1).astype(np.float64)
        return lambda: best_arm(BETA, params, lowest=lowest).p

    def mabwiser(counts: Ints, lowest: bool) -> Callable[[], Floats]:
        size = len(counts)
        policy = Mabwiser(World("", (0.0,) * size, 1, 1, lowest), 1)
        arms = np.repeat(np.arange(size), counts.sum(1))
        policy.take(arms, np.concatenate([np.repeat([1, 0], each) for each in counts]), 0)
        return lambda: np.bincount(policy.choose(DRAWS), minlength=size) / DRAWS

    def river(counts: Ints, lowest: bool) -> Callable[[], Floats]:
        size = len(counts)
        policy = River(World("", (0.0,) * size, 1, 1, lowest), 1)
        arms = np.repeat(np.arange(size), counts.sum(1))
        policy.take(arms, np.concatenate([np.repeat([1, 0], each) for each in counts]), 0)
        return lambda: np.bincount(policy.choose(DRAWS), minlength=size) / DRAWS

    def gbstats(counts: Ints, lowest: bool) -> Callable[[], Floats]:
        sums = np.column_stack([counts.sum(1), counts[:, 0]])

        def pair() -> Floats:
            second = chance_to_win(sums, lowest)
            return np.array([1.0 - second, second])

        return pair

    ways = {"own": exact, "mabwiser": mabwiser, "river": river, "gbstats": gbstats}
    names = {"own": "quadrature", "gbstats": "normal, two arms"}
    if peer in ways:
        yield names.get(peer, f"{DRAWS:,} draws"), ways[peer]


def best(peer: str) -> None:
    """Print error and time of a peer's P(best) over the golden Beta cases that whole counts can make."""
    for case in json.loads(GOLDEN.read_text())["cases"]:
        if case["family"] != "beta":
            continue
        counts = np.array(case["params"]) - 1.0
        whole = bool((counts == np.round(counts)).all()) and 0.0 < counts.sum() <= 100_000
        if not whole or (peer == "gbstats" and len(counts) != 2):
            continue
        truth = np.array([float(each) for each in case["p_best"]])
        for name, make in answers(peer):
            ask = make(counts.astype(np.int64), case["objective"] == "min")
            ask()
            errors, times = [], []
            for _ in range(5):
                began = time.perf_counter()
                found = ask()
                times.append(1e6 * (time.perf_counter() - began))
                errors.append(float(np.abs(found - truth).max()))
            line: dict[str, Any] = {
                "table": "p_best",
                "case": case["name"],
                "arms": len(counts),
                "peer": peer,
                "line": name,
            }
            line |= {"error": float(f"{np.mean(errors):.2g}"), "us": round(min(times), 1)}
            print(json.dumps(line), flush=True)


def launch(peer: str, world: str, given: argparse.Namespace) -> None:
    """Work of one peer in one world, in its own environment; what it prints goes to peers.jsonl."""
    if peer == "own":
        command = [sys.executable, "-m", "benchmarks.stats.peers"]
    else:
        needs = [word for need in NEEDS[peer] for word in ("--with", need)]
        command = [
            "uv",
            "run",
            "--quiet",
            "--isolated",
            "--no-project",
            "--no-build",
            "--python",
            PYTHON,
            *needs,
        ]
        command += ["python", str(HERE)]
    command += ["work", "--peer", peer, "--world", world, "--runs", str(given.runs)]
    command += ["--seed", str(given.seed), "--seconds", str(given.seconds)]
    done = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, timeout=given.seconds + 120, check=False
    )
    print(done.stdout, end="", flush=True)
    if done.returncode:
        print(f"{peer} in {world} ended with {done.returncode}", file=sys.stderr)
    with RESULTS.open("a") as out:
        out.write(done.stdout)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("all", "own", *NEEDS, "work"))
    parser.add_argument("--peer", choices=("own", *NEEDS), default="own")
    parser.add_argument("--world", default="", help="one of the worlds, or p_best")
    parser.add_argument("--runs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=180.0, help="of one peer in one world")
    given = parser.parse_args()
    worlds = {world.name: world for world in WORLDS}
    if given.what == "work":
        if given.world == "p_best":
            best(given.peer)
        else:
            work(given.peer, worlds[given.world], given.runs, given.seed, given.seconds)
        return
    for world in [given.world] if given.world else ["p_best", *worlds]:
        for peer in ("own", *NEEDS) if given.what == "all" else (given.what,):
            launch(peer, world, given)


if __name__ == "__main__":
    main()

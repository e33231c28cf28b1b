"""Runs of a rehearsal over processes: which process does what never changes a number, and Ctrl-C ends them all."""

from __future__ import annotations

import multiprocessing
import signal
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
from numpy.random import PCG64, Generator, SeedSequence

from bandit.simulate.advice import advice
from bandit.simulate.outcomes import Outcomes
from bandit.simulate.plan import Plan, plan
from bandit.simulate.run import Run, rehearse
from bandit.simulate.tally import Part, Tally, tally
from bandit.simulate.world import WorldFile
from bandit.spec.model import ExperimentSpec

CHUNK = 5
"""Runs that a process takes at a time: seconds of work, so that the bar moves."""


@dataclass(frozen=True, slots=True)
class Rehearsed:
    """A world with what its runs have in common, and what a reader should know in words. ``blind``: the same runs by
    thompson without features, for a spec whose allocator reads them."""

    plan: Plan
    tally: Tally
    advice: tuple[str, ...]
    blind: Tally | None = None


class _Piece(NamedTuple):
    """Runs ``first`` to ``stop`` of a world."""

    world: int
    first: int
    stop: int


def rehearsal(
    spec: ExperimentSpec,
    worlds: Sequence[WorldFile],
    runs: int,
    looks: int,
    seed: int,
    processes: int,
    advance: Callable[[str, int], None],
) -> list[Rehearsed]:
    """Rehearse each world ``runs`` times; ``advance``: told a world's name and how many runs are done anew.

    Run r of world w draws from a generator of its own, made of (seed, w, r). Where the allocator reads features,
    thompson without them is rehearsed beside it, with the same draws.
    """
    plans = [plan(spec, world, looks) for world in worlds]
    blind = blind_twin(spec)
    if blind is not None:
        plans += [plan(blind, world, looks) for world in worlds]
    pieces = [
        _Piece(world, first, min(first + CHUNK, runs))
        for world in range(len(plans))
        for first in range(0, runs, CHUNK)
    ]
    found: list[list[Run]] = [[] for _ in plans]
    for piece, made in zip(pieces, _made(plans, pieces, seed, min(processes, len(pieces))), strict=True):
        found[piece.world] += made
        if piece.world < len(worlds):
            advance(worlds[piece.world].world, len(made))
    tallies = [tally(each, made) for each, made in zip(plans, found, strict=True)]
    without: list[Tally | None] = [*tallies[len(worlds) :]] or [None] * len(worlds)
    return [
        Rehearsed(each, told, advice(each, told), beside)
        for each, told, beside in zip(plans[: len(worlds)], tallies, without, strict=False)
    ]


def blind_twin(spec: ExperimentSpec) -> ExperimentSpec | None:
    """The same release without features, by thompson; None for a spec that reads none."""
    if not spec.is_linear:
        return None
    fields = {name: getattr(spec, name) for name in spec.model_fields_set}
    return ExperimentSpec.model_validate({**fields, "allocator": {"kind": "thompson"}, "features": ()})


def _made(plans: list[Plan], pieces: list[_Piece], seed: int, processes: int) -> Iterator[list[Run]]:
    """The runs of each piece, in order."""
    if processes == 1:
        worker = _Worker(plans, seed)
        yield from map(worker, pieces)
        return
    # spawn: a fork would copy whatever threads the caller has begun.
    pool = ProcessPoolExecutor(processes, multiprocessing.get_context("spawn"), _begin, (plans, seed))
    try:
        for future in [pool.submit(_work, piece) for piece in pieces]:
            yield future.result()
    except BaseException:
        # Ctrl-C, or a process that could not begin: whatever still runs is of no use to anybody.
        for child in multiprocessing.active_children():
            child.terminate()
        raise
    finally:
        pool.shutdown(wait=False, cancel_futures=True)


class _Worker:
    def __init__(self, plans: list[Plan], seed: int) -> None:
        self._outcomes = [Outcomes(each) for each in plans]
        self._plans, self._seed = plans, seed
        names = [each.world.world for each in plans]
        self._draws = [names.index(name) for name in names]

    def __call__(self, piece: _Piece) -> list[Run]:
        return [
            rehearse(
                self._plans[piece.world],
                self._outcomes[piece.world],
                Generator(PCG64(SeedSequence(self._seed, spawn_key=(self._draws[piece.world], run)))),
            )
            for run in range(piece.first, piece.stop)
        ]


_worker: _Worker | None = None


def _begin(plans: list[Plan], seed: int) -> None:
    """In a new process; Ctrl-C is the parent's to hear, who ends this one."""
    global _worker
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    _worker = _Worker(plans, seed)


def _work(piece: _Piece) -> list[Run]:
    assert _worker is not None
    return _worker(piece)


def document(found: Rehearsed) -> dict[str, Any]:
    """A rehearsed world as plain values; shares over time are left to the picture."""
    values = asdict(found.tally)
    del values["seconds"], values["shares"]
    whole = _plain(values, found.tally)
    assert isinstance(whole, dict)
    beside = found.blind
    if beside is not None:
        whole["without_features"] = {"regret": beside.regret, "regret_se": beside.regret_se}
    return {**whole, "advice": list(found.advice)}


def _plain(value: object, source: object) -> object:
    """Values as JSON has them, each Part with its share and interval."""
    if isinstance(source, Part):
        return {
            "share": source.share,
            "low": source.low,
            "high": source.high,
            "runs": source.count,
            "of": source.of,
        }
    if isinstance(value, dict):
        return {key: _plain(each, getattr(source, key)) for key, each in value.items()}
    if isinstance(value, tuple | list):
        assert isinstance(source, tuple)
        return [_plain(each, own) for each, own in zip(value, source, strict=True)]
    return value.item() if isinstance(value, np.generic) else value

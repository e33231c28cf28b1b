"""Worlds in which sources send rewards and one of them is removed: what the tests of removal share."""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple
from unittest.mock import patch

import numpy as np

from bandit import compact
from bandit.facts import STRATA, stream_width, streams
from bandit.ledger import ONE
from bandit.linear.weights import SHARE_BYTES, marks_of
from bandit.log import CORRECT, EXPOSURE, EXPOSURES, REPORT, RETRACT, LogEntry, exposure_entry
from bandit.reward import Amendment, RewardRecord
from bandit.rollout.quarantine import Quarantine
from bandit.rollout.state import State
from bandit.rollout.transitions import (
    Transition,
    create,
    reallocate,
    release_source,
    remove_source,
    start,
)
from server import keeping
from server.keeping import Keeping, open_keeping
from server.learner import Writer
from server.store.base import Commit, Stored, WriterState
from server.store.memory import MemoryStore
from server.store.packed import split_offset
from tests.builders import NOW, SALT, spec
from tests.stores import same_array, same_page, same_values

SOURCES = ("clicks", "grpc", "ratings")
NAME = "answers"
SHARES = ((400_000, 300_000, 300_000), (500_000, 250_000, 250_000), (200_000, 400_000, 400_000))
_SHORT = [
    {"name": "satisfied", "kind": "bernoulli", "direction": "maximize", "attribution_window": "5m",
     "default_when_silent": 0},
    {"name": "cost", "kind": "gaussian", "direction": "minimize", "range": [0.0, 2.0], "attribution_window": "2m",
     "corrections": True},
]  # fmt: skip
SHAPES: dict[str, dict[str, Any]] = {
    "remembered": {"metrics": _SHORT, "unit": {"kind": "request", "mode": "request"}},
    "marks, sticky": {"metrics": _SHORT, "objective": [{"metric": "satisfied"}]},
    "summed": {
        "metrics": [_SHORT[0], _SHORT[1] | {"aggregate": "sum"}],
        "unit": {"kind": "request", "mode": "request"},
        "guardrails": [{"name": "harm", "kind": "harm", "metric": "cost"}],
    },
    "linear": {
        "metrics": [
            {name: value for name, value in _SHORT[0].items() if name != "default_when_silent"},
            _SHORT[1],
        ],
        "objective": [{"metric": "satisfied"}],
        "unit": {"kind": "request", "mode": "request"},
        "allocator": {"kind": "lin_ts"},
        "baseline": "stationary",
        "features": [{"name": "size", "kind": "numeric", "low": 0, "high": 1}],
    },
}


ROUTED = (500_000, 300_000, 200_000), (20_000, 900_000, 80_000)
"""Shares of some requests and of others, where each has its own."""


class Sent(NamedTuple):
    """One reward as a script has it; ``foreign``: without a token. ``op`` of ``bandit.log``."""

    source: int
    issuer: int
    number: int
    metric: int
    q: int
    op: int = REPORT
    foreign: bool = False


class Side:
    """An experiment, its store and its writer; the clock is moved by hand.

    ``held``: quarantines that it has from its beginning on.
    """

    def __init__(self, shape: str, retention: str, held: tuple[Quarantine, ...] = ()) -> None:
        self.ms = NOW
        self.store = MemoryStore(lambda: self.ms)
        self.decisions: dict[tuple[int, int], tuple[int, int, int]] = {}
        self.exposed = 0
        self.sent = 0
        made = create(spec(**SHAPES[shape], event_retention=retention), uid=7, salt=SALT, now_ms=NOW)
        self.store.commit(Commit(0, replace(made.experiment, quarantines=held), made.allocation))
        self.stored = self.load()
        self.commit(start(self.stored.experiment, self.stored.allocation, NOW))
        self.writer: Writer = open_keeping(self.store, self.stored)
        self.reshare()

    def load(self) -> Stored:
        """As the store has it."""
        found = self.store.load(NAME)
        assert found is not None
        return found

    def commit(self, transition: Transition) -> None:
        """Commit a transition; the learner hears of it later."""
        self.store.commit(Commit(self.stored.generation, transition.experiment, transition.allocation))
        self.stored = self.load()

    def reshare(self) -> None:
        """The next allocation, which the learner makes itself."""
        now = self.stored
        if now.experiment.state is State.RUNNING:
            shares = SHARES[now.allocation.number % len(SHARES)]
            self.commit(
                reallocate(
                    now.experiment, now.allocation, shares, now.allocation.centres, "evidence", self.ms
                )
            )
            self.writer.sync(self.stored)

    def send(self, events: Sequence[Sent]) -> None:
        """An entry for each run of events that can share one."""
        runs: list[tuple[bytes, bytes, list[bytes]]] = []
        for event in events:
            made, source = self._record(event), SOURCES[event.source].encode().replace(b"grpc", b"")
            if not runs or runs[-1][:2] != (made.kind, source):
                runs.append((made.kind, source, []))
            runs[-1][2].append(made.pack())
        for kind, source, rows in runs:
            self._log(kind, b"".join(rows), source)

    def expose(self, count: int) -> None:
        """Decisions of the allocation of now."""
        number = self.stored.allocation.number
        rows = b"".join(EXPOSURE.pack(number, 0, at % 3, 1 + at % 64) for at in range(count))
        self._log(EXPOSURES, exposure_entry(9, 1, self.exposed, rows), b"")
        self.exposed += count

    def learn(self, most: int = 1000) -> None:
        """Fold what came, as the loop does."""
        for ledger, offset in dict(self.writer.reads).items():
            entries = self.store.read({ledger: offset}, most, 0).get(ledger, [])
            if entries:
                assert self.writer.knows(entries)
                self.writer.take(ledger, entries)

    def settle(self) -> None:
        """Until nothing waits: neither entries, nor a removal."""
        while self.writer.stands:
            self.writer.tend()
        self.learn(10**6)
        for _ in range(3):
            while self.writer.tend():
                pass

    def again(self) -> None:
        """Another writer takes over."""
        self.writer = open_keeping(self.store, self.stored)
        self.writer.flush()

    def remove(self, source: str) -> None:
        """Remove a source: all there ever was, or what is kept of it when there was more."""
        written = self.store.written(f"{NAME}~")
        assert written is not None
        before = written.counts.sources.get(source)
        counted = before is not None and any((before.applied, before.duplicate, before.conflict,
                                              before.superseded, before.late))  # fmt: skip
        since_ms = split_offset(written.offset)[0] + 1 if counted else 0
        now = self.stored
        self.commit(remove_source(now.experiment, now.allocation, source, since_ms, self.ms))
        self.writer.sync(self.stored)

    def release(self, source: str) -> None:
        """Let a source count again."""
        now = self.stored
        self.commit(release_source(now.experiment, now.allocation, source, self.ms))
        self.writer.sync(self.stored)

    def finished(self, now_ms: int) -> WriterState:
        """The state at the end, all that is old folded into one block and forgotten, as the store has it."""
        self.settle()
        with patch.object(compact, "LEAST", 1):
            self.writer.compact(now_ms)
        self.writer._expired(now_ms)
        state = self.store.load_writer(NAME)
        assert state is not None
        state.seen = self.writer.state.seen  # what is only dropped there by the next fold
        return state

    def _log(self, kind: bytes, payload: bytes, source: bytes) -> None:
        place, id_ = self.store._next_id()
        self.store._kept[NAME].log.append((place, LogEntry(id_, kind, payload, b"", source, 7)))

    def _record(self, event: Sent) -> RewardRecord | Amendment:
        now = self.stored
        self.sent += 1
        if event.foreign:
            return RewardRecord(0, 1, event.number, self.ms, 0, event.q, 0, event.number % 3, event.metric)
        key = event.issuer, event.number
        newest = now.allocation.number
        issued, allocation, arm = self.decisions.setdefault(
            key, (self.ms, max(newest - event.number % 2, 1), event.number % 3)
        )
        spec = now.experiment.spec
        brought = bytes([event.number % 256]) if event.metric in spec.learned else b""
        if spec.weighs:
            shares = ROUTED[event.number % len(ROUTED)]
            brought += marks_of(shares) + shares[arm].to_bytes(SHARE_BYTES, "little")
        record = RewardRecord(
            event.issuer, 1, event.number, issued, allocation, event.q, 0, arm, event.metric,
            1 + event.number % 64, brought,
        )  # fmt: skip
        metric = now.experiment.spec.metrics[event.metric]
        if event.op != REPORT or metric.aggregate == "sum":
            return Amendment(record, self.sent, event.q % 7, event.op)
        return record


def alike(a: WriterState, b: WriterState, shape: str) -> None:
    """Two states are the same but for the number of folds: integers exactly, floats of blocks to 1e-9."""
    assert (a.offset, a.counts, a.exposures_lost) == (b.offset, b.counts, b.exposures_lost)
    assert a.ledger.periods.keys() == b.ledger.periods.keys()
    for number, one in a.ledger.periods.items():
        other = b.ledger.periods[number]
        assert (one.number, one.last, one.start_ms, one.end_ms) == (
            other.number, other.last, other.start_ms, other.end_ms,
        )  # fmt: skip
        for part in ("exposures", "sums", "clusters", "visits"):
            x, y = getattr(one.cells, part), getattr(other.cells, part)
            assert x is y is None or same_array(x, y), part
        for part in ("linear", "weighed"):
            x, y = getattr(one, part), getattr(other, part)
            assert x is y is None or same_array(x, y), part
        for part in ("facts", "units"):
            x, y = getattr(one, part), getattr(other, part)
            assert x is y is None or np.allclose(_plain(x, shape), _plain(y, shape), rtol=1e-9, atol=1e-9), (
                part
            )
    assert a.seen.exposed == b.seen.exposed
    assert a.seen.foreign == b.seen.foreign
    assert a.seen.pages.keys() == b.seen.pages.keys()
    assert all(same_page(a.seen.pages[key], b.seen.pages[key]) for key in a.seen.pages)
    assert a.seen.values.keys() == b.seen.values.keys()
    assert all(same_values(a.seen.values[key], b.seen.values[key]) for key in a.seen.values)


def _plain(values: np.ndarray[Any, Any], shape: str) -> np.ndarray[Any, Any]:
    """Facts without the strata: which neighbours were too small to be one alone depends on when blocks are made."""
    if values.ndim > 2:
        return values
    arms = len(SHARES[0])
    width, made = stream_width(arms), len(streams(spec(**SHAPES[shape])))
    column = np.arange(values.shape[1])
    return values[:, (column % width < width - STRATA * arms) | (column >= made * width)]


def draw(chance: random.Random, length: int) -> list[tuple[str, Any]]:
    """A script: what happens, one thing after the other."""
    script: list[tuple[str, Any]] = []
    for _ in range(length):
        kind = chance.choices(
            ["send", "pass", "expose", "reshare", "learn", "tend", "again"], [10, 5, 2, 2, 6, 4, 1]
        )[0]
        if kind == "send":
            script.append(("send", [_drawn(chance) for _ in range(chance.randint(1, 6))]))
        elif kind == "pass":
            script.append(("pass", chance.choice([1, 1000, 20_000, 60_000, 200_000])))
        else:
            script.append((kind, chance.randint(1, 40)))
    return script


def _drawn(chance: random.Random) -> Sent:
    metric = chance.randint(0, 1)
    return Sent(
        source=chance.randint(0, 2),
        issuer=chance.randint(1, 2),
        number=chance.choice([chance.randint(0, 5), chance.randint(0, 700)]),
        metric=metric,
        q=chance.choice([0, ONE]) if metric == 0 else chance.choice([0, 7, ONE // 3, ONE]),
        op=chance.choice([REPORT, REPORT, CORRECT, RETRACT]) if metric == 1 else REPORT,
        foreign=chance.random() < 0.15,
    )


def play(side: Side, script: Sequence[tuple[str, Any]]) -> None:
    """Let it happen; a removal and a release happen only where events are kept, for others hold them from the start."""
    for kind, value in script:
        keeps = isinstance(side.writer, Keeping)
        if kind == "send":
            side.send(value)
        elif kind == "pass":
            side.ms += value
        elif kind == "expose":
            side.expose(value)
        elif kind == "reshare":
            side.reshare()
        elif kind == "learn":
            side.learn(value)
        elif kind == "tend":
            side.writer.tend()
            side.writer.compact(split_offset(side.writer.state.offset)[0])
        elif kind == "again":
            side.again()
        elif keeps and kind == "remove":
            side.remove(value)
        elif keeps and kind == "release":
            side.release(value)


def small(batch: int = 3) -> Any:
    """Few entries in a turn, and blocks of few periods, so that small worlds meet every boundary."""
    return patch.multiple(keeping, BATCH=batch, BATCH_MS=5_000, SLACK_MS=1_000, TIDY_MS=5_000)

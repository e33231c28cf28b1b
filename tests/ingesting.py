"""What tests of sources share: an experiment that takes rewards, events with tokens, a pipeline, the exact oracle."""

from __future__ import annotations

import base64
import json
import random
import threading
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from bandit.decide import compile_table
from bandit.ids import ledger_names
from bandit.ledger import ONE, S1, N
from bandit.token import Claims, sign
from server.clock import SystemClock
from server.evidence import Evidence
from server.ingest.base import Chosen, RewardSource
from server.ingest.pipeline import Pace, Pipeline
from server.ingest.watch import Watch
from server.partitioned import open_writer
from server.snapshot import SnapshotKeeper
from server.store.base import RewardCounts, Store, Stored
from tests.serving import load, put_running

QUICK = Pace(poll_limit=200, poll_s=0.05, check_s=0.05, advance_s=0.1, publish_s=0.05)
NAME = "src"


class Stopped(BaseException):
    """A test stops a pipeline in the middle of a step, as a kill would."""


@dataclass
class World:
    """A running experiment on a store, its tokens, and how its ledger must end.

    ``expected``: arm -> [n, sum] of the metric ``satisfied`` over distinct good events.
    """

    store: Store
    name: str = "answers"
    clock: SystemClock = field(default_factory=SystemClock)
    expected: dict[int, list[int]] = field(default_factory=dict)
    made: int = 0
    partitions: int = 1

    def __post_init__(self) -> None:
        self.stored: Stored = put_running(
            self.store, self.name, rewards_without_token=True, partitions=self.partitions
        )
        self.keeper = SnapshotKeeper(self.store, self.clock)
        self.keeper.poll()
        self._writer: Evidence | None = None

    def token(self, number: int, *, age_ms: int = 0, arm: int | None = None) -> bytes:
        """The token of decision ``number``."""
        snapshot = self.keeper.snapshot
        assert snapshot is not None
        table = compile_table(self.stored.experiment, self.stored.allocation)
        decision = table.decide(f"unit-{number}", {})
        issuer = 1 + number % self.partitions
        claims = Claims(
            table.uid, table.epoch, table.allocation, issuer, number, self.clock.now_ms() - age_ms, decision.unit_hash,
            decision.propensity_ppm, decision.cohort, decision.arm if arm is None else arm,
        )  # fmt: skip
        return sign(snapshot.keys, claims)

    def good(self, count: int) -> list[bytes]:
        """New plain events, each of a decision of its own; the oracle counts them."""
        table = compile_table(self.stored.experiment, self.stored.allocation)
        bodies = []
        for number in range(self.made, self.made + count):
            arm = table.decide(f"unit-{number}", {}).arm
            value = float(number % 3 == 0)
            bodies.append(event(token=self.token(number), value=value))
            row = self.expected.setdefault(arm, [0, 0])
            row[0] += 1
            row[1] += int(value) * ONE
        self.made += count
        return bodies

    def fold(self) -> RewardCounts:
        """Fold all that is in the log, and look what came of it."""
        if self._writer is None:
            self._writer = open_writer(self.store, load(self.store, self.name))
            self._writer.flush()
        while found := self.store.read(self._writer.offsets, 1000, 0):
            for ledger, entries in found.items():
                self._writer.take(ledger, entries)
        return self._writer.counts

    def forget(self) -> None:
        """Fold by a new writer, as after a failover."""
        self._writer = None

    def counted(self) -> dict[int, list[int]]:
        """What the ledger has, as ``expected``."""
        self.fold()
        assert self._writer is not None
        sums = self._writer.ledger_read.totals().sums.sum(axis=0)
        return {arm: [int(row[0, N]), int(row[0, S1])] for arm, row in enumerate(sums) if int(row[0, N])}

    def ends(self, source: str = NAME) -> dict[str, int]:
        """Of one source: received, and every end that an event can have. Their sum is what was received."""
        counts = self.fold().sources.get(source, RewardCounts())
        ledgers = ledger_names(self.name, self.partitions)
        slots = [*(self.store.fed(each).get(source) for each in ledgers), self.store.buried().get(source)]
        edge: dict[str, int] = {}
        for slot in slots:
            for what, count in (slot.counts if slot else {}).items():
                edge[what] = edge.get(what, 0) + count
        return {
            "received": edge.get("received", 0),
            "lost": edge.get("lost", 0),
            "applied": counts.applied,
            "duplicate": counts.duplicate,
            "conflict": counts.conflict,
            "superseded": counts.superseded,
            "late": counts.late + edge.get("late", 0),
            "rejected": counts.rejected + edge.get("rejected", 0),
            "dead": edge.get("dead", 0),
        }

    def pipeline(
        self,
        source: RewardSource,
        *,
        store: Any = None,
        told: Callable[[str], None] = lambda _: None,
        pace: Pace = QUICK,
    ) -> Pipeline:
        """A pipeline from a source to this world."""
        watch = Watch(NAME, "test", "here", 0)
        chosen = Chosen(NAME, "test", None)
        return Pipeline(
            chosen, source, store or self.store, self.keeper, self.clock, watch, pace=pace, told=told,
            uniform=lambda: 0.01,
        )  # fmt: skip


def event(*, token: bytes = b"", value: object = 1.0, metric: str = "satisfied", **fields: object) -> bytes:
    """A plain event as JSON."""
    given: dict[str, object] = {"metric": metric, "value": value, **fields}
    if token:
        given["token"] = base64.b64encode(token).decode()
    return json.dumps(given).encode()


def adds_up(ends: dict[str, int]) -> bool:
    """Invariant I2: everything that was received ended in exactly one way."""
    parts = ("applied", "duplicate", "conflict", "superseded", "late", "rejected", "dead")
    return ends["received"] == sum(ends[part] for part in parts)


def poisons(world: World, seed: int = 0) -> list[tuple[str, bytes]]:
    """Twelve kinds of events that nobody can count, each with the reason of its dead letter."""
    random_ = random.Random(seed)
    token = base64.b64encode(world.token(10_000_000)).decode()
    good = world.token(10_000_001)
    altered = base64.b64encode(good[:-1] + bytes([good[-1] ^ 1])).decode()
    return [
        ("NOT_UTF8", random_.randbytes(40).replace(b"\n", b"x") + b"\xff"),
        ("NOT_JSON", b'{"token": "' + token.encode()[:30]),
        ("NOT_JSON", b'{"metric": "satisfied", "metric": "cost"}'),
        ("NOT_JSON", b"[" * 10_000),
        ("NOT_AN_OBJECT", b"[1, 2, 3]"),
        ("NOT_JSON", b'{"metric": "satisfied", "value": NaN}'),
        ("UNKNOWN_FIELD", event(valeu=1.0)),
        ("BAD_FIELD", event(token=b"", unit=7)),
        ("BAD_TOKEN", json.dumps({"token": altered, "metric": "satisfied", "value": 1}).encode()),
        ("UNKNOWN_EXPERIMENT", event(experiment="experiments/nobody", arm="small", unit="u")),
        ("UNKNOWN_METRIC", event(token=world.token(10_000_002), metric="joy")),
        ("UNKNOWN_TYPE", b'{"specversion": "1.0", "id": "1", "source": "s", "type": "other", "data": {}}'),
    ]


def run(pipeline: Pipeline, until: Callable[[], bool], turns: int = 2000) -> None:
    """Drive a pipeline by hand until the condition holds; it must be open already."""
    stop = threading.Event()
    for _ in range(turns):
        pipeline.turn(stop)
        if until():
            return
    raise AssertionError(f"not within {turns} turns")


def drain(pipeline: Pipeline, *, quiet: int = 3) -> int:
    """Drive a pipeline until nothing comes any more. Returns how many events came."""
    stop, total, idle = threading.Event(), 0, 0
    while idle < quiet:
        count = pipeline.turn(stop)
        total += count
        idle = 0 if count else idle + 1
    return total


def killed_at(step: str, nth: int = 1) -> Callable[[str], None]:
    """Tells a pipeline to stop just before the nth time of a step."""
    left = [nth]

    def told(now: str) -> None:
        if now == step:
            left[0] -= 1
            if left[0] == 0:
                raise Stopped(step)

    return told


def shuffled(bodies: Iterable[bytes], seed: int) -> list[bytes]:
    """In another order."""
    order: Sequence[bytes] = list(bodies)
    return random.Random(seed).sample(order, len(order))

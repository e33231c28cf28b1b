"""Stores that lose what they acknowledged, and a world that goes on with them: journal, source, learner, operator.

What it should all come to is counted beside, in plain integers.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from bandit.decide import compile_table
from bandit.errors import StoreUnavailable
from bandit.ledger import N
from bandit.log import REWARDS, Append
from bandit.reward import RewardEvent, accept_with_token
from bandit.rollout.transitions import audit_record, roll_back
from bandit.token import Claims
from server.clock import SystemClock
from server.journal import Journal, Shipper
from server.rpc.doubt import Doubt
from server.runtime import LearnerLoop, LoopSettings
from server.store.base import Commit
from server.store.fed import Feed, Move, Position
from server.store.redis import RedisStore
from tests.clusters import free_ports, server, until
from tests.journaling import Known
from tests.learning import Silent
from tests.proxy import Proxy
from tests.serving import load, put_running

NAME = "answers"
PARTITION, EPOCH = "topic/0", "e1"


class Pair:
    """A primary and its replica, each behind a line of its own: ``front`` for clients, ``wire`` for replication."""

    def __init__(self, folder: Path) -> None:
        first, second = free_ports(2)
        self.primary = server(folder / "primary", first)
        self.wire = Proxy(first)
        self.front = Proxy(first)
        self.replica = server(folder / "replica", second, "--replicaof", "127.0.0.1", str(self.wire.place))

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.front.place}"

    @contextlib.contextmanager
    def up(self) -> Iterator[Pair]:
        with self.wire, self.front:
            try:
                for node in (self.primary, self.replica):
                    node.start()
                    node.ready()
                until(
                    lambda: self.replica.admin.info("replication")["master_link_status"] == "up", "it follows"
                )
                yield self
            finally:
                self.replica.stop()
                self.primary.stop()

    def heard(self) -> None:
        """Wait until the replica has everything."""
        until(lambda: self.primary.admin.execute_command("WAIT", 1, 1000), "the replica heard it")

    def fail_over(self) -> None:
        """The primary dies, the replica takes over with what it heard."""
        self.primary.kill()
        self.replica.admin.execute_command("REPLICAOF", "NO", "ONE")
        self.front.port = self.replica.port
        self.front.cut()


class Counting(Silent):
    """Counts what was done about a store that was set back."""

    def __init__(self) -> None:
        self.set_backs: Counter[str] = Counter()

    def set_back(self, action: str) -> None:
        self.set_backs[action] += 1


class World:
    """One experiment, its journal, a source that keeps all events, a learner; and what they should come to."""

    def __init__(self, store: RedisStore, folder: Path) -> None:
        self.store = store
        self.clock = SystemClock()
        now = put_running(store, NAME)
        self.uid = now.experiment.uid
        self.journal = Journal(folder / "journal", store.reserve_issuers(1), segment_bytes=1 << 14)
        names = Known({self.uid: NAME})
        self.shipper = Shipper(self.journal, store, names, self.clock)
        settings = LoopSettings("learner", block_s=0.0, tick_s=0.0, housekeeping_s=0.0)
        self.telemetry = Counting()
        self.accepted_ms = 0
        self.loop = LearnerLoop(store, self.clock, settings, self.telemetry, lambda: self.accepted_ms)
        self.decided: Counter[int] = Counter()
        self.events: list[bytes] = []
        self.rewarded: Counter[int] = Counter()
        self.doubt = Doubt(store, self.clock)
        self.acknowledged = 0
        self.fed = 0
        self.rewound = 0

    def decide(self, count: int) -> None:
        """Decide, journal, and let the source have a reward of each decision."""
        now = load(self.store, NAME)
        table = compile_table(now.experiment, now.allocation)
        for _ in range(count):
            decision = table.decide(f"u{sum(self.decided.values())}", {})
            number = self.journal.record(
                self.uid, table.epoch, table.allocation, decision.cohort, decision.arm
            )
            assert number is not None
            self.decided[decision.arm] += 1
            claims = Claims(
                self.uid, table.epoch, table.allocation, self.journal.issuer, number, self.clock.now_ms(),
                decision.unit_hash, decision.propensity_ppm, decision.cohort, decision.arm,
            )  # fmt: skip
            event = RewardEvent("satisfied", float(number % 3 == 0))
            self.events.append(accept_with_token(now.experiment, claims, event, self.clock.now_ms()).pack())
            self.rewarded[decision.arm] += 1

    def report(self) -> None:
        """A reward of each decision that has none yet, through the door of the reward service."""
        entries = [Append(NAME, self.uid, REWARDS, event) for event in self.events[self.fed :]]
        self.doubt.remember(entries, self.store.append(entries))
        self.acknowledged += len(entries)
        del self.events[self.fed :]

    def turn(self) -> None:
        """Everybody goes on: the shipper ships, the source feeds, the learner learns. Raises StoreUnavailable."""
        self.shipper.step()
        self.doubt.look()
        while self.fed < len(self.events):
            self.feed(min(self.fed + 37, len(self.events)))
        self.loop.step()

    def feed(self, upto: int) -> None:
        """The next events; where the slot says that it is not there, go back to where it is."""
        before = Position(PARTITION, EPOCH, self.fed) if self.fed else None
        move = Move(before, Position(PARTITION, EPOCH, upto))
        entry = (REWARDS, b"".join(self.events[self.fed : upto]))
        told = self.store.feed(Feed(NAME, self.uid, "orders", [entry], {}, [move]))
        if told.taken:
            self.fed = upto
            return
        (at,) = told.at
        self.fed = at.offset if at else 0
        self.rewound += 1

    def settle(self) -> None:
        """Turn until everything is counted."""

        def counted() -> bool:
            with contextlib.suppress(StoreUnavailable):
                self.turn()
            writer = self.loop.writers.get(NAME)
            return (
                writer is not None
                and int(writer.ledger_read.totals().exposures.sum()) >= sum(self.decided.values())
                and writer.counts.applied >= len(self.events) + self.acknowledged
            )

        until(counted, "everything is counted")

    def counts(self) -> tuple[list[int], list[int], int]:
        """Exposures and rewards by arm, exposures lost: as a new writer reads them from the store."""
        state = self.store.load_writer(NAME)
        assert state is not None
        totals = state.ledger.totals()
        rewards = totals.sums[..., 0, N].sum(axis=0)
        return totals.exposures.sum(axis=0).tolist(), rewards.tolist(), state.exposures_lost

    def expected(self) -> tuple[list[int], list[int], int]:
        """The same by an independent count."""
        return [self.decided[arm] for arm in range(3)], [self.rewarded[arm] for arm in range(3)], 0

    def roll_back(self, arm: int) -> None:
        """An operator's command."""
        now = load(self.store, NAME)
        at = self.clock.now_ms()
        moved = roll_back(
            now.experiment, now.allocation, arm, actor="ben", reason="slow", rollback_id="b", now_ms=at
        )
        record = audit_record(
            (now.experiment, now.allocation),
            moved,
            actor="ben",
            sequence=now.audit_sequence,
            previous_hash=now.audit_hash,
            now_ms=at,
        )
        self.store.commit(
            Commit(
                now.generation,
                moved.experiment,
                moved.allocation,
                record,
                request_id=f"roll back {arm}",
                answer=b"done",
            )
        )


def answers(store: RedisStore) -> bool:
    """Is the store there?"""
    with contextlib.suppress(StoreUnavailable):
        return store.load(NAME) is not None
    return False


@contextlib.contextmanager
def world(url: str, folder: Path) -> Iterator[World]:
    with contextlib.closing(RedisStore(url)) as store:
        made = World(store, folder)
        try:
            yield made
        finally:
            made.journal.close()


class Alone:
    """A server whose file tests cut, copy and put back while it is down."""

    def __init__(self, folder: Path) -> None:
        (port,) = free_ports(1)
        self.node = server(folder / "server", port)
        self.url = f"redis://{self.node.address}"
        self._copy = folder / "copy"

    @contextlib.contextmanager
    def up(self) -> Iterator[Alone]:
        self.node.start()
        try:
            self.node.ready()
            yield self
        finally:
            self.node.stop()

    @property
    def file(self) -> Path:
        """What was written last."""
        return max((self.node.folder / "appendonlydir").glob("*.incr.aof"))

    def again(self) -> None:
        self.node.start()
        self.node.ready()

    def copied(self) -> None:
        shutil.copytree(self.node.folder / "appendonlydir", self._copy)

    def put_back(self) -> None:
        """Put the old copy in place of what there is, as an operator would."""
        self.node.kill()
        shutil.rmtree(self.node.folder / "appendonlydir")
        shutil.copytree(self._copy, self.node.folder / "appendonlydir")
        self.again()

"""A store that loses what it acknowledged: a replica that had not heard it takes over, the end of the file is cut.

Faults 7 to 10. A journal, a source that can send again, a learner and an operator go on; in the end every integer is
what an independent count says. The loss is seen before the repair, so that these tests bite.
"""

from __future__ import annotations

import contextlib
import shutil
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from bandit.decide import compile_table
from bandit.errors import CorruptStored, StoreUnavailable
from bandit.ledger import N
from bandit.log import REWARDS, Append
from bandit.reward import RewardEvent, accept_with_token
from bandit.rollout.audit import first_broken
from bandit.rollout.transitions import audit_record, roll_back
from bandit.token import Claims
from server.clock import SystemClock
from server.journal import Journal, Shipper
from server.rpc.doubt import Doubt
from server.runtime import LearnerLoop, LoopSettings
from server.store.base import Commit, Durability, Shipment
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
        entries = [Append(NAME, REWARDS, event) for event in self.events[self.fed :]]
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
                and int(writer.state.ledger.totals().exposures.sum()) >= sum(self.decided.values())
                and writer.state.counts.applied >= len(self.events) + self.acknowledged
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
        self.store.commit(Commit(now.generation, moved.experiment, moved.allocation, record))


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


@pytest.mark.timeout(900)
def test_a_failover_that_lost_writes_is_mended_exactly(tmp_path: Path, full: bool) -> None:
    for round_ in range(20 if full else 2):
        with Pair(tmp_path / str(round_)).up() as pair, world(pair.url, tmp_path / str(round_)) as made:
            made.decide(300)
            made.settle()
            pair.heard()
            pair.wire.silent = True
            made.decide(200)
            made.settle()
            made.roll_back(2)
            made.turn()
            made.decide(100)
            made.report()
            made.decide(100)
            made.settle()
            before = load(made.store, NAME)
            assert before.experiment.arms[2].rollback is not None
            assert made.counts() == made.expected()

            pair.fail_over()
            until(partial(answers, made.store), "the replica answers")
            lost = load(made.store, NAME)
            assert lost.generation < before.generation
            assert lost.experiment.arms[2].rollback is None
            assert made.counts() != made.expected()

            made.decide(50)  # by a server that has the old allocation only
            made.settle()
            assert made.counts() == made.expected()
            after = load(made.store, NAME)
            assert after.generation >= before.generation
            assert after.experiment.arms[2].rollback == before.experiment.arms[2].rollback
            records = made.store.audit(NAME, None, 1000)[::-1]
            assert first_broken(records) is None
            assert before.audit_hash in {record.hash for record in records}
            assert made.telemetry.set_backs["put back"] >= 1
            assert made.telemetry.set_backs["frozen"] == 0
            assert made.doubt.counts.put_back == 100
            assert made.rewound >= 1
            assert made.shipper.counts.again > 0


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


@pytest.mark.timeout(900)
def test_the_end_of_the_file_that_was_cut_is_mended_exactly(tmp_path: Path, full: bool) -> None:
    for round_ in range(20 if full else 1):
        folder = tmp_path / str(round_)
        with Alone(folder).up() as alone, world(alone.url, folder) as made:
            made.decide(300)
            made.settle()
            size = alone.file.stat().st_size
            made.decide(100)
            made.report()
            made.roll_back(2)
            made.decide(200)
            made.settle()
            before = load(made.store, NAME)
            assert made.counts() == made.expected()

            alone.node.kill()
            with alone.file.open("r+b") as file:
                file.truncate(size + 1000 + 77 * round_)
            alone.again()
            until(partial(answers, made.store), "it is there again")
            assert load(made.store, NAME).generation < before.generation
            assert made.counts() != made.expected()

            made.decide(50)
            made.settle()
            assert made.counts() == made.expected()
            assert load(made.store, NAME).experiment.arms[2].rollback == before.experiment.arms[2].rollback
            assert made.doubt.counts.put_back > 0


def test_a_store_of_another_past_is_not_learnt_from_until_it_is_accepted(tmp_path: Path) -> None:
    with Alone(tmp_path).up() as alone, world(alone.url, tmp_path) as made:
        made.decide(300)
        made.settle()
        alone.copied()
        made.decide(300)
        made.roll_back(2)
        made.settle()
        before = load(made.store, NAME)
        alone.put_back()
        until(partial(answers, made.store), "it is there again")
        old = load(made.store, NAME)
        assert old.generation < before.generation
        # Somebody goes on from the old copy before the learner looks: the lost commits have no place any more.
        made.roll_back(1)
        shares = load(made.store, NAME).allocation
        for _ in range(20):
            with contextlib.suppress(StoreUnavailable):
                made.loop.step()
        assert made.telemetry.set_backs["frozen"] >= 1
        assert NAME not in made.loop.writers
        assert load(made.store, NAME).allocation == shares
        made.accepted_ms = made.clock.now_ms()
        made.loop._parked.clear()  # it looks every five seconds
        made.loop.step()
        assert NAME in made.loop.writers


def test_an_emptied_store_is_not_taken_for_a_new_one(tmp_path: Path) -> None:
    with Alone(tmp_path).up() as alone, world(alone.url, tmp_path) as made:
        made.decide(200)
        made.settle()
        alone.copied()
        expected = made.expected()
        alone.node.admin.flushall()
        for _ in range(5):
            with contextlib.suppress(StoreUnavailable):
                made.loop.step()
        assert made.loop.writers == {}
        assert made.store.names() == []
        alone.put_back()
        until(partial(answers, made.store), "it is there again")
        made.settle()
        assert made.counts() == expected


def test_a_part_of_a_ledger_that_is_gone_is_noticed_and_not_begun_anew(tmp_path: Path) -> None:
    """Fault 12: an evicted or deleted hash."""
    with Alone(tmp_path).up() as alone, world(alone.url, tmp_path) as made:
        made.decide(200)
        made.settle()
        keys = made.store._keys.of(NAME)
        for lost in (keys.periods, keys.pages, keys.exposed, keys.writer):
            kept = alone.node.admin.dump(lost)
            alone.node.admin.delete(lost)
            with pytest.raises(CorruptStored):
                made.store.load_writer(NAME)
            made.decide(10)
            made.shipper.step()
            made.loop.step()
            assert NAME not in made.loop.writers
            assert alone.node.admin.exists(lost) == 0
            alone.node.admin.restore(lost, 0, kept)
            made.loop._parked.clear()
        made.settle()
        assert made.counts() == made.expected()


def test_a_primary_whose_replica_is_silent_stops_to_write(tmp_path: Path) -> None:
    """Fault 8, with the settings that `doctor` asks for; what was refused was not done."""
    with Pair(tmp_path).up() as pair, contextlib.closing(RedisStore(pair.url)) as store:
        put_running(store, NAME)
        assert (
            store.append_kept([Append(NAME, REWARDS, b"a")], Durability.REPLICATED)[1]
            is Durability.REPLICATED
        )
        assert store.append_kept([Append(NAME, REWARDS, b"b")], Durability.FSYNCED)[1] is Durability.FSYNCED
        assert store.secured(NAME) is Durability.FSYNCED
        pair.primary.admin.config_set("min-replicas-max-lag", 1)
        pair.primary.admin.config_set("min-replicas-to-write", 1)
        pair.wire.silent = True

        def refused() -> bool:
            try:
                _, safe = store.append_kept([Append(NAME, REWARDS, b"c")], Durability.REPLICATED)
            except StoreUnavailable as error:
                return "too few replicas" in str(error)
            assert safe is Durability.MEMORY  # it is taken, and the answer does not claim more
            return False

        until(refused, "the lag is noticed")
        length = pair.primary.admin.xlen(store._keys.of(NAME).log)
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            store.ship([Shipment(NAME, load(store, NAME).experiment.uid, 1, 0, 1, b"x")])
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            store.append([Append(NAME, REWARDS, b"d")])
        assert pair.primary.admin.xlen(store._keys.of(NAME).log) == length

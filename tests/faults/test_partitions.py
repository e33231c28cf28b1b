"""An experiment over several servers of a cluster: one loses its last writes, somebody dies between two slots."""

from __future__ import annotations

import contextlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bandit.decide import compile_table
from bandit.errors import AlreadyExists, NotFound, StoreUnavailable
from bandit.ids import ledger_name, ledger_names
from bandit.ledger import N
from bandit.log import REWARDS, Append, partition_of
from bandit.reward import RewardEvent, accept_with_token
from bandit.token import Claims
from server.clock import SystemClock
from server.journal import Journal, Shipper
from server.partitioned import open_writer
from server.rpc.changes import Asked, Changes
from server.rpc.doubt import Doubt
from server.runtime import LearnerLoop, LoopSettings
from server.store import scripts
from server.store.fed import Feed, Move, Position
from server.store.keys import Keys
from server.store.redis import RedisStore
from tests.builders import spec
from tests.clusters import Cluster, Node, until
from tests.losing import Counting
from tests.serving import load, put_running

PARTITIONS, ISSUERS = 4, 5
TOPIC, EPOCH = "topic/0", "e1"


class Ledgers:
    """Which ledger counts an issuer's decisions; nothing is ever deleted."""

    def __init__(self, name: str) -> None:
        self.name = name

    def ledger_of(self, uid: int, issuer: int, since_s: float) -> str | None:
        """See Names."""
        return ledger_name(self.name, partition_of(issuer, 0, PARTITIONS))


class World:
    """Serving processes with their journals, a source, the reward service and a learner; what they should come to."""

    def __init__(self, store: RedisStore, folder: Path, name: str) -> None:
        self.store, self.name = store, name
        self.clock = SystemClock()
        self.now = put_running(store, name, partitions=PARTITIONS)
        self.uid = self.now.experiment.uid
        first = store.reserve_issuers(ISSUERS)
        self.journals = [
            Journal(folder / f"{issuer}" / "journal", issuer, segment_bytes=1 << 14)
            for issuer in range(first, first + ISSUERS)
        ]
        self.shippers = [Shipper(each, store, Ledgers(name), self.clock) for each in self.journals]
        self.doubt = Doubt(store, self.clock)
        self.telemetry = Counting()
        self.loop = self.learner()
        self.decided: Counter[int] = Counter()
        self.events: dict[str, list[bytes]] = {ledger: [] for ledger in ledger_names(name, PARTITIONS)}
        self.fed = dict.fromkeys(self.events, 0)
        self.unsent: list[Append] = []
        self.told = 0

    def learner(self) -> LearnerLoop:
        """Another one; the one before is dead."""
        settings = LoopSettings("learner", block_s=0.0, tick_s=0.0, housekeeping_s=0.0)
        return LearnerLoop(self.store, self.clock, settings, self.telemetry)

    def decide(self, count: int) -> None:
        """Each process decides; every second reward comes from the source, the others by the reward service."""
        now = self.now
        table = compile_table(now.experiment, now.allocation)
        for journal in self.journals:
            ledger = ledger_name(self.name, partition_of(journal.issuer, 0, PARTITIONS))
            for _ in range(count):
                decision = table.decide(f"u{sum(self.decided.values())}", {})
                number = journal.record(
                    self.uid, table.epoch, table.allocation, decision.cohort, decision.arm
                )
                assert number is not None
                self.decided[decision.arm] += 1
                claims = Claims(
                    self.uid, table.epoch, table.allocation, journal.issuer, number, self.clock.now_ms(),
                    decision.unit_hash, decision.propensity_ppm, decision.cohort, decision.arm,
                )  # fmt: skip
                event = RewardEvent("satisfied", float(number % 3 == 0))
                record = accept_with_token(now.experiment, claims, event, self.clock.now_ms()).pack()
                if number % 2:
                    self.events[ledger].append(record)
                else:
                    self.unsent.append(Append(ledger, self.uid, REWARDS, record))
        self.told += count * ISSUERS

    def turn(self) -> None:
        """Everybody goes on. Raises StoreUnavailable."""
        for shipper in self.shippers:
            shipper.step()
            shipper._checked_s = float("-inf")
        self.doubt.remember(self.unsent, self.store.append(self.unsent))
        self.unsent.clear()
        self.doubt.look()
        for ledger in self.events:
            while self.fed[ledger] < len(self.events[ledger]):
                self._feed(ledger, min(self.fed[ledger] + 37, len(self.events[ledger])))
            self._look_back(ledger)
        self.loop.step()
        self.now = load(self.store, self.name)

    def settle(self) -> None:
        """Turn until everything is counted, as new writers read it from the slots."""

        def counted() -> bool:
            try:
                self.turn()
                totals = open_writer(self.store, load(self.store, self.name)).ledger_read.totals()
            except StoreUnavailable:
                return False
            return (
                int(totals.exposures.sum()) >= sum(self.decided.values())
                and int(totals.sums[..., 0, N].sum()) >= self.told
            )

        until(counted, "everything is counted")

    def check(self) -> None:
        """Exposures by arm and rewards, as new writers read them from the slots."""
        writer = open_writer(self.store, load(self.store, self.name))
        totals = writer.ledger_read.totals()
        exposures = totals.exposures.sum(axis=0).tolist()
        assert exposures == [self.decided[arm] for arm in range(len(exposures))]
        assert int(totals.sums[..., 0, N].sum()) == self.told == sum(self.decided.values())
        assert writer.exposures_lost == 0
        assert writer.counts.rejected == 0

    def _feed(self, ledger: str, upto: int) -> None:
        fed = self.fed[ledger]
        move = Move(Position(TOPIC, EPOCH, fed) if fed else None, Position(TOPIC, EPOCH, upto))
        entry = (REWARDS, b"".join(self.events[ledger][fed:upto]))
        told = self.store.feed(Feed(ledger, self.uid, "orders", [entry], {}, [move]))
        if told.taken:
            self.fed[ledger] = upto
            return
        (at,) = told.at
        self.fed[ledger] = at.offset if at else 0

    def _look_back(self, ledger: str) -> None:
        """A source looks where its slot stands, as ``Slots.set_back`` does."""
        slot = self.store.fed(ledger).get("orders")
        at = slot.positions.get(TOPIC) if slot else None
        self.fed[ledger] = min(self.fed[ledger], at.offset if at else 0)


@pytest.fixture(scope="module")
def spread(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Four primaries without replicas; their files are cut while they are down."""
    with Cluster(tmp_path_factory.mktemp("spread"), primaries=4) as made:
        yield made


def owners(cluster: Cluster, name: str) -> list[Node]:
    """The server of each ledger."""
    return [cluster.owner(Keys().of(ledger).head) for ledger in ledger_names(name, PARTITIONS)]


def apart(cluster: Cluster, word: str) -> str:
    """A name whose ledgers are on four servers."""
    names = (f"{word}-{number}" for number in range(2000))
    return next(name for name in names if len({id(node) for node in owners(cluster, name)}) == PARTITIONS)


def file_of(node: Node) -> Path:
    """What a server writes to now."""
    return max((node.folder / "appendonlydir").glob("*.incr.aof"))


@contextlib.contextmanager
def losing_what_follows(node: Node) -> Iterator[None]:
    """What the server is given meanwhile is gone afterwards, as if the end of its file was never written."""
    file, size = file_of(node), file_of(node).stat().st_size
    yield
    node.kill()
    with file.open("r+b") as end:
        end.truncate(size)
    node.start()
    node.ready()


@pytest.mark.timeout(3600)
def test_any_one_server_may_lose_its_last_writes(spread: Cluster, tmp_path: Path, full: bool) -> None:
    """Each in turn, the learner living on; then with a new learner."""
    name = apart(spread, "lossy")
    with contextlib.closing(RedisStore(spread.url)) as store:
        world = World(store, tmp_path, name)
        count, rounds = (200, 5) if full else (40, 1)
        each = owners(spread, name)
        for turn, node in enumerate([*each, each[1]] * rounds):
            world.decide(count)
            world.settle()
            with losing_what_follows(node):
                world.decide(count)
                world.turn()
                world.decide(count)
                world.turn()
            if turn % (PARTITIONS + 1) == PARTITIONS:
                world.loop = world.learner()
            world.settle()
            world.check()
        assert world.telemetry.set_backs["folded again"]
        assert sum(each.counts.again for each in world.shippers)
        assert world.doubt.counts.put_back


def test_a_server_that_is_away_stops_what_it_counts_and_nothing_is_lost(
    spread: Cluster, tmp_path: Path
) -> None:
    name = apart(spread, "away")
    home = spread.owner(Keys().version)
    node = next(each for each in owners(spread, name) if each is not home)
    with contextlib.closing(RedisStore(spread.url, timeout_s=1.0)) as store:
        world = World(store, tmp_path, name)
        world.decide(20)
        world.settle()
        node.kill()
        with pytest.raises(StoreUnavailable):
            world.turn()
        # Experiments of one slot have nothing to do with the servers of others.
        names = (f"small-{number}" for number in range(100_000))
        here = (each for each in names if spread.owner(Keys().of(each).head) is home)
        until(lambda: made_and_deleted(store, next(here)), "another one is made and deleted")
        node.start()
        node.ready()
        world.decide(20)
        world.settle()
        world.check()


def made_and_deleted(store: RedisStore, name: str) -> bool:
    """Make and delete an experiment in one slot of a living server; False where either was not said to be done."""
    try:
        store.delete(name, put_running(store, name).generation)
    except StoreUnavailable:
        return False
    return store.load(name) is None


class Breaking:
    """A line to the store that breaks at one of its calls, before it was sent or when it was done."""

    def __init__(self, store: RedisStore, left: int, *, after: bool) -> None:
        self._line = store._link
        self.left, self.after = left, after

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._line, name)
        if name not in ("run", "batch", "call"):
            return found

        def call(*given: Any, **more: Any) -> Any:
            self.left -= 1
            if self.left == 0 and not self.after:
                raise StoreUnavailable("it broke here")
            answer = found(*given, **more)
            if self.left == 0:
                raise StoreUnavailable("it broke here")
            return answer

        return call


def names_left(store: RedisStore) -> set[str]:
    """Keys that the store has, but for the registry and what outlives an experiment for a while."""
    found = store._link.nodes()[0].call("KEYS", f"{store._keys.namespace}:*")
    kept = (":{_registry}:", ":past", ":deletion", ":secured", ":{_sources}:")
    return {key.decode() for key in found if not any(part in key.decode() for part in kept)}


@pytest.mark.parametrize("remote", ["valkey"], indirect=True)
def test_a_slot_that_another_took_meanwhile_is_not_cleared(remote: RedisStore) -> None:
    """Who clears has read whose the slot is; by the time it writes, the next experiment of the name may have it."""
    keys = remote._keys.of("release/1")
    assert remote.begin("release/1", 8)
    assert scripts.plant(remote._link, keys, 7, [], clear=True) == "other"
    assert remote.append([Append("release/1", 8, REWARDS, b"x")]) != [""]
    assert scripts.plant(remote._link, keys, 8, [], clear=True) == "ok"
    assert remote.append([Append("release/1", 8, REWARDS, b"x")]) == [""]


@pytest.mark.parametrize("remote", ["valkey"], indirect=True)
@pytest.mark.parametrize("after", [False, True], ids=["before it is sent", "after it is done"])
def test_a_create_and_a_delete_may_break_at_every_call(remote: RedisStore, after: bool) -> None:
    """Whoever asks again has it made, or gone, once and whole; a learner finishes what nobody asks for again."""
    changes = Changes(remote, SystemClock())
    line = remote._link
    made = gone = 0
    for left in range(1, 26):
        name = f"release-{left}"
        wanted = spec(experiment=name, partitions=3)
        remote._link = Breaking(remote, left, after=after)  # type: ignore[assignment]
        with contextlib.suppress(StoreUnavailable):
            changes.create(wanted, Asked(request_id=f"make-{left}"))
            made += 1
        remote._link = line
        if left % 2 and remote.load(name) is not None:
            open_writer(remote, load(remote, name)).flush()  # a learner comes first
        changes.create(wanted, Asked(request_id=f"make-{left}"))
        open_writer(remote, load(remote, name)).flush()
        with pytest.raises(AlreadyExists):
            changes.create(wanted, Asked(request_id="another"))
        uid = load(remote, name).experiment.uid
        for ledger in ledger_names(name, 3):
            assert remote.append([Append(ledger, uid, REWARDS, b"x")]) != [""]
            assert remote.load_writer(ledger) is not None
        remote._link = Breaking(remote, left, after=after)  # type: ignore[assignment]
        with contextlib.suppress(StoreUnavailable):
            changes.delete(name, Asked(request_id=f"drop-{left}"))
            gone += 1
        remote._link = line
        with contextlib.suppress(NotFound):
            changes.delete(name, Asked(request_id=f"drop-{left}" if left % 2 else ""))
        assert names_left(remote) == set()
        assert remote.append([Append(f"{name}/2", uid, REWARDS, b"x")]) == [""]
    assert made > 5, "some must not have broken any more"
    assert gone > 5
    remote._link = line

"""A cluster whose slots move and whose primaries die, a primary that Sentinels replace: nothing is counted twice."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest
import redis
from redis.crc import key_slot

from bandit.errors import BanditError, StoreUnavailable
from bandit.log import REWARDS, START, Append
from bandit.rollout.transitions import start
from server.clock import SystemClock
from server.runtime import LearnerLoop, LoopSettings
from server.store.base import Store
from server.store.cluster import ClusterLink
from server.store.redis import RedisStore
from tests.builders import NOW, spec
from tests.clusters import Cluster, Node, Watched, until
from tests.gateway import Gateway
from tests.hammer import at_once
from tests.learning import Silent
from tests.stores import following, new_name, put, simple_write, stored


@pytest.fixture(scope="module")
def shaken(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries, each with a replica, which tests of this file hurt and mend."""
    with Cluster(tmp_path_factory.mktemp("shaken"), replicas=1) as made:
        yield made


@pytest.fixture
def many(shaken: Cluster) -> Iterator[RedisStore]:
    with contextlib.closing(RedisStore(shaken.url)) as store:
        yield store


class Appending:
    """Appends numbered entries to an experiment until it is told to stop; ``taken`` are those that the store took."""

    def __init__(self, store: Store, name: str) -> None:
        self.taken: list[bytes] = []
        self.refused: list[BanditError] = []
        self._store, self._name = store, name
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Appending:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(60)

    def _run(self) -> None:
        number = 0
        while not self._stop.is_set():
            payload = b"%d" % number
            try:
                (place,) = self._store.append([Append(self._name, 7, REWARDS, payload)])
                assert place
                self.taken.append(payload)
            except BanditError as error:
                self.refused.append(error)
                time.sleep(0.01)
            number += 1


def logged(store: Store, name: str) -> list[bytes]:
    return [entry.payload for entry in store.read({name: START}, 1_000_000, 0).get(name, [])]


def owner_and_another(cluster: Cluster, store: RedisStore, name: str) -> tuple[int, Node, Node]:
    head = store._keys.of(name).head
    owner = cluster.owner(head)
    owners = {cluster.owner(f"{{{word}}}").port: word for word in ("a", "b", "c", "d", "e", "f", "g", "h")}
    another = next(node for node in cluster.nodes if node.port in owners and node is not owner)
    return key_slot(head.encode()), owner, another


def test_a_slot_that_moves_under_load_fails_nobody(shaken: Cluster, many: RedisStore) -> None:
    name = put(many, new_name()).experiment.name
    assert many.fold(name, simple_write(7, 0))
    slot, owner, another = owner_and_another(shaken, many, name)
    with Appending(many, name) as appending:
        for source, target in ((owner, another), (another, owner)):
            until(lambda: len(appending.taken) % 7, "some are taken")
            shaken.move(slot, source, target)
            now = stored(many, name)
            many.commit(following(now))
            assert many.fold(name, simple_write(7, now.generation))
    assert appending.refused == []
    assert logged(many, name) == appending.taken
    assert stored(many, name).generation == 3


def test_a_slot_that_is_half_moved_is_read_and_written_where_its_keys_are(
    shaken: Cluster, many: RedisStore
) -> None:
    name = put(many, new_name()).experiment.name
    slot, owner, another = owner_and_another(shaken, many, name)
    many.append([Append(name, 7, REWARDS, b"before")])
    shaken.move(slot, owner, another, finish=False)
    try:
        assert many.append([Append(name, 7, REWARDS, b"during")]) != [""]
        assert many.load(name) is not None
        assert many.names().count(name) == 1
        assert many.load_many([name])[name] == many.load(name)
        assert logged(many, name) == [b"before", b"during"]
        # A script over keys on both sides can go nowhere; it did nothing, and says so in our words.
        with pytest.raises(StoreUnavailable, match="moves this to another server just now"):
            many.fold(name, simple_write(7, 0))
    finally:
        shaken.move(slot, owner, another)
    assert many.fold(name, simple_write(7, 0))
    assert logged(many, name) == [b"before", b"during"]
    shaken.move(slot, another, owner)


def test_a_script_is_brought_to_each_server_that_lost_it(shaken: Cluster, many: RedisStore) -> None:
    names = [put(many, new_name()).experiment.name for _ in range(6)]
    for node in shaken.nodes[:3]:
        node.admin.execute_command("SCRIPT", "FLUSH")
    for name in names:
        assert many.acquire(name, "a", 10_000) is not None
    assert many.version() > 0


def test_a_primary_that_dies_is_replaced_and_nothing_is_counted_twice(
    shaken: Cluster, many: RedisStore
) -> None:
    name = put(many, new_name()).experiment.name
    _, owner, _ = owner_and_another(shaken, many, name)
    with Appending(many, name) as appending:
        until(lambda: len(appending.taken) > 100, "some are taken")
        until(lambda: owner.admin.execute_command("WAIT", 1, 100), "the replica has them")
        before = len(appending.taken)
        owner.kill()
        until(lambda: len(appending.taken) > before + 100, "the replica took over")
    assert appending.refused
    assert all(isinstance(error, StoreUnavailable) for error in appending.refused)
    found = logged(many, name)
    # One try a call: what was not answered may be there once, never twice.
    assert len(found) == len(set(found))
    assert set(appending.taken) - set(found) == set()
    assert many.load(name) is not None
    owner.start()
    owner.ready()


def test_every_server_of_a_cluster_is_looked_at(shaken: Cluster, many: RedisStore) -> None:
    node = shaken.owner("banditd:{_registry}:version")
    node.admin.config_set("maxmemory-policy", "allkeys-lru")
    try:
        row = next(row for row in many.findings() if row.check == "eviction")
    finally:
        node.admin.config_set("maxmemory-policy", "noeviction")
    assert (row.ok, row.fatal) == (False, True)
    assert row.seen == f"{node.address}: allkeys-lru"


def test_a_cluster_that_is_not_there_is_one_error(tmp_path: Any) -> None:
    link = ClusterLink("redis+cluster://127.0.0.1:1,127.0.0.1:2", timeout_s=0.2)
    with pytest.raises(StoreUnavailable, match="redis\\+cluster://127"):
        link.call("GET", "x")
    link.close()


def test_a_primary_that_sentinels_replace_is_followed(tmp_path: Any) -> None:
    with Watched(tmp_path) as watched, contextlib.closing(RedisStore(watched.url)) as store:
        name = put(store, new_name()).experiment.name
        listener = store.subscribe()
        with Appending(store, name) as appending:
            until(lambda: len(appending.taken) > 100, "some are taken")
            until(lambda: watched.primary.admin.execute_command("WAIT", 1, 100), "the replica has them")
            before = len(appending.taken)
            watched.primary.kill()
            until(lambda: len(appending.taken) > before + 100, "the replica took over")
        found = logged(store, name)
        assert len(found) == len(set(found))
        assert set(appending.taken) - set(found) == set()
        with pytest.raises(StoreUnavailable):
            listener.next(1)
        listener.close()
        fresh = store.subscribe()
        store.commit(following(stored(store, name)))
        assert fresh.next(10) == name
        fresh.close()


def test_a_primary_that_became_a_replica_is_left_though_its_lines_stay_open(tmp_path: Any) -> None:
    with Watched(tmp_path) as watched, contextlib.closing(RedisStore(watched.url)) as store:
        name = put(store, new_name()).experiment.name
        assert all(at_once(4, lambda _: store.load(name)))  # several lines, which then wait for use
        # By hand and in silence: nobody closes the store's connections, as Sentinels would.
        watched.primary.admin.execute_command("CONFIG", "SET", "min-replicas-to-write", "0")
        for sentinel in watched.sentinels:
            sentinel.kill()
        watched.primary.admin.execute_command("REPLICAOF", "127.0.0.1", watched.replica.port)
        watched.replica.admin.execute_command("REPLICAOF", "NO", "ONE")
        with pytest.raises(StoreUnavailable, match=r"replica|slave"):
            store.acquire(name, "a", 1000)
        # The idle ones are closed: every next call asks the Sentinels anew, which are not there.
        for answer in at_once(4, lambda _: store.load(name)):
            assert isinstance(answer, StoreUnavailable)
            assert "no Sentinel names a primary" in str(answer)


def test_experiments_of_many_slots_are_learnt_from_side_by_side(shaken: Cluster, many: RedisStore) -> None:
    """A gateway for each, one learner for all, scripts flushed meanwhile."""
    gateways = [Gateway(many, new_name()) for _ in range(6)]
    for number, gateway in enumerate(gateways):
        gateway.issuer = number + 1
        gateway.create(spec(experiment=gateway.name), NOW)
        gateway.change(start, now_ms=NOW + 1000)
    assert len({shaken.owner(many._keys.of(each.name).head).port for each in gateways}) > 1
    settings = LoopSettings("learner", block_s=0.0, tick_s=0.0, housekeeping_s=0.0)
    loop = LearnerLoop(many, SystemClock(), settings, Silent())
    for _ in range(5):
        for gateway in gateways:
            gateway.serve(20, many.now_ms(), lambda _arm, number: {"satisfied": float(number % 2)})
        for node in shaken.nodes[:3]:
            with contextlib.suppress(redis.exceptions.RedisError):
                node.admin.execute_command("SCRIPT", "FLUSH")
        loop.step()

    def folded() -> bool:
        loop.step()
        return all(loop.writers[each.name].counts.applied >= 100 for each in gateways)

    until(folded, "all is folded")
    for gateway in gateways:
        state = many.load_writer(gateway.name)
        assert state is not None
        assert state.counts.applied == gateway.rewarded == 100
        assert int(state.ledger.totals().exposures.sum()) == sum(gateway.decided.values()) == 100
        assert state.exposures_lost == 0

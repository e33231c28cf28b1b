"""Whatever lies under the keys: the store answers CorruptStored, changes nothing, and serves the others."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from redis.crc import key_slot

from bandit.errors import BanditError, CorruptStored, Stale
from bandit.log import REWARDS, START, Append
from bandit.seen import BucketKey, PageKey
from server.store.base import FoldWrite, Shipment, Stored
from server.store.fed import RECEIVED, Feed
from server.store.keys import ExperimentKeys, Keys
from server.store.redis import RedisStore
from tests.stores import Writing, following, new_name, page, period, put, record, same, simple_write, stored

BUCKET = BucketKey(489_123, 1, 0)


class Raw:
    """The bytes under a store, past its code."""

    def __init__(self, store: RedisStore) -> None:
        self.client: Any = store._link._quick
        self.keys: Keys = store._keys

    def everything(self) -> dict[bytes, bytes]:
        """Every key of the namespace with its value as the server dumps it."""
        found = sorted(self.client.scan_iter(match=f"{self.keys.namespace}:*", count=1000))
        return {key: self.client.dump(key) for key in found}


@pytest.fixture
def raw(remote: RedisStore) -> Raw:
    return Raw(remote)


def full_write(uid: int = 7, expected_sequence: int = 1) -> FoldWrite:
    """A fold that touches every key."""
    random = np.random.default_rng(1)
    return simple_write(
        uid,
        expected_sequence,
        set_periods={1: period(1, random), 2: period(2, random)},
        set_pages={PageKey(1, 1, 0, 0): page(random)},
        add_foreign={BUCKET: {expected_sequence: 1}},
        exposed={1: 10 + expected_sequence},
        folded=(np.ones((1, 1, 1)), np.ones(1, np.int64)),
        replies={b"r%d" % expected_sequence: b"\x01"},
        drop_allocations=1,
    )


@pytest.fixture
def used(remote: RedisStore) -> Stored:
    """An experiment that has something under every key."""
    now = put(remote, new_name())
    name = now.experiment.name
    remote.commit(following(now, audit=record(now), request_id="r"))
    fence = remote.acquire(name, "a", 600_000)
    assert fence is not None
    assert remote.put_status(name, b"status", fence)
    assert remote.put_report(name, b"report", fence)
    remote.append([Append(name, 7, REWARDS, b"x")])
    assert remote.ship([Shipment(name, 7, 1, 0, 10, b"x")]) == [10]
    assert remote.feed(Feed(name, 7, "orders", counts={RECEIVED: 1})).taken
    assert remote.fold(name, full_write(expected_sequence=0))
    now = stored(remote, name)
    after = replace(now.allocation, number=now.allocation.number + 1)
    remote.commit(following(now, allocation=after))
    return stored(remote, name)


def keys_of(remote: RedisStore, now: Stored) -> ExperimentKeys:
    return remote._keys.of(now.experiment.name)


def test_every_key_is_known_and_deleting_leaves_none(remote: RedisStore, raw: Raw, used: Stored) -> None:
    keys = keys_of(remote, used)
    there = {key.decode() for key in raw.everything() if key.decode().startswith(keys.root)}
    # Of the ledger of before the events that are kept there is nothing: none are.
    own = {key for key in keys.all(["489123.1.0"]) if not key.startswith(f"{keys.root}base:")}
    assert there == {*own, keys.reply(b"r0")}
    assert len({key_slot(key.encode()) for key in there}) == 1
    lifetimes = {key: raw.client.ttl(key) for key in there}
    assert {key for key, ttl in lifetimes.items() if ttl != -1} == {
        keys.reply(b"r0"),
        keys.requests,
        keys.requested,
        keys.lease,
    }
    assert 0 < lifetimes[keys.reply(b"r0")] <= 60
    assert 0 < lifetimes[keys.requests] <= 86_400
    remote.delete(used.experiment.name, used.generation)
    assert {key.decode() for key in raw.everything() if key.decode().startswith(keys.root)} == {
        keys.reply(b"r0")
    }


def test_creating_clears_what_some_hand_left(remote: RedisStore, raw: Raw, used: Stored) -> None:
    keys = keys_of(remote, used)
    raw.client.delete(keys.head)
    name = used.experiment.name
    assert remote.load(name) is None
    put(remote, name, uid=9)
    assert remote.load_writer(name) is None
    assert remote.read({name: START}, 9, 0) == {}
    there = {key.decode() for key in raw.everything() if key.decode().startswith(keys.root)}
    assert there == {keys.head, keys.allocations, keys.log, keys.reply(b"r0")}


FOLD_KEYS = [
    "head",
    "log",
    "allocations",
    "writer",
    "periods",
    "pages",
    "exposed",
    "foreign",
    "folded",
    "bucket",
    "reply",
]


def key_named(keys: ExperimentKeys, part: str) -> str:
    if part == "bucket":
        return keys.bucket("489123.1.0")
    return keys.reply(b"r1") if part == "reply" else str(getattr(keys, part))


@pytest.mark.parametrize("part", FOLD_KEYS)
def test_a_fold_onto_another_type_changes_nothing(
    remote: RedisStore, raw: Raw, used: Stored, part: str
) -> None:
    key = key_named(keys_of(remote, used), part)
    raw.client.delete(key)
    raw.client.sadd(key, "of", "another", "type")
    before = raw.everything()
    with pytest.raises(CorruptStored, match="WRONGTYPE") as told:
        remote.fold(used.experiment.name, full_write())
    assert key in str(told.value)
    assert raw.everything() == before


@pytest.mark.parametrize("part", ["writer", "periods", "pages", "exposed", "foreign", "folded"])
def test_a_lost_part_of_the_ledger_is_noticed(remote: RedisStore, raw: Raw, used: Stored, part: str) -> None:
    name = used.experiment.name
    raw.client.delete(key_named(keys_of(remote, used), part))
    before = raw.everything()
    with pytest.raises(CorruptStored):
        remote.load_writer(name)
    with pytest.raises(CorruptStored, match="fewer or more parts"):
        remote.fold(name, full_write())
    assert raw.everything() == before


def test_a_lost_period_is_noticed(remote: RedisStore, raw: Raw, used: Stored) -> None:
    name, keys = used.experiment.name, keys_of(remote, used)
    raw.client.hdel(keys.periods, "1")
    with pytest.raises(CorruptStored, match="1 1 1 1 1 1 parts where 1 2 1 1 1 1 were folded"):
        remote.load_writer(name)
    with pytest.raises(CorruptStored, match="fewer or more parts"):
        remote.fold(name, full_write())


def test_a_lost_list_of_ids_is_noticed_when_loaded(remote: RedisStore, raw: Raw, used: Stored) -> None:
    raw.client.delete(key_named(keys_of(remote, used), "bucket"))
    with pytest.raises(CorruptStored, match="holds 0 ids where the index has 1"):
        remote.load_writer(used.experiment.name)


def test_a_lost_ledger_is_no_new_one(remote: RedisStore, raw: Raw, used: Stored) -> None:
    name, keys = used.experiment.name, keys_of(remote, used)
    raw.client.delete(*[key for key in keys.all(["489123.1.0"]) if key != keys.head])
    with pytest.raises(CorruptStored, match="writer's numbers are gone"):
        remote.load_writer(name)
    assert not remote.fold(name, full_write(expected_sequence=0))


@pytest.mark.parametrize("junk", [b"nan", b"inf", b"-1", b"1e9", b"", b"9" * 30 + b"x"])
def test_a_number_that_is_none_stops_the_fold(
    remote: RedisStore, raw: Raw, used: Stored, junk: bytes
) -> None:
    raw.client.hset(keys_of(remote, used).foreign, "489123.1.0", junk)
    before = raw.everything()
    with pytest.raises(CorruptStored):
        remote.fold(used.experiment.name, full_write())
    assert raw.everything() == before


@pytest.mark.parametrize("part", ["periods", "pages", "exposed", "foreign"])
def test_rubbish_in_a_field_is_corrupt(remote: RedisStore, raw: Raw, used: Stored, part: str) -> None:
    name, key = used.experiment.name, key_named(keys_of(remote, used), part)
    for field, value in raw.client.hgetall(key).items():
        for junk in (b"", b"rubbish", value[:-1], value + b"\x00", bytes([value[0] ^ 1]) + value[1:] + b""):
            if junk == value:
                continue
            raw.client.hset(key, field, junk)
            if part == "exposed" and junk.isdigit() and not junk.startswith(b"0"):
                continue  # another plain number cannot be told from the right one
            with pytest.raises(CorruptStored):
                remote.load_writer(name)
        raw.client.hset(key, field, value)
        raw.client.hdel(key, field)
        raw.client.hset(key, b"rubbish", value)
        with pytest.raises(CorruptStored):
            remote.load_writer(name)
        raw.client.hdel(key, b"rubbish")
        raw.client.hset(key, field, value)
    assert remote.load_writer(name) is not None


@pytest.mark.parametrize("part", ["allocations", "audit", "requests", "requested", "lease"])
def test_a_commit_onto_another_type_changes_nothing(
    remote: RedisStore, raw: Raw, used: Stored, part: str
) -> None:
    key = key_named(keys_of(remote, used), part)
    raw.client.delete(key)
    raw.client.set(key, "of another type")
    before = raw.everything()
    commit = following(
        used, allocation=replace(used.allocation, number=9), audit=record(used), request_id="s"
    )
    with pytest.raises(CorruptStored, match="WRONGTYPE"):
        remote.commit(commit)
    after = raw.everything()
    pending = remote._keys.pending.encode()
    assert {k: v for k, v in after.items() if k != pending} == {
        k: v for k, v in before.items() if k != pending
    }
    assert remote.load(used.experiment.name) == used


def test_a_broken_experiment_is_told_and_hurts_no_other(remote: RedisStore, raw: Raw, used: Stored) -> None:
    sound, name = put(remote, new_name()), used.experiment.name
    raw.client.hset(keys_of(remote, used).head, "experiment", b'{"schema":2}')
    with pytest.raises(CorruptStored, match="is missing") as told:
        remote.load(name)
    assert told.value.metadata["generation"] == str(used.generation)
    found = remote.load_many([name, sound.experiment.name])
    assert isinstance(found[name], CorruptStored)
    assert found[sound.experiment.name] == sound
    assert remote.names() == sorted([name, sound.experiment.name])


@pytest.mark.parametrize("field", ["experiment", "allocation", "generation"])
def test_a_head_without_a_part_is_corrupt_and_can_be_deleted(
    remote: RedisStore, raw: Raw, used: Stored, field: str
) -> None:
    name = used.experiment.name
    raw.client.hdel(keys_of(remote, used).head, field)
    with pytest.raises(CorruptStored) as told:
        remote.load(name)
    with pytest.raises(Stale):
        remote.delete(name, 99)
    remote.delete(name, int(told.value.metadata["generation"]))
    assert (remote.load(name), remote.names()) == (None, [])


@pytest.mark.parametrize("ruin", ["type", "generation"])
def test_a_head_that_cannot_be_read_can_be_deleted(
    remote: RedisStore, raw: Raw, used: Stored, ruin: str
) -> None:
    name, keys = used.experiment.name, keys_of(remote, used)
    if ruin == "type":
        raw.client.set(keys.head, "of another type")
    else:
        raw.client.hset(keys.head, "generation", "many")
    with pytest.raises(CorruptStored):
        remote.load(name)
    assert isinstance(remote.load_many([name])[name], CorruptStored)
    with pytest.raises(BanditError, match="exists"):
        put(remote, name)
    remote.delete(name, 0)
    put(remote, name)
    assert stored(remote, name).generation == 1


def test_stored_policies_of_any_shape_never_break_a_reader(
    remote: RedisStore, raw: Raw, used: Stored
) -> None:
    draw, key = random.Random(5), keys_of(remote, used).head
    sound = put(remote, new_name())
    experiment = json.loads(raw.client.hget(key, "experiment"))
    for _ in range(300):
        broken = dict(experiment)
        for field in draw.sample(sorted(broken), draw.randint(1, 4)):
            broken[field] = draw.choice([None, "", 0, [], {}, "x" * 1000, -1, True])
        raw.client.hset(key, "experiment", json.dumps(broken))
        found = remote.load_many([used.experiment.name, sound.experiment.name])
        assert isinstance(found[used.experiment.name], CorruptStored | Stored)
        assert found[sound.experiment.name] == sound


def test_strange_log_entries_are_passed_on_and_hurt_nobody(remote: RedisStore, raw: Raw) -> None:
    names = [put(remote, new_name()).experiment.name for _ in range(3)]
    odd, broken, _ = (remote._keys.of(name) for name in names)
    raw.client.xadd(odd.log, {"what": "ever", "is": "this"})
    raw.client.xadd(odd.log, {"": "no kind"})
    raw.client.delete(broken.log)
    raw.client.set(broken.log, "no stream")
    ids = remote.append([Append(name, 7, REWARDS, b"x") for name in names])
    assert [bool(id_) for id_ in ids] == [True, False, True]
    for block_ms in (0, 30):
        found = remote.read(dict.fromkeys(names, START), 10, block_ms)
        assert sorted(found) == sorted([names[0], names[2]])
        assert [(entry.kind, entry.payload) for entry in found[names[0]]] == [
            (b"what", b"ever"),
            (b"", b"no kind"),
            (REWARDS, b"x"),
        ]
    with pytest.raises(CorruptStored, match="stream"):
        remote.behind(names[1], START)
    assert remote.behind(names[0], START) == 3


REGISTRY: list[tuple[str, Callable[[RedisStore], object]]] = [
    ("version", lambda store: store.version()),
    ("names", lambda store: store.names()),
    ("names", lambda store: put(store, new_name())),
    ("pending", lambda store: store.version()),
    ("pending", lambda store: put(store, new_name())),
    ("numbers", lambda store: store.next_uid()),
    ("numbers", lambda store: store.reserve_issuers(2)),
    ("tokens", lambda store: store.token_keys()),
]


@pytest.mark.parametrize(("part", "call"), REGISTRY)
def test_a_broken_registry_is_told(
    remote: RedisStore, raw: Raw, part: str, call: Callable[[RedisStore], object]
) -> None:
    key = getattr(remote._keys, part)
    raw.client.rpush(key, "of another type")
    with pytest.raises(CorruptStored, match=part):
        call(remote)


def test_a_commit_that_cannot_be_announced_is_made_all_the_same(remote: RedisStore, raw: Raw) -> None:
    raw.client.set(remote._keys.version, "many")
    now = put(remote, new_name())
    assert now.generation == 1
    with pytest.raises(CorruptStored, match="version"):
        remote.version()


def test_numbers_of_the_registry_must_be_numbers(remote: RedisStore, raw: Raw) -> None:
    raw.client.set(remote._keys.version, "many")
    with pytest.raises(CorruptStored, match="version"):
        remote.version()
    raw.client.hset(remote._keys.numbers, mapping={"experiment": "many", "issuer": "-1"})
    for reserve in (remote.next_uid, lambda: remote.reserve_issuers(1)):
        with pytest.raises(CorruptStored, match="numbers"):
            reserve()
    raw.client.set(remote._keys.tokens, b'{"schema":2,"keys":{"1":"00"},"newest":1}')
    with pytest.raises(CorruptStored, match="32 bytes"):
        remote.token_keys()


def test_request_ids_older_than_a_day_are_forgotten(remote: RedisStore, raw: Raw, used: Stored) -> None:
    name, keys = used.experiment.name, keys_of(remote, used)
    assert remote.outcome_of(name, "r") == (2, b"")
    ((digest, _),) = raw.client.zrange(keys.requested, 0, -1, withscores=True)
    raw.client.zadd(keys.requested, {digest: remote.now_ms() - 86_400_001})
    assert remote.outcome_of(name, "r") is None
    assert raw.client.hlen(keys.requests) == 1
    remote.commit(following(used))
    assert raw.client.hlen(keys.requests) == 0
    raw.client.hset(keys.requests, digest, "many")
    raw.client.zadd(keys.requested, {digest: remote.now_ms()})
    with pytest.raises(CorruptStored, match="requests"):
        remote.outcome_of(name, "r")


def test_an_audit_of_rubbish_is_corrupt(remote: RedisStore, raw: Raw, used: Stored) -> None:
    raw.client.rpush(keys_of(remote, used).audit, b"rubbish")
    with pytest.raises(CorruptStored, match="audit"):
        remote.audit(used.experiment.name, None, 9)
    assert [each.sequence for each in remote.audit(used.experiment.name, 2, 9)] == [1]


def test_a_folded_ledger_survives_everything_else_being_strange(remote: RedisStore, raw: Raw) -> None:
    now, writing = put(remote, new_name()), Writing(7, 11)
    keys = keys_of(remote, now)
    write = writing.draw()
    assert remote.fold(now.experiment.name, write)
    writing.took(write)
    for key in (keys.allocations, keys.audit, keys.requests, keys.lease, keys.status):
        raw.client.delete(key)
        raw.client.pfadd(key, "x")
    assert same(remote.load_writer(now.experiment.name), writing.state)

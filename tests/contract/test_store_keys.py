"""How long keys live, as ``server.store.keys`` says: nothing that ends for want of use stays for ever (case C313)."""

from __future__ import annotations

from typing import Any

import pytest

from bandit.errors import CorruptStored, StoreUnavailable
from bandit.log import REWARDS, Append
from bandit.seen import BucketKey
from server.store import redis_control, redis_fed
from server.store.base import Shipment
from server.store.fed import DEAD, RECEIVED, Burial, Feed, Letter, Move, Position
from server.store.keys import PAST_TTL_MS, REPLY_TTL_S, REQUEST_TTL_MS, ExperimentKeys
from server.store.redis import RedisStore
from tests.stores import following, new_name, put, record, simple_write, stored

BUCKETS = [BucketKey(489_123, 1, 0), BucketKey(489_124, 1, 0)]
FOR_EVER = -1


def lives(store: RedisStore) -> dict[str, int]:
    """Key, without the namespace -> its rest of life in ms."""
    client: Any = store._link._quick
    space = store._keys.namespace
    keys = [key.decode() for key in client.scan_iter(match=f"{space}:*", count=1000)]
    return {key.removeprefix(f"{space}:"): client.pttl(key) for key in keys}


def used(store: RedisStore) -> str:
    """Name of an experiment that has something under every key."""
    now = put(store, new_name())
    name = now.experiment.name
    store.commit(following(now, audit=record(now), request_id="r"))
    fence = store.acquire(name, "a", 600_000)
    assert fence is not None
    assert store.put_status(name, b"status", fence)
    assert store.put_report(name, b"report", fence)
    store.append([Append(name, 7, REWARDS, b"x")])
    assert store.ship([Shipment(name, 7, 1, 0, 10, b"x")]) == [10]
    assert store.feed(Feed(name, 7, "orders", counts={RECEIVED: 1})).taken
    ids: dict[BucketKey, dict[int, int]] = {bucket: {5: 5} for bucket in BUCKETS}
    assert store.fold(name, simple_write(7, 0, add_foreign=ids, replies={b"r": b"\x01", b"s": b"\x01"}))
    return name


def test_what_passes_ends_by_itself_and_the_rest_never(remote: RedisStore) -> None:
    name = used(remote)
    most = {
        "reply": REPLY_TTL_S * 1000,
        "requests": REQUEST_TTL_MS,
        "requested": REQUEST_TTL_MS,
        "lease": 600_000,
    }
    found = lives(remote)
    seen = set()
    for key, rest in found.items():
        what = key.removeprefix(f"{{{name}}}:").split(":")[0] if name in key else ""
        if what in most:
            seen.add(what)
            assert 0 < rest <= most[what], key
        elif name in key:
            assert rest == FOR_EVER, key
    assert seen == set(most)
    assert len([key for key in found if ":reply:" in key]) == 2
    # What is used again lives on; nothing but its time moves.
    now = stored(remote, name)
    remote.commit(following(now, audit=record(now), request_id="s"))
    assert lives(remote).keys() == found.keys()


def test_buckets_of_ids_go_with_their_lists(remote: RedisStore) -> None:
    name = used(remote)
    assert len([key for key in lives(remote) if ":foreign:" in key]) == 2
    assert remote.fold(name, simple_write(7, 1, drop_foreign=[BUCKETS[0]]))
    assert len([key for key in lives(remote) if ":foreign:" in key]) == 1
    state = remote.load_writer(name)
    assert state is not None
    assert list(state.seen.foreign) == [BUCKETS[1]]


def test_of_what_is_deleted_only_its_audit_and_who_did_it_stay_for_a_time(remote: RedisStore) -> None:
    name = used(remote)
    remote.delete(name, stored(remote, name).generation, record(stored(remote, name)), "d")
    left = {key.removeprefix(f"{{{name}}}:"): rest for key, rest in lives(remote).items() if name in key}
    # Who waits may still fetch an answer.
    assert {key for key in left if not key.startswith("reply:")} == {"past", "deletion"}
    assert 0 < left["past"] <= PAST_TTL_MS
    assert 0 < left["deletion"] <= REQUEST_TTL_MS
    assert all(rest > 0 for rest in left.values())


def test_a_log_that_somebody_removed_is_begun_by_nobody(remote: RedisStore) -> None:
    """What would be folded from it would be taken for all there was."""
    name = used(remote)
    client: Any = remote._link._quick
    client.delete(f"{remote._keys.namespace}:{{{name}}}:log")
    assert remote.ship([Shipment(name, 7, 1, 10, 20, b"y")]) == [None]
    assert not remote.feed(Feed(name, 7, "orders", counts={RECEIVED: 1})).taken
    assert remote.append([Append(name, 7, REWARDS, b"x")]) == [""]
    assert not [key for key in lives(remote) if key.endswith(":log")]


def test_requests_of_more_than_a_day_ago_are_forgotten_while_others_come(remote: RedisStore) -> None:
    """An experiment that changes each day would keep them all, since each renews the life of the whole."""
    name = used(remote)
    client: Any = remote._link._quick
    space = f"{remote._keys.namespace}:{{{name}}}"
    old = {b"old-%d" % number: remote.now_ms() - REQUEST_TTL_MS - 1 for number in range(50)}
    client.hset(f"{space}:requests", mapping=dict.fromkeys(old, b"x"))
    client.zadd(f"{space}:requested", old)
    now = stored(remote, name)
    remote.commit(following(now, audit=record(now), request_id="s"))
    assert client.hlen(f"{space}:requests") == client.zcard(f"{space}:requested") == 2


def test_an_experiment_begins_with_nothing_that_some_hand_left(remote: RedisStore) -> None:
    name = new_name()
    client: Any = remote._link._quick
    space = f"{remote._keys.namespace}:{{{name}}}"
    client.rpush(f"{space}:audit", b"{}")
    client.hset(f"{space}:requests", b"x" * 16, b"y")
    client.set(f"{space}:periods", b"of another type")
    now = put(remote, name)
    assert (now.audit_sequence, remote.audit(name, None, 10)) == (0, [])
    assert client.exists(f"{space}:requests", f"{space}:periods", f"{space}:audit") == 0
    assert remote.fold(name, simple_write(7, 0))


def test_tokens_grow_though_the_stores_clock_went_back(remote: RedisStore) -> None:
    name = put(remote, new_name()).experiment.name
    client: Any = remote._link._quick
    future = (remote.now_ms() + 86_400_000) * 1000
    client.hset(f"{remote._keys.namespace}:{{{name}}}:head", "fence", future)
    fence = remote.acquire(name, "a", 600_000)
    assert fence is not None
    assert fence.token == future + 1
    assert remote.acquire(name, "b", 600_000) is None


@pytest.mark.parametrize("value", [b"many", b"1" + b"0" * 17])
def test_a_source_does_not_move_on_where_its_count_is_no_number(remote: RedisStore, value: bytes) -> None:
    """Nothing is half done: neither the place nor another count."""
    name = used(remote)
    client: Any = remote._link._quick
    fed = f"{remote._keys.namespace}:{{{name}}}:fed"
    (field,) = (key for key in client.hkeys(fed) if client.hget(fed, key) == b"1")
    client.hset(fed, field, value)
    before = client.hgetall(fed)
    with pytest.raises(CorruptStored):
        remote.feed(
            Feed(name, 7, "orders", [(REWARDS, b"x")], {RECEIVED: 1}, [Move(None, Position("p", "1", 1))])
        )
    assert client.hgetall(fed) == before


def test_so_many_places_of_letters_are_remembered_and_no_more(
    remote: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(redis_fed, "MOST_LETTERS", 5)
    for number in range(9):
        letter = Letter("s", "BAD", "it cannot be read", b"x", place=f"p/{number}")
        assert remote.bury(Burial("s", [letter], {DEAD: 1}, once=True)).taken
    client: Any = remote._link._quick
    space = f"{remote._keys.namespace}:{{_sources}}"
    assert client.zcard(f"{space}:places") == 5
    assert client.xlen(f"{space}:letters") == 5


def test_a_delete_that_comes_too_late_deletes_nothing(
    remote: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever asked was told long ago that it is not known whether it was done."""
    name = used(remote)
    before = lives(remote).keys()
    monkeypatch.setattr(redis_control, "CHANGE_WITHIN_MS", -1)
    with pytest.raises(StoreUnavailable):
        remote.delete(name, stored(remote, name).generation)
    assert lives(remote).keys() == before


def test_ids_that_come_while_an_experiment_is_deleted_go_with_it(
    remote: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fold between the look at its buckets and the delete."""
    name, look = used(remote), remote._buckets
    folds = [lambda: remote.fold(name, simple_write(7, 1, add_foreign={BucketKey(489_125, 1, 0): {6: 6}}))]

    def buckets(keys: ExperimentKeys) -> Any:
        found = look(keys)
        if folds:
            assert folds.pop()()
        return found

    monkeypatch.setattr(remote, "_buckets", buckets)
    remote.delete(name, stored(remote, name).generation)
    assert not [key for key in lives(remote) if ":foreign" in key]
    assert remote.load(name) is None

"""What happens to servers: frozen, dead, killed, full, demoted, busy, badly set up, restricted."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import redis

from bandit.errors import StoreUnavailable
from bandit.log import REWARDS, START, Append
from bandit.rollout.state import State
from server.store.base import Commit
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.conftest import PATIENT_S, QUICK_S
from tests.stores import following, fresh, new_name, next_allocation, put, record, simple_write, stored


def calls(store: RedisStore, name: str) -> dict[str, Callable[[], object]]:
    """Every call that speaks to the server."""
    now = stored(store, name)
    fence = store.acquire(name, "a", 600_000)
    assert fence is not None
    return {
        "version": store.version,
        "names": store.names,
        "load": lambda: store.load(name),
        "load_many": lambda: store.load_many([name]),
        "commit": lambda: store.commit(following(now)),
        "create": lambda: store.commit(Commit(0, *fresh(new_name()))),
        "allocations": lambda: store.allocations(name, 0),
        "outcome_of": lambda: store.outcome_of(name, "r"),
        "audit": lambda: store.audit(name, None, 9),
        "next_uid": store.next_uid,
        "reserve_issuers": lambda: store.reserve_issuers(1),
        "token_keys": store.token_keys,
        "acquire": lambda: store.acquire(name, "a", 1000),
        "release": lambda: store.release(name, fence),
        "beat": lambda: store.beat("a", 1000),
        "learner_alive": store.learner_alive,
        "put_status": lambda: store.put_status(name, b"s", fence),
        "status": lambda: store.status(name),
        "report": lambda: store.report(name),
        "now_ms": store.now_ms,
        "append": lambda: store.append([Append(name, 7, REWARDS, b"x")]),
        "read": lambda: store.read({name: START}, 9, 0),
        "read, waiting": lambda: store.read({name: f"{now.experiment.create_time_ms * 2}-0"}, 9, 50),
        "behind": lambda: store.behind(name, START),
        "load_writer": lambda: store.load_writer(name),
        "fold": lambda: store.fold(name, simple_write(7, 0)),
        "await_reply": lambda: store.await_reply(name, b"r", 0.05),
        "delete": lambda: store.delete(name, 2),
    }


def test_a_frozen_server_holds_nobody_longer_than_the_timeout(
    own_server: Embedded,
) -> None:
    """Case C411, fault 5: each call ends as StoreUnavailable; when the server goes on, so does the same store."""
    timeout_s = 0.1
    own = RedisStore(own_server.url, timeout_s=timeout_s)
    name = put(own, new_name()).experiment.name
    each_call = calls(own, name)
    listener = own.subscribe()
    took: dict[str, float] = {}
    os.kill(own_server.pid, signal.SIGSTOP)
    try:
        for what, call in each_call.items():
            began = time.monotonic()
            with pytest.raises(StoreUnavailable):
                call()
            took[what] = time.monotonic() - began
        assert listener.next(0.05) is None
        with pytest.raises(StoreUnavailable, match="confirm"):
            own.subscribe()
    finally:
        os.kill(own_server.pid, signal.SIGCONT)
    waiting = {"read, waiting", "await_reply"}
    assert {what: s for what, s in took.items() if s > timeout_s + (2.0 if what in waiting else 1.0)} == {}
    put(own, new_name())
    own.close()


def test_a_dead_server_is_unavailable_and_a_new_one_is_found(own: RedisStore, own_server: Embedded) -> None:
    name = put(own, new_name()).experiment.name
    each_call, listener = calls(own, name), own.subscribe()
    own_server.stop()
    for what, call in each_call.items():
        with pytest.raises(StoreUnavailable, match="unix://"):
            call()
        assert what
    with pytest.raises(StoreUnavailable):
        listener.next(0.05)
    listener.close()
    with pytest.raises(StoreUnavailable):
        own.subscribe()
    row = own.findings()[0]
    assert (row.check, row.ok, row.fatal) == ("reachable", False, True)
    own_server.start()
    assert stored(own, name).experiment.name == name


@pytest.mark.parametrize("sync", ["always", "everysec"])
def test_a_killed_server_goes_back_by_whole_folds_or_not_at_all(
    own_server: Embedded, own: RedisStore, sync: str
) -> None:
    """Invariant I1 over kill -9 of the server itself. Synced each second it may lose the last ones, never parts."""
    name = put(own, new_name()).experiment.name
    assert own.fold(name, simple_write(7, 0))
    for _ in range(3):
        with contextlib.closing(redis.Redis.from_url(own_server.url)) as client:
            client.config_set("appendfsync", sync)
        enough = threading.Event()

        def kill(enough: threading.Event = enough) -> None:
            enough.wait()
            os.kill(own_server.pid, signal.SIGKILL)

        killing = threading.Thread(target=kill)
        killing.start()
        began = acknowledged = _sequence(own, name)
        with contextlib.suppress(StoreUnavailable):
            while True:
                assert own.fold(name, simple_write(7, acknowledged, exposed={1: acknowledged + 1}))
                acknowledged += 1
                if acknowledged == began + 30:
                    enough.set()
        enough.set()
        killing.join()
        own_server.stop()
        own_server.start()
        kept = _sequence(own, name)
        assert acknowledged >= began + 30
        assert kept <= acknowledged + 1
        assert sync == "everysec" or kept >= acknowledged
        assert kept == acknowledged or not own.fold(name, simple_write(7, acknowledged))


def _sequence(store: RedisStore, name: str) -> int:
    """Sequence of the last fold, after a look that the rest is of the same fold."""
    state = store.load_writer(name)
    assert state is not None
    assert state.seen.exposed.get(1, 1) == state.sequence
    return state.sequence


def test_a_full_server_takes_no_rewards_but_obeys_operators(own: RedisStore, admin: Any) -> None:
    """Cases C406 and C407: appends are refused whole; folding, leases, stopping and rolling back go on."""
    now = put(own, new_name())
    name = now.experiment.name
    sent = own.append([Append(name, 7, REWARDS, bytes(1000))] * 50)
    admin.config_set("maxmemory", 1)
    with pytest.raises(StoreUnavailable, match="memory is full"):
        own.append([Append(name, 7, REWARDS, b"x")] * 3)
    assert own.behind(name, START) == 50
    fence = own.acquire(name, "a", 60_000)
    assert fence is not None
    own.beat("a", 1000)
    stopped = replace(now.experiment, state=State.PAUSED, revision=2)
    commit = Commit(1, stopped, next_allocation(now.allocation), record(now), fence, "r")
    before = own.version()
    assert own.commit(commit) == 2
    assert own.version() > before
    found = stored(own, name)
    assert (found.experiment.state, found.allocation.number, found.audit_sequence) == (State.PAUSED, 2, 1)
    assert own.put_status(name, b"stopped", fence)
    assert own.fold(
        name, simple_write(7, 0, offset=sent[-1], exposed={1: 50}, trim_before_ms=own.now_ms() + 1000)
    )
    assert own.behind(name, START) == 1
    assert own.fold(name, simple_write(7, 1, offset=sent[-1], exposed={2: 50}))
    assert own.reserve_issuers(1) > 0
    own.delete(name, 2)
    admin.config_set("maxmemory", 0)
    put(own, name)


def test_a_replica_takes_no_writes_and_is_found_out(own: RedisStore, admin: Any) -> None:
    now = put(own, new_name())
    admin.config_set("replica-serve-stale-data", "yes")
    admin.replicaof("127.0.0.1", 1)
    for call in (
        lambda: own.commit(following(now)),
        lambda: own.append([Append(now.experiment.name, 7, REWARDS, b"x")]),
    ):
        with pytest.raises(StoreUnavailable, match="replica"):
            call()
    assert stored(own, now.experiment.name) == now
    assert {row.check for row in own.findings() if not row.ok and row.fatal} == {"role"}
    admin.replicaof("NO", "ONE")
    assert own.commit(following(now)) == 2


def test_a_server_busy_with_a_script_is_unavailable(
    own: RedisStore, own_server: Embedded, admin: Any
) -> None:
    now = put(own, new_name())
    admin.config_set("lua-time-limit", 10)

    def spin() -> None:
        with (
            contextlib.closing(redis.Redis.from_url(own_server.url)) as other,
            contextlib.suppress(redis.RedisError),
        ):
            other.eval("while true do end", 0)

    spinning = threading.Thread(target=spin)
    spinning.start()
    deadline = time.monotonic() + 10
    told, made = "", 1
    while "busy" not in told and time.monotonic() < deadline:
        try:
            made = own.commit(replace(following(now), expected_generation=made))
        except StoreUnavailable as error:
            told = str(error)
    admin.script_kill()
    spinning.join()
    assert "a script of somebody else keeps it busy" in told
    assert stored(own, now.experiment.name).generation == made


def test_settings_that_lose_rewards_are_found(own: RedisStore, admin: Any) -> None:
    """Fault 12: under any policy but noeviction, parts of a ledger vanish without an error."""

    def wrong() -> dict[str, bool]:
        return {row.check: row.fatal for row in own.findings() if not row.ok}

    admin.config_set("maxmemory", 1 << 30)
    assert wrong() == {}
    admin.config_set("maxmemory-policy", "allkeys-lru")
    assert wrong() == {"eviction": True}
    admin.config_set("maxmemory-policy", "noeviction")
    admin.config_set("appendonly", "no")
    assert wrong() == {"durability": False}
    admin.config_set("maxmemory", 1)
    assert wrong() == {"durability": False, "memory": False}


def test_a_user_with_few_rights_is_enough(own_server: Embedded, admin: Any) -> None:
    """Its own keys and channel, no dangerous command but INFO."""
    rules = [
        "reset",
        "on",
        ">secret",
        "~banditd:*",
        "resetchannels",
        "&banditd:*",
        "+@all",
        "-@dangerous",
        "+info",
    ]
    admin.execute_command("ACL", "SETUSER", "app", *rules)
    url = own_server.url + "?username=app&password=secret"
    with contextlib.closing(RedisStore(url, timeout_s=PATIENT_S)) as store:
        name = put(store, new_name()).experiment.name
        for call in calls(store, name).values():
            call()
        listener = store.subscribe()
        listener.close()
        assert [row for row in store.findings() if row.fatal and not row.ok] == []
    with contextlib.closing(
        RedisStore(own_server.url + "?username=app&password=guessed", timeout_s=QUICK_S)
    ) as store:
        with pytest.raises(StoreUnavailable) as told:
            store.version()
        assert "guessed" not in f"{told.value} {told.value.metadata}"
    admin.execute_command("ACL", "SETUSER", "app", "-@scripting")
    with contextlib.closing(RedisStore(url, timeout_s=PATIENT_S)) as store:
        assert {row.check for row in store.findings() if not row.ok and row.fatal} == {"scripts"}
        with pytest.raises(StoreUnavailable, match="may not do this"):
            store.version()

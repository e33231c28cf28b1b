"""Commits that nobody heard of, came too late, or were refused; and clocks that must not run backwards."""

from __future__ import annotations

import time
from dataclasses import replace
from typing import Any

import pytest

from bandit.errors import AlreadyExists, Stale, StoreUnavailable
from server.store import redis_control, scripts
from server.store.base import Commit
from server.store.redis import RedisStore
from tests.stores import following, fresh, new_name, put, stored


def test_a_commit_whose_maker_dies_is_announced_by_the_next_reader(
    own: RedisStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = put(own, new_name())
    listener = own.subscribe()

    def died(*_: object, **__: object) -> None:
        raise StoreUnavailable("died here")

    with monkeypatch.context() as patch:
        patch.setattr(scripts, "announce", died)
        before = own.version()
        assert own.commit(following(now)) == 2
    assert own.version() == before  # too early: its maker may still be about to tell
    monkeypatch.setattr(redis_control, "GRACE_MS", 30)
    deadline = time.monotonic() + 5
    while (after := own.version()) == before and time.monotonic() < deadline:
        time.sleep(0.005)
    assert after > before
    assert listener.next(5) == now.experiment.name
    assert own.version() == after
    listener.close()


def test_a_refused_commit_is_not_announced(own: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    now = put(own, new_name())
    before = own.version()
    with pytest.raises(Stale):
        own.commit(replace(following(now), expected_generation=5))
    monkeypatch.setattr(redis_control, "GRACE_MS", 0)
    time.sleep(0.005)
    assert own.version() == before


def test_a_change_that_comes_too_late_is_not_made(own: RedisStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """Past that moment a reader may have announced it already; made later, nobody would hear of it."""
    now = put(own, new_name())
    monkeypatch.setattr(redis_control, "CHANGE_WITHIN_MS", -1)
    with pytest.raises(StoreUnavailable, match="was not made"):
        own.commit(following(now))
    with pytest.raises(StoreUnavailable, match="was not made"):
        own.delete(now.experiment.name, 1)
    with pytest.raises(StoreUnavailable, match="was not made"):
        own.commit(Commit(0, *fresh(new_name())))
    assert stored(own, now.experiment.name) == now
    assert own.names() == [now.experiment.name]


def test_numbers_go_on_after_the_store_was_emptied(own: RedisStore, admin: Any) -> None:
    """Fault 10: after a FLUSHALL or an old copy no number is given twice and no reader sees time run backwards."""
    now = put(own, new_name())
    fence = own.acquire(now.experiment.name, "a", 60_000)
    before = (own.next_uid(), own.reserve_issuers(1), own.version())
    admin.flushall()
    while own.now_ms() // 1000 <= before[1] + 1_735_689_600:
        time.sleep(0.05)
    put(own, now.experiment.name)
    after = (own.next_uid(), own.reserve_issuers(1), own.version())
    assert all(new > old for new, old in zip(after, before, strict=True))
    again = own.acquire(now.experiment.name, "a", 60_000)
    assert again is not None
    assert fence is not None
    assert again.token > fence.token


def test_a_lost_list_of_names_heals_with_the_next_commit(own: RedisStore, admin: Any) -> None:
    now, other = put(own, new_name()), put(own, new_name())
    admin.delete("banditd:{_registry}:names")
    assert own.names() == []
    own.commit(following(now))
    assert own.names() == [now.experiment.name]
    with pytest.raises(AlreadyExists):
        own.commit(Commit(0, *fresh(other.experiment.name, uid=99)))
    own.commit(following(other))
    own.delete(other.experiment.name, 2)
    assert admin.hkeys("banditd:{_registry}:names") == [now.experiment.name.encode()]


def test_numbers_are_on_the_disk_before_they_are_used(own: RedisStore, admin: Any) -> None:
    """A number given, lost with the server's last second and given again would make two deciders one."""
    old = admin.info("server")["redis_version"] < "7.2"
    admin.config_resetstat()
    assert own.reserve_issuers(3) < own.reserve_issuers(1)
    seen = admin.info("commandstats")
    assert seen["cmdstat_eval"]["calls"] == 2
    assert old or seen["cmdstat_waitaof"]["calls"] == 2
    assert old or seen["cmdstat_waitaof"]["failed_calls"] == 0

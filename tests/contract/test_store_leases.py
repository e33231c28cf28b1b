"""What every store promises about leases, fences and numbers that are given once."""

from __future__ import annotations

import pytest

from bandit.errors import Stale
from bandit.token import Claims, sign, verify
from server.store.base import Commit, Fence, Store
from tests.builders import NOW
from tests.conftest import Kept
from tests.hammer import at_once
from tests.stores import following, fresh, new_name, put, record, stored


def test_a_lease_has_one_holder_until_it_ends(kept: Kept) -> None:
    store, name = kept.store, put(kept.store, new_name()).experiment.name
    first = store.acquire(name, "a", 60_000)
    assert first is not None
    assert first.owner == "a"
    assert store.acquire(name, "b", 60_000) is None
    assert store.acquire(name, "a", 30) == first
    kept.pass_ms(30)
    second = store.acquire(name, "b", 60_000)
    assert second is not None
    assert second.token > first.token
    assert store.acquire(name, "a", 60) is None
    store.release(name, first)
    assert store.acquire(name, "a", 60) is None
    store.release(name, second)
    third = store.acquire(name, "b", 60_000)
    assert third is not None
    assert third.token > second.token


def test_renewing_prolongs_a_lease(kept: Kept) -> None:
    store, name = kept.store, put(kept.store, new_name()).experiment.name
    first = store.acquire(name, "a", 1000)
    assert store.acquire(name, "a", 60_000) == first
    kept.pass_ms(1000)
    assert store.acquire(name, "b", 1000) is None


def test_what_was_held_before_releases_nothing_now(kept: Kept) -> None:
    """One owner lost its lease by time and has it again: whoever still holds the old one may end it no more."""
    store, name = kept.store, put(kept.store, new_name()).experiment.name
    first = store.acquire(name, "a", 30)
    assert first is not None
    kept.pass_ms(30)
    second = store.acquire(name, "a", 60_000)
    assert second is not None
    store.release(name, first)
    assert store.acquire(name, "b", 60_000) is None
    assert store.acquire(name, "a", 60_000) == second


def test_racing_for_a_lease_gives_it_to_one(store: Store) -> None:
    name = put(store, new_name()).experiment.name
    results = at_once(8, lambda index: store.acquire(name, f"owner-{index}", 60_000))
    assert len([fence for fence in results if fence is not None]) == 1


def test_tokens_go_on_growing_when_a_name_is_used_again(store: Store) -> None:
    name, last = new_name(), 0
    for uid in range(1, 5):
        put(store, name, uid)
        fence = store.acquire(name, "a", 60_000)
        assert fence is not None
        assert fence.token > last
        last = fence.token
        store.delete(name, 1)


def test_a_commit_needs_the_lease_that_it_names(kept: Kept) -> None:
    store, now = kept.store, put(kept.store, new_name())
    name = now.experiment.name
    old = store.acquire(name, "a", 60_000)
    assert old is not None
    store.commit(following(now, fence=old))
    now = stored(store, name)
    assert store.acquire(name, "a", 30) == old
    kept.pass_ms(30)
    with pytest.raises(Stale, match="lease") as lost:
        store.commit(following(now, fence=old))
    assert lost.value.reason == "LEASE_LOST"
    new = store.acquire(name, "b", 60_000)
    assert new is not None
    forged = [
        old,
        Fence("a", new.token),
        Fence("b", old.token),
        Fence("b", new.token + 1),
        Fence("", new.token),
    ]
    for fence in forged * 10:
        with pytest.raises(Stale):
            store.commit(following(now, fence=fence, audit=record(now)))
        assert not store.put_status(name, b"forged", fence)
        assert not store.put_report(name, b"forged", fence)
    assert (stored(store, name), store.status(name), store.report(name)) == (now, None, None)
    assert store.commit(following(now, fence=new)) == now.generation + 1
    assert store.put_status(name, b"\x00right\xff", new)
    assert store.status(name) == b"\x00right\xff"
    assert store.put_report(name, b"\xffwhat it shows\x00", new)
    assert store.report(name) == b"\xffwhat it shows\x00"
    assert store.status(name) == b"\x00right\xff"
    store.delete(name, stored(store, name).generation)
    assert store.report(name) is None


def test_a_create_cannot_be_fenced(store: Store) -> None:
    experiment, allocation = fresh(new_name())
    with pytest.raises(Stale):
        store.commit(Commit(0, experiment, allocation, fence=Fence("a", 1)))
    assert store.load(experiment.name) is None


@pytest.mark.parametrize(("owner", "ttl_ms"), [("", 1000), ("a", 0), ("a", -5)])
def test_a_lease_of_nobody_or_no_time_is_refused(store: Store, owner: str, ttl_ms: int) -> None:
    name = put(store, new_name()).experiment.name
    with pytest.raises(ValueError, match="lease"):
        store.acquire(name, owner, ttl_ms)
    with pytest.raises(ValueError, match="lease"):
        store.beat(owner, ttl_ms)


def test_a_learner_is_alive_for_as_long_as_it_said(kept: Kept) -> None:
    store = kept.store
    store.beat("a", 60_000)
    store.beat("b", 1)
    kept.pass_ms(10)
    assert store.learner_alive()


def test_a_silent_learner_is_not_alive(kept: Kept) -> None:
    kept.store.beat("a", 30)
    kept.pass_ms(30)
    assert not kept.store.learner_alive()


def test_numbers_are_never_given_twice(store: Store) -> None:
    blocks = at_once(8, lambda index: [(store.reserve_issuers(index + 1), index + 1) for _ in range(20)])
    given: list[int] = []
    for block in blocks:
        assert not isinstance(block, Exception)
        given += [number for first, count in block for number in range(first, first + count)]
    assert len(given) == len(set(given)) == 20 * 36
    assert min(given) >= 1
    assert max(given) < 1 << 32
    uids = at_once(8, lambda _: store.next_uid())
    assert len(set(uids)) == 8
    with pytest.raises(ValueError, match="at least 1"):
        store.reserve_issuers(0)


def test_first_callers_agree_on_the_signing_keys(store: Store) -> None:
    rings = at_once(8, lambda _: store.token_keys())
    ring = store.token_keys()
    assert all(each == ring for each in rings)
    assert all(len(key) == 32 for key in ring.keys.values())
    claims = Claims(1, 1, 1, 1, 1, NOW, 1, 1, 0, 0)
    assert verify(ring, sign(ring, claims)) == claims

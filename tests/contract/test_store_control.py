"""What every store promises about experiments, audit, leases and numbers."""

from __future__ import annotations

from dataclasses import replace
from typing import TypeVar

import pytest

from bandit.errors import AlreadyExists, Stale
from bandit.rollout.audit import GENESIS, first_broken
from bandit.rollout.state import ArmState, PastEpoch, Rollback, State
from server.store.base import Commit, Durability, Store
from tests.builders import NOW, running
from tests.conftest import Kept
from tests.hammer import at_once
from tests.stores import following, fresh, new_name, next_allocation, put, record, stored

T = TypeVar("T")


def test_nothing_is_there_at_first(store: Store) -> None:
    name = new_name()
    assert store.names() == []
    assert store.load(name) is None
    assert store.load_many([name]) == {}
    assert store.allocations(name, 0) == []
    assert store.audit(name, None, 10) == []
    assert store.status(name) is None
    assert store.outcome_of(name, "r") is None
    assert store.acquire(name, "a", 1000) is None
    assert not store.learner_alive()


def test_what_was_committed_is_read_back(store: Store) -> None:
    experiment, allocation = running(
        cohorts={"attribute": "plan", "values": ["free", "paid"]}, hypothesis="größer ist ✓ besser"
    )
    experiment = replace(
        experiment,
        state=State.PAUSED,
        arms=(
            ArmState(),
            ArmState(Rollback("r1", NOW, "guardrail/g", "it broke"), 0, 2, 9),
            ArmState(hold_ppm=77),
        ),
        promoted=2,
        past=(PastEpoch(0, experiment.spec, NOW - 5),),
    )
    allocation = replace(allocation, centres=(0.1 + 0.2, 5e-324))
    assert store.commit(Commit(0, experiment, allocation)) == 1
    found = stored(store, experiment.name)
    assert (found.experiment, found.allocation) == (experiment, allocation)
    assert (found.generation, found.audit_sequence, found.audit_hash) == (1, 0, GENESIS)
    assert store.load_many(["nobody", experiment.name]) == {experiment.name: found}
    assert store.names() == [experiment.name]


def test_a_name_is_created_once(store: Store) -> None:
    now = put(store, new_name())
    with pytest.raises(AlreadyExists, match="exists"):
        store.commit(Commit(0, now.experiment, now.allocation))
    assert stored(store, now.experiment.name) == now


def test_each_commit_raises_generation_and_version(store: Store) -> None:
    now = put(store, new_name())
    seen = [store.version()]
    for generation in range(2, 6):
        assert store.commit(following(now)) == generation
        now = stored(store, now.experiment.name)
        assert now.generation == generation
        seen.append(store.version())
    store.delete(now.experiment.name, now.generation)
    seen.append(store.version())
    assert seen == sorted(set(seen))


def test_a_commit_from_an_old_reading_changes_nothing(store: Store) -> None:
    old = put(store, new_name())
    store.commit(following(old))
    now, version = stored(store, old.experiment.name), store.version()
    with pytest.raises(Stale, match="generation 2, not 1"):
        store.commit(following(old, audit=record(old), request_id="r"))
    with pytest.raises(Stale, match="generation 2, not 7"):
        store.commit(replace(following(old), expected_generation=7))
    assert stored(store, old.experiment.name) == now
    assert store.outcome_of(old.experiment.name, "r") is None
    assert store.audit(old.experiment.name, None, 9) == []
    assert store.version() == version


def test_a_commit_to_nothing_is_stale(store: Store) -> None:
    experiment, allocation = fresh(new_name())
    with pytest.raises(Stale, match="deleted"):
        store.commit(Commit(3, experiment, allocation))
    assert store.names() == []


def test_of_racing_commits_exactly_one_wins_each_generation(store: Store) -> None:
    now = put(store, new_name())
    for _ in range(5):
        results = at_once(8, lambda _, now=now: store.commit(following(now)))  # type: ignore[misc]
        assert sorted(str(r) for r in results if not isinstance(r, Exception)) == [str(now.generation + 1)]
        assert all(isinstance(r, Stale) for r in results if isinstance(r, Exception))
        now = stored(store, now.experiment.name)


def test_of_racing_creates_exactly_one_wins(store: Store) -> None:
    name = new_name()
    results = at_once(8, lambda index: store.commit(Commit(0, *fresh(name, uid=index + 1))))
    assert results.count(1) == 1
    assert sum(isinstance(result, AlreadyExists) for result in results) == 7
    assert stored(store, name).experiment.uid == results.index(1) + 1
    assert store.names() == [name]


def test_an_experiment_made_again_is_another_one(store: Store) -> None:
    old = put(store, new_name(), uid=7)
    store.commit(following(old, request_id="r"))
    store.delete(old.experiment.name, 2)
    new = put(store, old.experiment.name, uid=8)
    store.commit(following(new))
    with pytest.raises(Stale, match="made again"):
        store.commit(following(stored(store, old.experiment.name), experiment=old.experiment))
    assert store.outcome_of(old.experiment.name, "r") is None


def test_what_does_not_fit_together_is_refused(store: Store) -> None:
    now = put(store, new_name())
    wrong = fresh(new_name(), arms=[{"name": "a", "control": True}, {"name": "b"}])[1]
    with pytest.raises(ValueError, match="2 arms"):
        store.commit(following(now, allocation=replace(wrong, number=2)))
    with pytest.raises(ValueError, match="epoch 5"):
        store.commit(following(now, allocation=replace(now.allocation, epoch=5)))
    assert stored(store, now.experiment.name) == now


def test_allocations_are_kept_in_order_until_dropped(store: Store) -> None:
    now = put(store, new_name())
    name, committed = now.experiment.name, [now.allocation]
    for number in range(2, 13):
        committed.append(next_allocation(committed[-1], f"cause {number}"))
        store.commit(following(now, allocation=committed[-1]))
        now = stored(store, name)
    store.commit(following(now))  # a change of state repeats the allocation
    assert store.allocations(name, 0) == committed
    assert store.allocations(name, 7) == committed[7:]
    assert store.allocations(name, 12) == []
    now = stored(store, name)
    with pytest.raises(Stale, match="step back"):
        store.commit(following(now, allocation=committed[3]))


def test_the_audit_is_a_chain_read_newest_first(store: Store) -> None:
    now = put(store, new_name())
    name, written = now.experiment.name, []
    for index in range(7):
        written.append(record(now, f"action {index}"))
        store.commit(following(now, audit=written[-1]))
        now = stored(store, name)
        assert (now.audit_sequence, now.audit_hash) == (index + 1, written[-1].hash)
    assert store.audit(name, None, 100) == written[::-1]
    assert store.audit(name, None, 3) == written[:3:-1]
    assert store.audit(name, 5, 3) == written[3:0:-1]
    assert store.audit(name, 5, 100) == written[3::-1]
    assert store.audit(name, 100, 2) == written[:4:-1]
    assert [store.audit(name, 1, 9), store.audit(name, 0, 9), store.audit(name, 5, 0)] == [[], [], []]
    assert first_broken(store.audit(name, None, 100)[::-1]) is None


def test_an_audit_record_that_does_not_continue_is_refused(store: Store) -> None:
    now = put(store, new_name())
    with pytest.raises(Stale, match="record 0"):
        store.commit(following(now, audit=replace(record(now), sequence=2)))
    store.commit(following(now, audit=record(now)))
    with pytest.raises(Stale, match="record 1"):
        store.commit(following(stored(store, now.experiment.name), audit=record(now)))
    assert [each.sequence for each in store.audit(now.experiment.name, None, 9)] == [1]


def test_a_create_can_bring_the_first_audit_record(store: Store) -> None:
    experiment, allocation = fresh(new_name())
    first = replace(record(put(store, new_name())), action="created")
    store.commit(Commit(0, experiment, allocation, audit=first, request_id="r"))
    assert store.audit(experiment.name, None, 9) == [first]
    assert store.outcome_of(experiment.name, "r") == (1, b"")


def test_request_ids_are_remembered_for_a_day(store: Store) -> None:
    now = put(store, new_name())
    name = now.experiment.name
    store.commit(following(now, request_id="r é \n {x}"))
    now = stored(store, name)
    store.commit(following(now, request_id="s"))
    assert store.outcome_of(name, "r é \n {x}") == (2, b"")
    assert store.outcome_of(name, "s") == (3, b"")
    assert store.outcome_of(name, "t") is None


@pytest.mark.parametrize("answer", [b"", b" ", b"7 8", bytes(range(256)), bytes(100_000)])
def test_what_was_answered_is_remembered_with_the_request_id(store: Store, answer: bytes) -> None:
    now = put(store, new_name())
    store.commit(following(now, request_id="r", answer=answer))
    assert store.outcome_of(now.experiment.name, "r") == (2, answer)


def test_requests_can_be_remembered_once_more(kept: Kept) -> None:
    """As of commits that a failover lost and that are made again: without the id, with the revision of then."""
    store = kept.store
    now = put(store, new_name())
    name = now.experiment.name
    assert store.requests(name, 9) == []
    store.commit(following(now, request_id="r", answer=b"a \xff"))
    kept.pass_ms(2)  # they are in the order of the store's clock
    store.commit(following(stored(store, name), request_id="s"))
    newest, older = store.requests(name, 9)
    assert (newest.outcome, older.outcome) == ((3, b""), (2, b"a \xff"))
    assert store.requests(name, 1) == [newest]
    again = put(store, new_name())
    store.commit(replace(following(again), request=older))
    assert store.outcome_of(again.experiment.name, "r") == (2, b"a \xff")
    assert store.outcome_of(again.experiment.name, "s") is None


def test_deleting_needs_the_generation(store: Store) -> None:
    now = put(store, new_name())
    name = now.experiment.name
    with pytest.raises(Stale, match="generation 1, not 2"):
        store.delete(name, 2)
    assert stored(store, name) == now
    store.delete(name, 1)
    assert store.load(name) is None
    assert store.names() == []
    with pytest.raises(Stale, match="none of that name"):
        store.delete(name, 1)


def test_names_are_sorted_and_without_the_deleted(store: Store) -> None:
    names = sorted(new_name() for _ in range(12))
    for name in reversed(names):
        put(store, name)
    for name in names[::3]:
        store.delete(name, 1)
    assert store.names() == [name for index, name in enumerate(names) if index % 3]
    assert sorted(store.load_many(names)) == store.names()


def test_creating_while_another_deletes_never_hides_a_name(store: Store) -> None:
    name = new_name()
    put(store, name, uid=1)
    for uid in range(2, 12):

        def turn(index: int, uid: int = uid) -> None:
            if index:
                store.delete(name, 1)
            else:
                store.commit(Commit(0, *fresh(name, uid=uid)))

        at_once(2, turn)
        assert store.names() == ([name] if store.load(name) else [])
        if store.load(name) is None:
            put(store, name, uid=100 + uid)
            assert store.names() == [name]


def test_subscribers_hear_of_commits_and_deletes(store: Store) -> None:
    first, second = store.subscribe(), store.subscribe()
    name = put(store, new_name()).experiment.name
    store.delete(name, 1)
    for listener in (first, second):
        assert [listener.next(5), listener.next(5), listener.next(0.01)] == [name, name, None]
        listener.close()
        listener.close()


def test_clock_is_unix_milliseconds(store: Store) -> None:
    first = store.now_ms()
    assert first > 1_700_000_000_000
    assert store.now_ms() >= first


def test_findings_say_what_is_seen_and_wanted(store: Store) -> None:
    rows = store.findings()
    assert rows
    assert all(row.check and row.seen and row.wanted for row in rows)
    assert [row for row in rows if row.fatal and not row.ok] == []


def test_orders_tell_what_changed_without_reading_it(store: Store) -> None:
    names = sorted(new_name() for _ in range(3))
    made = {name: put(store, name, uid=uid) for uid, name in enumerate(names, start=7)}
    assert store.orders() == {name: (uid, 1) for uid, name in enumerate(names, start=7)}
    store.commit(following(made[names[1]]))
    store.delete(names[2], 1)
    assert store.orders() == {names[0]: (7, 1), names[1]: (8, 2)}
    put(store, names[2], uid=70)
    assert store.orders()[names[2]] == (70, 1)


def test_a_change_says_how_safe_it_is(store: Store) -> None:
    now = put(store, new_name())
    assert store.secured(now.experiment.name) in Durability
    assert stored(store, now.experiment.name) == now


def test_a_deleted_experiment_leaves_its_records_and_who_deleted_it(kept: Kept) -> None:
    store = kept.store
    name = new_name()
    now = put(store, name)
    store.commit(following(now, audit=record(now)))
    now = stored(store, name)
    last = record(now, "deleted")
    assert store.past_audit(name, None, 9) == []
    assert not store.deleted_by(name, "r1")
    with pytest.raises(Stale):
        store.delete(name, now.generation + 1, last, "r1")
    assert store.past_audit(name, None, 9) == []
    assert not store.deleted_by(name, "r1")
    store.delete(name, now.generation, last, "r1")
    assert store.load(name) is None
    records = store.past_audit(name, None, 9)
    assert [(each.sequence, each.action) for each in records] == [(2, "deleted"), (1, "paused")]
    assert first_broken(list(reversed(records))) is None
    assert [each.sequence for each in store.past_audit(name, 2, 9)] == [1]
    assert (store.deleted_by(name, "r1"), store.deleted_by(name, "r2")) == (True, False)
    again = put(store, name, uid=8)
    assert store.audit(name, None, 9) == []
    assert store.deleted_by(name, "r1"), "it deleted the one before, and must not delete this one"
    assert len(store.past_audit(name, None, 9)) == 2
    store.delete(name, again.generation, record(again, "deleted"))
    assert [each.action for each in store.past_audit(name, None, 9)] == ["deleted"]

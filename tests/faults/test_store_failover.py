"""A store that loses what it acknowledged: a replica that had not heard it takes over, the end of the file is cut.

Faults 7 to 10. A journal, a source that can send again, a learner and an operator go on; in the end every integer is
what an independent count says. The loss is seen before the repair, so that these tests bite.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest

from bandit.errors import CorruptStored, StoreUnavailable
from bandit.log import REWARDS, Append
from bandit.rollout.audit import first_broken
from server.store.base import Durability, Shipment
from server.store.fed import Feed
from server.store.redis import RedisStore
from tests.clusters import until
from tests.losing import NAME, Alone, Pair, answers, world
from tests.proxy import Proxy
from tests.serving import load, put_running


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
            told = made.store.outcome_of(NAME, "roll back 2")
            assert told == (before.experiment.revision, b"done"), "sent again, it is not done again"
            assert made.telemetry.set_backs["put back"] >= 1
            assert made.telemetry.set_backs["frozen"] == 0
            assert made.doubt.counts.put_back == 100
            assert made.rewound >= 1
            assert made.shipper.counts.again > 0


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
        uid = put_running(store, NAME).experiment.uid
        for wanted in (Durability.REPLICATED, Durability.FSYNCED):
            assert store.append_kept([Append(NAME, uid, REWARDS, b"a")], wanted)[1] is wanted
            assert store.feed(Feed(NAME, uid, "orders", [(REWARDS, b"a")]), wanted).safe is wanted
        assert store.secured(NAME) is Durability.FSYNCED
        pair.primary.admin.config_set("min-replicas-max-lag", 1)
        pair.primary.admin.config_set("min-replicas-to-write", 1)
        pair.wire.silent = True

        def refused() -> bool:
            try:
                _, safe = store.append_kept([Append(NAME, uid, REWARDS, b"c")], Durability.REPLICATED)
                fed = store.feed(Feed(NAME, uid, "orders", [(REWARDS, b"c")]), Durability.REPLICATED)
            except StoreUnavailable as error:
                return "too few replicas" in str(error)
            assert safe is fed.safe is Durability.MEMORY  # it is taken, and the answer does not claim more
            return False

        until(refused, "the lag is noticed")
        length = pair.primary.admin.xlen(store._keys.of(NAME).log)
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            store.ship([Shipment(NAME, uid, 1, 0, 1, b"x")])
        with pytest.raises(StoreUnavailable, match="too few replicas"):
            store.append([Append(NAME, uid, REWARDS, b"d")])
        assert pair.primary.admin.xlen(store._keys.of(NAME).log) == length


@pytest.mark.timeout(1800)
def test_answers_that_are_lost_at_random_count_nothing_twice(tmp_path: Path, full: bool) -> None:
    """Fault 6, of every call: appends, shipments, feeds, folds, leases, commits are done and not answered."""
    total, lose = (200_000, 0.01) if full else (2_000, 0.05)
    with (
        Alone(tmp_path).up() as alone,
        Proxy(alone.node.port) as line,
        world(f"redis://127.0.0.1:{line.place}", tmp_path) as made,
    ):
        tries = 0

        def again(call: Callable[[], None]) -> None:
            nonlocal tries
            while True:
                try:
                    return call()
                except StoreUnavailable:
                    tries += 1

        again(made.turn)
        line.lose = lose
        while sum(made.decided.values()) < total:
            again(lambda: made.decide(20))
            if sum(made.decided.values()) % 40:
                again(made.report)
            again(made.turn)
        line.lose = 0.0
        made.settle()
        assert made.counts() == made.expected()
        assert line.lost >= (1000 if full else 30)
        assert tries > 0

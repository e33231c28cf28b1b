"""Lines to the server that break: flushed scripts, cut connections, lost replies, answers to others."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bandit.errors import Stale, StoreUnavailable
from bandit.log import REWARDS, START, Append
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from tests.conftest import QUICK_S
from tests.hammer import Hammer
from tests.lossy import Lossy
from tests.stores import following, new_name, put, record, simple_write, stored


def test_scripts_that_are_flushed_are_sent_again(own: RedisStore, admin: Any) -> None:
    """Case C404: the script cache is emptied all the time; no caller notices."""
    names = [put(own, new_name()).experiment.name for _ in range(4)]
    failures: list[Exception] = []

    def work(name: str) -> None:
        try:
            for turn in range(60):
                now = stored(own, name)
                assert own.commit(following(now)) == turn + 2
                assert own.fold(name, simple_write(7, turn))
                assert own.acquire(name, "a", 60_000) is not None
                own.version()
        except Exception as error:  # noqa: BLE001 - any error at all is the failure
            failures.append(error)

    with Hammer(admin.script_flush, 0.001) as hammer:
        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []
    assert hammer.blows > 20
    for name in names:
        assert stored(own, name).generation == 61
        state = own.load_writer(name)
        assert state is not None
        assert state.sequence == 60


def test_cut_lines_lose_and_double_nothing(own: RedisStore, admin: Any) -> None:
    """Connections are killed in the middle of calls; a fold of unknown fate is found out by reading again."""
    name = put(own, new_name()).experiment.name
    unknown = sequence = 0

    def again(call: Callable[[], Any]) -> Any:
        nonlocal unknown
        while True:
            try:
                return call()
            except StoreUnavailable:
                unknown += 1

    kill = lambda: admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes")  # noqa: E731
    with Hammer(kill, 0.002) as hammer:
        while sequence < 300 or ((unknown < 10 or hammer.blows <= 20) and sequence < 5000):
            try:
                assert own.fold(name, simple_write(7, sequence, exposed={1: sequence + 1}))
                sequence += 1
            except StoreUnavailable:
                unknown += 1
                state = again(lambda: own.load_writer(name))
                found = state.sequence if state else 0
                assert found in (sequence, sequence + 1)
                sequence = found
    state = own.load_writer(name)
    assert state is not None
    assert (state.sequence, state.seen.exposed) == (sequence, {1: sequence})
    assert hammer.blows > 20
    assert unknown >= 10


@pytest.mark.parametrize("cut", [True, False])
def test_a_request_whose_reply_is_lost_is_executed_once(
    own: RedisStore, own_server: Embedded, tmp_path: Path, cut: bool
) -> None:
    """Case C301: the line swallows one reply; with retries in the client the entry would be there twice."""
    name = put(own, new_name()).experiment.name
    with (
        Lossy(tmp_path / "l", own_server.url) as line,
        contextlib.closing(RedisStore(line.url, timeout_s=QUICK_S)) as store,
    ):
        assert store.load(name) is not None
        line.lose, line.cut = b"the-only-one", cut
        with pytest.raises(StoreUnavailable):
            store.append([Append(name, 7, REWARDS, b"the-only-one")])
        assert line.requests == 1
        assert own.behind(name, START) == 1


@pytest.mark.parametrize("cut", [True, False])
def test_a_commit_whose_reply_is_lost_shows_when_read_again(
    own: RedisStore, own_server: Embedded, tmp_path: Path, cut: bool
) -> None:
    now = put(own, new_name())
    name = now.experiment.name
    with (
        Lossy(tmp_path / "l", own_server.url) as line,
        contextlib.closing(RedisStore(line.url, timeout_s=QUICK_S)) as store,
    ):
        line.lose, line.cut = b'"revision":2,', cut
        commit = following(now, audit=record(now), request_id="r")
        with pytest.raises(StoreUnavailable):
            store.commit(commit)
        assert line.requests == 1
        assert store.outcome_of(name, "r") == (2, b"")
        found = stored(store, name)
        assert (found.generation, found.experiment.revision, found.audit_sequence) == (2, 2, 1)
        with pytest.raises(Stale):
            store.commit(commit)
        assert len(store.audit(name, None, 9)) == 1


def test_a_fold_whose_reply_is_lost_is_refused_the_second_time(
    own: RedisStore, own_server: Embedded, tmp_path: Path
) -> None:
    name = put(own, new_name()).experiment.name
    with (
        Lossy(tmp_path / "l", own_server.url) as line,
        contextlib.closing(RedisStore(line.url, timeout_s=QUICK_S)) as store,
    ):
        assert own.fold(
            put(own, new_name()).experiment.name, simple_write(7, 0)
        )  # now the server has the script
        line.lose = b"\x01waiting"
        write = simple_write(7, 0, replies={b"who": b"\x01waiting"})
        with pytest.raises(StoreUnavailable):
            store.fold(name, write)
        state = store.load_writer(name)
        assert state is not None
        assert state.sequence == 1
        assert not store.fold(name, write)
        assert store.await_reply(name, b"who", 1) == b"\x01waiting"
        assert store.await_reply(name, b"who", 0.01) is None


def test_threads_never_see_the_answers_of_others(own: RedisStore, admin: Any) -> None:
    """Case C410, while lines are cut at random: each thread reads its own experiment only."""
    names = [put(own, new_name()).experiment.name for _ in range(10)]
    wrong: list[object] = []

    def work(name: str) -> None:
        for turn in range(150):
            with contextlib.suppress(StoreUnavailable):
                found = own.load(name)
                if found is None or found.experiment.name != name:
                    wrong.append(found)
                own.append([Append(name, 7, REWARDS, f"{name} {turn}".encode())])
                wrong.extend(
                    entry
                    for entry in own.read({name: START}, 500, 0)[name]
                    if not entry.payload.startswith(name.encode() + b" ")
                )

    with Hammer(
        lambda: admin.execute_command("CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"), 0.02
    ) as hammer:
        threads = [threading.Thread(target=work, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert hammer.blows > 3


def test_a_listener_whose_line_was_cut_says_so_and_hears_again(own: RedisStore, admin: Any) -> None:
    listener = own.subscribe()
    admin.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    with pytest.raises(StoreUnavailable):
        listener.next(1)
    name = put(own, new_name()).experiment.name
    heard = own.subscribe()
    own.delete(name, 1)
    assert heard.next(5) == name
    listener.close()
    heard.close()

"""A NATS source on a real server: what it brings, what it acknowledges, and what it brings again."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import nats
import pytest

from bandit.errors import InvalidArgument, NotAllowed
from server.ingest.base import Chosen, Kind, Received, SourceUnavailable
from server.ingest.nats import NatsSource, make
from server.ingest.nats_settings import NatsSettings
from server.ingest.settings import read, shown
from server.store.fed import Position
from tests.nats_ground import NatsServer, drop_stream, make_stream, nats_server, nats_source, publish

PATIENT_S = 60.0
KINDS = {"nats": Kind(NatsSettings, make)}
LEAST: dict[str, Any] = {
    "name": "ratings",
    "kind": "nats",
    "servers": ["nats://127.0.0.1:4222"],
    "stream": "REWARDS",
}


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[NatsServer]:
    """A server of this module."""
    with nats_server(tmp_path_factory.mktemp("nats")) as running:
        yield running


@pytest.fixture(autouse=True)
def stream(server: NatsServer) -> Iterator[None]:
    """An empty stream for each test."""
    asyncio.run(make_stream(server.url, "REWARDS", "rewards.>"))
    yield
    asyncio.run(drop_stream(server.url, "REWARDS"))


def send(server: NatsServer, first: int, count: int, **headers: str) -> None:
    """Bodies that can be told apart."""
    bodies = [b"%d" % each for each in range(first, first + count)]
    asyncio.run(publish(server.url, "rewards.all", bodies, headers or None))


def take(source: NatsSource, count: int, *, done: bool = True, limit: int = 100) -> list[Received]:
    """So many events, as they come."""
    taken: list[Received] = []
    deadline = time.monotonic() + PATIENT_S
    while len(taken) < count:
        assert time.monotonic() < deadline, f"only {len(taken)} of {count}: {source.state()}"
        batch = source.poll(limit, 0.1)
        if done:
            source.done(batch)
        taken += batch
    return taken


def bodies(taken: Sequence[Received]) -> list[int]:
    """What they said, in order of the number."""
    return sorted(int(each.body) for each in taken)


@pytest.fixture
def source(server: NatsServer) -> Iterator[NatsSource]:
    """A source that is open."""
    found = nats_source(server)
    found.open(lambda _: ())
    yield found
    found.close()


def test_brings_everything_with_its_place(server: NatsServer, source: NatsSource) -> None:
    send(server, 0, 250, **{"Ce-Id": "7"})
    taken = take(source, 250)
    assert bodies(taken) == list(range(250))
    assert [each.position.offset for each in taken] == list(range(1, 251))
    assert {(each.position.partition, each.headers["ce-id"]) for each in taken} == {("REWARDS", "7")}
    assert abs(taken[0].time_ms - time.time() * 1000) < 3_600_000
    assert source.poll(10, 0.1) == []
    assert source.state().connected
    assert source.state().redelivered == 0


def test_what_is_not_acknowledged_comes_again_after_a_crash(server: NatsServer) -> None:
    source, heir = (nats_source(server, ack_wait_s=1.0) for _ in range(2))
    source.open(lambda _: ())
    send(server, 0, 60)
    take(source, 30, limit=10)
    lost = take(source, 1, done=False)
    heir.open(lambda _: ())
    rest: set[int] = set()
    while len(rest) < 30:
        rest |= set(bodies(take(heir, 1)))
    assert rest == set(range(30, 60))
    assert heir.state().redelivered >= len(lost)
    heir.close()
    source.close()


def test_what_is_open_stays_ours_while_it_rests(server: NatsServer) -> None:
    source, other = (nats_source(server, ack_wait_s=2.0) for _ in range(2))
    source.open(lambda _: ())
    send(server, 0, 20)
    batch = take(source, 20, done=False)
    ends = time.monotonic() + 4.5  # more than twice what an event may be open
    while time.monotonic() < ends:
        source.rest()
        time.sleep(0.05)
    other.open(lambda _: ())
    assert other.poll(100, 0.1) == []
    source.done(batch)
    assert other.poll(100, 0.1) == []
    other.close()
    source.close()


def test_brings_again_what_the_store_lost_also_after_a_crash(server: NatsServer) -> None:
    source = nats_source(server, open_events=50)
    source.open(lambda _: ())
    send(server, 0, 400)
    epoch = take(source, 400)[0].position.epoch
    source.rewind({"REWARDS": [Position("REWARDS", epoch, 300), Position("REWARDS", epoch, 390)]})
    first = take(source, 1)
    source.close()
    send(server, 400, 10)
    heir = nats_source(server, open_events=50)
    heir.open(lambda _: ())
    rest = take(heir, 400 - 251 + 1 - len(first) + 10)
    assert bodies([*first, *rest]) == list(range(250, 410))
    assert heir.poll(100, 0.1) == []
    # Nothing is left of the order.
    assert heir._until is None
    assert heir._session is not None
    assert heir._session.ordered_until() is None
    heir.close()


def test_a_position_of_another_stream_is_brought_from_the_beginning(
    server: NatsServer, source: NatsSource
) -> None:
    send(server, 0, 30)
    take(source, 30)
    source.rewind({"REWARDS": [Position("REWARDS", "another", 29)], "OTHER": []})
    assert bodies(take(source, 30)) == list(range(30))


def test_a_stream_that_was_made_again_has_an_epoch_of_its_own(server: NatsServer, source: NatsSource) -> None:
    send(server, 0, 20)
    before = take(source, 20)[0].position.epoch
    asyncio.run(drop_stream(server.url, "REWARDS"))
    asyncio.run(make_stream(server.url, "REWARDS", "rewards.>"))
    send(server, 20, 20)
    taken: list[Received] = []
    deadline = time.monotonic() + PATIENT_S
    while len(taken) < 20 and time.monotonic() < deadline:
        try:
            batch = source.poll(100, 0.1)
        except SourceUnavailable:
            continue
        source.done(batch)
        taken += batch
    assert bodies(taken) == list(range(20, 40))
    assert {each.position.epoch for each in taken} != {before}
    assert source.state().lost == 0


def test_events_that_expired_unread_are_counted(server: NatsServer, source: NatsSource) -> None:
    send(server, 0, 20)
    take(source, 20)
    send(server, 20, 30)

    async def purge() -> None:
        client = await nats.connect(server.url)
        await client.jetstream().purge_stream("REWARDS", keep=5)
        await client.close()

    asyncio.run(purge())
    assert bodies(take(source, 5)) == list(range(45, 50))
    deadline = time.monotonic() + PATIENT_S
    while source.state().lost < 25 and time.monotonic() < deadline:
        source.poll(10, 0.1)
    assert source.state().lost == 25


def test_a_server_that_was_killed_is_found_again(tmp_path: Path) -> None:
    with nats_server(tmp_path / "own") as server:
        asyncio.run(make_stream(server.url, "REWARDS", "rewards.>"))
        source = nats_source(server, ack_wait_s=1.0)
        source.open(lambda _: ())
        send(server, 0, 20)
        batch = take(source, 20, done=False)
        server.kill()
        source.done(batch)
        assert source.state().refused_acks == 20
        with pytest.raises(SourceUnavailable):
            source.poll(10, 0.1)
        assert not source.state().connected
        server.start()
        send(server, 20, 20)
        taken: set[int] = set()
        deadline = time.monotonic() + PATIENT_S
        while len(taken) < 40 and time.monotonic() < deadline:
            more = source.poll(100, 0.1)
            source.done(more)
            taken |= {int(each.body) for each in more}
        assert taken == set(range(40))
        assert source.state().connected
        source.close()


def test_a_consumer_that_was_made_under_other_settings_is_adapted(
    server: NatsServer, source: NatsSource
) -> None:
    send(server, 0, 30)
    take(source, 10, limit=10)
    source.close()
    changed = nats_source(server, ack_wait_s=2.5, open_events=7, subjects=("rewards.all",))
    changed.open(lambda _: ())
    assert len(changed.poll(100, 0.2)) == 7
    changed.close()  # gives them back
    again = nats_source(server)
    again.open(lambda _: ())
    assert bodies(take(again, 20)) == list(range(10, 30))
    again.close()


def test_says_which_stream_is_missing(server: NatsServer) -> None:
    with pytest.raises(SourceUnavailable, match="no stream NOBODY"):
        nats_source(server, stream="NOBODY").open(lambda _: ())


def test_says_how_to_install_the_client(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "nats", None)
    with pytest.raises(NotAllowed, match=r"banditd\[nats\]"):
        make(Chosen("ratings", "nats", read([LEAST], KINDS)[0].settings), lambda: 0)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"servers": "broker:4222"}, "nats://HOST:PORT"),
        ({"servers": "nats://anna:hush@127.0.0.1:4222"}, "without a user"),
        ({"servers": "nats://broker:4222"}, "without TLS"),
        ({"stream": "a b"}, "letters, digits"),
        ({"subjects": ["a..b"]}, "subjects, as in"),
        ({"user": "anna"}, "belong together"),
        ({"user": "anna", "password": "hush", "token": "hush"}, "exclude each other"),
        ({"certificate": "/x"}, "belong together"),
        ({"open_events": 0}, "1"),
        ({"straem": "x"}, "did you mean stream?"),
    ],
)
def test_says_what_is_wrong_with_settings(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        read([{**LEAST, **changes}], KINDS)
    assert sentence in str(caught.value)
    assert "hush" not in str(caught.value)


def test_a_secret_is_shown_to_nobody() -> None:
    found = read([{**LEAST, "servers": "tls://broker:4222", "user": "anna", "password": "hush"}], KINDS)[0]
    assert "hush" not in str(shown(found))

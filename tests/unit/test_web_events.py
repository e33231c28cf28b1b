"""Rewards over HTTP: each mode is counted, each item answered, and nothing is lost when the store does not answer."""

from __future__ import annotations

import gzip
import json
import socket
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import uvicorn
from cloudevents.core.bindings import http
from cloudevents.core.formats.json import JSONFormat
from cloudevents.core.v1.event import CloudEvent

from server.intake.codec import CLOUD_EVENT_TYPE, MOST_BODY_BYTES
from server.intake.door import Door
from server.rates import Rates
from server.store.base import Durability
from server.store.fed import Fed, Feed
from server.store.memory import MemoryStore
from server.web.events import Events
from server.web.pages import application
from tests.fakes import FakeClock
from tests.ingesting import World, adds_up, event
from tests.service import until
from tests.serving import Faulty

JSON = "application/json"


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    body: Any

    @property
    def outcomes(self) -> list[str]:
        return [row["outcome"] for row in self.body["results"]]


class Edge:
    """The pages on a port, over a world in memory whose store fails on demand."""

    def __init__(self) -> None:
        self.world = World(MemoryStore())
        self.store = Faulty(self.world.store)
        self.door = Door(self.store, self.world.keeper, self.world.clock, "http")
        self.rates = Rates(0, FakeClock().monotonic_s)
        app = application(list, lambda accept: (b"", "text/plain"), Events(self.door.take, self.rates))
        self._server = uvicorn.Server(uvicorn.Config(app, log_config=None, lifespan="off"))
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)
        self._thread.start()
        until(lambda: self._server.started, 60, "the pages")

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(60)
        self._listener.close()

    def post(self, body: bytes, content_type: str = JSON, **headers: str) -> Answer:
        given = {"content-type": content_type, **headers}
        request = urllib.request.Request(
            f"http://{self.address}/v1/events", body, {name: value for name, value in given.items() if value}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as reply:  # noqa: S310 - http only
                return Answer(reply.status, dict(reply.headers), json.loads(reply.read()))
        except urllib.error.HTTPError as error:
            with error:
                return Answer(
                    error.code, {k.lower(): v for k, v in error.headers.items()}, json.loads(error.read())
                )

    def ends(self) -> dict[str, int]:
        return self.world.ends("http")


@pytest.fixture(scope="module")
def shared_edge() -> Iterator[Edge]:
    edge = Edge()
    yield edge
    edge.close()


@pytest.fixture
def edge() -> Iterator[Edge]:
    edge = Edge()
    yield edge
    edge.close()


def test_a_sender_names_itself_in_a_header(edge: Edge) -> None:
    good = edge.world.good(2)
    assert edge.post(good[0], **{"banditd-source": "billing"}).status == 202
    assert edge.post(good[1]).status == 202
    assert edge.world.ends("http/billing")["applied"] == edge.ends()["applied"] == 1
    refused = edge.post(good[1], **{"banditd-source": "No Name"})
    assert (refused.status, edge.ends()["received"]) == (400, 1)
    assert "not the name of a sender" in refused.body["error"]["message"]


def test_a_client_that_sends_too_many_is_told_when_to_go_on(edge: Edge) -> None:
    edge.rates.per_s = 1
    good = edge.world.good(4)
    assert edge.post(b"[" + b",".join(good[:3]) + b"]").status == 202, "a batch is taken whole"
    refused = edge.post(good[3])
    assert (refused.status, refused.headers["retry-after"]) == (429, "2")
    assert refused.body["error"]["reason"] == "TOO_MANY_EVENTS"
    edge.rates.per_s = 0
    assert edge.post(good[3]).status == 202
    assert edge.ends()["received"] == 4, "what was refused was not received"


def cloud(inner: bytes) -> CloudEvent:
    attributes = {"id": "e1", "source": "s", "type": CLOUD_EVENT_TYPE, "specversion": "1.0"}
    return CloudEvent(attributes, json.loads(inner))


def test_events_are_as_safe_as_configured_before_they_are_answered(edge: Edge) -> None:
    """By whatever level the store says that it reached; it is asked only where there is something to wait for."""
    good = edge.world.good(3)
    assert edge.post(good[0]).body["durability"] == "memory"
    asked: list[Durability | None] = []

    def feed(given: Feed, wanted: Durability | None = None) -> Fed:
        asked.append(wanted)
        return edge.world.store.feed(given)._replace(safe=reached.pop(0))

    reached: list[Durability | None] = [Durability.FSYNCED, Durability.MEMORY]
    edge.store.instead["feed"] = feed
    edge.door._wanted = Durability.FSYNCED
    assert edge.post(good[1]).body["durability"] == "fsynced"
    assert edge.post(good[2]).body["durability"] == "memory"
    assert edge.post(b"{}").body["durability"] == ""
    assert asked == [Durability.FSYNCED] * 2


def test_each_mode_is_counted_once(edge: Edge) -> None:
    plain, wrapped, binary, *rest = edge.world.good(9)
    assert edge.post(plain).outcomes == ["accepted"]
    made = http.to_structured_event(cloud(wrapped))
    assert edge.post(made.body, made.headers["content-type"]).status == 202
    made = http.to_binary_event(cloud(binary), JSONFormat())
    headers = {name: value for name, value in made.headers.items() if name != "content-type"}
    assert edge.post(made.body, JSON, **headers).status == 202
    batch = b"[" + b",".join(http.to_structured_event(cloud(each)).body for each in rest[:3]) + b"]"
    assert edge.post(batch, "application/cloudevents-batch+json").outcomes == ["accepted"] * 3
    assert edge.post(b"[" + b",".join(rest[3:]) + b"]").outcomes == ["accepted"] * 3
    edge.post(plain)
    assert edge.world.counted() == edge.world.expected
    ends = edge.ends()
    assert (ends["received"], ends["applied"], ends["duplicate"], adds_up(ends)) == (10, 9, 1, True)


def test_each_item_of_a_batch_has_its_answer(edge: Edge) -> None:
    world = edge.world
    good = world.good(2)
    rows = [
        good[0], event(token=world.token(800), value="1"), b'{"valeu": 1}', b"7",
        event(token=world.token(801, age_ms=7_200_000)), event(token=world.token(802), metric="joy"), good[1],
    ]  # fmt: skip
    answer = edge.post(b"[" + b",".join(rows) + b"]")
    assert answer.status == 202
    assert answer.outcomes == ["accepted", "rejected", "rejected", "rejected", "late", "rejected", "accepted"]
    assert [row["reason"] for row in answer.body["results"]] == [
        "", "NOT_A_NUMBER", "UNKNOWN_FIELD", "NOT_AN_OBJECT", "LATE", "UNKNOWN_METRIC", "",
    ]  # fmt: skip
    assert world.counted() == world.expected
    ends = edge.ends()
    assert (ends["applied"], ends["rejected"], ends["late"], ends["dead"]) == (2, 4, 1, 0)
    assert adds_up(ends)
    assert world.store.letters("", 10) == []


@pytest.mark.parametrize(
    ("body", "content_type", "status", "reason"),
    [
        (b"{", JSON, 400, "NOT_JSON"),
        (b"[{]", JSON, 400, "NOT_JSON"),
        (b"[]", JSON, 400, "NOT_A_BATCH"),
        (b"{}", "application/cloudevents-batch+json", 400, "NOT_A_BATCH"),
        (b"{}", "application/cloudevents+json", 400, "NOT_A_CLOUD_EVENT"),
        (b"{}", "text/plain", 415, "UNKNOWN_CONTENT_TYPE"),
        (b"{}", "application/x-www-form-urlencoded", 415, "UNKNOWN_CONTENT_TYPE"),
        (b" " * (MOST_BODY_BYTES + 1), "application/cloudevents+json", 413, "TOO_LARGE"),
        (b"[" + b" " * (1 << 20) + b"]", JSON, 413, "TOO_LARGE"),
        (b'{"metric": "satisfied", "value": 1}', JSON, 400, "NO_TOKEN"),
    ],
    ids=lambda value: value[:20].decode() if isinstance(value, bytes) else str(value),
)
def test_what_cannot_be_taken_is_refused_with_why(
    shared_edge: Edge, body: bytes, content_type: str, status: int, reason: str
) -> None:
    answer = shared_edge.post(body, content_type)
    assert answer.status == status
    said = answer.body["error"] if "error" in answer.body else answer.body["results"][0]
    assert said["reason"] == reason
    assert said["message"]


def test_a_packed_body_is_refused_as_such(shared_edge: Edge) -> None:
    answer = shared_edge.post(gzip.compress(b"{}"), JSON, **{"content-encoding": "gzip"})
    assert (answer.status, answer.body["error"]["reason"]) == (415, "UNKNOWN_CONTENT_ENCODING")
    assert "send the body as it is" in answer.body["error"]["message"]


def test_a_body_that_never_says_its_length_is_cut_off(shared_edge: Edge) -> None:
    host, port = shared_edge.address.split(":")
    with socket.create_connection((host, int(port)), timeout=60) as line:
        line.sendall(
            b"POST /v1/events HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
            b"transfer-encoding: chunked\r\n\r\n"
        )
        chunk = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        reply = b""
        for _ in range(17):
            line.sendall(chunk)
        while b"\r\n\r\n" not in reply:
            reply += line.recv(4096)
    assert reply.startswith(b"HTTP/1.1 413")


def test_while_the_store_is_away_the_caller_is_told_to_come_again(edge: Edge) -> None:
    batch = b"[" + b",".join(edge.world.good(5)) + b"]"
    edge.store.broken = {"feed"}
    answer = edge.post(batch)
    assert (answer.status, answer.headers["retry-after"]) == (503, "1")
    edge.store.broken = set()

    def lost(feed: Any, wanted: Any) -> None:
        edge.world.store.feed(feed, wanted)
        edge.store.instead = {}
        from bandit.errors import StoreUnavailable

        raise StoreUnavailable("the answer was lost; a test says so")

    edge.store.instead = {"feed": lost}
    assert edge.post(batch).status == 503
    assert edge.post(batch).status == 202
    assert edge.world.counted() == edge.world.expected
    assert adds_up(edge.ends())


def test_only_post_is_answered(shared_edge: Edge) -> None:
    with pytest.raises(urllib.error.HTTPError) as error:
        urllib.request.urlopen(f"http://{shared_edge.address}/v1/events", timeout=60)
    assert error.value.code == 405
    error.value.close()

"""The HTTP edge: up only what was seen so lately; readiness by role; headers; metrics; a real process of it."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from concurrent import futures
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import grpc
import pytest
import uvicorn
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

from bandit.errors import StoreUnavailable
from server.config import Config
from server.store.embedded import Embedded
from server.store.redis import RedisStore
from server.supervise.child import Child, own_command
from server.supervise.lifeline import Orders
from server.telemetry import shared
from server.web import probes
from server.web.pages import HEADERS, application
from server.web.probes import STALE_S, Probe, Row, State
from tests.fakes import FakeClock
from tests.service import free_port, until

SERVING = health_pb2.HealthCheckResponse.SERVING
NOT_SERVING = health_pb2.HealthCheckResponse.NOT_SERVING


class Answer(NamedTuple):
    status: int
    headers: dict[str, str]
    text: str

    @property
    def parts(self) -> dict[str, dict[str, Any]]:
        return {row["part"]: row for row in json.loads(self.text)["parts"]}


def get(address: str, path: str, method: str = "GET") -> Answer:
    request = urllib.request.Request(f"http://{address}{path}", method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as reply:  # noqa: S310 - http only
            return Answer(
                reply.status, {k.lower(): v for k, v in reply.headers.items()}, reply.read().decode()
            )
    except urllib.error.HTTPError as error:
        with error:
            headers = {k.lower(): v for k, v in error.headers.items()}
            return Answer(error.code, headers, error.read().decode())


class Pages:
    """The pages on a port, over rows that the test sets."""

    def __init__(self) -> None:
        self.rows: list[Row] = []
        app = application(lambda: self.rows, lambda accept: (b"metric 1\n", "text/plain; version=0.0.4"))
        self._server = uvicorn.Server(
            uvicorn.Config(app, log_config=None, lifespan="off", timeout_graceful_shutdown=1)
        )
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.address = f"127.0.0.1:{self._listener.getsockname()[1]}"
        self._thread = threading.Thread(target=self._server.run, args=([self._listener],), daemon=True)
        self._thread.start()
        until(lambda: self._server.started, 30, "the pages")

    def close(self) -> None:
        self._server.should_exit = True
        self._thread.join(10)
        self._listener.close()

    def ready(self, *rows: Row, path: str = "/readyz") -> Answer:
        self.rows = list(rows)
        return get(self.address, path)


@pytest.fixture(scope="module")
def pages() -> Iterator[Pages]:
    with closing(Pages()) as running:
        yield running


def row(part: str, state: State = State.UP, *, required: bool = True) -> Row:
    return Row(part, state, "a reason", 0.1234, required)


def test_ready_is_every_needed_part_up(pages: Pages) -> None:
    answer = pages.ready(row("store"), row("serving"))
    assert answer.status == 200
    assert json.loads(answer.text)["ready"] is True
    assert answer.parts["store"] == {
        "part": "store",
        "state": "up",
        "detail": "a reason",
        "age_s": 0.123,
        "required": True,
    }


@pytest.mark.parametrize("state", [State.DOWN, State.UNKNOWN])
def test_what_is_down_or_unknown_is_not_ready(pages: Pages, state: State) -> None:
    assert pages.ready(row("store"), row("learner", state)).status == 503
    # Unless it is not needed on this machine; then it is shown all the same.
    answer = pages.ready(row("serving"), row("learner", state, required=False))
    assert answer.status == 200
    assert answer.parts["learner"]["state"] == state.value
    # Asked for by its name it counts.
    assert (
        pages.ready(row("serving"), row("learner", state, required=False), path="/readyz/learner").status
        == 503
    )
    assert pages.ready(row("serving"), row("learner", state), path="/readyz/serving").status == 200


def test_nothing_to_look_at_is_not_ready(pages: Pages) -> None:
    assert pages.ready().status == 404
    assert pages.ready(row("store", required=False)).status == 503
    assert pages.ready(row("store"), path="/readyz/nothing").status == 404


def test_the_other_pages(pages: Pages) -> None:
    assert get(pages.address, "/healthz").text == "alive\n"
    index = get(pages.address, "/").text
    assert all(path in index for path in ("/healthz", "/readyz", "/metrics"))
    metrics = get(pages.address, "/metrics")
    assert (metrics.status, metrics.text) == (200, "metric 1\n")
    assert metrics.headers["content-type"].startswith("text/plain; version=0.0.4")


@pytest.mark.parametrize("path", ["/", "/healthz", "/readyz", "/metrics", "/nowhere"])
def test_every_answer_is_guarded_and_nothing_can_be_written(pages: Pages, path: str) -> None:
    for method in ("GET", "POST", "PUT", "DELETE"):
        answer = get(pages.address, path, method)
        assert method == "GET" or answer.status in (404, 405)
        assert {name: answer.headers.get(name) for name in HEADERS} == HEADERS


# --- probes ----------------------------------------------------------------------------------------------------------


class Pinged:
    """A store as the probes see it."""

    def __init__(self) -> None:
        self.away = False
        self.alive = True

    def version(self) -> int:
        if self.away:
            raise StoreUnavailable("the store does not answer")
        return 7

    def learner_alive(self) -> bool:
        if self.away:
            raise StoreUnavailable("the store does not answer")
        return self.alive


def test_a_part_is_unknown_until_it_was_looked_at_and_when_that_was_long_ago() -> None:
    clock = FakeClock()
    probe = Probe("store", probes.store(Pinged(), clock), clock, required=True)
    assert probe.row().state is State.UNKNOWN
    assert probe.row().age_s is None
    probe.look()
    assert probe.row().state is State.UP
    clock.advance(STALE_S)
    assert probe.row().state is State.UP
    clock.advance(0.1)
    old = probe.row()
    assert old.state is State.UNKNOWN
    assert old.age_s == pytest.approx(STALE_S + 0.1)
    assert "up" in old.detail


def test_without_the_store_nobody_knows_of_the_learner() -> None:
    clock, pinged = FakeClock(), Pinged()
    told: list[State] = []
    store = Probe("store", probes.store(pinged, clock), clock, required=True, told=told.append)
    learner = Probe("learner", probes.learner(pinged), clock, required=True)

    def states() -> list[State]:
        store.look()
        learner.look()
        return [store.row().state, learner.row().state]

    assert states() == [State.UP, State.UP]
    pinged.alive = False
    assert states() == [State.UP, State.DOWN]
    pinged.away = True
    assert states() == [State.DOWN, State.UNKNOWN]
    pinged.away = False
    pinged.alive = True
    assert states() == [State.UP, State.UP]
    assert told == [State.UP, State.UP, State.DOWN, State.UP]


def test_a_look_that_breaks_is_no_answer() -> None:
    def broken() -> tuple[State, str]:
        raise KeyError("x")

    probe = Probe("store", broken, FakeClock(), required=True)
    probe.look()
    assert probe.row().state is State.UNKNOWN
    assert "KeyError" in probe.row().detail


def test_a_look_that_hangs_holds_up_no_other() -> None:
    clock, hang = FakeClock(), threading.Event()

    def hanging() -> tuple[State, str]:
        hang.wait(30)
        return State.UP, ""

    first = Probe("learner", hanging, clock, required=True)
    second = Probe("store", probes.store(Pinged(), clock), clock, required=True)
    try:
        first.start()
        second.start()
        until(lambda: second.row().state is State.UP, 10, "the other one was looked at")
        assert first.row().state is State.UNKNOWN
    finally:
        hang.set()
        first.stop()
        second.stop()


@contextmanager
def grpc_health(address: str) -> Iterator[health.HealthServicer]:
    server = grpc.server(futures.ThreadPoolExecutor(2), options=[("grpc.so_reuseport", 0)])
    servicer = health.HealthServicer()
    health_pb2_grpc.add_HealthServicer_to_server(servicer, server)
    assert server.add_insecure_port(address)
    server.start()
    try:
        yield servicer
    finally:
        server.stop(None).wait(5)


def test_serving_is_what_the_server_says_of_itself() -> None:
    address = f"127.0.0.1:{free_port()}"
    look = probes.serving(address)
    assert look()[0] is State.DOWN
    with grpc_health(address) as servicer:
        assert look()[0] is State.UP
        servicer.set("", NOT_SERVING)
        assert look()[0] is State.DOWN
        servicer.set("", SERVING)
        assert look()[0] is State.UP
    assert look()[0] is State.DOWN


@pytest.mark.parametrize(
    ("listen", "target"),
    [
        ("0.0.0.0:7", "127.0.0.1:7"),
        ("[::]:7", "[::1]:7"),
        ("[::1]:7", "[::1]:7"),
        ("127.0.0.1:7", "127.0.0.1:7"),
    ],
)
def test_a_wildcard_is_reached_over_loopback(listen: str, target: str) -> None:
    assert probes.reachable(listen) == target


# --- the process -----------------------------------------------------------------------------------------------------


class Edge:
    """The real process, without a supervisor."""

    def __init__(self, config: Config) -> None:
        shared.clean(shared.folder_of(config.data_dir))
        self.address = config.http_listen
        self.child = Child(own_command("web"), Orders("web", os.getpid(), config.to_json()))
        until(self._ready, 60, "the edge is ready")

    def _ready(self) -> bool:
        assert self.child.ended() is None, "the edge ended"
        return self.child.is_ready()

    def close(self) -> None:
        self.child.terminate()
        until(lambda: self.child.ended() is not None, 20, "the edge ends")
        self.child.close()

    def until_parts(self, **wanted: str) -> Answer:
        def states() -> dict[str, str]:
            return {name: row["state"] for name, row in get(self.address, "/readyz").parts.items()}

        until(lambda: states() == wanted, 30, f"parts {wanted}, not {states()}")
        return get(self.address, "/readyz")


def config_of(folder: Path, url: str, role: str = "all") -> Config:
    return Config(
        data_dir=folder,
        store=url,
        role=role,
        listen=f"127.0.0.1:{free_port()}",
        http_listen=f"127.0.0.1:{free_port()}",
        log_format="json",
    )


def test_the_edge_shows_each_part_as_it_comes_and_goes(tmp_path: Path) -> None:
    store = Embedded(tmp_path / "store")
    store.start()
    config = config_of(tmp_path / "state", store.url)
    with closing(RedisStore(store.url)) as client, closing(Edge(config)) as edge:
        edge.until_parts(store="up", learner="down", serving="down")
        client.beat("a-learner", 60_000)
        with grpc_health(config.listen) as servicer:
            servicer.set("", SERVING)
            answer = edge.until_parts(store="up", learner="up", serving="up")
            assert answer.status == 200
            assert "banditd_store_up 1.0" in get(edge.address, "/metrics").text
            store.stop()
            answer = edge.until_parts(store="down", learner="unknown", serving="up")
            assert answer.status == 503
            assert get(edge.address, "/readyz/serving").status == 200
            assert get(edge.address, "/healthz").status == 200
            until(lambda: "banditd_store_up 0.0" in get(edge.address, "/metrics").text, 10, "the gauge")
        edge.until_parts(store="down", learner="unknown", serving="down")


def test_an_edge_beside_servers_only_does_not_need_the_store(tmp_path: Path) -> None:
    config = config_of(tmp_path / "state", f"unix://{tmp_path}/nothing", "serve")
    with grpc_health(config.listen) as servicer, closing(Edge(config)) as edge:
        servicer.set("", SERVING)
        assert edge.until_parts(store="down", learner="unknown", serving="up").status == 200


def test_an_edge_beside_a_learner_does_not_look_for_servers(tmp_path: Path) -> None:
    config = config_of(tmp_path / "state", f"unix://{tmp_path}/nothing", "learn")
    with closing(Edge(config)) as edge:
        assert edge.until_parts(store="down", learner="unknown").status == 503


@pytest.mark.parametrize("module", ["server.web.edge", "server.supervise.service"])
def test_it_starts_without_numba_and_scipy(module: str) -> None:
    probe = f"import sys, {module}; print(*sorted({{name.partition('.')[0] for name in sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", probe], capture_output=True, text=True, timeout=60, check=True
    )
    assert "structlog" in done.stdout.split()
    assert not {"llvmlite", "numba", "scipy"} & set(done.stdout.split())


def test_a_taken_port_is_an_answer_that_trying_again_does_not_change(tmp_path: Path) -> None:
    config = config_of(tmp_path / "state", f"unix://{tmp_path}/nothing")
    shared.clean(shared.folder_of(config.data_dir))
    host, _, port = config.http_listen.rpartition(":")
    with socket.create_server((host, int(port))):
        child = Child(own_command("web"), Orders("web", os.getpid(), config.to_json()))
        until(lambda: child.ended() is not None, 60, "the edge gives up")
        assert child.ended() == 78
        child.close()

"""What every test shares: property tests that draw the same examples on every machine, and stores on real servers."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import redis
from hypothesis import settings

from server.store.base import Store
from server.store.embedded import Embedded
from server.store.keys import NAMESPACE
from server.store.memory import MemoryStore
from server.store.redis import RedisStore
from server.store.rights import ACL_LINE
from tests import stores
from tests.clusters import Cluster, Node, Watched, free_ports
from tests.clusters import server as server_node
from tests.fakes import FakeClock

settings.register_profile("seeded", derandomize=True, deadline=None, print_blob=True)
settings.load_profile("seeded")

# The servers that the store must be right on: the packaged Valkey, and the oldest Redis that Debian stable has.
SERVERS = ["valkey", "redis"]
if os.environ.get("BANDITD_TESTS_NO_REDIS") == "1" and os.environ.get("CI") != "true":
    SERVERS.remove("redis")

# Other stores: a cluster, a primary that Sentinels name, a server that lets its user do only what is documented.
MANY = ["cluster", "watched", "restricted"]

# How long a store waits for a server, s: patient where other work on the machine must not fail a test, quick where
# the test makes the server silent.
PATIENT_S = 5.0
QUICK_S = 0.5


def pytest_addoption(parser: pytest.Parser) -> None:
    """``--full``: fault tests at the sizes that are promised; without it at about a tenth, as in CI."""
    parser.addoption("--full", action="store_true", help="fault tests at full size (hours)")


@pytest.fixture(scope="session")
def full(request: pytest.FixtureRequest) -> bool:
    """Whether fault tests run at full size."""
    return bool(request.config.getoption("--full"))


class Kept(NamedTuple):
    """A store under test; ``pass_ms`` lets its clock move on by at least that much."""

    store: Store
    pass_ms: Callable[[int], None]


def server_program(name: str) -> Path | None:
    """The program of a server (None: the packaged one); the test fails when it is not installed."""
    if name == "valkey":
        return None
    found = shutil.which("redis-server")
    if found is None:
        pytest.fail(
            "redis-server is not installed; run 'apt-get install redis-server', or set BANDITD_TESTS_NO_REDIS=1 to "
            "leave it out on this machine"
        )
    return Path(found)


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Embedded]]:
    """Servers of this run by name, each started when it is first asked for."""
    started: dict[str, Embedded] = {}

    def server(name: str) -> Embedded:
        if name not in started:
            embedded = Embedded(tmp_path_factory.mktemp(name), binary=server_program(name))
            embedded.start()
            started[name] = embedded
        return started[name]

    yield server
    for each in started.values():
        each.stop()


@pytest.fixture(scope="session")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """Three primaries on loopback that no test hurts."""
    with Cluster(tmp_path_factory.mktemp("cluster")) as made:
        yield made


@pytest.fixture(scope="session")
def watched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Watched]:
    """A primary and a replica with a Sentinel that no test hurts."""
    with Watched(tmp_path_factory.mktemp("watched"), sentinels=1) as made:
        yield made


class Restricted(NamedTuple):
    """A server whose every other user is off; ``url`` is of the user of the documented ACL line."""

    node: Node
    url: str


@pytest.fixture(scope="session")
def restricted(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Restricted]:
    """A server under the documented ACL line."""
    folder = tmp_path_factory.mktemp("restricted")
    (folder / "users").write_text(
        f"{ACL_LINE.replace('PASSWORD', 'secret')}\nuser default on >operator ~* &* +@all\n"
    )
    (port,) = free_ports(1)
    node = server_node(folder, port, "--aclfile", str(folder / "users"))
    node.admin.connection_pool.connection_kwargs["password"] = "operator"
    node.start()
    try:
        node.ready()
        yield Restricted(node, f"redis://banditd:secret@{node.address}")
    finally:
        node.stop()


def url_of(request: pytest.FixtureRequest, name: str) -> str:
    """Where a member of the stores is."""
    if name in MANY:
        return str(request.getfixturevalue(name).url)
    return str(request.getfixturevalue("servers")(name).url)


def new_namespace() -> str:
    """One that nobody else uses, within what the documented user may touch."""
    return f"{NAMESPACE}:t{secrets.token_hex(6)}"


@pytest.fixture(params=SERVERS)
def remote(request: pytest.FixtureRequest) -> Iterator[RedisStore]:
    """An empty store on each server, under a namespace of its own."""
    with contextlib.closing(
        RedisStore(
            url_of(request, request.param),
            namespace=new_namespace(),
            timeout_s=PATIENT_S,
        )
    ) as store:
        yield store


@pytest.fixture(params=["memory", *SERVERS, *MANY])
def kept(request: pytest.FixtureRequest) -> Iterator[Kept]:
    """Each member of the stores, empty."""
    if request.param == "memory":
        clock = FakeClock()
        yield Kept(MemoryStore(clock.now_ms), lambda ms: clock.advance(ms / 1000))
        return
    with contextlib.closing(
        RedisStore(
            url_of(request, request.param),
            namespace=new_namespace(),
            timeout_s=PATIENT_S,
        )
    ) as store:
        yield Kept(store, lambda ms: time.sleep((ms + 20) / 1000))


@pytest.fixture
def store(kept: Kept) -> Store:
    """Each member of the stores, empty."""
    return kept.store


@pytest.fixture(params=[0, 2], ids=["first", "third"])
def each_ledger(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is promised of an experiment's own ledger is promised of a further partition's."""
    monkeypatch.setattr(stores, "PARTITION", request.param)


@pytest.fixture(params=SERVERS)
def own_server(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Embedded]:
    """A server that this test may hurt."""
    with Embedded(tmp_path / "kept", binary=server_program(request.param)) as embedded:
        yield embedded


@pytest.fixture
def own(own_server: Embedded) -> Iterator[RedisStore]:
    """A store on a server that this test may hurt."""
    with contextlib.closing(RedisStore(own_server.url, timeout_s=PATIENT_S)) as store:
        yield store


@pytest.fixture
def admin(own_server: Embedded) -> Iterator[Any]:
    """A line of the operator to that server."""
    with contextlib.closing(redis.Redis.from_url(own_server.url, protocol=2)) as client:
        yield client

"""Who may speak to the store, and how: the documented user, missing and superfluous rights, TLS of every kind."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest
import redis

from bandit.errors import InvalidArgument, StoreUnavailable
from server.store.findings import Finding
from server.store.redis import RedisStore
from server.store.rights import ACL_LINE
from tests.clusters import Cluster, Tls, Watched, free_ports, server
from tests.conftest import SERVERS, Restricted, server_program
from tests.stores import new_name, put


def row(store: RedisStore, check: str) -> Finding:
    return next(row for row in store.findings() if row.check == check)


def test_the_documented_user_may_all_we_need_and_nothing_dangerous(restricted: Restricted) -> None:
    with contextlib.closing(RedisStore(restricted.url)) as store:
        assert row(store, "rights").seen == "banditd may all we need and nothing dangerous"
        assert [each for each in store.findings() if each.fatal and not each.ok] == []
    with contextlib.closing(redis.Redis.from_url(restricted.url)) as client:
        asked: Any = client.execute_command
        for command in (
            ["FLUSHALL"],
            ["CONFIG", "SET", "maxmemory", "0"],
            ["KEYS", "*"],
            ["SCRIPT", "FLUSH"],
        ):
            with pytest.raises(redis.exceptions.NoPermissionError):
                asked(*command)
        with pytest.raises(redis.exceptions.NoPermissionError):
            client.get("somebody-else")


@pytest.mark.parametrize(
    ("change", "missing"),
    [("-evalsha", "EVALSHA"), ("-xread -blpop", "XREAD, BLPOP"), ("resetkeys ~other:*", "EVALSHA")],
)
def test_a_user_without_a_right_is_told_and_may_not_learn(
    restricted: Restricted, change: str, missing: str
) -> None:
    users = restricted.node.admin.execute_command("ACL", "LIST")
    plain = next(each.decode() for each in users if b"user banditd " in each).split()[2:]
    try:
        restricted.node.admin.execute_command("ACL", "SETUSER", "banditd", *change.split())
        with contextlib.closing(RedisStore(restricted.url)) as store:
            found = row(store, "rights")
            assert (found.ok, found.fatal) == (False, True)
            assert missing in found.seen
    finally:
        restricted.node.admin.execute_command("ACL", "SETUSER", "banditd", "reset", *plain)


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Tls:
    """Needs the program openssl, and a server that was built with TLS (the packaged one is not)."""
    if shutil.which("openssl") is None or "redis" not in SERVERS:
        pytest.fail("openssl or redis-server is not installed; run 'apt-get install openssl redis-server'")
    return Tls.made(tmp_path_factory.mktemp("tls"))


@contextlib.contextmanager
def one_server(folder: Path, tls: Tls) -> Iterator[str]:
    (port,) = free_ports(1)
    node = server(folder, port, binary=server_program("redis"), tls=tls)
    node.start()
    try:
        node.ready()
        yield f"rediss://{node.address}?{tls.query}"
    finally:
        node.stop()


@contextlib.contextmanager
def a_cluster(folder: Path, tls: Tls) -> Iterator[str]:
    with Cluster(folder, primaries=1, binary=server_program("redis"), tls=tls) as made:
        yield made.url


@contextlib.contextmanager
def watched(folder: Path, tls: Tls) -> Iterator[str]:
    with Watched(folder, sentinels=1, binary=server_program("redis"), tls=tls) as made:
        yield made.url


@pytest.mark.parametrize("kind", [one_server, a_cluster, watched])
def test_every_kind_of_store_speaks_tls_and_refuses_strangers(
    kind: Callable[[Path, Tls], AbstractContextManager[str]], tmp_path: Path, tls: Tls
) -> None:
    with kind(tmp_path / "kept", tls) as url:
        with contextlib.closing(RedisStore(url)) as store:
            name = put(store, new_name()).experiment.name
            assert store.names() == [name]
            listener = store.subscribe()
            store.delete(name, 1)
            assert listener.next(5) == name
            listener.close()
            assert "TLS" in row(store, "transport").seen or row(store, "transport").ok
        other = Tls.made(_folder(tmp_path / "other"))
        strangers = {
            "no certificate of the server's authority": url.replace(str(tls.authority), str(other.authority)),
            "no certificate of its own": url.split("&ssl_certfile")[0],
            "no TLS": url.replace("rediss", "redis").split("?")[0],
        }
        for why, wrong in strangers.items():
            with (
                contextlib.closing(RedisStore(wrong, timeout_s=2.0)) as store,
                pytest.raises(StoreUnavailable),
            ):
                pytest.fail(f"{why}: {store.names()}")


def _folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("redis+sentinel://a:1,b:2", "which service"),
        ("redis+cluster://a:1/3", "one database"),
        ("redis+cluster://a:1?sentinel_password=p", "else none"),
        ("redis+sentinel://a:1/s?sentinel_db=1", "sentinel_db"),
        ("redis+ring://a:1", "no scheme"),
        ("unix+cluster:///run/s", "no scheme"),
        ("redis+cluster://a:1,,b:2", "no HOST:PORT"),
        ("redis+cluster://a:99999", "no HOST:PORT"),
        ("redis+sentinel://a:1/s?socket_timeout=3", "socket_timeout"),
        ("redis+sentinel://a:1/s?nonsense=3", "nobody knows"),
    ],
)
def test_urls_of_many_servers_that_are_none_are_refused(url: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says):
        RedisStore(url)


def test_what_is_told_of_urls_of_many_servers_has_no_secret() -> None:
    url = "rediss+sentinel://me:secret@a:1,[::1]:2/release?sentinel_username=s&sentinel_password=hidden"
    place: Any = RedisStore(url)._link.place
    assert place.address == "rediss+sentinel://a:1,[::1]:2/release"
    assert (place.nodes, place.service) == ((("a", 1), ("::1", 2)), "release")
    assert (place.options["username"], place.options["password"]) == ("me", "secret")
    assert (place.sentinel_options["username"], place.sentinel_options["password"]) == ("s", "hidden")
    assert (place.encrypted, place.authenticated, place.local) == (True, True, False)


def test_the_readme_shows_the_rights_that_are_tested() -> None:
    text = (Path(__file__).parents[2] / "README.md").read_text()
    assert ACL_LINE in " ".join(text.split())

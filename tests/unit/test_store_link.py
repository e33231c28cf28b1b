"""URLs of stores, what is told of them, and the rows of the start-up check."""

from __future__ import annotations

import time
from typing import Any

import pytest

from bandit.errors import InvalidArgument, StoreUnavailable
from server.store import check, rights
from server.store.link import Link, Script
from server.store.places import place_of


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "unix:///PATH"),
        ("http://host", "redis://HOST:PORT/DB"),
        ("redis://host:port", "Port"),
        ("redis://h/0?protocol=3", "its query sets protocol"),
        ("redis://h/0?retry_on_timeout=1&socket_timeout=9", "retry_on_timeout, socket_timeout"),
        ("redis://h/0?nonsense=1", "nobody knows"),
    ],
)
def test_a_url_that_is_none_is_refused(url: str, says: str) -> None:
    with pytest.raises(InvalidArgument, match=says) as told:
        Link(url)
    assert told.value.violations[0].field == "store.url"


@pytest.mark.parametrize(
    ("url", "address", "local", "encrypted", "authenticated"),
    [
        ("redis://localhost:1/2", "redis://localhost:1/2", True, False, False),
        ("redis://127.0.0.7", "redis://127.0.0.7", True, False, False),
        ("redis://[::1]:1", "redis://[::1]:1", True, False, False),
        ("unix://me@/run/s?password=p", "unix:///run/s", True, False, True),
        ("redis://:p@10.0.0.1:1/0?client_name=x", "redis://10.0.0.1:1/0", False, False, True),
        ("rediss://u:p@redis.example:6380", "rediss://redis.example:6380", False, True, True),
    ],
)
def test_what_is_told_of_a_url_has_no_secret(
    url: str, address: str, local: bool, encrypted: bool, authenticated: bool
) -> None:
    link = Link(url)
    assert (link.address, link.local, link.encrypted, link.authenticated) == (
        address,
        local,
        encrypted,
        authenticated,
    )


def test_a_script_is_called_by_the_digest_of_its_text() -> None:
    assert len(Script("fold").sha) == 40
    assert Script("fold").sha != Script("commit").sha


class Answering:
    """A line to a server that gives the answers it is told to give."""

    address, local, encrypted, authenticated = "redis://far:1", False, False, False
    place = place_of("redis://far:1")

    def __init__(self, **answers: Any) -> None:
        self.answers: dict[str, Any] = {
            "redis_version": "7.0.15",
            "cluster_enabled": 0,
            "role": "master",
            "maxmemory_policy": "noeviction",
            "aof_enabled": 1,
            "used_memory": 10,
            "maxmemory": 100,
            "connected_slaves": 1,
        } | answers

    def nodes(self) -> list[Any]:
        return [self]

    def batch(self, commands: list[tuple[object, ...]]) -> list[Any]:
        return [self.call(*command) for command in commands]

    def call(self, *command: object) -> Any:
        match command:
            case ("TIME",):
                now = time.time() + float(str(self.answers.get("skew_s", 0)))
                return int(now), 0
            case ("INFO",):
                return self.answers
            case ("EVAL", *_):
                return self.answers.get("eval", 1)
            case ("ACL", "WHOAMI"):
                return b"me"
            case ("ACL", "DRYRUN", "me", name, *rest):
                may = (name, *rest) not in rights.DANGEROUS or name in self.answers.get("dangerous", ())
                return b"OK" if may and name not in self.answers.get("missing", ()) else b"no permissions"
            case ("CONFIG", "GET", name) if name in self.answers:
                return [name.encode(), str(self.answers[name]).encode()]
            case _:
                raise StoreUnavailable("its user may not do this")


def wrong(**answers: object) -> dict[str, str]:
    link: Any = Answering(**answers)
    return {row.check: row.seen for row in check.findings(link) if not row.ok}


@pytest.mark.parametrize(
    ("answers", "row", "seen"),
    [
        ({"redis_version": "6.0.20"}, "version", "Redis 6.0.20"),
        ({"redis_version": "unstable"}, "version", "Redis unstable"),
        ({"redis_version": ""}, "version", "unknown version"),
        ({"cluster_enabled": 1}, "topology", "part of a cluster; the URL names one server"),
        ({"connected_slaves": 0}, "replicas", "none"),
        ({"min-replicas-to-write": "0", "min-replicas-max-lag": "10"}, "replicas", "without a limit"),
        ({"missing": ("XADD", "EVAL")}, "rights", "me may not EVAL, XADD"),
        ({"dangerous": ("KEYS",)}, "rights", "me may all we need, and KEYS"),
        ({"role": "slave"}, "role", "slave"),
        ({"eval": 2}, "scripts", "answers 2"),
        ({"maxmemory_policy": "volatile-ttl"}, "eviction", "volatile-ttl"),
        ({"aof_enabled": 0}, "durability", "loses"),
        ({"aof_last_write_status": "err"}, "durability", "failed"),
        ({"used_memory": 91}, "memory", "MiB"),
        ({"maxmemory": 0}, "memory", "no maxmemory"),
        ({"used_memory": "much"}, "memory", ""),
        ({"skew_s": 5}, "clock", "s from this server"),
    ],
)
def test_each_row_looks_at_its_own_thing(answers: dict[str, object], row: str, seen: str) -> None:
    found = wrong(**answers)
    expected = {row, "transport"} if answers != {"used_memory": "much"} else {"transport"}
    assert set(found) == expected
    assert seen in found.get(row, "")


def test_a_far_server_needs_tls_and_a_password() -> None:
    assert wrong()["transport"] == "no TLS, no password"


@pytest.mark.parametrize(
    ("version", "own", "fine"),
    [("6.2.0", None, True), ("7.2.4", "9.1.2", True), ("10.0", None, True), ("5.0.7", None, False)],
)
def test_versions_from_6_2_on_are_fine(version: str, own: str | None, fine: bool) -> None:
    assert ("version" not in wrong(redis_version=version, valkey_version=own)) is fine

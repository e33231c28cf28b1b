"""Where a store is, from its URL: one server, a primary that Sentinels name, or a cluster. It connects to nothing.

::

    redis://USER:PASSWORD@HOST:PORT/DB                          one server (rediss:// with TLS, unix:///PATH)
    redis+sentinel://USER:PASSWORD@HOST:PORT,HOST:PORT/SERVICE  the primary of a service; the hosts are Sentinels
    redis+cluster://USER:PASSWORD@HOST:PORT,HOST:PORT           a cluster; any of its servers, to find the others by

``rediss+sentinel`` and ``rediss+cluster`` speak TLS to every server and Sentinel. The query sets what the client
library calls its connection's arguments (``ssl_ca_certs``, ``client_name``...), and for Sentinels of their own
``sentinel_username`` and ``sentinel_password``; it may not set what the link is for: protocol, timeouts, retries.
"""

from __future__ import annotations

import ipaddress
import re
import ssl
from dataclasses import dataclass
from enum import StrEnum
from typing import Any
from urllib.parse import urlsplit

from redis.connection import SSLConnection, parse_url

from bandit.errors import InvalidArgument

WRITE = (
    "write redis://HOST:PORT/DB, rediss://…, unix:///PATH, redis+sentinel://HOST:PORT,HOST:PORT/SERVICE or "
    "redis+cluster://HOST:PORT,HOST:PORT"
)
SENTINEL_PORT, SERVER_PORT = 26379, 6379
_RESERVED = {"protocol", "retry", "retry_on_error", "retry_on_timeout", "socket_timeout", "decode_responses"}
_SENTINELS_OWN = "sentinel_"
_TLS = (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3)
_HOST = re.compile(r"(?P<host>\[[0-9a-fA-F:.%]+\]|[^\s:\[\],]+)(:(?P<port>[0-9]{1,5}))?")


class Kind(StrEnum):
    """How the server that takes a call is found."""

    SERVER = "one server"
    SENTINEL = "a primary named by Sentinels"
    CLUSTER = "a cluster"


Address = tuple[str, int]


@dataclass(frozen=True, slots=True)
class Place:
    """A parsed URL. ``options``: arguments of each connection; ``nodes``: Sentinels, or servers of a cluster.

    ``address`` is the URL without user, password and query; ``local``: only this machine is named.
    """

    kind: Kind
    options: dict[str, Any]
    address: str
    encrypted: bool
    authenticated: bool
    local: bool
    nodes: tuple[Address, ...] = ()
    service: str = ""
    sentinel_options: dict[str, Any] | None = None


def place_of(url: str) -> Place:
    """The place that a URL names. Raises InvalidArgument for one that names none."""
    scheme, separator, rest = url.partition("://")
    plain, plus, word = scheme.partition("+")
    if not plus:
        options = _options(url)
        return _place(Kind.SERVER, url, options, local=_is_local(url))
    if not separator or plain not in ("redis", "rediss") or word not in ("sentinel", "cluster"):
        raise InvalidArgument.at("store.url", f"{scheme}:// is no scheme of a store; {WRITE}")
    kind = Kind.SENTINEL if word == "sentinel" else Kind.CLUSTER
    before, mark, query = rest.partition("?")
    authority, _, service = before.partition("/")
    user, at, hosts = authority.rpartition("@")
    nodes = tuple(
        _host(each, SENTINEL_PORT if kind is Kind.SENTINEL else SERVER_PORT) for each in hosts.split(",")
    )
    options = _options(f"{plain}://{user}{at}host/{mark}{query}")
    options.pop("host", None)
    own = {
        name.removeprefix(_SENTINELS_OWN): options.pop(name)
        for name in list(options)
        if name.startswith(_SENTINELS_OWN)
    }
    if kind is Kind.SENTINEL and not service:
        raise InvalidArgument.at(
            "store.url", "it does not say which service the Sentinels watch; write …HOST:PORT/SERVICE"
        )
    if kind is Kind.CLUSTER and (service or options.get("db")):
        raise InvalidArgument.at("store.url", f"/{service}: a cluster has one database only; leave that out")
    if own and (kind is Kind.CLUSTER or own.keys() - {"username", "password"}):
        named = ", ".join(sorted(_SENTINELS_OWN + name for name in own))
        raise InvalidArgument.at(
            "store.url",
            f"its query sets {named}; with Sentinels there are sentinel_username and sentinel_password, else none",
        )
    if plain == "rediss" and kind is Kind.SENTINEL:
        own |= {name: value for name, value in options.items() if name.startswith("ssl_")} | {"ssl": True}
    return _place(
        kind,
        url,
        options,
        local=all(_is_local(f"redis://{_written(node)}") for node in nodes),
        nodes=nodes,
        service=service,
        sentinel_options=own if kind is Kind.SENTINEL else None,
    )


def _place(kind: Kind, url: str, options: dict[str, Any], *, local: bool, **more: Any) -> Place:
    if clash := _RESERVED & options.keys():
        raise InvalidArgument.at(
            "store.url",
            f"its query sets {', '.join(sorted(clash))}, which the server sets itself; leave that out",
        )
    return Place(
        kind,
        options,
        _address(url),
        encrypted=options.get("connection_class") is SSLConnection,
        authenticated=bool(options.get("password") or options.get("credential_provider")),
        local=local,
        **more,
    )


def _options(url: str) -> dict[str, Any]:
    try:
        parse: Any = parse_url
        options = dict(parse(url))
    except (ValueError, TypeError) as error:
        raise InvalidArgument.at("store.url", f"{error}; {WRITE}") from None
    if options.get("connection_class") is SSLConnection:
        # Named, so that no setting of the machine's OpenSSL allows older ones.
        least = options.get("ssl_min_version", ssl.TLSVersion.TLSv1_2)
        if least not in _TLS:
            raise InvalidArgument.at(
                "store.url",
                f"its query sets ssl_min_version to {least}; write 771 for TLS 1.2, 772 for TLS 1.3, or leave it out",
            )
        options["ssl_min_version"] = ssl.TLSVersion(least)
    return options


def _host(text: str, port: int) -> Address:
    found = _HOST.fullmatch(text)
    if found is None or int(found["port"] or port) > 65535:
        raise InvalidArgument.at("store.url", f"{text!r} is no HOST:PORT; {WRITE}")
    return found["host"].strip("[]"), int(found["port"] or port)


def _written(node: Address) -> str:
    host, port = node
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _address(url: str) -> str:
    """The URL without user, password and query."""
    parts = urlsplit(url)
    place = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{place}{parts.path}"


def _is_local(url: str) -> bool:
    parts = urlsplit(url)
    if parts.scheme == "unix" or parts.hostname in (None, "localhost"):
        return True
    try:
        return ipaddress.ip_address(parts.hostname or "").is_loopback
    except ValueError:
        return False

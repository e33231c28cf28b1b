"""The line to a Redis or Valkey server: bounded in time, one try a call, every failure in our words.

A call that was sent and not answered is never sent again from here: whether it was executed is unknown, and only
the caller knows how to find out. Safe for several threads; each call takes a connection of its own from the pool.
"""

from __future__ import annotations

import hashlib
import ipaddress
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import redis
from redis.backoff import NoBackoff
from redis.connection import parse_url
from redis.retry import Retry

from bandit.errors import BanditError, CorruptStored, InvalidArgument, StoreUnavailable

TIMEOUT_S = 1.0
WAIT_S = 1.0
KEPT_WITHIN_MS = 300
_MOST_CONNECTIONS = 512
_LUA = Path(__file__).parent / "lua"
_RESERVED = {"protocol", "retry", "retry_on_error", "retry_on_timeout", "socket_timeout", "decode_responses"}

Argument = bytes | str | int


class Script:
    """One Lua file; ``sha`` is how the server calls it."""

    def __init__(self, name: str) -> None:
        self.source = (_LUA / f"{name}.lua").read_text("utf-8")
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Link:
    """Calls to one server.

    ``url``: redis://, rediss:// or unix://; its query may set TLS files and the like, but not what this class is
    for (protocol, timeouts, retries). ``timeout_s`` bounds each wait for the server, s.
    """

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        options = _options(url)
        self.address = _address(url)
        self.encrypted = url.startswith("rediss://")
        self.authenticated = bool(options.get("password") or options.get("credential_provider"))
        self.local = _is_local(url)
        # Two pools: connections that wait for something to happen have a longer limit.
        self._quick = _client(options, timeout_s, timeout_s)
        self._waiting = _client(options, timeout_s, WAIT_S + timeout_s)

    def call(self, *command: Argument) -> Any:
        """One command. Raises StoreUnavailable, or CorruptStored when a key holds another type."""
        with self._spoken(command[1] if len(command) > 1 else ""):
            return self._quick.execute_command(*command)

    def wait(self, *command: Argument) -> Any:
        """One command that blocks on the server for at most ``WAIT_S``."""
        with self._spoken(command[1]):
            return self._waiting.execute_command(*command)

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """One script, by its digest; by its text when the server does not have it (it did nothing then)."""
        with self._spoken(keys[0]):
            try:
                return self._quick.execute_command("EVALSHA", script.sha, len(keys), *keys, *arguments)
            except redis.exceptions.NoScriptError:
                return self._quick.execute_command("EVAL", script.source, len(keys), *keys, *arguments)

    def run_kept(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """One script whose writes are on the server's disk when it returns, as far as the server can tell.

        Waits for that at most ``KEPT_WITHIN_MS``. Servers before 7.2, or without an append-only file, cannot tell.
        """
        text = ["EVAL", script.source, len(keys), *keys, *arguments]
        answer, _ = self.batch([text, ("WAITAOF", 1, 0, KEPT_WITHIN_MS)], key=keys[0])
        if isinstance(answer, BanditError):
            raise answer
        return answer

    def batch(self, commands: Sequence[Sequence[Argument]], *, key: Argument = "") -> list[Any]:
        """Several commands in one round trip; a refused one has its error as its answer. Raises StoreUnavailable.

        Other clients' commands may run in between. ``key`` names them all in errors, else each its own first.
        """
        if not commands:
            return []
        with self._spoken(key):
            pipeline = self._quick.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            answers = pipeline.execute(raise_on_error=False)
        return [
            self.told(answer, key or _key(command))
            if isinstance(answer, redis.exceptions.RedisError)
            else answer
            for answer, command in zip(answers, commands, strict=True)
        ]

    def listen(self, channel: str) -> Any:
        """A connection that is subscribed to the channel already."""
        with self._spoken(channel):
            listener = self._waiting.pubsub(ignore_subscribe_messages=False)
            try:
                listener.subscribe(channel)
                if listener.get_message(timeout=WAIT_S) is None:
                    raise redis.exceptions.TimeoutError("it did not confirm the subscription")
            except BaseException:
                listener.close()
                raise
            return listener

    def heard(self, listener: Any, timeout_s: float) -> bytes | None:
        """The next message of a listener, or None after the timeout."""
        with self._spoken(""):
            message = listener.get_message(timeout=timeout_s)
        if message is None or message["type"] != "message":
            return None
        text = message["data"]
        return text if isinstance(text, bytes) else None

    def close(self) -> None:
        """Close all connections."""
        self._quick.close()
        self._waiting.close()

    def told(self, error: redis.exceptions.RedisError, key: Argument) -> BanditError:
        """An error of the client library in our words."""
        text = str(error)
        if isinstance(error, redis.exceptions.ResponseError) and "WRONGTYPE" in text:
            name = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
            return CorruptStored(
                f"{name}: {text}; restore it from a copy, or delete what it belongs to",
                key=name,
                server_says=text,
            )
        return StoreUnavailable(
            f"the store at {self.address} did not do what was asked: {_cause(error)}; "
            "nothing is half-done, read again and retry",
            address=self.address,
            server_says=text,
        )

    @contextmanager
    def _spoken(self, key: Argument) -> Iterator[None]:
        try:
            yield
        except redis.exceptions.DataError as error:
            raise TypeError(f"the store was given a value of a type it cannot send: {error}") from error
        except redis.exceptions.RedisError as error:
            raise self.told(error, key) from error
        except OSError as error:
            raise self.told(redis.exceptions.ConnectionError(str(error)), key) from error


_MEANINGS: tuple[tuple[type[redis.exceptions.RedisError], str, str], ...] = (
    # Class of the client library (it cuts the server's word off), the server's word inside a script's error, meaning.
    (redis.exceptions.OutOfMemoryError, "OOM ", "its memory is full"),
    (redis.exceptions.ReadOnlyError, "READONLY ", "it is a replica"),
    (redis.exceptions.BusyLoadingError, "LOADING ", "it is still reading its files"),
    (redis.exceptions.MasterDownError, "MASTERDOWN ", "it lost its primary"),
    (redis.exceptions.NoPermissionError, "NOPERM ", "its user may not do this"),
    (redis.exceptions.AuthenticationError, "NOAUTH ", "it wants another user or password"),
    (redis.exceptions.MovedError, "MOVED ", "it is a cluster"),
    (redis.exceptions.TimeoutError, "", "no answer in time"),
    (redis.exceptions.RedisError, "BUSY ", "a script of somebody else keeps it busy"),
    (redis.exceptions.RedisError, "MISCONF ", "it cannot write its files"),
    (redis.exceptions.RedisError, "NOREPLICAS ", "too few replicas follow it"),
)


def _cause(error: redis.exceptions.RedisError) -> str:
    text = str(error) or type(error).__name__
    for kind, word, meaning in _MEANINGS:
        if (kind is not redis.exceptions.RedisError and isinstance(error, kind)) or (word and word in text):
            return f"{meaning} ({text})"
    return text


def _client(options: dict[str, Any], connect_s: float, timeout_s: float) -> Any:
    # Any: most of the client library has no types.
    pool = redis.ConnectionPool(
        **options,
        protocol=2,
        retry=Retry(NoBackoff(), 0),
        socket_timeout=timeout_s,
        socket_connect_timeout=connect_s,
        # Names the client library to the server: a round trip a connection that nobody needs.
        driver_info=None,
        max_connections=_MOST_CONNECTIONS,
    )
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise InvalidArgument.at(
            "store.url", f"its query sets what nobody knows: {error}; leave it out"
        ) from None
    return redis.Redis.from_pool(pool)


def _options(url: str) -> dict[str, Any]:
    try:
        parse: Any = parse_url
        options = dict(parse(url))
    except (ValueError, TypeError) as error:
        raise InvalidArgument.at(
            "store.url", f"{error}; write redis://HOST:PORT/DB, rediss://… or unix:///PATH"
        ) from None
    if clash := _RESERVED & options.keys():
        raise InvalidArgument.at(
            "store.url",
            f"its query sets {', '.join(sorted(clash))}, which the server sets itself; leave that out",
        )
    return options


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


def _key(command: Sequence[Argument]) -> Argument:
    return command[1] if len(command) > 1 else ""

"""The line to a Redis or Valkey server: bounded in time, one try a call, every failure in our words.

A call that was sent and not answered is never sent again from here: whether it was executed is unknown, and only
the caller knows how to find out. Safe for several threads; each call takes a connection of its own from the pool.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import Sentinel, SentinelConnectionPool

from bandit.errors import BanditError, InvalidArgument
from server.store.base import Durability
from server.store.places import Address, Kind, Place, place_of
from server.store.words import is_demoted, told

Argument = bytes | str | int

TIMEOUT_S = 1.0
WAIT_S = 1.0
KEPT_WITHIN_MS = 300
# How to wait for writes of the same connection, and how long: an fsync a second is the usual setting.
KEPT: Mapping[Durability, tuple[Argument, ...]] = {
    Durability.REPLICATED: ("WAIT", 1, 500),
    Durability.FSYNCED: ("WAITAOF", 1, 0, 1500),
}
_MOST_CONNECTIONS = 512
_LUA = Path(__file__).parent / "lua"
_WITHOUT_KEY = frozenset({"TIME", "INFO", "CONFIG", "WAIT", "WAITAOF", "PING", "ACL", "CLUSTER", "ROLE"})


class Script:
    """One Lua file; ``sha`` is how the server calls it."""

    def __init__(self, name: str) -> None:
        self.source = (_LUA / f"{name}.lua").read_text("utf-8")
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()


class Link:
    """Calls to one server, or to the primary that Sentinels name; see ``places`` for the URL.

    ``timeout_s`` bounds each wait for the server, s. A failover ends calls with StoreUnavailable; the next ones go
    to whom the Sentinels name then.
    """

    # May one call name keys of several experiments?
    spans = True

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        place = place_of(url)
        self.place = place
        self.address = place.address
        self.encrypted, self.authenticated, self.local = place.encrypted, place.authenticated, place.local
        # Two pools: connections that wait for something to happen have a longer limit.
        self._quick = pool_client(place, None, timeout_s, timeout_s)
        self._waiting = pool_client(place, None, timeout_s, WAIT_S + timeout_s)

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

    def run_many(
        self, script: Script, calls: Sequence[tuple[Sequence[str], Sequence[Argument]]]
    ) -> list[Any]:
        """A script several times in one round trip (keys, arguments); answers as of :meth:`batch`."""
        return self._run_many(script, calls, self.batch)

    def run_many_kept(
        self,
        script: Script,
        calls: Sequence[tuple[Sequence[str], Sequence[Argument]]],
        wanted: Durability,
    ) -> tuple[list[Any], Durability]:
        """As :meth:`run_many`; then waits as :meth:`batch_kept` does. Answers, and how safe all writes are."""
        safe = [wanted]

        def batch(commands: Sequence[Sequence[Argument]]) -> list[Any]:
            answers, how = self.batch_kept(commands, wanted)
            safe.append(how)
            return answers

        return self._run_many(script, calls, batch), min(safe)

    @staticmethod
    def _run_many(
        script: Script,
        calls: Sequence[tuple[Sequence[str], Sequence[Argument]]],
        batch: Callable[[Sequence[Sequence[Argument]]], list[Any]],
    ) -> list[Any]:
        def commands(word: str, text: str, places: Sequence[int]) -> list[list[Argument]]:
            chosen = [calls[place] for place in places]
            return [[word, text, len(keys), *keys, *arguments] for keys, arguments in chosen]

        answers = batch(commands("EVALSHA", script.sha, range(len(calls))))
        missing = [place for place, answer in enumerate(answers) if _lacks_script(answer)]
        if missing:
            for place, answer in zip(missing, batch(commands("EVAL", script.source, missing)), strict=True):
                answers[place] = answer
        return answers

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
            self.told(answer, key or key_of(command))
            if isinstance(answer, redis.exceptions.RedisError)
            else answer
            for answer, command in zip(answers, commands, strict=True)
        ]

    def batch_kept(
        self, commands: Sequence[Sequence[Argument]], wanted: Durability
    ) -> tuple[list[Any], Durability]:
        """As :meth:`batch`; then waits until all writes are as safe as wanted. Answers, and how safe they are."""
        answers = self._batch_kept([*commands, KEPT[wanted]])
        return answers[:-1], reached([answers[-1]], wanted)

    def _batch_kept(self, commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """A batch whose last command waits on the server."""
        with self._spoken(""):
            pipeline = self._waiting.pipeline(transaction=False)
            for command in commands:
                pipeline.execute_command(*command)
            answers = pipeline.execute(raise_on_error=False)
        return [
            self.told(answer, key_of(command)) if isinstance(answer, redis.exceptions.RedisError) else answer
            for answer, command in zip(answers, commands, strict=True)
        ]

    def listen(self, channel: str) -> Any:
        """A connection that is subscribed to the channel already."""
        with self._spoken(channel):
            return self._subscribed(self._waiting, channel)

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
        if is_demoted(error):
            # Other connections to it work on, and would read old state: the next call is to find the new primary.
            self._leave()
        return told(error, key, self.address)

    def nodes(self) -> list[Link]:
        """A line to each server that takes writes, as far as they are known; here only this one."""
        return [self]

    @staticmethod
    def _subscribed(client: Any, channel: str) -> Any:
        listener = client.pubsub(ignore_subscribe_messages=False)
        try:
            listener.subscribe(channel)
            if listener.get_message(timeout=WAIT_S) is None:
                raise redis.exceptions.TimeoutError("it did not confirm the subscription")
        except BaseException:
            listener.close()
            raise
        return listener

    def _leave(self) -> None:
        for client in (self._quick, self._waiting):
            client.connection_pool.disconnect(inuse_connections=False)

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


def reached(waited: Sequence[Any], wanted: Durability) -> Durability:
    """How safe writes are, by what the servers' waiting said; all of them must have done it."""
    counts = [answer[0] if isinstance(answer, list) else answer for answer in waited]
    return wanted if all(isinstance(count, int) and count >= 1 for count in counts) else Durability.MEMORY


def _lacks_script(answer: object) -> bool:
    """Did it do nothing, because the server does not have the script?"""
    return isinstance(answer, BanditError) and "No matching script" in answer.metadata.get("server_says", "")


def pool_client(place: Place, node: Address | None, connect_s: float, timeout_s: float) -> Any:
    """A client of its own pool: of the one server, of the primary that Sentinels name, or of one of a cluster.

    Any: most of the client library has no types. Raises InvalidArgument for options that nobody knows.
    """
    kept: dict[str, Any] = {
        "protocol": 2,
        "retry": Retry(NoBackoff(), 0),
        "socket_timeout": timeout_s,
        "socket_connect_timeout": connect_s,
    }
    if not place.encrypted:
        # Names the client library to the server: a round trip a connection that nobody needs. With TLS 1.3 its answer
        # comes after the tickets that a server sends unasked, which the pool would take for an answer of somebody else.
        kept["driver_info"] = None
    options = dict(place.options)
    if place.kind is Kind.SENTINEL:
        encrypted = options.pop("connection_class", None) is not None
        make: Any = Sentinel
        sentinels = make(
            place.nodes,
            sentinel_kwargs={**(place.sentinel_options or {}), **kept, "socket_timeout": connect_s},
        )
        make_pool: Any = SentinelConnectionPool
        pool: Any = make_pool(
            place.service, sentinels, ssl=encrypted, **options, **kept, max_connections=_MOST_CONNECTIONS
        )
    else:
        if node is not None:
            options |= {"host": node[0], "port": node[1]}
        pool = redis.ConnectionPool(**options, **kept, max_connections=_MOST_CONNECTIONS)
    try:
        pool.connection_class(**pool.connection_kwargs)
    except TypeError as error:
        raise InvalidArgument.at(
            "store.url", f"its query sets what nobody knows: {error}; leave it out"
        ) from None
    return redis.Redis.from_pool(pool)


def key_of(command: Sequence[Argument]) -> Argument:
    """The first key of a command; "" for one without."""
    name = command[0]
    if name in ("EVAL", "EVALSHA"):
        return command[3] if len(command) > 3 and command[2] != 0 else ""
    if name in ("XREAD", "XREADGROUP"):
        return command[command.index("STREAMS") + 1]
    if name in ("XGROUP", "XINFO"):
        return command[2]
    return "" if name in _WITHOUT_KEY or len(command) < 2 else command[1]

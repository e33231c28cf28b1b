"""The line to a Redis or Valkey Cluster: finds the server of each key's slot, follows it when it moves.

A call that a server refused because the slot is elsewhere (MOVED, ASK, TRYAGAIN) did nothing, and is sent to whom
the refusal names. A call that was sent and not answered is not sent again, as on one server (see ``link``).

Rejected: the client library's cluster client. It sends unanswered commands of a pipeline again, one by one, and
with its retries off it still asks servers for the list of their commands before the first call.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from typing import Any

import redis
from redis.crc import key_slot

from server.store.base import Durability
from server.store.link import (
    KEPT,
    TIMEOUT_S,
    WAIT_S,
    Argument,
    Link,
    Script,
    key_of,
    pool_client,
    reached,
)
from server.store.places import Address

SLOTS = 16_384
# Calls without a key (the clock, the channel of changes) go to the server of what belongs to all experiments.
HOME = key_slot(b"{_registry}")
_MOST_MOVES = 16
_AGAIN_S = 0.02
_LOOK_EVERY_S = 0.1
_REDIRECTS = (redis.exceptions.AskError, redis.exceptions.TryAgainError)  # MovedError is an AskError


class ClusterLink(Link):
    """Calls to a cluster. Nothing is connected before the first call."""

    spans = False

    def __init__(self, url: str, timeout_s: float = TIMEOUT_S) -> None:
        super().__init__(url, timeout_s)
        self._timeout_s = timeout_s
        self._clients: dict[tuple[Address, bool], Any] = {}
        self._owners: list[Address] = []
        self._servers: list[Address] = []
        self._failed: Address | None = None
        self._looked_s = float("-inf")
        self._stale = True
        self._looking = threading.Lock()
        self._making = threading.Lock()

    def call(self, *command: Argument) -> Any:
        """See Link."""
        return self._one(command, waiting=False)

    def wait(self, *command: Argument) -> Any:
        """See Link."""
        return self._one(command, waiting=True)

    def run(self, script: Script, keys: Sequence[str], arguments: Sequence[Argument]) -> Any:
        """See Link; each server may lack the script."""
        called: list[Argument] = ["EVALSHA", script.sha, len(keys), *keys, *arguments]
        slot = key_slot(_bytes(keys[0]))
        with self._spoken(keys[0]):
            (answer,) = self._unit(slot, [called], waiting=False)
            if isinstance(answer, redis.exceptions.NoScriptError):
                (answer,) = self._unit(slot, [["EVAL", script.source, *called[2:]]], waiting=False)
            if isinstance(answer, redis.exceptions.RedisError):
                raise answer
            return answer

    def batch(self, commands: Sequence[Sequence[Argument]], *, key: Argument = "") -> list[Any]:
        """See Link. With a ``key`` all go to its server, in one round trip; else one for each server."""
        if not commands:
            return []
        with self._spoken(key):
            if key != "":
                answers = self._unit(key_slot(_bytes(key)), commands, waiting=False)
            else:
                answers = self._spread(commands)
        return self._words(answers, commands)

    def batch_kept(
        self, commands: Sequence[Sequence[Argument]], wanted: Durability
    ) -> tuple[list[Any], Durability]:
        """See Link; every server that took something waits, one after the other."""
        waited: list[Any] = []
        with self._spoken(""):
            answers = self._spread(commands, KEPT[wanted], waited)
        return self._words(answers, commands), reached(waited, wanted)

    def listen(self, channel: str) -> Any:
        """See Link; every server of a cluster passes on what is published on any."""
        with self._spoken(channel):
            return self._subscribed(self._client(self._owner(HOME), waiting=True), channel)

    def nodes(self) -> list[Link]:
        """A line to each primary."""
        with self._spoken(""):
            self._look()
        return [_Node(self, address) for address in sorted(set(self._owners))]

    def close(self) -> None:
        """See Link."""
        super().close()
        with self._making:
            clients, self._clients = self._clients, {}
        for client in clients.values():
            client.close()

    def _one(self, command: Sequence[Argument], *, waiting: bool) -> Any:
        key = key_of(command)
        with self._spoken(key):
            (answer,) = self._unit(_slot(command), [command], waiting=waiting)
            if isinstance(answer, redis.exceptions.RedisError):
                raise answer
            return answer

    def _words(self, answers: Sequence[Any], commands: Sequence[Sequence[Argument]]) -> list[Any]:
        """Refusals among answers in our words."""
        return [
            self.told(answer, key_of(command)) if isinstance(answer, redis.exceptions.RedisError) else answer
            for answer, command in zip(answers, commands, strict=True)
        ]

    def _spread(
        self,
        commands: Sequence[Sequence[Argument]],
        after: Sequence[Argument] = (),
        waited: list[Any] | None = None,
    ) -> list[Any]:
        """Commands of any slots: one round trip to each server, then what has moved one by one.

        ``after`` follows them on each server; what it answers comes into ``waited``.
        """
        answers: list[Any] = [None] * len(commands)
        more, waiting = [after] if after else [], bool(after)
        by_owner: dict[Address, list[int]] = {}
        for place, command in enumerate(commands):
            by_owner.setdefault(self._owner(_slot(command)), []).append(place)
        for owner, places in by_owner.items():
            unit = [*(commands[place] for place in places), *more]
            try:
                found = self._sent(owner, unit, waiting=waiting)
            except redis.exceptions.RedisError as error:
                found = [error] * len(unit)
            if waited is not None:
                waited.append(found.pop())
            for place, answer in zip(places, found, strict=True):
                answers[place] = answer
        for place, answer in enumerate(answers):
            if isinstance(answer, _REDIRECTS):
                slot, unit = _slot(commands[place]), [commands[place], *more]
                try:
                    found = self._unit(slot, unit, waiting=waiting, refused=answer)
                except redis.exceptions.RedisError as error:
                    found = [error] * len(unit)
                answers[place] = found[0]
                if waited is not None:
                    waited.append(found[-1])
        return answers

    def _unit(
        self,
        slot: int,
        commands: Sequence[Sequence[Argument]],
        *,
        waiting: bool,
        refused: redis.exceptions.RedisError | None = None,
    ) -> list[Any]:
        """Commands of one slot, in one round trip to its server, wherever that is now.

        All are sent again when one was refused because the slot moves: those before it only read, or it is the first.
        """
        deadline = time.monotonic() + self._timeout_s
        moves = 0
        answers: list[Any] = []
        while True:
            target, asking = self._target(slot, refused)
            answers = self._sent(target, commands, waiting=waiting, asking=asking)
            refused = next((answer for answer in answers if isinstance(answer, _REDIRECTS)), None)
            moves += 1
            if refused is None or moves >= _MOST_MOVES or time.monotonic() >= deadline:
                return answers
            if isinstance(refused, redis.exceptions.TryAgainError):
                time.sleep(_AGAIN_S)

    def _target(self, slot: int, refused: redis.exceptions.RedisError | None) -> tuple[Address, bool]:
        """Whom to send to, and whether to say that we were sent there."""
        if isinstance(refused, redis.exceptions.MovedError):
            self._stale = True
            owner = self._named(refused, slot)
            if self._owners:
                self._owners[slot] = owner
            return owner, False
        if isinstance(refused, redis.exceptions.AskError):
            return self._named(refused, slot), True
        return self._owner(slot), False

    def _named(self, refused: redis.exceptions.AskError, slot: int) -> Address:
        # A server that does not know its own name leaves it out: it is the one we know.
        host = str(refused.host or (self._owners[slot][0] if self._owners else self.place.nodes[0][0]))
        return host, int(refused.port)

    def _sent(
        self, target: Address, commands: Sequence[Sequence[Argument]], *, waiting: bool, asking: bool = False
    ) -> list[Any]:
        """Answers of one server, refusals among them. Raises RedisError when it is not to be had."""
        client = self._client(target, waiting=waiting)
        try:
            if len(commands) == 1 and not asking:
                try:
                    return [client.execute_command(*commands[0])]
                except redis.exceptions.ResponseError as error:
                    return [self._noticed(error)]
            pipeline = client.pipeline(transaction=False)
            for command in commands:
                if asking:
                    pipeline.execute_command("ASKING")
                pipeline.execute_command(*command)
            answers = pipeline.execute(raise_on_error=False)
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, OSError):
            self._stale, self._failed = True, target
            raise
        return [self._noticed(answer) for answer in (answers[1::2] if asking else answers)]

    def _noticed(self, answer: Any) -> Any:
        if isinstance(answer, redis.exceptions.ClusterDownError | redis.exceptions.ReadOnlyError):
            self._stale = True
        return answer

    def _client(self, address: Address, *, waiting: bool) -> Any:
        found = self._clients.get((address, waiting))
        if found is None:
            with self._making:
                found = self._clients.get((address, waiting))
                if found is None:
                    longest_s = self._timeout_s + (WAIT_S if waiting else 0.0)
                    found = pool_client(self.place, address, self._timeout_s, longest_s)
                    self._clients[address, waiting] = found
        return found

    def _owner(self, slot: int) -> Address:
        """Whose slot it is, as far as is known."""
        due = self._stale and (not self._owners or time.monotonic() - self._looked_s >= _LOOK_EVERY_S)
        # Who finds somebody looking goes on with what is known; without anything known there is nothing to do yet.
        if due and self._looking.acquire(blocking=not self._owners):
            try:
                if self._stale:
                    self._look_held()
            finally:
                self._looking.release()
        owners = self._owners
        if not owners:
            raise redis.exceptions.ConnectionError("no server of the cluster told who has which slot")
        owner = owners[slot]
        if not owner[0]:
            raise redis.exceptions.ClusterDownError(f"CLUSTERDOWN nobody has slot {slot}")
        return owner

    def _look(self) -> None:
        with self._looking:
            self._look_held()

    def _look_held(self) -> None:
        """Ask one server after the other which slots are whose; the one that failed last comes last."""
        self._looked_s = time.monotonic()
        known = dict.fromkeys([*self.place.nodes, *self._servers])
        error: redis.exceptions.RedisError | None = None
        for address in sorted(known, key=lambda each: each == self._failed):
            try:
                rows = self._client(address, waiting=False).execute_command("CLUSTER", "SLOTS")
            except redis.exceptions.RedisError as failed:
                self._failed, error = address, failed
                continue
            owners, servers = _table(rows, address[0])
            if servers:
                self._owners, self._servers, self._stale = owners, servers, False
                return
        if not self._owners:
            raise error or redis.exceptions.ConnectionError("no server of the cluster has any slot")

    def _leave(self) -> None:
        self._stale = True
        for client in list(self._clients.values()):
            client.connection_pool.disconnect(inuse_connections=False)


class _Node(Link):
    """One server of a cluster, whatever slots it has; it owns no connections."""

    def __init__(self, cluster: ClusterLink, address: Address) -> None:
        self._cluster = cluster
        self.place = cluster.place
        self.address = f"{address[0]}:{address[1]}"
        self.encrypted, self.authenticated = cluster.encrypted, cluster.authenticated
        self.local = cluster.local
        self._quick = cluster._client(address, waiting=False)
        self._waiting = cluster._client(address, waiting=True)

    def close(self) -> None:
        """See Link; the connections are the cluster's."""


def open_link(url: str, timeout_s: float = TIMEOUT_S) -> Link:
    """The line that the URL asks for. Raises InvalidArgument."""
    _, plus, rest = url.partition("://")[0].partition("+")
    return ClusterLink(url, timeout_s) if plus and rest == "cluster" else Link(url, timeout_s)


def _slot(command: Sequence[Argument]) -> int:
    key = key_of(command)
    return HOME if key == "" else key_slot(_bytes(key))


def _bytes(key: Argument) -> bytes:
    return key if isinstance(key, bytes) else str(key).encode()


def _table(rows: Sequence[Any], asked: str) -> tuple[list[Address], list[Address]]:
    """Owner by slot from what CLUSTER SLOTS answers, ("", 0) for a slot of nobody; and all servers, replicas too."""
    owners: list[Address] = [("", 0)] * SLOTS
    servers: dict[Address, None] = {}
    for first, last, *those in rows:
        named = [_node(each, asked) for each in those]
        owners[int(first) : int(last) + 1] = [named[0]] * (int(last) - int(first) + 1)
        servers.update(dict.fromkeys(named))
    return owners, list(servers)


def _node(row: Sequence[Any], asked: str) -> Address:
    # A server that does not know its own name leaves it out: it is where we asked.
    host = row[0].decode() if row[0] else ""
    return (host if host not in ("", "?") else asked), int(row[1])

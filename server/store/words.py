"""Errors of the client library in our words; it calls nothing."""

from __future__ import annotations

import redis

from bandit.errors import BanditError, CorruptStored, StoreUnavailable

_MEANINGS: tuple[tuple[type[redis.exceptions.RedisError], str, str], ...] = (
    # Class of the client library (it cuts the server's word off), the server's word inside a script's error, meaning.
    (redis.exceptions.OutOfMemoryError, "OOM ", "its memory is full"),
    (redis.exceptions.ReadOnlyError, "READONLY ", "it is a replica"),
    (redis.exceptions.BusyLoadingError, "LOADING ", "it is still reading its files"),
    (redis.exceptions.MasterDownError, "MASTERDOWN ", "it lost its primary"),
    (redis.exceptions.ClusterDownError, "CLUSTERDOWN ", "its cluster has no primary for this, or is split"),
    (redis.exceptions.NoPermissionError, "NOPERM ", "its user may not do this"),
    (redis.exceptions.AuthenticationError, "NOAUTH ", "it wants another user or password"),
    (redis.exceptions.MovedError, "MOVED ", "it is a cluster: write redis+cluster:// for redis://"),
    (redis.exceptions.TryAgainError, "TRYAGAIN ", "it moves this to another server just now"),
    (redis.sentinel.MasterNotFoundError, "", "no Sentinel names a primary"),
    (redis.exceptions.TimeoutError, "", "no answer in time"),
    (redis.exceptions.RedisError, "protocol version", "it speaks no TLS 1.2 or newer"),
    (redis.exceptions.RedisError, "unsupported protocol", "it speaks no TLS 1.2 or newer"),
    (
        redis.exceptions.RedisError,
        "CERTIFICATE_VERIFY_FAILED",
        "its certificate is of no authority that we know",
    ),
    (redis.exceptions.RedisError, "BUSY ", "a script of somebody else keeps it busy"),
    (redis.exceptions.RedisError, "MISCONF ", "it cannot write its files"),
    (redis.exceptions.RedisError, "NOREPLICAS ", "too few replicas follow it"),
)


def told(error: redis.exceptions.RedisError, key: bytes | str | int, address: str) -> BanditError:
    """What an error means for whoever called: CorruptStored for a key of another type, else StoreUnavailable."""
    text = str(error)
    if isinstance(error, redis.exceptions.ResponseError) and "WRONGTYPE" in text:
        name = key.decode("utf-8", "replace") if isinstance(key, bytes) else str(key)
        return CorruptStored(
            f"{name}: {text}; restore it from a copy, or delete what it belongs to",
            key=name,
            server_says=text,
        )
    return StoreUnavailable(
        f"the store at {address} did not do what was asked: {_cause(error)}; "
        "nothing is half-done, read again and retry",
        address=address,
        server_says=text,
    )


def is_demoted(error: redis.exceptions.RedisError) -> bool:
    """Does it say that the server on the other end is no primary any more?"""
    text = str(error)
    return isinstance(error, redis.exceptions.ReadOnlyError) or "READONLY " in text or "now a slave" in text


def _cause(error: redis.exceptions.RedisError) -> str:
    text = str(error) or type(error).__name__
    if isinstance(error, redis.sentinel.MasterNotFoundError):
        text = text.partition(" : ")[0]  # what follows prints every argument of every connection
    for kind, word, meaning in _MEANINGS:
        if (kind is not redis.exceptions.RedisError and isinstance(error, kind)) or (word and word in text):
            return f"{meaning} ({text})"
    return text

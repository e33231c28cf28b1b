"""The start-up check of a store: is it there, may we write, will it keep what it is given. It changes nothing."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence

from bandit.errors import BanditError, StoreUnavailable
from server.store.findings import Finding
from server.store.link import Link
from server.store.places import Kind
from server.store.rights import rights

OLDEST = (6, 2)
MOST_SKEW_MS = 1000
FULL = 0.9

Answers = Mapping[str, object]


def findings(link: Link) -> list[Finding]:
    """One row for each thing looked at, the worst of all servers; only the first when none answers."""
    try:
        nodes = link.nodes()
    except StoreUnavailable as error:
        return [Finding("reachable", str(error), f"an answer from {link.address}", False, True)]
    by_node = [(node.address, _of_one(node)) for node in nodes]
    if len(by_node) == 1:
        return by_node[0][1]
    merged: dict[str, list[tuple[str, Finding]]] = {}
    for address, rows in by_node:
        for row in rows:
            merged.setdefault(row.check, []).append((address, row))
    return [_worst(rows) for rows in merged.values()]


def _of_one(link: Link) -> list[Finding]:
    began = time.time()
    try:
        seconds, micros = link.call("TIME")
        answers = link.call("INFO")
    except StoreUnavailable as error:
        return [Finding("reachable", str(error), f"an answer from {link.address}", False, True)]
    store_ms = int(seconds) * 1000 + int(micros) // 1000
    return [
        Finding("reachable", f"{link.address} answers", "an answer", True, True),
        _version(answers),
        _topology(link, answers),
        _role(answers),
        _scripts(link),
        rights(link),
        _eviction(answers),
        _durability(link, answers),
        _replicas(link, answers),
        _memory(answers),
        _skew(store_ms, began * 1000),
        _transport(link),
    ]


def _worst(rows: Sequence[tuple[str, Finding]]) -> Finding:
    """What several servers show, as one row: the same said once, else each wrong one by its address."""
    bad = [(address, row) for address, row in rows if not row.ok]
    shown = bad or rows
    texts = {row.seen for _, row in shown}
    seen = texts.pop() if len(texts) == 1 else "; ".join(_at(address, row.seen) for address, row in shown)
    first = shown[0][1]
    if bad and len(bad) < len(rows) and len({row.seen for _, row in bad}) == 1:
        seen = f"{', '.join(address for address, _ in bad)}: {seen}"
    return first._replace(seen=seen, ok=not bad, fatal=any(row.fatal for _, row in shown))


def _at(address: str, seen: str) -> str:
    return seen if seen.startswith(address) else f"{address}: {seen}"


def _version(answers: Answers) -> Finding:
    text = str(answers.get("redis_version", ""))
    try:
        version = tuple(int(part) for part in text.split(".")[:2])
    except ValueError:
        version = ()
    own = answers.get("valkey_version")
    seen = f"Valkey {own} (speaks Redis {text})" if own else f"Redis {text or 'of unknown version'}"
    return Finding("version", seen, "Redis 6.2 or newer, or Valkey", version >= OLDEST, True)


def _topology(link: Link, answers: Answers) -> Finding:
    cluster = _number(answers, "cluster_enabled") != 0
    asked = link.place.kind
    return Finding(
        "topology",
        f"{'part of a cluster' if cluster else 'no part of a cluster'}; the URL names {asked}",
        "a URL of redis+cluster:// for a cluster, of another scheme for anything else",
        cluster == (asked is Kind.CLUSTER),
        True,
    )


def _role(answers: Answers) -> Finding:
    role = str(answers.get("role", "unknown"))
    return Finding("role", role, "master: a replica takes no writes", role == "master", True)


def _scripts(link: Link) -> Finding:
    try:
        answer = link.call("EVAL", "return 1", 0)
    except BanditError as error:
        return Finding("scripts", str(error), "Lua scripts, and the right to call them", False, True)
    return Finding(
        "scripts", f"EVAL answers {answer}", "Lua scripts, and the right to call them", answer == 1, True
    )


def _eviction(answers: Answers) -> Finding:
    policy = str(answers.get("maxmemory_policy", "unknown"))
    wanted = "maxmemory-policy noeviction: any other may throw parts of a ledger away without an error"
    return Finding("eviction", policy, wanted, policy == "noeviction", True)


def _durability(link: Link, answers: Answers) -> Finding:
    wanted = "appendonly yes, so that a restart loses nothing that was acknowledged"
    if not _number(answers, "aof_enabled"):
        return Finding(
            "durability",
            "no append-only file: a restart loses what came after the last dump",
            wanted,
            False,
            False,
        )
    if answers.get("aof_last_write_status", "ok") != "ok":
        return Finding("durability", "the last write to the append-only file failed", wanted, False, False)
    lost = {
        "always": "a power cut loses nothing",
        "everysec": "a power cut loses about the last second",
        "no": "a power cut loses about the last 30 seconds",
    }
    try:
        policy = str(link.call("CONFIG", "GET", "appendfsync")[1].decode())
    except (BanditError, LookupError):
        policy = "unknown to its users"
    return Finding(
        "durability",
        f"append-only file, fsync {policy}: {lost.get(policy, 'ask its operator')}",
        wanted,
        True,
        False,
    )


def _replicas(link: Link, answers: Answers) -> Finding:
    wanted = "a replica, and min-replicas-to-write 1 with min-replicas-max-lag 10 so that a lost primary loses little"
    count = int(_number(answers, "connected_slaves"))
    try:
        least = int(link.call("CONFIG", "GET", "min-replicas-to-write")[1])
        within_s = int(link.call("CONFIG", "GET", "min-replicas-max-lag")[1])
    except (BanditError, LookupError, ValueError):
        least = within_s = -1
    if not count:
        seen = "none: what the disk of the only server loses is lost"
    elif least < 0:
        seen = f"{count}; whether it writes without them is unknown to its users"
    elif least:
        seen = f"{count}; it stops to write when fewer than {least} heard it within {within_s} s: a failover loses less"
    else:
        seen = f"{count}; it writes on without them: a failover loses what they did not hear, without a limit"
    # On this machine it is somebody's who has one machine.
    return Finding("replicas", seen, wanted, link.local or (bool(count) and least != 0), False)


def _memory(answers: Answers) -> Finding:
    used, limit = _number(answers, "used_memory"), _number(answers, "maxmemory")
    wanted = "maxmemory set, and less than nine tenths of it used"
    if not limit:
        return Finding(
            "memory",
            f"{used / 2**20:.0f} MiB used, no maxmemory: the kernel may end the server instead",
            wanted,
            False,
            False,
        )
    seen = f"{used / 2**20:.0f} of {limit / 2**20:.0f} MiB used"
    return Finding("memory", seen, wanted, used < FULL * limit, False)


def _skew(store_ms: int, here_ms: float) -> Finding:
    # The answer took some time too, so this is an upper estimate of a small skew.
    skew = store_ms - here_ms
    return Finding(
        "clock",
        f"{skew / 1000:+.3f} s from this server's",
        f"within {MOST_SKEW_MS / 1000:g} s: run a time service on both",
        abs(skew) <= MOST_SKEW_MS,
        False,
    )


def _transport(link: Link) -> Finding:
    if link.local:
        return Finding("transport", "on this machine", "TLS and a password off this machine", True, False)
    tls = "TLS" if link.encrypted else "no TLS"
    password = "a password" if link.authenticated else "no password"
    return Finding(
        "transport",
        f"{tls}, {password}",
        "TLS and a password off this machine: write rediss://USER:PASSWORD@HOST",
        link.encrypted and link.authenticated,
        False,
    )


def _number(answers: Answers, key: str) -> float:
    try:
        return float(str(answers.get(key, 0)))
    except ValueError:
        return 0.0

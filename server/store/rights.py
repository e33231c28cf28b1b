"""What the store's user may do, asked without doing it: what we need, and what nobody should be able to do by us."""

from __future__ import annotations

from collections.abc import Sequence

from bandit.errors import BanditError
from server.store.findings import Finding
from server.store.keys import NAMESPACE
from server.store.link import Argument, Link

# The least that a user needs, as a line of an ACL file; the tests of the store run under it. Before Redis 7.2 leave out
# +waitaof. Sources on other keys of the same server need those in addition.
ACL_LINE = (
    f"user banditd on >PASSWORD resetkeys ~{NAMESPACE}:* resetchannels &{NAMESPACE}:* -@all "
    "+@read +@write +@connection +@pubsub -@dangerous "
    "+eval +evalsha +time +info +wait +waitaof +cluster|slots +acl|whoami +acl|dryrun"
)

# Each with arguments that fit it, so that only the right decides.
_KEY = f"{NAMESPACE}:{{_registry}}:x"
NEEDED: tuple[tuple[Argument, ...], ...] = (
    ("EVALSHA", "0" * 40, 1, _KEY),
    ("EVAL", "return 1", 1, _KEY),
    ("HSET", _KEY, "a", "b"),
    ("HGETALL", _KEY),
    ("SET", _KEY, "a"),
    ("UNLINK", _KEY),
    ("PEXPIRE", _KEY, 1000),
    ("XADD", _KEY, "*", "a", "b"),
    ("XREAD", "COUNT", 1, "STREAMS", _KEY, "0-0"),
    ("XTRIM", _KEY, "MAXLEN", 10),
    ("ZADD", _KEY, 1, "a"),
    ("RPUSH", _KEY, "a"),
    ("BLPOP", _KEY, "0.01"),
    ("TIME",),
    ("SUBSCRIBE", f"{NAMESPACE}:changes"),
    ("PUBLISH", f"{NAMESPACE}:changes", "a"),
)
DANGEROUS: tuple[tuple[Argument, ...], ...] = (
    ("FLUSHALL",),
    ("FLUSHDB",),
    ("CONFIG", "SET", "maxmemory", "0"),
    ("KEYS", "*"),
    ("DEBUG", "SLEEP", "0"),
    ("SHUTDOWN",),
    ("SCRIPT", "FLUSH"),
)
_WANTED = "a user of its own that may do what README tells and no more (no FLUSHALL, CONFIG SET, KEYS, DEBUG)"


def rights(link: Link) -> Finding:
    """Fatal when a right is missing; a warning when there are too many, or the server cannot tell."""
    try:
        user = link.call("ACL", "WHOAMI")
        user = user.decode() if isinstance(user, bytes) else str(user)
        refused = _refused(link, user, [*NEEDED, *DANGEROUS])
        missing = [str(command[0]) for command in NEEDED if command in refused]
        dangerous = [str(command[0]) for command in DANGEROUS if command not in refused]
    except BanditError as error:
        return Finding("rights", f"unknown: {error.metadata.get('server_says', error)}", _WANTED, True, False)
    if missing:
        return Finding("rights", f"{user} may not {', '.join(missing)}", _WANTED, False, True)
    if dangerous:
        names = ", ".join(dangerous)
        # A server on this machine may be a private one: whoever reaches it owns its files.
        return Finding("rights", f"{user} may all we need, and {names}", _WANTED, link.local, False)
    return Finding("rights", f"{user} may all we need and nothing dangerous", _WANTED, True, False)


def _refused(link: Link, user: str, commands: Sequence[tuple[Argument, ...]]) -> list[tuple[Argument, ...]]:
    """Which of the commands the user may not call. Raises BanditError when the server does not tell (before 7.0)."""
    answers = link.batch([("ACL", "DRYRUN", user, *command) for command in commands])
    for answer in answers:
        if isinstance(answer, BanditError):
            raise answer
    return [command for command, answer in zip(commands, answers, strict=True) if answer not in (b"OK", "OK")]

"""Who sends rewards through a door, as they name themselves: each is a source of its own, which can be removed.

The name is the sender's word until callers prove who they are: it keeps honest pipelines apart, it stops nobody.
"""

from __future__ import annotations

import re
import threading

from bandit.errors import InvalidArgument, Overloaded

MOST_SENDERS = 64
"""Names that one process takes: each has accounts of its own in the store."""
RULE = "lower-case letters, digits and hyphens, a letter first, at most 41 characters"
_NAME = re.compile(r"[a-z][a-z0-9-]{0,40}")


class Senders:
    """The senders of one door. Safe for several threads."""

    def __init__(self, door: str) -> None:
        self._door = door
        self._known: dict[str, str] = {"": door}
        self._lock = threading.Lock()

    def source_of(self, name: str) -> str:
        """``DOOR/NAME``, which no configured source can be called; for "" the door itself.

        Raises InvalidArgument for what is no name, and Overloaded for one beyond the first so many.
        """
        known = self._known.get(name)
        if known is not None:
            return known
        if not _NAME.fullmatch(name):
            raise InvalidArgument.at("source", f"{name[:80]!r} is not the name of a sender; use {RULE}")
        with self._lock:
            if len(self._known) > MOST_SENDERS:
                raise Overloaded(
                    f"{MOST_SENDERS} senders have named themselves to this process, which is the most; {name} may send "
                    "under one of their names, or under none",
                    reason="TOO_MANY_SENDERS",
                )
            return self._known.setdefault(name, f"{self._door}/{name}")

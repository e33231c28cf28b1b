"""One partition as its reader keeps it, and a record of it as others see it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from confluent_kafka import Message

Partition = tuple[str, int]


@dataclass(slots=True)
class Part:
    """A partition that is ours. ``epoch`` "" until it is known where to begin; ``lap`` tells one turn from the next.

    ``next``: offset to come; ``safe``: all below it are done; ``told``: the commit that the group has; ``known``:
    offsets below it were seen before.
    """

    topic: str
    number: int
    lap: int
    epoch: str = ""
    next: int = 0
    safe: int = 0
    told: int = 0
    known: int = 0

    @property
    def name(self) -> str:
        """As positions have it."""
        return f"{self.topic}/{self.number}"


def place_of(message: Message) -> Partition:
    """Topic and number of its partition."""
    number = message.partition()
    return message.topic() or "", -1 if number is None else number


def headers_of(message: Message) -> dict[str, str]:
    """Those that say what an event is; a client may write ``ce_`` in any case."""
    given = message.headers() or ()
    found = {}
    for name, value in given.items() if isinstance(given, dict) else given:
        lower = name.lower()
        if lower == "content-type" or lower.startswith("ce_"):
            found[lower] = value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value or "")
    return found

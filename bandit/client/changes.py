"""How safe a change of an experiment is to be before it is answered, and what the answer says: metadata of calls."""

from __future__ import annotations

import grpc

from bandit.client.rewards import LEVELS
from bandit.errors import InvalidArgument

DURABILITY = "banditd-durability"


def asked(durability: str) -> tuple[tuple[str, str], ...]:
    """Metadata of a write; none for "". Raises InvalidArgument for another word than those of ``LEVELS``."""
    if not durability:
        return ()
    if durability not in LEVELS:
        raise InvalidArgument.at("durability", f"{durability!r} is none; give {', '.join(LEVELS)}")
    return ((DURABILITY, durability),)


def reached(call: grpc.Call) -> str:
    """How safe the change was when it was answered, a word of ``LEVELS``; "" when the server does not say."""
    found = [value for key, value in call.trailing_metadata() or () if key == DURABILITY]
    return found[0] if found and found[0] in LEVELS else ""


def short_of(wanted: str, found: str) -> bool:
    """Is less reached than was wanted?"""
    order = list(LEVELS)
    return bool(wanted) and (not found or order.index(found) < order.index(wanted))

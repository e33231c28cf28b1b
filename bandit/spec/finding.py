"""A broken rule between fields, and the words that all such rules share."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from difflib import get_close_matches
from typing import NamedTuple

Loc = tuple[str | int, ...]

ANY = "*"
_SHOWN = 8
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]{1,64}")
_LONGEST = 60


class Finding(NamedTuple):
    """A broken rule at ``loc``; ``reads``: paths its rule looked at, ANY standing for any list index."""

    loc: Loc
    sentence: str
    reads: tuple[Loc, ...]


def unknown(name: str, known: Sequence[str], what: str) -> str:
    """The sentence for a name that nothing has; ``what`` with its article, such as ``an arm``."""
    near = get_close_matches(name, known, 1)
    hint = f"did you mean {near[0]}? " if near else ""
    return f"{cut(repr(name))} is not {what} of this experiment; {hint}declared: {listed(known)}"


def listed(words: Iterable[str]) -> str:
    """The first few words, and how many more there are."""
    words = list(words)
    more = f" and {len(words) - _SHOWN} more" if len(words) > _SHOWN else ""
    return ", ".join(words[:_SHOWN]) + more


def cut(text: str) -> str:
    """The text, or its beginning when it is long."""
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def dotted(loc: Loc) -> str:
    """A path as ``arms.1.bounds.cap``; a key that is no plain word is quoted."""
    return ".".join(
        str(part) if isinstance(part, int) or _PLAIN_KEY.fullmatch(part) else cut(repr(part)) for part in loc
    )

"""A row of the check of a machine and its store; it loads nothing heavy, so that a supervisor may have it."""

from __future__ import annotations

from typing import NamedTuple


class Finding(NamedTuple):
    """One row: what, how it is, what is wanted; ``fatal`` forbids learning."""

    check: str
    seen: str
    wanted: str
    ok: bool
    fatal: bool

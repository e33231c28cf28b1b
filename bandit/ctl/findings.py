"""The table of what was found right and wrong with a machine and its store, and the exit code that says the worst."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

RIGHT, WRONG, FATAL = 0, 3, 1


class Row(Protocol):
    """One thing that was looked at; see ``ServerService.ListFindings``."""

    @property
    def check(self) -> str:
        """What."""

    @property
    def seen(self) -> str:
        """How it is."""

    @property
    def wanted(self) -> str:
        """How it ought to be."""

    @property
    def ok(self) -> bool:
        """Is it so?"""

    @property
    def fatal(self) -> bool:
        """Does it forbid learning where it is not?"""


def exit_code(rows: Sequence[Row]) -> int:
    """0 when all is right, 3 when something is not as wanted, 1 when something forbids learning."""
    if all(row.ok for row in rows):
        return RIGHT
    return FATAL if any(row.fatal and not row.ok for row in rows) else WRONG


def table(rows: Sequence[Row]) -> str:
    """The rows for people: what is wrong says what is wanted."""
    width = max((len(row.check) for row in rows), default=0)
    lines = []
    for row in rows:
        mark = "ok" if row.ok else "FATAL" if row.fatal else "warn"
        lines.append(f"{mark:<5}  {row.check:<{width}}  {row.seen}")
        if not row.ok:
            lines.append(f"{'':<5}  {'':<{width}}  wanted: {row.wanted}")
    wrong = sum(not row.ok for row in rows)
    fatal = sum(row.fatal and not row.ok for row in rows)
    lines.append("")
    lines.append(f"{len(rows)} looked at, {wrong} not as wanted, {fatal} of them forbid learning")
    return "\n".join(lines) + "\n"

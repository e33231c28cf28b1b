"""The one look of all tables of a terminal."""

from __future__ import annotations

from rich.table import Table


def table(*heads: str) -> Table:
    """A table without lines; a head that begins with ``>`` is of numbers (flush right), with ``|`` of short words."""
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for head in heads:
        right = head.startswith(">")
        whole = right or head.startswith("|")
        made.add_column(
            head.lstrip(">|"), justify="right" if right else "left", no_wrap=whole, overflow="fold"
        )
    return made

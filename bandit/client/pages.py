"""Lists that a server gives page by page, as one iterator."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from bandit.client.errors import UnexpectedAnswer

T = TypeVar("T")


def pages(page: Callable[[str], Any], items: Callable[[Any], Iterable[T]], target: str) -> Iterator[T]:
    """Every item; ``page(token)`` asks for a page, ``items`` takes them out of it. Raises UnexpectedAnswer."""
    token = ""
    while True:
        reply = page(token)
        yield from items(reply)
        if not reply.next_page_token:
            return
        if reply.next_page_token == token:
            raise UnexpectedAnswer(
                f"{target} answers the same page again and again; it must be a banditd of this version"
            )
        token = reply.next_page_token

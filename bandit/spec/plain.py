"""Values from outside as plain dicts, lists and scalars of bounded depth and number; refuses every other type."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from bandit.spec.finding import Loc
from bandit.spec.sentences import show
from bandit.spec.tree import MAX_DEPTH, MAX_NODES, UNREAD

_LARGEST = 10**300


class Plain:
    """Copies one value; ``faults`` are the (path, sentence) of what could not be copied and is UNREAD there."""

    def __init__(self) -> None:
        self.faults: list[tuple[Loc, str]] = []
        self._nodes = 0

    def copy(self, value: object, loc: Loc = ()) -> object:
        """The plain copy; UNREAD alone when the value is too deep, too large or no mapping at the top."""
        copied = self._copy(value, loc)
        fatal = [fault for fault in self.faults if fault[0] == ()]
        if not fatal:
            return copied
        self.faults = fatal[:1]
        return UNREAD

    def _copy(self, value: object, loc: Loc) -> object:
        self._nodes += 1
        if len(loc) > MAX_DEPTH:
            return self._refuse((), f"nested deeper than {MAX_DEPTH} levels; a spec needs 4: flatten it")
        if self._nodes > MAX_NODES:
            if self._nodes == MAX_NODES + 1:
                self._refuse((), f"more than {MAX_NODES} values; a spec has far fewer: shorten it")
            return UNREAD
        if isinstance(value, int) and abs(value) > _LARGEST:
            return self._refuse(loc, "a whole number of more than 300 digits; write a smaller one")
        if value is None or isinstance(value, str | bool | int | float):
            return value
        if isinstance(value, Mapping):
            return self._mapping(value.items(), loc)
        if isinstance(value, list | tuple):
            return [self._copy(item, (*loc, index)) for index, item in enumerate(value)]
        return self._refuse(
            loc, f"{show(value)} is no plain value; give text, a number, true, false, a list or a mapping"
        )

    def _mapping(self, items: Iterable[tuple[object, object]], loc: Loc) -> dict[str, object]:
        copied: dict[str, object] = {}
        for key, item in items:
            if isinstance(key, str):
                copied[key] = self._copy(item, (*loc, key))
            else:
                self._refuse((*loc, show(key)), "a key that is not text; give each key as text")
        return copied

    def _refuse(self, loc: Loc, sentence: str) -> object:
        self.faults.append((loc, sentence))
        return UNREAD

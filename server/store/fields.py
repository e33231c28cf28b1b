"""Reads the fields of a stored mapping: each must be there, of its type, within bounds; none may be left over."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from server.store.packed import check_schema

T = TypeVar("T")
_U63 = (1 << 63) - 1


def show(value: object) -> str:
    """The value, cut to 80 characters."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + "..."


def whole(path: str, value: object, low: int, high: int) -> int:
    """A whole number in [low, high], or ValueError that says where."""
    if not isinstance(value, int) or isinstance(value, bool) or not low <= value <= high:
        raise ValueError(f"{path}: {show(value)} is not a whole number from {low} to {high}")
    return value


class Fields:
    """Fields of one stored mapping: each must be there, of its type, within bounds; none may be left over."""

    def __init__(self, path: str, value: object) -> None:
        if not isinstance(value, dict):
            raise TypeError(f"{path}: {show(value)} is not a mapping")
        self._path = path
        self._fields: dict[str, object] = dict(value)

    def take(self, key: str) -> object:
        """The field, once."""
        if key not in self._fields:
            raise ValueError(f"{self._path}.{key} is missing")
        return self._fields.pop(key)

    def schema(self) -> None:
        """Refuse a newer schema before anything else is looked at."""
        check_schema(self.whole("schema", 0, _U63))

    def text(self, key: str) -> str:
        """A text."""
        value = self.take(key)
        if not isinstance(value, str):
            raise TypeError(f"{self._path}.{key}: {show(value)} is not a text")
        return value

    def whole(self, key: str, low: int, high: int) -> int:
        """A whole number in [low, high]."""
        return whole(f"{self._path}.{key}", self.take(key), low, high)

    def maybe(self, key: str, read: Callable[[str], T]) -> T | None:
        """None, or what ``read`` makes of the field."""
        if key in self._fields and self._fields[key] is None:
            del self._fields[key]
            return None
        return read(key)

    def each(self, key: str, read: Callable[[str, object], T]) -> list[T]:
        """A list, each item read with its path."""
        value = self.take(key)
        if not isinstance(value, list):
            raise TypeError(f"{self._path}.{key}: {show(value)} is not a list")
        return [read(f"{self._path}.{key}.{index}", item) for index, item in enumerate(value)]

    def perhaps(self, key: str, read: Callable[[str, object], T]) -> list[T]:
        """As :meth:`each`; nothing where there was nothing to write."""
        return self.each(key, read) if key in self._fields else []

    def has(self, key: str) -> bool:
        """Is there such a field?"""
        return key in self._fields

    def end(self) -> None:
        """Nothing may be left."""
        if self._fields:
            raise ValueError(
                f"{self._path} has fields that nobody knows: {', '.join(sorted(self._fields))[:200]}"
            )

"""Files of metrics whose bytes are on the disk before they are mapped, so that a full disk kills no process.

The library makes its files longer without a block behind them; the first write to such a page, when no block is left,
is a SIGBUS. Where a block cannot be had, the process goes on counting in memory, unseen by the HTTP edge until it
starts again with room on the disk.
"""

from __future__ import annotations

import mmap
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from prometheus_client.mmap_dict import _INITIAL_MMAP_SIZE, MmapedDict

_ENTRY_BYTES = 32
"""More than an entry takes beside its key."""


class Mapped(MmapedDict):
    """The library's dictionary of numbers, see the module."""

    _f: Any
    _m: mmap.mmap

    def __init__(self, filename: str, read_mode: bool = False) -> None:
        kept = None if read_mode else _reserve(Path(filename))
        super().__init__(filename if kept is None else f"/proc/self/fd/{kept}", read_mode)  # type: ignore[no-untyped-call]
        if kept is not None:
            os.close(kept)
        self._on_disk = kept is None

    def _init_value(self, key: str) -> None:
        needed, capacity = self._used + len(key.encode()) + _ENTRY_BYTES, self._capacity
        while needed > capacity:
            capacity *= 2
        if capacity > self._capacity and self._on_disk:
            try:
                os.posix_fallocate(self._f.fileno(), 0, capacity)
            except OSError:
                self._leave()
        super()._init_value(key)  # type: ignore[no-untyped-call]

    def _leave(self) -> None:
        """From the disk into memory, with all that was counted."""
        file = os.fdopen(os.memfd_create("metrics"), "r+b")
        file.truncate(self._capacity)
        moved = mmap.mmap(file.fileno(), self._capacity)
        moved[:] = self._m[:]
        self._f.close()
        self._f, self._m, self._on_disk = file, moved, False


def _reserve(path: Path) -> int | None:
    """Blocks for the whole file; where there are none, a file in memory with what it held, by its number."""
    try:
        with path.open("ab") as file:
            os.posix_fallocate(file.fileno(), 0, max(file.tell(), _INITIAL_MMAP_SIZE))
        return None
    except OSError:
        held = b""
        with suppress(OSError):
            held = path.read_bytes()
        if not held:
            with suppress(OSError):
                path.unlink()  # whoever reads the folder cannot read an empty file
        number = os.memfd_create("metrics")
        os.truncate(number, max(len(held), _INITIAL_MMAP_SIZE))
        os.pwrite(number, held, 0)
        return number

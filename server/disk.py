"""Small files that survive ``kill -9``, a full disk and the end of the machine: whole, or as they were before.

A file is written beside its place, synced, renamed into it, and its folder synced. Nothing here knows what is in it.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

from bandit.errors import NotAllowed

PRIVATE = 0o600
_OTHERS = stat.S_IRWXG | stat.S_IRWXO


class Disk:
    """The system calls of a write, one method each, so that a test can let any of them fail."""

    def make(self, path: Path) -> int:
        """A new, empty, private file, open for writing; one that is there is emptied."""
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, PRIVATE)

    def write(self, number: int, content: memoryview) -> int:
        """How much of it was written."""
        return os.write(number, content)

    def sync(self, number: int) -> None:
        """On the disk, as far as the system knows."""
        os.fsync(number)

    def link(self, path: Path, other: Path) -> None:
        """A second name of the same file."""
        os.link(path, other)

    def rename(self, path: Path, place: Path) -> None:
        """In one step, over whatever was there."""
        path.replace(place)


DISK = Disk()


def replace_file(path: Path, content: bytes, *, disk: Disk = DISK, before: Path | None = None) -> None:
    """Put ``content`` in the place of ``path``, whole or not at all; ``before`` then names what was there.

    Raises OSError (a full disk, say); then both are as they were, or, when the last sync failed, as they were to be.
    """
    new = path.with_name(f".{path.name}.new")
    try:
        number = disk.make(new)
        try:
            view = memoryview(content)
            while view:
                view = view[disk.write(number, view) :]
            disk.sync(number)
        finally:
            os.close(number)
        if before is not None and path.exists():
            kept = path.with_name(f".{path.name}.kept")
            kept.unlink(missing_ok=True)
            disk.link(path, kept)
            disk.rename(kept, before)
        disk.rename(new, path)
    except OSError:
        with suppress(OSError):
            new.unlink(missing_ok=True)
        raise
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        disk.sync(folder)
    finally:
        os.close(folder)


def private_bytes(path: Path) -> bytes | None:
    """What a private file holds, None when there is none.

    Raises NotAllowed when others than its owner, who must be us, may read or write it; OSError.
    """
    try:
        number = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return None
    with os.fdopen(number, "rb") as file:
        state = os.fstat(number)
        if state.st_mode & _OTHERS or state.st_uid != os.geteuid():
            raise NotAllowed(
                f"{path}: mode {stat.S_IMODE(state.st_mode):04o} of user {state.st_uid} lets others than this server's "
                f"user {os.geteuid()} at it; it is not used. Find out who had it, then delete it or make it 0600",
                reason="FILE_NOT_PRIVATE",
                path=path,
            )
        return file.read()

"""The files of the exposure journal: mapped segments of one size and locked folders; it knows no decisions.

A store into a mapped page is in the kernel's page cache at once, so the end of the process (``kill -9``) loses
nothing; the end of the machine may lose the last seconds. Room is taken by writing zeros when a segment is made:
a full disk is an OSError there, never a SIGBUS in the middle of a decision.
"""

from __future__ import annotations

import fcntl
import mmap
import os
import struct
import time
from pathlib import Path

MAGIC = b"banditj1"
HEADER = struct.Struct("<8sIIQ")
SHIPPED_PLACE = 3  # the fourth u64 of the header: position up to which everything is in the log
START = 64
SEGMENT_BYTES = 1 << 20
_LOCK = "lock"
_NEW = ".new-"
_ABANDONED_S = 60.0


class Segment:
    """One mapped file: 64 bytes of header, then frames up to its end."""

    def __init__(self, path: Path, issuer: int, sequence: int, mapped: mmap.mmap) -> None:
        self.path = path
        self.issuer = issuer
        self.sequence = sequence
        self.map = mapped
        self._places = memoryview(mapped).cast("B")[:START].cast("Q")

    @classmethod
    def make(cls, folder: Path, issuer: int, sequence: int, size: int) -> Segment:
        """A new, empty segment whose room is taken. Raises OSError (disk full)."""
        path = folder / f"{sequence:08d}.journal"
        number = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
        try:
            head = HEADER.pack(MAGIC, issuer, 0, sequence) + struct.pack("=Q", START)
            _write(number, head + bytes(size - len(head)))
            return cls(path, issuer, sequence, mmap.mmap(number, size))
        except OSError:
            path.unlink()
            raise
        finally:
            os.close(number)

    @classmethod
    def open(cls, path: Path) -> Segment | None:
        """A segment that another process left; None when it never got its header."""
        number = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            if os.fstat(number).st_size < START:
                return None
            mapped = mmap.mmap(number, 0)
        finally:
            os.close(number)
        magic, issuer, _, sequence = HEADER.unpack_from(mapped)
        if magic != MAGIC:
            mapped.close()
            return None
        return cls(path, issuer, sequence, mapped)

    @property
    def shipped(self) -> int:
        """Everything before this position is in the log."""
        return max(self._places[SHIPPED_PLACE], START)

    @shipped.setter
    def shipped(self, position: int) -> None:
        self._places[SHIPPED_PLACE] = position  # one aligned store: whole or not at all

    def close(self) -> None:
        """Unmap."""
        self._places.release()
        self.map.close()

    def remove(self) -> None:
        """Unmap and delete."""
        self.close()
        self.path.unlink(missing_ok=True)


class Folder:
    """A locked folder of segments; the lock ends with its process."""

    def __init__(self, path: Path, lock: int) -> None:
        self.path = path
        self._lock = lock

    @classmethod
    def make(cls, root: Path, issuer: int) -> Folder:
        """A new folder, locked before it gets the name by which others would look for it. Raises OSError."""
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        path = root / str(issuer)
        new = root / f"{_NEW}{issuer}"
        new.mkdir(mode=0o700)
        lock = os.open(new / _LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if path.exists():
            # The store gave this number before, so it was emptied since: those decisions are of experiments gone.
            path.rename(root / f".old-{issuer}-{time.time_ns()}")
        new.rename(path)
        return cls(path, lock)

    @classmethod
    def adopt(cls, path: Path) -> Folder | None:
        """The folder of a process that is gone; None while somebody holds or just removed it."""
        try:
            lock = os.open(path / _LOCK, os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(lock).st_ino == (path / _LOCK).stat().st_ino:
                return cls(path, lock)
        except OSError:
            pass  # held by a living process, or removed between open and lock
        os.close(lock)
        return None

    def segments(self) -> list[Path]:
        """Files of segments, oldest first."""
        return sorted(self.path.glob("*.journal"))

    def release(self) -> None:
        """Leave the folder to whoever adopts it."""
        os.close(self._lock)

    def remove(self) -> None:
        """Delete the folder, whose segments are gone."""
        (self.path / _LOCK).unlink(missing_ok=True)
        self.path.rmdir()
        os.close(self._lock)


def orphans(root: Path, own: Path) -> list[Path]:
    """Folders that are not ours, by issuer; some may belong to the living (see ``Folder.adopt``)."""
    if not root.is_dir():
        return []
    found = []
    for path in root.iterdir():
        if path.name.isdecimal() and path != own:
            found.append(path)
        elif path.name.startswith(_NEW) and time.time() - path.stat().st_mtime > _ABANDONED_S:
            (path / _LOCK).unlink(missing_ok=True)
            path.rmdir()
    return sorted(found, key=lambda path: int(path.name))


def _write(number: int, content: bytes) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(number, view) :]

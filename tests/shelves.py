"""What tests of files on a disk share: a disk that fails or dies at a chosen call, a snapshot to keep, a stop."""

from __future__ import annotations

import errno
import random
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

from server.disk import Disk
from server.snapshot import Shelf, Snapshot, SnapshotKeeper
from server.stops import Stop
from server.store.base import Store
from tests.builders import NOW
from tests.fakes import FakeClock

STOP = Stop("s1", "answers", 1, "small", "sha256:1", 1, NOW, "client/anna", "it rambles")


class Killed(BaseException):
    """The process ended here, as far as the file knows."""


def full_disk() -> NoReturn:
    """What a write to a full disk raises."""
    raise OSError(errno.ENOSPC, "No space left on device")


def killed() -> NoReturn:
    """The end of the process."""
    raise Killed


class Failing(Disk):
    """``end`` happens at the n-th call, n from 0; a write does half of its work before. ``calls`` counts them."""

    def __init__(self, at: int = -1, end: Callable[[], NoReturn] = full_disk) -> None:
        self.at = at
        self.end = end
        self.calls = 0

    def _next(self) -> bool:
        self.calls += 1
        return self.calls - 1 == self.at

    def make(self, path: Path) -> int:
        if self._next():
            self.end()
        return super().make(path)

    def write(self, number: int, content: memoryview) -> int:
        if self._next():
            super().write(number, content[: len(content) // 2])
            self.end()
        return super().write(number, content)

    def sync(self, number: int) -> None:
        if self._next():
            self.end()
        super().sync(number)

    def link(self, path: Path, other: Path) -> None:
        if self._next():
            self.end()
        super().link(path, other)

    def rename(self, path: Path, place: Path) -> None:
        if self._next():
            self.end()
        super().rename(path, place)


class Kept:
    """A keeper over a store, and the shelf that keeps what it reads; ``save`` writes at once."""

    def __init__(
        self,
        store: Store,
        clock: FakeClock,
        folder: Path,
        disk: Disk | None = None,
        uniform: Callable[[], float] = random.random,
    ) -> None:
        self.clock = clock
        self.shelf = Shelf(folder, clock, disk=disk or Disk())
        self.keeper = SnapshotKeeper(store, clock, uniform=uniform, kept=self.shelf.keep)

    @property
    def snapshot(self) -> Snapshot:
        """What is served."""
        assert self.keeper.snapshot is not None
        return self.keeper.snapshot

    def restore(self) -> bool:
        """Begin with what is on the disk. False when nothing is."""
        found = self.shelf.load()
        if found is not None:
            self.keeper.restore(found)
        return found is not None

    def poll_and_save(self) -> bool:
        """One good poll, written at once."""
        self.keeper.poll()
        return self.shelf.save()

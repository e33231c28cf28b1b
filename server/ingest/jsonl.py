"""Rewards from files of JSON lines that something appends to: one plain event or structured CloudEvent a line.

A place is an inode, a fingerprint of the first line, and a byte offset: a file that was renamed by rotation is read to
its end before the new one of its name, and one that was cut, or that got the inode of another, is read from its
beginning (but for one that begins with the very line of the old one and is longer). The last line waits until its line
feed is there. Nothing is written to the folder: how far each file was taken stands in the store.
"""

from __future__ import annotations

import glob
import hashlib
import os
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedReader
from pathlib import Path

from server.config.values import seconds
from server.ingest.base import (
    MOST_BODY_BYTES,
    Chosen,
    Position,
    Recall,
    Received,
    RewardSource,
    SourceState,
    SourceUnavailable,
    lowest,
)
from server.ingest.settings import setting, text

_CHUNK = 1 << 20
_FIRST_BYTES = 1024
_LOOK_S = 0.25
MOST_FILES = 1000


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings of kind ``jsonl``. ``path`` may have ``*``: all files that match, rotated ones too, are read."""

    path: str = setting(text(), "path of a file, or a pattern like /var/log/rewards*.jsonl")
    look_s: float = setting(seconds(0.01, 60), "how often new lines are looked for", default=_LOOK_S)

    def __post_init__(self) -> None:
        if not Path(self.path).is_absolute():
            raise ValueError(f"path {self.path!r} is relative; write it from the root")


@dataclass(slots=True)
class _File:
    """One open file. ``epoch`` "" until its first line is whole; ``at``: offset of the next line to bring."""

    stream: BufferedReader
    epoch: str = ""
    at: int = 0
    size: int = 0


class JsonLines:
    """A RewardSource of files. A partition is ``inode:device``; the epoch is the fingerprint of the first line."""

    ordered = True

    def __init__(self, settings: Settings, sleep: Callable[[float], None]) -> None:
        self._settings = settings
        self._sleep = sleep
        self._files: dict[str, _File] = {}
        self._recall: Recall | None = None
        self._cuts = 0
        self._detail = "not opened yet"

    def open(self, recall: Recall) -> None:
        """See RewardSource."""
        self._recall = recall
        self._look()

    def poll(self, limit: int, timeout_s: float) -> Sequence[Received]:
        """See RewardSource."""
        left_s = timeout_s
        while True:
            self._look()
            found: list[Received] = []
            for partition, file in list(self._files.items()):
                found += self._lines(partition, file, limit - len(found))
                if len(found) >= limit:
                    break
            if found or left_s <= 0:
                return found
            self._sleep(min(left_s, self._settings.look_s))
            left_s -= self._settings.look_s

    def done(self, batch: Sequence[Received]) -> None:
        """See RewardSource: the place in the store is all there is."""

    def rest(self) -> None:
        """See RewardSource."""

    def rewind(self, to: Mapping[str, Sequence[Position]]) -> None:
        """See RewardSource."""
        for partition, positions in to.items():
            file = self._files.get(partition)
            if file is not None:
                file.at = _after(positions, file.epoch)

    def state(self) -> SourceState:
        """See RewardSource. The lag of a file is in bytes."""
        lag = {partition: max(file.size - file.at, 0) for partition, file in self._files.items()}
        return SourceState(bool(self._files), self._detail, lag, redelivered=self._cuts)

    def close(self) -> None:
        """See RewardSource."""
        for file in self._files.values():
            file.stream.close()
        self._files.clear()

    def _look(self) -> None:
        """Take up new files, let go of those that are gone and read to their end."""
        assert self._recall is not None
        there: set[str] = set()
        try:
            for path in self._paths():
                there |= self._take(path)
            for partition, file in list(self._files.items()):
                file.size = os.fstat(file.stream.fileno()).st_size
                self._know(partition, file)
                if partition not in there and file.at >= file.size:
                    file.stream.close()
                    del self._files[partition]
        except OSError as error:
            raise SourceUnavailable(f"{self._settings.path}: {error.strerror}; it is tried again") from error
        count = len(self._files)
        self._detail = f"{count} files" if count else f"no file matches {self._settings.path}"

    def _paths(self) -> Iterator[str]:
        found = sorted(glob.glob(self._settings.path))  # noqa: PTH207 - a pattern from the root
        if len(found) > MOST_FILES:
            raise SourceUnavailable(
                f"{len(found)} files match {self._settings.path}; at most {MOST_FILES} are read, take old ones away"
            )
        # Oldest first, so that a rotated file comes before its successor.
        yield from sorted(found, key=_age)

    def _take(self, path: str) -> set[str]:
        """Open a file that is not open yet; its partition, none for what is no file or has gone meanwhile."""
        try:
            known = Path(path).stat()
            if not stat.S_ISREG(known.st_mode):
                return set()
            partition = f"{known.st_ino:x}:{known.st_dev:x}"
            if partition not in self._files:
                self._files[partition] = _File(Path(path).open("rb"))  # noqa: SIM115 - it stays open
            return {partition}
        except FileNotFoundError:
            return set()

    def _know(self, partition: str, file: _File) -> None:
        """Find the place to go on from when the file is new, or another one than it was."""
        assert self._recall is not None
        first = os.pread(file.stream.fileno(), _FIRST_BYTES, 0)
        line, feed, _ = first.partition(b"\n")
        whole = feed or len(first) == _FIRST_BYTES
        epoch = hashlib.sha256(line).hexdigest()[:16] if whole else ""
        if epoch == file.epoch and file.size >= file.at:
            return
        if file.epoch:
            self._cuts += 1
        file.at = _after(self._recall(partition), epoch) if epoch and not file.epoch else 0
        if file.at > file.size:
            file.at = 0
        file.epoch = epoch

    def _lines(self, partition: str, file: _File, limit: int) -> Iterator[Received]:
        """Whole lines from ``at`` on; a position is the offset of the line feed, the last byte of its line."""
        if not file.epoch:
            return
        file.stream.seek(file.at)
        for _ in range(limit):
            line = file.stream.readline(MOST_BODY_BYTES + 2)
            length = len(line)
            if not line.endswith(b"\n"):
                length = 0 if length <= MOST_BODY_BYTES else self._long(file, length)
            if not length:
                return  # not finished yet
            file.at += length
            body = line.rstrip(b"\r\n")
            if body.strip():
                yield Received(body, Position(partition, file.epoch, file.at - 1))

    def _long(self, file: _File, read: int) -> int:
        """Length of a line that is too long, of which ``read`` bytes were read; 0 when it is not finished yet."""
        while chunk := file.stream.readline(_CHUNK):
            read += len(chunk)
            if chunk.endswith(b"\n"):
                return read
        return 0


def _after(positions: Sequence[Position], epoch: str) -> int:
    """Offset after the lowest position of an epoch; 0 when there is none."""
    at = lowest(positions, epoch)
    return 0 if at is None else at + 1


def _age(path: str) -> int:
    try:
        return Path(path).stat().st_mtime_ns
    except FileNotFoundError:
        return 0


def make(chosen: Chosen, now_ms: Callable[[], int]) -> RewardSource:
    """See ``base.Make``."""
    import time

    assert isinstance(chosen.settings, Settings)
    return JsonLines(chosen.settings, time.sleep)

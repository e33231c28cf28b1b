"""Issuer numbers in hand, so that serving processes start again while the store is away; none is given twice.

A part of them waits on disk for a supervisor that starts without a store. What is taken from there is marked taken,
and synced, before it is used: ``kill -9`` may waste numbers, it never repeats one.
"""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable
from pathlib import Path

import structlog

from bandit.errors import BanditError
from bandit.log import ISSUER_BATCH
from server.disk import DISK, Disk, replace_file
from server.pauses import Pauses

log = structlog.get_logger(__name__)

BATCH = ISSUER_BATCH
LOW = 64
# From the disk at once: a start of as many workers; a pool on disk lasts for 64 starts without a store.
TAKEN_AT_ONCE = 16
CAP_S = 1.0  # so soon after the store is there, servers without numbers have some
FILE = "issuers"


class IssuerPool:
    """Keeps numbers, and fetches more in a thread of its own when few are left.

    ``reserve(count)`` gives the first of so many consecutive numbers or raises BanditError; ``wake`` is called
    from the thread when there are new ones, and when there are none because the store is away. ``folder``: where those
    for a start without a store are; None for nowhere.
    """

    def __init__(
        self,
        reserve: Callable[[int], int],
        wake: Callable[[], None],
        *,
        folder: Path | None = None,
        batch: int = BATCH,
        low: int = LOW,
        uniform: Callable[[], float] | None = None,
        disk: Disk = DISK,
    ) -> None:
        self._reserve = reserve
        self._wake = wake
        self._shelf = None if folder is None else _Shelf(folder / FILE, disk)
        self._batch = batch
        self._low = low
        self._pauses = Pauses(cap_s=CAP_S) if uniform is None else Pauses(uniform, cap_s=CAP_S)
        self.away = False  # the store did not answer at the last try
        self._numbers: deque[int] = deque()
        self._wanted = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="issuers", daemon=True)

    def start(self) -> None:
        """Fetch the first numbers as soon as the store answers."""
        self._wanted.set()
        self._thread.start()

    def take(self) -> int | None:
        """A number that nobody had, or None when there is none now."""
        if not self._numbers and self._shelf is not None:
            self._numbers.extend(self._shelf.take(TAKEN_AT_ONCE))
        number = self._numbers.popleft() if self._numbers else None
        if len(self._numbers) < self._low:
            self._wanted.set()
        return number

    def stop(self) -> None:
        """Fetch no more."""
        self._stop.set()
        self._wanted.set()

    def _run(self) -> None:
        while self._wanted.wait() and not self._stop.is_set():
            self._wanted.clear()
            if len(self._numbers) < self._low:
                first = self._fetch()
                if first is None:
                    return
                self._numbers.extend(range(first, first + self._batch))
                self._wake()
            if self._shelf is not None and self._shelf.left < self._batch // 2:
                first = self._fetch()
                if first is None:
                    return
                self._shelf.put(first, first + self._batch)

    def _fetch(self) -> int | None:
        while not self._stop.is_set():
            try:
                first = self._reserve(self._batch)
            except BanditError as error:
                if self._pauses.failures == 0:
                    log.warning("store_lost", reason=str(error), issuers_left=len(self._numbers))
                if not self.away:
                    self.away = True
                    self._wake()
                self._stop.wait(self._pauses.next())
                continue
            self.away = False
            self._pauses.reset()
            log.debug("issuers_reserved", first=first, count=self._batch)
            return first
        return None


class _Shelf:
    """A range of numbers in a file. Only the owner of the data folder uses it; for several threads."""

    def __init__(self, path: Path, disk: Disk) -> None:
        self._path = path
        self._disk = disk
        self._lock = threading.Lock()
        self._next, self._end = self._read()

    @property
    def left(self) -> int:
        """How many there are."""
        return self._end - self._next

    def take(self, count: int) -> range:
        """The next numbers, fewer or none when there are not so many or the disk cannot say that they are taken."""
        with self._lock:
            taken = range(self._next, min(self._next + count, self._end))
            if not taken or not self._write(taken.stop, self._end):
                return range(0)
            self._next = taken.stop
            return taken

    def put(self, first: int, end: int) -> None:
        """These in the place of what was there."""
        with self._lock:
            if self._write(first, end):
                self._next, self._end = first, end

    def _write(self, following: int, end: int) -> bool:
        document = json.dumps({"next": following, "end": end}).encode()
        try:
            replace_file(self._path, document, disk=self._disk)
        except OSError as error:
            log.warning("issuers_not_kept", file=str(self._path), reason=str(error))
            return False
        return True

    def _read(self) -> tuple[int, int]:
        try:
            document = json.loads(self._path.read_bytes())
            following, end = document["next"], document["end"]
            if type(following) is not int or type(end) is not int or not 0 < following <= end < 1 << 32:
                raise ValueError(f"{following!r:.40} to {end!r:.40} are no numbers of issuers")
        except FileNotFoundError:
            return 0, 0
        except (OSError, ValueError, LookupError, TypeError) as error:
            log.warning("issuers_refused", file=str(self._path), reason=str(error))
            return 0, 0
        return following, end

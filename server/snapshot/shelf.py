"""The snapshot of this machine on its disk, so that servers start and go on while the store is away.

One process of the machine writes, on a thread that nobody waits for, at a bounded pace; the file before the last is
kept. It holds the keys that sign tokens, so it is private, and one that others can read or write is not used.
"""

from __future__ import annotations

import fcntl
import os
import struct
import threading
from pathlib import Path

import structlog

from bandit.errors import BanditError
from server.clock import Clock
from server.disk import DISK, PRIVATE, Disk, private_bytes, replace_file
from server.pauses import Pauses
from server.snapshot import document
from server.snapshot.document import Documents, Order
from server.snapshot.view import Snapshot

log = structlog.get_logger(__name__)

STATE, BEFORE, CONFIRMED, LOCK = "state", "state.before", "confirmed", "lock"
PACE_S = 0.5
SHARE = 0.02
"""At least ``PACE_S`` between two writes, and so long that writing takes at most this part of the time."""
_CONFIRMED = struct.Struct("<8sQ")
_NONE = Order(-1, -1)


class Shelf:
    """The files in one folder. ``load`` at the start; then ``keep`` from the keeper's thread, and a thread that writes.

    ``saved_ms``: when it was last written by this process, None for never. ``failures``: writes that the disk refused.
    """

    def __init__(self, folder: Path, clock: Clock, *, disk: Disk = DISK, pace_s: float = PACE_S) -> None:
        self.saved_ms: int | None = None
        self.failures = 0
        self._folder = folder
        self._clock = clock
        self._disk = disk
        self._pace_s = pace_s
        self._documents = Documents()
        self._lock: int | None = None
        self._on_disk = _NONE
        self._mark = b""
        self._newest: Snapshot | None = None
        self._due = threading.Event()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="shelf", daemon=True)

    def load(self) -> Snapshot | None:
        """What was kept, the newest that is whole; None when there is nothing, or nothing that may be used.

        Its ``read_s`` says when the store last confirmed it, over restarts and by the machine's time.
        """
        for name in (STATE, BEFORE):
            path = self._folder / name
            try:
                raw = private_bytes(path)
                if raw is None:
                    continue
                confirmed_ms = self._confirmed_ms(raw)
                found = document.load(raw, self._clock.now_ms(), self._clock.monotonic_s(), confirmed_ms)
            except (OSError, BanditError) as error:
                log.warning(
                    "snapshot_refused",
                    file=str(path),
                    reason=str(error),
                    allowed="a file that this server wrote, private to its user; the store will be read instead",
                )
                continue
            log.info("snapshot_loaded", file=str(path), version=found.version, experiments=len(found.entries))
            return found
        return None

    def start(self) -> None:
        """Write from now on."""
        self._thread.start()

    def stop(self) -> None:
        """Write what is left, and no more."""
        self._stop.set()
        self._due.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)
        if self._newest is not None:
            self.save()
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def keep(self, snapshot: Snapshot, changed: bool) -> None:
        """The keeper's word after each good poll: what there is now, and whether it is another than the last."""
        if changed or self.saved_ms is None or self._newest is not None:
            self._newest = snapshot
            self._due.set()
        elif self._lock is not None:
            self._confirm(snapshot.read_ms)

    def save(self) -> bool:
        """Write the newest now. False when the disk refuses, another process writes, or what is there is newer."""
        snapshot = self._newest
        if snapshot is None or not self._mine():
            return False
        order = Order(snapshot.accepted_ms, snapshot.version)
        if order < self._on_disk:
            return False
        raw = document.dump(snapshot, self._documents)
        try:
            replace_file(self._folder / STATE, raw, disk=self._disk, before=self._folder / BEFORE)
        except OSError as error:
            self.failures += 1
            log.warning("snapshot_not_saved", reason=str(error), failures=self.failures)
            return False
        self._on_disk, self._mark = order, document.mark_of(raw)
        self.saved_ms = self._clock.now_ms()
        self._confirm(snapshot.read_ms)
        if self._newest is snapshot:
            self._newest = None
        return True

    def _run(self) -> None:
        pauses = Pauses(first_s=self._pace_s, cap_s=30.0)
        while not self._stop.is_set():
            self._due.wait()
            self._due.clear()
            if self._stop.is_set():
                return
            began_s = self._clock.monotonic_s()
            try:
                wrote = self.save()
            except Exception:  # it must go on: the next state may be one that can be written
                log.exception("snapshot_not_saved")
                wrote = False
            took_s = self._clock.monotonic_s() - began_s
            if wrote:
                pauses.reset()
                self._stop.wait(max(self._pace_s, took_s / SHARE))
            else:
                self._stop.wait(self._pace_s + pauses.next())

    def _mine(self) -> bool:
        """Is this the process that writes? The lock ends with its holder, and another takes over."""
        if self._lock is not None:
            return True
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            number = os.open(self._folder / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
        except OSError as error:
            self.failures += 1
            log.warning("snapshot_not_saved", reason=str(error), failures=self.failures)
            return False
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            os.close(number)
            return False
        self._lock = number
        try:
            raw = private_bytes(self._folder / STATE)
            self._on_disk = _NONE if raw is None else document.order_of(raw)
        except (OSError, BanditError):
            self._on_disk = _NONE  # what cannot be used is to be replaced
        return True

    def _confirm(self, read_ms: int) -> None:
        """Note that the store confirmed at this moment what is on the disk. Not synced: a lost note only ages it."""
        try:
            number = os.open(self._folder / CONFIRMED, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC, PRIVATE)
            try:
                os.pwrite(number, _CONFIRMED.pack(self._mark, read_ms), 0)
            finally:
                os.close(number)
        except OSError as error:
            log.debug("snapshot_not_confirmed", reason=str(error))

    def _confirmed_ms(self, raw: bytes) -> int | None:
        try:
            noted = private_bytes(self._folder / CONFIRMED)
        except (OSError, BanditError):
            return None
        if noted is None or len(noted) != _CONFIRMED.size or len(raw) < document.HEAD.size:
            return None
        mark, read_ms = _CONFIRMED.unpack(noted)
        return int(read_ms) if mark == document.mark_of(raw) else None

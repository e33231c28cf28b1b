"""What operators ordered at this machine itself, while it may not reach the store: arms stopped, a store accepted.

One file in the data folder, synced before an order is confirmed, watched by every serving process of the machine.
It executes nothing: serving takes traffic away by it, and a rollback is made of each stop once the store is there.
"""

from __future__ import annotations

import errno
import fcntl
import json
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path

from bandit.errors import NotAllowed, Overloaded
from server.disk import DISK, Disk, replace_file

SCHEMA = 1
MOST_STOPS = 1000
_FILE, _LOCK, _ROOM = "stops", "stops.lock", "stops.room"
ROOM_BYTES = 1 << 18
"""Kept for orders on a disk that others filled: MOST_STOPS of the usual 200 bytes."""


@dataclass(frozen=True, slots=True)
class Stop:
    """One arm stopped here. ``id`` is unique; ``uid``, ``digest`` and ``attempt`` are those of experiment and arm then.

    ``actor`` as the audit will have it, ``time_ms`` Unix ms by the store's clock, as far as this machine knows it.
    """

    id: str
    experiment: str
    uid: int
    arm: str
    digest: str
    attempt: int
    time_ms: int
    actor: str
    reason: str

    def same_arm(self, other: Stop) -> bool:
        """Do both stop the same build in the same experiment?"""
        return (self.uid, self.arm, self.digest) == (other.uid, other.arm, other.digest)


@dataclass(frozen=True, slots=True)
class Ordered:
    """All orders. ``accepted_ms``: when the store was last accepted as it is, 0 for never.

    ``fault``: why the file cannot be read, "" when it can. Until it can, no arm but the control is known to be allowed.
    """

    stops: tuple[Stop, ...] = ()
    accepted_ms: int = 0
    fault: str = ""


class StopFile:
    """The file of a data folder. Safe for several threads and processes; each reads what the others wrote."""

    def __init__(self, folder: Path, *, disk: Disk = DISK) -> None:
        self._path = folder / _FILE
        self._lock_path = folder / _LOCK
        self._room = folder / _ROOM
        self._disk = disk
        self._seen: tuple[int, int, int] | None = None
        self._ordered = Ordered()
        self._reading = threading.Lock()
        self._keep_room()
        self.refresh()

    @property
    def ordered(self) -> Ordered:
        """What was ordered, as last read."""
        return self._ordered

    def refresh(self) -> bool:
        """Read the file if it is another one. True when the orders changed."""
        with self._reading:
            try:
                state = self._path.stat()
                mark = (state.st_ino, state.st_mtime_ns, state.st_size)
            except FileNotFoundError:
                mark = None
            except OSError as error:
                return self._take(None, Ordered(fault=f"{self._path}: {error.strerror}"))
            if mark is not None and mark == self._seen:
                return False
            return self._take(mark, self._read())

    def add(self, stop: Stop) -> Stop:
        """Order a stop, or find the one of the same arm that is there. On the disk when it returns.

        Raises Overloaded when there are too many or the disk refuses, NotAllowed when the file cannot be read.
        """

        def change(ordered: Ordered) -> Ordered:
            if any(stop.same_arm(each) for each in ordered.stops):
                return ordered
            if len(ordered.stops) >= MOST_STOPS:
                raise Overloaded(
                    f"{MOST_STOPS} arms are stopped here already, which is the most; pause the experiments instead"
                )
            return replace(ordered, stops=(*ordered.stops, stop))

        return next(each for each in self._change(change).stops if stop.same_arm(each))

    def drop(self, ids: Iterable[str]) -> None:
        """Forget these stops. Raises as :meth:`add`."""
        gone = set(ids)
        self._change(
            lambda ordered: replace(
                ordered, stops=tuple(each for each in ordered.stops if each.id not in gone)
            )
        )

    def accept(self, now_ms: int) -> None:
        """Order that the store is taken as it is. Raises as :meth:`add`."""
        self._change(lambda ordered: replace(ordered, accepted_ms=max(now_ms, ordered.accepted_ms + 1)))

    @contextmanager
    def only_one(self) -> Iterator[bool]:
        """True for one process of the machine at a time."""
        number = os.open(self._lock_path.with_suffix(".one"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(number, fcntl.LOCK_EX | fcntl.LOCK_NB)
            yield True
        except BlockingIOError:
            yield False
        finally:
            os.close(number)

    def _change(self, change: Callable[[Ordered], Ordered]) -> Ordered:
        try:
            number = os.open(self._lock_path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(number, fcntl.LOCK_EX)
                before = self._read()
                if before.fault:
                    raise NotAllowed(f"{before.fault}; mend or delete it first", reason="STOPS_UNREADABLE")
                after = change(before)
                if after != before:
                    self._write(_dump(after))
            finally:
                os.close(number)
        except OSError as error:
            raise Overloaded(
                f"{self._path} could not be written ({error.strerror}); nothing was ordered. Make room in the data "
                "folder, or end this server",
                reason="DISK_REFUSED",
            ) from error
        self.refresh()
        return after

    def _write(self, content: bytes) -> None:
        try:
            replace_file(self._path, content, disk=self._disk)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT) or not self._room.exists():
                raise
            self._room.unlink(missing_ok=True)
            replace_file(self._path, content, disk=self._disk)
        self._keep_room()

    def _keep_room(self) -> None:
        try:
            with self._room.open("xb") as file:
                file.write(bytes(ROOM_BYTES))
        except FileExistsError:
            return
        except OSError:
            with suppress(OSError):
                self._room.unlink(missing_ok=True)

    def _take(self, mark: tuple[int, int, int] | None, ordered: Ordered) -> bool:
        self._seen = mark
        changed = ordered != self._ordered
        self._ordered = ordered
        return changed

    def _read(self) -> Ordered:
        try:
            return _load(self._path.read_bytes())
        except FileNotFoundError:
            return Ordered()
        except (OSError, ValueError, TypeError, LookupError, RecursionError) as error:
            return Ordered(fault=f"{self._path} cannot be read: {error}")


def _dump(ordered: Ordered) -> bytes:
    stops = [asdict(stop) for stop in ordered.stops]
    return json.dumps({"schema": SCHEMA, "accepted_ms": ordered.accepted_ms, "stops": stops}).encode()


def _load(raw: bytes) -> Ordered:
    document = json.loads(raw)
    if document["schema"] != SCHEMA:
        raise ValueError(f"schema {document['schema']!r} is not {SCHEMA}")
    stops = tuple(_stop(each) for each in document["stops"])
    return Ordered(stops, _whole(document["accepted_ms"]))


def _stop(fields_of: dict[str, object]) -> Stop:
    kinds = {each.name: int if each.type == "int" else str for each in fields(Stop)}
    if set(fields_of) != set(kinds):
        raise ValueError(f"a stop has the fields {sorted(kinds)}, not {sorted(fields_of)}")
    for name, kind in kinds.items():
        if type(fields_of[name]) is not kind:
            raise TypeError(f"stop.{name}: {fields_of[name]!r:.80} is not of type {kind.__name__}")
    return Stop(**fields_of)  # type: ignore[arg-type]


def _whole(value: object) -> int:
    if type(value) is not int or value < 0:
        raise ValueError(f"accepted_ms: {value!r:.80} is not a whole number")
    return value

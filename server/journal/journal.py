"""Gives each decision its number and keeps it where the end of the process cannot lose it, before the reply goes out.

It never waits for the store and never fails a decision: without room it counts the decision as not journaled.
What the log has taken is kept for a while, for the case that the store loses its last writes.
Measured (2 shared cores, Python 3.11): ``record`` 1.2 us; ``record_many`` 5.5 us for 1,000 decisions, 28 us for 10,000.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from mmap import mmap
from pathlib import Path
from zlib import crc32

from server.journal.frames import ONE, Frame, many, one_body
from server.journal.segments import SEGMENT_BYTES, START, Folder, Segment

MAX_BYTES = 1 << 30
RETRY_S = 1.0
# How long a shipped segment is kept, s: a store that lost its last writes is told them again. Failovers lose seconds.
RETAIN_S = 120.0
_RETAIN_PART = 4  # of the room, at most one part in so many


class Journal:
    """The exposure journal of one serving process, which its ``issuer`` number names for ever.

    ``max_bytes`` bounds what waits on disk for the store; up to a quarter more is kept of what was shipped in the
    last ``retain_s`` seconds. Safe for several threads.
    """

    def __init__(
        self,
        root: Path,
        issuer: int,
        *,
        segment_bytes: int = SEGMENT_BYTES,
        max_bytes: int = MAX_BYTES,
        retain_s: float = RETAIN_S,
        monotonic_s: Callable[[], float] = time.monotonic,
    ) -> None:
        self.issuer = issuer
        self.recorded = 0
        self.not_journaled = 0
        self._folder = Folder.make(root, issuer)
        self._segment_bytes = segment_bytes
        self._most = max(max_bytes // segment_bytes, 1)
        self._retain_s = retain_s
        self._retained: deque[tuple[Segment, float]] = deque()
        self._monotonic_s = monotonic_s
        self._lock = threading.Lock()
        self._next: dict[int, int] = {}
        self._segments: deque[Segment] = deque()
        self._sequence = 0
        self._retry_s = float("-inf")
        self._map: mmap
        self._end = self._at = 0
        self._roll()

    @property
    def path(self) -> Path:
        """Its folder."""
        return self._folder.path

    @property
    def bytes_held(self) -> int:
        """Bytes of disk that it takes."""
        return (len(self._segments) + len(self._retained)) * self._segment_bytes

    def record(
        self, uid: int, epoch: int, allocation: int, cohort: int, arm: int, bucket: int = 0
    ) -> int | None:
        """Journal one decision; its number, or None when there is no room (it is then not counted). ``bucket``:
        ``bandit.ledger.bucket_of`` its unit, 0 when that is not known."""
        with self._lock:
            at = self._at
            if at + ONE.size > self._end:
                if not self._roll():
                    self.not_journaled += 1
                    return None
                at = self._at
            number = self._next.get(uid, 0)
            body = one_body(uid, epoch, allocation, number, cohort, arm, bucket)
            ONE.pack_into(self._map, at, crc32(body), body)
            self._at = at + ONE.size
            self._next[uid] = number + 1
            self.recorded += 1
            return number

    def record_many(
        self, uid: int, epoch: int, allocation: int, cohort: int, arms: bytes, buckets: bytes = b""
    ) -> int | None:
        """Journal decisions of one cohort, one byte of ``arms`` each, and of ``buckets`` where units are known; number
        of the first, or None without room.

        ``arms`` holds at least one byte; both hold less than a segment together.
        """
        with self._lock:
            first = self._next.get(uid, 0)
            frame = many(Frame(uid, epoch, allocation, first, cohort, arms, buckets))
            if self._at + len(frame) > self._end and not (
                len(frame) <= self._segment_bytes - START and self._roll()
            ):
                self.not_journaled += len(arms)
                return None
            self._map[self._at : self._at + len(frame)] = frame
            self._at += len(frame)
            self._next[uid] = first + len(arms)
            self.recorded += len(arms)
            return first

    def unshipped(self) -> tuple[Segment, int] | None:
        """The oldest segment with something to ship and the position up to which it is written, or None.

        Finished segments that are shipped are put aside on the way, and removed when they are old.
        """
        self._forget()
        while True:
            with self._lock:
                segment = self._segments[0] if self._segments else None
                last = len(self._segments) == 1
                written = self._at if last else self._segment_bytes
            if segment is None:
                return None
            if last:
                return (segment, written) if segment.shipped < written else None
            if segment.shipped < self._segment_bytes:
                return segment, written
            with self._lock:
                self._segments.popleft()
            self._retained.append((segment, self._monotonic_s()))

    def aside(self) -> list[tuple[Segment, int]]:
        """Segments that may be shipped once more, oldest first, and how far each is written.

        For the one thread that ships: until its next :meth:`unshipped` they stay mapped.
        """
        with self._lock:
            held = [*(segment for segment, _ in self._retained), *self._segments]
            last = self._at
        written = [last if segment is held[-1] else self._segment_bytes for segment in held]
        return list(zip(held, written, strict=True))

    def close(self) -> None:
        """Record no more. What is shipped is removed; the rest waits for the next process."""
        with self._lock:
            left = self._segments[-1].shipped < self._at if self._segments else False
            left = left or len(self._segments) > 1
            segments, self._segments = self._segments, deque()
            retained, self._retained = self._retained, deque()
            self._at = self._end = 0
            self._sequence = self._most = 0
        for segment in (*(segment for segment, _ in retained), *segments):
            segment.close() if left else segment.remove()
        self._folder.release() if left else self._folder.remove()

    def _forget(self) -> None:
        """Remove shipped segments that are old, or too many."""
        old_s = self._monotonic_s() - self._retain_s
        while self._retained and (
            self._retained[0][1] <= old_s or len(self._retained) * _RETAIN_PART > self._most
        ):
            self._retained.popleft()[0].remove()

    def _roll(self) -> bool:
        """Begin the next segment; the lock is held. 0.3 ms for the zeros, once in 32,000 single decisions."""
        if len(self._segments) >= self._most or self._monotonic_s() < self._retry_s:
            return False
        try:
            segment = Segment.make(self._folder.path, self.issuer, self._sequence, self._segment_bytes)
        except OSError:
            self._retry_s = self._monotonic_s() + RETRY_S
            return False
        self._sequence += 1
        self._segments.append(segment)
        self._map = segment.map
        self._at, self._end = START, self._segment_bytes
        return True

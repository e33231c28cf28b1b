"""Finds, among segments that were shipped, what the log has lost since; it sends nothing."""

from __future__ import annotations

from collections.abc import Iterable

from server.journal.frames import Frame, Payload, payloads, scan
from server.journal.segments import START, Segment


def entries_from(segments: Iterable[tuple[Segment, int]], issuer: int, uid: int, at: int) -> list[Payload]:
    """Entries with all decisions of an issuer and experiment from number ``at`` on that the segments hold, in order.

    ``segments``: each with the position up to which it is written. A first entry above ``at`` tells that the rest is
    not there any more.
    """
    frames: list[Frame] = []
    for segment, written in segments:
        if segment.issuer != issuer:
            continue
        with memoryview(segment.map)[:written] as view:
            found, _ = scan(view, START)
        frames += [_cut(frame, at) for frame in found if frame.uid == uid and _end(frame) > at]
    return list(payloads(frames, issuer))


def ends_of(segments: Iterable[tuple[Segment, int]]) -> dict[tuple[int, int], int]:
    """(issuer, uid) -> the number after the last decision that the segments hold."""
    ends: dict[tuple[int, int], int] = {}
    for segment, written in segments:
        with memoryview(segment.map)[:written] as view:
            found, _ = scan(view, START)
        for frame in found:
            key = segment.issuer, frame.uid
            ends[key] = max(ends.get(key, 0), _end(frame))
    return ends


def _end(frame: Frame) -> int:
    return frame.first + len(frame.arms)


def _cut(frame: Frame, at: int) -> Frame:
    """The frame without the decisions below ``at``."""
    if frame.first >= at:
        return frame
    gone = at - frame.first
    return frame._replace(first=at, arms=frame.arms[gone:], buckets=frame.buckets[gone:])
